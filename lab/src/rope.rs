//! A rope that can be cut: a proxy between a device and the hub that loses, repeats, reorders and delays messages by a
//! seeded schedule, and can be cut and mended.
//!
//! It understands just enough of MQTT 3.1.1 to tell messages apart. A message with QoS 1 is acknowledged to its sender
//! here and passed on with QoS 0: so losing one is what a careless hub does (acknowledged and lost), and reordering does not
//! show in packet identifiers. Everything else (CONNECT, SUBSCRIBE, PINGREQ…) passes as it is.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// The longest packet that is passed on. Ours end at 64 KiB.
const MAX_PACKET: usize = 256 * 1024;
/// A message held back for reordering goes out after this time even when nothing follows it.
const LONGEST_HOLD: Duration = Duration::from_millis(200);

/// How often what goes wrong, in thousandths of the messages of either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// The seed of the schedule: the same seed gives the same decisions for the same sequence of messages.
    pub seed: u64,
    /// Lost.
    pub lose: u16,
    /// Sent twice.
    pub repeat: u16,
    /// Held back until up to four later messages have passed.
    pub reorder: u16,
}

/// What happens to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It passes.
    Pass,
    /// It is lost.
    Lose,
    /// It passes twice.
    Repeat,
    /// It passes after so many others.
    Hold(u8),
}

/// The decisions for one direction of one connection, one after another.
#[derive(Debug, Clone)]
pub struct Schedule {
    faults: Faults,
    state: u64,
}

