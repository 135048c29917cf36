//! A device for a test: real directories, real processes, and an agent without a link.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use device_agent::desired::{Deployment, DesiredPod, DesiredSet, DesiredWish};
use device_agent::runtime::process::{Process, ProcessConfig};
use device_agent::verbs::Verbs;
use device_agent::workloads::{HostFacts, Parts, StoreError, WorkloadStore, Workloads};
use hawser_wire::deployment::{Container, EdgeDeployment, PullPolicy, Resources, RestartPolicy, User};
use hawser_wire::report::{ContainerState, DeviceEvent, Gone, Phase, ReportItem, Terminated, WorkloadReport};
use hawser_wire::{ContentHash, DeviceTime, PodUid, Version};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes; only a failing test waits as long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn uid(name: &str) -> PodUid {
    PodUid::new(name).unwrap()
}

pub(crate) fn shell(script: &str) -> Container {
    Container {
        name: "main".into(),
        image: "host".into(),
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
        hostname: None,
        host_network: false,
        fs_group: None,
        supplemental_groups: vec![],
        engine: None,
        priority: None,
        ephemeral_containers: Vec::new(),
        generation: None,
    }
}

/// Records as files, so that they survive an agent that is killed.
pub(crate) struct FileStore(pub(crate) PathBuf);

impl FileStore {
    pub(crate) fn recovered(&self) -> Vec<(PodUid, Vec<u8>)> {
        let entries = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (uid(entry.file_name().to_str().unwrap()), std::fs::read(entry.path()).unwrap())).collect()
    }
}

impl WorkloadStore for FileStore {
    async fn save(&self, uid: &PodUid, record: Vec<u8>) -> Result<(), StoreError> {
        let draft = self.0.with_extension(uid.as_str());
        std::fs::write(&draft, record)
            .and_then(|()| std::fs::rename(&draft, self.0.join(uid.as_str())))
            .map_err(|source| StoreError { operation: format!("save {uid}"), source: source.into() })
    }

    async fn forget(&self, uid: &PodUid) -> Result<(), StoreError> {
        let _ = std::fs::remove_file(self.0.join(uid.as_str()));
        Ok(())
    }

    async fn blob(&self, hash: ContentHash) -> Result<Arc<[u8]>, StoreError> {
        Err(StoreError { operation: format!("read {hash}"), source: "there are no blobs here".into() })
    }
}

pub(crate) struct Device {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) secrets: tempfile::TempDir,
    pub(crate) config: ProcessConfig,
    pods: BTreeMap<PodUid, DesiredPod>,
    revision: u64,
    agent: Option<Agent>,
    said: BTreeMap<PodUid, WorkloadReport>,
    gone: BTreeMap<PodUid, Gone>,
    pub(crate) events: Vec<DeviceEvent>,
}

struct Agent {
    desired: watch::Sender<Arc<DesiredSet>>,
    reports: mpsc::Receiver<ReportItem>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _others: (watch::Sender<u64>, watch::Sender<Arc<HostFacts>>),
}

pub(crate) fn config(dir: &Path, secrets: &Path) -> ProcessConfig {
    ProcessConfig {
        shim: env!("CARGO_BIN_EXE_hawser-agent").into(),
        cgroup: None,
        ..ProcessConfig::new(dir.join("pods"), secrets.to_owned())
    }
}

impl Device {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secrets = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir(dir.path().join("records")).unwrap();
        Self {
            config: config(dir.path(), secrets.path()),
            dir,
            secrets,
            pods: BTreeMap::new(),
            revision: 0,
            agent: None,
            said: BTreeMap::new(),
            gone: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn start(&mut self) {
        let records = FileStore(self.dir.path().join("records"));
        let (desired, desired_receiver) = watch::channel(self.set());
        let (reports, receiver) = mpsc::channel(16);
        let (resync, resync_receiver) = watch::channel(0);
        let facts = HostFacts { addresses: vec!["192.0.2.7".into()], ..HostFacts::default() };
        let (host, host_receiver) = watch::channel(Arc::new(facts));
        let stop = CancellationToken::new();
        let task = Workloads::start(Parts {
            runtime: Arc::new(Process::new(self.config.clone())),
            desired: desired_receiver,
            recovered: records.recovered(),
            store: Arc::new(records),
            reports,
            clock: clock(),
            resync: resync_receiver,
            host: host_receiver,
            evictions: watch::channel(None).1,
            stop: stop.clone(),
        });
        self.agent = Some(Agent { desired, reports: receiver, stop, task, _others: (resync, host) });
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop.cancel();
            agent.task.await.unwrap();
        }
        self.said.clear();
    }

