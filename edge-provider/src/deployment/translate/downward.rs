//! What a pod may know of itself: `fieldRef` and `resourceFieldRef`, for variables and files alike.

use std::collections::BTreeMap;

use hawser_wire::deployment::{DeviceField, EnvValue};
use hawser_wire::quantity;
use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, ResourceFieldSelector};

use super::{Problem, Translated};
use crate::deployment::references::containers;
use crate::deployment::subject::Subject;

/// A value of the downward API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Known here.
    Text(String),
    /// Known on the device only.
    Device(DeviceField),
}

impl From<Value> for EnvValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => Self::Literal(text),
            Value::Device(field) => Self::Device(field),
        }
    }
}

/// Whether all labels or annotations at once are allowed: in files they are, in variables they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maps {
    /// As in a file.
    Yes,
    /// As in a variable.
    No,
}

/// The value of a field of the pod.
pub(super) fn field(pod: &Subject<'_>, field: &ObjectFieldSelector, maps: Maps, path: &str) -> Translated<Value> {
    let meta = &pod.pod.metadata;
    let text = |text: &str| Ok(Value::Text(text.to_owned()));
    let field = field.field_path.as_str();
    match field {
        "metadata.name" => return text(pod.name),
        "metadata.namespace" => return text(pod.namespace),
        "metadata.uid" => return text(pod.uid.as_str()),
        "spec.nodeName" => return text(pod.spec.node_name.as_deref().unwrap_or_default()),
        "spec.serviceAccountName" => return text(pod.service_account()),
        "status.podIP" => return Ok(Value::Device(DeviceField::PodIp)),
        "status.podIPs" => return Ok(Value::Device(DeviceField::PodIps)),
        "status.hostIP" => return Ok(Value::Device(DeviceField::HostIp)),
        "status.hostIPs" => return Ok(Value::Device(DeviceField::HostIps)),
        "metadata.labels" if maps == Maps::Yes => return Ok(Value::Text(format_map(meta.labels.as_ref()))),
        "metadata.annotations" if maps == Maps::Yes => return Ok(Value::Text(format_map(meta.annotations.as_ref()))),
        _ => {}
    }
    let (map, key) = match (subscript(field, "metadata.labels"), subscript(field, "metadata.annotations")) {
        (Some(key), _) => (&meta.labels, key),
        (None, Some(key)) => (&meta.annotations, key),
        (None, None) => {
            return Err(Problem::Refused(format!("{path}.fieldPath: a device does not know the field `{field}`")));
        }
    };
    text(map.as_ref().and_then(|map| map.get(key)).map_or("", String::as_str))
}

/// The key in `map['key']`.
fn subscript<'f>(field: &'f str, map: &str) -> Option<&'f str> {
    field.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

/// The request or limit of a container. `own` is the container that asks, if one does.
pub(super) fn resource(
    pod: &Subject<'_>,
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
    path: &str,
) -> Translated<Value> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => containers(pod.spec).find(|container| container.name == name),
        None => own,
    };
    let Some(container) = container else {
        let name = named.unwrap_or_default();
        return Err(Problem::Refused(format!("{path}.containerName: there is no container `{name}`")));
    };
    let resources = container.resources.as_ref();
    let (list, name, limit) = match selector.resource.split_once('.') {
        Some(("limits", name)) => (resources.and_then(|resources| resources.limits.as_ref()), name, true),
        Some(("requests", name)) => (resources.and_then(|resources| resources.requests.as_ref()), name, false),
        _ => (None, "", false),
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        let resource = &selector.resource;
        return Err(Problem::Refused(format!("{path}.resource: a device does not know the resource `{resource}`")));
    }
    let parse = if name == "cpu" { quantity::millis } else { quantity::units };
    let number =
        |text: &str, field: &str| parse(text).map_err(|error| Problem::Refused(format!("{path}.{field}: {error}")));
    let divisor = selector.divisor.as_ref().map(|divisor| number(&divisor.0, "divisor")).transpose()?;
    let divisor = divisor.filter(|divisor| *divisor != 0).unwrap_or(if name == "cpu" { 1000 } else { 1 });
    let amount = list.and_then(|list| list.get(name)).map(|amount| number(&amount.0, "resource")).transpose()?;
    match amount.unwrap_or(0) {
        // Without a limit, all that the device can allocate is the limit.
        0 if limit && !name.starts_with("hugepages-") => {
            Ok(Value::Device(DeviceField::Allocatable(name.to_owned(), divisor)))
        }
        amount => Ok(Value::Text(amount.div_ceil(divisor).to_string())),
    }
}

/// One `key="value"` per line, sorted by key, the value in Go's quotes: the format of the downward API.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// As `%q` of Go's fmt.
fn go_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if is_printable(c) => quoted.push(c),
            c if (c as u32) < 0x80 => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x10000 => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether Go would print it. The standard library has the same table, behind its debug format: what it escapes after
/// another character is not printable. (At the beginning it would escape combining characters too.)
fn is_printable(c: char) -> bool {
    matches!(c, '\'') || ['a', c].iter().collect::<String>().escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        // Expected values printed by Go's fmt.Printf("%q").
        for (text, quoted) in [
            ("", r#""""#),
            ("plain", r#""plain""#),
            ("it's", r#""it's""#),
            ("say \"hi\"\\", r#""say \"hi\"\\""#),
            ("a\nb\tc\r", r#""a\nb\tc\r""#),
            ("\u{7}\u{8}\u{b}\u{c}", r#""\a\b\v\f""#),
            ("\0\u{1}\u{7f}", r#""\x00\x01\x7f""#),
            ("ä漢😀", r#""ä漢😀""#),
            ("e\u{301}", "\"e\u{301}\""),
            ("\u{301}", "\"\u{301}\""),
            ("\u{a0}\u{200b}\u{feff}", r#""\u00a0\u200b\ufeff""#),
            ("\u{e0001}", r#""\U000e0001""#),
        ] {
            assert_eq!(go_quoted(text), quoted, "{text:?}");
        }
    }

    #[test]
    fn maps_are_sorted_lines_without_an_end() {
        let map = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1\n".to_owned())]);
        assert_eq!(format_map(Some(&map)), "a=\"1\\n\"\nb=\"2\"");
        assert_eq!(format_map(None), "");
    }

    #[test]
    fn subscripts_are_read() {
        assert_eq!(subscript("metadata.labels['a/b']", "metadata.labels"), Some("a/b"));
        assert_eq!(subscript("metadata.labels['']", "metadata.labels"), Some(""));
        for bad in [
            "metadata.labels",
            "metadata.labels[a]",
            "metadata.labels['a'",
            "metadata.labels']",
            "metadata.labelsx['a']",
        ] {
            assert_eq!(subscript(bad, "metadata.labels"), None, "{bad}");
        }
    }
}
