//! How much may be under way between the two ends, whatever lies between them.
//!
//! A queue that is never long cannot delay what comes behind it: neither in the MQTT client, nor in the socket, nor in the
//! hub. So frames are let out only as the other end says that it has got earlier ones, and the longer those take beyond
//! the best that was seen, the fewer are let out.

use alloc::collections::VecDeque;

/// What a session begins with. It doubles with every round trip while the queue stays short.
const FIRST_WINDOW: usize = 8 * 1024;
/// What is always allowed, on the slowest link too: two seconds at 16 kbit/s.
const LEAST_WINDOW: usize = 4 * 1024;
const GREATEST_WINDOW: usize = 256 * 1024;
/// How many frames, however small. A client's queue and a hub's in-flight window must have room for state beside them.
pub(super) const MAX_FRAMES: usize = 24;
/// A longer queue than this many milliseconds is not made longer.
const SHORT_QUEUE: u64 = 300;
/// A longer queue than this is made shorter.
const LONG_QUEUE: u64 = 1_000;

/// What is under way in one direction of one session.
#[derive(Debug)]
pub(super) struct Pace {
    window: usize,
    under_way: usize,
    sent: VecDeque<Sent>,
    /// The shortest time that a frame and its receipt took.
    least: Option<u64>,
    /// Frames sent before this one say nothing about the present window.
    adjusted: u64,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    cost: usize,
    at: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { window: FIRST_WINDOW, under_way: 0, sent: VecDeque::new(), least: None, adjusted: 0 }
    }
}

impl Pace {
    /// How many bytes of data the next frame may hold; 0: none may be sent.
    pub(super) fn room(&self, chunk: usize) -> usize {
        if self.under_way >= self.window || self.sent.len() >= MAX_FRAMES { 0 } else { chunk.min(self.window) }
    }

    pub(super) fn sent(&mut self, number: u64, cost: usize, now: u64) {
        self.under_way += cost;
        self.sent.push_back(Sent { number, cost, at: now });
    }

    /// The other end has got everything up to `number`.
    pub(super) fn received(&mut self, number: u64, now: u64) {
        let (mut newest, mut cost) = (None, 0);
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.number <= number) {
            cost += sent.cost;
            newest = Some(sent);
        }
        let Some(newest) = newest else { return };
        self.under_way -= cost;
        let took = now.saturating_sub(newest.at);
        let least = self.least.map_or(took, |least| least.min(took));
        self.least = Some(least);
        if newest.number < self.adjusted {
            return;
        }
        match took - least {
            0..SHORT_QUEUE => self.window = (self.window + cost).min(GREATEST_WINDOW),
            SHORT_QUEUE..=LONG_QUEUE => {}
            _ => {
                self.window = (self.window / 2).max(LEAST_WINDOW);
                self.adjusted = self.sent.back().map_or(newest.number, |sent| sent.number) + 1;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn window(&self) -> usize {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of so many bytes per second behind a queue; answers how long the queue is, in milliseconds, at its worst
    /// after the first ten seconds, and how many bytes came through.
    fn worst_queue(bytes_per_second: u64, latency: u64, seconds: u64) -> (u64, u64) {
        let (mut pace, mut number, mut free_at, mut worst, mut through) = (Pace::default(), 0, 0, 0, 0);
        let mut arrivals: VecDeque<(u64, u64)> = VecDeque::new();
        for now in 0..seconds * 1000 {
            while let Some((_, number)) = arrivals.pop_front_if(|(at, _)| *at <= now) {
                pace.received(number, now);
            }
            loop {
                let room = match pace.room(16 * 1024) {
                    0 => break,
                    // A stream begins with short frames.
                    _ if number < 2 => 150,
                    room => room,
                };
                pace.sent(number, room, now);
                free_at = now.max(free_at) + (room as u64 * 1000).div_ceil(bytes_per_second);
                through += room as u64;
                arrivals.push_back((free_at + latency, number));
                number += 1;
            }
            if now > 10_000 {
                worst = worst.max(free_at.saturating_sub(now));
            }
        }
        (worst, through)
    }

    #[test]
    fn a_slow_link_has_a_short_queue() {
        for rate in [2_000, 8_000, 32_000, 125_000] {
            let (queue, through) = worst_queue(rate, 50, 120);
            assert!(queue <= 4_000, "{queue} ms of queue at {rate} B/s");
            assert!(through >= rate * 100, "only {through} bytes in 120 s at {rate} B/s");
        }
    }

    #[test]
    fn a_fast_link_is_used() {
        let (_, through) = worst_queue(50_000_000, 20, 10);
        assert!(through > 60_000_000, "{through} bytes in 10 s");
        let (_, far) = worst_queue(1_000_000, 600, 20);
        assert!(far > 6_000_000, "{far} bytes in 20 s over a satellite");
    }

    #[test]
    fn receipts_of_what_was_never_sent_change_nothing() {
        let mut pace = Pace::default();
        pace.received(70, 5);
        assert_eq!(pace.window(), FIRST_WINDOW);
        pace.sent(0, 100, 0);
        pace.received(u64::MAX, 1);
        pace.received(0, 2);
        assert_eq!(pace.under_way, 0);
    }
}
