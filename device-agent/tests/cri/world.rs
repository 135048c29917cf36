//! A device with a container engine, and an agent without a link.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use device_agent::desired::{Deployment, DesiredPod, DesiredSet, DesiredWish};
use device_agent::runtime::cri::{Cri, CriConfig};
use device_agent::streams::service::{Served, Sight};
use device_agent::verbs::EngineVerbs;
use device_agent::workloads::{HostFacts, MemoryStore, Parts, Workloads};
use hawser_wire::deployment::{
    Container, EdgeDeployment, EmptyDir, Mount, PullPolicy, Resources, RestartPolicy, User, Volume, VolumeSource,
};
use hawser_wire::report::{
    ContainerReport, ContainerState, DeviceEvent, Phase, ReportItem, Terminated, WorkloadReport,
};
use hawser_wire::stream::StreamRefusal;
use hawser_wire::{ContentHash, DeviceTime, PodUid, Version};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::engine::{Engine, IMAGE};

/// Far more than anything here takes; only a failing test waits as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn uid(name: &str) -> PodUid {
    PodUid::new(name).unwrap()
}

pub(crate) fn shell(script: &str) -> Container {
    Container {
        name: "main".into(),
        image: IMAGE.into(),
        pull_policy: PullPolicy::IfNotPresent,
        // In a command `$$` stands for one `$`, as on Kubernetes.
        command: vec!["/bin/sh".into(), "-c".into(), script.replace("$$", "$$$$")],
        args: vec![],
        working_dir: None,
        env: vec![],
        mounts: vec![],
        resources: Resources::default(),
        sidecar: false,
        user: User::default(),
        termination_message_path: "/dev/termination-log".into(),
        termination_message_from_logs: false,
        interactive: None,
        confinement: None,
        care: None,
        restart_to_resize: None,
    }
}

/// A pod that is not asked for long whether it would please end.
pub(crate) fn hasty(pod: EdgeDeployment) -> EdgeDeployment {
    EdgeDeployment { grace_seconds: 1, ..pod }
}

pub(crate) fn pod(name: &str, policy: RestartPolicy, container: Container) -> EdgeDeployment {
    EdgeDeployment {
        uid: uid(name),
        namespace: "test".into(),
        name: name.into(),
        restart_policy: policy,
        grace_seconds: 30,
        active_deadline_seconds: None,
        init_containers: vec![],
        containers: vec![container],
        volumes: vec![],
        hostname: Some(name.into()),
        host_network: false,
        fs_group: None,
        supplemental_groups: vec![],
        engine: None,
        priority: None,
        ephemeral_containers: Vec::new(),
        generation: None,
    }
}

pub(crate) fn mount(volume: &str, path: &str) -> Mount {
    Mount {
        volume: volume.into(),
        path: path.into(),
        read_only: false,
        sub_path: None,
        sub_path_expr: false,
        propagation: None,
        read_only_below: None,
    }
}

/// An empty directory of the pod's own.
pub(crate) fn scratch(name: &str) -> Volume {
    Volume { name: name.into(), source: VolumeSource::EmptyDir(EmptyDir { memory: false, size_limit: None }) }
}

pub(crate) struct Device {
    pub(crate) engine: Engine,
    pub(crate) config: CriConfig,
    store: Arc<MemoryStore>,
    pods: BTreeMap<PodUid, DesiredPod>,
    revision: u64,
    agent: Option<Agent>,
    said: BTreeMap<PodUid, WorkloadReport>,
    /// Why containers wait, as they last said.
    waiting: Arc<Mutex<BTreeMap<(PodUid, String), String>>>,
    gone: Vec<PodUid>,
    pub(crate) events: Vec<DeviceEvent>,
    _secrets: tempfile::TempDir,
    // After the engine, which ends what runs in them.
    _cgroups: Cgroups,
}

struct Agent {
    verbs: EngineVerbs,
    desired: watch::Sender<Arc<DesiredSet>>,
    reports: mpsc::Receiver<ReportItem>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _others: (watch::Sender<u64>, watch::Sender<Arc<HostFacts>>),
}

