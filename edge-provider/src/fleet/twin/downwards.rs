//! What the device is told: the index until it has it, and the objects that it asks for.

use std::time::Duration;

use hawser_wire::desired::{Chunk, Want};
use hawser_wire::limits::{MAX_CHUNK, MAX_WANTED_OBJECTS};
use hawser_wire::{Down, PodUid};

use super::{Context, Counted, Effect, SentIndex, Twin};
use crate::fleet::clock::Moment;
use crate::fleet::version::Stamping;

/// Changes within this time travel in one index.
const GATHER: Duration = Duration::from_millis(50);
/// After so many indexes without effect the device most likely knows something newer than we do: a new handshake tells.
pub(super) const RETRIES_BEFORE_HANDSHAKE: u32 = 8;
/// For how long a view of the API that is behind the device's may be a lagging server rather than a restored one.
const RESTORED_AFTER: Duration = Duration::from_secs(15);
/// How much is sent in answer to one request for objects. The device asks again for the rest.
pub(super) const MAX_ANSWER: usize = 8 * MAX_CHUNK;

impl Twin {
    pub(super) fn remove(&mut self, uid: &PodUid) {
        self.desired.remove(uid);
        self.inbox.forget_pod(uid);
    }

    /// Sends the index if the device does not have it and it is time, and notes when it will be time.
    pub(super) fn converge(&mut self, context: Context, effects: &mut Vec<Effect>) {
        let online = self.is_online();
        let Some(link) = &mut self.link else { return };
        link.due = None;
        // To a device that is not heard everything would be said in vain; it is said when the device is heard again.
        if !self.synced || !online {
            return;
        }
        let now = context.now.mono;
        let digest = self.desired.digest();
        if link.digest == Some(digest) {
            link.sent = None;
            link.behind_since = None;
            return;
        }
        let again = link.sent.filter(|sent| sent.digest == digest);
        let due = again.map_or(link.gathered_at, SentIndex::retry_at);
        if now < due {
            link.due = Some(due);
            return;
        }
        let times = again.map_or(1, |sent| sent.times.saturating_add(1));
        if times > RETRIES_BEFORE_HANDSHAKE {
            self.link = None;
            effects.push(Effect::Rehandshake);
            return;
        }
        let restored = link.behind_since.is_some_and(|since| now >= since + RESTORED_AFTER);
        match self.versions.issue(digest, context.revision, restored) {
            Stamping::Issue(version) => {
                let sent = SentIndex { digest, at: now, times };
                link.due = Some(sent.retry_at());
                link.sent = Some(sent);
                link.behind_since = None;
                link.gathered_at = now + GATHER;
                effects.push(Effect::Count(if times == 1 { Counted::Index } else { Counted::IndexAgain }));
                effects.push(Effect::Send(Down::Index(self.desired.index(version))));
            }
            Stamping::Behind => {
                let since = *link.behind_since.get_or_insert(now);
                link.due = Some(since + RESTORED_AFTER);
            }
            Stamping::Exhausted => effects.push(Effect::Count(Counted::VersionExhausted)),
        }
    }

    pub(super) fn answer(&mut self, want: &Want, now: Moment, effects: &mut Vec<Effect>) {
        // Whoever fetches has the index; that it does not show in the heartbeat yet is no reason to send it again.
        if let Some(sent) = self.link.as_mut().and_then(|link| link.sent.as_mut()) {
            sent.at = now.mono;
            sent.times = 1;
        }
        let mut left = MAX_ANSWER;
        for wanted in want.objects.iter().take(MAX_WANTED_OBJECTS) {
            let Some(object) = self.desired.object(&wanted.hash) else {
                effects.push(Effect::Count(Counted::UnknownObject));
                continue;
            };
            let total = object.reference.len;
            let Ok(mut offset) = usize::try_from(wanted.offset) else { continue };
            let window = usize::try_from(wanted.window).unwrap_or(usize::MAX).min(left);
            let end = object.bytes.len().min(offset.saturating_add(window));
            // An empty object is one empty chunk.
            let mut first = object.bytes.is_empty();
            while offset < end || std::mem::take(&mut first) {
                let data = object.bytes[offset.min(end)..end.min(offset + MAX_CHUNK)].to_vec();
                left -= data.len();
                effects.push(Effect::Count(Counted::ObjectBytes(data.len() as u64)));
                let chunk = Chunk { hash: wanted.hash, total, offset: offset as u64, data };
                offset += MAX_CHUNK;
                effects.push(Effect::Send(Down::Chunk(chunk)));
            }
        }
    }
}
