//! What a pod's status becomes: the report of a provider, the pod, and what the API already shows, made into the status
//! that a kubelet would write. Pure.
//!
//! What others have written stays: conditions of other types, and every field that a provider does not report. Where the
//! API already holds a time within [`CLOCK_TOLERANCE`] of the reported one, it is kept: the offset of a device's clock is
//! measured anew all the time, and that must not cause writes.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateWaiting, ContainerStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::conditions;
use super::qos;
use super::{resize, resources};
use crate::merge;
use crate::provider::{ActsOn, ContainerWaiting, PodPhase, PodReport, Resizing};

/// How far two readings of the same moment may differ.
pub(crate) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// The status that follows from a report.
///
/// `observed` is the generation that the provider has accepted, if it is known to have accepted the pod as it is now.
pub(crate) fn reported(pod: &Pod, report: &PodReport, observed: Option<i64>, now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = lasting_phase(&old, report.phase);
    let ended_before = old.phase.as_deref() == Some(phase) && is_terminal(phase);
    let kept = phase != report.phase.as_str();

    let mut status = old.clone();
    status.phase = Some(phase.to_owned());
    if !kept {
        status.reason = report.reason.clone();
        status.message = report.message.clone();
    }
    status.start_time = old.start_time.clone().or(report.start_time.map(Time));
    if !report.host_ips.is_empty() {
        status.host_ip = report.host_ips.first().map(|host| host.ip.clone());
        status.host_ips = Some(report.host_ips.clone());
    }
    // A pod that has ended keeps showing the address it had.
    if !report.pod_ips.is_empty() || !(is_terminal(phase) || ended_before) {
        status.pod_ip = report.pod_ips.first().map(|pod| pod.ip.clone());
        status.pod_ips = (!report.pod_ips.is_empty()).then(|| report.pod_ips.clone());
    }
    let init = containers(old.init_container_statuses.as_deref(), &report.init_containers);
    let main = containers(old.container_statuses.as_deref(), &report.containers);
    let ephemeral = containers(old.ephemeral_container_statuses.as_deref(), &report.ephemeral_containers);
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = (!main.is_empty()).then_some(main);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    resources::tell(&spec, &old, &report.resize, &mut status);
    let observed = match report.acts_on {
        // That it is to end counts as another form.
        _ if pod.metadata.deletion_timestamp.is_some() => observed,
        ActsOn::Applied => observed,
        ActsOn::Generation(generation) => Some(generation).filter(|_| pod.metadata.generation.is_some()),
        ActsOn::Older => None,
    };
    let mut status = finish(&spec, &old, status, report.sandbox_ready, observed, now);
    resize::tell(&spec, &report.resize, &mut status, now);
    status
}

/// The status of a pod that waits before it can be handed over. `None` if it has already begun to run: its containers'
/// statuses are then left to the reports.
pub(crate) fn waiting(
    pod: &Pod,
    shown: &[ContainerWaiting],
    observed: Option<i64>,
    now: Timestamp,
) -> Option<PodStatus> {
    let old = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let all = || old.init_container_statuses.iter().chain(&old.container_statuses).flatten();
    if old.phase.as_deref().is_some_and(|phase| phase != "Pending") || all().any(has_begun) {
        return None;
    }
    let has_init = spec.init_containers.as_ref().is_some_and(|init| !init.is_empty());
    let wait = |name: &str, image: Option<&String>, otherwise: &str| {
        let shown = shown.iter().find(|waiting| waiting.container == name);
        ContainerStatus {
            name: name.to_owned(),
            image: image.cloned().unwrap_or_default(),
            state: Some(ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some(shown.map_or(otherwise, |shown| &shown.reason).to_owned()),
                    message: shown.map(|shown| shown.message.clone()).filter(|message| !message.is_empty()),
                }),
                ..ContainerState::default()
            }),
            started: Some(false),
            ..ContainerStatus::default()
        }
    };
    let otherwise = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let init: Vec<_> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| wait(&container.name, container.image.as_ref(), "PodInitializing"))
        .collect();
    let main: Vec<_> =
        spec.containers.iter().map(|container| wait(&container.name, container.image.as_ref(), otherwise)).collect();
    let added: Vec<_> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| ContainerStatus {
            started: None,
            ..wait(&container.name, container.image.as_ref(), otherwise)
        })
        .collect();
    let mut status = old.clone();
    status.phase = Some("Pending".to_owned());
    status.start_time = old.start_time.clone().or(Some(Time(now)));
    status.ephemeral_container_statuses = (!added.is_empty()).then_some(added);
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = (!main.is_empty()).then_some(main);
    resources::tell(&spec, &old, &Resizing::AsSpecified, &mut status);
    Some(finish(&spec, &old, status, false, observed, now))
}

