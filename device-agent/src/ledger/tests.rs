//! Crashes at every byte, damage of every kind, and disks that refuse.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use hawser_wire::desired::{IndexEntry, ObjectRef};
use hawser_wire::{BootId, ContentHash, DeviceTime, Digest, PodUid, Version};
use proptest::prelude::*;

use super::entry::{Key, Op};
use super::frame::{self, Cipher, End, HEADER_LEN};
use super::log::{Found, Log};
use super::*;

const SECRET: [u8; 32] = [7; 32];

type State = BTreeMap<Key, Vec<u8>>;

fn uid(n: u8) -> PodUid {
    PodUid::new(&format!("pod-{n}")).unwrap()
}

fn apply(state: &mut State, ops: &[Op]) {
    for (key, value) in ops {
        match value {
            Some(value) => drop(state.insert(key.clone(), value.to_vec())),
            None => drop(state.remove(key)),
        }
    }
}

fn read_back(bytes: &[u8]) -> (State, Option<End>) {
    let mut state = State::new();
    let end = bytes.len() as u64;
    let Some(cipher) = Cipher::of_header(&SECRET, bytes) else { return (state, None) };
    let outcome = frame::walk(bytes, &cipher, end, |_, _, ops| apply(&mut state, &ops), |_| {}).unwrap();
    (state, Some(outcome))
}

/// A file of several writes, with the state after each frame and whether it is the first of its write.
fn file_of(writes: Vec<Vec<Op>>) -> (Vec<u8>, Vec<(u64, State)>, u64) {
    let cipher = Cipher::new(&SECRET, [1; 16]);
    let mut bytes = cipher.header();
    let mut state = State::new();
    let mut states = vec![(HEADER_LEN, state.clone())];
    let mut last_start = HEADER_LEN;
    let mut counter = 0_u8;
    for ops in writes {
        last_start = bytes.len() as u64;
        let mut nonce = || {
            counter = counter.wrapping_add(1);
            [counter; 24]
        };
        let (more, written) = frame::encode_write(&cipher, last_start, ops, &mut nonce);
        bytes.extend(more);
        for frame in written {
            apply(&mut state, &frame.ops);
            states.push((frame.at + frame.len as u64, state.clone()));
        }
    }
    (bytes, states, last_start)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = prop_oneof![
        (0_u8..5).prop_map(|n| Key::Workload(uid(n))),
        (0_u8..3).prop_map(|n| Key::Object(ContentHash([n; 32]))),
        Just(Key::Sequence),
    ];
    // Rarely one that gets a frame of its own: every byte of it is a place to crash at.
    let len = prop_oneof![12 => 0_usize..40, 1 => Just(2100)];
    let value = prop::option::weighted(0.8, (len, any::<u8>()).prop_map(|(len, fill)| Arc::from(vec![fill; len])));
    prop::collection::vec((key, value), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whatever the power cut leaves of the last write, what is read back is the state after some frame of it, and
    /// nothing of the writes before is lost.
    #[test]
    fn a_crash_at_any_byte_leaves_a_prefix(writes in prop::collection::vec(ops(), 1..6)) {
        let (bytes, states, last_start) = file_of(writes);
        for cut in last_start as usize..=bytes.len() {
            let (state, outcome) = read_back(&bytes[..cut]);
            let (good, expected) = states.iter().rfind(|(end, _)| *end <= cut as u64).unwrap();
            prop_assert_eq!(&state, expected);
            let clean = *good == cut as u64;
            prop_assert_eq!(outcome, Some(if clean { End::Clean } else { End::Torn { at: *good } }));
        }
    }

    /// A page of the last write that never reached the disk reads as zeros: torn, even if later pages did.
    #[test]
    fn a_hole_in_the_last_write_is_torn_not_corrupt(writes in prop::collection::vec(ops(), 1..4), at in any::<prop::sample::Index>()) {
        let (mut bytes, _, last_start) = file_of(writes);
        let start = last_start as usize;
        prop_assume!(bytes.len() > start);
        let hole = start + at.index(bytes.len() - start);
        let end = (hole + 64).min(bytes.len());
        bytes[hole..end].fill(0);
        let (_, outcome) = read_back(&bytes);
        prop_assert!(matches!(outcome, Some(End::Torn { .. })), "{:?}", outcome);
    }

    /// A flipped bit in what was durable is noticed, wherever it is.
    #[test]
    fn damage_in_the_middle_is_corruption(writes in prop::collection::vec(ops(), 2..5), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (mut bytes, states, last_start) = file_of(writes);
        let middle = HEADER_LEN as usize..last_start as usize;
        let hit = middle.start + at.index(middle.len());
        bytes[hit] ^= 1 << bit;
        let (state, outcome) = read_back(&bytes);
        prop_assert!(matches!(outcome, Some(End::Corrupt { .. })), "{:?}", outcome);
        let (_, expected) = states.iter().rfind(|(end, _)| *end <= hit as u64).unwrap();
        prop_assert_eq!(&state, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (mut file, _, _) = file_of(vec![vec![(Key::Sequence, Some(Arc::from([1_u8; 8].as_slice())))]]);
        file.extend(&bytes);
        read_back(&file);
        read_back(&bytes);
    }
}

fn save(n: u8, fill: u8, len: usize) -> Op {
    (Key::Workload(uid(n)), Some(Arc::from(vec![fill; len])))
}

#[test]
fn nothing_readable_is_on_the_disk_and_nobody_else_may_look() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, found, _) = Log::open(dir.path(), &SECRET).unwrap();
    assert_eq!(found, Found::Nothing);
    log.write(vec![(Key::Workload(uid(1)), Some(Arc::from(b"top secret password".as_slice())))]).unwrap();
    let path = dir.path().join("ledger");
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_unchanged_value_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = Log::open(dir.path(), &SECRET).unwrap();
    log.write(vec![save(1, 1, 300)]).unwrap();
    let len = log.len();
    log.write(vec![save(1, 1, 300), (Key::Workload(uid(9)), None)]).unwrap();
    assert_eq!(log.len(), len);
}

