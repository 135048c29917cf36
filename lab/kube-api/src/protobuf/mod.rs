//! Reading protobuf request bodies.
//!
//! Answers are always JSON, which every client takes. But client-go's typed clients (`kubectl create configmap`,
//! `kubectl auth can-i`, `kubectl drain`) send protobuf and do not fall back when it is refused. The encoding carries
//! field numbers only; the table in `fields.txt` gives their names, and the JSON schemas give their types.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object::{as_map, text};
use crate::schema::{definitions, resolve};

/// What such a body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages deeper than this are refused.
const MAX_DEPTH: usize = 64;
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the body does not begin with the Kubernetes protobuf prefix")]
    Prefix,
    #[error("the protobuf message is cut short or malformed")]
    Malformed,
    #[error("the protobuf message is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("{0} is not known in protobuf here: send JSON")]
    UnknownType(String),
}

/// A field of a type: its name in JSON, or the type whose fields stand in its place.
#[derive(Debug)]
enum Field {
    Named(&'static str),
    Inline(&'static str),
}

fn table() -> &'static HashMap<&'static str, HashMap<u64, Field>> {
    static TABLE: OnceLock<HashMap<&'static str, HashMap<u64, Field>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lines = include_str!("fields.txt").lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let (name, fields) = line.split_once(' ')?;
                let fields = fields.split(' ').filter_map(|field| {
                    let (number, field) = field.split_once(':')?;
                    let field = field.strip_prefix('*').map_or(Field::Named(field), Field::Inline);
                    Some((number.parse().ok()?, field))
                });
                Some((name, fields.collect()))
            })
            .collect()
    })
}

/// A value on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Unreadable> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Unreadable::Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unreadable::Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, Unreadable> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let little_endian = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(little_endian(self.take(8)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Unreadable::Malformed)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(little_endian(self.take(4)?)),
            _ => return Err(Unreadable::Malformed),
        };
        Ok(Some((tag >> 3, value)))
    }

    /// The one field with this number; empty when there is none.
    fn only(bytes: &'a [u8], number: u64) -> Result<&'a [u8], Unreadable> {
        let (mut reader, mut found) = (Reader(bytes), &[][..]);
        while let Some((field, value)) = reader.next()? {
            if let (true, Wire::Bytes(value)) = (field == number, value) {
                found = value;
            }
        }
        Ok(found)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(bytes).map_err(|_| Unreadable::Malformed)
}

/// The full name of a type by what an envelope says.
fn type_name(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if kind == "DeleteOptions" {
        return table().get_key_value(format!("{META}.{kind}").as_str()).map(|(name, _)| *name);
    }
    let package = match group.split('.').next().unwrap_or("") {
        "" => "core",
        first => first,
    };
    let name = match package {
        "rbac" => format!("io.k8s.api.rbac.{version}.{kind}"),
        package => format!("io.k8s.api.{package}.{version}.{kind}"),
    };
    table().get_key_value(name.as_str()).map(|(name, _)| *name)
}

/// Reads a whole body into the JSON it stands for.
pub(crate) fn read(body: &[u8]) -> Result<Value, Unreadable> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Unreadable::Prefix)?;
    let identity = Reader::only(envelope, 1)?;
    let api_version = utf8(Reader::only(identity, 1)?)?;
    let kind = utf8(Reader::only(identity, 2)?)?;
    let name =
        type_name(api_version, kind).ok_or_else(|| Unreadable::UnknownType(format!("{kind} of {api_version}")))?;
    let mut object = message(Reader::only(envelope, 2)?, name, definitions().get(name), MAX_DEPTH)?;
    let map = as_map(&mut object);
    map.insert("apiVersion".to_owned(), api_version.into());
    map.insert("kind".to_owned(), kind.into());
    Ok(object)
}

fn message(bytes: &[u8], name: &str, schema: Option<&Value>, depth: usize) -> Result<Value, Unreadable> {
    let mut map = Map::new();
    fill(&mut map, bytes, name, schema, depth)?;
    Ok(Value::Object(map))
}

