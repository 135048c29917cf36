//! One device of the fleet: its record, its twin, its sessions, and what has been told about it.

use std::time::Duration;

use hawser_wire::{DeviceId, PublicKey};
use jiff::Timestamp;
use virtual_node::NodeName;
use virtual_node::provider::NodeTemplate;

use super::clock::Moment;
use super::reporting::Generation;
use super::streams::DeviceStreams;
use super::twin::{Settings, Twin};
use crate::hub::rate::Bucket;
use crate::hub::session::SessionSlot;
use crate::registry::node::{Platform, template};
use crate::registry::record::{DeviceRecord, KnownKey};
use crate::registry::status::{DeviceNews, Written};

/// One device.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) record: DeviceRecord,
    pub(crate) node: NodeName,
    pub(crate) generation: Generation,
    pub(crate) twin: Twin,
    pub(crate) sessions: SessionSlot,
    pub(crate) hellos: Bucket,
    pub(crate) complaints: Bucket,
    /// When the timer of its twin and its streams is set.
    pub(crate) timer: Option<Duration>,
    /// There once a stream was opened in this session.
    pub(crate) streams: Option<Box<DeviceStreams>>,
    /// Whether it is counted among the devices that are online.
    pub(crate) counted: bool,
    agent_version: Option<String>,
    platform: Option<Platform>,
    /// The key that was stored here, until the watch shows it: an older state of the Device may still be under way.
    learned: Option<PublicKey>,
    /// What Device.status says, as far as we wrote it.
    written: Option<Written>,
    ready: (&'static str, Timestamp),
}

impl Slot {
    /// `None` if the device's name cannot be a node's (both are DNS names, so it can).
    pub(crate) fn new(record: DeviceRecord, generation: Generation, settings: Settings, now: Moment) -> Option<Self> {
        let node = NodeName::new(record.id.as_str()).ok()?;
        let ready = match &record.ready {
            Some((status, since)) if status == "True" => ("True", *since),
            Some((_, since)) => ("Unknown", *since),
            None => ("Unknown", now.wall),
        };
        Some(Self {
            twin: Twin::new(node.clone(), settings, record.last_seen, now),
            node,
            generation,
            sessions: SessionSlot::default(),
            hellos: Bucket::default(),
            complaints: Bucket::default(),
            timer: None,
            streams: None,
            counted: false,
            agent_version: None,
            platform: None,
            learned: None,
            written: None,
            ready,
            record,
        })
    }

    pub(crate) fn template(&self) -> NodeTemplate {
        template(&self.record, self.platform.as_ref())
    }

    /// Takes a newer record of the same Device. Answers whether the Node's template changed, and whether the session is
    /// over because the key is another one now.
    pub(crate) fn update(&mut self, record: DeviceRecord) -> (bool, bool) {
        let before = self.template();
        self.record = record;
        match self.learned {
            Some(key) if self.record.key == KnownKey::None => self.record.key = KnownKey::Joined(key),
            _ => self.learned = None,
        }
        let cut = self.sessions.keep_only(self.record.key.key());
        (self.template() != before, cut)
    }

    /// The device's key is known from now on, before the watch shows it.
    pub(crate) fn learn_key(&mut self, key: PublicKey) {
        self.learned = Some(key);
        self.record.key = KnownKey::Joined(key);
    }

    pub(crate) fn agent_is(&mut self, version: &str) {
        let version: String = version.chars().filter(|c| !c.is_control()).take(64).collect();
        self.agent_version = Some(version);
    }

    /// Looks whether the device has told its platform. Answers whether that changes the template.
    pub(crate) fn learn_platform(&mut self) -> bool {
        let Some(facts) = self.twin.take_new_facts() else { return false };
        if self.platform.as_ref().is_some_and(|known| known.arch == facts.arch && known.os == facts.os) {
            return false;
        }
        let before = self.template();
        self.platform = Some(Platform { arch: facts.arch, os: facts.os });
        self.template() != before
    }

    /// What is to be written to Device.status, if anything.
    pub(crate) fn news(&mut self, now: Moment) -> Option<DeviceNews> {
        // Until the twin has made up its mind, what an earlier bridge wrote stands.
        if !self.twin.has_opinion() {
            return None;
        }
        let ready = if self.twin.is_online() { "True" } else { "Unknown" };
        if self.ready.0 != ready {
            self.ready = (ready, now.wall);
        }
        let (agent, arch) = (self.agent_version.as_deref(), self.platform.as_ref().map(|known| known.arch.as_str()));
        let written = Written::new((&self.record.uid, ready, self.ready.1, agent, arch), self.twin.last_seen());
        if !written.is_news_after(self.written) {
            return None;
        }
        self.written = Some(written);
        Some(DeviceNews {
            device: self.id().clone(),
            uid: self.record.uid.clone(),
            ready,
            since: self.ready.1,
            agent_version: self.agent_version.clone(),
            architecture: self.platform.as_ref().map(|platform| platform.arch.chars().take(64).collect()),
            last_seen: self.twin.last_seen(),
        })
    }

    pub(crate) fn id(&self) -> &DeviceId {
        &self.record.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget of an idle device is 8 KiB all told; the slot is the part of it that every device has at all times.
    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<Slot>() <= 1280, "{}", size_of::<Slot>());
    }
}
