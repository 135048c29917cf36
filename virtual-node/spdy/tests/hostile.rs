//! Input that no honest peer sends: each kind by its name, and noise.

use bytes::BytesMut;
use hawser_spdy::{
    Decoder, Encoder, Ended, Event, Handle, Headers, Limits, ProtocolError, ResetStatus, Role, connect, serve,
};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const LIMITS: Limits =
    Limits { streams: 8, stream_buffer: 1024, connection_buffer: 4096, headers: 1024, send_buffer: 2048 };

/// One honest end, and the raw transport at the other.
struct Victim {
    handle: Handle,
    driver: JoinHandle<Result<(), Ended>>,
    wire: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
}

impl Victim {
    fn new(role: Role) -> Self {
        let (here, wire) = tokio::io::duplex(1 << 16);
        let (handle, driver) = match role {
            Role::Client => connect(here, LIMITS),
            Role::Server => serve(here, LIMITS),
        };
        let driver = tokio::spawn(driver.run());
        let decoder = Decoder::new(&Limits::default());
        Self { handle, driver, wire, encoder: Encoder::default(), decoder, input: BytesMut::new() }
    }

    async fn send(&mut self, write: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        let mut out = BytesMut::new();
        write(&mut self.encoder, &mut out);
        self.wire.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, id: u32) {
        self.send(|encoder, out| encoder.syn_stream(out, id, &Headers::default(), false).unwrap()).await;
    }

    async fn hears(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(event);
            }
            if self.wire.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// The victim says goodbye for this reason, and hangs up.
    async fn ends_with(mut self, fault: ProtocolError) {
        loop {
            match self.hears().await {
                Some(Event::GoAway { status: 1, .. }) => break,
                Some(_) => {}
                None => panic!("hung up without a word"),
            }
        }
        drop(self.wire);
        assert_eq!(self.driver.await.unwrap(), Err(Ended::Protocol(fault)));
        assert!(self.handle.open(&Headers::default()).is_err());
    }
}

async fn refused_bytes(bytes: &[u8], fault: ProtocolError) {
    let mut victim = Victim::new(Role::Server);
    victim.wire.write_all(bytes).await.unwrap();
    victim.ends_with(fault).await;
}