fn fill(
    map: &mut Map<String, Value>,
    bytes: &[u8],
    name: &str,
    schema: Option<&Value>,
    depth: usize,
) -> Result<(), Unreadable> {
    let depth = depth.checked_sub(1).ok_or(Unreadable::TooDeep)?;
    let fields = table().get(name).ok_or_else(|| Unreadable::UnknownType(name.to_owned()))?;
    let mut reader = Reader(bytes);
    while let Some((number, value)) = reader.next()? {
        match (fields.get(&number), value) {
            (Some(Field::Inline(inner)), Wire::Bytes(bytes)) => fill(map, bytes, inner, schema, depth)?,
            (Some(Field::Named(field)), value) => {
                let place = schema.and_then(|schema| schema.get("properties")).and_then(|all| all.get(*field));
                if let Some(place) = place {
                    set(map, field, value, place, depth)?;
                }
            }
            // A field of a newer release.
            _ => {}
        }
    }
    Ok(())
}

fn set(
    map: &mut Map<String, Value>,
    field: &str,
    value: Wire<'_>,
    place: &Value,
    depth: usize,
) -> Result<(), Unreadable> {
    let schema = resolve(place);
    let kind = text(schema, &["type"]);
    if kind == "array" {
        let items = schema.get("items").unwrap_or(&Value::Null);
        let list = map.entry(field.to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            match value {
                // Numbers may come packed.
                Wire::Bytes(mut bytes) if matches!(text(resolve(items), &["type"]), "integer") => {
                    while !bytes.is_empty() {
                        let mut reader = Reader(bytes);
                        list.push(single(Wire::Number(reader.varint()?), items, depth)?);
                        bytes = reader.0;
                    }
                }
                value => list.push(single(value, items, depth)?),
            }
        }
        return Ok(());
    }
    let values = schema.get("additionalProperties").filter(|values| values.is_object());
    if let (Some(values), None, Wire::Bytes(entry)) = (values, schema.get("properties"), value) {
        let key = utf8(Reader::only(entry, 1)?)?.to_owned();
        let value = entry_value(entry, values, depth)?;
        let all = map.entry(field.to_owned()).or_insert_with(|| json!({}));
        as_map(all).insert(key, value);
        return Ok(());
    }
    let read = single(value, place, depth)?;
    // Go encodes what is empty; JSON leaves it out, and a time that is not set is null.
    let empty = read.is_null() || read.as_str() == Some("");
    if !empty {
        map.insert(field.to_owned(), read);
    }
    Ok(())
}

fn entry_value(entry: &[u8], values: &Value, depth: usize) -> Result<Value, Unreadable> {
    let (mut reader, mut found) = (Reader(entry), None);
    while let Some((number, value)) = reader.next()? {
        if number == 2 {
            found = Some(value);
        }
    }
    let list = text(resolve(values), &["type"]) == "array";
    match (found, list) {
        // A list as a map's value is a message of its own (`ExtraValue`).
        (Some(Wire::Bytes(bytes)), true) => {
            let (mut reader, mut items) = (Reader(bytes), Vec::new());
            while let Some((_, value)) = reader.next()? {
                items.push(single(value, values.get("items").unwrap_or(&Value::Null), depth)?);
            }
            Ok(Value::Array(items))
        }
        (Some(value), _) => single(value, values, depth),
        (None, _) => single(Wire::Bytes(&[]), values, depth),
    }
}

fn reference_of(place: &Value) -> &str {
    let reference = match text(place, &["$ref"]) {
        "" => place.get("allOf").and_then(|all| all.get(0)).map_or("", |first| text(first, &["$ref"])),
        reference => reference,
    };
    reference.strip_prefix("#/components/schemas/").unwrap_or("")
}

fn single(value: Wire<'_>, place: &Value, depth: usize) -> Result<Value, Unreadable> {
    let name = reference_of(place);
    let schema = resolve(place);
    match value {
        Wire::Number(number) => Ok(match text(schema, &["type"]) {
            "boolean" => json!(number != 0),
            "number" => json!(f64::from_bits(number)),
            // Negative numbers are encoded as their 64-bit two's complement.
            _ => json!(number.cast_signed()),
        }),
        Wire::Bytes(bytes) => match name.rsplit('.').next().unwrap_or("") {
            "Quantity" => Ok(json!(utf8(Reader::only(bytes, 1)?)?)),
            "Time" | "MicroTime" => time(bytes),
            "IntOrString" => int_or_string(bytes),
            "FieldsV1" | "RawExtension" => {
                let raw = Reader::only(bytes, 1)?;
                if raw.is_empty() {
                    Ok(Value::Null)
                } else {
                    serde_json::from_slice(raw).map_err(|_| Unreadable::Malformed)
                }
            }
            _ => match text(schema, &["type"]) {
                "string" if matches!(text(schema, &["format"]), "byte") => Ok(json!(STANDARD.encode(bytes))),
                "string" => Ok(json!(utf8(bytes)?)),
                _ if table().contains_key(name) => message(bytes, name, Some(schema), depth),
                _ if text(resolve(place), &["format"]) == "byte" || name.ends_with("ByteString") => {
                    Ok(json!(STANDARD.encode(bytes)))
                }
                _ => Err(Unreadable::UnknownType(if name.is_empty() { "a field".to_owned() } else { name.to_owned() })),
            },
        },
    }
}

