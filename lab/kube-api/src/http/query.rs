//! Query parameters, read once into types.

use super::path::decode;
use crate::refusal::Refusal;

/// What to do with fields a type does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The parameters of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Params {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: String,
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: String,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: String,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) include_object: String,
    pub(crate) command: Vec<String>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            label_selector: String::new(),
            field_selector: String::new(),
            limit: None,
            continue_token: String::new(),
            resource_version: None,
            version_match: String::new(),
            watch: false,
            bookmarks: false,
            send_initial: None,
            timeout_seconds: None,
            dry_run: false,
            field_manager: String::new(),
            field_validation: FieldValidation::Warn,
            force: None,
            grace_seconds: None,
            propagation: String::new(),
            orphan_dependents: None,
            include_object: String::new(),
            command: Vec::new(),
        }
    }
}

fn flag(value: &str) -> bool {
    !matches!(value, "false" | "0" | "False" | "FALSE" | "f" | "F")
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, Refusal> {
    value.parse().map_err(|_| Refusal::bad_request(format!("invalid value {value:?} of the parameter {key}")))
}

/// Reads a query string.
pub(crate) fn parse(query: &str) -> Result<Params, Refusal> {
    let mut params = Params::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |text: &str| decode(&text.replace('+', " "));
        let (Some(key), Some(value)) = (text(key), text(value)) else {
            return Err(Refusal::bad_request(format!("the parameter {pair:?} is not percent-encoded UTF-8")));
        };
        match key.as_str() {
            "labelSelector" => params.label_selector = value,
            "fieldSelector" => params.field_selector = value,
            "limit" if !value.is_empty() && value != "0" => params.limit = Some(number(&key, &value)?),
            "continue" => params.continue_token = value,
            "resourceVersion" if !value.is_empty() => {
                params.resource_version = Some(value.parse().map_err(|_| {
                    Refusal::bad_request(format!(
                        "invalid resource version: {value:?}: strconv.ParseUint: invalid syntax"
                    ))
                })?);
            }
            "resourceVersionMatch" => params.version_match = value,
            "watch" => params.watch = flag(&value),
            "allowWatchBookmarks" => params.bookmarks = flag(&value),
            "sendInitialEvents" => params.send_initial = Some(flag(&value)),
            "timeoutSeconds" if !value.is_empty() => params.timeout_seconds = Some(number(&key, &value)?),
            "dryRun" if !value.is_empty() => {
                if value != "All" {
                    return Err(Refusal::bad_request(format!(
                        "dryRun: Unsupported value: {value:?}: supported values: \"All\""
                    )));
                }
                params.dry_run = true;
            }
            "fieldManager" => params.field_manager = value,
            "fieldValidation" => {
                params.field_validation = match value.as_str() {
                    "Ignore" => FieldValidation::Ignore,
                    "Warn" | "" => FieldValidation::Warn,
                    "Strict" => FieldValidation::Strict,
                    other => {
                        let message = format!(
                            "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                        );
                        return Err(Refusal::new(422, "Invalid", message));
                    }
                };
            }
            "force" => params.force = Some(flag(&value)),
            "gracePeriodSeconds" if !value.is_empty() => params.grace_seconds = Some(number(&key, &value)?),
            "propagationPolicy" => params.propagation = value,
            "orphanDependents" => params.orphan_dependents = Some(flag(&value)),
            "includeObject" => params.include_object = value,
            "command" => params.command.push(value),
            _ => {}
        }
    }
    if params.field_manager.len() > 128 {
        return Err(Refusal::new(422, "Invalid", "fieldManager: Too long: may not be more than 128 bytes"));
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read() {
        let params = parse("labelSelector=a%3Db%2Cc&limit=5&watch=1&resourceVersion=7&fieldValidation=Strict&x=y")
            .unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(params.label_selector, "a=b,c");
        assert_eq!((params.limit, params.watch, params.resource_version), (Some(5), true, Some(7)));
        assert_eq!(params.field_validation, FieldValidation::Strict);
    }

    #[test]
    fn nonsense_is_refused() {
        for query in
            ["limit=x", "resourceVersion=-1", "dryRun=Some", "fieldValidation=Maybe", "a=%ff", "timeoutSeconds=z"]
        {
            assert!(parse(query).is_err(), "{query}");
        }
    }
}
