//! Pods: the mistakes users make, and what may not change.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{ephemeral, names};
use crate::object::{integer, list, text};
use crate::refusal::FieldError;

/// What is wrong with a pod spec at `path`.
pub(crate) fn spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes: BTreeSet<&str> = list(spec, &["volumes"]).iter().map(|volume| text(volume, &["name"])).collect();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let here = format!("{path}.volumes[{index}].name");
        let name = text(volume, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(here, ""));
        } else if list(spec, &["volumes"])[..index].iter().any(|other| text(other, &["name"]) == name) {
            errors.push(FieldError::duplicate(here, &json!(name)));
        } else if let Some(detail) = names::label(name) {
            errors.push(FieldError::invalid(here, &json!(name), &detail));
        }
    }
    if list(spec, &["containers"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut seen = BTreeSet::new();
    for key in ["initContainers", "containers"] {
        for (index, item) in list(spec, &[key]).iter().enumerate() {
            container(item, &format!("{path}.{key}[{index}]"), &volumes, &mut seen, &mut errors);
        }
    }
    ephemeral::containers(spec, path, &volumes, &mut seen, &mut errors);
    let policy = text(spec, &["restartPolicy"]);
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        let field = format!("{path}.restartPolicy");
        errors.push(FieldError::unsupported(field, &json!(policy), &["Always", "Never", "OnFailure"]));
    }
    let dns = text(spec, &["dnsPolicy"]);
    if !["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"].contains(&dns) {
        let all = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        errors.push(FieldError::unsupported(format!("{path}.dnsPolicy"), &json!(dns), &all));
    }
    if let Some(grace) = integer(spec, &["terminationGracePeriodSeconds"]).filter(|grace| *grace < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("{path}.terminationGracePeriodSeconds"), &json!(grace), detail));
    }
    if let Some(deadline) = integer(spec, &["activeDeadlineSeconds"]).filter(|deadline| *deadline < 1) {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), &json!(deadline), detail));
    }
    tolerations(spec, path, &mut errors);
    errors
}

fn tolerations(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        let here = format!("{path}.tolerations[{index}]");
        let operator = text(toleration, &["operator"]);
        if !["", "Equal", "Exists", "Lt", "Gt"].contains(&operator) {
            errors.push(FieldError::unsupported(format!("{here}.operator"), &json!(operator), &["Equal", "Exists"]));
        }
        if text(toleration, &["key"]).is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(format!("{here}.operator"), &json!(operator), detail));
        }
        let effect = text(toleration, &["effect"]);
        if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            let all = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            errors.push(FieldError::unsupported(format!("{here}.effect"), &json!(effect), &all));
        }
    }
}

pub(super) fn container<'a>(
    item: &'a Value,
    path: &str,
    volumes: &BTreeSet<&str>,
    seen: &mut BTreeSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    let name = text(item, &["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else if let Some(detail) = names::label(name) {
        errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &detail));
    } else if !seen.insert(name) {
        errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
    }
    let image = text(item, &["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), &json!(image), detail));
    }
    let policy = text(item, &["imagePullPolicy"]);
    if !["Always", "IfNotPresent", "Never"].contains(&policy) {
        let all = ["Always", "IfNotPresent", "Never"];
        errors.push(FieldError::unsupported(format!("{path}.imagePullPolicy"), &json!(policy), &all));
    }
    for (index, port) in list(item, &["ports"]).iter().enumerate() {
        let number = integer(port, &["containerPort"]).unwrap_or(0);
        let field = format!("{path}.ports[{index}].containerPort");
        if number == 0 {
            errors.push(FieldError::required(field, ""));
        } else if !(1..=65535).contains(&number) {
            errors.push(FieldError::invalid(field, &json!(number), "must be between 1 and 65535, inclusive"));
        }
    }
    for (index, variable) in list(item, &["env"]).iter().enumerate() {
        let name = text(variable, &["name"]);
        let here = format!("{path}.env[{index}]");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{here}.name"), ""));
        }
        if variable.get("valueFrom").is_some() && !text(variable, &["value"]).is_empty() {
            let detail = "may not be specified when `value` is not empty";
            errors.push(FieldError::invalid(format!("{here}.valueFrom"), &json!(""), detail));
        }
    }
    let mut paths = BTreeSet::new();
    for (index, mount) in list(item, &["volumeMounts"]).iter().enumerate() {
        let here = format!("{path}.volumeMounts[{index}]");
        let volume = text(mount, &["name"]);
        if !volumes.contains(volume) {
            errors.push(FieldError::not_found(format!("{here}.name"), &json!(volume)));
        }
        let target = text(mount, &["mountPath"]);
        if target.is_empty() {
            errors.push(FieldError::required(format!("{here}.mountPath"), ""));
        } else if !paths.insert(target) {
            errors.push(FieldError::invalid(format!("{here}.mountPath"), &json!(target), "must be unique"));
        }
    }
    resources(item, path, errors);
}

