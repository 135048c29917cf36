//! What a node's silence or its own conditions mean: conditions, taints, pods. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::placement::taints::{
    self, DISK_PRESSURE, MEMORY_PRESSURE, NETWORK_UNAVAILABLE, NO_EXECUTE, NO_SCHEDULE, NOT_READY, PID_PRESSURE,
    UNREACHABLE, UNSCHEDULABLE,
};

/// The conditions that a silent node knows nothing about any more.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Everything by which a node shows that it lives. Only whether it differs matters, not what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heartbeat {
    status: Option<Time>,
    ready: Option<String>,
    lease: Option<MicroTime>,
}

/// How long the node has been silent, and how long it may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Health {
    pub(super) silent_for: Duration,
    pub(super) grace: Duration,
}

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// All conditions, if any changes.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// All taints, if any changes.
    pub(super) taints: Option<Vec<Taint>>,
    /// Ready pods on the node are to be marked as not ready.
    pub(super) pods_not_ready: bool,
    /// What the Event says when the node stops being ready by our verdict.
    pub(super) became_not_ready: Option<String>,
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// A node whose kubelet has never said whether it is ready gets more time.
pub(super) fn has_reported(node: &Node) -> bool {
    condition(node, "Ready").is_some()
}

pub(super) fn heartbeat(node: &Node, lease: Option<&Lease>) -> Heartbeat {
    // A condition that this controller wrote is no sign of life of the node.
    let ready = condition(node, "Ready").filter(|ready| ready.status != "Unknown");
    Heartbeat {
        status: ready.and_then(|ready| ready.last_heartbeat_time.clone()),
        ready: ready.map(|ready| ready.status.clone()),
        lease: lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone()),
    }
}

/// Looks at one node.
pub(super) fn plan(node: &Node, health: Health, now: Timestamp) -> Plan {
    let was_ready = condition(node, "Ready").map(|ready| ready.status.clone());
    let silent = health.silent_for > health.grace;
    let conditions = silent.then(|| unknown(node, now)).flatten();
    let mut judged = node.clone();
    if let Some(conditions) = &conditions {
        judged.status.get_or_insert_default().conditions = Some(conditions.clone());
    }
    let ready = condition(&judged, "Ready").map(|ready| ready.status.clone());
    let lost = was_ready.as_deref() == Some("True") && ready.as_deref() != Some("True");
    let name = node.metadata.name.as_deref().unwrap_or_default();
    Plan {
        conditions,
        taints: tainted(&judged, now),
        pods_not_ready: ready.as_deref().is_some_and(|ready| ready != "True"),
        became_not_ready: lost.then(|| format!("Node {name} status is now: NodeNotReady")),
    }
}

/// The conditions with everything set to Unknown that the node would have to keep up; `None` if they are already.
fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            Some(_) => {}
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// The taints that this controller alone puts on and takes off.
const OURS: [(&str, &str); 8] = [
    (NOT_READY, NO_EXECUTE),
    (UNREACHABLE, NO_EXECUTE),
    (NOT_READY, NO_SCHEDULE),
    (UNREACHABLE, NO_SCHEDULE),
    (MEMORY_PRESSURE, NO_SCHEDULE),
    (DISK_PRESSURE, NO_SCHEDULE),
    (PID_PRESSURE, NO_SCHEDULE),
    (NETWORK_UNAVAILABLE, NO_SCHEDULE),
];

/// The complete new list of taints, if it differs.
fn tainted(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let ours = |taint: &Taint| {
        OURS.contains(&(taint.key.as_str(), taint.effect.as_str()))
            || (taint.key == UNSCHEDULABLE && taint.effect == NO_SCHEDULE)
    };
    let current = taints::of(node);
    let wanted = wanted(node);
    let mut new: Vec<Taint> = current
        .iter()
        .filter(|taint| !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !new.iter().any(|taint| taint.key == key && taint.effect == effect) {
            // The time is what tolerations with seconds count from, and what tells who looks when it began.
            new.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(Time(now)) });
        }
    }
    (new != current).then_some(new)
}

fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let is = |kind: &str, status: &str| condition(node, kind).is_some_and(|condition| condition.status == status);
    let mut wanted = Vec::new();
    if is("Ready", "False") {
        wanted.extend([(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]);
    }
    if is("Ready", "Unknown") {
        wanted.extend([(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]);
    }
    // A node nobody has heard of yet must not get pods either.
    if condition(node, "Ready").is_none() {
        wanted.push((NOT_READY, NO_SCHEDULE));
    }
    for (kind, key) in [
        ("MemoryPressure", MEMORY_PRESSURE),
        ("DiskPressure", DISK_PRESSURE),
        ("PIDPressure", PID_PRESSURE),
        ("NetworkUnavailable", NETWORK_UNAVAILABLE),
    ] {
        if is(kind, "True") {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::after_seconds;
    use crate::samples;

    const GRACE: Duration = Duration::from_secs(50);

    fn now() -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, 5_000)
    }

    fn heard(seconds: u64) -> Health {
        Health { silent_for: Duration::from_secs(seconds), grace: GRACE }
    }

    fn with_ready(status: &str) -> Node {
        let mut node = samples::node("n1");
        let conditions = node.status.as_mut().and_then(|status| status.conditions.as_mut()).unwrap();
        conditions[0].status = status.into();
        node
    }

    fn names(plan: &Plan) -> Vec<(String, String)> {
        let taints = plan.taints.iter().flatten();
        taints.map(|taint| (taint.key.clone(), taint.effect.clone())).collect()
    }

    fn applied(node: &Node, plan: &Plan) -> Node {
        let mut node = node.clone();
        if let Some(conditions) = &plan.conditions {
            node.status.get_or_insert_default().conditions = Some(conditions.clone());
        }
        if let Some(taints) = &plan.taints {
            node.spec.get_or_insert_default().taints = Some(taints.clone());
        }
        node
    }

    #[test]
    fn a_node_that_is_heard_is_left_alone() {
        assert_eq!(plan(&samples::node("n1"), heard(50), now()), Plan::default());
    }

    #[test]
    fn a_silent_node_becomes_unknown_once_and_returns_without_a_trace() {
        let node = samples::node("n1");
        let first = plan(&node, heard(51), now());
        let ready = first.conditions.as_ref().and_then(|list| list.iter().find(|one| one.type_ == "Ready")).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(ready.message.as_deref(), Some("Kubelet stopped posting node status."));
        assert!(first.pods_not_ready && first.became_not_ready.is_some());
        let expected = [(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)];
        assert_eq!(names(&first), expected.map(|(key, effect)| (key.to_owned(), effect.to_owned())));
        assert!(first.taints.iter().flatten().all(|taint| taint.time_added == Some(Time(now()))));

        let silent = applied(&node, &first);
        let second = plan(&silent, heard(99), after_seconds(now(), 60));
        assert_eq!(second, Plan { pods_not_ready: true, ..Plan::default() }, "nothing is written twice");

        let mut back = silent;
        back.status = node.status.clone();
        let third = plan(&back, heard(0), now());
        assert_eq!(third.taints, Some(vec![]));
        assert!(!third.pods_not_ready);
    }

    #[test]
    fn our_own_verdict_is_no_sign_of_life() {
        let node = samples::node("n1");
        let silent = applied(&node, &plan(&node, heard(51), now()));
        let again = applied(&silent, &plan(&silent, heard(60), now()));
        assert_eq!(heartbeat(&silent, None), heartbeat(&again, None));
        assert_ne!(heartbeat(&node, None), heartbeat(&silent, None));
    }

    #[test]
    fn a_node_that_never_reported_says_so() {
        let mut node = samples::node("n1");
        node.status = None;
        let early = plan(&node, heard(1), now());
        assert_eq!(names(&early), [(NOT_READY.to_owned(), NO_SCHEDULE.to_owned())]);
        let late = plan(&node, heard(51), now());
        let conditions = late.conditions.unwrap();
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|one| one.reason.as_deref() == Some("NodeStatusNeverUpdated")));
    }

    #[test]
    fn not_ready_and_unreachable_exclude_each_other() {
        let not_ready = with_ready("False");
        let first = plan(&not_ready, heard(0), now());
        assert!(first.pods_not_ready && first.conditions.is_none());
        assert!(names(&first).iter().all(|(key, _)| key == NOT_READY));
        let mut unknown = applied(&not_ready, &first);
        unknown.status = with_ready("Unknown").status;
        let second = plan(&unknown, heard(51), now());
        assert!(names(&second).iter().all(|(key, _)| key == UNREACHABLE), "{:?}", names(&second));
    }

    #[test]
    fn pressure_and_cordon_are_taints_and_foreign_ones_stay() {
        let mut node = samples::node("n1");
        let foreign = Taint { key: "edge".into(), effect: NO_SCHEDULE.into(), ..Taint::default() };
        node.spec.get_or_insert_default().taints = Some(vec![foreign.clone()]);
        node.spec.get_or_insert_default().unschedulable = Some(true);
        let conditions = node.status.as_mut().and_then(|status| status.conditions.as_mut()).unwrap();
        conditions.push(NodeCondition {
            type_: "DiskPressure".into(),
            status: "True".into(),
            ..NodeCondition::default()
        });
        let plan = plan(&node, heard(0), now());
        let keys: Vec<_> = names(&plan).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["edge", DISK_PRESSURE, UNSCHEDULABLE]);
    }

    #[test]
    fn every_sign_of_life_counts() {
        let node = samples::node("n1");
        let lease = |seconds| Lease {
            spec: Some(k8s_openapi::api::coordination::v1::LeaseSpec {
                renew_time: Some(MicroTime(after_seconds(now(), seconds))),
                ..Default::default()
            }),
            ..Lease::default()
        };
        assert_ne!(heartbeat(&node, Some(&lease(1))), heartbeat(&node, Some(&lease(2))));
        assert_ne!(heartbeat(&node, None), heartbeat(&with_ready("False"), None));
        assert_eq!(heartbeat(&node, Some(&lease(1))), heartbeat(&node, Some(&lease(1))));
    }
}