fn time(bytes: &[u8]) -> Result<Value, Unreadable> {
    let (mut reader, mut seconds, mut nanos) = (Reader(bytes), 0, 0);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Number(value)) => seconds = value.cast_signed(),
            (2, Wire::Number(value)) => {
                nanos = i32::try_from(value.cast_signed()).map_err(|_| Unreadable::Malformed)?
            }
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| Unreadable::Malformed)?;
    Ok(json!(time.to_string()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Unreadable> {
    let (mut reader, mut kind, mut number, mut string) = (Reader(bytes), 0, 0, "");
    while let Some((field, value)) = reader.next()? {
        match (field, value) {
            (1, Wire::Number(value)) => kind = value,
            (2, Wire::Number(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => string = utf8(value)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { json!(number) } else { json!(string) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn number(number: u64, value: u64) -> Vec<u8> {
        [varint(number << 3), varint(value)].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let identity = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &identity), field(2, raw)].concat()
    }

    #[test]
    fn a_pod_is_read_with_its_inlined_and_special_types() {
        let probe = [
            field(1, &field(2, &[field(1, b"/x"), field(2, &[number(1, 0), number(2, 80)].concat())].concat())),
            number(2, 5),
        ]
        .concat();
        let limits = [field(1, b"cpu"), field(2, &field(1, b"100m"))].concat();
        let container = [
            field(1, b"a"),
            field(2, b"image"),
            field(3, b"one"),
            field(3, b"two"),
            field(8, &field(1, &limits)),
            field(10, &probe),
        ]
        .concat();
        let volume = [field(1, b"v"), field(2, &field(1, &field(1, b"/host")))].concat();
        let spec = [field(1, &volume), field(2, &container), number(4, 10), number(11, 1)].concat();
        let metadata =
            [field(1, b"p"), field(11, &[field(1, b"k"), field(2, b"v")].concat()), field(8, &number(1, 60))].concat();
        let pod = read(&envelope("v1", "Pod", &[field(1, &metadata), field(2, &spec)].concat()));
        assert_eq!(
            pod,
            Ok(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "labels": {"k": "v"}, "creationTimestamp": "1970-01-01T00:01:00Z"},
                "spec": {
                    "volumes": [{"name": "v", "hostPath": {"path": "/host"}}],
                    "containers": [{"name": "a", "image": "image", "command": ["one", "two"],
                        "resources": {"limits": {"cpu": "100m"}},
                        "livenessProbe": {"httpGet": {"path": "/x", "port": 80}, "initialDelaySeconds": 5}}],
                    "terminationGracePeriodSeconds": 10, "hostNetwork": true,
                },
            }))
        );
    }

    #[test]
    fn secrets_keep_their_bytes() {
        let entry = [field(1, b"k"), field(2, &[0, 255])].concat();
        let secret = read(&envelope("v1", "Secret", &[field(1, &field(1, b"s")), field(2, &entry)].concat()));
        assert_eq!(secret.map(|secret| secret["data"].clone()), Ok(json!({"k": "AP8="})));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(read(b"{}"), Err(Unreadable::Prefix));
        assert!(matches!(read(&envelope("example.com/v1", "Boat", b"")), Err(Unreadable::UnknownType(_))));
        let claims_more = [MAGIC.to_vec(), varint(10), varint(1 << 40)].concat();
        assert_eq!(read(&claims_more), Err(Unreadable::Malformed));
    }

    #[test]
    fn every_kind_of_the_table_has_its_schema() {
        let without: Vec<&str> = table()
            .iter()
            .filter(|(name, fields)| {
                let known = definitions().get(**name).and_then(|schema| schema.get("properties"));
                known.is_some_and(|known| {
                    fields.values().any(|field| matches!(field, Field::Named(field) if known.get(*field).is_none()))
                })
            })
            .map(|(name, _)| *name)
            .collect();
        assert!(without.is_empty(), "fields that the schema does not have: {without:?}");
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&raw);
            let _ = read(&envelope("v1", "Pod", &raw));
            let _ = read(&envelope("v1", "Node", &raw));
        }
    }
}
