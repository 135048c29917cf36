//! Containers that people add to a pod that is there already, to look at it.

use alloc::string::String;

use minicbor::{CborLen, Decode, Encode};

use super::Container;

/// A container that is added to a pod that is there already. It is started once, and says nothing about how the pod is.
///
/// An agent that does not know them runs the pod without; the bridge sees that from its reports, which then lack them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct EphemeralContainer {
    /// What it is like.
    #[n(0)]
    pub container: Container,
    /// The container whose processes it is to see; `None`: those that it would see anyway.
    #[n(1)]
    pub target: Option<String>,
    /// Why it cannot be started as it stands; `None`: nothing is in the way.
    #[n(2)]
    pub hindrance: Option<Hindrance>,
}

/// Why a container cannot be started as it stands: known to the bridge, told by the device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, CborLen)]
pub struct Hindrance {
    /// A CamelCase word.
    #[n(0)]
    pub reason: String,
    /// A sentence.
    #[n(1)]
    pub message: String,
}