#[test]
fn compaction_keeps_what_lives_and_drops_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = Log::open(dir.path(), &SECRET).unwrap();
    log.write(vec![save(200, 9, 10_000), save(201, 8, 50)]).unwrap();
    for round in 0..3_000_u32 {
        let value: Arc<[u8]> = round.to_be_bytes().repeat(75).into();
        log.write(vec![(Key::Workload(uid(1)), Some(value))]).unwrap();
    }
    assert!(log.len() < 400_000, "{}", log.len());
    drop(log);
    let (log, found, _) = Log::open(dir.path(), &SECRET).unwrap();
    assert_eq!(found, Found::Whole);
    assert_eq!(log.read(&Key::Workload(uid(1))).unwrap().unwrap()[..4], 2999_u32.to_be_bytes());
    assert_eq!(log.read(&Key::Workload(uid(200))).unwrap().unwrap().len(), 10_000);
    assert_eq!(log.read(&Key::Workload(uid(201))).unwrap().unwrap().len(), 50);
    assert_eq!(log.keys().count(), 3);
}

#[test]
fn a_torn_tail_is_cut_off_and_writing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let (mut log, ..) = Log::open(dir.path(), &SECRET).unwrap();
    log.write(vec![save(1, 1, 100)]).unwrap();
    let whole = log.len();
    log.write(vec![save(2, 2, 100)]).unwrap();
    drop(log);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let (mut log, found, _) = Log::open(dir.path(), &SECRET).unwrap();
    assert_eq!(found, Found::Torn { bytes: bytes.len() as u64 - 3 - whole });
    log.write(vec![save(3, 3, 100)]).unwrap();
    drop(log);
    let (log, found, _) = Log::open(dir.path(), &SECRET).unwrap();
    assert_eq!(found, Found::Whole);
    assert_eq!(log.keys().cloned().collect::<Vec<_>>(), [Key::Workload(uid(1)), Key::Workload(uid(3))]);
}

