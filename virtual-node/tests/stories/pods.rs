//! Stories about pods.

use std::time::Duration;

use crate::support::{Call, World, ended, phase, pod_condition, running};
use anyhow::Result;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use virtual_node::provider::{Applied, ContainerWaiting, EventReport, Liveness, NotApplied, Receipt, Subject, Waiting};
use virtual_node::{NodeName, PodRef};

#[tokio::test]
async fn a_pod_runs_ends_and_is_removed() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("job").await?;

    let receipt = world.reporter.pod_status(world.node.clone(), pod.clone(), running()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    let shown = world.pod_is("job", |pod| phase(pod) == "Running").await?;
    assert_eq!(pod_condition(&shown, "Ready").as_deref(), Some("True"));

    let receipt = world.reporter.pod_status(world.node.clone(), pod.clone(), ended(0)).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    let shown = world.pod_is("job", |pod| phase(pod) == "Succeeded").await?;
    assert_eq!(pod_condition(&shown, "Ready").as_deref(), Some("False"));

    // Nothing is left of it to be stopped.
    world.delete_pod("job", 30).await?;
    world.pod_is_gone(&pod).await?;
    world.provider.asked(&Call::Forget(pod.clone())).await?;
    assert!(!world.provider.calls().iter().any(|call| matches!(call, Call::Stop(..))));
    Ok(())
}

#[tokio::test]
async fn a_deleted_pod_goes_when_the_provider_says_that_it_is_gone() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    let receipt = world.reporter.pod_status(world.node.clone(), pod.clone(), running()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    // A controller that holds the object sees the last status before it lets go.
    let hold = json!({"metadata": {"finalizers": ["story.example/hold"]}});
    world.pods().patch("web", &PatchParams::default(), &Patch::Merge(hold)).await?;
    world.delete_pod("web", 25).await?;
    world.provider.asked(&Call::Stop(pod.clone(), Duration::from_secs(25))).await?;
    world.delete_pod("web", 3).await?;
    world.provider.asked(&Call::Stop(pod.clone(), Duration::from_secs(3))).await?;
    let waiting = world.pod_is("web", |_| true).await?;
    assert!(waiting.metadata.deletion_timestamp.is_some());

    let receipt = world.reporter.pod_gone(world.node.clone(), pod.clone(), Some(ended(143))).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    let last = world.pod_is("web", |pod| phase(pod) == "Failed").await?;
    assert_eq!(last.metadata.deletion_grace_period_seconds, Some(0));
    let free = json!({"metadata": {"finalizers": null}});
    world.pods().patch("web", &PatchParams::default(), &Patch::Merge(free)).await?;
    world.pod_is_gone(&pod).await?;
    world.provider.asked(&Call::Forget(pod)).await
}

#[tokio::test]
async fn a_force_delete_is_obeyed_and_a_namesake_is_another_pod() -> Result<()> {
    let world = World::with_node().await?;
    let first = world.applied_pod("web").await?;
    world.delete_pod("web", 0).await?;
    let second = world.create_pod("web").await?;
    world.provider.asked(&Call::Forget(first.clone())).await?;
    world.provider.asked(&Call::Apply(second.clone())).await?;

    // What is still said of the first is not written to the second.
    let late = world.reporter.pod_status(world.node.clone(), first.clone(), ended(1)).await?;
    assert_eq!(late.outcome().await?, Receipt::Obsolete);
    let late = world.reporter.pod_gone(world.node.clone(), first, None).await?;
    assert_eq!(late.outcome().await?, Receipt::Obsolete);
    let now = world.pod_is("web", |_| true).await?;
    assert_eq!((phase(&now), PodRef::of(&now)), ("Pending", Some(second)));
    Ok(())
}

