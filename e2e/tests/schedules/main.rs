//! The pure twin and the pure agent against each other, over thousands of generated schedules of loss, repetition,
//! reordering, replay, crashes, power cuts, clock jumps, refusing disks and a restored API.
//!
//! Both sides are the real ones: the bridge's `Twin` and `SessionSlot`, the agent's `Brain`, `plan` and `Lifecycle`, and the
//! wire's handshakes and sealed messages between them. What is around them (API, hub, disk, containers) is a model that
//! keeps its contract and no more. After every event the [witness] checks:
//!
//! - a workload that is wanted is never stopped by a fault;
//! - no stale set is accepted or acted upon;
//! - nothing that was said is forgotten before the API has it;
//! - numbers, versions and the device's time never go back;
//!
//! and at the end, when faults stop, everything becomes as the API says: what is wanted runs, nothing else does, and the
//! API shows what the device says.
//!
//! `HAWSER_SEED=n` plays one seed with its log; `HAWSER_SCHEDULES=n` says how many are played.

mod api;
mod bridge;
mod containers;
mod device;
mod dice;
mod disk;
mod hub;
mod schedule;
mod summary;
mod witness;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use schedule::{Step, generate, shorten};
use world::{Failure, play};

/// How many schedules are played.
const SCHEDULES: u64 = 1_500;
/// How often a failing schedule is played again to find a shorter one.
const SHORTENING: u32 = 400;
/// How many lines of the log of a failing schedule are shown.
const LINES: usize = 400;

/// Seeds that found something, so that it is never found again.
const REGRESSIONS: [u64; 4] = [93, 147, 471, 684];

#[test]
fn twin_and_agent_agree_over_generated_schedules() {
    if let Some(seed) = number("HAWSER_SEED") {
        return show(seed);
    }
    let seeds = number("HAWSER_SCHEDULES").unwrap_or(SCHEDULES);
    let next = AtomicU64::new(1);
    let failed = AtomicU64::new(u64::MAX);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds || failed.load(Ordering::Relaxed) != u64::MAX {
                        return;
                    }
                    if play(seed, &generate(seed), false).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    if failed.load(Ordering::Relaxed) != u64::MAX {
        show(failed.load(Ordering::Relaxed));
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    REGRESSIONS.into_iter().for_each(show);
}

/// Plays one seed. If it fails, tells the shortest schedule that fails like it, and what happens in it.
fn show(seed: u64) {
    let steps = generate(seed);
    let Err(Failure { what, .. }) = play(seed, &steps, false) else { return };
    let like_it =
        |fewer: &[Step]| play(seed, fewer, false).is_err_and(|failure| kind_of(&failure.what) == kind_of(&what));
    let steps = shorten(steps, SHORTENING, like_it);
    let Err(failure) = play(seed, &steps, true) else { panic!("seed {seed} does not fail twice") };
    let from = failure.log.len().saturating_sub(LINES);
    panic!(
        "seed {seed}: {}\n\nHAWSER_SEED={seed} plays it again. The shortest schedule found:\n{steps:#?}\n\n{}\n\nseed {seed}: {}",
        failure.what,
        failure.log[from..].join("\n"),
        failure.what
    );
}

/// What it is, without which pod, version or time.
fn kind_of(what: &str) -> String {
    let words = what.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| word.len() > 2);
    words.take(6).collect::<Vec<_>>().join(" ")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