/// The status of a pod that can never run here. `None` if it has ended already.
pub(crate) fn refused(
    pod: &Pod,
    reason: &str,
    message: &str,
    observed: Option<i64>,
    now: Timestamp,
) -> Option<PodStatus> {
    let old = pod.status.clone().unwrap_or_default();
    if old.phase.as_deref().is_some_and(is_terminal) {
        return None;
    }
    let spec = pod.spec.clone().unwrap_or_default();
    let mut status = old.clone();
    status.phase = Some("Failed".to_owned());
    status.reason = Some(reason.to_owned());
    status.message = Some(format!("Pod was rejected: {message}"));
    status.start_time = old.start_time.clone().or(Some(Time(now)));
    Some(finish(&spec, &old, status, false, observed, now))
}

/// The patch that makes the API show `new`, or `None` if it does already.
///
/// A JSON merge patch of the fields that differ, carrying the UID and the resourceVersion that it was computed from. A
/// namesake, or a pod that somebody else has changed meanwhile (a condition set by another controller would be lost with
/// the list), is answered with a conflict; then the pod is read again and the patch computed anew.
pub(crate) fn patch(pod: &Pod, new: &PodStatus) -> Option<Value> {
    let changed = merge::difference(&pod.status.clone().unwrap_or_default(), new)?;
    Some(json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": changed,
    }))
}

/// What every status has in common, whatever it came from.
fn finish(
    spec: &PodSpec,
    old: &PodStatus,
    mut status: PodStatus,
    sandbox_ready: bool,
    observed: Option<i64>,
    now: Timestamp,
) -> PodStatus {
    // As a kubelet orders them: init containers as they run, all others by name.
    for list in [&mut status.container_statuses, &mut status.ephemeral_container_statuses] {
        list.iter_mut().for_each(|list| list.sort_by(|one, other| one.name.cmp(&other.name)));
    }
    status.qos_class = old.qos_class.clone().or_else(|| Some(qos::class(spec).to_owned()));
    status.observed_generation = observed.or(old.observed_generation);
    status.conditions = Some(conditions::of_pod(spec, old, &status, sandbox_ready, now));
    status
}

fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// A terminal phase never goes back, nor over to the other one.
fn lasting_phase(old: &PodStatus, reported: PodPhase) -> &'static str {
    match old.phase.as_deref() {
        Some("Succeeded") => "Succeeded",
        Some("Failed") => "Failed",
        _ => reported.as_str(),
    }
}