#[tokio::test]
async fn a_pod_waits_for_what_is_missing_and_then_goes_on() -> Result<()> {
    let world = World::with_node().await?;
    let waiting = || {
        Err(NotApplied::Waiting(Waiting {
            containers: vec![ContainerWaiting {
                container: "main".into(),
                reason: "CreateContainerConfigError".into(),
                message: "configmap \"settings\" not found".into(),
            }],
            event_reason: "Failed".into(),
            event_message: "Error: configmap \"settings\" not found".into(),
        }))
    };
    world.provider.answer("web", [waiting(), waiting(), waiting(), Ok(Applied::Settled)]);
    let pod = world.create_pod("web").await?;
    let event = world.event(&world.namespace, "web", "Failed", |event| event.count >= Some(2)).await?;
    assert_eq!(event.source.unwrap().host.as_deref(), Some(world.node.as_str()));
    let applied = pod.clone();
    let four = move |calls: &[Call]| calls.iter().filter(|call| **call == Call::Apply(applied.clone())).count() == 4;
    world.provider.asked_so("four applies", four).await?;
    // What was missing is no longer shown.
    let reason = |pod: &k8s_openapi::api::core::v1::Pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        statuses.first()?.state.as_ref()?.waiting.as_ref()?.reason.clone()
    };
    world.pod_is("web", |pod| reason(pod).as_deref() == Some("ContainerCreating")).await?;
    let receipt = world.reporter.pod_status(world.node.clone(), pod, running()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    world.pod_is("web", |pod| phase(pod) == "Running").await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_waits_shows_why() -> Result<()> {
    let world = World::with_node().await?;
    let missing = ContainerWaiting {
        container: "main".into(),
        reason: "CreateContainerConfigError".into(),
        message: "secret \"s\" not found".into(),
    };
    let waiting =
        Waiting { containers: vec![missing], event_reason: "Failed".into(), event_message: "Error: no secret".into() };
    world.provider.answer("web", [Err(NotApplied::Waiting(waiting))]);
    world.create_pod("web").await?;
    let shown = world.pod_is("web", |pod| pod.status.as_ref().unwrap().container_statuses.is_some()).await?;
    let state = shown.status.clone().unwrap().container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(state.reason.as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(state.message.as_deref(), Some("secret \"s\" not found"));
    assert_eq!((phase(&shown), pod_condition(&shown, "Ready").as_deref()), ("Pending", Some("False")));
    Ok(())
}

#[tokio::test]
async fn a_refused_pod_fails_and_can_be_deleted_at_once() -> Result<()> {
    let world = World::with_node().await?;
    let refused = NotApplied::Refused { reason: "UnsupportedField".into(), message: "spec.hostPID is set".into() };
    world.provider.answer("odd", [Err(refused)]);
    let pod = world.create_pod("odd").await?;
    let shown = world.pod_is("odd", |pod| phase(pod) == "Failed").await?;
    let status = shown.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("UnsupportedField"));
    assert_eq!(status.message.as_deref(), Some("Pod was rejected: spec.hostPID is set"));
    world.event(&world.namespace, "odd", "UnsupportedField", |_| true).await?;
    world.delete_pod("odd", 30).await?;
    world.pod_is_gone(&pod).await?;
    let applies = world.provider.calls().iter().filter(|call| matches!(call, Call::Apply(_))).count();
    assert_eq!(applies, 1, "not applied again");
    Ok(())
}

#[tokio::test]
async fn a_change_is_applied_and_a_status_is_not_a_change() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    let receipt = world.reporter.pod_status(world.node.clone(), pod.clone(), running()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    let label = json!({"metadata": {"labels": {"version": "2"}}});
    world.pods().patch("web", &PatchParams::default(), &Patch::Merge(label)).await?;
    let applied = pod.clone();
    let two = move |calls: &[Call]| calls.iter().filter(|call| **call == Call::Apply(applied.clone())).count() == 2;
    world.provider.asked_so("two applies", two).await?;
    Ok(())
}

#[tokio::test]
async fn what_the_cluster_says_of_a_lost_node_is_taken_back_when_it_returns() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    let receipt = world.reporter.pod_status(world.node.clone(), pod, running()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    let offline = Liveness::Offline { reason: "DeviceOffline".into(), message: "not heard".into() };
    world.reporter.node_liveness(world.node.clone(), offline).await?;
    world.node_is(|node| crate::support::condition(node, "Ready").is_some_and(|ready| ready.0 == "Unknown")).await?;
    // As the node lifecycle controller does; with a controller running it may have done so already.
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}]}});
    world.pods().patch_status("web", &PatchParams::default(), &Patch::Strategic(not_ready)).await?;
    world.pod_is("web", |pod| pod_condition(pod, "Ready").as_deref() == Some("False")).await?;

    // A pod deleted while the node is away stays, honestly.
    world.delete_pod("web", 5).await?;
    world.provider.asked_so("a stop", |calls| calls.iter().any(|call| matches!(call, Call::Stop(..)))).await?;
    world.reporter.node_liveness(world.node.clone(), Liveness::Online).await?;
    let back = world.pod_is("web", |pod| pod_condition(pod, "Ready").as_deref() == Some("True")).await?;
    assert!(back.metadata.deletion_timestamp.is_some());
    Ok(())
}

