//! The Kubernetes API, as far as the conversation needs it: pods with a resourceVersion that grows, ConfigMaps whose
//! changes move no pod, a log of changes to watch, a backup to restore.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use edge_provider::deployment::{Object, Prepared};
use hawser_wire::deployment::{
    Container, Content, EdgeDeployment, EnvValue, EnvVar, EphemeralContainer, File, Files, RestartPolicy, Volume,
    VolumeSource,
};
use hawser_wire::{ContentHash, PodUid};
use virtual_node::PodRef;
use virtual_node::provider::{EventReport, PodReport, Subject};

use crate::schedule::{CONFIGS, Kind};
use crate::summary;

/// A pod, by the number of its creation.
pub(crate) type PodNo = u32;

/// A pod object.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) no: PodNo,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) image: u32,
    /// How many containers were added to look at it.
    pub(crate) looks: u32,
    pub(crate) config: u32,
    pub(crate) version: u64,
    /// The grace period, if it is being deleted.
    pub(crate) deletion: Option<u32>,
    pub(crate) status: Option<PodReport>,
}

/// One line of the log that watchers read.
#[derive(Debug, Clone)]
pub(crate) struct Changed {
    pub(crate) version: u64,
    pub(crate) no: PodNo,
    /// `None`: deleted.
    pub(crate) pod: Option<Pod>,
}

/// Which event was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventKey {
    pub(crate) pod: Option<String>,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// What can be restored.
#[derive(Debug, Clone)]
struct Backup {
    revision: u64,
    pods: BTreeMap<PodNo, Pod>,
    configs: [Config; CONFIGS as usize],
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Config {
    pub(crate) content: u32,
    pub(crate) hidden: bool,
}

/// How new what an edge deployment says is: how often the API was restored, then the pod's image and the content.
pub(crate) type Age = (u32, u32, u32);

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) revision: u64,
    pub(crate) pods: BTreeMap<PodNo, Pod>,
    pub(crate) configs: [Config; CONFIGS as usize],
    pub(crate) log: Vec<Changed>,
    pub(crate) down: bool,
    pub(crate) restores: u32,
    pub(crate) created: PodNo,
    backup: Option<Backup>,
    // What the invariants need; no restore takes it back.
    pub(crate) events: BTreeSet<EventKey>,
    pub(crate) written: BTreeSet<(PodNo, String)>,
    /// Pods that somebody wanted to end.
    pub(crate) doomed: BTreeSet<PodNo>,
    /// All images that a pod ever had.
    pub(crate) images: BTreeMap<PodNo, BTreeSet<u32>>,
    /// How old what each edge deployment says is: when it was first made, and when last.
    pub(crate) made: HashMap<ContentHash, (Age, Age)>,
}

impl Api {
    pub(crate) fn new() -> Self {
        Self {
            revision: 100,
            pods: BTreeMap::new(),
            configs: [Config::default(); CONFIGS as usize],
            log: Vec::new(),
            down: false,
            restores: 0,
            created: 0,
            backup: None,
            events: BTreeSet::new(),
            written: BTreeSet::new(),
            doomed: BTreeSet::new(),
            images: BTreeMap::new(),
            made: HashMap::new(),
        }
    }

    pub(crate) fn create(&mut self, kind: Kind, config: u32, name: Option<String>) -> PodNo {
        self.created += 1;
        let no = self.created;
        let name = name.unwrap_or_else(|| format!("pod-{no}"));
        let pod = Pod { no, name, kind, image: 1, looks: 0, config, version: 0, deletion: None, status: None };
        self.images.entry(no).or_default().insert(1);
        self.put(pod);
        no
    }

    /// Writes an object: its version and the server's grow.
    pub(crate) fn put(&mut self, mut pod: Pod) {
        self.revision += 1;
        pod.version = self.revision;
        self.log.push(Changed { version: self.revision, no: pod.no, pod: Some(pod.clone()) });
        self.pods.insert(pod.no, pod);
    }

    pub(crate) fn delete(&mut self, no: PodNo, grace: u32) {
        self.doomed.insert(no);
        if let Some(mut pod) = self.pods.get(&no).cloned() {
            let grace = pod.deletion.map_or(grace, |before| before.min(grace));
            pod.deletion = Some(grace);
            self.put(pod);
        }
    }

    /// The object vanishes.
    pub(crate) fn remove(&mut self, no: PodNo) {
        self.doomed.insert(no);
        if self.pods.remove(&no).is_some() {
            self.revision += 1;
            self.log.push(Changed { version: self.revision, no, pod: None });
        }
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = Some(Backup { revision: self.revision, pods: self.pods.clone(), configs: self.configs });
    }

