//! What is wrong is said in words that help, and mends itself when it can.

use device_agent::runtime::cri::{Cri, CriConfig};
use device_agent::runtime::{ImageStore, Runtime};
use hawser_cri::ErrorKind;
use hawser_wire::AddressRange;
use hawser_wire::deployment::{Container, PullPolicy, RestartPolicy, User};

use crate::engine::{Engine, FOREIGN_IMAGE, IMAGE};
use crate::world::*;

#[tokio::test]
async fn an_engine_that_is_not_there_is_named() {
    let config = CriConfig::new("/nonexistent/engine.sock".into(), "boat", "/nonexistent".into(), "/dev/shm".into());
    let error = Cri::connect(config).await.unwrap_err();
    assert!(error.to_string().starts_with("there is no container engine at /nonexistent/engine.sock"), "{error}");
}

#[tokio::test]
async fn an_engine_that_does_not_run_pods_is_told_from_one_that_is_ill() {
    let Some(mut engine) = Engine::start() else { return };
    if engine.is_crio() {
        // It does nothing else.
        return;
    }
    engine.run_without_pods();
    let config = CriConfig::new(engine.socket(), "boat", "/nonexistent".into(), "/dev/shm".into());
    let error = Cri::connect(config).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unimplemented, "{error}");
}

