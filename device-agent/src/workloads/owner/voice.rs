//! What an owner says: Events, and the status of its pod, in the places that are free for it.

use hawser_wire::report::{DeviceEvent, ReportItem};
use tokio::sync::mpsc;

use super::super::lifecycle::Resync;
use super::super::store::WorkloadStore;
use super::Owner;
use crate::runtime::{ImageWanted, Runtime};

/// How many events wait for a full report queue. Older ones are dropped: the latest status tells the same story.
const MAX_WAITING_EVENTS: usize = 64;

impl<R: Runtime, S: WorkloadStore> Owner<R, S> {
    pub(super) fn warn_of(&mut self, reason: &str, message: &str) {
        self.tell_of(None, true, reason, message);
    }

    /// Says something about an image: of the container whose image it is, or of the pod whose volume it is.
    pub(super) fn note_of(&mut self, want: &ImageWanted, reason: &str, message: &str) {
        self.tell_of((!want.is_volume()).then(|| want.id.name.clone()), false, reason, message);
    }

    fn tell_of(&mut self, container: Option<String>, warning: bool, reason: &str, message: &str) {
        self.enqueue(ReportItem::Event(DeviceEvent {
            pod: Some(self.uid.clone()),
            container,
            at: (self.clock)(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
        }));
    }

    pub(super) fn enqueue(&mut self, item: ReportItem) {
        if self.waiting.len() >= MAX_WAITING_EVENTS {
            let event = self.waiting.iter().position(|item| matches!(item, ReportItem::Event(_)));
            self.waiting.remove(event.unwrap_or(0));
        }
        self.waiting.push_back(item);
    }

    pub(super) fn say_again(&mut self) {
        self.said = None;
        match self.lifecycle.resync((self.clock)()) {
            Resync::Nothing => {}
            Resync::Workload(_) => self.unsaid = true,
            Resync::Gone(gone) => {
                if !self.waiting.iter().any(|item| matches!(item, ReportItem::Gone(_))) {
                    self.enqueue(ReportItem::Gone(*gone));
                }
            }
        }
    }

    /// Says one thing, in the place that was kept for it.
    pub(super) fn say_one(&mut self, room: mpsc::OwnedPermit<ReportItem>) {
        if let Some(item) = self.waiting.pop_front() {
            room.send(item);
            return;
        }
        self.unsaid = false;
        let Resync::Workload(report) = self.lifecycle.resync((self.clock)()) else { return };
        if self.said.as_ref() != Some(&*report) {
            room.send(ReportItem::Workload((*report).clone()));
            self.said = Some(*report);
        }
    }
}
