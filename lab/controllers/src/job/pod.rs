//! The pod of a Job: how it is made, and what its labels say. Pure.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::Resource;

use super::plan::NewPod;
use crate::identity::{annotation, controller_of, controller_reference, label, uid};
use crate::template;

/// On every pod of a Job until its end is recorded.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// Label with the name of the Job that made the pod.
pub(crate) const JOB_NAME: &str = "batch.kubernetes.io/job-name";

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER)
}

/// Whether the pod was made by a Job of this name other than the one with this UID.
pub(super) fn is_orphan_of(pod: &Pod, name: &str, uid: Option<&str>) -> bool {
    match controller_of(&pod.metadata) {
        Some(owner) => owner.kind == "Job" && owner.name == name && Some(owner.uid.as_str()) != uid,
        // Orphaned on purpose; if a Job of that name exists, adopting it is that Job's business.
        None => uid.is_none() && label(&pod.metadata, JOB_NAME) == Some(name),
    }
}

/// The completion index the pod works on.
pub(super) fn index(pod: &Pod) -> Option<u32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

pub(super) fn of(job: &Job, new: NewPod) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let owner = controller_reference(&Job::api_version(&()), &Job::kind(&()), &job.metadata);
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = owner.name.clone();
    let mut pod = template::pod(&template, namespace, owner);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let labels = pod.metadata.labels.get_or_insert_default();
    // The real API server puts these into the template; one that does not would leave the pods without them.
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", uid(&job.metadata)),
        ("controller-uid", uid(&job.metadata)),
        (JOB_NAME, &name),
        ("job-name", &name),
    ] {
        labels.entry(key.into()).or_insert_with(|| value.to_owned());
    }
    if let NewPod::Indexed(index) = new {
        labels.insert(INDEX.into(), index.to_string());
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
        pod.metadata.generate_name = Some(format!("{name}-{index}-"));
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{name}-{index}"));
        spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(tell_index);
    }
    pod
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    env.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::job;
    use super::*;

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let pod = of(&job(3, 3), NewPod::Indexed(2));
        assert_eq!(index(&pod), Some(2));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("work-2-"));
        assert!(is_tracked(&pod));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("work-2"));
        let env = spec.containers[0].env.as_ref().unwrap();
        let path = env[0].value_from.as_ref().unwrap().field_ref.as_ref().unwrap().field_path.clone();
        assert_eq!(path, "metadata.labels['batch.kubernetes.io/job-completion-index']");
    }

    #[test]
    fn a_plain_pod_is_tracked_and_labelled() {
        let pod = of(&job(1, 1), NewPod::Plain);
        assert_eq!((index(&pod), is_tracked(&pod)), (None, true));
        assert_eq!(pod.metadata.labels.unwrap()["job-name"], "work");
    }
}
