//! A hub that lets everybody do everything, and somebody on it who does.

use anyhow::{Context, Result};
use hawser_e2e::recipes;
use hawser_e2e::stranger::{Captured, Stranger};
use hawser_e2e::wait::{SOON, eventually};
use hawser_e2e::world::{HubKind, Port, Setting, World, mosquitto};
use hawser_wire::report::{
    DeviceEvent, Gone, Heartbeat, NodeFacts, Numbered, Phase, Report, ReportItem, WorkloadReport,
};
use hawser_wire::session::{Initiator, Names, Session, StaticKey};
use hawser_wire::session_messages::{Envelope, HelloPayload};
use hawser_wire::token::JoinToken;
use hawser_wire::{BootId, DeviceId, DeviceTime, Open, PodUid, PublicKey, Root, SessionId, Up, decode, encode};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};

async fn world(story: &str, devices: usize) -> Result<Option<World>> {
    if mosquitto().is_none() {
        println!("NOT TESTED: a hub without access rules needs mosquitto");
        return Ok(None);
    }
    Setting::of(story).devices(devices).hub(HubKind::OpenMosquitto).start().await.map(Some)
}

/// What must not change: the pod as the API shows it, and since when its device is ready.
async fn as_shown(world: &World, pod: &Pod) -> Result<(Pod, NodeCondition)> {
    let node = Api::<Node>::all(world.client()).get(world.device(0)).await?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let mut ready =
        conditions.into_iter().find(|condition| condition.type_ == "Ready").context("no condition Ready")?;
    ready.last_heartbeat_time = None;
    Ok((world.pods().get(&pod.name_any()).await?, ready))
}

/// What no decoder may take, and what it may not cost.
fn garbage() -> Vec<Vec<u8>> {
    let hundred_megabytes = 100_000_000_u32.to_be_bytes();
    let claims = |head: &[u8], major: u8| [head, &[major << 5 | 26], &hundred_megabytes, b"short"].concat();
    let mut all = vec![
        Vec::new(),
        b"hello".to_vec(),
        vec![0xff; 64],
        [vec![0x81; 10_000], vec![0x01]].concat(),
        [vec![0xa1; 10_000], vec![0x01]].concat(),
        [vec![0xc1; 10_000], vec![0x01]].concat(),
        [vec![0x82, 0x02, 0x81], vec![0x81; 10_000]].concat(),
        vec![0x9f; 5_000],
    ];
    for major in [2, 3, 4, 5] {
        all.push(claims(&[], major));
        // The same where a sealed message would be.
        all.push(claims(&[0x82, 0x02, 0x81, 0x83], major));
    }
    all
}

/// A good message cut off and with flipped bits.
fn damaged(good: &[u8]) -> Vec<Vec<u8>> {
    let cuts = (1..8).map(|part| good[..good.len() * part / 8].to_vec());
    let flips = (0..8).map(|part| {
        let mut flipped = good.to_vec();
        flipped[good.len() * part / 8] ^= 1 << part;
        flipped
    });
    cuts.chain(flips).chain([[good, b"more".as_slice()].concat()]).collect()
}

