//! Images as volumes: an engine that can mounts them, one that cannot says so, and what is mounted stays on the device.

use std::collections::BTreeSet;
use std::io::Write as _;

use device_agent::runtime::Runtime;
use device_agent::runtime::cri::Cri;
use hawser_wire::deployment::{
    Container, EdgeDeployment, ImageVolume, Mount, PullPolicy, RestartPolicy, Volume, VolumeSource,
};

use crate::engine::DATA_IMAGE;
use crate::world::*;

/// Since which containerd images can be mounted, and parts of them.
const SINCE: (u32, u32) = (2, 2);

fn image(name: &str, reference: &str, pull_policy: PullPolicy) -> Volume {
    let image = ImageVolume { reference: reference.into(), pull_policy };
    Volume { name: name.into(), source: VolumeSource::Image(image) }
}

fn mounting(name: &str, script: &str, mounts: Vec<Mount>, volume: Volume) -> EdgeDeployment {
    let main = Container { mounts, ..shell(script) };
    EdgeDeployment { volumes: vec![volume], ..hasty(pod(name, RestartPolicy::Never, main)) }
}

/// A device whose engine mounts images, or `None` and a word about it.
fn able() -> Option<Device> {
    let device = Device::new()?;
    if device.engine.is_since(SINCE) {
        device.engine.import_data();
        return Some(device);
    }
    // Not by the macro: the word is to be seen although the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: images as volumes: this containerd is older than 2.2 (e2e/cluster/build containerd builds a newer one, \
         HAWSER_CONTAINERD=<its folder> takes it)"
    );
    None
}

async fn in_use(device: &Device) -> bool {
    let runtime = Cri::connect(device.config.clone()).await.unwrap();
    let store = runtime.image_store(&BTreeSet::new()).await.unwrap().unwrap();
    store.images.iter().find(|image| image.name == DATA_IMAGE).unwrap().in_use
}

#[tokio::test]
async fn an_image_is_mounted_to_be_read_whole_or_in_part_and_stays_while_it_is() {
    let Some(mut device) = able() else { return };
    device.start().await;
    let script =
        "cat /v/srv/name; echo; cat /part/name; echo; touch /v/new || echo no; touch /part/new || echo no; sleep 1000";
    let part = Mount { sub_path: Some("srv".into()), ..mount("v", "/part") };
    let volume = image("v", DATA_IMAGE, PullPolicy::IfNotPresent);
    device.run(&mounting("reader", script, vec![mount("v", "/v"), part], volume));
    device.until("all to be read", |device| device.output("reader").matches("no\n").count() == 2).await;
    let lines = device.output("reader");
    let read: Vec<&str> = lines.lines().filter(|line| !line.starts_with("touch")).collect();
    assert_eq!(read, [DATA_IMAGE, DATA_IMAGE, "no", "no"]);
    let told: Vec<_> = device.events.iter().filter(|event| event.reason == "Pulled").collect();
    let of_volume = told.iter().find(|event| event.container.is_none()).unwrap();
    let words = "Container image \"hawser.test/data:1\" already present on machine and can be accessed by the pod";
    assert_eq!((of_volume.message.as_str(), told.len()), (words, 2));
    assert!(in_use(&device).await, "no other pod wants it");
    device.sweep("reader").await;
    assert!(!in_use(&device).await);
}

#[tokio::test]
async fn an_image_that_is_mounted_outlives_the_agent_and_the_engine() {
    let Some(mut device) = able() else { return };
    device.start().await;
    let script = "until test -e /tmp/go; do sleep 0.1; done; cat /v/srv/name";
    let volume = image("v", DATA_IMAGE, PullPolicy::Never);
    device.run(&mounting("keeper", script, vec![mount("v", "/v")], volume));
    device.until_running("keeper").await;
    device.kill_agent().await;
    device.engine.crash();
    device.engine.run();
    device.start().await;
    let pid = device.engine.pid_of("until test");
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    assert_eq!(device.until_ended("keeper").await.exit_code, 0);
    assert_eq!(device.output("keeper").trim_end(), DATA_IMAGE);
    device.sweep("keeper").await;
}

#[tokio::test]
async fn an_image_that_cannot_be_mounted_says_why_in_a_kubelets_words() {
    let Some(mut device) = able() else { return };
    device.start().await;
    let whole = || vec![mount("v", "/v")];
    device.run(&mounting("never", "true", whole(), image("v", "hawser.test/none:1", PullPolicy::Never)));
    let words = device.until_waiting("never", "ErrImageNeverPull").await;
    assert_eq!(words, "Container image \"hawser.test/none:1\" is not present with pull policy of Never");
    device.run(&mounting("name", "true", whole(), image("v", "Not a name", PullPolicy::Always)));
    device.until_waiting("name", "InvalidImageName").await;
    // Nobody listens there.
    device.run(&mounting("pull", "true", whole(), image("v", "127.0.0.1:1/none:1", PullPolicy::Always)));
    device.until_waiting("pull", device.engine.out_of_reach()).await;
    let words = device.until_waiting("pull", "ImagePullBackOff").await;
    assert!(words.starts_with("Back-off pulling image \"127.0.0.1:1/none:1\": "), "{words}");
    for (name, part) in [("gone", "srv/none"), ("out", "../..")] {
        let part = vec![Mount { sub_path: Some(part.into()), ..mount("v", "/v") }];
        device.run(&mounting(name, "true", part, image("v", DATA_IMAGE, PullPolicy::Never)));
    }
    let words = device.until_waiting("gone", "CreateContainerError").await;
    assert!(words.contains("srv/none"), "{words}");
    let words = device.until_waiting("out", "CreateContainerConfigError").await;
    assert_eq!(words, "unable to provision SubPath `../..`: must not contain '..'");
    for name in ["never", "name", "pull", "gone", "out"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn an_engine_that_cannot_mount_images_is_named() {
    let Some(mut device) = Device::new() else { return };
    if device.engine.is_since(SINCE) {
        return;
    }
    device.engine.import_data();
    device.start().await;
    let volume = image("v", DATA_IMAGE, PullPolicy::IfNotPresent);
    device.run(&mounting("reader", "true", vec![mount("v", "/v")], volume));
    let words = device.until_waiting("reader", "CreateContainerError").await;
    assert!(words.starts_with("mount image hawser.test/data:1 as volume v: containerd "), "{words}");
    assert!(words.ends_with("cannot mount images (that takes containerd 2.1 or later)"), "{words}");
    device.sweep("reader").await;
}
