//! Stories about what goes wrong: refused writes, lost positions, stops and kills. Nothing is lost, nothing is deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Call, World, condition, ended, eventually, phase, running};
use anyhow::Result;
use http::Method;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use virtual_node::provider::{Liveness, Receipt};
use virtual_node::{COMPONENT_LABEL, NodeName};

#[tokio::test]
async fn writes_refused_for_a_while_arrive_in_the_end() -> Result<()> {
    for code in [500, 503, 429, 409] {
        let world = World::with_node().await?;
        let pods = [world.applied_pod("a").await?, world.applied_pod("b").await?];
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        world.faults(move |request| {
            let writes = matches!(*request.method(), Method::PATCH | Method::DELETE);
            (writes && request.uri().path().contains("/pods/") && count.fetch_add(1, Ordering::Relaxed) < 12)
                .then_some(code)
        });
        let mut receipts = Vec::new();
        for pod in &pods {
            // The last of several is what counts; all are answered.
            for report in [ended(1), running()] {
                receipts.push(world.reporter.pod_status(world.node.clone(), pod.clone(), report).await?);
            }
        }
        // The first report of a pair may have been under way when the second came, and an end is an end.
        for receipt in receipts {
            assert_eq!(receipt.outcome().await?, Receipt::Accepted, "{code}");
        }
        for pod in &pods {
            let shown = world.pod_is(&pod.name, |pod| matches!(phase(pod), "Running" | "Failed")).await?;
            world.delete_pod(&pod.name, 30).await?;
            if phase(&shown) == "Running" {
                world.provider.asked(&Call::Stop(pod.clone(), Duration::from_secs(30))).await?;
            }
            let gone = world.reporter.pod_gone(world.node.clone(), pod.clone(), None).await?;
            // An ended pod may be gone before it is said to be.
            let obsolete = gone.outcome().await? == Receipt::Obsolete;
            assert!(!obsolete || phase(&shown) == "Failed", "{code}");
            world.pod_is_gone(pod).await?;
        }
        assert!(refused.load(Ordering::Relaxed) >= 12, "{code}: the story met its faults");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_missed_when_the_watch_loses_its_position() -> Result<()> {
    let mut world = World::empty().await?;
    world.watches_are_short();
    world.start().await?;
    let stays = world.applied_pod("stays").await?;
    let leaves = world.applied_pod("leaves").await?;
    // A watch lasts a second; from here on none is begun again, as if all that happened meanwhile had been forgotten.
    let expired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&expired);
    world.faults(move |request| {
        let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        (watches && count.fetch_add(1, Ordering::Relaxed) < 1000).then_some(410)
    });
    crate::support::eventually("both watches to have expired", async || {
        (expired.load(Ordering::Relaxed) >= 2).then_some(())
    })
    .await?;
    world.delete_pod("leaves", 0).await?;
    let comes = world.create_pod("comes").await?;
    world.provider.asked(&Call::Forget(leaves)).await?;
    world.provider.asked(&Call::Apply(comes)).await?;
    world.no_faults();
    let later = world.create_pod("later").await?;
    world.provider.asked(&Call::Apply(later)).await?;
    assert!(!world.provider.calls().contains(&Call::Forget(stays)));
    Ok(())
}

/// A third of all requests fails, in an order that the seed fixes; watches last a second and lose their positions.
#[tokio::test]
async fn many_pods_on_many_nodes_arrive_and_leave_through_bad_weather() -> Result<()> {
    const PODS: usize = 24;
    for seed in [1_u64, 2, 3] {
        let mut world = World::empty().await?;
        world.watches_are_short();
        let state = Arc::new(AtomicU64::new(seed));
        world.faults(move |_| {
            // The constants of Knuth's MMIX generator.
            let next =
                |state: u64| state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let before = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| Some(next(state)));
            match (before.unwrap_or_default() >> 33) % 15 {
                0 => Some(500),
                1 => Some(429),
                2 => Some(409),
                3 => Some(410),
                4 => Some(503),
                _ => None,
            }
        });
        world.start_engine();
        world.provider.behaves_like_a_device(world.reporter.clone());
        let nodes: Vec<NodeName> =
            (0..4).map(|n| NodeName::new(format!("{}-{n}", world.node))).collect::<Result<_, _>>()?;
        let mut pods = Vec::new();
        for n in 0..PODS {
            // Half of the pods is there before the nodes are announced.
            if n == PODS / 2 {
                for node in &nodes {
                    world.reporter.node_present(node.clone(), crate::support::template()).await?;
                    world.reporter.node_liveness(node.clone(), Liveness::Online).await?;
                }
            }
            let on = json!({"nodeName": nodes[n % nodes.len()].as_str()});
            pods.push(world.create_pod_with(&format!("pod-{n}"), on).await?);
        }
        for pod in &pods {
            world.pod_is(&pod.name, |pod| phase(pod) == "Running").await?;
        }
        let (leave, stay) = pods.split_at(PODS / 2);
        for (n, pod) in leave.iter().enumerate() {
            world.delete_pod(&pod.name, if n % 3 == 0 { 0 } else { 30 }).await?;
        }
        for pod in leave {
            world.pod_is_gone(pod).await?;
            world.provider.asked(&Call::Forget(pod.clone())).await?;
        }
        for node in &nodes {
            world.provider.asked(&Call::Synced(node.clone(), Vec::new())).await?;
        }
        let harmed = |call: &&Call| matches!(call, Call::Stop(pod, _) | Call::Forget(pod) if stay.contains(pod));
        assert_eq!(world.provider.calls().iter().find(harmed), None, "seed {seed}");
        for pod in stay {
            world.pod_is(&pod.name, |pod| phase(pod) == "Running").await?;
        }
        world.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_is_away_deletes_nothing() -> Result<()> {
    let mut world = World::empty().await?;
    let pod = world.create_pod("web").await?;
    let tried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tried);
    world.faults(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Some(500)
    });
    world.start().await?;
    crate::support::eventually("the engine to have tried", async || (tried.load(Ordering::Relaxed) > 10).then_some(()))
        .await?;
    assert_eq!(world.provider.calls(), []);
    world.no_faults();
    world.provider.asked(&Call::Synced(world.node.clone(), Vec::new())).await?;
    assert_eq!(world.provider.calls(), [Call::Apply(pod), Call::Synced(world.node.clone(), Vec::new())]);
    Ok(())
}

