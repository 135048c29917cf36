//! An edge deployment: what one pod becomes for one device. Self-contained, every reference resolved.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use crate::desired::ObjectRef;
use crate::ids::PodUid;

mod care;
mod container;
mod engine;
mod ephemeral;
mod volume;

pub use self::care::*;
pub use self::container::*;
pub use self::engine::*;
pub use self::ephemeral::*;
pub use self::volume::*;

/// One pod for one device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct EdgeDeployment {
    /// The pod's UID.
    #[n(0)]
    pub uid: PodUid,
    /// The pod's namespace.
    #[n(1)]
    pub namespace: String,
    /// The pod's name.
    #[n(2)]
    pub name: String,
    /// Whether containers that end are started again.
    #[n(3)]
    pub restart_policy: RestartPolicy,
    /// How long containers may take to end after TERM.
    #[n(4)]
    pub grace_seconds: u32,
    /// How long the pod may be active, counted from its start on the device.
    #[n(5)]
    pub active_deadline_seconds: Option<u64>,
    /// Containers that run before the others, in order.
    #[n(6)]
    pub init_containers: Vec<Container>,
    /// Containers.
    #[n(7)]
    pub containers: Vec<Container>,
    /// Volumes that containers may mount.
    #[n(8)]
    pub volumes: Vec<Volume>,
    /// The host name that the pod is to see, if the runtime can give it one.
    #[n(9)]
    pub hostname: Option<String>,
    /// Whether the pod asks for the device's own network.
    #[n(10)]
    #[cbor(default)]
    pub host_network: bool,
    /// The group that owns the files of the volumes.
    #[n(11)]
    pub fs_group: Option<u32>,
    /// Further groups of every process.
    #[n(12)]
    #[cbor(default)]
    pub supplemental_groups: Vec<u32>,
    /// What only a container engine can give it; `None`: nothing.
    #[n(13)]
    pub engine: Option<Engine>,
    /// How much it matters when the device is short of something: of two that may be evicted, the lower one goes; `None`: 0.
    #[n(14)]
    pub priority: Option<i32>,
    /// Containers that were added to look at it.
    #[n(15)]
    #[cbor(default, skip_if = "Vec::is_empty")]
    pub ephemeral_containers: Vec<EphemeralContainer>,
    /// How often its description was changed, counted as its `metadata.generation`; `None`: never.
    #[n(16)]
    pub generation: Option<u64>,
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// It runs before the others, and if it is a sidecar, beside them.
    Init,
    /// It is what the pod is for.
    Main,
    /// It was added to look at the pod.
    Ephemeral,
}

/// Whether containers that end are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum RestartPolicy {
    /// Always.
    #[n(0)]
    Always,
    /// When they failed.
    #[n(1)]
    OnFailure,
    /// Never.
    #[n(2)]
    Never,
}

