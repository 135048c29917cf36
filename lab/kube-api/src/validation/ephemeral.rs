//! Containers that are added to a pod to look at it: what they may be, and that they only ever come.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::pods;
use crate::object::{list, text};
use crate::refusal::FieldError;

/// What a container can have and one of these cannot.
const NEVER: [&str; 8] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "startupProbe",
];
const WHY: &str = "cannot be set for an Ephemeral Container";

/// What is wrong with those of a pod spec at `path`. `seen` are the names of all other containers.
pub(super) fn containers<'a>(
    spec: &'a Value,
    path: &str,
    volumes: &BTreeSet<&str>,
    seen: &mut BTreeSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    let others = seen.clone();
    for (index, item) in list(spec, &["ephemeralContainers"]).iter().enumerate() {
        let here = format!("{path}.ephemeralContainers[{index}]");
        pods::container(item, &here, volumes, seen, errors);
        let target = text(item, &["targetContainerName"]);
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(format!("{here}.targetContainerName"), &json!(target)));
        }
        let set = |field: &&str| item.get(*field).is_some_and(|value| !value.is_null());
        errors.extend(NEVER.iter().filter(|field| set(field)).map(|field| forbidden(format!("{here}.{field}"))));
        if item.get("resources").and_then(Value::as_object).is_some_and(|amounts| !amounts.is_empty()) {
            errors.push(forbidden(format!("{here}.resources")));
        }
        for (index, mount) in list(item, &["volumeMounts"]).iter().enumerate() {
            let parts = ["subPath", "subPathExpr"].into_iter().filter(|field| !text(mount, &[field]).is_empty());
            errors.extend(parts.map(|field| forbidden(format!("{here}.volumeMounts[{index}].{field}"))));
        }
    }
}

fn forbidden(field: String) -> FieldError {
    FieldError::forbidden(field, WHY)
}

/// A pod begins without any.
pub(super) fn none_at_first(pod: &Value) -> Option<FieldError> {
    let any = !list(pod, &["spec", "ephemeralContainers"]).is_empty();
    any.then(|| FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"))
}

/// No pod is made with any.
pub(super) fn none_in_template(workload: &Value) -> Option<FieldError> {
    let any = !list(workload, &["spec", "template", "spec", "ephemeralContainers"]).is_empty();
    let why = "ephemeral containers not allowed in pod template";
    any.then(|| FieldError::forbidden("spec.template.spec.ephemeralContainers", why))
}

/// Those that are there stay as they are.
pub(super) fn only_more(old: &Value, new: &Value) -> Vec<FieldError> {
    let of = |pod| list(pod, &["spec", "ephemeralContainers"]);
    let lost = of(old).iter().filter_map(|old| {
        let name = text(old, &["name"]);
        let what = match of(new).iter().find(|new| text(new, &["name"]) == name) {
            None => "removed",
            Some(new) if new != old => "changed",
            Some(_) => return None,
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {what}");
        Some(FieldError::forbidden("spec.ephemeralContainers", &detail))
    });
    lost.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ephemeral: Value) -> Value {
        let container = |name: &str| json!({"name": name, "image": "i", "imagePullPolicy": "Always"});
        json!({"spec": {
            "restartPolicy": "Always", "dnsPolicy": "Default", "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [container("first")], "containers": [container("main")],
            "ephemeralContainers": ephemeral,
        }})
    }

    fn debugger(fields: Value) -> Value {
        let mut debugger = json!({"name": "debugger", "image": "i", "imagePullPolicy": "Always", "resources": {}});
        if let (Some(all), Some(fields)) = (debugger.as_object_mut(), fields.as_object()) {
            all.extend(fields.clone());
        }
        debugger
    }

    #[test]
    fn what_they_may_be_is_less_than_a_container() {
        let check = |fields: Value| -> Vec<String> {
            let errors = pods::spec(&pod(json!([debugger(fields)]))["spec"], "spec");
            errors.iter().map(|error| format!("{}: {}", error.field, error.body)).collect()
        };
        let never = |field: &str| format!("spec.ephemeralContainers[0].{field}: Forbidden: {WHY}");
        for (fields, expected) in [
            (json!({}), vec![]),
            (json!({"targetContainerName": "first", "tty": true}), vec![]),
            (
                json!({"targetContainerName": "debugger"}),
                vec!["spec.ephemeralContainers[0].targetContainerName: Not found: \"debugger\"".to_owned()],
            ),
            (json!({"name": "main"}), vec!["spec.ephemeralContainers[0].name: Duplicate value: \"main\"".to_owned()]),
            (json!({"image": ""}), vec!["spec.ephemeralContainers[0].image: Required value".to_owned()]),
            (
                json!({"ports": [{"containerPort": 1}], "restartPolicy": "Always"}),
                vec![never("ports"), never("restartPolicy")],
            ),
            (json!({"resources": {"limits": {"cpu": "1"}}}), vec![never("resources")]),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]}),
                vec![never("volumeMounts[0].subPath")],
            ),
        ] {
            assert_eq!(check(fields.clone()), expected, "{fields}");
        }
    }

    #[test]
    fn they_come_and_never_go() {
        let wrong = |old: Value, new: Value| -> Vec<String> {
            only_more(&pod(old), &pod(new)).into_iter().map(|error| error.body).collect()
        };
        let (one, other) = (debugger(json!({})), debugger(json!({"name": "other"})));
        let nothing: Vec<String> = Vec::new();
        assert_eq!(wrong(json!([]), json!([one])), nothing);
        assert_eq!(wrong(json!([one]), json!([other, one])), nothing, "in any order");
        let changed = debugger(json!({"image": "j"}));
        let told = |what| vec![format!("Forbidden: existing ephemeral containers \"debugger\" may not be {what}")];
        assert_eq!(wrong(json!([one]), json!([changed])), told("changed"));
        assert_eq!(wrong(json!([one]), json!([other])), told("removed"));
        assert!(none_at_first(&pod(json!([one]))).is_some() && none_at_first(&pod(json!([]))).is_none());
    }
}
