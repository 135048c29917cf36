use std::sync::{Mutex, PoisonError};

use hawser_wire::stream::{AttachRequest, ContainerStats, ExecRequest, LogsRequest, PodStats, StreamRefusal, Usage};
use hawser_wire::{ContentHash, DeviceTime, Version};

use super::*;
use crate::desired::{Deployment, DesiredPod};
use crate::runtime::scripted::Scripted;
use crate::streams::service::{Connection, Log, NotServed, Process};
use crate::upkeep::Short;
use crate::workloads::tests::pod;

const MIB: u64 = 1024 * 1024;
const MEMORY: Shortage = Shortage { of: Short::Memory, threshold: 100 * MIB, available: 50 * MIB };
const STORAGE: Shortage = Shortage { of: Short::Storage, threshold: 100 * MIB, available: 50 * MIB };

/// Tells what the test says: how much memory each running pod uses.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Option<BTreeMap<PodUid, u64>>>>);

impl Told {
    fn running(&self, pods: &[(&str, u64)]) {
        let pods = pods.iter().map(|(name, memory)| (PodUid::new(name).unwrap(), *memory)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pods);
    }
}

impl Service for Told {
    async fn logs(&self, request: LogsRequest) -> Result<Log, StreamRefusal> {
        NotServed.logs(request).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<Process, StreamRefusal> {
        NotServed.exec(request).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<Process, StreamRefusal> {
        NotServed.attach(request).await
    }

    async fn port_forward(&self, pod: PodUid, port: u16) -> Result<Connection, StreamRefusal> {
        NotServed.port_forward(pod, port).await
    }

    async fn stats(&self) -> Result<Stats, StreamRefusal> {
        let Some(pods) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return NotServed.stats().await;
        };
        let stats = |(pod, memory): (PodUid, u64)| {
            let usage = Usage { memory_working_set_bytes: Some(memory), ..Usage::default() };
            let container = ContainerStats { name: "web".to_owned(), started: None, usage };
            PodStats { pod, started: None, containers: vec![container] }
        };
        let pods = pods.into_iter().map(stats).collect();
        Ok(Stats { at: DeviceTime(0), node: Usage::default(), started: None, pods, disk: None })
    }
}

/// A device that wants the pods `a`, `b` and `c`.
struct Device {
    runtime: Scripted,
    told: Told,
    room: Arc<Notify>,
    shortages: watch::Sender<Vec<Shortage>>,
    evictions: watch::Receiver<Option<Arc<Eviction>>>,
    stop: CancellationToken,
    _desired: watch::Sender<Arc<DesiredSet>>,
}

impl Device {
    fn new(change: impl Fn(&mut EdgeDeployment)) -> Self {
        let wanted = |name: &str| {
            let mut spec = pod(name);
            change(&mut spec);
            let deployment = Some(Deployment { hash: ContentHash([0; 32]), spec: Arc::new(spec) });
            (PodUid::new(name).unwrap(), DesiredPod { wish: DesiredWish::Run, deployment })
        };
        let version = Some(Version { epoch: 0, revision: 1, edit: 0 });
        let set = DesiredSet { version, heard: true, pod_ranges: Vec::new(), pods: ["a", "b", "c"].map(wanted).into() };
        let (desired_in, desired) = watch::channel(Arc::new(set));
        let (shortages, measured) = watch::channel(vec![]);
        let (evictions_in, evictions) = watch::channel(None);
        let (runtime, told, room) = (Scripted::default(), Told::default(), Arc::<Notify>::default());
        let pressure = Pressure {
            runtime: Arc::new(runtime.clone()),
            service: Arc::new(told.clone()),
            desired,
            shortages: measured,
            room: room.clone(),
            evictions: evictions_in,
            chosen: BTreeSet::new(),
        };
        let stop = CancellationToken::new();
        tokio::spawn(relieve(pressure, stop.clone()));
        Self { runtime, told, room, shortages, evictions, stop, _desired: desired_in }
    }

