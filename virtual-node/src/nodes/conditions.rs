//! The conditions of a node: `Ready` from its liveness, the others from its report. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::provider::{ConditionReport, Liveness};

/// What a kubelet always reports, so what may be left over from before this process knew anything of the node.
const OF_KUBELETS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];

/// All conditions of a node. Those of others are kept. A condition that says the same as before keeps its transition
/// time; heartbeats move when `heartbeat` is due, and when a condition says something new, and never while the node is
/// not heard.
pub(crate) fn of_node(
    existing: &[NodeCondition],
    reported: &[ConditionReport],
    liveness: &Liveness,
    heartbeat: bool,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let mut wanted: Vec<ConditionReport> = match liveness {
        Liveness::Offline { reason, message } => {
            // What cannot be heard cannot be known.
            let mut kinds: Vec<&str> = reported.iter().map(|condition| condition.kind.as_str()).collect();
            let left = existing.iter().map(|condition| condition.type_.as_str());
            kinds.extend(left.filter(|kind| OF_KUBELETS.contains(kind) && !reported.iter().any(|r| r.kind == *kind)));
            let unknown = |kind: &str| ConditionReport {
                kind: kind.to_owned(),
                status: None,
                reason: reason.clone(),
                message: message.clone(),
            };
            kinds.into_iter().map(unknown).collect()
        }
        Liveness::Online | Liveness::NotReady { .. } => reported.to_vec(),
    };
    wanted.retain(|condition| condition.kind != "Ready");
    wanted.push(ready(liveness));
    let heard = !matches!(liveness, Liveness::Offline { .. });

    let condition = |wanted: &ConditionReport, before: Option<&NodeCondition>| {
        let status = match wanted.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let same_status = before.filter(|before| before.status == status);
        let same = same_status.filter(|before| {
            before.reason.as_deref().unwrap_or_default() == wanted.reason
                && before.message.as_deref().unwrap_or_default() == wanted.message
        });
        let beat = heard && (heartbeat || same.is_none());
        let kept = before.and_then(|before| before.last_heartbeat_time.clone());
        NodeCondition {
            type_: wanted.kind.clone(),
            status: status.to_owned(),
            reason: Some(wanted.reason.clone()),
            message: Some(wanted.message.clone()),
            last_heartbeat_time: if beat { Some(Time(now)) } else { kept.or(Some(Time(now))) },
            last_transition_time: same_status
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(Time(now))),
        }
    };
    let mut conditions: Vec<NodeCondition> = existing
        .iter()
        .map(|before| match wanted.iter().find(|wanted| wanted.kind == before.type_) {
            Some(wanted) => condition(wanted, Some(before)),
            None => before.clone(),
        })
        .collect();
    for wanted in &wanted {
        if !conditions.iter().any(|condition| condition.type_ == wanted.kind) {
            conditions.push(condition(wanted, None));
        }
    }
    conditions
}

fn ready(liveness: &Liveness) -> ConditionReport {
    let (status, reason, message) = match liveness {
        Liveness::Online => (Some(true), "KubeletReady", "the node is heard and able to run pods"),
        Liveness::NotReady { reason, message } => (Some(false), reason.as_str(), message.as_str()),
        Liveness::Offline { reason, message } => (None, reason.as_str(), message.as_str()),
    };
    ConditionReport { kind: "Ready".to_owned(), status, reason: reason.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn offline() -> Liveness {
        Liveness::Offline { reason: "DeviceOffline".into(), message: "not heard since noon".into() }
    }

    fn pressure(status: bool) -> ConditionReport {
        ConditionReport { kind: "MemoryPressure".into(), status: Some(status), reason: "R".into(), message: "m".into() }
    }

    /// kind=status heartbeat/transition, seconds.
    fn text(conditions: &[NodeCondition]) -> Vec<String> {
        let second = |time: &Option<Time>| time.as_ref().map_or(-1, |time| time.0.as_second() - 1_800_000_000);
        let one = |c: &NodeCondition| {
            let (beat, moved) = (second(&c.last_heartbeat_time), second(&c.last_transition_time));
            format!("{}={} {beat}/{moved}", c.type_, c.status)
        };
        conditions.iter().map(one).collect()
    }

    #[test]
    fn a_node_through_its_life() {
        let first = of_node(&[], &[pressure(false)], &Liveness::Online, false, at(1));
        assert_eq!(text(&first), ["MemoryPressure=False 1/1", "Ready=True 1/1"]);
        let unchanged = of_node(&first, &[pressure(false)], &Liveness::Online, false, at(2));
        assert_eq!(unchanged, first);
        let beat = of_node(&first, &[pressure(false)], &Liveness::Online, true, at(3));
        assert_eq!(text(&beat), ["MemoryPressure=False 3/1", "Ready=True 3/1"]);
        let pressed = of_node(&beat, &[pressure(true)], &Liveness::Online, false, at(4));
        assert_eq!(text(&pressed), ["MemoryPressure=True 4/4", "Ready=True 3/1"]);
        let away = of_node(&pressed, &[pressure(true)], &offline(), true, at(5));
        assert_eq!(
            text(&away),
            ["MemoryPressure=Unknown 4/5", "Ready=Unknown 3/5"],
            "heartbeats say when it was heard"
        );
        let back = of_node(&away, &[pressure(true)], &Liveness::Online, false, at(6));
        assert_eq!(text(&back), ["MemoryPressure=True 6/6", "Ready=True 6/6"]);
        let not_ready = Liveness::NotReady { reason: "RuntimeDown".into(), message: "containerd".into() };
        assert_eq!(text(&of_node(&back, &[], &not_ready, false, at(7)))[1], "Ready=False 7/7");
    }

    #[test]
    fn conditions_of_others_stay() {
        let other =
            NodeCondition { type_: "KernelDeadlock".into(), status: "False".into(), ..NodeCondition::default() };
        for liveness in [Liveness::Online, offline()] {
            assert_eq!(of_node(std::slice::from_ref(&other), &[], &liveness, true, at(1))[0], other);
        }
    }

    #[test]
    fn what_an_earlier_process_knew_is_unknown_while_the_node_is_away() {
        let before = of_node(&[], &[pressure(false)], &Liveness::Online, false, at(1));
        let away = of_node(&before, &[], &offline(), false, at(9));
        assert_eq!(text(&away), ["MemoryPressure=Unknown 1/9", "Ready=Unknown 1/9"]);
    }

    #[test]
    fn ready_follows_from_liveness_alone() {
        let claim = ConditionReport { kind: "Ready".into(), ..pressure(true) };
        assert_eq!(text(&of_node(&[], &[claim], &offline(), false, at(1))), ["Ready=Unknown 1/1"]);
    }
}