fn has_begun(container: &ContainerStatus) -> bool {
    let state = container.state.as_ref();
    container.container_id.is_some()
        || container.restart_count > 0
        || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

/// Takes over the reported containers; keeps times that only the clock offset has moved, and counts that an older report
/// would turn back.
fn containers(old: Option<&[ContainerStatus]>, reported: &[ContainerStatus]) -> Vec<ContainerStatus> {
    reported
        .iter()
        .map(|reported| {
            let mut new = reported.clone();
            let Some(old) = old.into_iter().flatten().find(|old| old.name == new.name) else { return new };
            if new.container_id == old.container_id && new.container_id.is_some() {
                new.restart_count = new.restart_count.max(old.restart_count);
            }
            steady_state(old.state.as_ref(), new.state.as_mut());
            steady_state(old.last_state.as_ref(), new.last_state.as_mut());
            new
        })
        .collect()
}

fn steady_state(old: Option<&ContainerState>, new: Option<&mut ContainerState>) {
    let (Some(old), Some(new)) = (old, new) else { return };
    if let (Some(old), Some(new)) = (&old.running, &mut new.running) {
        steady(old.started_at.as_ref(), &mut new.started_at);
    }
    if let (Some(old), Some(new)) = (&old.terminated, &mut new.terminated) {
        steady(old.started_at.as_ref(), &mut new.started_at);
        steady(old.finished_at.as_ref(), &mut new.finished_at);
    }
}

fn steady(old: Option<&Time>, new: &mut Option<Time>) {
    if let (Some(old), Some(time)) = (old, &new)
        && old.0.duration_since(time.0).abs() <= CLOCK_TOLERANCE
    {
        *new = Some(old.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{HostIP, PodIP};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7", "generation": 3},
            "spec": {"nodeName": "gw-1", "containers": [{"name": "c", "image": "busybox"}]},
            "status": status,
        }))
        .unwrap()
    }

    fn container(id: &str, restarts: i32, state: Value) -> ContainerStatus {
        serde_json::from_value(json!({"name": "c", "image": "busybox", "imageID": "sha256:1", "containerID": id,
            "ready": true, "started": true, "restartCount": restarts, "state": state}))
        .unwrap()
    }

    fn running(second: i64) -> PodReport {
        PodReport {
            phase: PodPhase::Running,
            start_time: Some(at(0)),
            host_ips: vec![HostIP { ip: "10.0.0.1".into() }],
            pod_ips: vec![PodIP { ip: "10.1.0.1".into() }],
            sandbox_ready: true,
            containers: vec![container("c://1", 0, json!({"running": {"startedAt": at(second)}}))],
            ..PodReport::default()
        }
    }

    fn written(pod: &Pod, status: PodStatus) -> Pod {
        // Through JSON, as the API server would give it back: without fractions of a second.
        let mut pod: Pod = serde_json::from_value(serde_json::to_value(pod).unwrap()).unwrap();
        pod.status = Some(serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap());
        pod
    }

    #[test]
    fn a_running_pod_shows_what_a_kubelet_would_show() {
        let pod = pod(json!({"phase": "Pending", "qosClass": "BestEffort"}));
        let status = serde_json::to_value(reported(&pod, &running(1), Some(3), at(9))).unwrap();
        let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(|kind| {
            json!({"type": kind, "status": "True", "lastTransitionTime": at(9).to_string(), "observedGeneration": 3})
        });
        let mut expected = json!({
            "phase": "Running", "qosClass": "BestEffort", "observedGeneration": 3, "startTime": at(0).to_string(),
            "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}], "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}],
            "conditions": conditions,
            "containerStatuses": [container("c://1", 0, json!({"running": {"startedAt": at(1)}}))],
        });
        expected["containerStatuses"][0]["resources"] = json!({});
        assert_eq!(status, expected);
    }

    #[test]
    fn containers_are_shown_by_name_and_init_containers_as_they_run() {
        let named = |name: &str| {
            let mut container = container("c://1", 0, json!({"running": {"startedAt": at(1)}}));
            container.name = name.to_owned();
            container
        };
        let mut report = running(1);
        report.containers = vec![named("web"), named("db")];
        report.init_containers = vec![named("second"), named("first")];
        let status = reported(&pod(json!({})), &report, None, at(9));
        let names =
            |list: Option<Vec<ContainerStatus>>| list.into_iter().flatten().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(status.container_statuses), ["db", "web"]);
        assert_eq!(names(status.init_container_statuses), ["second", "first"]);
    }

    #[test]
    fn the_same_report_again_changes_nothing() {
        let pod = pod(json!({"phase": "Pending"}));
        let pod = written(&pod, reported(&pod, &running(1), Some(3), at(9)));
        assert_eq!(patch(&pod, &reported(&pod, &running(1), Some(3), at(99))), None);
    }

    #[test]
    fn times_within_the_tolerance_are_kept_and_others_are_not() {
        let pod = pod(json!({}));
        let pod = written(&pod, reported(&pod, &running(10), None, at(12)));
        for (second, differs) in [(8, false), (12, false), (13, true), (7, true)] {
            let patch = patch(&pod, &reported(&pod, &running(second), None, at(50)));
            assert_eq!(patch.is_some(), differs, "{second}");
        }
    }

    #[test]
    fn a_patch_names_the_pod_and_only_what_differs() {
        let mut pod = pod(json!({"phase": "Running", "message": "old", "hostIP": "10.0.0.1"}));
        pod.status.as_mut().unwrap().conditions = None;
        let mut new = pod.status.clone().unwrap();
        new.message = None;
        new.host_ip = Some("10.0.0.2".into());
        assert_eq!(
            patch(&pod, &new).unwrap(),
            json!({"metadata": {"uid": "u1", "resourceVersion": "7"}, "status": {"message": null, "hostIP": "10.0.0.2"}})
        );
    }

    #[test]
    fn empty_and_absent_say_the_same() {
        let pod = pod(json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "lastState": {}, "state": {"waiting": {"reason": "X"}}}]}));
        let mut new = pod.status.clone().unwrap();
        let container = &mut new.container_statuses.as_mut().unwrap()[0];
        container.last_state = None;
        container.state.as_mut().unwrap().waiting.as_mut().unwrap().message = Some(String::new());
        new.message = Some(String::new());
        assert_eq!(patch(&pod, &new), None);
    }

    #[test]
    fn a_terminal_phase_never_goes_back() {
        for (old, reported_phase, expected) in [
            ("Failed", PodPhase::Running, "Failed"),
            ("Failed", PodPhase::Succeeded, "Failed"),
            ("Succeeded", PodPhase::Failed, "Succeeded"),
            ("Running", PodPhase::Pending, "Pending"),
            ("Pending", PodPhase::Failed, "Failed"),
        ] {
            let pod = pod(json!({"phase": old, "reason": "Before"}));
            let report = PodReport { phase: reported_phase, ..running(1) };
            let status = reported(&pod, &report, None, at(9));
            assert_eq!(status.phase.as_deref(), Some(expected), "{old} then {reported_phase:?}");
            assert_eq!(status.reason.is_some(), expected != reported_phase.as_str(), "{old}: its reason stays with it");
        }
    }

    #[test]
    fn restart_counts_of_one_container_never_decrease() {
        for (id, reported_count, expected) in [("c://1", 2, 3), ("c://1", 4, 4), ("c://2", 0, 0)] {
            let pod = pod(json!({"containerStatuses": [container("c://1", 3, json!({"running": {}}))]}));
            let mut report = running(1);
            report.containers = vec![container(id, reported_count, json!({"running": {}}))];
            let status = reported(&pod, &report, None, at(9));
            assert_eq!(status.container_statuses.unwrap()[0].restart_count, expected, "{id} {reported_count}");
        }
    }

    #[test]
    fn what_others_wrote_stays() {
        let pod = pod(json!({
            "nominatedNodeName": "gw-2", "qosClass": "Burstable", "startTime": at(-50),
            "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Drain"}],
        }));
        let status = reported(&pod, &running(1), None, at(9));
        assert_eq!(status.nominated_node_name.as_deref(), Some("gw-2"));
        assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
        assert_eq!(status.start_time, Some(Time(at(-50))));
        assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True"));
    }

    #[test]
    fn an_evicted_pod_is_a_target_of_a_disruption_and_stays_one() {
        let message = "The node was low on resource: memory. ";
        let report = PodReport {
            phase: PodPhase::Failed,
            reason: Some("Evicted".to_owned()),
            message: Some(message.to_owned()),
            ..running(1)
        };
        let before = pod(json!({"phase": "Running"}));
        let status = reported(&before, &report, None, at(9));
        let shown = |status: &PodStatus| {
            let conditions = status.conditions.as_deref().unwrap();
            let found = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
            (found.status.clone(), found.reason.clone().unwrap(), found.message.clone().unwrap())
        };
        let expected = ("True".to_owned(), "TerminationByKubelet".to_owned(), message.to_owned());
        assert_eq!(shown(&status), expected);
        let later = written(&before, status);
        assert_eq!(shown(&reported(&later, &report, None, at(19))), expected);
        assert_eq!(patch(&later, &reported(&later, &report, None, at(19))), None, "and nothing is written again");
    }

    #[test]
    fn an_ended_pod_keeps_its_address_and_a_living_one_does_not() {
        for (phase, kept) in [(PodPhase::Succeeded, true), (PodPhase::Failed, true), (PodPhase::Running, false)] {
            let pod = pod(json!({"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}]}));
            let report = PodReport { phase, pod_ips: vec![], ..running(1) };
            assert_eq!(reported(&pod, &report, None, at(9)).pod_ip.is_some(), kept, "{phase:?}");
        }
    }

    #[test]
    fn a_waiting_pod_shows_what_was_added_to_it() {
        let mut pod = pod(json!({"phase": "Pending"}));
        let added = json!([{"name": "look", "image": "busybox"}]);
        pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
        let status = waiting(&pod, &[], None, at(9)).unwrap();
        let look = status.ephemeral_container_statuses.unwrap().remove(0);
        assert_eq!((look.name.as_str(), look.image.as_str(), look.started), ("look", "busybox", None));
        assert_eq!(look.state.unwrap().waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
    }

    #[test]
    fn a_waiting_pod_shows_why_unless_it_has_begun() {
        let shown = [ContainerWaiting {
            container: "c".into(),
            reason: "CreateContainerConfigError".into(),
            message: "configmap \"x\" not found".into(),
        }];
        let status = waiting(&pod(json!({})), &shown, Some(3), at(9)).unwrap();
        let state = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap().waiting.unwrap();
        assert_eq!(state.reason.as_deref(), Some("CreateContainerConfigError"));
        assert_eq!(state.message.as_deref(), Some("configmap \"x\" not found"));
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [c]"));

        let status = waiting(&pod(json!({})), &[], Some(3), at(9)).unwrap();
        let state = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
        assert_eq!((state.reason.as_deref(), state.message), (Some("ContainerCreating"), None));

        for begun in [
            json!({"phase": "Running"}),
            json!({"phase": "Succeeded"}),
            json!({"phase": "Pending", "containerStatuses": [container("c://1", 0, json!({"waiting": {}}))]}),
        ] {
            assert_eq!(waiting(&pod(begun.clone()), &shown, None, at(9)), None, "{begun}");
        }
    }

    #[test]
    fn a_refused_pod_fails_once() {
        let status =
            refused(&pod(json!({"phase": "Pending"})), "UnsupportedField", "spec.hostPID", None, at(9)).unwrap();
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        assert_eq!(status.reason.as_deref(), Some("UnsupportedField"));
        assert_eq!(status.message.as_deref(), Some("Pod was rejected: spec.hostPID"));
        let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("PodFailed")));
        for ended in ["Failed", "Succeeded"] {
            assert_eq!(refused(&pod(json!({"phase": ended})), "R", "m", None, at(9)), None);
        }
    }
}
