//! The rules by which a pod may be on a node: shared by the scheduler, the DaemonSet controller and the eviction by
//! taints. Pure.

pub(crate) mod affinity;
pub(crate) mod quantity;
pub(crate) mod taints;
