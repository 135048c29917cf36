//! Revisions and the sets that are kept for going back to them. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::sets;

/// Kept when the Deployment does not say how many.
const DEFAULT_LIMIT: i32 = 10;

/// One more than the newest of the old.
pub(super) fn next_revision(old: &[Arc<ReplicaSet>]) -> i64 {
    old.iter().map(|set| sets::revision(&set.metadata)).max().unwrap_or(0).saturating_add(1)
}

/// Old sets beyond the history limit that have nothing left to do, the oldest revision first.
pub(super) fn surplus(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<ReplicaSet> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(DEFAULT_LIMIT);
    let mut kept: Vec<_> = old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    kept.sort_by_key(|set| sets::revision(&set.metadata));
    let surplus = kept.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    kept.into_iter().take(surplus).filter(|set| is_idle(set)).map(|set| ReplicaSet::clone(set)).collect()
}

fn is_idle(set: &ReplicaSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.replicas == 0 && sets::replicas(set) == 0 && set.metadata.generation <= status.observed_generation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::plan::tests::{deployment, set};

    fn old(revisions: &[(i64, i32)]) -> Vec<Arc<ReplicaSet>> {
        let made = revisions.iter().map(|(revision, size)| {
            let mut set = ReplicaSet::clone(&set(&format!("r{revision}"), *size, *size, 4));
            set.metadata.annotations.get_or_insert_default().insert(sets::REVISION.into(), revision.to_string());
            Arc::new(set)
        });
        made.collect()
    }

    #[test]
    fn the_oldest_idle_sets_beyond_the_limit_go() {
        let mut deployment = deployment(3, "1", "1");
        deployment.spec.get_or_insert_default().revision_history_limit = Some(1);
        let names = |sets: Vec<ReplicaSet>| sets.into_iter().filter_map(|set| set.metadata.name).collect::<Vec<_>>();
        assert_eq!(names(surplus(&deployment, &old(&[(2, 0), (1, 0), (10, 0)]))), ["r1", "r2"]);
        assert_eq!(names(surplus(&deployment, &old(&[(1, 2), (2, 0), (3, 0)]))), ["r2"], "one that runs stays");
        assert_eq!(next_revision(&old(&[(9, 0), (10, 0)])), 11, "compared as numbers");
    }
}
