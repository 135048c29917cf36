use serde_json::{Value, json};

use super::*;
use crate::pods::status::{patch, reported};
use crate::provider::{ActsOn, PodPhase, PodReport, Resized};
use k8s_openapi::api::core::v1::Pod;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn resources(cpu: &str, memory: &str) -> ResourceRequirements {
    let amounts = json!({"cpu": cpu, "memory": memory});
    serde_json::from_value(json!({"limits": amounts, "requests": amounts})).unwrap()
}

/// A pod of generation 2 that asks for this, and shows what was written for it before.
fn pod(asks: &ResourceRequirements, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7", "generation": 2},
        "spec": {"nodeName": "gw-1", "containers": [{"name": "c", "image": "i", "resources": asks}]},
        "status": status,
    }))
    .unwrap()
}

fn report(resize: Resizing, acts_on: ActsOn) -> PodReport {
    let container = json!({"name": "c", "image": "i", "imageID": "i", "containerID": "c://1", "ready": true,
        "restartCount": 0, "state": {"running": {"startedAt": at(1).to_string()}}});
    PodReport {
        phase: PodPhase::Running,
        sandbox_ready: true,
        containers: vec![serde_json::from_value(container).unwrap()],
        resize,
        acts_on,
        ..PodReport::default()
    }
}

fn told(allocated: &ResourceRequirements, actual: &ResourceRequirements) -> Resized {
    let given = GivenResources { allocated: allocated.clone(), actual: actual.clone() };
    Resized { given: BTreeMap::from([("c".to_owned(), given)]), ..Resized::default() }
}

fn shown(pod: &Pod, report: &PodReport, second: i64) -> Value {
    serde_json::to_value(reported(pod, report, Some(2), at(second))).unwrap()
}

fn resize_conditions(status: &Value) -> Vec<String> {
    let all = status["conditions"].as_array().unwrap().iter();
    let ours = all.filter(|condition| condition["type"].as_str().unwrap().starts_with("PodResize"));
    ours.map(|one| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let generation = &one["observedGeneration"];
        format!("{}={}/{}/{}@{generation}", text("type"), text("status"), text("reason"), text("message"))
    })
    .collect()
}

#[test]
fn what_was_given_is_shown_and_not_what_is_asked_for() {
    let (small, large) = (resources("100m", "64Mi"), resources("200m", "128Mi"));
    let pod = pod(&large, json!({}));
    let mut deferred = told(&small, &small);
    deferred.pending =
        Some(ResizeCondition { reason: "Deferred".into(), message: "no room".into(), generation: Some(2) });
    let status = shown(&pod, &report(Resizing::Told(Box::new(deferred)), ActsOn::Generation(2)), 5);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["resources"], json!(small));
    assert_eq!(container["allocatedResources"], json!(small.requests));
    assert_eq!((&status["allocatedResources"], &status["resources"]), (&json!(small.requests), &json!(small)));
    assert_eq!(status["observedGeneration"], json!(2));
    assert_eq!(resize_conditions(&status), ["PodResizePending=True/Deferred/no room@2"]);

    let mut applying = told(&large, &small);
    applying.in_progress = Some(ResizeCondition { generation: Some(2), ..ResizeCondition::default() });
    let status = shown(&pod, &report(Resizing::Told(Box::new(applying)), ActsOn::Generation(2)), 5);
    let container = &status["containerStatuses"][0];
    assert_eq!((&container["resources"], &container["allocatedResources"]), (&json!(small), &json!(large.requests)));
    assert_eq!(status["allocatedResources"], json!(large.requests));
    assert_eq!(resize_conditions(&status), ["PodResizeInProgress=True//@2"]);

    let pod: Pod =
        serde_json::from_value(json!({"metadata": pod.metadata, "spec": pod.spec, "status": status})).unwrap();
    let done = report(Resizing::Told(Box::new(told(&large, &large))), ActsOn::Generation(2));
    let status = shown(&pod, &done, 9);
    assert_eq!(status["containerStatuses"][0]["resources"], json!(large));
    assert_eq!(resize_conditions(&status), [""; 0]);
}