impl Schedule {
    /// `stream` tells directions and connections apart.
    pub fn new(faults: Faults, stream: u64) -> Self {
        Self { faults, state: faults.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    /// The fate of the next message.
    pub fn next_fate(&mut self) -> Fate {
        let draw = self.draw();
        let (throw, detail) = ((draw % 1000) as u16, (draw >> 32) as u8);
        let Faults { lose, repeat, reorder, .. } = self.faults;
        if throw < lose {
            Fate::Lose
        } else if throw < lose.saturating_add(repeat) {
            Fate::Repeat
        } else if throw < lose.saturating_add(repeat).saturating_add(reorder) {
            Fate::Hold(detail % 4 + 1)
        } else {
            Fate::Pass
        }
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// How many messages passed, and what happened to the others.
#[derive(Debug, Default)]
pub struct Tally {
    passed: AtomicU64,
    lost: AtomicU64,
    repeated: AtomicU64,
    held: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// Messages that passed, were lost, repeated, held back.
    pub fn counts(&self) -> [u64; 4] {
        [&self.passed, &self.lost, &self.repeated, &self.held].map(|count| count.load(Ordering::Relaxed))
    }

    /// Bytes of messages (topic and payload) in both directions, as they entered.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A proxy in front of a hub.
#[derive(Debug)]
pub struct Rope {
    address: SocketAddr,
    faults: watch::Sender<Option<Faults>>,
    tally: Arc<Tally>,
    accepting: JoinHandle<()>,
}

impl Rope {
    /// Listens on a free port of 127.0.0.1 and passes on to `hub`.
    pub async fn tie(hub: SocketAddr, faults: Faults) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (sender, receiver) = watch::channel(Some(faults));
        let tally = Arc::new(Tally::default());
        let accepting = tokio::spawn(accept(listener, hub, receiver, tally.clone()));
        Ok(Self { address, faults: sender, tally, accepting })
    }

    /// Where devices connect instead of the hub.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Ends all connections and refuses new ones until [`mend`](Self::mend).
    pub fn cut(&self) {
        self.faults.send_replace(None);
    }

    /// Lets connections through again, with these faults from now on.
    pub fn mend(&self, faults: Faults) {
        self.faults.send_replace(Some(faults));
    }
}

impl Drop for Rope {
    fn drop(&mut self) {
        // Its connections are in a JoinSet of its own and end with it.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, hub: SocketAddr, faults: watch::Receiver<Option<Faults>>, tally: Arc<Tally>) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((device, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        connections.spawn(carry(device, hub, number, faults.clone(), tally.clone()));
    }
}

async fn carry(
    device: TcpStream,
    hub: SocketAddr,
    number: u64,
    mut faults: watch::Receiver<Option<Faults>>,
    tally: Arc<Tally>,
) {
    let Some(now) = *faults.borrow_and_update() else { return };
    let Ok(hub) = TcpStream::connect(hub).await else { return };
    // A rope that is sound is not to be felt: what is small goes at once, as both ends ask for.
    for end in [&device, &hub] {
        let _ = end.set_nodelay(true);
    }
    let (from_device, to_device) = device.into_split();
    let (from_hub, to_hub) = hub.into_split();
    // Bounded: a slow reader makes the other side wait, as TCP would.
    let (up, up_rx) = mpsc::channel(64);
    let (down, down_rx) = mpsc::channel(64);
    let mut parts = JoinSet::new();
    parts.spawn(write(to_hub, up_rx));
    parts.spawn(write(to_device, down_rx));
    parts.spawn(read(from_device, up.clone(), down.clone(), Schedule::new(now, number * 2), tally.clone()));
    parts.spawn(read(from_hub, down, up, Schedule::new(now, number * 2 + 1), tally));
    // Both arms only wait: the connection ends with the first part that ends, or when the rope is cut or changed.
    tokio::select! {
        _ = parts.join_next() => {}
        _ = faults.changed() => {}
    }
}

async fn write(mut out: OwnedWriteHalf, mut packets: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(packet) = packets.recv().await {
        out.write_all(&packet).await?;
    }
    Ok(())
}

/// Reads packets of one direction and passes them on by their fates.
async fn read(
    mut from: OwnedReadHalf,
    to: mpsc::Sender<Vec<u8>>,
    back: mpsc::Sender<Vec<u8>>,
    mut schedule: Schedule,
    tally: Arc<Tally>,
) -> io::Result<()> {
    let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut held: VecDeque<(u8, Vec<u8>)> = VecDeque::new();
    let mut buffer = Vec::new();
    loop {
        // Cancelling `fill` loses nothing: what was read is in `buffer`, which outlives it.
        match tokio::time::timeout(LONGEST_HOLD, fill(&mut from, &mut buffer)).await {
            Ok(more) => more?,
            Err(_) => {
                for (_, packet) in held.drain(..) {
                    to.send(packet).await.map_err(closed)?;
                }
                continue;
            }
        }
        while let Some(packet) = cut_packet(&mut buffer)? {
            let Some(message) = Message::parse(&packet) else {
                to.send(packet).await.map_err(closed)?;
                continue;
            };
            if let Some(ack) = message.ack {
                back.send(ack).await.map_err(closed)?;
            }
            tally.bytes.fetch_add(message.as_qos0.len() as u64, Ordering::Relaxed);
            let count = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
            match schedule.next_fate() {
                Fate::Lose => {
                    count(&tally.lost);
                    continue;
                }
                Fate::Hold(others) => {
                    count(&tally.held);
                    held.push_back((others, message.as_qos0));
                    continue;
                }
                Fate::Repeat => {
                    count(&tally.repeated);
                    to.send(message.as_qos0.clone()).await.map_err(closed)?;
                    to.send(message.as_qos0).await.map_err(closed)?;
                }
                Fate::Pass => {
                    count(&tally.passed);
                    to.send(message.as_qos0).await.map_err(closed)?;
                }
            }
            for (others, _) in &mut held {
                *others -= 1;
            }
            while let Some(at) = held.iter().position(|(others, _)| *others == 0) {
                if let Some((_, packet)) = held.remove(at) {
                    to.send(packet).await.map_err(closed)?;
                }
            }
        }
    }
}

async fn fill(from: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> io::Result<()> {
    if from.read_buf(buffer).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Takes the first whole packet off the buffer.
fn cut_packet(buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some((header, body)) = lengths(buffer)? else { return Ok(None) };
    if buffer.len() < header + body {
        return Ok(None);
    }
    let rest = buffer.split_off(header + body);
    Ok(Some(std::mem::replace(buffer, rest)))
}

/// The lengths of fixed header and body of the packet at the start of the buffer.
fn lengths(buffer: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut body = 0;
    for at in 0..4 {
        let Some(byte) = buffer.get(1 + at) else { return Ok(None) };
        body |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let fits = body <= MAX_PACKET;
            return if fits { Ok(Some((2 + at, body))) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// A PUBLISH packet, as it is passed on.
struct Message {
    as_qos0: Vec<u8>,
    /// What its sender waits for.
    ack: Option<Vec<u8>>,
}

impl Message {
    /// `None` for packets of other kinds, and for QoS 2, which nobody here uses.
    fn parse(packet: &[u8]) -> Option<Self> {
        const PUBLISH: u8 = 3;
        let first = *packet.first()?;
        let qos = first >> 1 & 3;
        if first >> 4 != PUBLISH || qos > 1 {
            return None;
        }
        if qos == 0 {
            return Some(Self { as_qos0: packet.to_vec(), ack: None });
        }
        let (header, body) = lengths(packet).ok()??;
        let topic = 2 + usize::from(u16::from_be_bytes([*packet.get(header)?, *packet.get(header + 1)?]));
        let id = packet.get(header + topic..header + topic + 2)?;
        let mut as_qos0 = vec![first & 0b1111_0001];
        let mut length = body - 2;
        loop {
            let more = length > 0x7f;
            as_qos0.push((length & 0x7f) as u8 | u8::from(more) << 7);
            length >>= 7;
            if !more {
                break;
            }
        }
        as_qos0.extend(&packet[header..header + topic]);
        as_qos0.extend(packet.get(header + topic + 2..)?);
        Some(Self { as_qos0, ack: Some(vec![0x40, 2, id[0], id[1]]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_another_differs() {
        let faults = |seed| Faults { seed, lose: 200, repeat: 200, reorder: 200 };
        let fates = |seed, stream| {
            let mut schedule = Schedule::new(faults(seed), stream);
            (0..200).map(|_| schedule.next_fate()).collect::<Vec<_>>()
        };
        assert_eq!(fates(7, 0), fates(7, 0));
        assert_ne!(fates(7, 0), fates(8, 0));
        assert_ne!(fates(7, 0), fates(7, 1));
    }

    #[test]
    fn faults_come_about_as_often_as_asked() {
        let mut schedule = Schedule::new(Faults { seed: 1, lose: 100, repeat: 100, reorder: 100 }, 0);
        let mut lost = 0;
        for _ in 0..10_000 {
            lost += u32::from(schedule.next_fate() == Fate::Lose);
        }
        assert!((800..1200).contains(&lost), "{lost}");
        let mut quiet = Schedule::new(Faults::default(), 0);
        assert!((0..1000).all(|_| quiet.next_fate() == Fate::Pass));
    }

    #[test]
    fn qos_1_is_acknowledged_and_passed_on_without_it() {
        // PUBLISH, QoS 1, topic "a/b", id 7, payload "xy".
        let packet = [0x32, 9, 0, 3, b'a', b'/', b'b', 0, 7, b'x', b'y'];
        let message = Message::parse(&packet).unwrap();
        assert_eq!(message.as_qos0, [0x30, 7, 0, 3, b'a', b'/', b'b', b'x', b'y']);
        assert_eq!(message.ack, Some(vec![0x40, 2, 0, 7]));
        assert!(Message::parse(&[0xc0, 0]).is_none(), "PINGREQ");
    }

    #[test]
    fn packets_are_cut_where_they_end_and_lengths_are_not_believed() {
        let mut buffer = vec![0xc0, 0, 0x30, 3, 0, 1];
        assert_eq!(cut_packet(&mut buffer).unwrap(), Some(vec![0xc0, 0]));
        assert_eq!(cut_packet(&mut buffer).unwrap(), None);
        buffer.push(b'a');
        assert_eq!(cut_packet(&mut buffer).unwrap(), Some(vec![0x30, 3, 0, 1, b'a']));
        assert!(cut_packet(&mut vec![0x30, 0xff, 0xff, 0xff, 0x7f]).is_err());
        assert!(cut_packet(&mut vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01]).is_err());
    }
}
