//! Carries observations to the virtual nodes and brings their receipts back. It may wait where the fleet must not.
//!
//! Nothing waits for receipts: while the API server is away they stay outstanding, and whether devices are alive is still
//! told. They are bounded all the same, because of each pod and each device's facts only the latest is waited for, and of
//! events the virtual nodes keep only so many.

use std::collections::HashMap;

use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use hawser_wire::{DeviceId, PodUid};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use virtual_node::NodeName;
use virtual_node::Stopped;
use virtual_node::provider::{EventReport, NodeTemplate, PendingReceipt, Receipt, Reporter};

use super::inbox::About;
use super::twin::{Observation, Ticket};

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
    let mut outstanding = Outstanding::new();
    loop {
        let next = tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = stop.cancelled() => return Ok(()),
            // Cancel-safe: yields a receipt only if this arm runs.
            Some(receipt) = outstanding.next() => Next::Receipt(receipt),
            // Cancel-safe: `recv` takes nothing unless it returns.
            line = lines.recv() => Next::Line(line),
        };
        match next {
            // The fleet always takes receipts, so this waits for nobody who waits for us.
            Next::Receipt(Some(receipt)) => drop(settled.send(receipt).await),
            // The engine stopped before it wrote: the device says it again to whoever comes next.
            Next::Receipt(None) => {}
            Next::Line(Some(line)) => {
                if let Some((pending, device, generation, ticket)) = say(&reporter, line).await? {
                    outstanding.push(Subject::of(&device, &ticket), async move {
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

/// What a receipt is for. Of one subject only the latest is waited for: the device has replaced what it said before, and
/// repeats it no more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Pod(DeviceId, PodUid),
    Gone(DeviceId, PodUid),
    Facts(DeviceId),
    Event(DeviceId, u64),
}

impl Subject {
    fn of(device: &DeviceId, ticket: &Ticket) -> Self {
        let device = device.clone();
        match ticket.about() {
            About::Pod(uid) => Self::Pod(device, uid.clone()),
            About::Gone(uid) => Self::Gone(device, uid.clone()),
            About::Facts => Self::Facts(device),
            About::Event => Self::Event(device, ticket.seq()),
        }
    }
}

/// The receipts that are waited for.
struct Outstanding<T> {
    waits: FuturesUnordered<Abortable<BoxFuture<'static, (Subject, T)>>>,
    latest: HashMap<Subject, AbortHandle>,
}

impl<T: 'static> Outstanding<T> {
    fn new() -> Self {
        Self { waits: FuturesUnordered::new(), latest: HashMap::new() }
    }

    /// Waits for this one, and no longer for the one before of the same subject.
    fn push(&mut self, subject: Subject, wait: impl Future<Output = T> + Send + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        if let Some(before) = self.latest.insert(subject.clone(), handle) {
            before.abort();
        }
        self.waits.push(Abortable::new(Box::pin(async move { (subject, wait.await) }), registration));
    }

    /// The next that has come; `None` while there is nothing to wait for.
    async fn next(&mut self) -> Option<T> {
        loop {
            // One that was given up has nothing to say.
            if let Ok((subject, outcome)) = self.waits.next().await? {
                self.latest.remove(&subject);
                return Some(outcome);
            }
        }
    }
}

type Said = (PendingReceipt, DeviceId, Generation, Ticket);

async fn say(reporter: &Reporter, line: Line) -> Result<Option<Said>, Stopped> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fleet::inbox::Inbox;
    use futures::channel::oneshot;
    use virtual_node::provider::{Applied, NotApplied, Provider};
    use virtual_node::{PodRef, Revision, VirtualNodes};

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn pod(n: u32) -> PodUid {
        PodUid::new(&format!("pod-{n}")).unwrap()
    }

    #[tokio::test]
    async fn of_each_pod_only_the_latest_receipt_is_waited_for() {
        let mut outstanding = Outstanding::new();
        let mut senders = Vec::new();
        for round in 0..100 {
            for n in 0..3 {
                let (sender, receipt) = oneshot::channel();
                outstanding.push(Subject::Pod(device("pi"), pod(n)), async move { receipt.await.ok() });
                senders.push((round, n, sender));
            }
        }
        for (round, n, sender) in senders {
            // Whoever was replaced is not listened to any more, once the others have been looked at.
            let _ = sender.send((round, n));
        }
        let mut heard = Vec::new();
        while let Some(receipt) = outstanding.next().await {
            heard.push(receipt.unwrap());
        }
        heard.sort_unstable();
        assert_eq!(heard, [(99, 0), (99, 1), (99, 2)]);
        assert!(outstanding.latest.is_empty());
    }

    struct Idle;

    impl Provider for Idle {
        async fn apply(&self, _: Arc<k8s_openapi::api::core::v1::Pod>, _: Revision) -> Result<Applied, NotApplied> {
            Ok(Applied::Settled)
        }
        async fn stop(&self, _: &NodeName, _: &PodRef, _: std::time::Duration, _: Revision) {}
        async fn forget(&self, _: &NodeName, _: &PodRef, _: Revision) {}
        async fn synced(&self, _: &NodeName, _: Vec<String>, _: Revision) {}
    }

    /// More receipts than a bound over all devices would allow are outstanding, since the API server does not answer.
    #[tokio::test]
    async fn what_is_said_of_devices_does_not_wait_for_receipts() {
        const PODS: u32 = 6000;
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::io::Error>>()
        });
        let nodes = VirtualNodes::new(kube::Client::new(silent, "default"), virtual_node::Config::default());
        let (reporter, reports) = virtual_node::reports(64);
        let stop = CancellationToken::new();
        let engine = tokio::spawn(nodes.run(Arc::new(Idle), reports, stop.clone()));
        let (to_reporting, lines) = mpsc::channel(64);
        let (settled_in, mut settled) = mpsc::channel(64);
        let reporting = tokio::spawn(run(reporter, lines, settled_in, stop.clone()));

        let say = |name: &str, what: What| Line {
            device: device(name),
            generation: 1,
            node: NodeName::new(name).unwrap(),
            what,
        };
        let mut inbox = Inbox::default();
        let mut report = |name: &str, n: u32| {
            let ticket = inbox.admit(u64::from(n), About::Pod(pod(n))).unwrap();
            let uid = virtual_node::PodUid::new(format!("pod-{n}"));
            let reference = PodRef { namespace: "default".to_owned(), name: format!("p{n}"), uid };
            say(name, What::Observation(Observation::Pod(reference, Box::default(), ticket)))
        };
        for name in ["busy", "other"] {
            to_reporting.send(say(name, What::Present(Box::default()))).await.unwrap();
        }
        for n in 0..PODS {
            to_reporting.send(report("busy", n)).await.unwrap();
        }
        to_reporting.send(report("other", PODS)).await.unwrap();
        to_reporting.send(say("other", What::Removed)).await.unwrap();
        let answer = settled.recv().await.unwrap();
        assert_eq!((answer.device, answer.receipt), (device("other"), Receipt::Obsolete));
        stop.cancel();
        reporting.await.unwrap().unwrap();
        engine.abort();
    }
}