    /// What streams talk to on this device. The agent has to be running.
    pub(crate) fn verbs(&self) -> Verbs {
        let desired = self.agent.as_ref().unwrap().desired.subscribe();
        Verbs::new(Process::new(self.config.clone()), desired, clock())
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
        let deployment = deployment(spec);
        self.pods.insert(spec.uid.clone(), DesiredPod { wish: DesiredWish::Run, deployment: Some(deployment) });
        self.publish();
    }

    pub(crate) fn ask_to_stop(&mut self, name: &str, grace: Duration) {
        self.pods.get_mut(&uid(name)).unwrap().wish = DesiredWish::Stop { grace };
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
            let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            match tokio::time::timeout(left, agent.reports.recv()).await {
                Ok(Some(ReportItem::Workload(report))) => drop(self.said.insert(report.uid.clone(), report)),
                Ok(Some(ReportItem::Gone(gone))) => drop(self.gone.insert(gone.uid.clone(), gone)),
                Ok(Some(ReportItem::Event(event))) => self.events.push(event),
                Ok(Some(ReportItem::Facts(_))) => panic!("facts are none of the workloads' business"),
                Ok(None) => panic!("the workloads ended while waiting for: {what}"),
                // Conditions may look at the disk as well.
                Err(_) => assert!(
                    Instant::now() < deadline,
                    "waited in vain for: {what}; said: {:?}",
                    self.said.values().take(3).collect::<Vec<_>>()
                ),
            }
        }
    }

    pub(crate) fn report(&self, name: &str) -> Option<&WorkloadReport> {
        self.said.get(&uid(name))
    }

    pub(crate) fn is_gone(&self, name: &str) -> Option<&Gone> {
        self.gone.get(&uid(name))
    }

    /// Runs a pod that is never restarted, to its end.
    pub(crate) async fn run_to_end(&mut self, spec: &EdgeDeployment) -> Terminated {
        self.run(spec);
        let name = spec.name.clone();
        self.until("the end of the pod", |device| {
            device.report(&name).is_some_and(|report| matches!(report.phase, Phase::Succeeded | Phase::Failed))
        })
        .await;
        match &self.report(&name).unwrap().containers[0].state {
            ContainerState::Terminated(terminated) => terminated.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn until_running(&mut self, name: &str) {
        self.until("the pod to run", |device| device.is_running(name)).await;
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.report(name).is_some_and(|report| report.phase == Phase::Running && report.containers[0].ready)
    }

    pub(crate) fn restarts(&self, name: &str) -> u32 {
        self.report(name).map_or(0, |report| report.containers[0].restart_count)
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.config.root.join(name)
    }

    pub(crate) fn work(&self, name: &str) -> PathBuf {
        self.place(name).join("containers/main/work")
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.place(name).join("logs/main/0.log")).unwrap_or_default()
    }

    /// The text that a program wrote to a file in its directory, as soon as it ends with a newline.
    pub(crate) async fn written(&mut self, name: &str, file: &str) -> String {
        let path = self.work(name).join(file);
        let mut text = String::new();
        self.until(&format!("{file} to be written"), |_| {
            text = std::fs::read_to_string(&path).unwrap_or_default();
            text.ends_with('\n')
        })
        .await;
        text.trim().to_owned()
    }

    /// Whoever has this device's directory in its command line.
    pub(crate) fn shims(&self) -> Vec<i32> {
        let root = self.config.root.display().to_string();
        let is_ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&root)
        };
        pids().into_iter().filter(is_ours).collect()
    }

    pub(crate) fn event(&self, reason: &str) -> Option<&DeviceEvent> {
        self.events.iter().find(|event| event.reason == reason)
    }
}

impl Drop for Device {
    /// A failed test leaves nothing running: the agent is told to go, and then its shims are killed, with which goes what
    /// they hold. On other threads the agent may need a moment to hear it.
    fn drop(&mut self) {
        if let Some(agent) = &self.agent {
            agent.stop.cancel();
        }
        for _ in 0..20 {
            let shims = self.shims();
            if shims.is_empty() {
                return;
            }
            for pid in shims {
                let _ = rustix::process::kill_process(
                    rustix::process::Pid::from_raw(pid).unwrap(),
                    rustix::process::Signal::KILL,
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn deployment(spec: &EdgeDeployment) -> Deployment {
    Deployment { hash: ContentHash::of(&hawser_wire::encode(spec)), spec: Arc::new(spec.clone()) }
}

/// A timeline that goes on in every process of this boot.
pub(crate) fn clock() -> Arc<dyn Fn() -> DeviceTime + Send + Sync> {
    Arc::new(|| {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        DeviceTime(time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000)
    })
}

pub(crate) fn pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
