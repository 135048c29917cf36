//! Whether anything of a pod has ever run. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Whether anything of the pod has ever run, as far as the API knows: its phase is Running, or a container of any kind
/// runs, has ended, or was started again.
///
/// A pod that has begun is on its machine, and goes on there until it is deleted or ends: a later refusal of it is told as
/// an Event and stops nothing. One that has not begun can be refused as a whole.
pub fn has_begun(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let started = |container: &ContainerStatus| {
        let states = [&container.state, &container.last_state].into_iter().flatten();
        container.restart_count > 0
            || states.into_iter().any(|state| state.running.is_some() || state.terminated.is_some())
    };
    let kinds = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    status.phase.as_deref() == Some("Running") || kinds.into_iter().flatten().flatten().any(started)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_has_begun_with_its_first_container_of_any_kind() {
        let status = |state: Value, restarts: i32| {
            json!([{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state}])
        };
        let waiting = || status(json!({"waiting": {"reason": "ImagePullBackOff"}}), 0);
        let ended = || status(json!({"terminated": {"exitCode": 0}}), 0);
        let rows = [
            ("no status", Value::Null, false),
            ("accepted", json!({"phase": "Pending"}), false),
            ("its image is missing", json!({"phase": "Pending", "containerStatuses": waiting()}), false),
            ("refused", json!({"phase": "Failed", "reason": "UnsupportedField"}), false),
            ("runs", json!({"containerStatuses": status(json!({"running": {}}), 0)}), true),
            ("only by its phase", json!({"phase": "Running"}), true),
            (
                "only init containers have run",
                json!({"phase": "Pending", "initContainerStatuses": ended(), "containerStatuses": waiting()}),
                true,
            ),
            ("waits to be started again", json!({"containerStatuses": status(json!({"waiting": {}}), 1)}), true),
            ("an ephemeral one", json!({"ephemeralContainerStatuses": ended()}), true),
        ];
        for (name, status, expected) in rows {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
            assert_eq!(has_begun(&pod), expected, "{name}");
        }
    }
}
