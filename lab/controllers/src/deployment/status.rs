//! The status of a Deployment as `kubectl rollout status` reads it. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sets::Limits;
use crate::clock::{after_seconds, until};
use crate::replicaset;

const PROGRESSING: &str = "Progressing";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// What this round did to the new ReplicaSet, by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Unchanged,
    Created(String),
    Found(String),
}

pub(super) fn progressing(deployment: &Deployment) -> Option<&DeploymentCondition> {
    deployment.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == PROGRESSING)
}

/// The API server leaves zero out; a status that says zero would never compare equal to what it returns.
fn counted(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

fn sum(sets: &[Arc<ReplicaSet>], count: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>) -> i32 {
    sets.iter().filter_map(|set| count(set.status.as_ref()?)).sum()
}

/// The rollout is done: all pods are of the new template, and available.
pub(super) fn complete(deployment: &Deployment, status: &DeploymentStatus, limits: Limits) -> bool {
    status.updated_replicas.unwrap_or(0) == limits.desired
        && status.replicas.unwrap_or(0) == limits.desired
        && status.available_replicas.unwrap_or(0) == limits.desired
        && status.observed_generation >= deployment.metadata.generation
}

/// The status, and when the progress deadline would change it.
pub(super) fn status(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    sets: &[Arc<ReplicaSet>],
    limits: Limits,
    progress: &Progress,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let old = deployment.status.clone().unwrap_or_default();
    let available = sum(sets, |status| status.available_replicas);
    let size: i32 = sum(sets, |status| Some(status.replicas));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation.max(old.observed_generation),
        replicas: counted(size),
        updated_replicas: counted(new.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas)),
        ready_replicas: counted(sum(sets, |status| status.ready_replicas)),
        available_replicas: counted(available),
        unavailable_replicas: counted((limits.desired.max(size) - available).max(0)),
        terminating_replicas: Some(sum(sets, |status| status.terminating_replicas)),
        collision_count: old.collision_count,
        conditions: None,
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    set(&mut conditions, availability(available >= limits.min_available()), now);
    copy_failure(&mut conditions, sets, now);
    let next = set_progress(&mut conditions, deployment, new, &old, &status, limits, progress, now);
    status.conditions = Some(conditions);
    (status, next)
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        ..DeploymentCondition::default()
    }
}

fn availability(enough: bool) -> DeploymentCondition {
    if enough {
        condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into())
    } else {
        let message = "Deployment does not have minimum availability.".into();
        condition("Available", "False", "MinimumReplicasUnavailable", message)
    }
}

