//! The rolling update of a DaemonSet. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::Plan;
use super::pod::fit;
use super::revisions::is_updated;
use crate::percent::{Round, resolve};
use crate::pods;

/// How far an update may go at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) max_unavailable: usize,
    pub(super) max_surge: usize,
    on_delete: bool,
}

impl Limits {
    pub(super) fn of(set: &DaemonSet, nodes: &[Arc<Node>]) -> Self {
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
        let on_delete = strategy.type_.as_deref() == Some("OnDelete");
        let desired = nodes.iter().filter(|node| fit(set, node).should_run).count();
        let desired = i32::try_from(desired).unwrap_or(i32::MAX);
        let rolling = strategy.rolling_update.unwrap_or_default();
        let number = |value: Option<IntOrString>, default: i32| {
            let resolved = resolve(&value.unwrap_or(IntOrString::Int(default)), desired, Round::Up);
            usize::try_from(resolved).unwrap_or(0)
        };
        let max_surge = if on_delete { 0 } else { number(rolling.max_surge, 0) };
        let mut max_unavailable = number(rolling.max_unavailable, 1);
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        Self { max_unavailable, max_surge, on_delete }
    }
}

/// The pods on a node: at most one of each version, or the node must be tended first.
struct Pair<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

fn pair<'a>(here: &[&'a Arc<Pod>], hash: &str) -> Option<Pair<'a>> {
    let mut pair = Pair { new: None, old: None };
    for pod in here {
        let place = if is_updated(pod, hash) { &mut pair.new } else { &mut pair.old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some(pair)
}

/// Adds what the update may do now: delete old pods, or with a surge create new ones beside them.
pub(super) fn step(
    plan: &mut Plan,
    set: &DaemonSet,
    hash: &str,
    by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>,
    nodes: &[Arc<Node>],
    limits: Limits,
    now: Timestamp,
) {
    if limits.on_delete {
        return;
    }
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let up = |pod: &Pod| !pods::is_terminating(pod) && pods::is_available(pod, min_ready, now);
    let eligible =
        nodes.iter().filter(|node| fit(set, node).should_run).filter_map(|node| node.metadata.name.as_deref());
    let pairs = eligible.map(|name| (name, pair(by_node.get(name).map(Vec::as_slice).unwrap_or_default(), hash)));
    if limits.max_surge > 0 {
        surge(plan, pairs, up, limits.max_surge);
    } else {
        replace(plan, pairs, up, limits.max_unavailable);
    }
}

fn replace<'a>(
    plan: &mut Plan,
    pairs: impl Iterator<Item = (&'a str, Option<Pair<'a>>)>,
    up: impl Fn(&Pod) -> bool,
    max_unavailable: usize,
) {
    let (mut unavailable, mut candidates) = (0, Vec::new());
    for (_, pair) in pairs {
        match pair {
            Some(Pair { new: Some(new), .. }) if up(new) => {}
            Some(Pair { new: None, old: Some(old) }) if up(old) => candidates.push(old.clone()),
            Some(Pair { new: None, old: Some(old) }) => {
                // Nobody misses a pod that is not available: it is replaced at once.
                unavailable += 1;
                if !pods::is_terminating(old) {
                    plan.delete.push(old.clone());
                }
            }
            _ => unavailable += 1,
        }
    }
    plan.delete.extend(candidates.into_iter().take(max_unavailable.saturating_sub(unavailable)));
}

