//! The hub: it loses, repeats, delays and reorders, and somebody at it records everything.

use hawser_wire::Channel;

use crate::dice::Dice;

/// How many recorded payloads are kept.
const RECORDED: usize = 400;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) loss: u32,
    pub(crate) twice: u32,
    pub(crate) delay: u64,
    recorded: Vec<(Way, Channel, Vec<u8>)>,
    passed: usize,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { loss: 0, twice: 0, delay: 50, recorded: Vec::new(), passed: 0 }
    }

    /// After which times this message arrives.
    pub(crate) fn carry(&mut self, dice: &mut Dice, way: Way, channel: Channel, payload: &[u8]) -> Vec<u64> {
        let place = self.passed % RECORDED;
        self.passed += 1;
        let record = (way, channel, payload.to_vec());
        if place < self.recorded.len() {
            self.recorded[place] = record;
        } else {
            self.recorded.push(record);
        }
        let mut arrivals = Vec::new();
        if !dice.chance(self.loss) {
            arrivals.push(dice.between(1, self.delay.max(1)));
        }
        if dice.chance(self.twice) {
            arrivals.push(dice.between(1, self.delay.max(1) * 2));
        }
        arrivals
    }

    /// Something that went by once, whenever that was.
    pub(crate) fn recorded(&self, dice: &mut Dice) -> Option<(Way, Channel, Vec<u8>)> {
        let last = self.recorded.len().checked_sub(1)?;
        self.recorded.get(dice.between(0, last as u64) as usize).cloned()
    }
}
