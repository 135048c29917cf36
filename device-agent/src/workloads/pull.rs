//! An image being fetched, and what is told about it: a kubelet's words at its beginning and end, and in between, now and then,
//! that it goes on. Engines do not say how far they are, so only the time can be told.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use hawser_wire::DeviceTime;

use super::Clock;
use crate::runtime::{ImageProblem, ImageWanted, Pulled};

const MINUTE: u64 = 60;
/// How long after its beginning it is told that it goes on: a few times and no more, however long it takes.
const TOLD_AFTER: [Duration; 4] = [
    Duration::from_secs(MINUTE),
    Duration::from_secs(5 * MINUTE),
    Duration::from_secs(15 * MINUTE),
    Duration::from_secs(30 * MINUTE),
];

/// What becomes of it; `None`: it was given up.
type Work = Pin<Box<dyn Future<Output = Option<Result<Pulled, ImageProblem>>> + Send>>;

/// An image being fetched.
pub(super) struct Pull {
    want: ImageWanted,
    clock: Clock,
    begun: DeviceTime,
    /// How many of the times in [`TOLD_AFTER`] have passed.
    told: usize,
    work: Work,
}

/// How far it is.
pub(super) enum Went {
    /// It is worth telling that it goes on.
    On(Pull),
    /// It is over; `None`: it was given up.
    Over(ImageWanted, Option<Result<Had, ImageProblem>>),
}

/// How an image was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Had {
    /// It was on the device.
    Before,
    /// It was fetched in this time.
    Fetched(Duration, Pulled),
}

impl Pull {
    pub(super) fn begin(
        want: ImageWanted,
        clock: Clock,
        work: impl Future<Output = Option<Result<Pulled, ImageProblem>>> + Send + 'static,
    ) -> Self {
        Self { want, begun: clock(), clock, told: 0, work: Box::pin(work) }
    }

    pub(super) fn want(&self) -> &ImageWanted {
        &self.want
    }

    /// Goes on until there is something to tell. Dropping it gives up.
    pub(super) async fn go_on(mut self) -> Went {
        let result = match TOLD_AFTER.get(self.told) {
            None => self.work.as_mut().await,
            Some(next) => match tokio::time::timeout(next.saturating_sub(self.so_far()), self.work.as_mut()).await {
                Ok(result) => result,
                Err(_) => {
                    // A device that slept meanwhile tells it once.
                    let so_far = self.so_far();
                    let passed = TOLD_AFTER.iter().filter(|after| **after <= so_far).count();
                    self.told = passed.max(self.told + 1);
                    return Went::On(self);
                }
            },
        };
        let took = self.so_far();
        Went::Over(self.want, result.map(|result| result.map(|pulled| Had::Fetched(took, pulled))))
    }

    fn so_far(&self) -> Duration {
        Duration::from_millis((self.clock)().millis_since(self.begun))
    }

    /// The words for that it goes on.
    pub(super) fn progress(&self) -> String {
        format!("Still pulling image \"{}\": {} so far", self.want.name(), Span(self.so_far()))
    }
}

/// The words for that it begins.
pub(super) fn begins(want: &ImageWanted) -> String {
    format!("Pulling image \"{}\"", want.name())
}

impl Had {
    /// The words for that it is there.
    pub(super) fn words(self, want: &ImageWanted) -> String {
        let image = want.name();
        match self {
            Self::Before => {
                format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
            }
            // Nobody waits for somebody else's image here, so both times are the same.
            Self::Fetched(took, Pulled { bytes }) => {
                let took = Span(took);
                let size = bytes.map(|bytes| format!(" Image size: {bytes} bytes.")).unwrap_or_default();
                format!("Successfully pulled image \"{image}\" in {took} ({took} including waiting).{size}")
            }
        }
    }
}

/// A time as Kubernetes writes it, in whole milliseconds.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        if seconds == 0 && millis > 0 {
            return write!(f, "{millis}ms");
        }
        if seconds >= 3600 {
            write!(f, "{}h", seconds / 3600)?;
        }
        if seconds >= 60 {
            write!(f, "{}m", seconds / 60 % 60)?;
        }
        write!(f, "{}", seconds % 60)?;
        if millis > 0 {
            write!(f, ".{}", format!("{millis:03}").trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_does() {
        for (millis, text) in [
            (0, "0s"),
            (7, "7ms"),
            (350, "350ms"),
            (1_000, "1s"),
            (1_204, "1.204s"),
            (59_900, "59.9s"),
            (60_000, "1m0s"),
            (125_050, "2m5.05s"),
            (3_600_000, "1h0m0s"),
            (7_384_500, "2h3m4.5s"),
        ] {
            assert_eq!(Span(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