impl Device {
    /// A device, or `None` where there can be no engine.
    pub(crate) fn new() -> Option<Self> {
        let engine = Engine::start()?;
        let secrets = tempfile::tempdir_in("/dev/shm").unwrap();
        let pods = engine.dir.path().join("pods");
        let mut config = CriConfig::new(engine.socket(), "boat", pods, secrets.path().to_owned());
        // Other tests run pods of the same names at the same time.
        let own = engine.dir.path().file_name().unwrap().to_str().unwrap();
        config.cgroup_root = format!("hawser-test-{}", own.trim_start_matches('.'));
        let cgroups = Cgroups(config.cgroup_root.clone());
        // Without one each pod would be told of it.
        config.cluster.servers = vec!["192.0.2.10".parse().unwrap()];
        Some(Self {
            engine,
            config,
            store: Arc::default(),
            pods: BTreeMap::new(),
            revision: 0,
            agent: None,
            said: BTreeMap::new(),
            waiting: Arc::default(),
            gone: Vec::new(),
            events: Vec::new(),
            _secrets: secrets,
            _cgroups: cgroups,
        })
    }

    pub(crate) async fn start(&mut self) {
        let runtime = Cri::connect(self.config.clone()).await.unwrap();
        let (desired, desired_receiver) = watch::channel(self.set());
        let (reports, receiver) = mpsc::channel(16);
        let (resync, resync_receiver) = watch::channel(0);
        let facts = HostFacts { addresses: vec!["192.0.2.7".into()], ..HostFacts::default() };
        let (host, host_receiver) = watch::channel(Arc::new(facts));
        let stop = CancellationToken::new();
        let waiting = self.waiting.clone();
        let waits = Arc::new(move |pod: &PodUid, name: &str| {
            waiting.lock().unwrap().get(&(pod.clone(), name.to_owned())).cloned()
        });
        let verbs = runtime.service(Sight { desired: desired.subscribe(), clock: clock(), waits });
        let task = Workloads::start(Parts {
            runtime: Arc::new(runtime),
            desired: desired_receiver,
            recovered: self.store.recovered(),
            store: self.store.clone(),
            reports,
            clock: clock(),
            resync: resync_receiver,
            host: host_receiver,
            evictions: watch::channel(None).1,
            stop: stop.clone(),
        });
        self.agent = Some(Agent { verbs, desired, reports: receiver, stop, task, _others: (resync, host) });
    }

