//! What a kubelet rejects at the door, whatever its machine can do, with its reasons and its words. Pure.

use k8s_openapi::api::core::v1::PodSpec;
use virtual_node::provider::NotApplied;

use super::node::Here;
use super::subject::Subject;

const OS: &str = "kubernetes.io/os";

fn rejected(reason: &str, message: &str) -> NotApplied {
    NotApplied::Refused { reason: reason.to_owned(), message: message.to_owned() }
}

/// Whether the pod is for a node like ours at all. What depends on the device, the device looks at.
pub(crate) fn admit(pod: &Subject<'_>) -> Result<(), NotApplied> {
    let label = pod.pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS));
    if label.is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(rejected("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if pod.spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(rejected("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    Ok(())
}

/// Whether the pod is for the node that somebody has bound it to, past every scheduler perhaps.
pub(crate) fn admit_to(node: &Here, pod: &PodSpec) -> Result<(), NotApplied> {
    let failed = |predicate: &str, why: &str| rejected(predicate, &format!("Predicate {predicate} failed: {why}"));
    if !node.is_chosen_by(pod) {
        return Err(failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if !node.is_tolerated_by(pod) {
        return Err(failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn reason(labels: Value, os: Value) -> Option<String> {
        let metadata = json!({"namespace": "a", "name": "p", "uid": "u", "labels": labels});
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "os": os}});
        let pod = serde_json::from_value(pod).unwrap();
        match admit(&Subject::of(&pod).unwrap()) {
            Err(NotApplied::Refused { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn a_pod_for_another_system_is_rejected_as_by_a_kubelet() {
        for (labels, os, expected) in [
            (Value::Null, Value::Null, None),
            (json!({OS: "linux"}), json!({"name": "linux"}), None),
            (json!({OS: "windows"}), Value::Null, Some("PodOSSelectorNodeLabelDoesNotMatch")),
            (json!({OS: "linux"}), json!({"name": "windows"}), Some("PodOSNotSupported")),
        ] {
            assert_eq!(reason(labels.clone(), os.clone()).as_deref(), expected, "{labels} {os}");
        }
    }
}
