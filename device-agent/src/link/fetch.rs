//! Getting the objects that are lacking, in chunks, from any offset, over a link that loses. Pure.
//!
//! A few objects are fetched at a time. Each is asked for with a window; when the window has arrived the next one is asked for
//! at once, and when nothing arrives it is asked for again from the offset reached, at growing distances.

use std::collections::BTreeMap;

use hawser_wire::desired::{Chunk, ObjectRef, Want, WantedObject};
use hawser_wire::limits::{MAX_CHUNK, MAX_OBJECT, MAX_WANTED_OBJECTS};
use hawser_wire::{ContentHash, DeviceTime};

use super::retry::back_off;

/// How much of one object is asked for at once.
const WINDOW: u64 = 128 * 1024;
/// Objects are fetched together up to this many bytes (a longer one alone): this is what fetching may cost in memory.
const TOGETHER: u64 = 512 * 1024;
const FIRST_RETRY: u64 = 4_000;
const LAST_RETRY: u64 = 60_000;

/// The objects on their way.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    parts: BTreeMap<ContentHash, Part>,
}

#[derive(Debug)]
struct Part {
    total: u64,
    /// The beginning, without a gap.
    have: Vec<u8>,
    /// What arrived before what precedes it. Never beyond the window.
    ahead: BTreeMap<u64, Vec<u8>>,
    /// How far we have asked.
    asked_to: u64,
    retry_at: DeviceTime,
    attempt: u32,
    unanswered_since: Option<DeviceTime>,
}

/// What became of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// There is more to come, or it was there already.
    Part,
    /// The object is complete and what its name says.
    Whole(Vec<u8>),
    /// The object is complete and not what its name says; it is fetched again from the start.
    Corrupt,
    /// The chunk does not belong here.
    Refused(&'static str),
}

impl Fetch {
    /// Says what is lacking, most important first. What is no longer lacking is given up.
    pub(super) fn lack(&mut self, now: DeviceTime, lacking: &[ObjectRef]) {
        self.parts.retain(|hash, part| lacking.iter().any(|object| object.hash == *hash && object.len == part.total));
        let mut bytes: u64 = self.parts.values().map(|part| part.total).sum();
        for object in lacking {
            if self.parts.len() >= MAX_WANTED_OBJECTS {
                return;
            }
            let fits = self.parts.is_empty() || bytes.saturating_add(object.len) <= TOGETHER;
            if object.len > MAX_OBJECT || self.parts.contains_key(&object.hash) || !fits {
                continue;
            }
            bytes += object.len;
            self.parts.insert(object.hash, Part::new(object.len, now));
        }
    }

    /// A new session, or a new connection: whatever was asked for may be lost, so it is asked for again.
    pub(super) fn start_over(&mut self, now: DeviceTime) {
        for part in self.parts.values_mut() {
            (part.retry_at, part.attempt) = (now, 0);
        }
    }

    /// When [`Fetch::want`] has something to say.
    pub(super) fn deadline(&self) -> Option<DeviceTime> {
        self.parts.values().map(|part| part.retry_at).min()
    }

    /// Since when the oldest request is without an answer.
    pub(super) fn unanswered_since(&self) -> Option<DeviceTime> {
        self.parts.values().filter_map(|part| part.unanswered_since).min()
    }

    /// What to ask for now.
    pub(super) fn want(&mut self, now: DeviceTime, jitter: u64) -> Option<Want> {
        let due = self.parts.iter_mut().filter(|(_, part)| part.retry_at <= now);
        let objects: Vec<_> = due.map(|(hash, part)| part.ask(*hash, now, jitter)).collect();
        (!objects.is_empty()).then_some(Want { objects })
    }

