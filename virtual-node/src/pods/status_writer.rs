//! The only writer of pod status: what waits to be written, per pod the latest only, and the call that writes it.
//!
//! [`StatusWriter`] is owned by the pods task. A report replaces one of the same pod that has not been written yet; its
//! receipt then resolves with that of the newer one. Writes of different pods do not wait for each other; one pod has at
//! most one write under way; a failed one is tried again, with back-off, for as long as the pod exists.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::index::Record;
use super::status;
use crate::api::{self, Kind};
use crate::ids::{NodeName, PodRef, PodUid};
use crate::provider::{PodReport, Receipt, Waiting};
use crate::queue::{Backoff, DirtyQueue, Finish};

/// What is to be shown.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// What the provider reported.
    Report(Box<PodReport>),
    /// The pod waits before it can be handed over.
    Waiting(Waiting),
    /// The pod can never run here.
    Refused { reason: String, message: String },
}

/// A pod's place at the writer.
#[derive(Debug)]
struct Slot {
    node: NodeName,
    unwritten: Option<Content>,
    /// Counts what was put into `unwritten`, so that an answer is matched with what it answers.
    version: u64,
    receipts: Vec<oneshot::Sender<Receipt>>,
    /// The last report that the API server has accepted: written again when somebody else overwrites it.
    last: Option<Box<PodReport>>,
    /// We have shown the pod as waiting, and nobody has reported on it since.
    shows_waiting: bool,
    /// The API server does not take `unwritten` as it is.
    rejected: bool,
    /// The provider says that nothing runs any more.
    gone: bool,
    gone_receipts: Vec<oneshot::Sender<Receipt>>,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct StatusWriter {
    slots: HashMap<PodUid, Slot>,
    /// Who has a slot on behalf of which node: a process with thousands of nodes asks that of each.
    on_node: HashMap<NodeName, HashSet<PodUid>>,
    pub(crate) queue: DirtyQueue<PodUid>,
}

/// What to do for a pod whose turn has come.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The API shows it already, or there is nothing to show.
    Equal,
    /// Write this.
    Write { patch: Value, version: u64 },
}

/// How a write ended.
#[derive(Debug)]
pub(crate) enum Written {
    /// The API server holds it; this is the pod now.
    Accepted(Box<Pod>),
    /// The pod was not as we thought; this is the pod now.
    Changed(Box<Pod>),
    /// There is no such pod any more.
    Gone,
    /// The API server will not take this status.
    Rejected(api::CallError),
    /// A passing fault.
    Failed(api::CallError),
}

impl StatusWriter {
    pub(crate) fn new(limit: usize, backoff: Backoff) -> Self {
        Self { slots: HashMap::new(), on_node: HashMap::new(), queue: DirtyQueue::new(limit, backoff) }
    }

    fn slot(&mut self, node: &NodeName, pod: &PodUid) -> &mut Slot {
        self.slots.entry(pod.clone()).or_insert_with(|| {
            self.on_node.entry(node.clone()).or_default().insert(pod.clone());
            Slot {
                node: node.clone(),
                unwritten: None,
                version: 0,
                receipts: Vec::new(),
                last: None,
                shows_waiting: false,
                rejected: false,
                gone: false,
                gone_receipts: Vec::new(),
            }
        })
    }

    /// Takes what the provider reported.
    pub(crate) fn report(
        &mut self,
        node: &NodeName,
        pod: &PodUid,
        report: Box<PodReport>,
        receipt: Option<oneshot::Sender<Receipt>>,
    ) {
        let slot = self.slot(node, pod);
        slot.put(Content::Report(report));
        // Receipts that nobody waits for any more would pile up while the API server is away.
        slot.receipts.retain(|receipt| !receipt.is_closed());
        slot.receipts.extend(receipt);
        self.queue.mark(pod.clone());
    }

    /// Takes the provider's word that nothing of the pod runs any more.
    pub(crate) fn gone(&mut self, node: &NodeName, pod: &PodUid, receipt: oneshot::Sender<Receipt>) {
        let slot = self.slot(node, pod);
        slot.gone = true;
        slot.gone_receipts.push(receipt);
    }

    /// Shows the pod as waiting, unless the provider has reported on it.
    pub(crate) fn waiting(&mut self, node: &NodeName, pod: &PodUid, waiting: Waiting) {
        let slot = self.slot(node, pod);
        if slot.last.is_none() && !matches!(slot.unwritten, Some(Content::Report(_))) {
            slot.put(Content::Waiting(waiting));
            slot.shows_waiting = true;
            self.queue.mark(pod.clone());
        }
    }