    /// The device is measured; who was evicted until the next time.
    async fn measured(&mut self, shortages: &[Shortage]) -> Option<Arc<Eviction>> {
        self.shortages.send_replace(shortages.to_vec());
        self.evicted_within(10).await
    }

    async fn evicted_within(&mut self, seconds: u64) -> Option<Arc<Eviction>> {
        let within = Duration::from_secs(seconds);
        tokio::time::timeout(within, self.evictions.changed()).await.ok()?.unwrap();
        self.evictions.borrow_and_update().clone()
    }
}

fn of(eviction: &Option<Arc<Eviction>>) -> Option<&str> {
    eviction.as_ref().map(|eviction| eviction.uid.as_str())
}

#[tokio::test(start_paused = true)]
async fn one_pod_goes_at_a_time_and_the_next_when_it_has_gone() {
    let mut device = Device::new(|_| {});
    device.told.running(&[("a", 10 * MIB), ("b", 30 * MIB), ("c", 20 * MIB)]);
    assert_eq!(device.measured(&[]).await, None);
    let first = device.measured(&[MEMORY]).await;
    assert_eq!(of(&first), Some("b"));
    let message = &first.unwrap().message;
    assert!(
        message.contains("Container web was using 30Mi, request is 0, has larger consumption of memory."),
        "{message}"
    );
    assert_eq!(device.measured(&[MEMORY]).await, None, "it is still ending");
    device.told.running(&[("a", 10 * MIB), ("c", 20 * MIB)]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(of(&device.measured(&[MEMORY]).await), Some("c"));
    // It does not end, and the device cannot wait for it for ever.
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(of(&device.measured(&[MEMORY]).await), Some("a"));
    assert_eq!(device.measured(&[MEMORY]).await, None, "nobody is left");
    device.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn images_go_before_pods_when_the_disk_is_full() {
    let mut device = Device::new(|_| {});
    device.told.running(&[("a", 1)]);
    let takes = |mebibytes: u64| {
        let space = Space { bytes: mebibytes * MIB, inodes: 3 };
        DiskUse { volumes: [("v".to_owned(), space)].into(), ..DiskUse::default() }
    };
    for (name, mebibytes) in [("a", 6), ("b", 1), ("c", 9)] {
        device.runtime.set_disk_use(&PodUid::new(name).unwrap(), takes(mebibytes));
    }
    assert_eq!(device.measured(&[STORAGE]).await, None);
    tokio::time::timeout(Duration::from_secs(1), device.room.notified()).await.expect("room was asked for");
    // `c` runs nothing in this moment, and it is its volume that takes the room.
    assert_eq!(of(&device.measured(&[STORAGE]).await), Some("c"));
    assert_eq!(of(&device.measured(&[STORAGE]).await), Some("a"), "what is left of the first gives nothing back");
    assert_eq!(device.measured(&[STORAGE]).await, None, "the last one has too little to be worth it");
    device.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn without_knowing_who_takes_it_nobody_goes() {
    let mut device = Device::new(|_| {});
    assert_eq!(device.measured(&[MEMORY]).await, None);
    device.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_pod_beyond_its_limit_goes_although_there_is_room() {
    let mut device = Device::new(|spec| spec.containers[0].resources.storage_limit_bytes = Some(MIB));
    device.told.running(&[("a", 1), ("b", 1)]);
    assert_eq!(device.evicted_within(200).await, None);
    let used =
        DiskUse { containers: [("web".to_owned(), Space { bytes: 2 * MIB, inodes: 1 })].into(), ..DiskUse::default() };
    device.runtime.set_disk_use(&PodUid::new("b").unwrap(), used);
    let eviction = device.evicted_within(61).await;
    assert_eq!(of(&eviction), Some("b"));
    assert_eq!(
        eviction.unwrap().message,
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
    );
    device.stop.cancel();
}
