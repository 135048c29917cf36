//! What holds for every message and for every input.

mod support;

use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::limits::MAX_PAYLOAD;
use hawser_wire::session_messages::Envelope;
use hawser_wire::{Down, Open, Up, decode, encode};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;
/// The peak is of the whole process: the tests of this file take turns, with the making of their messages.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! identity {
    ($name:ident, $strategy:expr, $type:ty) => {
        #[test]
        fn $name() {
            let _turn = turn();
            proptest!(|(message in $strategy)| {
                let bytes = encode(&message);
                let decoded = decode::<$type>(&bytes, usize::MAX).expect("our own bytes");
                prop_assert!(!decoded.unfamiliar);
                prop_assert_eq!(decoded.value, message);
            });
        }
    };
}

identity!(an_envelope_comes_back, support::envelope(), Envelope);
identity!(an_up_comes_back, support::up(), Up);
identity!(a_down_comes_back, support::down(), Down);
identity!(a_deployment_comes_back, support::deployment(), EdgeDeployment);

/// Decodes as everything that is ever decoded from a stranger, and returns how much memory that took at its peak.
fn peak_of_decoding(bytes: &[u8]) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let _ = decode::<Envelope>(bytes, MAX_PAYLOAD);
    let _ = decode::<Open<Up>>(bytes, MAX_PAYLOAD);
    let _ = decode::<Open<Down>>(bytes, MAX_PAYLOAD);
    let _ = decode::<EdgeDeployment>(bytes, MAX_PAYLOAD);
    MEMORY.peak_usage().saturating_sub(before)
}

/// The largest element of a list takes some hundred bytes in memory for one byte of input, and a growing Vec twice that.
const MEMORY_PER_BYTE: usize = 1024;
const MEMORY_BASE: usize = 64 * 1024;

#[test]
fn any_bytes_are_survived_within_the_memory_they_pay_for() {
    let _turn = turn();
    proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..600))| {
        let peak = peak_of_decoding(&bytes);
        prop_assert!(peak <= MEMORY_BASE + MEMORY_PER_BYTE * bytes.len(), "{} bytes for {}", peak, bytes.len());
    });
}

/// Random bytes rarely get past the first item: damaged messages get further.
#[test]
fn damaged_messages_are_survived() {
    let _turn = turn();
    let damage = || prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    proptest!(|(message in support::up(), damage in damage(), cut in any::<prop::sample::Index>())| {
        let mut bytes = encode(&message);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let peak = peak_of_decoding(&bytes);
        prop_assert!(peak <= MEMORY_BASE + MEMORY_PER_BYTE * bytes.len());
        bytes.truncate(cut.index(bytes.len() + 1));
        peak_of_decoding(&bytes);
    });
}

#[test]
fn every_truncation_is_refused() {
    let _turn = turn();
    proptest!(|(message in support::down())| {
        let bytes = encode(&message);
        for len in 0..bytes.len() {
            prop_assert!(decode::<Down>(&bytes[..len], MAX_PAYLOAD).is_err(), "{} of {}", len, bytes.len());
        }
    });
}

#[test]
fn a_hundred_megabytes_claimed_by_ten_bytes_cost_nothing() {
    let _turn = turn();
    for major in [0x5a, 0x7a, 0x9a, 0xba] {
        let mut bytes = vec![major];
        bytes.extend(100_000_000u32.to_be_bytes());
        bytes.extend([0; 5]);
        assert!(peak_of_decoding(&bytes) < MEMORY_BASE);
        // The same claim where a message would have its own list.
        let mut nested = vec![0x82, 0x02, 0x81, 0x81];
        nested.extend(&bytes);
        assert!(peak_of_decoding(&nested) < MEMORY_BASE);
    }
}

#[test]
fn more_than_the_limit_is_refused_unread() {
    let _turn = turn();
    let long = vec![0x40; MAX_PAYLOAD + 1];
    let error = decode::<Envelope>(&long, MAX_PAYLOAD).unwrap_err();
    assert_eq!(error.to_string(), format!("{} bytes where at most {MAX_PAYLOAD} are allowed", MAX_PAYLOAD + 1));
}
