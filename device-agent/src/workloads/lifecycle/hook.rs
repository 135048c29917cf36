//! Words for what is done beside a container's program.

use std::sync::Arc;
use std::time::Duration;

use hawser_wire::deployment::{Action, EdgeDeployment, Probe};

use super::prober::ProbeKind;
use crate::runtime::ContainerId;

/// A probe to be asked once.
#[derive(Debug, Clone)]
pub struct ProbeCall {
    /// Of which container.
    pub id: ContainerId,
    /// Which of its probes.
    pub kind: ProbeKind,
    /// Its pod.
    pub spec: Arc<EdgeDeployment>,
    /// Where the pod is reached.
    pub host: String,
}

impl ProbeCall {
    /// The probe as the pod describes it.
    pub fn probe(&self) -> Option<&Probe> {
        let container = crate::runtime::described(&self.spec, &self.id)?;
        self.kind.of(container.care.as_ref()?)
    }
}

/// Which hook of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// After it was started.
    PostStart,
    /// Before it is told to end.
    PreStop,
}

/// A hook to be carried out.
#[derive(Debug, Clone)]
pub struct HookCall {
    /// Of which container.
    pub id: ContainerId,
    /// Which of its hooks.
    pub kind: HookKind,
    /// Its pod.
    pub spec: Arc<EdgeDeployment>,
    /// Where the pod is reached.
    pub host: String,
    /// How long it may take; `None`: as long as the container runs.
    pub limit: Option<Duration>,
}

impl HookCall {
    /// What is to be done.
    pub fn action(&self) -> Option<&Action> {
        let care = crate::runtime::described(&self.spec, &self.id)?.care.as_ref()?;
        match self.kind {
            HookKind::PostStart => care.post_start.as_ref(),
            HookKind::PreStop => care.pre_stop.as_ref(),
        }
    }
}

/// How a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookEnd {
    /// Well.
    Done,
    /// Badly.
    Failed,
    /// It took too long and was ended.
    Cut,
}
