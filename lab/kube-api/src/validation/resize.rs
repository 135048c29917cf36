//! Other limits and requests for a pod that is there: of processors and memory only, and none is taken away.

use serde_json::Value;

use crate::defaults::pods::qos;
use crate::object::{at, list};
use crate::refusal::FieldError;

const GOVERNED: [&str; 2] = ["cpu", "memory"];

/// What is wrong with them.
pub(super) fn in_place(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if qos(old) != qos(new) {
        let class = Value::from(qos(new));
        errors.push(FieldError::invalid("spec", &class, "Pod QOS Class may not change as a result of resizing"));
    }
    for containers in ["initContainers", "containers"] {
        let (before, after) = (list(old, &["spec", containers]), list(new, &["spec", containers]));
        for (index, (before, after)) in before.iter().zip(after).enumerate() {
            let path = format!("spec.{containers}[{index}].resources");
            for kind in ["requests", "limits"] {
                let (had, has) = (amounts(before, kind), amounts(after, kind));
                if had.iter().any(|(name, _)| !has.iter().any(|(other, _)| other == name)) {
                    let why = format!("resource {kind} cannot be removed");
                    errors.push(FieldError::forbidden(format!("{path}.{kind}"), &why));
                }
                let others = |list: &[(String, Value)]| -> Vec<(String, Value)> {
                    list.iter().filter(|(name, _)| !GOVERNED.contains(&name.as_str())).cloned().collect()
                };
                if others(&had) != others(&has) {
                    errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
                }
            }
        }
    }
    errors
}

fn amounts(container: &Value, kind: &str) -> Vec<(String, Value)> {
    let found = at(container, &["resources", kind]).and_then(Value::as_object);
    found.into_iter().flatten().map(|(name, amount)| (name.clone(), amount.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn processors_and_memory_may_change_and_nothing_else() {
        let pod = |resources: Value| {
            json!({"spec": {"containers": [{"name": "c", "resources": resources}],
                "initContainers": [{"name": "i", "resources": resources}]}})
        };
        let small = json!({"limits": {"cpu": "1", "ephemeral-storage": "1Gi"}, "requests": {"cpu": "500m"}});
        let told = |new: Value| {
            in_place(&pod(small.clone()), &pod(new)).iter().map(|error| error.body.clone()).collect::<Vec<_>>()
        };
        let requests = json!({"cpu": "600m"});
        let larger = json!({"limits": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"}, "requests": requests});
        assert_eq!(told(larger), [""; 0]);
        let other = told(json!({"limits": {"cpu": "1", "ephemeral-storage": "2Gi"}, "requests": requests}));
        assert!(other.iter().all(|words| words.contains("only cpu and memory resources are mutable")), "{other:?}");
        let fewer = told(json!({"limits": {"ephemeral-storage": "1Gi"}, "requests": requests}));
        assert!(fewer.iter().all(|words| words.contains("resource limits cannot be removed")), "{fewer:?}");
        assert_eq!((other.len(), fewer.len()), (2, 2));
        let promised = json!({"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
            "requests": {"cpu": "1", "memory": "1Gi"}});
        assert!(told(promised)[0].contains("Pod QOS Class may not change as a result of resizing"));
    }
}