    /// Takes a chunk.
    pub(super) fn chunk(&mut self, now: DeviceTime, chunk: Chunk) -> Arrival {
        let Some(part) = self.parts.get_mut(&chunk.hash) else { return Arrival::Refused("of an object not asked for") };
        if chunk.total != part.total {
            return Arrival::Refused("of another total length than the index says");
        }
        let end = chunk.offset.checked_add(chunk.data.len() as u64);
        if chunk.data.len() > MAX_CHUNK || end.is_none_or(|end| end > part.asked_to) {
            return Arrival::Refused("beyond what was asked for");
        }
        part.take(chunk.offset, chunk.data);
        if (part.have.len() as u64) < part.total {
            // The window is used up: ask on at once. Otherwise the rest of it is awaited afresh.
            let done = part.have.len() as u64 == part.asked_to;
            (part.attempt, part.unanswered_since) = (0, None);
            part.retry_at = if done { now } else { DeviceTime(now.0.saturating_add(FIRST_RETRY)) };
            return Arrival::Part;
        }
        if ContentHash::of(&part.have) != chunk.hash {
            let (attempt, jitter) = (part.attempt + 1, part.total);
            let again = now.0.saturating_add(back_off(FIRST_RETRY, LAST_RETRY, attempt, jitter));
            *part = Part { attempt, ..Part::new(part.total, DeviceTime(again)) };
            return Arrival::Corrupt;
        }
        match self.parts.remove(&chunk.hash) {
            Some(part) => Arrival::Whole(part.have),
            None => Arrival::Part,
        }
    }
}

impl Part {
    fn new(total: u64, retry_at: DeviceTime) -> Self {
        Self {
            total,
            have: Vec::new(),
            ahead: BTreeMap::new(),
            asked_to: 0,
            retry_at,
            attempt: 0,
            unanswered_since: None,
        }
    }

    fn ask(&mut self, hash: ContentHash, now: DeviceTime, jitter: u64) -> WantedObject {
        let offset = self.have.len() as u64;
        let window = WINDOW.min(self.total - offset);
        self.asked_to = self.asked_to.max(offset + window);
        let wait = FIRST_RETRY / 2 + back_off(FIRST_RETRY, LAST_RETRY, self.attempt, jitter);
        self.retry_at = DeviceTime(now.0.saturating_add(wait));
        self.attempt = self.attempt.saturating_add(1);
        self.unanswered_since.get_or_insert(now);
        WantedObject { hash, offset, window: window as u32 }
    }

    /// Joins what arrived to what is there. Bounded by the window, which was checked.
    fn take(&mut self, offset: u64, data: Vec<u8>) {
        if offset > self.have.len() as u64 {
            self.ahead.insert(offset, data);
            return;
        }
        self.join(offset, &data);
        while let Some(next) = self.ahead.first_entry().filter(|next| *next.key() <= self.have.len() as u64) {
            let (offset, data) = next.remove_entry();
            self.join(offset, &data);
        }
    }

