//! Whether the device is alive, and what its clock says.

use std::time::Duration;

use hawser_wire::Down;
use hawser_wire::report::Heartbeat;
use virtual_node::provider::Liveness;

use super::{Context, Effect, Life, Observation, Twin};
use crate::fleet::clock::Moment;

/// Hints of absence lead to a ping at most this often.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A device's wall clock is called skewed beyond this, and right again below half of it.
const SKEW_MILLIS: i64 = 10_000;

impl Twin {
    pub(super) fn heard(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.life = Life::Online { heard: now };
        self.pinged = None;
        self.call_online(effects);
    }

    pub(super) fn call_online(&mut self, effects: &mut Vec<Effect>) {
        if !self.called_online && self.is_online() && self.facts.is_some() {
            self.called_online = true;
            effects.push(Effect::Observe(Observation::Liveness(Liveness::Online)));
        }
    }

    pub(super) fn age(&mut self, context: Context, effects: &mut Vec<Effect>) {
        let (since, last) = match self.life {
            Life::Unheard { since, last } => (since, last),
            Life::Online { heard } => (heard.mono, Some(heard.wall)),
            Life::Offline { .. } => return,
        };
        if context.now.mono < since + self.window() {
            return;
        }
        self.life = Life::Offline { last };
        self.called_online = false;
        let message = match last.and_then(|last| last.round(jiff::Unit::Second).ok()) {
            Some(last) => format!("the device was last heard at {last}"),
            None => "the device has never been heard".to_owned(),
        };
        let offline = Liveness::Offline { reason: "DeviceOffline".to_owned(), message };
        effects.push(Effect::Observe(Observation::Liveness(offline)));
    }

    pub(super) fn ping(&mut self, context: Context, effects: &mut Vec<Effect>) {
        let recently = self.pinged.is_some_and(|at| context.now.mono < at + PING_EVERY);
        if self.link.is_some() && !recently {
            self.pinged = Some(context.now.mono);
            self.pings = self.pings.wrapping_add(1);
            effects.push(Effect::Send(Down::Ping(self.pings)));
        }
    }

    pub(super) fn hear_heartbeat(&mut self, heartbeat: &Heartbeat, context: Context, effects: &mut Vec<Effect>) {
        if let Some(skew) = self.clock.sample(heartbeat, context.now) {
            self.judge_clock(skew, effects);
        }
        let Some(link) = &mut self.link else { return };
        link.digest = heartbeat.digest;
        let Some(digest) = heartbeat.digest else { return };
        self.versions.confirmed(digest);
    }

    pub(super) fn judge_clock(&mut self, skew: i64, effects: &mut Vec<Effect>) {
        let limit = if self.skewed == Some(true) { SKEW_MILLIS / 2 } else { SKEW_MILLIS };
        let skewed = skew.abs() > limit;
        self.ahead = skew;
        if self.skewed.replace(skewed) != Some(skewed)
            && let Some(report) = self.node_report()
        {
            effects.push(Effect::Observe(Observation::Node(report, None)));
        }
    }
}