impl EdgeDeployment {
    /// A pod without containers that asks for nothing more; its restart policy and grace are those of a pod that says none.
    pub fn named(uid: PodUid, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            uid,
            namespace: namespace.into(),
            name: name.into(),
            restart_policy: RestartPolicy::Always,
            grace_seconds: 30,
            active_deadline_seconds: None,
            init_containers: Vec::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
            hostname: None,
            host_network: false,
            fs_group: None,
            supplemental_groups: Vec::new(),
            engine: None,
            priority: None,
            ephemeral_containers: Vec::new(),
            generation: None,
        }
    }

    /// The blobs without which it cannot run.
    pub fn blobs(&self) -> impl Iterator<Item = ObjectRef> + '_ {
        self.volumes
            .iter()
            .filter_map(|volume| match &volume.source {
                VolumeSource::Files(files) => Some(files.entries.iter()),
                VolumeSource::EmptyDir(_)
                | VolumeSource::HostPath(_)
                | VolumeSource::Image(_)
                | VolumeSource::HugePages(_) => None,
            })
            .flatten()
            .filter_map(|file| match &file.content {
                Content::Blob(blob) => Some(*blob),
                Content::Inline(_) | Content::Device(_) => None,
            })
    }

    /// All containers: init containers, then containers, then those that were added.
    pub fn all_containers(&self) -> impl Iterator<Item = (&Container, ContainerKind)> {
        let init = self.init_containers.iter().map(|container| (container, ContainerKind::Init));
        let main = self.containers.iter().map(|container| (container, ContainerKind::Main));
        let added = self.ephemeral_containers.iter().map(|added| (&added.container, ContainerKind::Ephemeral));
        init.chain(main).chain(added)
    }

    /// The most that its containers ask for at the same time: init containers run one by one, beside the sidecars before
    /// them, and before all others. What was added later asks for nothing.
    pub fn at_once(&self, of: fn(&Resources) -> Option<u64>) -> u64 {
        self.most_at_once(|container| of(&container.resources).unwrap_or(0))
    }

    fn most_at_once(&self, own: impl Fn(&Container) -> u64) -> u64 {
        let (mut sidecars, mut peak) = (0_u64, 0);
        for container in &self.init_containers {
            let with = sidecars.saturating_add(own(container));
            peak = peak.max(with);
            if container.sidecar {
                sidecars = with;
            }
        }
        self.containers.iter().map(&own).fold(sidecars, u64::saturating_add).max(peak)
    }

    /// How many bytes of huge pages it may use at the same time, by the size of a page in bytes: what it asks for as a whole, or
    /// else what its containers do.
    pub fn huge_pages(&self) -> BTreeMap<u64, u64> {
        let asked = || self.asked_huge_pages();
        let mut all: BTreeMap<u64, u64> = BTreeMap::new();
        for pages in asked().filter(|pages| pages.container.is_some()) {
            let of = |container: &Container| {
                let own = |one: &&HugePages| {
                    one.page_bytes == pages.page_bytes && one.container.as_deref() == Some(container.name.as_str())
                };
                asked().find(own).map_or(0, |one| one.bytes)
            };
            all.entry(pages.page_bytes).or_insert_with(|| self.most_at_once(of));
        }
        all.extend(asked().filter(|pages| pages.container.is_none()).map(|pages| (pages.page_bytes, pages.bytes)));
        all
    }

    /// How many bytes of huge pages of this size a container may use: what it asks for, or else all that its pod may.
    pub fn huge_pages_of(&self, container: &str, page_bytes: u64) -> u64 {
        let of = |name: Option<&str>| {
            self.asked_huge_pages()
                .find(|pages| pages.page_bytes == page_bytes && pages.container.as_deref() == name)
                .map(|pages| pages.bytes)
        };
        of(Some(container)).or_else(|| of(None)).unwrap_or(0)
    }

    fn asked_huge_pages(&self) -> impl Iterator<Item = &HugePages> {
        self.engine.iter().flat_map(|engine| &engine.asks).filter_map(|ask| match ask {
            Ask::HugePages(pages) => Some(pages),
            _ => None,
        })
    }

    /// The container of this name, if it was added.
    pub fn ephemeral(&self, name: &str) -> Option<&EphemeralContainer> {
        self.ephemeral_containers.iter().find(|added| added.container.name == name)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn huge_pages_are_counted_like_all_that_containers_use_at_the_same_time() {
        const PAGE: u64 = 2 << 20;
        let pages = |container: Option<&str>, page_bytes, bytes| {
            Ask::HugePages(HugePages { container: container.map(String::from), page_bytes, bytes })
        };
        let mut pod = EdgeDeployment::named(PodUid::new("u").unwrap(), "n", "p");
        pod.init_containers = ["first", "beside"].map(|name| Container::named(name, "i")).into();
        pod.init_containers[1].sidecar = true;
        pod.containers = ["a", "b"].map(|name| Container::named(name, "i")).into();
        let with =
            |asks: Vec<Ask>| EdgeDeployment { engine: Some(Engine { asks, ..Engine::default() }), ..pod.clone() };
        assert!(pod.huge_pages().is_empty());
        let own = vec![
            pages(Some("first"), PAGE, 9),
            pages(Some("beside"), PAGE, 1),
            pages(Some("a"), PAGE, 2),
            pages(Some("b"), PAGE, 4),
            pages(Some("b"), 1 << 30, 8),
        ];
        let of_containers = with(own.clone());
        assert_eq!(of_containers.huge_pages(), BTreeMap::from([(PAGE, 9), (1 << 30, 8)]));
        assert_eq!(
            [("a", PAGE), ("b", 1 << 30), ("a", 1 << 30)].map(|(name, page)| of_containers.huge_pages_of(name, page)),
            [2, 8, 0]
        );
        let whole = with([own, vec![pages(None, PAGE, 20)]].concat());
        assert_eq!(whole.huge_pages(), BTreeMap::from([(PAGE, 20), (1 << 30, 8)]));
        assert_eq!(["a", "added"].map(|name| whole.huge_pages_of(name, PAGE)), [2, 20]);
    }
}
