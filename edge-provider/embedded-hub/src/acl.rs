//! What each role may say and hear. Pure: names in, verdicts out.

use crate::accounts::Role;

/// An agent's client id is this and its device's name. (rumqttd cannot bear a `/` in a client id, so neither do we.)
pub const AGENT_CLIENT_PREFIX: &str = "agent-";
/// A bridge's client id is this and anything of letters, digits, `-`, `_` and `.`.
pub const BRIDGE_CLIENT_PREFIX: &str = "bridge-";

/// Longest client id: the prefix and the longest device name.
const CLIENT_ID_BYTES: usize = AGENT_CLIENT_PREFIX.len() + 253;

/// The topics of one hub: `<root>/<device>/{up,down,presence}`.
#[derive(Debug, Clone)]
pub(crate) struct Acl {
    root: String,
}

/// The two directions that messages go in. Whoever listens, listens in one of them only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From devices to bridges.
    Up,
    /// From bridges to devices.
    Down,
}

impl Role {
    /// The direction that this role hears.
    pub(crate) fn hears(&self) -> Direction {
        match self {
            Role::Bridge => Direction::Up,
            Role::Device(_) => Direction::Down,
        }
    }
}

/// A client id belongs to a role: `agent-<device>` or `bridge-<anything>`.
pub(crate) fn client_id_fits(client_id: &str, role: &Role) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    client_id.len() <= CLIENT_ID_BYTES
        && match role {
            Role::Device(name) => client_id.strip_prefix(AGENT_CLIENT_PREFIX) == Some(name),
            Role::Bridge => client_id
                .strip_prefix(BRIDGE_CLIENT_PREFIX)
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain)),
        }
}

impl Acl {
    pub(crate) fn new(root: &str) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn may_publish(&self, role: &Role, topic: &str) -> bool {
        let Some((device, channel)) = self.split(topic) else { return false };
        match role {
            Role::Bridge => within(channel, "down"),
            Role::Device(name) => device == name && (within(channel, "up") || channel == "presence"),
        }
    }

    /// True if the role may hear everything that the filter matches.
    pub(crate) fn may_subscribe(&self, role: &Role, filter: &str) -> bool {
        let Some((device, channel)) = self.split(filter) else { return false };
        match role {
            Role::Bridge => within(channel, "up") || channel == "presence",
            Role::Device(name) => device == name && within(channel, "down"),
        }
    }

    /// The device that a topic is about, if it is a topic of ours.
    pub(crate) fn device<'t>(&self, topic: &'t str) -> Option<&'t str> {
        self.split(topic).map(|(device, _)| device)
    }

    /// Splits `<root>/<device>/<channel…>`.
    fn split<'t>(&self, topic: &'t str) -> Option<(&'t str, &'t str)> {
        topic.strip_prefix(self.root.as_str())?.strip_prefix('/')?.split_once('/')
    }
}

/// `up` covers `up`, `up/s` and `up/#`, not `upper`. The first level is never a wildcard, so all that such a filter
/// matches is covered as well.
fn within(channel: &str, first: &str) -> bool {
    channel.strip_prefix(first).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A topic that a message may be published to: MQTT's rules.
pub(crate) fn valid_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0'])
}

/// A filter that may be subscribed to: MQTT's rules.
pub(crate) fn valid_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let fine = match level {
            "+" => true,
            "#" => last,
            name => !name.contains(['+', '#']),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// Whether a valid filter matches a valid topic.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            // "a/#" matches "a" as well.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (name, Some(level)) if name == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> Role {
        Role::Device(name.to_owned())
    }

    #[test]
    fn client_ids_belong_to_roles() {
        let long = format!("bridge-{}", "x".repeat(300));
        let cases = [
            ("agent-pi", device("pi"), true),
            ("agent-pi", device("po"), false),
            ("agent-pi", Role::Bridge, false),
            ("agent-", device("pi"), false),
            ("pi", device("pi"), false),
            ("hawser-agent/pi", device("pi"), false),
            ("bridge-0", Role::Bridge, true),
            ("bridge-", Role::Bridge, false),
            ("bridge-a/b", Role::Bridge, false),
            ("bridge-$share", Role::Bridge, false),
            ("bridge-ä", Role::Bridge, false),
            ("bridge-0", device("pi"), false),
            ("", device("pi"), false),
            (long.as_str(), Role::Bridge, false),
        ];
        for (id, role, fits) in cases {
            assert_eq!(client_id_fits(id, &role), fits, "{id} for {role:?}");
        }
    }

    #[test]
    fn who_may_publish_where() {
        let acl = Acl::new("site/hawser");
        let cases = [
            ("site/hawser/pi/up", true, false),
            ("site/hawser/pi/up/s", true, false),
            ("site/hawser/pi/presence", true, false),
            ("site/hawser/pi/presence/x", false, false),
            ("site/hawser/pi/upper", false, false),
            ("site/hawser/pi/down", false, true),
            ("site/hawser/pi/down/s", false, true),
            ("site/hawser/po/up", false, false),
            ("site/hawser/po/presence", false, false),
            ("site/hawser/po/down", false, true),
            ("site/hawser/pi", false, false),
            ("site/hawser", false, false),
            ("hawser/pi/up", false, false),
            ("site/hawserpi/up", false, false),
            ("$SYS/broker", false, false),
            ("", false, false),
        ];
        for (topic, as_device, as_bridge) in cases {
            assert_eq!(acl.may_publish(&device("pi"), topic), as_device, "device to {topic}");
            assert_eq!(acl.may_publish(&Role::Bridge, topic), as_bridge, "bridge to {topic}");
        }
    }

    #[test]
    fn who_may_subscribe_to_what() {
        let acl = Acl::new("hawser");
        let cases = [
            ("hawser/pi/down", true, false),
            ("hawser/pi/down/#", true, false),
            ("hawser/pi/down/+", true, false),
            ("hawser/pi/+", false, false),
            ("hawser/pi/#", false, false),
            ("hawser/+/down/#", false, false),
            ("hawser/po/down/#", false, false),
            ("hawser/pi/up/#", false, true),
            ("hawser/+/up/#", false, true),
            ("hawser/+/up", false, true),
            ("hawser/+/presence", false, true),
            ("hawser/+/+", false, false),
            ("hawser/#", false, false),
            ("+/+/up", false, false),
            ("#", false, false),
            ("$share/group/hawser/pi/down/#", false, false),
            ("$share/group/hawser/+/up/#", false, false),
            ("$SYS/#", false, false),
        ];
        for (filter, as_device, as_bridge) in cases {
            assert_eq!(acl.may_subscribe(&device("pi"), filter), as_device, "device to {filter}");
            assert_eq!(acl.may_subscribe(&Role::Bridge, filter), as_bridge, "bridge to {filter}");
        }
    }

    #[test]
    fn filters_match_as_in_the_specification() {
        let cases = [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/+/c", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("+/+", "/b", true),
            ("/+", "/b", true),
            ("a/+", "a/ü", true),
        ];
        for (filter, topic, expected) in cases {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn malformed_names_are_seen() {
        for filter in ["", "a/#/b", "a#", "a/+b", "++", "a\0"] {
            assert!(!valid_filter(filter), "{filter:?}");
        }
        for filter in ["#", "+", "a/+/#", "/", "a//b"] {
            assert!(valid_filter(filter), "{filter:?}");
        }
        for topic in ["", "a/+", "#", "a\0b"] {
            assert!(!valid_topic(topic), "{topic:?}");
        }
        assert!(valid_topic("a//b"));
    }
}