#[tokio::test(start_paused = true)]
async fn another_version() {
    refused_bytes(b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01", ProtocolError::Version(2)).await;
    // What a client sends that has not understood that the connection was upgraded.
    let http = ProtocolError::NoSuchStream(u32::from_be_bytes(*b"GET "));
    refused_bytes(b"GET / HTTP/1.1\r\n\r\n", http).await;
}

#[tokio::test(start_paused = true)]
async fn a_control_frame_that_claims_to_be_huge() {
    let fault = ProtocolError::TooLong { kind: 1, length: 0xff_ffff, limit: 1024 + 16 + 256 };
    refused_bytes(b"\x80\x03\0\x01\0\xff\xff\xff", fault).await;
}

#[tokio::test(start_paused = true)]
async fn control_frames_of_wrong_lengths() {
    for (kind, length) in [(1, 9), (2, 3), (3, 9), (6, 5), (7, 4), (8, 3)] {
        let bytes = [&[0x80, 3, 0, kind as u8, 0, 0, 0, length as u8][..], &[0; 16]].concat();
        refused_bytes(&bytes, ProtocolError::Length { kind, length }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn headers_that_are_a_bomb() {
    let mut victim = Victim::new(Role::Server);
    let bomb = Headers::from_iter([("a", "b".repeat(100_000))]);
    victim.send(|encoder, out| encoder.syn_stream(out, 1, &bomb, false).unwrap()).await;
    victim.ends_with(ProtocolError::HeadersTooLarge(1024)).await;
}

#[tokio::test(start_paused = true)]
async fn headers_that_are_not_compressed() {
    refused_bytes(b"\x80\x03\0\x02\0\0\0\x08\0\0\0\x02\0\0\0\0", ProtocolError::Compression).await;
}

#[tokio::test(start_paused = true)]
async fn stream_ids_of_the_wrong_side_zero_reused_or_going_back() {
    for (role, ids) in [
        (Role::Server, &[2][..]),
        (Role::Client, &[1]),
        (Role::Server, &[0]),
        (Role::Server, &[1, 1]),
        (Role::Server, &[5, 3]),
    ] {
        let mut victim = Victim::new(role);
        for id in ids {
            victim.open(*id).await;
        }
        victim.ends_with(ProtocolError::StreamId(*ids.last().unwrap())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn frames_for_streams_that_never_were() {
    for id in [0, 1, 2] {
        let mut victim = Victim::new(Role::Server);
        victim.send(|encoder, out| encoder.data(out, id, b"x", false)).await;
        victim.ends_with(ProtocolError::NoSuchStream(id)).await;
        let mut victim = Victim::new(Role::Server);
        victim.send(|encoder, out| encoder.reset(out, id, ResetStatus::CANCEL)).await;
        victim.ends_with(ProtocolError::NoSuchStream(id)).await;
        let mut victim = Victim::new(Role::Server);
        victim.send(|encoder, out| encoder.syn_reply(out, id, &Headers::default(), false).unwrap()).await;
        victim.ends_with(ProtocolError::NoSuchStream(id)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn late_frames_for_a_stream_that_is_gone_harm_nothing() {
    let mut victim = Victim::new(Role::Server);
    victim.open(1).await;
    drop(victim.handle.accept().await.unwrap());
    assert_eq!(victim.hears().await, Some(Event::Reset { id: 1, status: 5 }));
    victim.send(|encoder, out| encoder.data(out, 1, &[0; 5000], true)).await;
    victim.send(|encoder, out| encoder.reset(out, 1, ResetStatus::CANCEL)).await;
    victim.send(|encoder, out| encoder.ping(out, 1)).await;
    assert_eq!(victim.hears().await, Some(Event::Ping(1)));
    assert_eq!(victim.handle.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn data_after_fin_resets_the_stream() {
    let mut victim = Victim::new(Role::Server);
    victim.open(1).await;
    let (_, mut stream) = victim.handle.accept().await.unwrap().accept(&Headers::default()).unwrap();
    victim.send(|encoder, out| encoder.data(out, 1, b"x", true)).await;
    victim.send(|encoder, out| encoder.data(out, 1, b"y", false)).await;
    assert!(matches!(victim.hears().await, Some(Event::SynReply { .. })));
    assert_eq!(victim.hears().await, Some(Event::Reset { id: 1, status: 1 }));
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"x");
}

#[tokio::test(start_paused = true)]
async fn more_streams_than_allowed_are_refused_one_by_one() {
    let mut victim = Victim::new(Role::Server);
    for n in 0..20 {
        victim.open(1 + 2 * n).await;
    }
    for n in 8..20 {
        assert_eq!(victim.hears().await, Some(Event::Reset { id: 1 + 2 * n, status: 3 }));
    }
    assert_eq!(victim.handle.streams(), 8);
    drop(victim.handle.accept().await.unwrap());
    victim.open(101).await;
    assert_eq!(victim.hears().await, Some(Event::Reset { id: 1, status: 5 }));
    while victim.handle.streams() < 8 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_never_listens_stops_being_read() {
    let (here, mut wire) = tokio::io::duplex(1024);
    let (_handle, driver) = serve(here, LIMITS);
    let driver = tokio::spawn(driver.run());
    let ping = b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01";
    let flood = async {
        loop {
            wire.write_all(ping).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(5), flood).await.is_err(), "it was stopped");
    assert!(!driver.is_finished());
    driver.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stream_nobody_reads_holds_no_more_than_its_buffer() {
    let mut victim = Victim::new(Role::Server);
    victim.open(1).await;
    let (_, mut stream) = victim.handle.accept().await.unwrap().accept(&Headers::default()).unwrap();
    let mut wire = victim.wire;
    let sent = tokio::spawn(async move {
        let mut frame = BytesMut::new();
        Encoder::default().data(&mut frame, 1, &vec![7; 1 << 20], true);
        wire.write_all(&frame).await.unwrap();
        wire
    });
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(!sent.is_finished(), "the sender is held back");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 1 << 20);
    drop(sent.await.unwrap());
}

/// Frames that are nearly right, so that noise gets past the first byte.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let frame = (any::<bool>(), 0u8..11, 0u8..4, 0u32..6, prop::collection::vec(any::<u8>(), 0..40));
    prop::collection::vec(frame, 0..30).prop_map(|frames| {
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        for (control, kind, flags, id, body) in frames {
            match (control, kind) {
                (true, 1) => drop(encoder.syn_stream(&mut out, id, &Headers::from_iter([("a", "b")]), flags & 1 == 1)),
                (true, 2) => drop(encoder.syn_reply(&mut out, id, &Headers::default(), flags & 1 == 1)),
                (true, kind) => {
                    out.extend_from_slice(&[0x80, 3, 0, kind, flags, 0, 0, body.len() as u8]);
                    out.extend_from_slice(&body);
                }
                (false, _) => encoder.data(&mut out, id, &body, flags & 1 == 1),
            }
        }
        out.to_vec()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decoder_neither_panics_nor_hoards(
        bytes in prop_oneof![nearly(), prop::collection::vec(any::<u8>(), 0..2000)],
        cut in 1usize..200,
    ) {
        let mut decoder = Decoder::new(&LIMITS);
        let mut input = BytesMut::with_capacity(4096);
        let before = ALLOCATED.current_usage();
        'all: for piece in bytes.chunks(cut) {
            input.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
            prop_assert!(input.len() < 8 + LIMITS.headers + LIMITS.headers / 64 + 256 + cut);
        }
        // Other tests of this file run at the same time; a hoard would be of another size.
        prop_assert!(ALLOCATED.current_usage() < before + (64 << 20));
    }

    #[test]
    fn a_connection_neither_panics_nor_hangs(bytes in nearly(), client in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let role = if client { Role::Client } else { Role::Server };
            let Victim { handle, driver, wire, .. } = Victim::new(role);
            let _ours = handle.open(&Headers::default());
            let (mut read, mut write) = tokio::io::split(wire);
            let echo = tokio::spawn(async move {
                while let Ok(incoming) = handle.accept().await {
                    let Ok((_, stream)) = incoming.accept(&Headers::default()) else { return };
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            });
            let listen = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
            let _ = write.write_all(&bytes).await;
            let _ = write.shutdown().await;
            let _ = driver.await.unwrap();
            echo.await.unwrap();
            listen.await.unwrap().unwrap();
        });
    }
}