/// Puts a condition in its place. The same status for the same reason stays as it is; the transition time changes only
/// with the status.
fn set(conditions: &mut Vec<DeploymentCondition>, new: DeploymentCondition, now: Timestamp) {
    let current = conditions.iter().position(|condition| condition.type_ == new.type_);
    if current.is_some_and(|at| conditions[at].status == new.status && conditions[at].reason == new.reason) {
        return;
    }
    let kept = current.map(|at| &conditions[at]).filter(|old| old.status == new.status);
    let transition = kept.map_or(Some(Time(now)), |old| old.last_transition_time.clone());
    let new = DeploymentCondition { last_update_time: Some(Time(now)), last_transition_time: transition, ..new };
    match current {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

/// A set that cannot create its pods says why; the Deployment passes it on.
fn copy_failure(conditions: &mut Vec<DeploymentCondition>, sets: &[Arc<ReplicaSet>], now: Timestamp) {
    match sets.iter().find_map(|set| replicaset::failing(set)) {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(failure) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let copied = condition("ReplicaFailure", "True", &text(&failure.reason), text(&failure.message));
            set(conditions, copied, now);
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the facts of one decision; a struct for one caller would only rename them"
)]
fn set_progress(
    conditions: &mut Vec<DeploymentCondition>,
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    limits: Limits,
    progress: &Progress,
    now: Timestamp,
) -> Option<Duration> {
    let spec = deployment.spec.as_ref()?;
    let deadline = spec.progress_deadline_seconds.unwrap_or(600);
    if deadline == i32::MAX {
        conditions.retain(|condition| condition.type_ != PROGRESSING);
        return None;
    }
    let current = conditions.iter().find(|condition| condition.type_ == PROGRESSING).cloned();
    let reason = current.as_ref().and_then(|condition| condition.reason.as_deref()).unwrap_or_default();
    if spec.paused == Some(true) {
        if reason != TIMED_OUT {
            set(conditions, condition(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".into()), now);
        }
        return None;
    }
    if reason == "DeploymentPaused" {
        let message = "Deployment is resumed".into();
        set(conditions, condition(PROGRESSING, "Unknown", "DeploymentResumed", message), now);
        return Some(Duration::from_secs(u64::try_from(deadline).unwrap_or(0)));
    }
    match progress {
        Progress::Created(name) => {
            let message = format!("Created new replica set \"{name}\"");
            set(conditions, condition(PROGRESSING, "True", "NewReplicaSetCreated", message), now);
        }
        Progress::Found(name) => {
            let message = format!("Found new replica set \"{name}\"");
            set(conditions, condition(PROGRESSING, "True", "FoundNewReplicaSet", message), now);
        }
        Progress::Unchanged => {}
    }
    let settled = status.replicas == status.updated_replicas && reason == NEW_AVAILABLE;
    let what = new.map_or_else(
        || format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
        |set| format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default()),
    );
    if !settled || deployment.metadata.generation > old.observed_generation {
        if complete(deployment, status, limits) {
            let message = format!("{what} has successfully progressed.");
            set(conditions, condition(PROGRESSING, "True", NEW_AVAILABLE, message), now);
            return None;
        }
        if moved(old, status) {
            let message = format!("{what} is progressing.");
            touch(conditions, condition(PROGRESSING, "True", "ReplicaSetUpdated", message), now);
        } else if let Some(since) = current.filter(|_| *progress == Progress::Unchanged && !settled)
            && reason_of(conditions) != TIMED_OUT
        {
            let since = since.last_update_time.map_or(now, |time| time.0);
            if after_seconds(since, i64::from(deadline)) <= now {
                let message = format!("{what} has timed out progressing.");
                set(conditions, condition(PROGRESSING, "False", TIMED_OUT, message), now);
            }
        }
    }
    deadline_after(conditions, deadline, now)
}

fn reason_of(conditions: &[DeploymentCondition]) -> &str {
    let current = conditions.iter().find(|condition| condition.type_ == PROGRESSING);
    current.and_then(|condition| condition.reason.as_deref()).unwrap_or_default()
}

fn deadline_after(conditions: &[DeploymentCondition], deadline: i32, now: Timestamp) -> Option<Duration> {
    let current = conditions.iter().find(|condition| condition.type_ == PROGRESSING)?;
    if matches!(current.reason.as_deref(), Some(NEW_AVAILABLE | TIMED_OUT)) {
        return None;
    }
    let since = current.last_update_time.as_ref().map_or(now, |time| time.0);
    // A little later than the deadline, so that the look at it finds it passed.
    Some(until(after_seconds(since, i64::from(deadline)), now) + Duration::from_millis(500))
}

/// As [`set`], but the same status and reason are dated anew: this is what pushes the deadline away.
fn touch(conditions: &mut Vec<DeploymentCondition>, new: DeploymentCondition, now: Timestamp) {
    let current = conditions.iter().find(|condition| condition.type_ == new.type_ && condition.status == new.status);
    let transition = current.map_or(Some(Time(now)), |old| old.last_transition_time.clone());
    let new = DeploymentCondition { last_update_time: Some(Time(now)), last_transition_time: transition, ..new };
    conditions.retain(|condition| condition.type_ != new.type_);
    conditions.push(new);
}

/// Whether anything got better since the last status.
fn moved(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let left_over = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || left_over(new) < left_over(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::plan::tests::{deployment, set as replica_set};

    fn at(seconds: i64) -> Timestamp {
        after_seconds(Timestamp::UNIX_EPOCH, seconds)
    }

    fn round(
        deployment: &mut Deployment,
        new: (i32, i32),
        progress: &Progress,
        now: Timestamp,
    ) -> (String, String, Option<Duration>) {
        let new = replica_set("new", new.0, new.1, 4);
        let limits = Limits::of(deployment);
        let (status, next) = status(deployment, Some(&new), std::slice::from_ref(&new), limits, progress, now);
        deployment.status = Some(status);
        let condition = progressing(deployment).expect("a Progressing condition");
        (condition.status.clone(), condition.reason.clone().unwrap_or_default(), next)
    }

    #[test]
    fn a_rollout_progresses_completes_and_stays_complete() {
        let mut deployment = deployment(3, "1", "1");
        let (status, reason, _) = round(&mut deployment, (0, 0), &Progress::Created("new".into()), at(0));
        assert_eq!((status.as_str(), reason.as_str()), ("True", "NewReplicaSetCreated"));
        let (_, reason, next) = round(&mut deployment, (3, 1), &Progress::Unchanged, at(10));
        assert_eq!(reason, "ReplicaSetUpdated");
        assert_eq!(next, Some(Duration::from_millis(600_500)));
        let (status, reason, next) = round(&mut deployment, (3, 3), &Progress::Unchanged, at(20));
        assert_eq!((status.as_str(), reason.as_str(), next), ("True", NEW_AVAILABLE, None));
        // A pod that fails later is not a rollout that stalls.
        let (status, reason, _) = round(&mut deployment, (3, 2), &Progress::Unchanged, at(9_000));
        assert_eq!((status.as_str(), reason.as_str()), ("True", NEW_AVAILABLE));
    }

    #[test]
    fn the_deadline_passes_only_without_progress() {
        let mut deployment = deployment(3, "1", "1");
        round(&mut deployment, (3, 0), &Progress::Created("new".into()), at(0));
        let (_, reason, _) = round(&mut deployment, (3, 1), &Progress::Unchanged, at(599));
        assert_eq!(reason, "ReplicaSetUpdated");
        let (status, _, _) = round(&mut deployment, (3, 1), &Progress::Unchanged, at(1_198));
        assert_eq!(status, "True");
        let (status, reason, next) = round(&mut deployment, (3, 1), &Progress::Unchanged, at(1_199));
        assert_eq!((status.as_str(), reason.as_str(), next), ("False", TIMED_OUT, None));
        let (status, reason, _) = round(&mut deployment, (3, 3), &Progress::Unchanged, at(1_300));
        assert_eq!((status.as_str(), reason.as_str()), ("True", NEW_AVAILABLE), "late is better than never");
    }

    #[test]
    fn a_pause_stops_the_deadline() {
        let mut deployment = deployment(3, "1", "1");
        round(&mut deployment, (3, 0), &Progress::Created("new".into()), at(0));
        deployment.spec.get_or_insert_default().paused = Some(true);
        let (status, reason, next) = round(&mut deployment, (3, 0), &Progress::Unchanged, at(10_000));
        assert_eq!((status.as_str(), reason.as_str(), next), ("Unknown", "DeploymentPaused", None));
        deployment.spec.get_or_insert_default().paused = None;
        let (_, reason, _) = round(&mut deployment, (3, 0), &Progress::Unchanged, at(20_000));
        assert_eq!(reason, "DeploymentResumed");
        let (_, reason, _) = round(&mut deployment, (3, 0), &Progress::Unchanged, at(20_010));
        assert_eq!(reason, "DeploymentResumed", "the clock starts with the resumption");
    }

    #[test]
    fn minimum_availability_is_a_condition() {
        let mut deployment = deployment(4, "1", "1");
        for (available, expected) in [(2, "False"), (3, "True")] {
            round(&mut deployment, (4, available), &Progress::Unchanged, at(0));
            let conditions = deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap();
            let found = conditions.iter().find(|condition| condition.type_ == "Available").unwrap();
            assert_eq!(found.status, expected);
        }
    }
}