#[test]
fn a_generation_is_observed_once_the_provider_acts_on_it() {
    let asks = resources("1", "64Mi");
    for (acts_on, before, expected) in [
        (ActsOn::Applied, json!(null), json!(2)),
        (ActsOn::Generation(1), json!(1), json!(1)),
        (ActsOn::Generation(2), json!(1), json!(2)),
        (ActsOn::Older, json!(1), json!(1)),
    ] {
        let pod = pod(&asks, json!({"observedGeneration": before}));
        let report = report(Resizing::AsSpecified, acts_on);
        assert_eq!(shown(&pod, &report, 5)["observedGeneration"], expected, "{acts_on:?}");
        let mut deleted = pod;
        deleted.metadata.deletion_timestamp = Some(Time(at(4)));
        assert_eq!(shown(&deleted, &report, 5)["observedGeneration"], json!(2), "{acts_on:?}");
    }
}

#[test]
fn who_cannot_resize_shows_what_was_given_before_and_says_so() {
    let (small, large) = (resources("100m", "64Mi"), resources("200m", "128Mi"));
    let old = report(Resizing::Impossible("too old".to_owned()), ActsOn::Generation(1));
    let status = shown(&pod(&small, json!({})), &old, 1);
    assert_eq!((&status["containerStatuses"][0]["resources"], resize_conditions(&status).len()), (&json!(small), 0));
    let later = report(Resizing::Impossible("too old".to_owned()), ActsOn::Generation(2));
    let resized = shown(&pod(&large, status.clone()), &later, 2);
    assert_eq!(resized["containerStatuses"][0]["resources"], json!(small));
    assert_eq!(resize_conditions(&resized), ["PodResizePending=True/Infeasible/too old@2"]);
    // Another container was started with what is asked for.
    let mut restarted = later;
    restarted.containers[0].container_id = Some("c://2".to_owned());
    let status = shown(&pod(&large, resized), &restarted, 3);
    assert_eq!((&status["containerStatuses"][0]["resources"], resize_conditions(&status).len()), (&json!(large), 0));
}

#[test]
fn equal_amounts_are_written_as_they_are_wanted_and_what_cannot_be_changed_stays() {
    let wanted: ResourceRequirements = serde_json::from_value(json!({
        "limits": {"cpu": "0.5", "memory": "65536Ki", "ephemeral-storage": "1Gi"}, "requests": {"memory": "64Mi"},
    }))
    .unwrap();
    let mut given = resources("500m", "64Mi");
    assert_eq!(in_the_words_of(&wanted, &given), wanted);
    given.limits.as_mut().unwrap().insert("cpu".to_owned(), Quantity("250m".to_owned()));
    let told = json!(in_the_words_of(&wanted, &given));
    assert_eq!(told["limits"], json!({"cpu": "250m", "memory": "65536Ki", "ephemeral-storage": "1Gi"}));
    assert_eq!(told["requests"], json!({"cpu": "500m", "memory": "64Mi"}));
    assert_eq!(in_the_words_of(&ResourceRequirements::default(), &ResourceRequirements::default()), Default::default());
}

#[test]
fn the_same_again_is_not_written_again() {
    let (small, large) = (resources("100m", "64Mi"), resources("200m", "128Mi"));
    let mut deferred = told(&small, &small);
    deferred.pending = Some(ResizeCondition { reason: "Deferred".into(), message: "m".into(), generation: Some(2) });
    let deferred = report(Resizing::Told(Box::new(deferred)), ActsOn::Generation(2));
    let written = pod(&large, shown(&pod(&large, json!({})), &deferred, 5));
    assert_eq!(patch(&written, &reported(&written, &deferred, Some(2), at(50))), None);
}

#[test]
fn what_is_being_applied_to_a_pod_as_a_whole_does_not_hold_yet() {
    let (small, large) = (resources("100m", "64Mi"), resources("200m", "128Mi"));
    let pod = pod(&large, json!({"resources": small}));
    for (in_progress, holds) in [(true, &small), (false, &large)] {
        let mut told = told(&large, &large);
        told.in_progress = in_progress.then(ResizeCondition::default);
        let status = shown(&pod, &report(Resizing::Told(Box::new(told)), ActsOn::Generation(2)), 5);
        assert_eq!((&status["resources"], &status["allocatedResources"]), (&json!(holds), &json!(large.requests)));
    }
}

#[test]
fn an_amount_that_a_device_rounds_up_is_written_as_it_is_wanted() {
    for (wanted, given, written) in [
        (resources("100m", "10m"), resources("100m", "1"), resources("100m", "10m")),
        (resources("100u", "64Mi"), resources("1m", "64Mi"), resources("100u", "64Mi")),
        (resources("0.1", "1.5"), resources("100m", "3"), resources("0.1", "3")),
    ] {
        assert_eq!(in_the_words_of(&wanted, &given), written);
    }
}
