//! Limits and requests that change while a pod runs, as a provider reports them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;

/// What a pod and its containers were given of processors and memory, and how far it is with changes of that.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Resizing {
    /// What their spec says.
    #[default]
    AsSpecified,
    /// What their spec said when they were started: no change reaches what runs, for this reason.
    Impossible(String),
    /// What the provider says.
    Told(Box<Resized>),
}

/// See [`Resizing`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resized {
    /// Of containers, by name.
    pub given: BTreeMap<String, GivenResources>,
    /// Of the pod as a whole, if it asks for that.
    pub whole: Option<ResourceRequirements>,
    /// Why that is not what the spec says (condition `PodResizePending`).
    pub pending: Option<ResizeCondition>,
    /// It is, and not all of it has been applied (condition `PodResizeInProgress`).
    pub in_progress: Option<ResizeCondition>,
}

/// What a container was given of processors and memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GivenResources {
    /// What was decided.
    pub allocated: ResourceRequirements,
    /// What holds.
    pub actual: ResourceRequirements,
}

/// How far it is with other limits and requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResizeCondition {
    /// `Infeasible`, `Deferred` or `Error`; empty: nothing is wrong.
    pub reason: String,
    /// The sentence to `reason`.
    pub message: String,
    /// The generation of the pod that it is about.
    pub generation: Option<i64>,
}