#[tokio::test]
async fn images_that_cannot_be_had_are_told_from_each_other() {
    let Some(mut device) = Device::new() else { return };
    device.engine.import_foreign();
    device.start().await;
    let image = |name: &str, image: &str, pull_policy| {
        pod(name, RestartPolicy::Always, Container { image: image.into(), pull_policy, ..shell("exec sleep 1000") })
    };
    device.run(&image("never", "hawser.test/missing:1", PullPolicy::Never));
    device.run(&image("invalid", "Not An Image", PullPolicy::IfNotPresent));
    // A port on which nobody listens.
    device.run(&image("unreachable", "127.0.0.1:1/missing:1", PullPolicy::IfNotPresent));
    device.run(&image("foreign", FOREIGN_IMAGE, PullPolicy::Never));
    let message = device.until_waiting("never", "ErrImageNeverPull").await;
    assert_eq!(message, "Container image \"hawser.test/missing:1\" is not present with pull policy of Never");
    let message = device.until_waiting("invalid", "InvalidImageName").await;
    assert!(message.contains("invalid reference format"), "{message}");
    let message = device.until_waiting("unreachable", device.engine.out_of_reach()).await;
    assert!(message.contains("127.0.0.1:1") && message.contains("connection refused"), "{message}");
    let message = device.until_waiting("unreachable", "ImagePullBackOff").await;
    assert!(message.starts_with("Back-off pulling image \"127.0.0.1:1/missing:1\": "), "{message}");
    device
        .until("the foreign image to be refused", |device| {
            device.container("foreign").is_some_and(|container| {
                !container.ready && device.events.iter().any(|event| event.pod == Some(uid("foreign")) && event.warning)
            })
        })
        .await;
    // What was missing comes, and no human hand is needed.
    device.engine.import_as("hawser.test/missing:1");
    device.until_running("never").await;
    for name in ["never", "invalid", "unreachable", "foreign"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn a_missing_network_is_said_and_the_pod_comes_up_when_it_is_there() {
    let Some(mut device) = Device::new() else { return };
    device.engine.network(false);
    device.engine.crash();
    device.engine.run();
    device.start().await;
    device.run(&hasty(pod("web", RestartPolicy::Always, shell("exec sleep 1000"))));
    device.until("a kubelet's words", |device| device.reasons().contains(&"NetworkNotReady")).await;
    let event = device.events.iter().find(|event| event.reason == "NetworkNotReady").unwrap();
    let words = "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:";
    assert!(event.message.starts_with(words), "{}", event.message);
    // A pod on the device's own network needs no other.
    let host = hawser_wire::deployment::EdgeDeployment {
        host_network: true,
        ..pod("host", RestartPolicy::Always, shell("exec sleep 1000"))
    };
    device.run(&hasty(host));
    device.until_running("host").await;
    assert_eq!(device.report("host").unwrap().pod_ips, ["192.0.2.7"]);
    device.engine.network(true);
    device.until_running("web").await;
    device.sweep("web").await;
    device.sweep("host").await;
}

#[tokio::test]
async fn an_engine_that_waits_for_the_addresses_of_pods_is_told_them() {
    let Some(mut device) = Device::new() else { return };
    device.engine.waits_for_addresses();
    device.engine.crash();
    device.engine.run();
    let runtime = Cri::connect(device.config.clone()).await.unwrap();
    let network = async |ranges: &[AddressRange]| {
        let facts = runtime.facts(ranges).await;
        facts.conditions.into_iter().find(|condition| condition.kind == "NetworkReady").unwrap()
    };
    assert_eq!(network(&[]).await.holds, Some(false));
    let network = network(&["10.127.3.0/24".parse().unwrap()]).await;
    assert_eq!(network.holds, Some(true), "{}", network.message);
    device.start().await;
    device.run(&hasty(pod("web", RestartPolicy::Always, shell("exec sleep 1000"))));
    device.until_running("web").await;
    let ips = device.report("web").unwrap().pod_ips.clone();
    assert!(ips[0].starts_with("10.127.3."), "{ips:?}");
    device.sweep("web").await;
}

#[tokio::test]
async fn an_engine_that_dies_while_pods_start_is_waited_for() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    for name in ["a", "b", "c"] {
        device.run(&hasty(pod(name, RestartPolicy::Always, shell("exec sleep 1000"))));
    }
    device.until("the first sandbox", |device| device.report("a").is_some()).await;
    device.engine.crash();
    device.engine.run();
    for name in ["a", "b", "c"] {
        device.until_running(name).await;
    }
    for name in ["a", "b", "c"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn a_container_that_must_not_be_root_is_not() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let user = User { non_root: true, ..User::default() };
    device.run(&pod("web", RestartPolicy::Always, Container { user, ..shell("exec sleep 1000") }));
    device
        .until("the refusal", |device| {
            device.events.iter().any(|event| event.message.contains("image will run as root"))
        })
        .await;
    device.sweep("web").await;
}

#[tokio::test]
async fn the_images_of_the_engine_are_told_apart_by_their_use_and_an_unused_one_can_go() {
    let Some(mut device) = Device::new() else { return };
    device.engine.import_foreign();
    device.start().await;
    device.run(&pod("web", RestartPolicy::Always, shell("exec sleep 1000")));
    device.until_running("web").await;
    let runtime = Cri::connect(device.config.clone()).await.unwrap();
    let look = async |wanted: &[&str]| {
        let wanted = wanted.iter().map(|name| (*name).to_owned()).collect();
        runtime.image_store(&wanted).await.unwrap().unwrap()
    };
    let store = look(&["hawser.test/unknown:1"]).await;
    assert!(store.total >= store.available && store.available > 0, "{store:?}");
    let of = |store: &ImageStore, name: &str| store.images.iter().find(|image| image.name == name).cloned();
    let (used, unused) = (of(&store, IMAGE).unwrap(), of(&store, FOREIGN_IMAGE).unwrap());
    // It is the image of the sandboxes as well.
    assert!(used.in_use && used.kept && used.bytes > 100_000, "{used:?}");
    assert!(!unused.in_use && !unused.kept, "{unused:?}");
    assert!(of(&look(&[FOREIGN_IMAGE]).await, FOREIGN_IMAGE).unwrap().in_use, "a pod names it");
    runtime.remove_image(unused.id.clone()).await.unwrap();
    runtime.remove_image(unused.id).await.expect("what is gone is gone");
    assert_eq!(of(&look(&[]).await, FOREIGN_IMAGE), None);
    device.sweep("web").await;
}
