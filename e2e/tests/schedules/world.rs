//! Everything together, in virtual time: the API, the bridge, the hub and the device, and a queue of what happens next.

use std::collections::BTreeMap;

use device_agent::runtime::ContainerId;
use device_agent::workloads::lifecycle::{Event as PodEvent, Resync};
use edge_provider::fleet::twin::{Event as TwinEvent, Ticket};
use hawser_wire::desired::Wish;
use hawser_wire::session::StaticKey;
use hawser_wire::{Channel, DeviceId, DeviceTime, PodUid, Root};
use virtual_node::provider::{Liveness, Receipt};

use crate::api::{Api, PodNo, no_of, uid_of};
use crate::bridge::{Bridge, Write};
use crate::containers::Containers;
use crate::device::{Agent, Board};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::hub::{Hub, Way};
use crate::schedule::{Kind, Step};
use crate::summary;
use crate::witness::Witness;

/// How long it may take until all is well after the last fault: the longest back-off, a few times.
const CALM_WITHIN: u64 = 40 * 60 * 1000;
/// For how long all has to be well.
const CALM_FOR: u64 = 30 * 1000;
/// So many things at one instant are a loop that does not end.
const AT_ONCE: u32 = 20_000;

/// What happens at some time. The number tells in which life of a process it was begun.
#[derive(Debug)]
pub(crate) enum Happening {
    Arrives(Way, Channel, Vec<u8>),
    BridgeStarts,
    AgentStarts,
    Connected(u32),
    Watch(u32),
    Turn(u32, PodNo),
    Again(u32, PodNo),
    Write(u32, Write),
    Settled(u32, Ticket, Receipt),
    Durable(u32),
    KeepClock(u32),
    Landed(u32, PodUid, PodEvent),
    Launch(u32, ContainerId),
    RemovePod(u32, PodUid),
    Ends(u32, ContainerId, i32, Option<i32>),
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) dice: Dice,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    pub(crate) lives: u32,
    pub(crate) api: Api,
    pub(crate) bridge: Option<Bridge>,
    pub(crate) hub: Hub,
    /// The device does not have the hub.
    pub(crate) cut: bool,
    pub(crate) disk: Disk,
    pub(crate) agent: Option<Agent>,
    pub(crate) board: Board,
    pub(crate) containers: Containers,
    pub(crate) kinds: BTreeMap<PodNo, Kind>,
    pub(crate) witness: Witness,
    /// No more faults.
    pub(crate) calm: bool,
    pub(crate) root: Root,
    pub(crate) device_id: DeviceId,
    pub(crate) bridge_key: StaticKey,
    pub(crate) device_key: StaticKey,
    log: Option<Vec<String>>,
}

/// A schedule that broke an invariant.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) log: Vec<String>,
}

/// Plays a schedule and then lets the world calm down. `tell`: keep a log.
pub(crate) fn play(seed: u64, steps: &[Step], tell: bool) -> Result<(), Failure> {
    let mut world = World::new(seed, tell);
    let result = world.play(steps);
    result.map_err(|what| Failure { what, log: world.log.unwrap_or_default() })
}

impl World {
    fn new(seed: u64, tell: bool) -> Self {
        let mut dice = Dice::new(seed);
        let (bridge_key, device_key) = (StaticKey::from_secret(dice.bytes()), StaticKey::from_secret(dice.bytes()));
        Self {
            now: 1_000,
            dice,
            queue: BTreeMap::new(),
            queued: 0,
            lives: 0,
            api: Api::new(),
            bridge: None,
            hub: Hub::new(),
            cut: false,
            disk: Disk::default(),
            agent: None,
            board: Board::new(),
            containers: Containers::default(),
            kinds: BTreeMap::new(),
            witness: Witness::default(),
            calm: false,
            root: Root::new("hawser").expect("a root"),
            device_id: DeviceId::new("board").expect("a device"),
            bridge_key,
            device_key,
            log: tell.then(Vec::new),
        }
    }

