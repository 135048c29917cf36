//! Owners and supervisor, on a scripted runtime and a paused clock.

use hawser_wire::Version;
use hawser_wire::deployment::{Container, Content, EdgeDeployment, File, Files, PullPolicy, Volume, VolumeSource};
use hawser_wire::desired::ObjectRef;
use hawser_wire::report::{Phase, WorkloadReport};
use tokio::time::Instant;

use super::*;
use crate::desired::{Deployment, DesiredPod, DesiredWish};
use crate::runtime::scripted::{Script, Scripted, ScriptedFailure};
use hawser_wire::ContentHash;

mod images;

struct World {
    runtime: Scripted,
    store: Arc<MemoryStore>,
    begun: Instant,
    pods: BTreeMap<PodUid, DesiredPod>,
    agent: Option<Agent>,
}

struct Agent {
    desired: watch::Sender<Arc<DesiredSet>>,
    reports: mpsc::Receiver<ReportItem>,
    resync: watch::Sender<u64>,
    host: watch::Sender<Arc<HostFacts>>,
    evict: watch::Sender<Option<Arc<Eviction>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn uid(name: &str) -> PodUid {
    PodUid::new(name).unwrap()
}

pub(crate) fn pod(name: &str) -> EdgeDeployment {
    let container = Container { pull_policy: PullPolicy::Never, ..Container::named("web", "any") };
    EdgeDeployment { containers: vec![container], ..EdgeDeployment::named(uid(name), "ns", name) }
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the test's clock is tokio's, which is paused")]
    fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        Self { runtime: Scripted::default(), store, begun: Instant::now(), pods: BTreeMap::new(), agent: None }
    }

    fn start(&mut self, room: usize) {
        let (desired, desired_receiver) = watch::channel(self.set());
        let (reports, receiver) = mpsc::channel(room);
        let (resync, resync_receiver) = watch::channel(0);
        let (host, host_receiver) = watch::channel(Arc::default());
        let (evict, evictions) = watch::channel(None);
        let stop = CancellationToken::new();
        let begun = self.begun;
        let task = Workloads::start(Parts {
            runtime: Arc::new(self.runtime.clone()),
            desired: desired_receiver,
            store: self.store.clone(),
            reports,
            clock: Arc::new(move || DeviceTime(begun.elapsed().as_millis() as u64)),
            recovered: self.store.recovered(),
            resync: resync_receiver,
            host: host_receiver,
            evictions,
            stop: stop.clone(),
        });
        self.agent = Some(Agent { desired, reports: receiver, resync, host, evict, stop, task });
    }

    async fn stop(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.stop.cancel();
        agent.task.await.unwrap();
    }

    fn set(&self) -> Arc<DesiredSet> {
        Arc::new(DesiredSet {
            version: Some(Version::default()),
            heard: true,
            pod_ranges: Vec::new(),
            pods: self.pods.clone(),
        })
    }

    fn run(&mut self, spec: &EdgeDeployment) {
        let hash = ContentHash::of(&hawser_wire::encode(spec));
        let deployment = Some(Deployment { hash, spec: Arc::new(spec.clone()) });
        self.pods.insert(spec.uid.clone(), DesiredPod { wish: DesiredWish::Run, deployment });
        self.publish();
    }

    fn publish(&self) {
        if let Some(agent) = &self.agent {
            agent.desired.send_replace(self.set());
        }
    }

    /// Everything that is said until nothing happens for `seconds`.
    async fn said(&mut self, seconds: u64) -> Vec<ReportItem> {
        let mut items = Vec::new();
        let agent = self.agent.as_mut().unwrap();
        while let Ok(Some(item)) = tokio::time::timeout(Duration::from_secs(seconds), agent.reports.recv()).await {
            items.push(item);
        }
        items
    }
}

fn reports(items: &[ReportItem]) -> Vec<&WorkloadReport> {
    items.iter().filter_map(|item| if let ReportItem::Workload(report) = item { Some(report) } else { None }).collect()
}

