//! Streams beside state: only in their own session, and never far ahead of a heartbeat.

use hawser_wire::stream::mux::{Limits, Moved, Mux, Side};
use hawser_wire::stream::{LogsRequest, StreamBody, StreamFrame, StreamRequest};

use super::*;

fn alive(number: u64) -> StreamFrame {
    StreamFrame { id: 0, body: StreamBody::Alive, number: Some(number) }
}

#[test]
fn a_frame_of_the_session_before_is_not_taken_for_one_of_this() {
    let mut world = World::new();
    world.settle(1_000);
    let late = world.bridge.seal(&Down::Stream(alive(0))).unwrap();
    let taken = world.bridge.seal(&Down::Stream(alive(1))).unwrap();
    world.deliver_down(taken);
    assert_eq!(world.device.frames, [alive(1)]);
    // A new handshake; the bridge has not spoken in the new session, so the old one is still opened.
    world.give_device(Input::Disconnected);
    world.give_device(Input::Connected);
    let hello = world.up.pop_back().unwrap();
    world.deliver_up(&hello);
    let welcome = world.down.pop_back().unwrap();
    world.deliver_down(welcome);
    assert_eq!(world.device.resyncs, 2, "the streams were told to begin anew");
    world.deliver_down(late);
    assert_eq!(world.device.frames, [alive(1)]);
    assert!(!world.device.notes.iter().any(|note| matches!(note, Note::NotOpened(_))), "it was opened, and set aside");
    let fresh = world.bridge.seal(&Down::Stream(alive(0))).unwrap();
    world.deliver_down(fresh);
    assert_eq!(world.device.frames, [alive(1), alive(0)]);
}

/// Ten logs that never end, over an uplink that takes nothing: what lies ahead of the next heartbeat is little.
#[test]
fn bulk_is_never_far_ahead_of_a_heartbeat() {
    let mut world = World::new();
    world.settle(1_000);
    let limits = Limits { streams: 256, budget: 1 << 30 };
    let (mut bridge, mut mux) = (Mux::new(Side::Bridge, limits), Mux::new(Side::Device, limits));
    bridge.begin(0);
    mux.begin(0);
    let request = LogsRequest {
        pod: uid(1),
        container: "c".to_owned(),
        follow: true,
        previous: false,
        timestamps: false,
        tail: None,
        since: None,
        limit_bytes: None,
        from: None,
        newest: None,
    };
    for _ in 0..10 {
        bridge.open(StreamRequest::Logs(request.clone()), 0).unwrap();
    }
    let mut ids = Vec::new();
    let exchange = |bridge: &mut Mux, mux: &mut Mux| {
        while let Some(frame) = bridge.transmit(0) {
            mux.receive(frame, 0);
        }
    };
    // The window grows as far as it may before the uplink stalls.
    for _ in 0..200 {
        exchange(&mut bridge, &mut mux);
        while let Some((id, _)) = mux.asked() {
            mux.accept(id);
            ids.push(id);
        }
        ids.iter().for_each(|id| drop(mux.write(*id, 1, &[7; 16 * 1024])));
        while let Some(frame) = mux.transmit(0) {
            bridge.receive(frame, 0);
        }
        ids.iter().for_each(|id| while matches!(bridge.read(*id, 1, &mut [0; 65_536]), Moved::Bytes(1..)) {});
    }
    assert!(mux.counts().bytes_out > 10_000_000, "{:?}", mux.counts());

    world.up.clear();
    let beats = |world: &World| world.up.iter().filter(|payload| payload.len() < 200).count();
    loop {
        let before = world.up.len();
        ids.iter().for_each(|id| drop(mux.write(*id, 1, &[7; 16 * 1024])));
        while let Some(frame) = mux.transmit(0) {
            world.give_device(Input::Stream(frame));
        }
        if world.up.len() == before {
            break;
        }
    }
    assert_eq!(beats(&world), 0);
    world.device.now += 10_000;
    world.give_device(Input::Tick);
    assert_eq!(beats(&world), 1, "the heartbeat is queued");
    let ahead: usize = world.up.iter().map(Vec::len).sum();
    assert!((4..=24).contains(&(world.up.len() - 1)), "{} frames ahead of the heartbeat", world.up.len() - 1);
    assert!(ahead <= 300 * 1024, "{ahead} bytes ahead of the heartbeat");
}
