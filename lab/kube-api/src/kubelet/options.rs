//! What a client asks of a pod's `log`, `exec`, `attach` and `portforward`, and how the kubelet is asked for it.

use jiff::Timestamp;
use serde_json::json;

use crate::clock;
use crate::http::path::decode;
use crate::refusal::{FieldError, Refusal};

/// The parameters of a request, in their order. What is not percent-encoded UTF-8 is dropped, as the real server does.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let text = |text: &str| decode(&text.replace('+', " "));
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((text(key)?, text(value)?))
        });
        Self(pairs.collect())
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value counts.
    fn one<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.all(key).next()
    }

    /// Only `0` and `false` are no, whatever else is there is yes.
    fn flag(&self, key: &str) -> bool {
        self.one(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    fn number(&self, key: &str) -> Result<Option<i64>, Refusal> {
        self.one(key).map(|value| value.parse().map_err(|error| not_a_number("ParseInt", value, &error))).transpose()
    }

    /// The container that is named; empty if none is.
    pub(crate) fn container(&self) -> &str {
        self.one("container").unwrap_or("")
    }

    /// What only makes sense for a request that changes something.
    pub(crate) fn refuse_dry_run(&self) -> Result<(), Refusal> {
        if self.all("dryRun").any(|value| !value.is_empty()) {
            return Err(Refusal::bad_request("dryRun is not supported"));
        }
        Ok(())
    }
}

/// A number that is none, in the words of the language that the real server is written in.
fn not_a_number(function: &str, value: &str, error: &std::num::ParseIntError) -> Refusal {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = if matches!(error.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
    Refusal::bad_request(format!("strconv.{function}: parsing {value:?}: {why}"))
}

/// Parameters for the kubelet: sorted by key.
#[derive(Default)]
struct Asked(Vec<(&'static str, String)>);

impl Asked {
    fn flag(&mut self, key: &'static str, value: &str, wanted: bool) {
        if wanted {
            self.0.push((key, value.to_owned()));
        }
    }

    fn number(&mut self, key: &'static str, value: Option<i64>) {
        self.0.extend(value.map(|value| (key, value.to_string())));
    }

    fn encode(mut self) -> String {
        // A stable sort: the words of a command stay in their order.
        self.0.sort_by_key(|(key, _)| *key);
        let pairs: Vec<String> = self.0.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
        pairs.join("&")
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            b' ' => escaped.push('+'),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// The kubelet's parameters for a log.
pub(crate) fn log(query: &Query, pod: &str) -> Result<String, Refusal> {
    let (tail, limit) = (query.number("tailLines")?, query.number("limitBytes")?);
    let seconds = query.number("sinceSeconds")?;
    let time = query.one("sinceTime").filter(|time| !matches!(*time, "" | "null")).map(since).transpose()?;
    let mut errors = Vec::new();
    let mut at_least = |field: &str, value: Option<i64>, least: i64, words: &str| {
        if let Some(value) = value.filter(|value| *value < least) {
            errors.push(FieldError::invalid(field, &json!(value), words));
        }
    };
    at_least("tailLines", tail, 0, "must be greater than or equal to 0");
    at_least("limitBytes", limit, 1, "must be greater than 0");
    if seconds.is_some() && time.is_some() {
        // This is how the real server names no field.
        errors.push(FieldError::forbidden("[]", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    } else {
        at_least("sinceSeconds", seconds, 1, "must be greater than 0");
    }
    if query.one("stream").is_some() {
        errors.push(FieldError::forbidden("stream", "may not be specified"));
    }
    if !errors.is_empty() {
        return Err(Refusal::invalid("", "PodLogOptions", pod, &errors));
    }
    let mut asked = Asked::default();
    for key in ["follow", "previous", "timestamps"] {
        asked.flag(key, "true", query.flag(key));
    }
    asked.number("tailLines", tail);
    asked.number("limitBytes", limit);
    asked.number("sinceSeconds", seconds);
    asked.0.extend(time.map(|time| ("sinceTime", clock::rfc3339(time))));
    Ok(asked.encode())
}

fn since(time: &str) -> Result<Timestamp, Refusal> {
    clock::parse(time)
        .ok_or_else(|| Refusal::bad_request(format!("parsing time {time:?} as \"2006-01-02T15:04:05Z07:00\"")))
}

/// The kubelet's parameters for a command, or for the container's own process.
pub(crate) fn process(query: &Query, command: bool) -> String {
    let mut asked = Asked::default();
    for (key, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        asked.flag(theirs, "1", query.flag(key));
    }
    if command {
        asked.0.extend(query.all("command").map(|word| ("command", word.to_owned())));
    }
    asked.encode()
}

/// The kubelet's parameters for connections to ports.
pub(crate) fn ports(query: &Query) -> Result<String, Refusal> {
    let mut ports = Vec::new();
    for value in query.all("ports").flat_map(|value| value.split(',')) {
        let port: u16 = value.parse().map_err(|error| {
            let refusal = not_a_number("ParseUint", value, &error);
            Refusal { message: format!("cannot convert to []int32: {}", refusal.message), ..refusal }
        })?;
        ports.push(port.to_string());
    }
    let mut asked = Asked::default();
    asked.flag("port", &ports.join(","), !ports.is_empty());
    Ok(asked.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(result: Result<String, Refusal>) -> String {
        result.unwrap_or_else(|refusal| format!("{}: {}", refusal.code, refusal.message))
    }

    #[test]
    fn log_options_are_passed_on_or_refused_in_the_real_words() {
        let cases = [
            ("", ""),
            ("container=a&follow=true&previous=false&timestamps=", "follow=true&timestamps=true"),
            ("tailLines=0&limitBytes=9&sinceSeconds=5", "limitBytes=9&sinceSeconds=5&tailLines=0"),
            ("sinceTime=2026-01-02T03%3A04%3A05%2B01%3A00", "sinceTime=2026-01-02T02%3A04%3A05Z"),
            ("tailLines=x", "400: strconv.ParseInt: parsing \"x\": invalid syntax"),
            (
                "tailLines=99999999999999999999",
                "400: strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
            ("sinceTime=today", "400: parsing time \"today\" as \"2006-01-02T15:04:05Z07:00\""),
            (
                "tailLines=-1",
                "422: PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "limitBytes=0&sinceSeconds=0",
                "422: PodLogOptions \"p\" is invalid: [limitBytes: Invalid value: 0: must be greater than 0, \
                 sinceSeconds: Invalid value: 0: must be greater than 0]",
            ),
            (
                "sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z",
                "422: PodLogOptions \"p\" is invalid: []: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
            ("stream=All", "422: PodLogOptions \"p\" is invalid: stream: Forbidden: may not be specified"),
        ];
        for (query, expected) in cases {
            assert_eq!(told(log(&Query::parse(query), "p")), expected, "{query}");
        }
    }

    #[test]
    fn the_words_of_a_command_keep_their_order_and_their_bytes() {
        let query = Query::parse("stdout=true&stdin=1&tty=0&command=sh&command=-c&command=echo+%22%26%3D%C3%A9%22&x=y");
        assert_eq!(process(&query, true), "command=sh&command=-c&command=echo+%22%26%3D%C3%A9%22&input=1&output=1");
        assert_eq!(process(&query, false), "input=1&output=1");
    }

    #[test]
    fn ports_are_numbers() {
        assert_eq!(told(ports(&Query::parse("ports=80&ports=1,2"))), "port=80%2C1%2C2");
        assert_eq!(told(ports(&Query::parse(""))), "");
        let refused = "400: cannot convert to []int32: strconv.ParseUint: parsing \"65536\": value out of range";
        assert_eq!(told(ports(&Query::parse("ports=65536"))), refused);
    }

    #[test]
    fn nothing_is_tried_only() {
        assert!(Query::parse("dryRun=All").refuse_dry_run().is_err());
        assert!(Query::parse("dryRun=").refuse_dry_run().is_ok());
    }
}