fn reasons(items: &[ReportItem]) -> Vec<&str> {
    items
        .iter()
        .filter_map(|item| if let ReportItem::Event(e) = item { Some(e.reason.as_str()) } else { None })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_stops_nothing_and_is_told_once() {
    let mut world = World::new();
    world.start(8);
    world.run(&pod("a"));
    world.said(1).await;
    world.store.set_broken(Some("disk full"));
    world.runtime.end(&crate::runtime::ContainerId { pod: uid("a"), name: "web".into(), attempt: 0 }, 1);
    let said = world.said(100).await;
    assert_eq!(reports(&said).last().unwrap().containers[0].restart_count, 1);
    assert_eq!(reasons(&said).iter().filter(|reason| **reason == "WorkloadNotSaved").count(), 1);
    // What is only in memory is written when that is possible again.
    world.store.set_broken(None);
    let before = world.store.saves();
    world.said(100).await;
    assert_eq!(world.store.saves(), before + 1);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn agents_come_and_go_and_containers_stay() {
    let mut world = World::new();
    world.run(&pod("a"));
    for _ in 0..3 {
        world.start(8);
        let said = world.said(1).await;
        let last = *reports(&said).last().unwrap();
        assert_eq!((last.phase, last.containers[0].restart_count), (Phase::Running, 0));
        world.stop().await;
    }
    assert_eq!(world.runtime.log().iter().filter(|line| line.starts_with("start")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_during_a_slow_start() {
    let mut world = World::new();
    world.runtime.script("web", vec![Script { start_takes: Duration::from_secs(300), ..Script::server() }]);
    world.start(8);
    world.run(&pod("a"));
    world.said(1).await;
    world.pods.get_mut(&uid("a")).unwrap().wish = DesiredWish::Stop { grace: Duration::from_secs(5) };
    world.publish();
    let said = world.said(400).await;
    assert!(matches!(said.last(), Some(ReportItem::Gone(gone)) if gone.uid == uid("a")));
    // The grace period was over before there was anything to stop.
    assert_eq!(world.runtime.log(), ["prepare a", "start a-web-0", "kill a-web-0"]);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn everything_is_said_again_when_asked_and_nothing_twice_otherwise() {
    let mut world = World::new();
    world.start(8);
    world.run(&pod("a"));
    world.run(&pod("b"));
    world.said(1).await;
    world.publish();
    assert_eq!(world.said(1_000).await, []);
    world.agent.as_ref().unwrap().resync.send_replace(1);
    let said = world.said(1).await;
    assert_eq!(reports(&said).iter().map(|report| report.uid.as_str()).collect::<Vec<_>>().len(), 2);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_pods_than_places_in_the_queue_all_have_their_say() {
    let mut world = World::new();
    world.start(1);
    for number in 0..100 {
        world.run(&pod(&format!("p{number}")));
    }
    let said = world.said(5).await;
    let running = reports(&said).into_iter().filter(|report| report.phase == Phase::Running).count();
    assert_eq!(running, 100);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_for_which_there_is_no_room_fails_and_leaves_the_others_alone() {
    let mut world = World::new();
    let few = HostFacts { allocatable: [("pods".to_owned(), 2)].into(), ..HostFacts::default() };
    world.runtime.script("web", vec![Script::server()]);
    world.start(64);
    world.agent.as_ref().unwrap().host.send_replace(Arc::new(few.clone()));
    for name in ["a", "b"] {
        world.run(&pod(name));
    }
    world.said(1).await;
    world.run(&pod("c"));
    let said = world.said(1).await;
    assert_eq!(reasons(&said), ["OutOfpods"]);
    let last = reports(&said).last().copied().unwrap().clone();
    assert_eq!((last.phase, last.reason.as_deref(), last.containers.len()), (Phase::Failed, Some("OutOfpods"), 0));
    assert!(last.message.unwrap().starts_with("Pod was rejected: Node didn't have enough resource: pods, "));

    // Another agent finds the same: who has begun goes on, and who was rejected stays so.
    world.stop().await;
    world.start(64);
    world.agent.as_ref().unwrap().host.send_replace(Arc::new(few));
    let said = world.said(1).await;
    let phases: BTreeMap<_, _> = reports(&said).iter().map(|report| (report.uid.as_str(), report.phase)).collect();
    assert_eq!(phases, [("a", Phase::Running), ("b", Phase::Running), ("c", Phase::Failed)].into());

    // Who goes leaves room, though not for one that was rejected.
    world.pods.remove(&uid("a"));
    world.publish();
    world.said(60).await;
    world.run(&pod("d"));
    let said = world.said(1).await;
    assert!(!reasons(&said).contains(&"OutOfpods"));
    assert_eq!(reports(&said).last().unwrap().phase, Phase::Running);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_leaves_the_set_leaves_nothing_and_may_come_back() {
    let mut world = World::new();
    world.start(8);
    world.run(&pod("a"));
    world.said(1).await;
    world.pods.clear();
    world.publish();
    let said = world.said(60).await;
    assert!(said.iter().any(|item| matches!(item, ReportItem::Gone(_))));
    assert_eq!(world.store.recovered(), []);
    world.run(&pod("a"));
    world.said(1).await;
    let log = world.runtime.log();
    assert_eq!(log, ["prepare a", "start a-web-0", "term a-web-0", "remove a", "prepare a", "start a-web-0"]);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_fails_is_followed_by_one_that_asks_until_it_knows_what_runs() {
    let mut world = World::new();
    let fault = Script { start_fails: Some(ScriptedFailure::Panic("a fault".into())), ..Script::server() };
    let ends = Script::ends_after(Duration::from_secs(5), 1);
    world.runtime.script("web", vec![ends, fault.clone(), Script::server()]);
    world.start(8);
    world.run(&pod("a"));
    world.said(4).await;
    world.runtime.set_inventory_fails(Some("the engine is away"));
    let said = world.said(1_000).await;
    for told in ["WorkloadOwnerFailed", "RuntimeUnavailable"] {
        assert_eq!(reasons(&said).iter().filter(|reason| **reason == told).count(), 1, "{told}");
    }
    assert!(!reports(&said).iter().any(|report| report.containers[0].restart_count > 0));
    // The attempt that failed is made again, since nobody can tell that it was tried; then all is well.
    world.runtime.script("web", vec![Script::server()]);
    world.runtime.set_inventory_fails(None);
    let said = world.said(100).await;
    let last = *reports(&said).last().unwrap();
    assert_eq!((last.phase, last.containers[0].restart_count), (Phase::Running, 1));
    // And it is heard.
    world.pods.clear();
    world.publish();
    assert!(world.said(60).await.iter().any(|item| matches!(item, ReportItem::Gone(_))));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_blob_delays_and_a_found_one_arrives() {
    let mut world = World::new();
    let hash = ContentHash::of(b"content");
    let file = File { path: "f".into(), mode: 0o644, content: Content::Blob(ObjectRef { hash, len: 7 }), owner: None };
    let mut spec = pod("a");
    let source = VolumeSource::Files(Files { secret: false, entries: vec![file] });
    spec.volumes.push(Volume { name: "v".into(), source });
    world.start(8);
    world.run(&spec);
    let said = world.said(5).await;
    assert_eq!(reasons(&said), ["FailedMount"]);
    world.store.put_blob(b"content");
    let said = world.said(15).await;
    assert_eq!(reports(&said).last().unwrap().phase, Phase::Running);
    assert_eq!(*world.runtime.prepared(&uid("a")).unwrap().files["v"][0].content, *b"content");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_pod_that_has_to_go_goes_and_no_other() {
    let mut world = World::new();
    world.start(64);
    world.run(&pod("a"));
    world.run(&pod("b"));
    world.said(5).await;
    let eviction = Eviction { uid: uid("a"), message: "The node was low on resource: memory. ".to_owned() };
    world.agent.as_ref().unwrap().evict.send_replace(Some(Arc::new(eviction)));
    let said = world.said(60).await;
    let reports = reports(&said);
    let last = reports.last().unwrap();
    assert_eq!((last.uid.clone(), last.phase, last.reason.as_deref()), (uid("a"), Phase::Failed, Some("Evicted")));
    assert!(reports.iter().all(|report| report.uid == uid("a")));
    assert!(world.runtime.log().contains(&"term a-web-0".to_owned()), "{:?}", world.runtime.log());
    // A pod that comes later is not meant by what was decided before.
    world.run(&pod("c"));
    let said = world.said(5).await;
    assert!(said.iter().all(|item| !matches!(item, ReportItem::Event(event) if event.reason == "Evicted")), "{said:?}");
    world.stop().await;
}