    /// The agent dies between two steps, as by `kill -9`: nothing is awaited, nothing said.
    pub(crate) async fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.task.abort();
            let _ = agent.task.await;
        }
        self.said.clear();
    }

    /// The agent's memory and what was wanted of it are lost.
    pub(crate) fn forget_everything(&mut self) {
        self.store = Arc::default();
        self.pods.clear();
        self.revision += 1;
    }

    /// What streams talk to on this device. The agent has to be running.
    pub(crate) fn verbs(&self) -> EngineVerbs {
        self.agent.as_ref().unwrap().verbs.clone()
    }

    fn set(&self) -> Arc<DesiredSet> {
        let version = Version { epoch: 0, revision: self.revision, edit: 0 };
        Arc::new(DesiredSet { version: Some(version), heard: true, pod_ranges: Vec::new(), pods: self.pods.clone() })
    }

    fn publish(&mut self) {
        self.revision += 1;
        let set = self.set();
        if let Some(agent) = &self.agent {
            agent.desired.send_replace(set);
        }
    }

    pub(crate) fn run(&mut self, spec: &EdgeDeployment) {
        let hash = ContentHash::of(&hawser_wire::encode(spec));
        let deployment = Some(Deployment { hash, spec: Arc::new(spec.clone()) });
        self.pods.insert(spec.uid.clone(), DesiredPod { wish: DesiredWish::Run, deployment });
        self.publish();
    }

    pub(crate) fn unwant(&mut self, name: &str) {
        self.pods.remove(&uid(name));
        self.publish();
    }

    /// Reads reports until `done`.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let agent = self.agent.as_mut().unwrap();
            match tokio::time::timeout(Duration::from_millis(100), agent.reports.recv()).await {
                Ok(Some(ReportItem::Workload(report))) => {
                    for container in &report.containers {
                        if let ContainerState::Waiting(waiting) = &container.state {
                            let of = (report.uid.clone(), container.name.clone());
                            self.waiting.lock().unwrap().insert(of, waiting.reason.clone());
                        }
                    }
                    self.said.insert(report.uid.clone(), report);
                }
                Ok(Some(ReportItem::Gone(gone))) => self.gone.push(gone.uid),
                Ok(Some(ReportItem::Event(event))) => self.events.push(event),
                Ok(Some(ReportItem::Facts(_))) => panic!("facts are none of the workloads' business"),
                Ok(None) => panic!("the workloads ended while waiting for: {what}"),
                Err(_) => assert!(
                    Instant::now() < deadline,
                    "waited in vain for: {what}; said: {:?}; events: {:?}; the engine: {}",
                    self.said.values().take(3).collect::<Vec<_>>(),
                    self.events,
                    self.engine.log()
                ),
            }
        }
    }

    /// The pod is unwanted, gone, and nothing of it is left.
    pub(crate) async fn sweep(&mut self, name: &str) {
        self.unwant(name);
        self.until("the pod to be gone", |device| device.gone.contains(&uid(name))).await;
        let place = self.config.root.join(name);
        self.until("nothing to be left of the pod", |_| !place.exists()).await;
    }

    pub(crate) fn report(&self, name: &str) -> Option<&WorkloadReport> {
        self.said.get(&uid(name))
    }

    pub(crate) fn container(&self, name: &str) -> Option<&ContainerReport> {
        self.report(name)?.containers.first()
    }

    /// Runs a pod that is never restarted, to its end.
    pub(crate) async fn run_to_end(&mut self, spec: &EdgeDeployment) -> Terminated {
        self.run(spec);
        let name = spec.name.clone();
        self.until_ended(&name).await
    }

    pub(crate) async fn until_ended(&mut self, name: &str) -> Terminated {
        self.until("the end of the pod", |device| {
            device.report(name).is_some_and(|report| matches!(report.phase, Phase::Succeeded | Phase::Failed))
        })
        .await;
        match &self.container(name).unwrap().state {
            ContainerState::Terminated(terminated) => terminated.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn until_running(&mut self, name: &str) {
        self.until("the pod to run", |device| {
            device.report(name).is_some_and(|report| report.phase == Phase::Running && report.containers[0].ready)
        })
        .await;
    }

    /// Waits until the pod was rejected for this reason; the message.
    pub(crate) async fn until_rejected(&mut self, name: &str, reason: &str) -> String {
        self.until(reason, |device| {
            device.report(name).is_some_and(|report| {
                report.phase == Phase::Failed
                    && report.reason.as_deref() == Some(reason)
                    && report.containers.is_empty()
            })
        })
        .await;
        self.report(name).and_then(|report| report.message.clone()).unwrap_or_default()
    }

    /// Waits until the container waits for this reason; the message.
    pub(crate) async fn until_waiting(&mut self, name: &str, reason: &str) -> String {
        let mut message = None;
        self.until(reason, |device| {
            if let Some(ContainerState::Waiting(waiting)) = device.container(name).map(|container| &container.state)
                && waiting.reason == reason
            {
                message = waiting.message.clone();
                return true;
            }
            false
        })
        .await;
        message.unwrap_or_default()
    }

    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.config.root.join(name).join("logs/main/0.log")
    }

    /// What the container has written to its log, without what the log adds.
    pub(crate) fn output(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log_file(name)).unwrap_or_default();
        let record = |line: &str| {
            let mut words = line.splitn(4, ' ').skip(2);
            let (tag, text) = (words.next()?, words.next()?);
            Some(format!("{text}{}", if tag == "P" { "" } else { "\n" }))
        };
        text.lines().filter_map(record).collect()
    }

    pub(crate) fn reasons(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.reason.as_str()).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(agent) = &self.agent {
            agent.stop.cancel();
        }
    }
}

/// What becomes of a verb when an engine that was just started has come up.
pub(crate) async fn when_up<T>(ask: impl AsyncFn() -> Result<T, StreamRefusal>) -> Result<T, StreamRefusal> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(refused) if refused.message.contains("not initialized") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            told => return told,
        }
    }
}

/// A timeline that goes on in every process of this boot.
pub(crate) fn clock() -> Arc<dyn Fn() -> DeviceTime + Send + Sync> {
    Arc::new(|| {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        DeviceTime(time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000)
    })
}
