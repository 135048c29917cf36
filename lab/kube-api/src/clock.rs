//! The one place that reads the wall clock.

use jiff::Timestamp;

/// Now, whole seconds, as Kubernetes writes times.
#[expect(clippy::disallowed_methods, reason = "the server stamps creation and deletion with the wall clock")]
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A time as RFC 3339 with seconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads an RFC 3339 time.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}
