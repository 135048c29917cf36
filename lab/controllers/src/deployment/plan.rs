//! One round of a Deployment: the next steps, and the status to write after them. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::history;
use super::rolling;
use super::sets::{self, Limits};
use super::status::{self, Progress};

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Create(Box<ReplicaSet>),
    Update {
        set: Box<ReplicaSet>,
        event: Option<String>,
    },
    Delete(Box<ReplicaSet>),
    /// Sets the revision on the Deployment itself.
    Annotate(String),
}

/// What a round comes to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) status: DeploymentStatus,
    /// When the status changes by time alone: the progress deadline.
    pub(super) next: Option<Duration>,
}

/// A ReplicaSet and the size it should have.
#[derive(Debug, Clone)]
pub(super) struct Resize {
    pub(super) set: Arc<ReplicaSet>,
    pub(super) to: i32,
}

/// Plans a round. `old_pods_run` says whether pods of another template still exist, ended ones aside.
pub(super) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], old_pods_run: bool, now: Timestamp) -> Plan {
    let limits = Limits::of(deployment);
    let new = sets::find_new(deployment, sets);
    let mut old: Vec<_> = sets
        .iter()
        .filter(|set| new.as_ref().is_none_or(|new| new.metadata.uid != set.metadata.uid))
        .cloned()
        .collect();
    sets::by_age(&mut old);
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let mut steps = Vec::new();
    let mut progress = Progress::Unchanged;
    if deployment.metadata.deletion_timestamp.is_none() {
        match &new {
            _ if paused => steps.extend(resizes(limits, rolling::proportional(limits, new.as_ref(), &old))),
            _ if is_scaling(sets, limits) => {
                steps.extend(resizes(limits, rolling::proportional(limits, new.as_ref(), &old)));
            }
            None if limits.recreate && (!active(&old).is_empty() || old_pods_run) => {
                let down = active(&old).into_iter().map(|set| Resize { set, to: 0 });
                steps.extend(resizes(limits, down.collect()));
            }
            None => {
                let revision = history::next_revision(&old);
                let size = rolling::first_size(limits, &old);
                let set = sets::new_set(deployment, size, revision, limits);
                progress = Progress::Created(set.metadata.name.clone().unwrap_or_default());
                steps.push(Step::Create(Box::new(set)));
                steps.push(Step::Annotate(revision.to_string()));
            }
            Some(new) => {
                if status::progressing(deployment).is_none() {
                    progress = Progress::Found(new.metadata.name.clone().unwrap_or_default());
                }
                steps.extend(in_power(deployment, new, &old, limits));
                if steps.is_empty() {
                    let resize = if limits.recreate {
                        recreate(new, &old, limits, old_pods_run)
                    } else {
                        rolling::step(limits, new, &old)
                    };
                    steps.extend(resizes(limits, resize));
                }
            }
        }
    }
    let (status, next) = status::status(deployment, new.as_deref(), sets, limits, &progress, now);
    if steps.is_empty() && status::complete(deployment, &status, limits) && !paused {
        steps.extend(history::surplus(deployment, &old).into_iter().map(|set| Step::Delete(Box::new(set))));
    }
    Plan { steps, status, next }
}

fn active(sets: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    sets.iter().filter(|set| sets::replicas(set) > 0).cloned().collect()
}

/// The Deployment was scaled since its sets were last sized: that comes before any rollout.
fn is_scaling(sets: &[Arc<ReplicaSet>], limits: Limits) -> bool {
    let active = active(sets);
    // In the middle of a Recreate there are no proportions to keep: the old sets go to zero anyway.
    let no_shares = limits.recreate && active.len() > 1;
    !no_shares
        && active.iter().any(|set| sets::desired_annotation(set).is_some_and(|desired| desired != limits.desired))
}