#[tokio::test]
async fn conditions_of_others_survive_our_writes() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    let gate = json!({"status": {"conditions": [{"type": "story.example/gate", "status": "True"}]}});
    world.pods().patch_status("web", &PatchParams::default(), &Patch::Strategic(gate)).await?;
    let receipt = world.reporter.pod_status(world.node.clone(), pod, running()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    let shown = world.pod_is("web", |pod| phase(pod) == "Running").await?;
    assert_eq!(pod_condition(&shown, "story.example/gate").as_deref(), Some("True"));
    Ok(())
}

#[tokio::test]
async fn the_view_of_a_node_is_complete_after_the_first_word_about_each_pod() -> Result<()> {
    let mut world = World::empty().await?;
    let settled = world.create_pod("settled").await?;
    let stubborn = world.create_pod("stubborn").await?;
    let leaving = world.create_pod("leaving").await?;
    world.delete_pod("leaving", 30).await?;
    world.start_engine();
    let unavailable = || Err(NotApplied::Unavailable { message: "not now".into() });
    world.provider.answer("stubborn", [unavailable(), unavailable(), Ok(Applied::Settled)]);
    world.reporter.node_present(world.node.clone(), crate::support::template()).await?;
    world.provider.asked(&Call::Synced(world.node.clone(), Vec::new())).await?;
    let calls = world.provider.calls();
    let synced = calls.iter().position(|call| matches!(call, Call::Synced(..))).unwrap();
    let before = &calls[..synced];
    assert!(before.contains(&Call::Apply(settled)) && before.contains(&Call::Stop(leaving, Duration::from_secs(30))));
    assert_eq!(before.iter().filter(|call| **call == Call::Apply(stubborn.clone())).count(), 3);
    Ok(())
}

#[tokio::test]
async fn pods_of_other_nodes_are_none_of_ours() -> Result<()> {
    let world = World::with_node().await?;
    world.provider.asked(&Call::Synced(world.node.clone(), Vec::new())).await?;
    let theirs = world.create_pod_with("theirs", json!({"nodeName": "somebody-elses"})).await?;
    let ours = world.create_pod("ours").await?;
    world.provider.asked(&Call::Apply(ours)).await?;
    assert!(!world.provider.calls().contains(&Call::Apply(theirs.clone())));
    world.pods().delete("theirs", &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

#[tokio::test]
async fn a_providers_events_are_shown_and_acknowledged() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    let event = |second: i64| EventReport {
        subject: Subject::Container { pod: pod.clone(), field_path: "spec.containers{main}".into() },
        warning: false,
        reason: "Started".into(),
        message: "Started container main".into(),
        at: jiff::Timestamp::from_second(1_790_000_000 + second).unwrap(),
        count: 1,
    };
    for second in [0, 60] {
        assert_eq!(world.reporter.event(event(second)).await?.outcome().await?, Receipt::Accepted);
    }
    let shown = world.event(&world.namespace, "web", "Started", |event| event.count == Some(2)).await?;
    assert_eq!(shown.involved_object.field_path.as_deref(), Some("spec.containers{main}"));
    assert_eq!(shown.source.unwrap().host.as_deref(), Some(world.node.as_str()));
    Ok(())
}

#[tokio::test]
async fn a_provider_that_asks_to_be_called_again_is() -> Result<()> {
    let world = World::with_node().await?;
    let soon = Duration::from_millis(30);
    world.provider.answer("web", [Ok(Applied::Again(soon)), Ok(Applied::Again(soon)), Ok(Applied::Settled)]);
    let pod = world.create_pod("web").await?;
    let three = |calls: &[Call]| calls.iter().filter(|call| **call == Call::Apply(pod.clone())).count() == 3;
    world.provider.asked_so("three applies", three).await
}

#[tokio::test]
async fn a_node_cannot_speak_for_the_pods_of_another() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    let liar = NodeName::new(format!("{}-liar", world.node))?;
    for announced in [false, true] {
        if announced {
            world.reporter.node_present(liar.clone(), crate::support::template()).await?;
        }
        let status = world.reporter.pod_status(liar.clone(), pod.clone(), ended(1)).await?;
        assert_eq!(status.outcome().await?, Receipt::Obsolete);
        let gone = world.reporter.pod_gone(liar.clone(), pod.clone(), None).await?;
        assert_eq!(gone.outcome().await?, Receipt::Obsolete);
    }
    let receipt = world.reporter.pod_status(world.node.clone(), pod, running()).await?;
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    world.pod_is("web", |pod| phase(pod) == "Running").await?;
    Ok(())
}