/// The sum of the bridge's counters of messages without effect.
async fn dropped(http: std::net::SocketAddr) -> Result<u64> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(http).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.take(1024 * 1024).read_to_string(&mut text).await?;
    let lines = text.lines().filter(|line| line.starts_with("hawser_bridge_dropped_total"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_on_the_topics_of_a_device_changes_nothing_for_it() -> Result<()> {
    let Some(world) = world("stranger", 2).await? else { return Ok(()) };
    let witness = world.witness("steady");
    let http = Port::take()?;
    world.kill_bridge().await?;
    let mut stranger = Stranger::connect(world.hub_address(), "stranger").await?;
    // Whoever listens from the start hears handshakes, indexes, objects, reports and heartbeats.
    world.start_bridge_with(&["--http", &http.address().to_string()])?;
    let script = format!("{} exec sleep 1000", witness.sign());
    let pod = world.create_pod(&recipes::pod("steady", world.device(0), &script)).await?;
    let pod = world.pod_ready(&pod).await?;
    witness.until_alive(1).await?;
    let next = world.create_pod(&recipes::pod("next", world.device(1), "exec sleep 1000")).await?;
    world.pod_ready(&next).await?;
    let of = |number: usize, way: &str| format!("{}/{way}", world.device(number));
    let (up, down) = (stranger.hears(&of(0, "up"), 10).await?, stranger.hears(&of(0, "down"), 3).await?);
    let (others_up, others_down) = (stranger.hears(&of(1, "up"), 10).await?, stranger.hears(&of(1, "down"), 3).await?);

    let before = as_shown(&world, &pod).await?;
    let (bridge_refused, agent_refused) =
        (dropped(http.address()).await?, world.agent_status(0).await?.refused_messages);
    let mut said = Vec::new();
    for way in ["up", "up/s", "down", "down/s", "presence"] {
        let topic = format!("hawser/{}", of(0, way));
        let captured = if way.starts_with("up") { [&up[..], &others_up] } else { [&down[..], &others_down] };
        let [own, others] = captured.map(|messages| messages.iter().map(|message: &Captured| message.payload.clone()));
        let wrong = garbage().into_iter().chain(damaged(&own.clone().next_back().context("nothing was heard")?));
        // Everything ever said, once more and the last first; then what another device said or was told.
        let replayed = wrong.chain(own.clone()).chain(own.rev()).chain(others);
        said.extend(replayed.map(|payload| (topic.clone(), payload)));
    }
    // "I have no such session", "you are not welcome", "it has left": anybody can say so.
    let session = down.iter().find_map(|message| session_of(&message.payload)).context("no session was heard")?;
    let refusal = hawser_wire::session_messages::Refusal {
        kind: hawser_wire::session_messages::RefusalKind::UnknownDevice,
        message: "says a stranger".to_owned(),
    };
    for envelope in [Envelope::NoSession(session), Envelope::NoSession(SessionId([0; 8])), Envelope::Refusal(refusal)] {
        said.push((format!("hawser/{}", of(0, "down")), encode(&envelope)));
    }
    said.push((format!("hawser/{}", of(0, "presence")), b"0".to_vec()));
    let count = said.len() as u64;
    stranger.say(said).await?;

    // All of it has arrived when a good part was counted as refused: the rest is replays of what has no effect.
    eventually("bridge and agent refuse it", SOON, || async {
        let bridge = dropped(http.address()).await.map_err(|error| error.to_string())? - bridge_refused;
        let agent = world.agent_status(0).await.map_err(|error| error.to_string())?.refused_messages - agent_refused;
        if bridge >= 40 && agent >= 40 { Ok(()) } else { Err(format!("{bridge} and {agent} of {count}")) }
    })
    .await?;
    // A message that is too long for any of ours ends the device's connection; it comes back by itself.
    stranger.say([(format!("hawser/{}", of(0, "down")), vec![0x81; 300_000])]).await?;
    // The device does as the bridge says, as before.
    let last = world.create_pod(&recipes::pod("last", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&last).await?;
    world.pods().delete("last", &DeleteParams::default()).await?;
    world.pod_gone(&last).await?;
    assert_eq!(as_shown(&world, &pod).await?, before);
    assert_eq!((witness.pids()?.len(), witness.alive()?), (1, 1));

    // And it is let in again after a restart, although so many of its hellos were repeated.
    world.kill_agent(0).await?;
    let said = world.agent_said(0).len();
    world.start_agent(0).await?;
    eventually("the device is in session", SOON, || async {
        let said = world.agent_said(0)[said..].to_owned();
        if said.contains("a session with the bridge began") { Ok(()) } else { Err(said) }
    })
    .await?;
    world.pod_ready(&pod).await?;
    assert_eq!((witness.pids()?.len(), witness.alive()?), (1, 1));
    world.end().await
}

fn session_of(payload: &[u8]) -> Option<SessionId> {
    match decode::<Open<Envelope>>(payload, payload.len()).ok()?.value {
        Open::Known(Envelope::Sealed(sealed)) => Some(sealed.session),
        _ => None,
    }
}

/// A device of the cluster, let in like any other, that lies.
struct Liar {
    name: DeviceId,
    session: Session,
    said: u64,
}

impl Liar {
    async fn join(world: &World, stranger: &mut Stranger) -> Result<Self> {
        let join = world.add_device(&format!("{}-liar", world.name())).await?;
        let (name, root) = (DeviceId::new(&join.name)?, Root::default());
        let bridge = PublicKey::parse(&join.bridge_key).context("no key")?;
        let token = JoinToken::parse(&join.token).map_err(|error| anyhow::anyhow!("{error}"))?;
        let mut random = [0; 64];
        getrandom::fill(&mut random)?;
        let key = StaticKey::from_secret(random[..32].try_into()?);
        let payload =
            HelloPayload { agent_version: "liar".to_owned(), accepted: None, digest: None, boot: BootId([7; 8]) };
        let names = Names { root: &root, device: &name };
        let ephemeral = random[32..].try_into()?;
        let (initiator, hello) = Initiator::start(names, &key, &bridge, Some(&token), ephemeral, &payload)?;
        stranger.say([(format!("hawser/{name}/up"), encode(&Envelope::Hello(hello)))]).await?;
        let heard = stranger.hears(&format!("{name}/down"), 1).await?;
        let Open::Known(Envelope::Welcome(welcome)) = decode::<Open<Envelope>>(&heard[0].payload, 70_000)?.value else {
            anyhow::bail!("not a welcome: {heard:?}");
        };
        let (session, _) = initiator.finish(&welcome).map_err(|(_, error)| error)?;
        Ok(Self { name, session, said: 0 })
    }

    fn heartbeat(&mut self) -> Result<Vec<u8>> {
        let now = DeviceTime(1_000_000 + self.said);
        let beat = Heartbeat { boot: BootId([7; 8]), now, wall_millis: 0, digest: None, answers: None };
        self.seal(&Up::Heartbeat(beat))
    }

    fn report(&mut self, items: impl IntoIterator<Item = ReportItem>) -> Result<Vec<u8>> {
        let numbered = items.into_iter().map(|item| {
            self.said += 1;
            Numbered { seq: self.said, item: Open::Known(item) }
        });
        let items = numbered.collect();
        self.seal(&Up::Report(Report { items }))
    }

    fn seal(&mut self, up: &Up) -> Result<Vec<u8>> {
        Ok(encode(&Envelope::Sealed(self.session.seal(up)?)))
    }
}

fn facts(hostname: &str) -> NodeFacts {
    let text = str::to_owned;
    NodeFacts {
        capacity: Vec::new(),
        allocatable: Vec::new(),
        arch: text("arm64"),
        os: text("linux"),
        kernel: text("6.12"),
        os_image: text("none"),
        machine_id: String::new(),
        system_uuid: String::new(),
        boot_id: text("b"),
        agent_version: text("liar"),
        runtime: text("none://0"),
        hostname: text(hostname),
        addresses: vec![text("192.0.2.1")],
        images: Vec::new(),
        conditions: Vec::new(),
    }
}

/// That the pod has failed, that it is gone, and an Event about it.
fn lies(uid: &PodUid) -> Vec<ReportItem> {
    let failed = WorkloadReport {
        uid: uid.clone(),
        deployment: None,
        phase: Phase::Failed,
        reason: Some("Lied".to_owned()),
        message: None,
        started: None,
        sandbox_ready: false,
        pod_ips: Vec::new(),
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers: Vec::new(),
        resize: None,
    };
    let event = DeviceEvent {
        pod: Some(uid.clone()),
        container: None,
        at: DeviceTime(1_000_000),
        warning: true,
        reason: "Lied".to_owned(),
        message: "says another device".to_owned(),
        count: 1,
    };
    vec![
        ReportItem::Workload(failed.clone()),
        ReportItem::Event(event),
        ReportItem::Gone(Gone { uid: uid.clone(), last: Some(failed) }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_speaks_for_another_is_not_heard() -> Result<()> {
    let Some(world) = world("liar", 1).await? else { return Ok(()) };
    let witness = world.witness("steady");
    let script = format!("{} exec sleep 1000", witness.sign());
    let pod = world.create_pod(&recipes::pod("steady", world.device(0), &script)).await?;
    let pod = world.pod_ready(&pod).await?;
    witness.until_alive(1).await?;
    let uid = PodUid::new(&pod.uid().context("no UID")?)?;
    let before = as_shown(&world, &pod).await?;
    let mut stranger = Stranger::connect(world.hub_address(), "stranger").await?;
    let mut liar = Liar::join(&world, &mut stranger).await?;
    let (own, foreign) = (format!("hawser/{}/up", liar.name), format!("hawser/{}/up", world.device(0)));

    // In its own session, on the topic of the other device: about the pod, and that the device is another machine.
    let beat = liar.heartbeat()?;
    let said = [beat, liar.report(lies(&uid))?, liar.report([ReportItem::Facts(facts("stolen"))])?];
    stranger.say(said.map(|payload| (foreign.clone(), payload))).await?;
    // On its own topic, where it is heard: about a pod that is not its own. What it says last is that it is there.
    let mut said = vec![liar.heartbeat()?, liar.report(lies(&uid))?];
    said.push(liar.report([ReportItem::Facts(facts("liar"))])?);
    stranger.say(said.into_iter().map(|payload| (own.clone(), payload))).await?;
    let nodes = Api::<Node>::all(world.client());
    eventually("the liar's own node is shown", SOON, || async {
        let node = nodes.get(liar.name.as_str()).await.map_err(|error| Some(error.to_string()))?;
        let system = node.status.and_then(|status| status.node_info).map(|info| info.os_image);
        if system.as_deref() == Some("none") { Ok(()) } else { Err(system) }
    })
    .await?;

    // A pod that comes and goes afterwards shows that everything before was dealt with.
    let last = world.create_pod(&recipes::pod("last", world.device(0), "exec sleep 1000")).await?;
    world.pod_ready(&last).await?;
    assert_eq!(as_shown(&world, &pod).await?, before);
    assert_eq!((witness.pids()?.len(), witness.alive()?), (1, 1));
    let node = nodes.get(world.device(0)).await?;
    assert_ne!(node.status.and_then(|status| status.node_info).map(|info| info.os_image).as_deref(), Some("none"));
    let events = world.api::<k8s_openapi::api::core::v1::Event>().list(&Default::default()).await?;
    assert!(events.items.iter().all(|event| event.reason.as_deref() != Some("Lied")), "{events:?}");
    world.end().await
}
