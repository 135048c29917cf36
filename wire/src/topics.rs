//! The topics of a device, built and parsed here and nowhere else.
//!
//! ```text
//! <root>/<device>/up        device → bridge: handshakes, heartbeats, reports
//! <root>/<device>/down      bridge → device: handshakes, indexes, chunks, acknowledgements
//! <root>/<device>/up/s      device → bridge: streams
//! <root>/<device>/down/s    bridge → device: streams
//! <root>/<device>/presence  birth and last will: a hint, never a verdict
//! ```

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::ids::DeviceId;
use crate::limits::MAX_ROOT;

/// The first levels of every topic, `hawser` unless configured otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Root(String);

/// A text that cannot be the root of topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRoot(pub String);

impl fmt::Display for InvalidRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` cannot be the root of topics: use 1 to {MAX_ROOT} letters, digits, `-`, `_`, `.` in levels separated by single `/`",
            self.0
        )
    }
}

impl core::error::Error for InvalidRoot {}

impl Default for Root {
    fn default() -> Self {
        Self("hawser".to_string())
    }
}

impl Root {
    /// Checks that every level is plain text without wildcards.
    pub fn new(root: &str) -> Result<Self, InvalidRoot> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let level = |level: &str| !level.is_empty() && level.bytes().all(plain);
        if root.len() <= MAX_ROOT && root.split('/').all(level) {
            Ok(Self(root.to_string()))
        } else {
            Err(InvalidRoot(root.chars().take(80).collect()))
        }
    }

    /// The root as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the bridge subscribes to.
    pub fn bridge_filters(&self) -> [String; 3] {
        [format!("{}/+/up", self.0), format!("{}/+/up/s", self.0), format!("{}/+/presence", self.0)]
    }

    /// What a device subscribes to.
    pub fn device_filters(&self, device: &DeviceId) -> [String; 2] {
        [format!("{}/{device}/down", self.0), format!("{}/{device}/down/s", self.0)]
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which way, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Device to bridge: state.
    Up,
    /// Bridge to device: state.
    Down,
    /// Device to bridge: streams.
    UpStreams,
    /// Bridge to device: streams.
    DownStreams,
    /// Birth and last will.
    Presence,
}

impl Channel {
    fn suffix(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::UpStreams => "up/s",
            Self::DownStreams => "down/s",
            Self::Presence => "presence",
        }
    }

    /// The full topic.
    pub fn topic(self, root: &Root, device: &DeviceId) -> String {
        format!("{root}/{device}/{}", self.suffix())
    }

    /// Takes a topic apart. `None` for every topic that we would not have built.
    pub fn parse(root: &Root, topic: &str) -> Option<(DeviceId, Self)> {
        let rest = topic.strip_prefix(root.as_str())?.strip_prefix('/')?;
        let (device, suffix) = rest.split_once('/')?;
        let channel = [Self::Up, Self::Down, Self::UpStreams, Self::DownStreams, Self::Presence]
            .into_iter()
            .find(|channel| channel.suffix() == suffix)?;
        Some((DeviceId::new(device).ok()?, channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_comes_back_from_its_text() {
        let device = DeviceId::new("gw.site-7").unwrap();
        for root in ["hawser", "acme/plant-3"] {
            let root = Root::new(root).unwrap();
            for channel in [Channel::Up, Channel::Down, Channel::UpStreams, Channel::DownStreams, Channel::Presence] {
                let topic = channel.topic(&root, &device);
                assert_eq!(Channel::parse(&root, &topic), Some((device.clone(), channel)), "{topic}");
            }
        }
    }

    #[test]
    fn foreign_topics_are_not_ours() {
        let root = Root::default();
        for topic in [
            "",
            "hawser",
            "hawser/",
            "hawser/a",
            "hawser//up",
            "hawser/A/up",
            "hawser/a/up/x",
            "hawser/a/b/up",
            "x/a/up",
            "hawserx/a/up",
            "hawser/a/up/",
        ] {
            assert_eq!(Channel::parse(&root, topic), None, "{topic}");
        }
    }

    #[test]
    fn a_root_has_no_wildcards() {
        for bad in ["", "/", "a/", "/a", "a//b", "+", "a/#", "$SYS", "a b"] {
            assert!(Root::new(bad).is_err(), "{bad}");
        }
    }
}