#[test]
fn another_devices_key_sets_the_file_aside_unharmed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = Log::open(dir.path(), &SECRET).unwrap();
    log.write(vec![save(1, 1, 100)]).unwrap();
    drop(log);
    let before = std::fs::read(dir.path().join("ledger")).unwrap();
    let (log, found, _) = Log::open(dir.path(), &[8; 32]).unwrap();
    let Found::SetAside { path, .. } = found else { panic!("{found:?}") };
    assert_eq!(path, dir.path().join("ledger.corrupt-1"));
    assert_eq!(std::fs::read(path).unwrap(), before);
    assert_eq!(log.keys().count(), 0);
}

fn accepted() -> Accepted {
    let run = |hash: u8| Wish::Run(ObjectRef { hash: ContentHash([hash; 32]), len: 3 });
    Accepted {
        pod_ranges: vec!["10.42.7.0/24".parse().unwrap()],
        version: Version { epoch: 1, revision: 2, edit: 3 },
        digest: Digest([4; 16]),
        entries: vec![IndexEntry { uid: uid(1), wish: run(1) }, IndexEntry { uid: uid(2), wish: Wish::Stop(9) }],
    }
}

fn clock(told: u64) -> ClockRecord {
    ClockRecord { boot: BootId([1; 8]), offset_millis: 5, told_up_to: DeviceTime(told) }
}

async fn reopened(dir: &std::path::Path, ledger: Ledger, thread: LedgerThread) -> (Ledger, LedgerThread, Recovered) {
    drop(ledger);
    thread.join().await;
    Ledger::open(dir.into(), SECRET).unwrap()
}

#[tokio::test]
async fn everything_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, thread, recovered) = Ledger::open(dir.path().into(), SECRET).unwrap();
    assert_eq!(recovered.found, Some(Found::Nothing));
    let object: Arc<[u8]> = Arc::from([1, 2, 3]);
    let item = Numbered { seq: 12, item: hawser_wire::Open::Unknown };
    let changes = vec![
        Change::Accept(accepted()),
        Change::Complete(uid(1), ContentHash([1; 32])),
        Change::PutObject(ContentHash([1; 32]), object.clone()),
        Change::PutObject(ContentHash([2; 32]), Arc::from(vec![0; 100_000])),
        Change::Say(Slot::Pod(uid(1)), item.clone().into()),
        Change::ReserveSequence(4096),
        Change::Clock(clock(99)),
    ];
    assert_eq!(ledger.submit(changes, Urgency::Now).await.await, Ok(Durability::Durable));
    ledger.save_workload(&uid(1), vec![5; 10]).await.unwrap();
    let (ledger, thread, recovered) = reopened(dir.path(), ledger, thread).await;
    assert_eq!(recovered.found, Some(Found::Whole));
    assert_eq!(recovered.accepted, Some(accepted()));
    assert_eq!(recovered.complete, BTreeMap::from([(uid(1), ContentHash([1; 32]))]));
    assert_eq!(recovered.objects.len(), 2);
    assert_eq!(recovered.deployments, BTreeMap::from([(ContentHash([1; 32]), object)]));
    assert_eq!(recovered.workloads, [(uid(1), vec![5; 10])]);
    assert_eq!(recovered.said, BTreeMap::from([(Slot::Pod(uid(1)), item)]));
    assert_eq!(recovered.next_sequence, 4096);
    assert_eq!(recovered.clock, Some(clock(99)));
    assert_eq!(ledger.blob(ContentHash([2; 32])).await.unwrap().len(), 100_000);
    assert!(matches!(ledger.blob(ContentHash([3; 32])).await, Err(LedgerError::NoObject(_))));
    ledger.forget_workload(&uid(1)).await.unwrap();
    let (ledger, thread, recovered) = reopened(dir.path(), ledger, thread).await;
    assert!(recovered.workloads.is_empty());
    drop(ledger);
    thread.join().await;
}