/// Brings the annotations of the new set and the revision of the Deployment up to date.
fn in_power(deployment: &Deployment, new: &ReplicaSet, old: &[Arc<ReplicaSet>], limits: Limits) -> Vec<Step> {
    let mut steps = Vec::new();
    let revision = history::next_revision(old).max(sets::revision(&new.metadata));
    let annotations = sets::annotations(deployment, &new.metadata, revision, limits);
    let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let set_min_ready = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    if new.metadata.annotations.as_ref() != Some(&annotations) || min_ready != set_min_ready {
        let mut set = new.clone();
        set.metadata.annotations = Some(annotations);
        set.spec.get_or_insert_default().min_ready_seconds = (min_ready > 0).then_some(min_ready);
        steps.push(Step::Update { set: Box::new(set), event: None });
    }
    if sets::revision(&deployment.metadata) != revision {
        steps.push(Step::Annotate(revision.to_string()));
    }
    steps
}

/// First everything old goes, then the new set gets its size.
fn recreate(new: &Arc<ReplicaSet>, old: &[Arc<ReplicaSet>], limits: Limits, old_pods_run: bool) -> Vec<Resize> {
    let old = active(old);
    if !old.is_empty() {
        return old.into_iter().map(|set| Resize { set, to: 0 }).collect();
    }
    if old_pods_run || sets::replicas(new) == limits.desired {
        return Vec::new();
    }
    vec![Resize { set: new.clone(), to: limits.desired }]
}

fn resizes(limits: Limits, resizes: Vec<Resize>) -> Vec<Step> {
    resizes.into_iter().filter_map(|resize| sized(&resize, limits)).collect()
}

