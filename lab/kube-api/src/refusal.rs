//! What the server answers when it does not do what it was asked: a `Status` in the words of the real API server,
//! because clients (and people) match on them.

use serde_json::{Value, json};

/// A refused request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Option<Box<Value>>,
    pub(crate) retry_after: Option<u32>,
}

/// One field that is wrong, as `field.Error` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) body: String,
}

impl FieldError {
    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        let body = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { reason: "FieldValueRequired", field: field.into(), body }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let shown = match value {
            Value::Null => "null".to_owned(),
            other => other.to_string(),
        };
        Self { reason: "FieldValueInvalid", field: field.into(), body: format!("Invalid value: {shown}: {detail}") }
    }

    pub(crate) fn unsupported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
        let body = format!("Unsupported value: {value}: supported values: {supported}");
        Self { reason: "FieldValueNotSupported", field: field.into(), body }
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate", field: field.into(), body: format!("Duplicate value: {value}") }
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), body: format!("Forbidden: {detail}") }
    }

    pub(crate) fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueNotFound", field: field.into(), body: format!("Not found: {value}") }
    }

    pub(crate) fn internal(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "InternalError", field: field.into(), body: format!("Internal error: {detail}") }
    }

    fn line(&self) -> String {
        format!("{}: {}", self.field, self.body)
    }
}

/// `deployments.apps`, or `pods` for the core group.
pub(crate) fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, retry_after: None }
    }

    fn about(mut self, group: &str, plural: &str, name: &str) -> Self {
        let mut details = json!({"kind": plural});
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        if !group.is_empty() {
            details["group"] = json!(group);
        }
        self.details = Some(Box::new(details));
        self
    }

    pub(crate) fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(plural, group)))
            .about(group, plural, name)
    }

    /// The path names nothing that is served.
    pub(crate) fn no_such_path() -> Self {
        let mut refusal = Self::new(404, "NotFound", "the server could not find the requested resource");
        refusal.details = Some(Box::new(json!({})));
        refusal
    }

    pub(crate) fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", qualified(plural, group)))
            .about(group, plural, name)
    }

    pub(crate) fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(plural, group));
        Self::new(409, "Conflict", message).about(group, plural, name)
    }

    pub(crate) fn modified(group: &str, plural: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    pub(crate) fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", qualified(plural, group));
        Self::new(403, "Forbidden", message).about(group, plural, name)
    }

    pub(crate) fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let lines: Vec<String> = errors.iter().map(FieldError::line).collect();
        let all = if lines.len() == 1 { lines.concat() } else { format!("[{}]", lines.join(", ")) };
        let message = format!("{} \"{name}\" is invalid: {all}", qualified(kind, group));
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.reason, "message": error.body, "field": error.field}))
            .collect();
        let mut refusal = Self::new(422, "Invalid", message).about(group, kind, name);
        if let Some(details) = refusal.details.as_mut() {
            details["causes"] = Value::Array(causes);
        }
        refusal
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_large_version(asked: u64, current: u64) -> Self {
        let mut refusal = Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"));
        refusal.retry_after = Some(1);
        refusal.details = Some(Box::new(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        })));
        refusal
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(crate) fn too_many(message: impl Into<String>, seconds: u32) -> Self {
        let mut refusal = Self::new(429, "TooManyRequests", message);
        refusal.retry_after = Some(seconds);
        refusal.details = Some(Box::new(json!({"retryAfterSeconds": seconds})));
        refusal
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    /// An error that the real server does not sort into its kinds: whatever a library told it.
    pub(crate) fn unclassified(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// What the real server makes of a kubelet's refusal. It keeps the kubelet's words for some of them only.
    pub(crate) fn of_kubelet(code: u16, words: &str, what: &str, name: &str) -> Self {
        let (reason, message) = match code {
            400 => return Self::bad_request(words),
            500 => return Self::internal(words),
            401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
            403 => ("Forbidden", words.to_owned()),
            404 => ("NotFound", "the server could not find the requested resource".to_owned()),
            405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned()),
            409 => ("Conflict", "the server reported a conflict".to_owned()),
            422 => ("Invalid", "the server rejected our request due to an error in our request".to_owned()),
            429 => {
                let message = "the server has received too many requests and has asked us to try again later";
                ("TooManyRequests", message.to_owned())
            }
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
            504 => {
                let message = "the server was unable to return a response in the time allotted, but may still be processing the request";
                ("Timeout", message.to_owned())
            }
            code if code >= 500 => (
                "InternalError",
                format!("an error on the server ({words:?}) has prevented the request from succeeding"),
            ),
            code => {
                ("", format!("the server responded with the status code {code} but did not return more information"))
            }
        };
        Self::new(code, reason, format!("{message} ( {what} {name})")).about("", what, name)
    }

    /// The `Status` object of the answer.
    pub(crate) fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = (**details).clone();
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_real_server() {
        let cases = [
            (Refusal::not_found("", "pods", "x"), "pods \"x\" not found"),
            (Refusal::already_exists("apps", "deployments", "x"), "deployments.apps \"x\" already exists"),
            (
                Refusal::modified("", "configmaps", "x"),
                "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; \
                 please apply your changes to the latest version and try again",
            ),
            (
                Refusal::invalid("", "Pod", "x", &[FieldError::required("spec.containers", "")]),
                "Pod \"x\" is invalid: spec.containers: Required value",
            ),
            (
                Refusal::invalid(
                    "apps",
                    "Deployment",
                    "x",
                    &[
                        FieldError::invalid("spec.replicas", &json!(-1), "must be greater than or equal to 0"),
                        FieldError::unsupported("spec.a", &json!("b"), &["c", "d"]),
                    ],
                ),
                "Deployment.apps \"x\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal \
                 to 0, spec.a: Unsupported value: \"b\": supported values: \"c\", \"d\"]",
            ),
        ];
        for (refusal, message) in cases {
            assert_eq!(refusal.message, message);
            assert_eq!(refusal.to_status()["code"], refusal.code);
        }
    }
}
