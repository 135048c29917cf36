//! The way back: what a provider reports, on its way to the task that writes it.
//!
//! [`reports`] makes the pair: the provider holds the [`Reporter`], the library's engine drains the [`Reports`].

use tokio::sync::{mpsc, oneshot};

use crate::ids::{NodeName, PodRef};
use crate::provider::{EventReport, Liveness, NodeReport, NodeTemplate, PodReport, Receipt};

/// The engine has stopped; nothing is written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the virtual nodes have stopped")]
pub struct Stopped;

/// The provider's end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reporter {
    sender: mpsc::Sender<Report>,
}

/// The engine's end.
#[derive(Debug)]
pub struct Reports {
    pub(crate) receiver: mpsc::Receiver<Report>,
}

/// One thing a provider said.
#[derive(Debug)]
pub(crate) enum Report {
    NodePresent { node: NodeName, template: Box<NodeTemplate> },
    NodeStatus { node: NodeName, report: Box<NodeReport>, receipt: oneshot::Sender<Receipt> },
    NodeLiveness { node: NodeName, liveness: Liveness },
    NodeRemoved { node: NodeName, receipt: oneshot::Sender<Receipt> },
    PodStatus { node: NodeName, pod: PodRef, report: Box<PodReport>, receipt: oneshot::Sender<Receipt> },
    PodGone { node: NodeName, pod: PodRef, report: Option<Box<PodReport>>, receipt: oneshot::Sender<Receipt> },
    Event { event: Box<EventReport>, receipt: oneshot::Sender<Receipt> },
}

/// Resolves once the API server has accepted what was reported.
#[derive(Debug)]
pub struct PendingReceipt(oneshot::Receiver<Receipt>);

impl PendingReceipt {
    /// Waits for the outcome. `Err` means that the engine stopped first: report again after a restart.
    pub async fn outcome(self) -> Result<Receipt, Stopped> {
        self.0.await.map_err(|_| Stopped)
    }
}

/// Makes the two ends. `capacity` bounds how many reports may wait for the engine: the engine coalesces as it drains, so
/// a few hundred suffice, and a full channel makes the provider wait, which is the back-pressure it should feel.
pub fn reports(capacity: usize) -> (Reporter, Reports) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Reporter { sender }, Reports { receiver })
}

impl Reporter {
    /// There is such a node: register or adopt it, keep it registered. Idempotent; a changed template is applied.
    pub async fn node_present(&self, node: NodeName, template: NodeTemplate) -> Result<(), Stopped> {
        self.send(Report::NodePresent { node, template: Box::new(template) }).await
    }

    /// What is known about the machine now.
    pub async fn node_status(&self, node: NodeName, report: NodeReport) -> Result<PendingReceipt, Stopped> {
        let (receipt, pending) = oneshot::channel();
        self.send(Report::NodeStatus { node, report: Box::new(report), receipt }).await?;
        Ok(PendingReceipt(pending))
    }

    /// Whether the machine is known to be alive. A node begins as offline.
    pub async fn node_liveness(&self, node: NodeName, liveness: Liveness) -> Result<(), Stopped> {
        self.send(Report::NodeLiveness { node, liveness }).await
    }

    /// The node is no more: delete its Node object and Lease, stop looking after its pods (without `forget`).
    pub async fn node_removed(&self, node: NodeName) -> Result<PendingReceipt, Stopped> {
        let (receipt, pending) = oneshot::channel();
        self.send(Report::NodeRemoved { node, receipt }).await?;
        Ok(PendingReceipt(pending))
    }

    /// What really happens with the pod now. A newer report for the same pod replaces one not yet written.
    pub async fn pod_status(&self, node: NodeName, pod: PodRef, report: PodReport) -> Result<PendingReceipt, Stopped> {
        let (receipt, pending) = oneshot::channel();
        self.send(Report::PodStatus { node, pod, report: Box::new(report), receipt }).await?;
        Ok(PendingReceipt(pending))
    }

    /// Nothing of the pod runs any more. If the pod is being deleted, its last status (if given) is written and the
    /// object is removed with grace 0 and a UID precondition. If it is not, the receipt is `Accepted` and nothing is
    /// deleted.
    pub async fn pod_gone(
        &self,
        node: NodeName,
        pod: PodRef,
        last: Option<PodReport>,
    ) -> Result<PendingReceipt, Stopped> {
        let (receipt, pending) = oneshot::channel();
        self.send(Report::PodGone { node, pod, report: last.map(Box::new), receipt }).await?;
        Ok(PendingReceipt(pending))
    }

    /// Something worth telling.
    pub async fn event(&self, event: EventReport) -> Result<PendingReceipt, Stopped> {
        let (receipt, pending) = oneshot::channel();
        self.send(Report::Event { event: Box::new(event), receipt }).await?;
        Ok(PendingReceipt(pending))
    }

    async fn send(&self, report: Report) -> Result<(), Stopped> {
        self.sender.send(report).await.map_err(|_| Stopped)
    }
}
