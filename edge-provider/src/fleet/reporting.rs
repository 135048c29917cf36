//! Carries observations to the virtual nodes and brings their receipts back. It may wait where the fleet must not.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hawser_wire::DeviceId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use virtual_node::NodeName;
use virtual_node::Stopped;
use virtual_node::provider::{EventReport, NodeTemplate, PendingReceipt, Receipt, Reporter};

use super::twin::{Observation, Ticket};

/// How many receipts may be outstanding; beyond that the fleet waits, and then drops reports (devices repeat them).
const MAX_OUTSTANDING: usize = 4096;

/// Which incarnation of a device something belongs to: a Device of the same name created later is another one.
pub(crate) type Generation = u64;

/// Something for the virtual nodes.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) device: DeviceId,
    pub(crate) generation: Generation,
    pub(crate) node: NodeName,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Present(Box<NodeTemplate>),
    Removed,
    Observation(Observation),
    Event(Box<EventReport>),
}

/// A receipt, on its way back.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) device: DeviceId,
    pub(crate) generation: Generation,
    pub(crate) ticket: Ticket,
    pub(crate) receipt: Receipt,
}

/// Runs until told to stop, or until the virtual nodes have stopped.
pub(crate) async fn run(
    reporter: Reporter,
    mut lines: mpsc::Receiver<Line>,
    settled: mpsc::Sender<Settled>,
    stop: CancellationToken,
) -> Result<(), Stopped> {
    let mut outstanding = FuturesUnordered::new();
    loop {
        let next = tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = stop.cancelled() => return Ok(()),
            // Cancel-safe: yields a receipt only if this arm runs.
            Some(receipt) = outstanding.next() => Next::Receipt(receipt),
            // Cancel-safe: `recv` takes nothing unless it returns.
            line = lines.recv(), if outstanding.len() < MAX_OUTSTANDING => Next::Line(line),
        };
        match next {
            // The fleet always takes receipts, so this waits for nobody who waits for us.
            Next::Receipt(Some(receipt)) => drop(settled.send(receipt).await),
            // The engine stopped before it wrote: the device says it again to whoever comes next.
            Next::Receipt(None) => {}
            Next::Line(Some(line)) => {
                if let Some((pending, device, generation, ticket)) = say(&reporter, line).await? {
                    outstanding.push(async move {
                        let receipt = pending.outcome().await.ok()?;
                        Some(Settled { device, generation, ticket, receipt })
                    });
                }
            }
            Next::Line(None) => return Ok(()),
        }
    }
}

enum Next {
    Receipt(Option<Settled>),
    Line(Option<Line>),
}

type Outstanding = (PendingReceipt, DeviceId, Generation, Ticket);

async fn say(reporter: &Reporter, line: Line) -> Result<Option<Outstanding>, Stopped> {
    let Line { device, generation, node, what } = line;
    let (pending, ticket) = match what {
        What::Present(template) => return reporter.node_present(node, *template).await.map(|()| None),
        What::Removed => return reporter.node_removed(node).await.map(|_| None),
        What::Event(event) => return reporter.event(*event).await.map(|_| None),
        What::Observation(Observation::Liveness(liveness)) => {
            return reporter.node_liveness(node, liveness).await.map(|()| None);
        }
        What::Observation(Observation::Node(report, None)) => {
            return reporter.node_status(node, *report).await.map(|_| None);
        }
        What::Observation(Observation::Node(report, Some(ticket))) => {
            (reporter.node_status(node, *report).await?, ticket)
        }
        What::Observation(Observation::Pod(pod, report, ticket)) => {
            (reporter.pod_status(node, pod, *report).await?, ticket)
        }
        What::Observation(Observation::Gone(pod, last, ticket)) => {
            (reporter.pod_gone(node, pod, last.map(|last| *last)).await?, ticket)
        }
        What::Observation(Observation::Event(event, ticket)) => (reporter.event(*event).await?, ticket),
    };
    Ok(Some((pending, device, generation, ticket)))
}
