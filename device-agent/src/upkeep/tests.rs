#![expect(clippy::disallowed_methods, reason = "the tests have tokio's time")]
use std::collections::BTreeMap;

use hawser_wire::deployment::{ImageVolume, PullPolicy};
use hawser_wire::{ContentHash, DeviceTime, PodUid, Version};

use super::*;
use crate::desired::{Deployment, DesiredPod, DesiredWish};
use crate::runtime::scripted::Scripted;
use crate::runtime::{ImageStore, StoredImage};
use crate::workloads::tests::pod;

fn image(name: &str, bytes: u64) -> StoredImage {
    StoredImage { id: name.to_owned(), name: name.to_owned(), bytes, in_use: false, kept: false }
}

fn wanting(image: &str) -> Arc<DesiredSet> {
    let mut spec = pod("a");
    spec.containers[0].image = image.to_owned();
    let deployment = Some(Deployment { hash: ContentHash([0; 32]), spec: Arc::new(spec) });
    let pods = BTreeMap::from([(PodUid::new("a").unwrap(), DesiredPod { wish: DesiredWish::Run, deployment })]);
    Arc::new(DesiredSet {
        version: Some(Version { epoch: 0, revision: 1, edit: 0 }),
        heard: true,
        pod_ranges: Vec::new(),
        pods,
    })
}

/// A device whose images fill this much of a disk of 1,000 bytes.
struct Device {
    runtime: Scripted,
    reports: mpsc::Receiver<ReportItem>,
    stop: CancellationToken,
    _desired: watch::Sender<Arc<DesiredSet>>,
}

impl Device {
    fn new(used: u64, images: Vec<StoredImage>) -> Self {
        let runtime = Scripted::default();
        runtime.set_image_store(ImageStore { total: 1_000, available: 1_000 - used, images });
        let (desired_in, desired) = watch::channel(wanting("wanted"));
        let (reports_in, reports) = mpsc::channel(8);
        let begun = tokio::time::Instant::now();
        let upkeep = Upkeep {
            runtime: Arc::new(runtime.clone()),
            desired,
            reports: reports_in,
            clock: Arc::new(move || DeviceTime(begun.elapsed().as_millis() as u64)),
            limits: ImageLimits::default(),
            room: Arc::default(),
        };
        let stop = CancellationToken::new();
        tokio::spawn(run(upkeep, stop.clone()));
        Self { runtime, reports, stop, _desired: desired_in }
    }

    /// What has gone after so many minutes.
    async fn gone_after(&self, minutes: u64) -> Vec<String> {
        tokio::time::sleep(Duration::from_secs(minutes * 60 + 1)).await;
        self.runtime.log()
    }
}

#[tokio::test(start_paused = true)]
async fn unused_images_go_until_there_is_room_and_wanted_ones_stay() {
    let device = Device::new(900, vec![image("wanted", 500), image("a", 60), image("b", 50), image("c", 40)]);
    assert_eq!(device.gone_after(1).await, Vec::<String>::new(), "they may have come only just now");
    assert_eq!(device.gone_after(2).await, ["remove image a", "remove image b"], "90 % are used, and 80 % are the aim");
    assert_eq!(device.gone_after(60).await.len(), 2, "there is room");
    device.stop.cancel();
}

#[test]
fn pods_want_the_images_of_their_volumes_as_well() {
    let mut spec = pod("a");
    spec.containers[0].image = "own".to_owned();
    let model = ImageVolume { reference: "model".to_owned(), pull_policy: PullPolicy::Always };
    spec.volumes = vec![Volume { name: "v".to_owned(), source: VolumeSource::Image(model) }];
    let deployment = Some(Deployment { hash: ContentHash([0; 32]), spec: Arc::new(spec) });
    let pods = BTreeMap::from([(PodUid::new("a").unwrap(), DesiredPod { wish: DesiredWish::Run, deployment })]);
    let desired = DesiredSet { version: None, heard: true, pod_ranges: Vec::new(), pods };
    assert_eq!(wanted(&desired).into_iter().collect::<Vec<_>>(), ["model", "own"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_freed_is_said_once() {
    let mut device = Device::new(990, vec![image("wanted", 500), image("a", 10)]);
    assert_eq!(device.gone_after(60).await, ["remove image a"]);
    let Ok(ReportItem::Event(event)) = device.reports.try_recv() else { panic!("nothing was said") };
    assert_eq!((event.reason.as_str(), event.warning, event.pod), ("FreeDiskSpaceFailed", true, None));
    assert!(event.message.contains("Attempted to free 190 bytes, but only found 0 bytes"), "{}", event.message);
    assert!(device.reports.try_recv().is_err(), "and not every minute");
    device.stop.cancel();
}