    /// Nothing is missing any more: what we have shown about it must go.
    pub(crate) fn no_longer_waiting(&mut self, node: &NodeName, pod: &PodUid) {
        if self.slots.get(pod).is_some_and(|slot| slot.shows_waiting) {
            let nothing = Waiting { containers: Vec::new(), event_reason: String::new(), event_message: String::new() };
            self.waiting(node, pod, nothing);
            if let Some(slot) = self.slots.get_mut(pod) {
                slot.shows_waiting = false;
            }
        }
    }

    /// Shows the pod as refused.
    pub(crate) fn refused(&mut self, node: &NodeName, pod: &PodUid, reason: String, message: String) {
        self.slot(node, pod).put(Content::Refused { reason, message });
        self.queue.mark(pod.clone());
    }

    /// The API shows something else than before, or ought to: compare it with what is reported, at `due` or at once.
    pub(crate) fn compare(&mut self, pod: &PodUid, due: Option<Instant>) {
        if let Some(slot) = self.slots.get(pod)
            && (slot.last.is_some() || slot.unwritten.is_some())
        {
            match due {
                Some(due) => self.queue.mark_at(pod.clone(), due),
                None => self.queue.mark(pod.clone()),
            }
        }
    }

    /// The pod's object is known now: what waited for that can be written.
    pub(crate) fn known(&mut self, pod: &PodUid) {
        if self.has_unwritten(pod) {
            self.queue.mark(pod.clone());
        }
    }

    /// Whether something waits to be written.
    pub(crate) fn has_unwritten(&self, pod: &PodUid) -> bool {
        self.slots.get(pod).is_some_and(|slot| slot.unwritten.is_some())
    }

    /// Whether something waits that the API server may still take.
    pub(crate) fn may_still_write(&self, pod: &PodUid) -> bool {
        self.slots.get(pod).is_some_and(|slot| slot.unwritten.is_some() && !slot.rejected)
    }

    /// Whether the provider says that nothing of the pod runs any more.
    pub(crate) fn is_gone(&self, pod: &PodUid) -> bool {
        self.slots.get(pod).is_some_and(|slot| slot.gone)
    }

    /// The pods that have something unwritten.
    pub(crate) fn with_unwritten(&self) -> impl Iterator<Item = &PodUid> {
        self.slots.iter().filter(|(_, slot)| slot.unwritten.is_some()).map(|(pod, _)| pod)
    }

    /// On behalf of which node the pod was reported on.
    pub(crate) fn node_of(&self, pod: &PodUid) -> Option<&NodeName> {
        self.slots.get(pod).map(|slot| &slot.node)
    }

    /// The pods of a node that the writer knows of.
    pub(crate) fn on_node(&self, node: &NodeName) -> Vec<PodUid> {
        self.on_node.get(node).into_iter().flatten().cloned().collect()
    }

    /// Works out what is to be written for a pod.
    ///
    /// `observed` is the generation that the provider has accepted, if it has accepted the pod as it is.
    pub(crate) fn turn(&self, record: &Record, observed: bool, now: Timestamp) -> Turn {
        let Some(slot) = self.slots.get(&record.pod.uid) else { return Turn::Equal };
        let pod = record.document().pod();
        let generation = pod.metadata.generation.filter(|_| observed);
        let new: Option<PodStatus> = match (&slot.unwritten, &slot.last) {
            (Some(Content::Report(report)), _) => Some(status::reported(&pod, report, generation, now)),
            (Some(Content::Waiting(waiting)), _) => status::waiting(&pod, &waiting.containers, generation, now),
            (Some(Content::Refused { reason, message }), _) => {
                status::refused(&pod, reason, message, pod.metadata.generation, now)
            }
            (None, Some(last)) => Some(status::reported(&pod, last, generation, now)),
            (None, None) => None,
        };
        match new.and_then(|new| status::patch(&pod, &new)) {
            Some(patch) => Turn::Write { patch, version: slot.version },
            None => Turn::Equal,
        }
    }