#[tokio::test]
async fn what_is_taken_back_soon_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, thread, _) = Ledger::open(dir.path().into(), SECRET).unwrap();
    let before = ledger.sizes().await.unwrap();
    let item = Numbered { seq: 1, item: hawser_wire::Open::Unknown };
    ledger.submit_unawaited(vec![Change::Say(Slot::Facts, item.into())], Urgency::Soon).await;
    ledger.submit_unawaited(vec![Change::Unsay(Slot::Facts)], Urgency::Soon).await;
    ledger.flush().await.unwrap();
    assert_eq!(ledger.sizes().await.unwrap(), before);
    drop(ledger);
    thread.join().await;
}

#[tokio::test]
async fn a_lost_ledger_does_not_let_numbers_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, thread, _) = Ledger::open(dir.path().into(), SECRET).unwrap();
    ledger.submit(vec![Change::ReserveSequence(5000)], Urgency::Now).await.await.unwrap();
    ledger.save_workload(&uid(1), vec![5; 10]).await.unwrap();
    ledger.submit(vec![Change::Clock(clock(1234))], Urgency::Now).await.await.unwrap();
    drop(ledger);
    thread.join().await;
    let path = dir.path().join("ledger");
    let mut bytes = std::fs::read(&path).unwrap();
    let damage = bytes.len() - 200;
    bytes[damage] ^= 0xff;
    std::fs::write(&path, &bytes).unwrap();
    let (ledger, thread, recovered) = Ledger::open(dir.path().into(), SECRET).unwrap();
    assert!(matches!(recovered.found, Some(Found::SetAside { .. })), "{:?}", recovered.found);
    assert_eq!((recovered.next_sequence, recovered.accepted), (5000, None));
    assert_eq!(recovered.clock, Some(clock(1234)));
    // Even the header may be gone.
    drop(ledger);
    thread.join().await;
    std::fs::write(&path, b"garbage").unwrap();
    let (ledger, thread, recovered) = Ledger::open(dir.path().into(), SECRET).unwrap();
    assert_eq!(recovered.next_sequence, 5000);
    assert!(dir.path().join("ledger.corrupt-2").exists());
    drop(ledger);
    thread.join().await;
}

#[tokio::test]
async fn a_disk_that_refuses_is_said_and_survived() {
    // A directory that is not there refuses root too, unlike a read-only one.
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("later");
    let (ledger, thread, recovered) = Ledger::open(dir.clone(), SECRET).unwrap();
    assert_eq!(recovered.found, None);
    let refused = ledger.save_workload(&uid(1), vec![1]).await;
    assert!(matches!(refused, Err(LedgerError::NotDurable { .. })), "{refused:?}");
    let object: Arc<[u8]> = Arc::from([1, 2, 3]);
    ledger.submit(vec![Change::PutObject(ContentHash([1; 32]), object.clone())], Urgency::Now).await.await.unwrap();
    assert_eq!(ledger.blob(ContentHash([1; 32])).await.unwrap(), object, "read from memory");
    let mut health = ledger.health();
    assert!(matches!(*health.borrow_and_update(), Durability::InMemory { .. }));
    std::fs::create_dir(&dir).unwrap();
    // The thread tries again by itself.
    health.wait_for(|health| *health == Durability::Durable).await.unwrap();
    let (ledger, thread, recovered) = reopened(&dir, ledger, thread).await;
    assert_eq!(recovered.workloads, [(uid(1), vec![1])]);
    assert_eq!(ledger.blob(ContentHash([1; 32])).await.unwrap(), object);
    drop(ledger);
    thread.join().await;
}

#[test]
#[ignore = "prints a measurement; asserts nothing about it"]
fn write_amplification() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = Log::open(dir.path(), &SECRET).unwrap();
    for round in 0..1_000_u32 {
        let value: Arc<[u8]> = round.to_be_bytes().repeat(75).into();
        log.write(vec![(Key::Workload(uid((round % 10) as u8)), Some(value))]).unwrap();
    }
    println!("1,000 durable updates of 300 bytes: {} bytes written, compactions included", log.written);
}