fn resources(item: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for kind in ["limits", "requests"] {
        let amounts = item.get("resources").and_then(|resources| resources.get(kind)).and_then(Value::as_object);
        for (resource, amount) in amounts.into_iter().flatten() {
            let written = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
            let here = format!("{path}.resources.{kind}[{resource}]");
            if written.starts_with('-') {
                errors.push(FieldError::invalid(here, &json!(written), "must be greater than or equal to 0"));
            } else if !is_quantity(&written) {
                let detail = "quantities must match the regular expression \
                     '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                errors.push(FieldError::invalid(here, &json!(written), detail));
            }
        }
    }
}

/// Whether a text is a resource quantity.
fn is_quantity(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let exponent = || {
        let digits = suffix.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    number.parse::<f64>().is_ok()
        && (["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].contains(&suffix)
            || exponent())
}

const IMMUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
     tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What a change of a pod's spec touches that it may not.
pub(crate) fn immutable(old: &Value, new: &Value) -> Vec<FieldError> {
    let (before, after) = (&old["spec"], &new["spec"]);
    if before == after {
        return Vec::new();
    }
    let kept = list(before, &["tolerations"]).iter().all(|toleration| {
        list(after, &["tolerations"]).contains(toleration)
            || list(after, &["tolerations"]).iter().any(|other| {
                let strip = |value: &Value| {
                    let mut value = value.clone();
                    value.as_object_mut().map(|map| map.remove("tolerationSeconds"));
                    value
                };
                strip(other) == strip(toleration)
            })
    });
    let gates = |spec: &Value| list(spec, &["schedulingGates"]).to_vec();
    let fewer_gates = gates(after).iter().all(|gate| gates(before).contains(gate));
    let gated = !gates(before).is_empty();
    let ignoring = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
                map.remove(field);
            }
            if gated {
                // A gated pod may still be told where to go.
                map.remove("nodeSelector");
                map.remove("affinity");
            }
            for key in ["containers", "initContainers"] {
                for item in map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(item) = item.as_object_mut() {
                        item.remove("image");
                    }
                }
            }
        }
        spec
    };
    if kept && fewer_gates && ignoring(before) == ignoring(after) {
        return Vec::new();
    }
    vec![FieldError::forbidden("spec", IMMUTABLE)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;
    use crate::object::map_at;

    fn check(mut pod: Value) -> Vec<String> {
        defaults::pods::spec(map_at(&mut pod, &["spec"]));
        spec(&pod["spec"], "spec").iter().map(|error| format!("{}: {}", error.field, error.body)).collect()
    }

    #[test]
    fn the_usual_mistakes_are_named() {
        let pod = |container: Value| json!({"spec": {"containers": [container]}});
        for (pod, expected) in [
            (json!({"spec": {}}), "spec.containers: Required value"),
            (pod(json!({"image": "i"})), "spec.containers[0].name: Required value"),
            (pod(json!({"name": "a"})), "spec.containers[0].image: Required value"),
            (pod(json!({"name": "A", "image": "i"})), "spec.containers[0].name: Invalid value: \"A\""),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                pod(json!({"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                pod(json!({"name": "a", "image": "i", "resources": {"limits": {"cpu": "lots"}}})),
                "spec.containers[0].resources.limits[cpu]: Invalid value: \"lots\"",
            ),
            (
                json!({"spec": {"restartPolicy": "Sometimes", "containers": [{"name": "a", "image": "i"}]}}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\"",
            ),
        ] {
            let errors = check(pod);
            assert!(errors.iter().any(|error| error.starts_with(expected)), "{expected}: {errors:?}");
        }
        assert!(check(pod(json!({"name": "a", "image": "i"}))).is_empty());
    }

    #[test]
    fn quantities_are_told_from_words() {
        for (text, fine) in [
            ("1", true),
            ("0.5", true),
            ("100m", true),
            ("1Gi", true),
            ("1e3", true),
            ("", false),
            ("x", false),
            ("1GiB", false),
        ] {
            assert_eq!(is_quantity(text), fine, "{text}");
        }
    }

    #[test]
    fn only_some_of_a_pod_may_change() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "1"}], "tolerations": [{"key": "x"}], "nodeName": "n"}});
        let with = |path: &str, value: Value| {
            let mut new = old.clone();
            if let Some(place) = new.pointer_mut(path) {
                *place = value;
            }
            immutable(&old, &new).is_empty()
        };
        assert!(with("/spec/containers/0/image", json!("2")));
        assert!(with("/spec/tolerations", json!([{"key": "x"}, {"key": "y"}])));
        assert!(!with("/spec/tolerations", json!([])));
        assert!(!with("/spec/nodeName", json!("m")));
        assert!(!with("/spec/containers", json!([])));
    }
}