fn sized(resize: &Resize, limits: Limits) -> Option<Step> {
    let from = sets::replicas(&resize.set);
    let mut set = ReplicaSet::clone(&resize.set);
    set.metadata.annotations.get_or_insert_default().extend(sets::scaling_annotations(limits));
    set.spec.get_or_insert_default().replicas = Some(resize.to);
    if from == resize.to && set.metadata.annotations == resize.set.metadata.annotations {
        return None;
    }
    let name = set.metadata.name.clone().unwrap_or_default();
    let direction = if resize.to > from { "up" } else { "down" };
    let event =
        (from != resize.to).then(|| format!("Scaled {direction} replica set {name} from {from} to {}", resize.to));
    Some(Step::Update { set: Box::new(set), event })
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::api::apps::v1::{
        DeploymentSpec, DeploymentStrategy, ReplicaSetSpec, ReplicaSetStatus, RollingUpdateDeployment,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use proptest::prelude::*;

    use super::*;
    use crate::samples;

    fn limit(text: &str) -> IntOrString {
        text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
    }

    pub(in crate::deployment) fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        Deployment {
            metadata: samples::meta("web"),
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                selector: samples::selector("web"),
                template: samples::template("web", "busybox:new"),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(limit(surge)),
                        max_unavailable: Some(limit(unavailable)),
                    }),
                }),
                ..DeploymentSpec::default()
            }),
            status: None,
        }
    }

    /// A set that has all its pods, so many of them available, last scaled for `max` pods in all.
    pub(in crate::deployment) fn set(name: &str, size: i32, available: i32, max: i32) -> Arc<ReplicaSet> {
        let template = samples::template("web", &format!("busybox:{name}"));
        Arc::new(ReplicaSet {
            metadata: ObjectMeta {
                annotations: Some(samples::labels(&[
                    ("deployment.kubernetes.io/max-replicas", &max.to_string()),
                    ("deployment.kubernetes.io/desired-replicas", &max.to_string()),
                ])),
                ..samples::meta(name)
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                selector: samples::selector("web"),
                template: Some(template),
                min_ready_seconds: None,
            }),
            status: Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                observed_generation: Some(1),
                ..ReplicaSetStatus::default()
            }),
        })
    }

    /// A Deployment with its sets, a ReplicaSet controller that obeys at once, and pods that become available or break
    /// as the test says.
    #[derive(Debug)]
    struct World {
        deployment: Deployment,
        sets: Vec<Arc<ReplicaSet>>,
    }

    impl World {
        fn new(deployment: Deployment) -> Self {
            Self { deployment, sets: Vec::new() }
        }

        fn update(&mut self, name: &str, change: impl FnOnce(&mut ReplicaSet)) {
            let place = self.sets.iter_mut().find(|set| set.metadata.name.as_deref() == Some(name));
            let place = place.expect("a known set");
            let mut set = ReplicaSet::clone(place);
            change(&mut set);
            *place = Arc::new(set);
        }

        /// One reconcile; returns whether anything was written.
        fn round(&mut self) -> bool {
            let plan = plan(&self.deployment, &self.sets, false, Timestamp::UNIX_EPOCH);
            let changed = !plan.steps.is_empty() || self.deployment.status.as_ref() != Some(&plan.status);
            self.deployment.status = Some(plan.status);
            for step in plan.steps {
                match step {
                    Step::Create(set) => {
                        let mut set = *set;
                        set.metadata.uid = set.metadata.name.clone();
                        self.sets.push(Arc::new(set));
                    }
                    Step::Update { set, .. } => {
                        let name = set.metadata.name.clone().expect("a name");
                        self.update(&name, |old| *old = *set);
                    }
                    Step::Delete(gone) => self.sets.retain(|set| set.metadata.uid != gone.metadata.uid),
                    Step::Annotate(revision) => {
                        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                        annotations.insert(sets::REVISION.into(), revision);
                    }
                }
            }
            changed
        }

        /// The ReplicaSets get the pods they want; the ones that go are first those that are not available.
        fn obey(&mut self) {
            for set in &mut self.sets {
                let mut new = ReplicaSet::clone(set);
                let (size, available) = (sets::replicas(set), sets::available(set));
                let status = new.status.get_or_insert_default();
                status.replicas = size;
                status.observed_generation = new.metadata.generation;
                status.available_replicas = Some(available.min(size));
                status.ready_replicas = status.available_replicas;
                *set = Arc::new(new);
            }
        }

        fn set_available(&mut self, index: usize, up: i32) {
            let Some(set) = self.sets.get(index % self.sets.len().max(1)) else { return };
            let name = set.metadata.name.clone().expect("a name");
            self.update(&name, |set| {
                let size = set.status.as_ref().map_or(0, |status| status.replicas);
                let status = set.status.get_or_insert_default();
                status.available_replicas = Some(up.clamp(0, size));
                status.ready_replicas = status.available_replicas;
            });
        }

        fn all_available(&mut self) {
            for index in 0..self.sets.len() {
                self.set_available(index, i32::MAX);
            }
        }

        /// Runs with pods that all become available until nothing changes.
        fn settle(&mut self) -> bool {
            for _ in 0..300 {
                let before = self.sets.clone();
                let changed = self.round();
                self.obey();
                self.all_available();
                if !changed && self.sets == before {
                    return true;
                }
            }
            false
        }

        fn size(&self) -> i32 {
            self.sets.iter().map(|set| sets::replicas(set)).sum()
        }

        fn available(&self) -> i32 {
            self.sets.iter().map(|set| sets::available(set).min(sets::replicas(set))).sum()
        }

        fn image(&mut self, image: &str) {
            self.deployment.spec.get_or_insert_default().template = samples::template("web", image);
            let generation = self.deployment.metadata.generation.get_or_insert_default();
            *generation += 1;
        }

        fn active(&self) -> Vec<(i64, i32)> {
            let active = self.sets.iter().filter(|set| sets::replicas(set) > 0);
            active.map(|set| (sets::revision(&set.metadata), sets::replicas(set))).collect()
        }
    }

    #[test]
    fn a_rollback_brings_the_old_set_back_under_a_new_revision() {
        let mut world = World::new(deployment(3, "1", "1"));
        for (image, revision) in [("one", 1), ("two", 2), ("one", 3)] {
            world.image(image);
            assert!(world.settle());
            assert_eq!(world.active(), [(revision, 3)]);
            assert_eq!(sets::revision(&world.deployment.metadata), revision);
        }
        assert_eq!(world.sets.len(), 2);
        let condition = status::progressing(&world.deployment).expect("a condition");
        assert_eq!(condition.reason.as_deref(), Some("NewReplicaSetAvailable"));
    }

    #[test]
    fn a_paused_deployment_scales_but_does_not_roll() {
        let mut world = World::new(deployment(3, "1", "1"));
        world.settle();
        world.deployment.spec.get_or_insert_default().paused = Some(true);
        world.image("two");
        world.deployment.spec.get_or_insert_default().replicas = Some(5);
        assert!(world.settle());
        assert_eq!(world.active(), [(1, 5)]);
        world.deployment.spec.get_or_insert_default().paused = None;
        assert!(world.settle());
        assert_eq!(world.active(), [(2, 5)]);
    }

    #[test]
    fn recreate_stops_the_old_before_it_starts_the_new() {
        let mut world = World::new(deployment(3, "1", "1"));
        world.deployment.spec.get_or_insert_default().strategy =
            Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
        assert!(world.settle());
        world.image("two");
        world.round();
        assert_eq!(world.active(), [], "the old set goes down");
        let plan = plan(&world.deployment, &world.sets, true, Timestamp::UNIX_EPOCH);
        assert!(plan.steps.is_empty(), "old pods still run: {:?}", plan.steps);
        assert!(world.settle());
        assert_eq!(world.active(), [(2, 3)]);
    }

    #[test]
    fn old_sets_beyond_the_limit_are_deleted_when_the_rollout_is_done() {
        let mut world = World::new(deployment(2, "1", "1"));
        world.deployment.spec.get_or_insert_default().revision_history_limit = Some(1);
        for image in ["one", "two", "three", "four"] {
            world.image(image);
            assert!(world.settle());
        }
        let mut revisions: Vec<_> = world.sets.iter().map(|set| sets::revision(&set.metadata)).collect();
        revisions.sort_unstable();
        assert_eq!(revisions, [3, 4]);
    }

    /// What the world does between two rounds.
    #[derive(Debug, Clone)]
    enum Turn {
        Round,
        Available(usize, i32),
        Image(u8),
        Scale(i32),
    }

    fn turn() -> impl Strategy<Value = Turn> {
        prop_oneof![
            8 => Just(Turn::Round),
            6 => (0usize..4, 0i32..12).prop_map(|(set, up)| Turn::Available(set, up)),
            1 => (0u8..4).prop_map(Turn::Image),
            1 => (0i32..12).prop_map(Turn::Scale),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rollouts_keep_their_promises_and_end(
            replicas in 0i32..12, surge in 0i32..6, unavailable in 0i32..6, percent in any::<bool>(),
            turns in prop::collection::vec(turn(), 0..60),
        ) {
            let text = |number: i32| if percent { format!("{}%", number * 20) } else { number.to_string() };
            let mut world = World::new(deployment(replicas, &text(surge), &text(unavailable)));
            for turn in turns {
                let limits = Limits::of(&world.deployment);
                match turn {
                    Turn::Round => {
                        let (size, up) = (world.size(), world.available());
                        // A user who asks for fewer pods gets fewer, wherever they are.
                        let scaled = is_scaling(&world.sets, limits);
                        world.round();
                        prop_assert!(world.size() <= size.max(limits.ceiling()), "grew past the surge: {:?}", world.active());
                        prop_assert!(
                            scaled || size > limits.ceiling() || world.available() >= up.min(limits.min_available()),
                            "took away available pods: {} -> {} of {}", up, world.available(), limits.min_available()
                        );
                        world.obey();
                    }
                    Turn::Available(set, up) => world.set_available(set, up),
                    Turn::Image(image) => world.image(&format!("image-{image}")),
                    Turn::Scale(replicas) => {
                        world.deployment.spec.get_or_insert_default().replicas = Some(replicas);
                        *world.deployment.metadata.generation.get_or_insert_default() += 1;
                    }
                }
            }
            prop_assert!(world.settle(), "does not come to rest");
            let limits = Limits::of(&world.deployment);
            let new = sets::find_new(&world.deployment, &world.sets).expect("a set for the template");
            prop_assert_eq!(sets::replicas(&new), limits.desired);
            prop_assert_eq!(world.size(), limits.desired);
            let status = world.deployment.status.clone().unwrap_or_default();
            prop_assert!(status::complete(&world.deployment, &status, limits));
        }
    }
}