    fn play(&mut self, steps: &[Step]) -> Result<(), String> {
        self.start_bridge();
        self.start_agent();
        self.checked()?;
        for step in steps {
            self.note(|| format!("{step:?}"));
            self.take(*step);
            self.checked()?;
        }
        self.calm_down()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Wait { millis } => self.run_until(self.now + millis),
            Step::Create { kind, config } => self.create(kind, config, None),
            Step::Delete { pick, grace } => {
                if let Some(no) = self.pick(pick) {
                    self.api.delete(no, grace);
                }
            }
            Step::ForceDelete { pick } => {
                if let Some(no) = self.pick(pick) {
                    self.api.remove(no);
                }
            }
            Step::Replace { pick } => {
                if let Some(pod) = self.pick(pick).and_then(|no| self.api.pods.get(&no).cloned()) {
                    self.api.remove(pod.no);
                    self.create(pod.kind, pod.config, Some(pod.name));
                }
            }
            Step::ChangeImage { pick } => {
                if let Some(mut pod) = self.pick(pick).and_then(|no| self.api.pods.get(&no).cloned()) {
                    pod.image += 1;
                    self.api.images.entry(pod.no).or_default().insert(pod.image);
                    self.api.put(pod);
                }
            }
            Step::LookAt { pick } => {
                if let Some(mut pod) = self.pick(pick).and_then(|no| self.api.pods.get(&no).cloned()) {
                    pod.looks += 1;
                    self.api.put(pod);
                }
            }
            Step::ChangeConfig { config } => self.api.configs[config as usize].content += 1,
            Step::HideConfig { config, hidden } => self.api.configs[config as usize].hidden = hidden,
            Step::Backup => self.api.back_up(),
            Step::Restore => {
                if self.api.restore() {
                    self.kill_bridge(500);
                }
            }
            Step::ApiDown { down } => self.api.down = down,
            Step::Weather { loss, twice, delay } => {
                (self.hub.loss, self.hub.twice, self.hub.delay) = (loss, twice, delay);
            }
            Step::Cut { cut } => self.cut(cut),
            Step::Replay { count } => self.replay(count),
            Step::Rumour => self.after(1, Happening::Arrives(Way::Up, Channel::Presence, Vec::new())),
            Step::BridgeDies { back } => self.kill_bridge(back),
            Step::AgentDies { back } => self.kill_agent(back),
            Step::PowerCut { back, wall } => self.cut_power(back, wall),
            Step::WallJumps { millis } => self.board.jump(millis),
            Step::DiskRefuses { refuses } => self.disk.refuses = refuses,
            Step::ContainerEnds { pick, code } => {
                let running: Vec<ContainerId> = self.containers.running().map(|(id, _)| id.clone()).collect();
                if let Some(id) = running.get(pick as usize % running.len().max(1)) {
                    self.container_ends(id.clone(), code, None);
                }
            }
            Step::DeviceEvent => self.device_event(),
            Step::NewFacts => {
                self.facts_changed();
                self.facts_changed();
            }
        }
    }

    fn create(&mut self, kind: Kind, config: u32, name: Option<String>) {
        let no = self.api.create(kind, config, name);
        self.kinds.insert(no, kind);
    }

    fn pick(&self, pick: u32) -> Option<PodNo> {
        let all: Vec<PodNo> = self.api.pods.keys().copied().collect();
        all.get(pick as usize % all.len().max(1)).copied()
    }

    fn cut(&mut self, cut: bool) {
        self.cut = cut;
        match (cut, self.agent.as_ref().map(|agent| agent.life)) {
            (true, _) => self.disconnected(),
            (false, Some(life)) => self.after(100, Happening::Connected(life)),
            (false, None) => {}
        }
    }

    fn replay(&mut self, count: u32) {
        for _ in 0..count {
            if let Some((way, channel, payload)) = self.hub.recorded(&mut self.dice) {
                let pause = self.dice.between(1, 500);
                self.after(pause, Happening::Arrives(way, channel, payload));
            }
        }
    }

    // --- time

    pub(crate) fn after(&mut self, millis: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + millis, self.queued), happening);
    }

    pub(crate) fn publish(&mut self, way: Way, channel: Channel, payload: Vec<u8>) {
        let arrivals = self.hub.carry(&mut self.dice, way, channel, &payload);
        for after in arrivals {
            self.after(after, Happening::Arrives(way, channel, payload.clone()));
        }
    }

    fn run_until(&mut self, end: u64) {
        let mut at_once = 0;
        while self.witness.violation.is_none() {
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timers = [self.twin_due(), self.device_due()].into_iter().flatten().min();
            let Some(next) = [queued, timers].into_iter().flatten().min().filter(|next| *next <= end) else { break };
            at_once = if next > self.now { 0 } else { at_once + 1 };
            if at_once > AT_ONCE {
                self.witness.violate("time stands still: something is due again and again");
            }
            self.go_to(next.max(self.now));
            if queued.is_some_and(|at| at <= self.now) {
                if let Some((_, happening)) = self.queue.pop_first() {
                    self.happen(happening);
                }
                continue;
            }
            if self.twin_due().is_some_and(|at| at <= self.now) {
                self.tell_twin(TwinEvent::Tick);
            }
            if self.device_due().is_some_and(|at| at <= self.now) {
                self.device_timers();
            }
        }
        self.go_to(end.max(self.now));
    }

    fn go_to(&mut self, now: u64) {
        self.now = now;
        self.set_device_clock();
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives(Way::Up, channel, payload) => self.bridge_hears(channel, &payload),
            Happening::Arrives(Way::Down, channel, payload) => self.device_hears(channel, payload),
            Happening::BridgeStarts if self.api.down => self.after(1_000, Happening::BridgeStarts),
            Happening::BridgeStarts => self.start_bridge(),
            Happening::AgentStarts => self.start_agent(),
            Happening::Connected(life) => self.connected(life),
            Happening::Watch(life) => {
                if self.bridge.as_ref().is_some_and(|bridge| bridge.life == life) {
                    self.watch(life);
                }
            }
            Happening::Turn(life, no) => self.turn(life, no, false),
            Happening::Again(life, no) => self.turn(life, no, true),
            Happening::Write(life, write) => self.write(life, write),
            Happening::Settled(life, ticket, receipt) => {
                if self.bridge.as_ref().is_some_and(|bridge| bridge.life == life) {
                    self.tell_twin(TwinEvent::Settled(ticket, receipt));
                }
            }
            Happening::Durable(life) => self.durable(life),
            Happening::KeepClock(life) => self.keep_clock(life),
            Happening::Landed(life, uid, event) => self.landed(life, &uid, event),
            Happening::Launch(life, id) => self.launched(life, id),
            Happening::RemovePod(life, uid) => self.pod_removed(life, &uid),
            Happening::Ends(boot, id, code, signal) => {
                if self.containers.boot == boot {
                    self.container_ends(id, code, signal);
                }
            }
        }
    }

    // --- the end

    fn checked(&mut self) -> Result<(), String> {
        match self.witness.violation.take() {
            Some(violation) => Err(format!("at {}: {violation}", self.now)),
            None => Ok(()),
        }
    }

    /// Faults stop. Everything has to become as the API says, in bounded time.
    fn calm_down(&mut self) -> Result<(), String> {
        self.note(|| "calm".to_owned());
        self.calm = true;
        (self.hub.loss, self.hub.twice, self.hub.delay) = (0, 0, 50);
        self.api.down = false;
        self.disk.refuses = false;
        self.api.configs.iter_mut().for_each(|config| config.hidden = false);
        self.cut(false);
        let end = self.now + CALM_WITHIN;
        let mut well_since = None;
        while self.now < end {
            self.run_until(self.now + 1_000);
            self.checked()?;
            match self.differences().is_empty() {
                true if well_since.is_some_and(|since| self.now >= since + CALM_FOR) => return Ok(()),
                true => drop(well_since.get_or_insert(self.now)),
                false => well_since = None,
            }
        }
        Err(format!(
            "not well {} minutes after the last fault: {}",
            CALM_WITHIN / 60_000,
            self.differences().join("; ")
        ))
    }

    /// What is not as it should be.
    fn differences(&mut self) -> Vec<String> {
        let (Some(bridge), Some(agent)) = (&self.bridge, &self.agent) else {
            return vec!["not everything runs".to_owned()];
        };
        let mut differences = Vec::new();
        let status = agent.brain.status();
        if bridge.liveness != Some(Liveness::Online) || status.session_since.is_none() {
            differences.push("the device is not online".to_owned());
        }
        if status.unacknowledged > 0 || status.lacking > 0 {
            differences.push(format!("{} unacknowledged, {} lacking", status.unacknowledged, status.lacking));
        }
        let accepted = self.disk.memory.accepted.clone();
        let entries = accepted.map(|accepted| accepted.entries).unwrap_or_default();
        let wanted: BTreeMap<PodNo, Wish> =
            entries.iter().map(|entry| (no_of(entry.uid.as_str()), entry.wish)).collect();
        for no in wanted.keys().filter(|no| !self.api.pods.contains_key(no)) {
            differences.push(format!("the device is told of pod {no}, which does not exist"));
        }
        for (id, _) in self.containers.running() {
            if !self.api.pods.contains_key(&no_of(id.pod.as_str())) {
                differences.push(format!("{id} runs, and its pod does not exist"));
            }
        }
        differences.extend(self.witness.missing_events(&self.api));
        let pods: Vec<_> = self.api.pods.values().cloned().collect();
        for pod in pods {
            if pod.deletion.is_some() {
                differences.push(format!("pod {} is still being deleted", pod.no));
                continue;
            }
            differences.extend(self.difference_of_status(pod.no));
            let running: Vec<_> =
                self.containers.running().filter(|(id, _)| no_of(id.pod.as_str()) == pod.no).collect();
            if pod.has_ended() {
                if let Some((id, _)) = running.first().filter(|_| !self.witness.unrecorded.contains(&pod.no)) {
                    differences.push(format!("{id} runs, and its pod has ended"));
                }
                continue;
            }
            // What runs without a record is taken to run the right image.
            let adopted = self.witness.unrecorded.contains(&pod.no);
            let image = format!("image-{}", pod.image);
            let serves = running.iter().any(|(id, process)| id.name == "main" && (adopted || process.image == image));
            if !serves {
                differences.push(format!("pod {} ({:?}) does not run", pod.no, pod.kind));
            }
            for name in pod.looks() {
                // One that was being started when the power went is lost, and says so.
                let lost = pod.status.as_ref().is_some_and(|status| summary::has_ended(status, &name));
                let id = ContainerId { pod: pod.uid(), name, attempt: 0 };
                if !lost && !self.containers.processes.contains_key(&id) {
                    differences.push(format!("{id} was added, and never started"));
                }
            }
            let prepared = self.api.prepare(&pod).map(|prepared| Wish::Run(prepared.deployment.reference));
            if wanted.get(&pod.no).copied() != prepared {
                differences.push(format!("the device is told {:?} of pod {}", wanted.get(&pod.no), pod.no));
            }
        }
        differences
    }

    /// Whether what the API shows of a pod is what its device says.
    fn difference_of_status(&self, no: PodNo) -> Option<String> {
        let pod = self.api.pods.get(&no)?;
        // What is added to a pod that has ended is never started, and its device need not hear of it.
        let ended = pod.has_ended();
        let of_status = if ended { summary::of_status } else { summary::all_of_status };
        let of_report = if ended { summary::of_report } else { summary::all_of_report };
        let shown = pod.status.as_ref().map(of_status);
        let owner = self.agent.as_ref().and_then(|agent| agent.owners.get(&uid_of(no)));
        let said = owner.and_then(|owner| match owner.lifecycle.resync(DeviceTime(0)) {
            Resync::Workload(report) => Some(of_report(&report)),
            Resync::Nothing | Resync::Gone(_) => None,
        });
        // Of what has ended nothing may be left on the device; and a device that lost the record of an end begins again.
        let forgotten = said.is_none() || self.witness.unrecorded.contains(&no);
        let differs = shown != said && !(pod.has_ended() && forgotten);
        differs.then(|| format!("pod {no} is shown as {shown:?}, and the device says {said:?}"))
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{now:>9} {}", line()));
        }
    }
}