    /// The API server holds what the slot had at `version` (`None`: what it has now).
    pub(crate) fn accepted(&mut self, pod: &PodUid, version: Option<u64>) {
        let Some(slot) = self.slots.get_mut(pod) else { return };
        if version.is_some_and(|version| version != slot.version) {
            // Something newer came meanwhile; the receipts resolve with it.
            self.queue.mark(pod.clone());
            return;
        }
        slot.rejected = false;
        if let Some(Content::Report(report)) = slot.unwritten.take() {
            slot.last = Some(report);
            slot.shows_waiting = false;
        }
        resolve(&mut slot.receipts, Receipt::Accepted);
    }

    /// The API server will not take what the slot has. Saying the same again would not help, so whoever reported it is
    /// told that there is nothing to wait for.
    pub(crate) fn rejected(&mut self, pod: &PodUid) {
        if let Some(slot) = self.slots.get_mut(pod) {
            slot.rejected = true;
            resolve(&mut slot.receipts, Receipt::Obsolete);
        }
    }

    /// The receipts of `gone` are due: the object is deleted, or was not to be.
    pub(crate) fn gone_accepted(&mut self, pod: &PodUid, stays: bool) {
        if let Some(slot) = self.slots.get_mut(pod) {
            resolve(&mut slot.gone_receipts, Receipt::Accepted);
            slot.gone = slot.gone && !stays;
        }
    }

    /// There is nothing to write to, now or later.
    pub(crate) fn obsolete(&mut self, pod: &PodUid) {
        if let Some(mut slot) = self.slots.remove(pod) {
            if let Some(on_node) = self.on_node.get_mut(&slot.node) {
                on_node.remove(pod);
                if on_node.is_empty() {
                    self.on_node.remove(&slot.node);
                }
            }
            resolve(&mut slot.receipts, Receipt::Obsolete);
            resolve(&mut slot.gone_receipts, if slot.gone { Receipt::Accepted } else { Receipt::Obsolete });
        }
        self.queue.remove(pod);
    }

    /// The turn of `pod` has ended.
    pub(crate) fn finish(&mut self, pod: PodUid, finish: Finish, now: Instant, jitter: f64) {
        self.queue.finish(pod, finish, now, jitter);
    }
}

impl Slot {
    fn put(&mut self, content: Content) {
        self.unwritten = Some(content);
        self.version += 1;
        self.rejected = false;
    }
}

fn resolve(receipts: &mut Vec<oneshot::Sender<Receipt>>, receipt: Receipt) {
    for sender in receipts.drain(..) {
        // Nobody waits for it any more: fine.
        let _ = sender.send(receipt);
    }
}

