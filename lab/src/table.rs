//! What the lab shows while things come up: nodes and pods, as kubectl would list them. Pure: objects in, text out.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::ResourceExt;

/// The table of nodes and pods. Lines have no trailing spaces.
pub fn render(nodes: &[Node], pods: &[Pod], now: Timestamp) -> String {
    let mut rows = vec![["NODE", "READY", "AGENT", "ARCH", "AGE"].map(str::to_owned).to_vec()];
    rows.extend(sorted(nodes).into_iter().map(|node| node_row(node, now)));
    let mut text = align(&rows);
    let mut rows = vec![["POD", "READY", "STATUS", "RESTARTS", "AGE", "NODE"].map(str::to_owned).to_vec()];
    rows.extend(sorted(pods).into_iter().map(|pod| pod_row(pod, now)));
    text.push('\n');
    text.push_str(&align(&rows));
    text
}

/// Whether the pod's condition `Ready` is true.
pub fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

/// Whether the node's condition `Ready` is true.
pub fn node_is_ready(node: &Node) -> bool {
    ready_condition(node) == "True"
}

fn sorted<T: ResourceExt>(objects: &[T]) -> Vec<&T> {
    let mut objects: Vec<_> = objects.iter().collect();
    objects.sort_by_key(|object| (object.namespace(), object.name_any()));
    objects
}

fn ready_condition(node: &Node) -> &str {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready")).map_or("-", |ready| ready.status.as_str())
}

fn node_row(node: &Node, now: Timestamp) -> Vec<String> {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let shown = |text: Option<&String>| text.filter(|text| !text.is_empty()).map_or("-".to_owned(), Clone::clone);
    vec![
        node.name_any(),
        ready_condition(node).to_owned(),
        shown(info.map(|info| &info.kubelet_version)),
        shown(info.map(|info| &info.architecture)),
        age(node, now),
    ]
}

fn pod_row(pod: &Pod, now: Timestamp) -> Vec<String> {
    let none = Vec::new();
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()).unwrap_or(&none);
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let ready = statuses.iter().filter(|status| status.ready).count();
    let restarts: i32 = statuses.iter().map(|status| status.restart_count).sum();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    vec![
        pod.name_any(),
        format!("{ready}/{containers}"),
        pod_state(pod, statuses),
        restarts.to_string(),
        age(pod, now),
        node.unwrap_or_else(|| "-".to_owned()),
    ]
}

fn pod_state(pod: &Pod, statuses: &[ContainerStatus]) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".to_owned();
    }
    let waiting = statuses.iter().filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone()).next();
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.clone());
    let phase = status.and_then(|status| status.phase.clone());
    waiting.or(reason).or(phase).unwrap_or_else(|| "-".to_owned())
}

fn age<T: ResourceExt>(object: &T, now: Timestamp) -> String {
    let Some(created) = object.creation_timestamp() else { return "-".to_owned() };
    let seconds = now.as_second().saturating_sub(created.0.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<_> =
        (0..columns).map(|at| rows.iter().filter_map(|row| row.get(at)).map(String::len).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_and_pods_stand_in_columns() {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": "lab-1", "creationTimestamp": "2026-11-21T10:00:00Z" },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "nodeInfo": {
                    "architecture": "arm64", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                    "kubeProxyVersion": "", "kubeletVersion": "hawser-0.1.0", "machineID": "", "operatingSystem": "",
                    "osImage": "", "systemUUID": "",
                },
            },
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "hello", "creationTimestamp": "2026-11-21T10:01:00Z" },
            "spec": { "containers": [{ "name": "main" }], "nodeName": "lab-1" },
            "status": { "phase": "Running", "containerStatuses": [{
                "name": "main", "image": "host", "imageID": "", "ready": false, "restartCount": 2,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            }] },
        }))
        .unwrap();
        let text = render(&[node], &[pod], "2026-11-21T10:03:00Z".parse().unwrap());
        let expected = "\
NODE    READY   AGENT          ARCH    AGE
lab-1   True    hawser-0.1.0   arm64   3m

POD     READY   STATUS             RESTARTS   AGE   NODE
hello   0/1     CrashLoopBackOff   2          2m    lab-1
";
        assert_eq!(text, expected);
    }
}
