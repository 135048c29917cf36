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
pub fn plan(desired: &DesiredSet, known: &BTreeMap<PodUid, Option<Order>>) -> Vec<Action> {
    let all: BTreeSet<&PodUid> = desired.pods.keys().chain(known.keys()).collect();
    let mut actions = Vec::new();
    for uid in all {
        let order = match (desired.version, desired.pods.get(uid)) {
            (None, _) => Order::Hold,
            (Some(_), Some(pod)) => order(pod),
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