    /// Everything is as it was when the backup was taken. Whether there was one.
    pub(crate) fn restore(&mut self) -> bool {
        let Some(backup) = self.backup.clone() else { return false };
        self.restores += 1;
        let lost = self.pods.keys().filter(|no| !backup.pods.contains_key(no));
        self.doomed.extend(lost);
        (self.revision, self.pods, self.configs) = (backup.revision, backup.pods, backup.configs);
        // What was running on another image was changed by somebody, if only by going back.
        for pod in self.pods.values() {
            self.images.entry(pod.no).or_default().insert(pod.image);
        }
        self.log.clear();
        true
    }

    /// Writes a status, as the virtual node does: what ended stays ended. Whether there was something to write it to.
    pub(crate) fn write_status(&mut self, no: PodNo, report: PodReport) -> bool {
        let Some(mut pod) = self.pods.get(&no).cloned() else { return false };
        self.written.insert((no, summary::of_status(&report)));
        let ended = pod.status.as_ref().is_some_and(|status| status.phase.is_terminal());
        if pod.status.as_ref() == Some(&report) || (ended && !report.phase.is_terminal()) {
            return true;
        }
        if report.phase.is_terminal() {
            self.doomed.insert(no);
        }
        pod.status = Some(report);
        self.put(pod);
        true
    }

    pub(crate) fn write_event(&mut self, event: &EventReport) {
        let pod = match &event.subject {
            Subject::Node(_) => None,
            Subject::Pod(pod) | Subject::Container { pod, .. } => Some(pod.uid.as_str().to_owned()),
        };
        self.events.insert(EventKey { pod, reason: event.reason.clone(), message: event.message.clone() });
    }

    /// What the pod is to its device at the moment; `None`: something that it refers to is missing.
    pub(crate) fn prepare(&mut self, pod: &Pod) -> Option<Prepared> {
        let config = self.configs[pod.config as usize];
        if config.hidden {
            return None;
        }
        let (deployment, blob) = deployment_of(pod, config.content);
        let deployment = Object::new(hawser_wire::encode(&deployment));
        let age = (self.restores, pod.image, config.content);
        self.made.entry(deployment.reference.hash).or_insert((age, age)).1 = age;
        Some(Prepared { deployment, blobs: vec![blob], again: None, notices: Vec::new() })
    }
}

impl Pod {
    pub(crate) fn uid(&self) -> PodUid {
        uid_of(self.no)
    }

    pub(crate) fn reference(&self) -> PodRef {
        PodRef {
            namespace: "default".to_owned(),
            name: self.name.clone(),
            uid: virtual_node::PodUid::new(uid_of(self.no).as_str()),
        }
    }

    /// The names of the containers that were added to look at it.
    pub(crate) fn looks(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.looks).map(|number| format!("look-{number}"))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase.is_terminal())
    }
}

pub(crate) fn uid_of(no: PodNo) -> PodUid {
    PodUid::new(&format!("00000000-0000-4000-8000-{no:012}")).expect("a UID")
}

pub(crate) fn no_of(uid: &str) -> PodNo {
    uid.rsplit('-').next().and_then(|no| no.parse().ok()).expect("a UID of ours")
}

/// What a pod becomes. The content travels as a blob; that of the last ConfigMap takes more than one chunk.
fn deployment_of(pod: &Pod, content: u32) -> (EdgeDeployment, Object) {
    let len = if pod.config == CONFIGS - 1 { 70_000 } else { 600 };
    let mut bytes = format!("content {} of config {}", content, pod.config).into_bytes();
    bytes.resize(len, b'.');
    let blob = Object::new(bytes);
    let files = Files {
        secret: false,
        entries: vec![File {
            path: "config".to_owned(),
            mode: 0o644,
            content: Content::Blob(blob.reference),
            owner: None,
        }],
    };
    let deployment = EdgeDeployment {
        restart_policy: match pod.kind {
            Kind::Job => RestartPolicy::Never,
            Kind::Flaky => RestartPolicy::OnFailure,
            Kind::Server | Kind::Stubborn | Kind::Crashy | Kind::Staged => RestartPolicy::Always,
        },
        grace_seconds: 5,
        init_containers: match pod.kind {
            Kind::Staged => vec![container("init", 1)],
            _ => Vec::new(),
        },
        containers: vec![container("main", pod.image)],
        volumes: vec![Volume { name: "config".to_owned(), source: VolumeSource::Files(files) }],
        ephemeral_containers: pod.looks().map(|name| look(&name)).collect(),
        ..EdgeDeployment::named(pod.uid(), "default", pod.name.clone())
    };
    (deployment, blob)
}

fn look(name: &str) -> EphemeralContainer {
    EphemeralContainer { container: container(name, 0), target: Some("main".to_owned()), hindrance: None }
}

fn container(name: &str, image: u32) -> Container {
    Container {
        env: vec![EnvVar { name: "A".to_owned(), value: EnvValue::Literal("b".to_owned()) }],
        ..Container::named(name, format!("image-{image}"))
    }
}
