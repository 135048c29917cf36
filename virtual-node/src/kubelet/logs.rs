//! `/containerLogs`: the query is a `PodLogOptions`, the answer the log.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{StatusCode, Version};
use jiff::Timestamp;
use tokio::io::AsyncReadExt;

use super::answer::{Refusal, Response};
use crate::provider::streams::{LogOptions, Output};

/// How much of a log is read at once.
const PIECE: usize = 16 << 10;

/// Reads a query, in the words of a kubelet if it makes no sense.
pub(crate) fn options(query: &[(String, String)], now: Timestamp) -> Result<LogOptions, Refusal> {
    let undecodable = || Refusal::new(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);
    let invalid = || Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
    let mut options = LogOptions::default();
    let (mut since_seconds, mut since_time) = (None, None);
    let whole = |text: &str| text.parse::<i64>().map_err(|_| undecodable());
    for (name, value) in query {
        match name.as_str() {
            "follow" => options.follow = truth(value),
            "previous" => options.previous = truth(value),
            "timestamps" => options.timestamps = truth(value),
            "tailLines" => options.tail = Some(u64::try_from(whole(value)?).map_err(|_| invalid())?),
            // From before `tailLines`.
            "tail" if value == "all" => options.tail = None,
            "tail" => options.tail = Some(u64::try_from(whole(value)?).map_err(|_| invalid())?),
            "limitBytes" => {
                let limit = u64::try_from(whole(value)?).ok().filter(|limit| *limit > 0);
                options.limit_bytes = Some(limit.ok_or_else(invalid)?);
            }
            "sinceSeconds" => {
                let seconds = u64::try_from(whole(value)?).ok().filter(|seconds| *seconds > 0);
                since_seconds = Some(Duration::from_secs(seconds.ok_or_else(invalid)?));
            }
            "sinceTime" => since_time = Some(value.parse::<Timestamp>().map_err(|_| undecodable())?),
            "stream" if value != "All" => {
                let text =
                    format!("unable to return the given log stream: {value:?}: this node keeps one log per container");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
            }
            _ => {}
        }
    }
    options.since = match (since_seconds, since_time) {
        (Some(_), Some(_)) => return Err(invalid()),
        // Further back than time goes is the beginning.
        (Some(span), None) => Some(now.checked_sub(span).unwrap_or(Timestamp::MIN)),
        (None, time) => time,
    };
    Ok(options)
}

/// As the API machinery reads them: a flag that is there is set, unless it says otherwise.
fn truth(value: &str) -> bool {
    !(value == "0" || value.eq_ignore_ascii_case("false"))
}

/// Streams a log. It ends early, and with it the provider's reader, when the client has gone.
///
/// The end of the connection is the end of the log. An API server that passes a log on over WebSocket throws away what it reads
/// together with the end of a chunked answer, and here both are there at once; before the end of a connection it reads all.
/// A log that breaks off is told apart by TLS, which says when a connection is over.
pub(crate) fn response(log: Output) -> Response {
    let pieces = stream::try_unfold(log, |mut log| async move {
        let mut piece = vec![0; PIECE];
        let count = log.read(&mut piece).await?;
        piece.truncate(count);
        Ok::<_, std::io::Error>((count > 0).then(|| (http_body::Frame::data(Bytes::from(piece)), log)))
    });
    let mut response = super::answer::streamed(pieces);
    *response.version_mut() = Version::HTTP_10;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<LogOptions, (u16, String)> {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        options(&super::super::route::query(Some(query)), now)
            .map_err(|refusal| (refusal.status.as_u16(), refusal.text))
    }

    #[test]
    fn all_flags_are_read() {
        let options = LogOptions {
            follow: true,
            previous: true,
            timestamps: true,
            tail: Some(0),
            since: Some("2026-01-01T00:09:30Z".parse().unwrap()),
            limit_bytes: Some(5),
        };
        let query =
            "follow=true&previous=1&timestamps=&tailLines=0&sinceSeconds=30&limitBytes=5&container=c&stream=All";
        assert_eq!(read(query), Ok(options));
        let since = Some("2025-12-31T22:00:00Z".parse().unwrap());
        assert_eq!(
            read("sinceTime=2026-01-01T00:00:00%2B02:00&follow=FALSE&tail=all"),
            Ok(LogOptions { since, ..LogOptions::default() })
        );
        assert_eq!(read("sinceSeconds=9000000000000000000").unwrap().since, Some(Timestamp::MIN));
        assert_eq!(read("tail=3").unwrap().tail, Some(3));
        assert_eq!(read(""), Ok(LogOptions::default()));
    }

    #[test]
    fn nonsense_is_refused_in_a_kubelets_words() {
        for query in ["tailLines=x", "limitBytes=", "sinceSeconds=1.5", "sinceTime=yesterday"] {
            assert_eq!(read(query), Err((400, r#"{"message": "Unable to decode query."}"#.into())), "{query}");
        }
        for query in ["tailLines=-1", "limitBytes=0", "sinceSeconds=0", "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z"]
        {
            assert_eq!(read(query), Err((422, r#"{"message": "Invalid request."}"#.into())), "{query}");
        }
        assert!(read("stream=Stderr").unwrap_err().1.contains("one log per container"));
    }
}
