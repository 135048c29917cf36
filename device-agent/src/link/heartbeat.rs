//! When to say "I am alive". Pure.

use hawser_wire::DeviceTime;

/// Answers to pings are no closer together than this, so a replaying hub cannot make us chatter.
const ANSWER_DISTANCE: u64 = 200;

/// The next heartbeat.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    sent: Option<DeviceTime>,
    answers: Option<u32>,
    at_once: bool,
}

impl Pulse {
    /// Something changed that the bridge should know now.
    pub(super) fn at_once(&mut self) {
        self.at_once = true;
    }

    /// A ping came. Only the last one is answered.
    pub(super) fn ping(&mut self, number: u32) {
        self.answers = Some(number);
    }

    /// When the next heartbeat is due, at this interval.
    pub(super) fn due(&self, interval: u64) -> DeviceTime {
        let Some(sent) = self.sent.filter(|_| !self.at_once) else { return DeviceTime(0) };
        let distance = if self.answers.is_some() { ANSWER_DISTANCE.min(interval) } else { interval };
        DeviceTime(sent.0.saturating_add(distance))
    }

    /// One goes out now: which ping it answers.
    pub(super) fn send(&mut self, now: DeviceTime) -> Option<u32> {
        self.sent = Some(now);
        self.at_once = false;
        self.answers.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_out_at_the_interval_at_once_and_in_answer() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.due(10_000), DeviceTime(0));
        assert_eq!(pulse.send(DeviceTime(1_000)), None);
        assert_eq!(pulse.due(10_000), DeviceTime(11_000));
        pulse.ping(7);
        pulse.ping(8);
        assert_eq!(pulse.due(10_000), DeviceTime(1_200));
        assert_eq!(pulse.send(DeviceTime(1_200)), Some(8));
        assert_eq!(pulse.due(10_000), DeviceTime(11_200));
        pulse.at_once();
        assert_eq!(pulse.due(10_000), DeviceTime(0));
    }
}
