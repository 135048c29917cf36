//! The table of pods, and the one word that says how a pod is.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::duration::age;
use super::{Heading, age_of, narrow, wide};
use crate::clock;
use crate::object::{self, at, integer, list, text};

pub(super) fn headings() -> Vec<Heading> {
    vec![
        narrow("Name", "string"),
        narrow("Ready", "string"),
        narrow("Status", "string"),
        narrow("Restarts", "string"),
        narrow("Age", "string"),
        wide("IP", "string"),
        wide("Node", "string"),
        wide("Nominated Node", "string"),
        wide("Readiness Gates", "string"),
    ]
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, age(now.as_second() - time.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    let gates = list(pod, &["spec", "readinessGates"]);
    let passed =
        gates.iter().filter(|gate| condition(pod, text(gate, &["conditionType"])).is_some_and(is_true)).count();
    let gates = if gates.is_empty() { "<none>".to_owned() } else { format!("{passed}/{}", gates.len()) };
    let ip = match list(pod, &["status", "podIPs"]).first() {
        Some(first) => text(first, &["ip"]),
        None => text(pod, &["status", "podIP"]),
    };
    vec![
        json!(object::name(pod)),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.status),
        json!(restarts),
        json!(age_of(pod, now)),
        json!(or_none(ip)),
        json!(or_none(text(pod, &["spec", "nodeName"]))),
        json!(or_none(text(pod, &["status", "nominatedNodeName"]))),
        json!(gates),
    ]
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    list(pod, &["status", "conditions"]).iter().find(|condition| text(condition, &["type"]) == kind)
}

fn is_true(condition: &Value) -> bool {
    text(condition, &["status"]) == "True"
}

