//! The streams of the devices, as far as they concern the owner of their sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use hawser_streams::Streams;
use hawser_wire::stream::mux::{Counts, Side};
use hawser_wire::stream::{Stats, StreamFrame};
use hawser_wire::{Channel, DeviceId, Down, PodUid};
use jiff::Timestamp;
use virtual_node::NodeName;
use virtual_node::provider::stats::NodeStats;
use virtual_node::provider::streams::StreamError;

use super::task::{Fleet, device_of};
use super::twin::Event;
use crate::metrics::Dropped;
use crate::streams::convert::named;
use crate::streams::{LIMITS, Reach};

/// The streams of one device. Made when the first is opened.
#[derive(Debug)]
pub(crate) struct DeviceStreams {
    streams: Streams,
    counted: Counts,
    open: usize,
}

/// What a device is to have, as far as its logs are concerned.
#[derive(Debug)]
pub(crate) struct Stock {
    pub(crate) node: NodeName,
    /// The containers of each pod; `None`: it is not known which ones they are.
    pub(crate) pods: BTreeMap<PodUid, Option<Vec<String>>>,
}

impl Fleet {
    /// What a device is to have. `None`: there is no such device.
    pub(super) fn stock(&self, device: &DeviceId) -> Option<Stock> {
        let slot = self.state.devices.get(device)?;
        Some(Stock { node: slot.node.clone(), pods: slot.twin.containers().collect() })
    }

    /// Something is new about a device, for those who keep logs.
    pub(super) fn ring(&self, device: &DeviceId) {
        if let Some(bell) = &self.config.bell {
            bell.device(device);
        }
    }

    /// The way to a device, if it is heard.
    pub(super) fn reach(&mut self, node: &NodeName, since: Option<Timestamp>) -> Result<Reach, StreamError> {
        let wall = self.moment().wall;
        let ready = self.state.ready.clone();
        let slot = device_of(node).and_then(|device| Some((self.state.devices.get_mut(&device)?, device)));
        let (slot, device) = slot.ok_or_else(|| no_device(node))?;
        if !slot.twin.is_online() {
            let message = match slot.twin.last_seen() {
                Some(last) => format!("device {device} is offline since {last:.0} ({})", ago(last, wall)),
                None => format!("device {device} is offline: it was never heard"),
            };
            return Err(StreamError::Unreachable(message));
        }
        if !slot.sessions.is_open() {
            return Err(StreamError::Unreachable(format!(
                "device {device} is just connecting; try again in a few seconds"
            )));
        }
        let since = since.and_then(|since| slot.twin.to_device(since));
        let streams = slot.streams.get_or_insert_with(|| {
            let streams = Streams::new(Side::Bridge, LIMITS, move || ready.tell(&device));
            // Nothing was said in this session about streams, by neither side.
            streams.begin();
            Box::new(DeviceStreams { streams, counted: Counts::default(), open: 0 })
        });
        Ok(Reach { streams: streams.streams.clone(), since, ahead: slot.twin.ahead() })
    }

    /// What a device measured, in the words of the cluster.
    pub(super) fn name_stats(&self, node: &NodeName, stats: Stats) -> Result<NodeStats, StreamError> {
        let slot = device_of(node).and_then(|device| self.state.devices.get(&device));
        let twin = &slot.ok_or_else(|| no_device(node))?.twin;
        Ok(named(stats, |time| twin.to_timestamp(time), |uid| twin.pod(uid).cloned()))
    }

    /// A frame came, in the session in use.
    pub(super) fn hear_stream(&mut self, device: &DeviceId, frame: StreamFrame) {
        self.give(device, Event::Heard);
        match self.state.devices.get(device).and_then(|slot| slot.streams.as_ref()) {
            Some(streams) => streams.streams.receive(frame),
            // None was ever opened in this session.
            None => self.config.metrics.on_dropped(Dropped::Unfamiliar),
        }
        self.pump_streams(device);
    }

    /// Everybody whose streams have something to say.
    pub(super) fn pump_ready(&mut self) {
        for device in self.state.ready.take() {
            self.pump_streams(&device);
        }
    }

    /// Sends what the streams of a device have to say and may say now. How much that is, they bound themselves.
    pub(super) fn pump_streams(&mut self, device: &DeviceId) {
        while let Some(frame) = self.streams_of(device).and_then(|streams| streams.streams.transmit()) {
            self.seal_and_send_on(Channel::DownStreams, device, &Down::Stream(frame));
        }
        let Some(slot) = self.state.devices.get_mut(device) else { return };
        let Some(streams) = &mut slot.streams else { return };
        let (open, counts) = (streams.streams.len(), streams.streams.counts());
        self.config.metrics.on_streams((streams.open, &streams.counted), (open, &counts));
        (streams.open, streams.counted) = (open, counts);
        self.rearm(device);
    }

    /// A new session is in use.
    pub(super) fn streams_begin(&mut self, device: &DeviceId) {
        if let Some(streams) = self.streams_of(device) {
            streams.streams.begin();
        }
        self.forget_unused(device);
    }

    /// The session is over.
    pub(super) fn streams_end(&mut self, device: &DeviceId, why: &str) {
        if let Some(streams) = self.streams_of(device) {
            streams.streams.end(why);
        }
        self.forget_unused(device);
    }

    /// There is no such device any more.
    pub(super) fn streams_drop(&mut self, device: &DeviceId) {
        self.streams_end(device, "the device was removed from the cluster");
        // Those that somebody still holds are not this device's any more.
        if let Some(streams) = self.state.devices.get_mut(device).and_then(|slot| slot.streams.take()) {
            self.config.metrics.on_streams((streams.open, &streams.counted), (0, &streams.counted));
        }
    }

    /// The bridge is stopping.
    pub(super) fn end_all_streams(&mut self) {
        for slot in self.state.devices.values() {
            slot.streams.iter().for_each(|streams| streams.streams.end("the bridge is stopping"));
        }
    }

    /// The device is not heard any more; its session may still be good.
    pub(super) fn streams_interrupt(&mut self, device: &DeviceId) {
        if let Some(streams) = self.streams_of(device) {
            streams.streams.interrupt(&format!("device {device} is not heard any more"));
        }
        self.pump_streams(device);
    }

    /// When a device's streams want to be asked again.
    pub(super) fn streams_deadline(&self, device: &DeviceId) -> Option<Duration> {
        let slot = self.state.devices.get(device)?;
        let deadline = slot.streams.as_ref()?.streams.deadline()?;
        Some(deadline.saturating_duration_since(self.state.start))
    }

    /// At the start or end of a session nothing has been said about streams: only then they may be made anew later.
    fn forget_unused(&mut self, device: &DeviceId) {
        self.pump_streams(device);
        if let Some(slot) = self.state.devices.get_mut(device) {
            slot.streams.take_if(|streams| streams.streams.is_unused());
        }
    }

    fn streams_of(&self, device: &DeviceId) -> Option<&DeviceStreams> {
        self.state.devices.get(device)?.streams.as_deref()
    }
}

fn no_device(node: &NodeName) -> StreamError {
    StreamError::Unreachable(format!("there is no device {node}"))
}

/// How long ago, roughly.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
