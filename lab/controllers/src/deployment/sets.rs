//! What the Deployment controller reads from ReplicaSets and writes on them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;

use crate::identity::{annotation, controller_reference};
use crate::percent::{Round, resolve};
use crate::template::{self, POD_TEMPLATE_HASH};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that describe it alone and are not copied to its ReplicaSets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The limits of a Deployment, with percentages and defaults resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) desired: i32,
    pub(super) max_surge: i32,
    pub(super) max_unavailable: i32,
    pub(super) recreate: bool,
}

impl Limits {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        let desired = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.unwrap_or_default();
        if strategy.type_.as_deref() == Some("Recreate") {
            return Self { desired, max_surge: 0, max_unavailable: desired, recreate: true };
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = IntOrString::String("25%".to_owned());
        let max_surge = resolve(rolling.max_surge.as_ref().unwrap_or(&quarter), desired, Round::Up);
        let mut max_unavailable = resolve(rolling.max_unavailable.as_ref().unwrap_or(&quarter), desired, Round::Down);
        if max_surge == 0 && max_unavailable == 0 {
            // Both round to nothing: without this a small Deployment could never roll.
            max_unavailable = 1;
        }
        Self { desired, max_surge, max_unavailable: max_unavailable.min(desired), recreate: false }
    }

    pub(super) fn min_available(self) -> i32 {
        self.desired - self.max_unavailable
    }

    /// How many pods there may be at most during a rollout.
    pub(super) fn ceiling(self) -> i32 {
        self.desired.saturating_add(self.max_surge)
    }
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn desired_annotation(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, DESIRED_REPLICAS)?.parse().ok()
}

pub(super) fn max_annotation(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, MAX_REPLICAS)?.parse().ok()
}

/// Oldest first; the name decides between sets of the same second.
pub(super) fn by_age(sets: &mut [Arc<ReplicaSet>]) {
    sets.sort_by(|left, right| {
        let key = |set: &ReplicaSet| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone());
        key(left).cmp(&key(right))
    });
}

fn template_of(set: &ReplicaSet) -> Option<&k8s_openapi::api::core::v1::PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref()
}

/// The set that has the Deployment's template: the oldest, if by some accident there are several.
pub(super) fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let wanted = &deployment.spec.as_ref()?.template;
    let mut sets = sets.to_vec();
    by_age(&mut sets);
    sets.into_iter().find(|set| template_of(set).is_some_and(|template| template::same(template, wanted)))
}

/// The annotations a set should have: the Deployment's own, its revision, and what scaling needs to remember.
pub(super) fn annotations(
    deployment: &Deployment,
    set: &ObjectMeta,
    revision: i64,
    limits: Limits,
) -> BTreeMap<String, String> {
    let mut annotations = set.annotations.clone().unwrap_or_default();
    let own = deployment.metadata.annotations.iter().flatten();
    annotations.extend(
        own.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())).map(|(key, value)| (key.clone(), value.clone())),
    );
    let before = self::revision(set);
    if revision > before {
        if before > 0 {
            // The set comes back to power: kubectl can still tell under which numbers it ruled before.
            let history = annotations.get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
            let history = if history.is_empty() { before.to_string() } else { format!("{history},{before}") };
            annotations.insert(REVISION_HISTORY.into(), history);
        }
        annotations.insert(REVISION.into(), revision.to_string());
    }
    annotations.extend(scaling_annotations(limits));
    annotations
}

/// What the set remembers of the Deployment's size, so that a later scaling can keep the proportions.
pub(super) fn scaling_annotations(limits: Limits) -> [(String, String); 2] {
    [(DESIRED_REPLICAS.into(), limits.desired.to_string()), (MAX_REPLICAS.into(), limits.ceiling().to_string())]
}

/// A new set for the Deployment's present template.
pub(super) fn new_set(deployment: &Deployment, replicas: i32, revision: i64, limits: Limits) -> ReplicaSet {
    let DeploymentSpec { selector, template, min_ready_seconds, .. } = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template::hash(&template, collisions);
    let template = template::with_label(&template, POD_TEMPLATE_HASH, &hash);
    let mut selector = selector;
    selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let owner = controller_reference(&Deployment::api_version(&()), &Deployment::kind(&()), &deployment.metadata);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: template::labels(&template).cloned(),
            annotations: Some(annotations(deployment, &ObjectMeta::default(), revision, limits)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: min_ready_seconds.filter(|seconds| *seconds > 0),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::plan::tests::deployment;

    #[test]
    fn limits_round_in_favour_of_availability() {
        for (desired, surge, unavailable, expected) in [
            (10, "25%", "25%", (3, 2)),
            (1, "25%", "25%", (1, 0)),
            (4, "0%", "25%", (0, 1)),
            (3, "0%", "25%", (0, 1)),
            (5, "0%", "0%", (0, 1)),
            (0, "25%", "25%", (0, 0)),
        ] {
            let limits = Limits::of(&deployment(desired, surge, unavailable));
            assert_eq!((limits.max_surge, limits.max_unavailable), expected, "{desired} {surge} {unavailable}");
        }
    }

    #[test]
    fn a_set_that_returns_remembers_its_earlier_revisions() {
        let deployment = deployment(3, "1", "1");
        let limits = Limits::of(&deployment);
        let mut meta = ObjectMeta::default();
        for (revision, history) in [(1, None), (3, Some("1")), (7, Some("1,3"))] {
            meta.annotations = Some(annotations(&deployment, &meta, revision, limits));
            assert_eq!(self::revision(&meta), revision);
            assert_eq!(annotation(&meta, REVISION_HISTORY), history);
        }
        assert_eq!(annotations(&deployment, &meta, 7, limits), meta.annotations.clone().unwrap());
    }

    #[test]
    fn the_hash_ties_set_selector_and_pods_together() {
        let deployment = deployment(3, "1", "1");
        let set = new_set(&deployment, 3, 1, Limits::of(&deployment));
        let hash = set.metadata.labels.as_ref().unwrap()[POD_TEMPLATE_HASH].clone();
        let spec = set.spec.as_ref().unwrap();
        assert_eq!(set.metadata.name, Some(format!("web-{hash}")));
        assert_eq!(spec.selector.match_labels.as_ref().unwrap()[POD_TEMPLATE_HASH], hash);
        assert!(find_new(&deployment, &[Arc::new(set)]).is_some());
    }
}
