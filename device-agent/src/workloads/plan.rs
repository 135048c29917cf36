//! What the desired set means for each pod. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hawser_wire::PodUid;

use crate::desired::{Deployment, DesiredPod, DesiredSet, DesiredWish};

/// What one pod is told. The latest order is the whole truth; the ones before it do not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Nothing is known of what is wanted: let run what runs, and start nothing.
    Hold,
    /// Run this.
    Run(Deployment),
    /// Stop within the grace period, say that it is gone, keep what remains.
    Stop {
        /// How long containers may take to end after TERM.
        grace: Duration,
    },
    /// It has ended for good: start nothing, keep what remains.
    Retain,
    /// Stop with the pod's own grace period, say that it is gone, and leave nothing.
    Remove,
}

/// What is to be told to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The pod.
    pub uid: PodUid,
    /// What it is told.
    pub order: Order,
    /// Whether it is not known yet, so that an owner has to be made for it first.
    pub new: bool,
}

/// What has to be said so that all pods know what is wanted.
///
/// `known` are the pods that have an owner, with the order each was given last (`None`: none yet). A set without
/// a version wants nothing and unwants nothing.
///
/// Only a set that was heard since the start can say that a pod is not wanted. What the ledger remembers may be older than
/// what runs: if the disk was full, the set that wanted the pod was never written.
pub fn plan(desired: &DesiredSet, known: &BTreeMap<PodUid, Option<Order>>) -> Vec<Action> {
    let all: BTreeSet<&PodUid> = desired.pods.keys().chain(known.keys()).collect();
    let mut actions = Vec::new();
    for uid in all {
        let order = match (desired.version, desired.pods.get(uid)) {
            (None, _) => Order::Hold,
            (Some(_), Some(pod)) => order(pod),
            (Some(_), None) if !desired.heard => Order::Hold,
            (Some(_), None) => Order::Remove,
        };
        match known.get(uid) {
            Some(Some(given)) if *given == order => {}
            // A removal is finished before anything else is said; a pod that is wanted again starts afresh after it.
            Some(Some(Order::Remove)) => {}
            Some(_) => actions.push(Action { uid: uid.clone(), order, new: false }),
            // What nobody knows needs no owner in order to be left alone. A stop does: somebody has to say that it is gone.
            None if matches!(order, Order::Hold | Order::Retain | Order::Remove) => {}
            None => actions.push(Action { uid: uid.clone(), order, new: true }),
        }
    }
    actions
}

fn order(pod: &DesiredPod) -> Order {
    match (pod.wish, &pod.deployment) {
        (DesiredWish::Run, Some(deployment)) => Order::Run(deployment.clone()),
        (DesiredWish::Run, None) => Order::Hold,
        (DesiredWish::Stop { grace }, _) => Order::Stop { grace },
        (DesiredWish::Retain, _) => Order::Retain,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use hawser_wire::deployment::{EdgeDeployment, RestartPolicy};
    use hawser_wire::{ContentHash, Version};

    fn uid() -> PodUid {
        PodUid::new("u").unwrap()
    }

    fn deployment(number: u8) -> Deployment {
        let spec = EdgeDeployment {
            uid: uid(),
            namespace: "ns".into(),
            name: "p".into(),
            restart_policy: RestartPolicy::Always,
            grace_seconds: u32::from(number),
            active_deadline_seconds: None,
            init_containers: vec![],
            containers: vec![],
            volumes: vec![],
            hostname: None,
            host_network: false,
            fs_group: None,
            supplemental_groups: vec![],
            engine: None,
            priority: None,
            ephemeral_containers: Vec::new(),
            generation: None,
        };
        Deployment { hash: ContentHash::of(&hawser_wire::encode(&spec)), spec: Arc::new(spec) }
    }

    /// What a pod is told, given what the set says of it and what it was told before.
    fn told(version: bool, wanted: Option<DesiredPod>, known: Option<Option<Order>>) -> Option<(Order, bool)> {
        let desired = DesiredSet {
            version: version.then(Version::default),
            heard: true,
            pod_ranges: Vec::new(),
            pods: wanted.into_iter().map(|pod| (uid(), pod)).collect(),
        };
        let known = known.into_iter().map(|order| (uid(), order)).collect();
        let mut actions = plan(&desired, &known);
        assert!(actions.len() <= 1);
        actions.pop().map(|action| (action.order, action.new))
    }

    #[test]
    fn each_pod_is_told_what_has_changed_for_it() {
        let grace = Duration::from_secs(5);
        let pod = |wish, number: Option<u8>| Some(DesiredPod { wish, deployment: number.map(deployment) });
        let run = |number| pod(DesiredWish::Run, Some(number));
        let stop = || pod(DesiredWish::Stop { grace }, None);
        let ran = |number| Some(Some(Order::Run(deployment(number))));
        for (case, version, wanted, known, expected) in [
            ("a new pod", true, run(1), None, Some((Order::Run(deployment(1)), true))),
            ("nothing new", true, run(1), ran(1), None),
            ("a new edge deployment", true, run(2), ran(1), Some((Order::Run(deployment(2)), false))),
            ("a found pod", true, run(1), Some(None), Some((Order::Run(deployment(1)), false))),
            ("still being fetched", true, pod(DesiredWish::Run, None), None, None),
            ("found, still being fetched", true, pod(DesiredWish::Run, None), Some(None), Some((Order::Hold, false))),
            ("a stop", true, stop(), ran(1), Some((Order::Stop { grace }, false))),
            ("a stop of what nobody knows is answered", true, stop(), None, Some((Order::Stop { grace }, true))),
            ("ended for good", true, pod(DesiredWish::Retain, None), ran(1), Some((Order::Retain, false))),
            ("ended for good, unknown", true, pod(DesiredWish::Retain, None), None, None),
            ("not wanted any more", true, None, ran(1), Some((Order::Remove, false))),
            ("found and not wanted", true, None, Some(None), Some((Order::Remove, false))),
            ("wanted again while it is removed", true, run(1), Some(Some(Order::Remove)), None),
            ("wanted again after that", true, run(1), None, Some((Order::Run(deployment(1)), true))),
            ("no set was ever accepted", false, None, Some(None), Some((Order::Hold, false))),
            ("no set, nothing known", false, None, None, None),
        ] {
            assert_eq!(told(version, wanted, known), expected, "{case}");
        }
    }

    #[test]
    fn what_the_ledger_does_not_know_is_let_run_until_a_set_was_heard() {
        let known = BTreeMap::from([(uid(), None)]);
        let mut desired = DesiredSet { version: Some(Version::default()), ..DesiredSet::default() };
        let order = |desired: &DesiredSet| plan(desired, &known).pop().map(|action| action.order);
        assert_eq!(order(&desired), Some(Order::Hold));
        desired.heard = true;
        assert_eq!(order(&desired), Some(Order::Remove));
    }
}
