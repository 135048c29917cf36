//! ControllerRevisions: the templates a DaemonSet had, so that `kubectl rollout undo` can bring one back. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use serde_json::{Value, json};

use crate::identity::{controller_reference, label};
use crate::template;

/// Label of pods and revisions: which version of the template they are of.
pub(super) const REVISION_HASH: &str = "controller-revision-hash";

/// Kept when the set does not say how many.
const DEFAULT_LIMIT: i32 = 10;

/// How the present template stands in the history.
#[derive(Debug, PartialEq)]
pub(super) enum Revision {
    /// It is the newest.
    Current(String),
    /// It was there before (a rollback): it becomes the newest again.
    Renumber { name: String, revision: i64, hash: String },
    /// It is new.
    New { revision: Box<ControllerRevision>, hash: String },
}

pub(super) fn is_updated(pod: &Pod, hash: &str) -> bool {
    label(&pod.metadata, REVISION_HASH) == Some(hash)
}

/// What a revision keeps: a patch that puts the template back.
fn data(set: &DaemonSet) -> Value {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    // Serialising a plain data type with string keys cannot fail.
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".into(), json!("replace"));
    }
    json!({ "spec": { "template": template } })
}

pub(super) fn current(set: &DaemonSet, history: &[Arc<ControllerRevision>]) -> Revision {
    let data = data(set);
    let newest = history.iter().map(|one| one.revision).max().unwrap_or(0);
    let same = history.iter().filter(|one| one.data.as_ref().is_some_and(|kept| kept.0 == data));
    if let Some(found) = same.max_by_key(|one| one.revision) {
        let hash = label(&found.metadata, REVISION_HASH).unwrap_or_default().to_owned();
        if found.revision == newest {
            return Revision::Current(hash);
        }
        let name = found.metadata.name.clone().unwrap_or_default();
        return Revision::Renumber { name, revision: newest.saturating_add(1), hash };
    }
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template::hash(&template, collisions);
    let owner = controller_reference(&DaemonSet::api_version(&()), &DaemonSet::kind(&()), &set.metadata);
    let mut labels = template::labels(&template).cloned().unwrap_or_default();
    labels.insert(REVISION_HASH.into(), hash.clone());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: newest.saturating_add(1),
    };
    Revision::New { revision: Box::new(revision), hash }
}

/// Revisions beyond the history limit that no pod is of, the oldest first.
pub(super) fn surplus(
    set: &DaemonSet,
    hash: &str,
    history: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(DEFAULT_LIMIT);
    let in_use = |one: &ControllerRevision| {
        let own = label(&one.metadata, REVISION_HASH).unwrap_or_default();
        own == hash || pods.iter().any(|pod| is_updated(pod, own))
    };
    let mut idle: Vec<_> = history.iter().filter(|one| !in_use(one)).cloned().collect();
    idle.sort_by_key(|one| one.revision);
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.truncate(surplus);
    idle
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{pod_on, set};
    use super::*;
    use crate::samples;

    fn stored(set: &DaemonSet, history: &[Arc<ControllerRevision>]) -> (Arc<ControllerRevision>, String) {
        match current(set, history) {
            Revision::New { revision, hash } => (Arc::new(*revision), hash),
            other => panic!("expected a new revision, got {other:?}"),
        }
    }

    fn with_image(image: &str) -> DaemonSet {
        let mut set = set(1, 0);
        set.spec.get_or_insert_default().template = samples::template("app", image);
        set
    }

    #[test]
    fn a_template_is_stored_once_and_a_rollback_renumbers_it() {
        let (first, hash) = stored(&with_image("one"), &[]);
        assert_eq!((first.revision, first.metadata.name.clone()), (1, Some(format!("agent-{hash}"))));
        assert_eq!(current(&with_image("one"), std::slice::from_ref(&first)), Revision::Current(hash.clone()));
        let (second, _) = stored(&with_image("two"), std::slice::from_ref(&first));
        assert_eq!(second.revision, 2);
        let back = current(&with_image("one"), &[first.clone(), second]);
        assert_eq!(back, Revision::Renumber { name: first.metadata.name.clone().unwrap(), revision: 3, hash });
    }

    #[test]
    fn the_data_is_a_patch_that_replaces_the_template() {
        let (first, _) = stored(&with_image("one"), &[]);
        let data = &first.data.as_ref().unwrap().0;
        assert_eq!(data["spec"]["template"]["$patch"], "replace");
        assert_eq!(data["spec"]["template"]["spec"]["containers"][0]["image"], "one");
    }

    #[test]
    fn old_revisions_go_unless_a_pod_is_of_them() {
        let mut history = Vec::new();
        for image in ["one", "two", "three", "four"] {
            let (next, _) = stored(&with_image(image), &history);
            history.push(next);
        }
        let hash = |at: usize| label(&history[at].metadata, REVISION_HASH).unwrap().to_owned();
        let mut set = with_image("four");
        set.spec.get_or_insert_default().revision_history_limit = Some(1);
        let revisions = |pods: &[Arc<Pod>]| -> Vec<i64> {
            surplus(&set, &hash(3), &history, pods).iter().map(|one| one.revision).collect()
        };
        assert_eq!(revisions(&[]), [1, 2]);
        assert_eq!(revisions(&[pod_on("a", &hash(0), true)]), [2]);
    }
}
