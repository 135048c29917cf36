//! Volumes of an edge deployment, and their files.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::{CborLen, Decode, Encode};

use super::{DeviceField, PullPolicy};
use crate::desired::ObjectRef;

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Volume {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// What is in it.
    #[n(1)]
    pub source: VolumeSource,
}

/// What is in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum VolumeSource {
    /// Nothing at first; lives as long as the pod.
    #[n(0)]
    EmptyDir(#[n(0)] EmptyDir),
    /// Files that the bridge resolved: ConfigMaps, Secrets, downward API, tokens, or several of them projected.
    #[n(1)]
    Files(#[n(0)] Files),
    /// A path of the device's own.
    #[n(2)]
    HostPath(#[n(0)] HostPath),
    /// What is in an image. Nobody writes there.
    #[n(3)]
    Image(#[n(0)] ImageVolume),
    /// Nothing at first, in huge pages; lives as long as the pod.
    #[n(4)]
    HugePages(#[n(0)] HugePagesDir),
}

/// An image whose files are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct ImageVolume {
    /// The image as written in the pod.
    #[n(0)]
    pub reference: String,
    /// When to pull it.
    #[n(1)]
    pub pull_policy: PullPolicy,
}

/// A volume that is empty at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct EmptyDir {
    /// Whether it is kept in memory.
    #[n(0)]
    pub memory: bool,
    /// How much may be in it.
    #[n(1)]
    pub size_limit: Option<u64>,
}

/// A volume in huge pages that is empty at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct HugePagesDir {
    /// How large a page is, in bytes.
    #[n(0)]
    pub page_bytes: u64,
    /// How much may be in it; `None`: as much as the pod may have of such pages.
    #[n(1)]
    pub size_limit: Option<u64>,
}

/// A path of the device's own.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct HostPath {
    /// The path: absolute, without `..`.
    #[n(0)]
    pub path: String,
    /// What has to be there.
    #[n(1)]
    pub kind: HostPathKind,
    /// Whether the pod's group is to own what is in it.
    #[n(2)]
    #[cbor(default)]
    pub of_group: bool,
    /// Whether that is done only if the path itself is not the group's.
    #[n(3)]
    #[cbor(default, skip_if = "core::ops::Not::not")]
    pub only_if_differs: bool,
    /// Whether it stands for a local volume of the cluster, and not for a path that the pod names itself.
    #[n(4)]
    #[cbor(default, skip_if = "core::ops::Not::not")]
    pub local: bool,
}

/// What has to be at a path of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(index_only)]
pub enum HostPathKind {
    /// Anything; a directory is made if there is nothing.
    #[n(0)]
    Any,
    /// A directory.
    #[n(1)]
    Directory,
    /// A directory, which is made if there is nothing.
    #[n(2)]
    DirectoryOrCreate,
    /// A file.
    #[n(3)]
    File,
    /// A file, which is made if there is nothing.
    #[n(4)]
    FileOrCreate,
    /// A socket.
    #[n(5)]
    Socket,
    /// A character device.
    #[n(6)]
    CharDevice,
    /// A block device.
    #[n(7)]
    BlockDevice,
}

/// Files given by the bridge. A change of them reaches running containers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Files {
    /// Whether any of it is secret, and so may never be written to the device's disk in the clear.
    #[n(0)]
    pub secret: bool,
    /// The files.
    #[n(1)]
    pub entries: Vec<File>,
}

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct File {
    /// Its path below the volume: relative, without `..`.
    #[n(0)]
    pub path: String,
    /// Its permission bits.
    #[n(1)]
    pub mode: u32,
    /// Its content.
    #[n(2)]
    pub content: Content,
    /// The user that it belongs to; `None`: the agent's own.
    #[n(3)]
    pub owner: Option<u32>,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub enum Content {
    /// A few bytes.
    #[n(0)]
    Inline(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        Vec<u8>,
    ),
    /// A blob.
    #[n(1)]
    Blob(#[n(0)] ObjectRef),
    /// Something that only the device knows.
    #[n(2)]
    Device(#[n(0)] DeviceField),
}

/// Content of at most this many bytes travels inline; more travels as a blob, so that one changed file moves alone.
pub const MAX_INLINE: usize = 256;