#[tokio::test]
async fn a_restart_stops_nothing_and_forgets_nothing() -> Result<()> {
    for gently in [true, false] {
        let mut world = World::with_node().await?;
        let pod = world.applied_pod("web").await?;
        let receipt = world.reporter.pod_status(world.node.clone(), pod.clone(), running()).await?;
        assert_eq!(receipt.outcome().await?, Receipt::Accepted);
        let before = world.pod_is("web", |pod| phase(pod) == "Running").await?;
        let before_calls = world.provider.calls();
        assert!(!before_calls.iter().any(|call| matches!(call, Call::Stop(..) | Call::Forget(..))));
        if gently {
            let outcome = world.stop().await?;
            assert!(outcome.is_clean(), "{outcome:?}");
        } else {
            world.kill().await?;
        }
        let node = world.node_is(|_| true).await?;
        assert_eq!(crate::support::condition(&node, "Ready").unwrap().0, "True", "a restart is no news about a device");

        world.start().await?;
        world.provider.asked(&Call::Synced(world.node.clone(), Vec::new())).await?;
        assert_eq!(world.provider.calls(), [Call::Apply(pod.clone()), Call::Synced(world.node.clone(), Vec::new())]);
        // The same report again changes nothing.
        let receipt = world.reporter.pod_status(world.node.clone(), pod, running()).await?;
        assert_eq!(receipt.outcome().await?, Receipt::Accepted);
        let after = world.pod_is("web", |_| true).await?;
        assert_eq!(after.metadata.resource_version, before.metadata.resource_version);
    }
    Ok(())
}

#[tokio::test]
async fn a_stop_writes_what_is_unwritten() -> Result<()> {
    let mut world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    let receipt = world.reporter.pod_status(world.node.clone(), pod, running()).await?;
    assert!(world.stop().await?.is_clean());
    assert_eq!(receipt.outcome().await?, Receipt::Accepted);
    world.pod_is("web", |pod| phase(pod) == "Running").await?;
    Ok(())
}

#[tokio::test]
async fn a_stop_says_what_it_could_not_write() -> Result<()> {
    let mut world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    world.faults(|request| (*request.method() == Method::PATCH).then_some(500));
    let receipt = world.reporter.pod_status(world.node.clone(), pod, running()).await?;
    assert_eq!(world.stop().await?.statuses_unwritten, 1);
    receipt.outcome().await.expect_err("nobody has accepted it");
    Ok(())
}

#[tokio::test]
async fn what_ended_unseen_while_a_node_was_somebody_elses_is_forgotten_when_it_is_ours_again() -> Result<()> {
    let mut world = World::empty().await?;
    world.watches_are_short();
    world.start().await?;
    world.node_is(|node| condition(node, "Ready").is_some_and(|ready| ready.0 == "True")).await?;
    let (ends, stays) = (world.applied_pod("ends").await?, world.applied_pod("stays").await?);
    let theirs = json!({"metadata": {"labels": {COMPONENT_LABEL: "somebody-else"}}});
    world.nodes().patch(world.node.as_str(), &PatchParams::default(), &Patch::Merge(theirs)).await?;
    world.event("default", world.node.as_str(), "NodeNameTaken", |_| true).await?;
    // The watch loses its place, and the deletion falls into the gap.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    world.faults(move |request| {
        let pods = request.uri().path().ends_with("/pods") && request.method() == Method::GET;
        if pods {
            count.fetch_add(1, Ordering::Relaxed);
        }
        pods.then_some(410)
    });
    eventually("the watch to lose its place", async || (asked.load(Ordering::Relaxed) > 1).then_some(())).await?;
    world.delete_pod("ends", 0).await?;
    world.no_faults();
    let back = json!({"metadata": {"labels": {COMPONENT_LABEL: world.component}}});
    world.nodes().patch(world.node.as_str(), &PatchParams::default(), &Patch::Merge(back)).await?;
    world.provider.asked(&Call::Forget(ends)).await?;
    let applied = |calls: &[Call]| calls.iter().filter(|call| **call == Call::Apply(stays.clone())).count() == 2;
    world.provider.asked_so("the pod that is still there to be applied again", applied).await?;
    assert!(!world.provider.calls().contains(&Call::Forget(stays)));
    Ok(())
}

#[tokio::test]
async fn a_status_that_the_api_server_calls_invalid_is_answered_and_the_next_one_is_written() -> Result<()> {
    let world = World::with_node().await?;
    let pod = world.applied_pod("web").await?;
    world.faults(|request| (request.uri().path().ends_with("/pods/web/status")).then_some(422));
    let invalid = world.reporter.pod_status(world.node.clone(), pod.clone(), running()).await?;
    assert_eq!(invalid.outcome().await?, Receipt::Obsolete, "saying the same again is no use");
    world.no_faults();
    let valid = world.reporter.pod_status(world.node.clone(), pod.clone(), ended(0)).await?;
    assert_eq!(valid.outcome().await?, Receipt::Accepted);
    world.pod_is("web", |pod| phase(pod) == "Succeeded").await?;
    Ok(())
}