/// Writes a status. When the pod is not what the patch was made for, says what it is now.
pub(crate) async fn write(client: kube::Client, pod: PodRef, patch: Value) -> Written {
    let api: Api<Pod> = Api::namespaced(client, &pod.namespace);
    let answer = api::call(api.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(patch))).await;
    let error = match answer {
        Ok(now) => return Written::Accepted(Box::new(now)),
        Err(error) => error,
    };
    if !matches!(error.kind(), Kind::NotFound | Kind::Conflict | Kind::Invalid) {
        return Written::Failed(error);
    }
    match api::call(api.get(&pod.name)).await {
        Ok(now) if now.metadata.uid.as_deref() != Some(pod.uid.as_str()) => Written::Gone,
        Ok(_) if error.kind() == Kind::Invalid => Written::Rejected(error),
        Ok(now) => Written::Changed(Box::new(now)),
        Err(error) if error.kind() == Kind::NotFound => Written::Gone,
        Err(error) => Written::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::PodPhase;
    use serde_json::json;
    use std::time::Duration;

    fn node() -> NodeName {
        NodeName::new("gw-1").unwrap()
    }

    fn uid() -> PodUid {
        PodUid::new("u1")
    }

    fn record(status: Value) -> Record {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7", "generation": 1},
            "spec": {"nodeName": "gw-1", "containers": [{"name": "c", "image": "busybox"}]}, "status": status,
        });
        Record::reduce(serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn writer() -> StatusWriter {
        StatusWriter::new(4, Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) })
    }

    fn report(message: &str) -> Box<PodReport> {
        Box::new(PodReport { phase: PodPhase::Running, message: Some(message.to_owned()), ..PodReport::default() })
    }

    fn message(turn: &Turn) -> Option<&str> {
        match turn {
            Turn::Write { patch, .. } => patch["status"]["message"].as_str(),
            Turn::Equal => None,
        }
    }

    #[test]
    fn the_newest_report_is_written_and_answers_for_those_it_replaced() {
        let mut writer = writer();
        let (first, mut first_receipt) = oneshot::channel();
        let (second, mut second_receipt) = oneshot::channel();
        writer.report(&node(), &uid(), report("one"), Some(first));
        writer.report(&node(), &uid(), report("two"), Some(second));
        let turn = writer.turn(&record(json!({})), true, Timestamp::UNIX_EPOCH);
        assert_eq!(message(&turn), Some("two"));
        assert!(first_receipt.try_recv().is_err(), "not before it is accepted");
        writer.accepted(&uid(), Some(2));
        assert_eq!(first_receipt.try_recv(), Ok(Receipt::Accepted));
        assert_eq!(second_receipt.try_recv(), Ok(Receipt::Accepted));
        assert!(!writer.has_unwritten(&uid()));
        assert_eq!(writer.on_node(&node()), [uid()]);
    }

    #[test]
    fn a_report_that_came_during_the_write_is_not_taken_for_written() {
        let mut writer = writer();
        let (sender, mut receipt) = oneshot::channel();
        writer.report(&node(), &uid(), report("one"), None);
        let Turn::Write { version, .. } = writer.turn(&record(json!({})), true, Timestamp::UNIX_EPOCH) else {
            panic!("differs")
        };
        writer.report(&node(), &uid(), report("two"), Some(sender));
        writer.accepted(&uid(), Some(version));
        assert!(receipt.try_recv().is_err());
        assert_eq!(message(&writer.turn(&record(json!({})), true, Timestamp::UNIX_EPOCH)), Some("two"));
    }

    #[test]
    fn what_somebody_else_overwrote_is_written_again() {
        let mut writer = writer();
        writer.report(&node(), &uid(), report("mine"), None);
        writer.accepted(&uid(), None);
        assert_eq!(
            message(&writer.turn(&record(json!({"phase": "Running"})), true, Timestamp::UNIX_EPOCH)),
            Some("mine")
        );
    }

    #[test]
    fn waiting_never_hides_a_report() {
        let waiting = || Waiting { containers: Vec::new(), event_reason: "Failed".into(), event_message: "m".into() };
        let mut writer = writer();
        writer.report(&node(), &uid(), report("mine"), None);
        writer.waiting(&node(), &uid(), waiting());
        assert_eq!(message(&writer.turn(&record(json!({})), true, Timestamp::UNIX_EPOCH)), Some("mine"));
        writer.accepted(&uid(), None);
        writer.waiting(&node(), &uid(), waiting());
        assert!(!writer.has_unwritten(&uid()));
    }

    #[test]
    fn what_the_api_server_rejects_is_answered_and_stands_in_nobodys_way() {
        let mut writer = writer();
        let (first, mut first_receipt) = oneshot::channel();
        writer.report(&node(), &uid(), report("bad"), Some(first));
        assert!(writer.may_still_write(&uid()), "a deletion waits for it");
        writer.rejected(&uid());
        assert_eq!(first_receipt.try_recv(), Ok(Receipt::Obsolete));
        assert!(writer.has_unwritten(&uid()) && !writer.may_still_write(&uid()), "a deletion waits no longer");
        // It is still what is reported: should the pod change, the API server may take it.
        assert_eq!(message(&writer.turn(&record(json!({})), true, Timestamp::UNIX_EPOCH)), Some("bad"));

        let (second, mut second_receipt) = oneshot::channel();
        writer.report(&node(), &uid(), report("good"), Some(second));
        assert!(writer.may_still_write(&uid()), "another report gets its own answer");
        assert!(second_receipt.try_recv().is_err());
        writer.accepted(&uid(), Some(2));
        assert_eq!(second_receipt.try_recv(), Ok(Receipt::Accepted));
    }

    #[test]
    fn what_a_gone_pod_left_behind_is_answered() {
        let mut writer = writer();
        let (status, mut status_receipt) = oneshot::channel();
        let (gone, mut gone_receipt) = oneshot::channel();
        writer.report(&node(), &uid(), report("one"), Some(status));
        writer.gone(&node(), &uid(), gone);
        writer.obsolete(&uid());
        assert_eq!(status_receipt.try_recv(), Ok(Receipt::Obsolete));
        assert_eq!(gone_receipt.try_recv(), Ok(Receipt::Accepted), "it was to go and is gone");
        assert_eq!(writer.on_node(&node()), Vec::<PodUid>::new());
        assert!(writer.on_node.is_empty(), "a node without pods costs nothing");
    }
}
