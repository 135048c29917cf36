//! Defaults of Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs and CronJobs.

use serde_json::{Value, json};

use super::pods;
use crate::object::{self, at, map_at, set_default};

fn template(object: &mut Value) {
    pods::spec(map_at(object, &["spec", "template", "spec"]));
}

fn rolling(object: &mut Value, path: &[&str], defaults: Value) {
    let strategy = map_at(object, path);
    set_default(strategy, "type", "RollingUpdate");
    if strategy.get("type").is_some_and(|kind| kind == "RollingUpdate") {
        let rolling = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
        if let Value::Object(defaults) = defaults {
            for (key, value) in defaults {
                set_default(object::as_map(rolling), &key, value);
            }
        }
    }
}

pub(crate) fn deployment(object: &mut Value) {
    let spec = map_at(object, &["spec"]);
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    rolling(object, &["spec", "strategy"], json!({"maxUnavailable": "25%", "maxSurge": "25%"}));
    template(object);
}

pub(crate) fn replica_set(object: &mut Value) {
    set_default(map_at(object, &["spec"]), "replicas", 1);
    template(object);
}

pub(crate) fn daemon_set(object: &mut Value) {
    set_default(map_at(object, &["spec"]), "revisionHistoryLimit", 10);
    rolling(object, &["spec", "updateStrategy"], json!({"maxUnavailable": 1, "maxSurge": 0}));
    template(object);
}

pub(crate) fn stateful_set(object: &mut Value) {
    let spec = map_at(object, &["spec"]);
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "podManagementPolicy", "OrderedReady");
    rolling(object, &["spec", "updateStrategy"], json!({"partition": 0}));
    template(object);
}

fn job_spec(object: &mut Value, path: &[&str]) {
    let spec = map_at(object, path);
    let indexed = spec.contains_key("completions");
    if !indexed && !spec.contains_key("parallelism") {
        spec.insert("completions".to_owned(), json!(1));
    }
    set_default(spec, "parallelism", 1);
    set_default(spec, "backoffLimit", 6);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    let mut template = path.to_vec();
    template.extend(["template", "spec"]);
    pods::spec(map_at(object, &template));
}

pub(crate) fn job(object: &mut Value) {
    job_spec(object, &["spec"]);
}

pub(crate) fn cron_job(object: &mut Value) {
    let spec = map_at(object, &["spec"]);
    set_default(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
    job_spec(object, &["spec", "jobTemplate", "spec"]);
}

/// The labels and selector by which a Job knows its pods; generated from its uid at creation.
pub(crate) fn job_selector(job: &mut Value) {
    if at(job, &["spec", "manualSelector"]) == Some(&json!(true)) {
        return;
    }
    let (name, uid) = (object::name(job).to_owned(), object::uid(job).to_owned());
    let labels = map_at(job, &["spec", "template", "metadata", "labels"]);
    for (key, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        set_default(labels, key, value.clone());
    }
    let labels = map_at(job, &["spec", "selector", "matchLabels"]);
    labels.insert("batch.kubernetes.io/controller-uid".to_owned(), uid.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_rolls_by_default() {
        let mut object = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "b:1"}]}}}});
        deployment(&mut object);
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
        let mut object = json!({"spec": {"strategy": {"type": "Recreate"}}});
        deployment(&mut object);
        assert_eq!(object["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn a_job_knows_its_pods_by_its_uid() {
        let mut object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {}});
        job(&mut object);
        job_selector(&mut object);
        assert_eq!(object["spec"]["completions"], 1);
        assert_eq!(object["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(object["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    }
}