fn surge<'a>(
    plan: &mut Plan,
    pairs: impl Iterator<Item = (&'a str, Option<Pair<'a>>)>,
    up: impl Fn(&Pod) -> bool,
    max_surge: usize,
) {
    let (mut surging, mut candidates) = (0, Vec::new());
    for (node, pair) in pairs {
        match pair {
            Some(Pair { new: Some(new), old: Some(old) }) if up(new) => {
                if !pods::is_terminating(old) {
                    plan.delete.push(old.clone());
                }
            }
            Some(Pair { new: None, old: Some(old) }) if up(old) => candidates.push(node.to_owned()),
            Some(Pair { new: None, old: Some(_) }) => plan.create.push(node.to_owned()),
            Some(Pair { old: None, .. }) => {}
            _ => surging += 1,
        }
    }
    plan.create.extend(candidates.into_iter().take(max_surge.saturating_sub(surging)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plan::plan;
    use super::super::plan::tests::{nodes, now, pod_on, set};
    use super::*;

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
    }

    #[test]
    fn one_at_a_time_and_broken_ones_first() {
        let nodes = nodes(&["a", "b", "c"]);
        let all_up = ["a", "b", "c"].map(|node| pod_on(node, "old", true));
        assert_eq!(names(&plan(&set(1, 0), "new", &all_up, &nodes, now()).delete), ["a-old"]);
        let one_down = [pod_on("a", "old", true), pod_on("b", "old", false), pod_on("c", "old", true)];
        assert_eq!(names(&plan(&set(1, 0), "new", &one_down, &nodes, now()).delete), ["b-old"]);
        assert_eq!(names(&plan(&set(2, 0), "new", &one_down, &nodes, now()).delete), ["b-old", "a-old"]);
        let starting = [pod_on("a", "new", false), pod_on("b", "old", true), pod_on("c", "old", true)];
        assert!(plan(&set(1, 0), "new", &starting, &nodes, now()).is_nothing());
    }

    #[test]
    fn on_delete_waits_for_the_user() {
        let mut set = set(1, 0);
        let strategy = set.spec.get_or_insert_default().update_strategy.get_or_insert_default();
        strategy.type_ = Some("OnDelete".into());
        assert!(plan(&set, "new", &[pod_on("a", "old", true)], &nodes(&["a"]), now()).is_nothing());
    }

    #[test]
    fn a_surge_starts_the_new_beside_the_old() {
        let nodes = nodes(&["a", "b"]);
        let old = [pod_on("a", "old", true), pod_on("b", "old", true)];
        let first = plan(&set(0, 1), "new", &old, &nodes, now());
        assert_eq!((first.create.as_slice(), first.delete.len()), (&["a".to_owned()][..], 0));
        let starting = [pod_on("a", "old", true), pod_on("a", "new", false), pod_on("b", "old", true)];
        assert!(plan(&set(0, 1), "new", &starting, &nodes, now()).is_nothing());
        let up = [pod_on("a", "old", true), pod_on("a", "new", true), pod_on("b", "old", true)];
        let third = plan(&set(0, 1), "new", &up, &nodes, now());
        assert_eq!(names(&third.delete), ["a-old"]);
        assert_eq!(third.create, ["b"]);
    }

    proptest! {
        #[test]
        fn an_update_never_takes_more_than_allowed_and_ends(
            count in 1_usize..8, max_unavailable in 0_i32..4, max_surge in 0_i32..4, broken in any::<u8>(),
        ) {
            let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let nodes = nodes(&all[..count]);
            let set = set(max_unavailable, max_surge);
            let limits = Limits::of(&set, &nodes);
            let mut pods: Vec<_> =
                all[..count].iter().enumerate().map(|(at, node)| pod_on(node, "old", broken >> at & 1 == 0)).collect();
            for _ in 0..40 {
                let plan = plan(&set, "new", &pods, &nodes, now());
                if plan.is_nothing() {
                    break;
                }
                let gone = names(&plan.delete).into_iter().map(str::to_owned).collect::<Vec<_>>();
                let lost = plan.delete.iter().filter(|pod| {
                    let covered = pods.iter().any(|other| {
                        !Arc::ptr_eq(other, pod) && pods::node_name(other) == pods::node_name(pod) && pods::is_ready(other)
                    });
                    pods::is_ready(pod) && !covered
                }).count();
                prop_assert!(lost <= limits.max_unavailable, "took away {lost} at once");
                if limits.max_surge > 0 {
                    prop_assert_eq!(lost, 0);
                }
                pods.retain(|pod| !gone.contains(pod.metadata.name.as_ref().unwrap()));
                pods.extend(plan.create.iter().map(|node| pod_on(node, "new", true)));
            }
            prop_assert_eq!(pods.len(), count);
            prop_assert!(pods.iter().all(|pod| is_updated(pod, "new")));
        }
    }
}