    fn join(&mut self, offset: u64, data: &[u8]) {
        let overlap = self.have.len() as u64 - offset;
        if let Some(new) = usize::try_from(overlap).ok().and_then(|overlap| data.get(overlap..)) {
            self.have.extend_from_slice(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(bytes: &[u8]) -> ObjectRef {
        ObjectRef { hash: ContentHash::of(bytes), len: bytes.len() as u64 }
    }

    fn chunk(bytes: &[u8], offset: usize, len: usize) -> Chunk {
        let end = (offset + len).min(bytes.len());
        let data = bytes[offset.min(end)..end].to_vec();
        Chunk { hash: ContentHash::of(bytes), total: bytes.len() as u64, offset: offset as u64, data }
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    proptest! {
        /// Chunks lost, repeated, reordered, of odd sizes: in the end the object is there, and it is asked for no more.
        #[test]
        fn arrives_in_the_end(len in 1_usize..400_000, plan in prop::collection::vec((0_u8..4, any::<u16>()), 1..200)) {
            let bytes = content(len);
            let mut fetch = Fetch::default();
            let mut now = 0;
            fetch.lack(DeviceTime(0), &[object(&bytes)]);
            let mut plan = plan.into_iter().cycle();
            for round in 0..200 {
                now += 70_000;
                let Some(want) = fetch.want(DeviceTime(now), 5) else { panic!("nothing is asked for") };
                let wanted = want.objects[0];
                let mut chunks = Vec::new();
                let mut at = wanted.offset as usize;
                let end = at + wanted.window as usize;
                while at < end {
                    let (fate, size) = plan.next().unwrap();
                    let size = (size as usize % MAX_CHUNK + 1).min(end - at);
                    // A lossy link is still a link: one chunk in four is lost, one comes twice, one comes last.
                    match fate {
                        0 => {}
                        1 => chunks.extend([chunk(&bytes, at, size), chunk(&bytes, at, size)]),
                        2 => chunks.insert(0, chunk(&bytes, at, size)),
                        _ => chunks.push(chunk(&bytes, at, size)),
                    }
                    at += size;
                }
                // A schedule that loses the same chunk for ever says nothing: every third round the first one gets through.
                if round % 3 == 2 {
                    chunks.push(chunk(&bytes, wanted.offset as usize, MAX_CHUNK.min(wanted.window as usize)));
                }
                for chunk in chunks {
                    if let Arrival::Whole(whole) = fetch.chunk(DeviceTime(now), chunk) {
                        prop_assert_eq!(&whole, &bytes);
                        prop_assert!(fetch.want(DeviceTime(now + 100_000), 5).is_none());
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "never arrived");
        }
    }

    #[test]
    fn hostile_chunks_cost_nothing() {
        let bytes = content(300_000);
        let mut fetch = Fetch::default();
        assert_eq!(fetch.chunk(DeviceTime(0), chunk(&bytes, 0, 10)), Arrival::Refused("of an object not asked for"));
        fetch.lack(DeviceTime(0), &[object(&bytes)]);
        assert_eq!(fetch.chunk(DeviceTime(0), chunk(&bytes, 0, 10)), Arrival::Refused("beyond what was asked for"));
        let wanted = fetch.want(DeviceTime(0), 0).unwrap().objects[0];
        assert_eq!((wanted.offset, u64::from(wanted.window)), (0, WINDOW));
        let beyond = chunk(&bytes, WINDOW as usize, 10);
        assert_eq!(fetch.chunk(DeviceTime(0), beyond), Arrival::Refused("beyond what was asked for"));
        let lying = Chunk { total: u64::MAX, ..chunk(&bytes, 0, 10) };
        let expected = Arrival::Refused("of another total length than the index says");
        assert_eq!(fetch.chunk(DeviceTime(0), lying), expected);
        let overflow = Chunk { offset: u64::MAX, ..chunk(&bytes, 0, 10) };
        assert_eq!(fetch.chunk(DeviceTime(0), overflow), Arrival::Refused("beyond what was asked for"));
    }

    #[test]
    fn another_content_is_noticed_and_fetched_again() {
        let bytes = content(100);
        let mut fetch = Fetch::default();
        fetch.lack(DeviceTime(0), &[object(&bytes)]);
        fetch.want(DeviceTime(0), 0);
        let mut forged = chunk(&bytes, 0, 100);
        forged.data[50] ^= 1;
        assert_eq!(fetch.chunk(DeviceTime(0), forged), Arrival::Corrupt);
        assert_eq!(fetch.want(DeviceTime(0), 0), None, "not at once");
        assert_eq!(fetch.want(DeviceTime(LAST_RETRY), 0).unwrap().objects[0].offset, 0);
        assert_eq!(fetch.chunk(DeviceTime(LAST_RETRY), chunk(&bytes, 0, 100)), Arrival::Whole(bytes));
    }

    #[test]
    fn a_lost_answer_is_asked_for_again_from_where_it_broke_off() {
        let bytes = content(50_000);
        let mut fetch = Fetch::default();
        fetch.lack(DeviceTime(0), &[object(&bytes)]);
        assert_eq!(fetch.want(DeviceTime(0), 0).unwrap().objects[0].offset, 0);
        assert_eq!(fetch.chunk(DeviceTime(10), chunk(&bytes, 0, 20_000)), Arrival::Part);
        assert_eq!(fetch.want(DeviceTime(11), 0), None);
        let due = fetch.deadline().unwrap();
        assert_eq!(fetch.want(due, 0).unwrap().objects[0].offset, 20_000);
    }

    #[test]
    fn only_so_much_is_fetched_together() {
        let large: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 200_000]).collect();
        let refs: Vec<ObjectRef> = large.iter().map(|bytes| object(bytes)).collect();
        let mut fetch = Fetch::default();
        fetch.lack(DeviceTime(0), &refs);
        assert_eq!(fetch.want(DeviceTime(0), 0).unwrap().objects.len(), 2);
        let huge = ObjectRef { hash: ContentHash([9; 32]), len: MAX_OBJECT + 1 };
        fetch.lack(DeviceTime(0), &[huge]);
        assert_eq!(fetch.want(DeviceTime(100_000), 0), None, "nothing is kept for an object that cannot be");
    }
}
