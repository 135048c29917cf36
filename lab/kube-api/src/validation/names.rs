//! The rules for names, labels and keys, with the real server's explanations.

use crate::registry::Resource;

/// Which rule a resource's names follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces.
    Label,
    /// RFC 1035 label: services.
    Label1035,
    /// Anything that fits a path: RBAC.
    PathSegment,
}

/// The rule of a resource.
pub(crate) fn rule(resource: &Resource) -> NameRule {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => NameRule::Label,
        ("", "services") => NameRule::Label1035,
        ("rbac.authorization.k8s.io", _) => NameRule::PathSegment,
        _ => NameRule::Subdomain,
    }
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
     'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| plain(*byte))
        && bytes.last().is_some_and(|byte| plain(*byte))
}

impl NameRule {
    /// Why a name breaks the rule.
    pub(crate) fn broken_by(self, name: &str) -> Option<String> {
        match self {
            Self::Label if name.len() > 63 => Some(too_long(63)),
            Self::Label => (!is_label(name)).then(|| LABEL.to_owned()),
            Self::Label1035 if name.len() > 63 => Some(too_long(63)),
            Self::Label1035 => {
                let fine = is_label(name) && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
                (!fine).then(|| LABEL_1035.to_owned())
            }
            Self::Subdomain if name.len() > 253 => Some(too_long(253)),
            Self::Subdomain => (!name.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned()),
            Self::PathSegment if matches!(name, "." | "..") => Some(format!("may not be '{name}'")),
            Self::PathSegment => {
                let bad = name.chars().find(|c| matches!(c, '/' | '%'));
                bad.map(|bad| format!("may not contain '{bad}'"))
            }
        }
    }
}

/// Why a text is no RFC 1123 label.
pub(crate) fn label(text: &str) -> Option<String> {
    NameRule::Label.broken_by(text)
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// Why a key of a label, annotation or finalizer is wrong.
pub(crate) fn qualified_name(key: &str) -> Option<String> {
    let name = match key.split_once('/') {
        Some(("", _)) => return Some("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            if let Some(detail) = NameRule::Subdomain.broken_by(&prefix.to_lowercase()) {
                return Some(format!("prefix part {detail}"));
            }
            name
        }
        None => key,
    };
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if name.len() > 63 {
        return Some(format!("name part {}", too_long(63)));
    }
    (!is_name_part(name)).then(|| QUALIFIED.to_owned())
}

/// Why a label's value is wrong.
pub(crate) fn label_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(too_long(63));
    }
    (!value.is_empty() && !is_name_part(value)).then(|| LABEL_VALUE.to_owned())
}

/// Why a key of a ConfigMap or Secret is wrong.
pub(crate) fn config_key(key: &str) -> Option<String> {
    if key.len() > 253 {
        return Some(too_long(253));
    }
    if matches!(key, "." | "..") || key.starts_with("..") {
        return Some(format!("must not be '{key}'"));
    }
    let fine = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (!fine).then(|| KEY.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        use NameRule::{Label, Label1035, PathSegment, Subdomain};
        for (rule, name, fine) in [
            (Subdomain, "a.b-c.d1", true),
            (Subdomain, "A", false),
            (Subdomain, "a_b", false),
            (Subdomain, "a..b", false),
            (Subdomain, "-a", false),
            (Label, "a.b", false),
            (Label, "1a", true),
            (Label1035, "1a", false),
            (PathSegment, "system:node", true),
            (PathSegment, "a/b", false),
        ] {
            assert_eq!(rule.broken_by(name).is_none(), fine, "{rule:?} {name}");
        }
        assert_eq!(Label.broken_by(&"a".repeat(64)).as_deref(), Some("must be no more than 63 bytes"));
    }

    #[test]
    fn label_keys_and_values_follow_theirs() {
        for (key, fine) in [("a", true), ("x.io/a_B", true), ("/a", false), ("x.io/", false), ("a b", false)] {
            assert_eq!(qualified_name(key).is_none(), fine, "{key}");
        }
        for (value, fine) in [("", true), ("a.B_c", true), ("-a", false), ("a b", false)] {
            assert_eq!(label_value(value).is_none(), fine, "{value}");
        }
        assert!(config_key("a/b").is_some());
        assert!(config_key("..a").is_some());
        assert!(config_key("a.b").is_none());
    }
}
