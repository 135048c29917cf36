//! A log that goes on over a short loss of the connection, without losing or repeating a byte.
//!
//! The device marks places in its log as it sends it ([`LogMark`]). When the connection is lost,
//! the log is opened again from the last mark whose bytes have all come, and what came after that mark is skipped.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hawser_streams::{Ended, Reader, Stream};
use hawser_wire::stream::mux::End;
use hawser_wire::stream::{LogMark, LogsRequest, StreamRequest};
use tokio::io::{AsyncRead, ReadBuf};
use virtual_node::NodeName;
use virtual_node::provider::streams::{Output, StreamError};

use super::Reach;
use super::convert::{error_of, not_opened};
use crate::fleet::task::FleetHandle;

/// For how long a lost device is waited for.
const GRACE: Duration = Duration::from_secs(60);
/// How often it is tried meanwhile.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How much is skipped in one go.
const SKIP: usize = 4 * 1024;

/// A log, for whoever reads it.
struct LogReader {
    way: Way,
    state: State,
}

/// How to open the log again.
#[derive(Clone)]
struct Way {
    fleet: FleetHandle,
    node: NodeName,
    /// From the last mark, once there was one.
    request: LogsRequest,
    /// So many bytes after it were delivered.
    delivered: u64,
}

enum State {
    Reading {
        stream: Stream,
        reader: Reader,
        /// How much of what comes was delivered before.
        skip: u64,
    },
    Lost(Pin<Box<dyn Future<Output = Result<Stream, StreamError>> + Send>>),
    Failed,
}

/// Opens a log. An error at this point is the answer; later it is an error of the reader.
pub(super) async fn open(
    fleet: FleetHandle,
    node: NodeName,
    reach: Reach,
    request: LogsRequest,
) -> Result<Output, StreamError> {
    let stream = reach.streams.open(StreamRequest::Logs(request.clone())).map_err(not_opened)?;
    stream.opened().await.map_err(error_of)?;
    let way = Way { fleet, node, request, delivered: 0 };
    let reader = stream.reader(1);
    Ok(Box::pin(LogReader { way, state: State::Reading { stream, reader, skip: 0 } }))
}

impl Way {
    /// The stream was lost with this last mark, after so many of its bytes. Whether it can be continued.
    fn lose(&mut self, (mark, received): (Option<LogMark>, u64)) -> bool {
        // What was not skipped yet was delivered all the same.
        self.delivered = received.max(self.delivered);
        let Some(mark) = mark else {
            // Lost again before the first mark: once more from the one before.
            return self.request.from.is_some();
        };
        self.delivered -= mark.bytes;
        self.request.limit_bytes = self.request.limit_bytes.map(|limit| limit.saturating_sub(mark.bytes));
        self.request.from = Some(mark.position);
        true
    }

    async fn reopen(self) -> Result<Stream, StreamError> {
        let again = async {
            loop {
                match self.try_open().await {
                    Err(StreamError::Unreachable(_)) => tokio::time::sleep(TRY_EVERY).await,
                    other => return other,
                }
            }
        };
        let given_up = |_| {
            StreamError::Unreachable(format!(
                "the connection to the device was lost and did not come back within {} seconds",
                GRACE.as_secs()
            ))
        };
        tokio::time::timeout(GRACE, again).await.map_err(given_up)?.map_err(|error| match error {
            StreamError::Unreachable(why) => StreamError::Unreachable(why),
            other => StreamError::Failed(format!(
                "the connection to the device was lost, and the log cannot be continued where it was: {other}"
            )),
        })
    }

    async fn try_open(&self) -> Result<Stream, StreamError> {
        let reach = self.fleet.reach(&self.node, None).await?;
        let stream = reach.streams.open(StreamRequest::Logs(self.request.clone())).map_err(not_opened)?;
        stream.opened().await.map_err(error_of)?;
        Ok(stream)
    }
}

impl LogReader {
    fn failed<T>(&mut self, error: StreamError) -> Poll<io::Result<T>> {
        self.state = State::Failed;
        Poll::Ready(Err(io::Error::other(error)))
    }

    /// The stream ended before its end.
    fn ended(&mut self, error: &io::Error) -> Result<(), StreamError> {
        let end = error.get_ref().and_then(|error| error.downcast_ref::<Ended>());
        let end = end.map_or_else(|| End::Aborted(error.to_string()), |Ended(end)| end.clone());
        let State::Reading { stream, .. } = &self.state else { return Err(error_of(end)) };
        if !matches!(end, End::Lost(_)) || !self.way.lose(stream.last_mark()) {
            return Err(error_of(end));
        }
        self.state = State::Lost(Box::pin(self.way.clone().reopen()));
        Ok(())
    }
}

impl AsyncRead for LogReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let read = match &mut this.state {
                State::Reading { reader, skip: 0, .. } => ready!(Pin::new(reader).poll_read(context, buffer)),
                State::Reading { reader, skip, .. } => {
                    let mut space = [0; SKIP];
                    let most = usize::try_from(*skip).unwrap_or(SKIP).min(SKIP);
                    let mut skipped = ReadBuf::new(&mut space[..most]);
                    match ready!(Pin::new(reader).poll_read(context, &mut skipped)) {
                        Ok(()) if skipped.filled().is_empty() => Ok(()),
                        Ok(()) => {
                            *skip -= skipped.filled().len() as u64;
                            continue;
                        }
                        Err(error) => Err(error),
                    }
                }
                State::Lost(reopening) => match ready!(reopening.as_mut().poll(context)) {
                    Ok(stream) => {
                        let reader = stream.reader(1);
                        this.state = State::Reading { stream, reader, skip: this.way.delivered };
                        continue;
                    }
                    Err(error) => return this.failed(error),
                },
                State::Failed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
            match read {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => {
                    if let Err(error) = this.ended(&error) {
                        return this.failed(error);
                    }
                }
            }
        }
    }
}