/// What the table says about a pod's containers.
struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Why a container ended, in a word.
fn ending(terminated: &Value) -> String {
    let reason = text(terminated, &["reason"]);
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match integer(terminated, &["signal"]).unwrap_or(0) {
        0 => format!("ExitCode:{}", integer(terminated, &["exitCode"]).unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

impl Summary {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += integer(status, &["restartCount"]).unwrap_or(0);
        let ended = clock::parse(text(status, &["lastState", "terminated", "finishedAt"]));
        self.last_restart = self.last_restart.max(ended);
    }
}

fn summarise(pod: &Value) -> Summary {
    let phase = text(pod, &["status", "phase"]);
    let own_reason = text(pod, &["status", "reason"]);
    let mut status = if own_reason.is_empty() { phase.to_owned() } else { own_reason.to_owned() };
    if condition(pod, "PodScheduled").is_some_and(|condition| text(condition, &["reason"]) == "SchedulingGated") {
        status = "SchedulingGated".to_owned();
    }
    let init = list(pod, &["spec", "initContainers"]);
    let restartable =
        |name: &str| init.iter().any(|one| text(one, &["name"]) == name && text(one, &["restartPolicy"]) == "Always");
    let sidecars = init.iter().filter(|one| restartable(text(one, &["name"]))).count();
    let total = list(pod, &["spec", "containers"]).len() + sidecars;
    let mut summary = Summary { status, ready: 0, total, restarts: 0, last_restart: None };
    let mut from_sidecars = Summary { status: String::new(), ready: 0, total: 0, restarts: 0, last_restart: None };

    let mut initialising = false;
    for (index, one) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        summary.count_restarts(one);
        let sidecar = restartable(text(one, &["name"]));
        if sidecar {
            from_sidecars.count_restarts(one);
        }
        let terminated = at(one, &["state", "terminated"]);
        if terminated.is_some_and(|end| integer(end, &["exitCode"]).unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && at(one, &["started"]) == Some(&json!(true)) {
            summary.ready += usize::from(at(one, &["ready"]) == Some(&json!(true)));
            continue;
        }
        let waiting = text(one, &["state", "waiting", "reason"]);
        summary.status = match terminated {
            Some(terminated) => format!("Init:{}", ending(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{}", init.len()),
        };
        initialising = true;
        break;
    }
    if !initialising || condition(pod, "Initialized").is_some_and(is_true) {
        summary.restarts = from_sidecars.restarts;
        summary.last_restart = from_sidecars.last_restart;
        main_containers(pod, &mut summary);
    }
    if object::is_being_deleted(pod) {
        if own_reason == "NodeLost" {
            summary.status = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.status = "Terminating".to_owned();
        }
    }
    summary
}

fn main_containers(pod: &Value, summary: &mut Summary) {
    let mut any_runs = false;
    for one in list(pod, &["status", "containerStatuses"]).iter().rev() {
        summary.count_restarts(one);
        let waiting = text(one, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if let Some(terminated) = at(one, &["state", "terminated"]) {
            summary.status = ending(terminated);
        } else if at(one, &["ready"]) == Some(&json!(true)) && at(one, &["state", "running"]).is_some() {
            any_runs = true;
            summary.ready += 1;
        }
    }
    // One container is done while another runs.
    if summary.status == "Completed" && any_runs {
        let ready = condition(pod, "Ready").is_some_and(is_true);
        summary.status = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pod: &Value) -> String {
        let now = clock::parse("2026-01-01T01:00:00Z").unwrap_or_default();
        let cells = row(pod, now);
        cells[1..4].iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_status_is_the_word_kubectl_prints() {
        let one = json!([{"name": "a"}]);
        let cases = [
            (json!({"spec": {"containers": one}, "status": {"phase": "Pending"}}), "0/1 Pending 0"),
            (
                json!({"spec": {"containers": one}, "status": {"phase": "Pending", "containerStatuses": [
                    {"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]}}),
                "0/1 ContainerCreating 0",
            ),
            (
                json!({"spec": {"containers": one}, "status": {"phase": "Running", "containerStatuses": [
                    {"name": "a", "ready": true, "state": {"running": {}}, "restartCount": 3,
                     "lastState": {"terminated": {"finishedAt": "2026-01-01T00:58:00Z"}}}]}}),
                "1/1 Running 3 (2m ago)",
            ),
            (
                json!({"spec": {"containers": one}, "status": {"phase": "Running", "containerStatuses": [
                    {"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 2}]}}),
                "0/1 CrashLoopBackOff 2",
            ),
            (
                json!({"spec": {"containers": one}, "status": {"phase": "Failed", "containerStatuses": [
                    {"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}}),
                "0/1 Error 0",
            ),
            (
                json!({"spec": {"containers": one}, "status": {"phase": "Failed", "containerStatuses": [
                    {"name": "a", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}}),
                "0/1 Signal:9 0",
            ),
            (
                json!({"spec": {"containers": one}, "status": {"phase": "Succeeded", "containerStatuses": [
                    {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}}),
                "0/1 Completed 0",
            ),
            (
                json!({"spec": {"containers": one, "initContainers": [{"name": "i"}, {"name": "j"}]},
                    "status": {"phase": "Pending", "initContainerStatuses": [
                        {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}}),
                "0/1 Init:1/2 0",
            ),
            (
                json!({"spec": {"containers": one, "initContainers": [{"name": "i"}]},
                    "status": {"phase": "Pending", "initContainerStatuses": [
                        {"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 4}]}}),
                "0/1 Init:CrashLoopBackOff 4",
            ),
            (
                json!({"spec": {"containers": one, "initContainers": [{"name": "i", "restartPolicy": "Always"}]},
                    "status": {"phase": "Running",
                        "initContainerStatuses": [{"name": "i", "started": true, "ready": true, "state": {"running": {}}}],
                        "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}}),
                "2/2 Running 0",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": one},
                    "status": {"phase": "Running"}}),
                "0/1 Terminating 0",
            ),
            (json!({"spec": {"containers": one}, "status": {"phase": "Failed", "reason": "Evicted"}}), "0/1 Evicted 0"),
        ];
        for (pod, expected) in cases {
            assert_eq!(line(&pod), expected);
        }
    }
}
