//! Taints and tolerations. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::clock::after_seconds;
use crate::placement::quantity;

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub(crate) const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
pub(crate) const DISK_PRESSURE: &str = "node.kubernetes.io/disk-pressure";
pub(crate) const PID_PRESSURE: &str = "node.kubernetes.io/pid-pressure";
pub(crate) const NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";

pub(crate) const NO_SCHEDULE: &str = "NoSchedule";
pub(crate) const NO_EXECUTE: &str = "NoExecute";
pub(crate) const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";

pub(crate) fn of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

pub(crate) fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// Whether one toleration covers one taint. An empty key with `Exists` covers every key, no effect covers every effect.
pub(crate) fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if !key.is_empty() && key != taint.key {
        return false;
    }
    let (want, have) = (text(&toleration.value), text(&taint.value));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && want == have,
        "Exists" => true,
        // Numbers compare only with numbers.
        operator @ ("Lt" | "Gt") => match (have.parse::<i64>(), want.parse::<i64>()) {
            (Ok(have), Ok(want)) if operator == "Lt" => have < want,
            (Ok(have), Ok(want)) => have > want,
            _ => false,
        },
        _ => false,
    }
}

/// The first taint with one of these effects that nothing covers.
pub(crate) fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    let mut relevant = taints.iter().filter(|taint| effects.contains(&taint.effect.as_str()));
    relevant.find(|taint| !tolerations.iter().any(|toleration| covers(toleration, taint)))
}

/// What the `NoExecute` taints of a node mean for a pod on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// For as long as the taints stay as they are.
    Unlimited,
    /// Until then.
    Until(Timestamp),
    /// It must go at once.
    Never,
}

/// How long the pod may stay. A toleration with seconds counts from when its taint was added, so that neither a restart
/// of this program nor a look at the pod gives it more time.
pub(crate) fn stay(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut end: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let Some(toleration) = tolerations.iter().find(|toleration| covers(toleration, taint)) else {
            return Stay::Never;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let added = taint.time_added.as_ref().map_or(now, |time| time.0);
            let until = after_seconds(added, seconds.max(0));
            end = Some(end.map_or(until, |end| end.min(until)));
        }
    }
    end.map_or(Stay::Unlimited, Stay::Until)
}

/// A node as the scheduler sees it may also be closed by `spec.unschedulable`; that is the same as this taint.
pub(crate) fn is_cordoned_for(node: &Node, tolerations: &[Toleration]) -> bool {
    let cordon = Taint { key: UNSCHEDULABLE.into(), effect: NO_SCHEDULE.into(), ..Taint::default() };
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
        && !tolerations.iter().any(|toleration| covers(toleration, &cordon))
}

/// How many `PreferNoSchedule` taints the pod does not tolerate.
pub(crate) fn disliked(node: &Node, tolerations: &[Toleration]) -> quantity::Nano {
    let soft = of(node).iter().filter(|taint| taint.effect == PREFER_NO_SCHEDULE);
    let count = soft.filter(|taint| !tolerations.iter().any(|toleration| covers(toleration, taint))).count();
    count.try_into().unwrap_or(quantity::Nano::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn taint(key: &str, value: &str, effect: &str, added: i64) -> Taint {
        Taint {
            key: key.into(),
            value: Some(value.into()).filter(|value: &String| !value.is_empty()),
            effect: effect.into(),
            time_added: Some(Time(after_seconds(Timestamp::UNIX_EPOCH, added))),
        }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str, seconds: Option<i64>) -> Toleration {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Toleration {
            key: text(key),
            operator: text(operator),
            value: text(value),
            effect: text(effect),
            toleration_seconds: seconds,
        }
    }

    #[test]
    fn what_covers_what() {
        let edge = taint("edge", "yes", NO_SCHEDULE, 0);
        for (key, operator, value, effect, expected) in [
            ("edge", "Equal", "yes", "NoSchedule", true),
            ("edge", "", "yes", "", true),
            ("edge", "Equal", "no", "NoSchedule", false),
            ("edge", "Exists", "", "NoSchedule", true),
            ("edge", "Exists", "", "NoExecute", false),
            ("", "Exists", "", "", true),
            ("", "Equal", "yes", "", false),
            ("other", "Exists", "", "", false),
            ("edge", "Like", "yes", "", false),
        ] {
            let toleration = toleration(key, operator, value, effect, None);
            assert_eq!(covers(&toleration, &edge), expected, "{toleration:?}");
        }
        let level = taint("level", "5", NO_SCHEDULE, 0);
        for (operator, value, expected) in
            [("Gt", "3", true), ("Gt", "5", false), ("Lt", "9", true), ("Lt", "x", false)]
        {
            assert_eq!(covers(&toleration("level", operator, value, "", None), &level), expected, "{operator} {value}");
        }
    }

    #[test]
    fn the_shortest_toleration_ends_the_stay() {
        let now = after_seconds(Timestamp::UNIX_EPOCH, 100);
        let at = |seconds| after_seconds(Timestamp::UNIX_EPOCH, seconds);
        let taints = [taint("a", "", NO_EXECUTE, 50), taint("b", "", NO_EXECUTE, 90), taint("c", "", NO_SCHEDULE, 0)];
        let both = |a: Option<i64>, b: Option<i64>| {
            [toleration("a", "Exists", "", "", a), toleration("b", "Exists", "", "NoExecute", b)]
        };
        assert_eq!(stay(&taints, &both(None, None), now), Stay::Unlimited);
        assert_eq!(stay(&taints, &both(Some(300), None), now), Stay::Until(at(350)));
        assert_eq!(stay(&taints, &both(Some(300), Some(10)), now), Stay::Until(at(100)));
        assert_eq!(stay(&taints, &both(None, Some(-5)), now), Stay::Until(at(90)));
        assert_eq!(stay(&taints, &both(None, None)[..1], now), Stay::Never);
        assert_eq!(stay(&[], &[], now), Stay::Unlimited);
    }

    #[test]
    fn a_cordoned_node_is_closed_but_for_those_who_tolerate_it() {
        let mut node = crate::samples::node("n");
        assert!(!is_cordoned_for(&node, &[]));
        node.spec.get_or_insert_default().unschedulable = Some(true);
        assert!(is_cordoned_for(&node, &[]));
        assert!(!is_cordoned_for(&node, &[toleration(UNSCHEDULABLE, "Exists", "", NO_SCHEDULE, None)]));
    }
}
