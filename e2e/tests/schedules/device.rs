//! The device: the real brain and the real lifecycles, and around them what the link's task and the owners of pods do,
//! by their contracts: a record is durable before what follows from it is done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use device_agent::clock::{DeviceClock, TimeSource};
use device_agent::desired::DesiredSet;
use device_agent::ledger::{Change, ClockRecord, Recovered, Urgency};
use device_agent::link::session::Credentials;
use device_agent::link::{Brain, BrainConfig, Input, Moment, Note, Output};
use device_agent::runtime::{ContainerId, Found, PodReady, Resized, Started};
use device_agent::workloads::lifecycle::{Effect, Event, HookEnd, Lifecycle, PlaceProblem, ProbeAnswer, Resync};
use device_agent::workloads::plan::{Order, plan};
use hawser_wire::report::{DeviceEvent, NodeFacts, ReportItem, Resource, WorkloadReport};
use hawser_wire::{BootId, Channel, DeviceTime, PodUid};

use crate::api::no_of;
use crate::containers::Heard;
use crate::disk::{Commit, Waiter};
use crate::hub::Way;
use crate::world::{Happening, World};

const SCHEME: &str = "scripted";
/// As the agent's clock keeps its bound.
const CLOCK_AHEAD: u64 = 10 * 60 * 1000;
const CLOCK_EVERY: u64 = 5 * 60 * 1000;

/// The agent's process.
pub(crate) struct Agent {
    pub(crate) life: u32,
    pub(crate) brain: Brain,
    clock: DeviceClock,
    offset: u64,
    desired: Arc<DesiredSet>,
    pub(crate) owners: BTreeMap<PodUid, Owner>,
    pub(crate) connected: bool,
    todo: VecDeque<Todo>,
}

/// What looks after one pod.
pub(crate) struct Owner {
    pub(crate) lifecycle: Lifecycle,
    given: Option<Order>,
    events: VecDeque<Event>,
    /// What is done once the record is saved.
    held: Option<Vec<Effect>>,
    saved: Vec<u8>,
    said: Option<WorkloadReport>,
}

/// What has to be done before time goes on.
enum Todo {
    Brain(Input),
    Orders,
    Owner(PodUid),
}

/// What the device's world is between two lives of the agent.
pub(crate) struct Board {
    boot_at: u64,
    boot: BootId,
    since_boot: Arc<AtomicU64>,
    /// How far the wall clock is ahead of the true one; `None`: it shows 1970.
    wall_ahead: Option<i64>,
    facts: u32,
    events: u32,
    /// What a start finds.
    recovered: Recovered,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            boot_at: 0,
            boot: BootId([1; 8]),
            since_boot: Arc::new(AtomicU64::new(0)),
            wall_ahead: None,
            facts: 1,
            events: 0,
            recovered: Recovered::default(),
        }
    }

    pub(crate) fn jump(&mut self, millis: i64) {
        self.wall_ahead = if millis == i64::MIN { None } else { Some(millis) };
    }
}

impl World {
    pub(crate) fn start_agent(&mut self) {
        self.lives += 1;
        let life = self.lives;
        let recovered = std::mem::take(&mut self.board.recovered);
        self.set_device_clock();
        let since_boot = self.board.since_boot.clone();
        let source = TimeSource {
            boot: self.board.boot,
            since_boot: Arc::new(move || since_boot.load(Ordering::Relaxed)),
            wall: Arc::new(|| 0),
        };
        let clock = DeviceClock::resume(source, recovered.clock);
        let offset = clock.now().0 - self.board.since_boot.load(Ordering::Relaxed);
        // Before any time is told, it is durable that it may have been.
        self.disk.submit(self.now, vec![self.clock_record(clock.now(), offset)], Urgency::Now, None);
        if matches!(self.disk.commit(self.now), Commit::Writing) {
            self.disk.written();
        }
        let config = BrainConfig {
            credentials: Credentials {
                root: self.root.clone(),
                device: self.device_id.clone(),
                key: self.device_key.clone(),
                bridge: self.bridge_key.public(),
                token: None,
            },
            agent_version: "test".to_owned(),
            boot: self.board.boot,
        };
        let moment = self.moment_at(clock.now());
        let (brain, first) = Brain::new(config, &recovered, &moment);
        self.note(|| {
            format!(
                "agent {life} starts at {} with {:?}",
                clock.now().0,
                recovered.accepted.as_ref().map(|a| a.version)
            )
        });
        let agent = Agent {
            life,
            brain,
            clock,
            offset,
            desired: Arc::new(DesiredSet::default()),
            owners: BTreeMap::new(),
            connected: false,
            todo: VecDeque::new(),
        };
        self.agent = Some(agent);
        self.carry_out_for_brain(first);
        self.recover_owners(recovered.workloads);
        self.after(CLOCK_EVERY, Happening::KeepClock(life));
        self.push(Todo::Orders);
        self.facts_changed();
        if !self.cut {
            self.after(200, Happening::Connected(life));
        }
        self.settle_device();
    }

    fn recover_owners(&mut self, records: Vec<(PodUid, Vec<u8>)>) {
        let mut inventory: BTreeMap<PodUid, Vec<Found>> = BTreeMap::new();
        for found in self.containers.inventory(self.now) {
            inventory.entry(found.id.pod.clone()).or_default().push(found);
        }
        for (uid, record) in records {
            let lifecycle = Lifecycle::recover(uid.clone(), SCHEME, &record).expect("records are whole");
            let found = inventory.remove(&uid).unwrap_or_default();
            self.own(uid, lifecycle, record, found);
        }
        for (uid, found) in inventory {
            self.own(uid.clone(), Lifecycle::new(uid, SCHEME), Vec::new(), found);
        }
    }

    fn own(&mut self, uid: PodUid, lifecycle: Lifecycle, saved: Vec<u8>, found: Vec<Found>) {
        let inventory = Event::Inventory { epoch: self.containers.epoch(), found };
        let Some(agent) = &mut self.agent else { return };
        let events = VecDeque::from([Event::Addresses(vec!["10.0.0.9".to_owned()]), inventory]);
        let owner = Owner { lifecycle, given: None, events, held: None, saved, said: None };
        agent.owners.insert(uid.clone(), owner);
        self.push(Todo::Owner(uid));
    }

    /// The agent dies. What it had asked the engine for may or may not have been done.
    pub(crate) fn kill_agent(&mut self, back: u64) {
        if self.agent.take().is_none() {
            return;
        }
        let starting: Vec<ContainerId> = self.containers.starting.keys().cloned().collect();
        for id in starting {
            if self.dice.chance(50) {
                self.launch(&id);
            }
        }
        self.containers.starting.clear();
        let in_memory = self.disk.in_memory;
        if in_memory {
            self.witness.unrecorded.extend(self.containers.processes.keys().map(|id| no_of(id.pod.as_str())));
        }
        self.board.recovered = self.disk.crash(&mut self.dice);
        self.witness.agent_died(self.board.recovered.accepted.as_ref(), &self.board.recovered.said, in_memory);
        self.after(back, Happening::AgentStarts);
    }

    pub(crate) fn cut_power(&mut self, back: u64, wall: i64) {
        self.kill_agent(back);
        self.containers.power_cut(self.now);
        self.board.boot_at = self.now;
        self.board.boot = BootId([self.containers.boot as u8 + 1; 8]);
        self.board.jump(wall);
    }

    // --- time

    /// The device's clock shows what it shows now.
    pub(crate) fn set_device_clock(&mut self) {
        self.board.since_boot.store(self.now - self.board.boot_at, Ordering::Relaxed);
    }

    fn moment_at(&mut self, at: DeviceTime) -> Moment {
        let wall_millis = self
            .board
            .wall_ahead
            .map_or(0, |ahead| (1_790_000_000_000 + self.now as i64).saturating_add(ahead).max(0) as u64);
        Moment { at, wall_millis, ephemeral: self.dice.bytes(), jitter: self.dice.next() }
    }

    fn device_now(&self) -> DeviceTime {
        self.agent.as_ref().map_or(DeviceTime(0), |agent| agent.clock.now())
    }

    fn true_time(&self, agent: &Agent, at: DeviceTime) -> u64 {
        at.0.saturating_sub(agent.offset).saturating_add(self.board.boot_at)
    }

    /// When something of the device is due.
    pub(crate) fn device_due(&self) -> Option<u64> {
        let agent = self.agent.as_ref()?;
        let wakes =
            agent.owners.values().filter(|owner| owner.held.is_none()).filter_map(|owner| owner.lifecycle.wake());
        let times = agent.brain.deadline().into_iter().chain(wakes).map(|at| self.true_time(agent, at));
        times.chain(self.disk.due()).min()
    }

    pub(crate) fn device_timers(&mut self) {
        let now = self.device_now();
        let Some(agent) = &mut self.agent else { return };
        if agent.brain.deadline().is_some_and(|at| at <= now) {
            agent.todo.push_back(Todo::Brain(Input::Tick));
        }
        for (uid, owner) in &mut agent.owners {
            if owner.held.is_none() && owner.lifecycle.wake().is_some_and(|at| at <= now) {
                owner.events.push_back(Event::Tick);
                agent.todo.push_back(Todo::Owner(uid.clone()));
            }
        }
        self.settle_device();
        if self.disk.due().is_some_and(|due| due <= self.now) {
            self.commit();
        }
    }

    pub(crate) fn keep_clock(&mut self, life: u32) {
        let Some(agent) = self.agent.as_ref().filter(|agent| agent.life == life) else { return };
        let record = self.clock_record(agent.clock.now(), agent.offset);
        self.disk.submit(self.now, vec![record], Urgency::Soon, None);
        self.after(CLOCK_EVERY, Happening::KeepClock(life));
    }

    fn clock_record(&self, now: DeviceTime, offset_millis: u64) -> Change {
        let told_up_to = DeviceTime(now.0 + CLOCK_AHEAD);
        Change::Clock(ClockRecord { boot: self.board.boot, offset_millis, told_up_to })
    }

    // --- the disk

    fn commit(&mut self) {
        match self.disk.commit(self.now) {
            Commit::Nothing => {}
            Commit::Refused(waiters) => self.confirmed(waiters),
            Commit::Writing => {
                let Some(life) = self.agent.as_ref().map(|agent| agent.life) else { return };
                let pause = self.dice.between(1, 60);
                self.after(pause, Happening::Durable(life));
            }
        }
    }

    pub(crate) fn durable(&mut self, life: u32) {
        if self.agent.as_ref().is_some_and(|agent| agent.life == life) {
            let waiters = self.disk.written();
            self.confirmed(waiters);
        }
    }

    fn confirmed(&mut self, waiters: Vec<Waiter>) {
        for waiter in waiters {
            match waiter {
                Waiter::Brain(ticket) => self.push(Todo::Brain(Input::Persisted { ticket })),
                Waiter::Owner(uid) => {
                    let owner = self.agent.as_mut().and_then(|agent| agent.owners.get_mut(&uid));
                    if let Some(effects) = owner.and_then(|owner| owner.held.take()) {
                        self.carry_out_for_owner(&uid, effects);
                    }
                    self.push(Todo::Owner(uid));
                }
                Waiter::Forgotten(uid) => {
                    if let Some(agent) = &mut self.agent {
                        agent.owners.remove(&uid);
                    }
                    self.push(Todo::Orders);
                }
            }
        }
        self.settle_device();
    }

    // --- the brain

    pub(crate) fn tell_brain(&mut self, input: Input) {
        self.push(Todo::Brain(input));
        self.settle_device();
    }

    fn push(&mut self, todo: Todo) {
        if let Some(agent) = &mut self.agent {
            agent.todo.push_back(todo);
        }
    }

    /// Does what has to be done now.
    fn settle_device(&mut self) {
        while let Some(todo) = self.agent.as_mut().and_then(|agent| agent.todo.pop_front()) {
            match todo {
                Todo::Brain(input) => self.step_brain(input),
                Todo::Orders => self.give_orders(),
                Todo::Owner(uid) => self.step_owner(&uid),
            }
        }
    }

    fn step_brain(&mut self, input: Input) {
        let now = self.device_now();
        self.witness.tells_time(now.0);
        let moment = self.moment_at(now);
        let Some(agent) = &mut self.agent else { return };
        let outputs = agent.brain.handle(&moment, input);
        self.carry_out_for_brain(outputs);
    }

    fn carry_out_for_brain(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Publish { channel, payload } => self.publish(Way::Up, channel, payload),
                Output::Persist { ticket, changes, urgency } => {
                    for change in &changes {
                        self.witness.persists(&self.api, &self.disk.memory.said, change);
                    }
                    self.disk.submit(self.now, changes, urgency, ticket.map(Waiter::Brain));
                }
                Output::Desired(desired) => {
                    self.witness.acts_on(&desired);
                    if let Some(agent) = &mut self.agent {
                        agent.desired = desired;
                    }
                    self.push(Todo::Orders);
                }
                Output::Resync => self.resync(),
                // Nobody opens any here.
                Output::Stream(_) => {}
                Output::Note(note) => self.device_note(&note),
            }
        }
    }

    fn device_note(&mut self, note: &Note) {
        self.note(|| format!("  device notes {note:?}"));
        match note {
            Note::EventsDropped(_) => self.witness.drops_events(),
            Note::IndexMalformed(_) | Note::ObjectCorrupt | Note::DeploymentRefused(_) | Note::NotSealed(_) => {
                self.witness.violate(format!("nothing was forged, and yet {note:?}"));
            }
            _ => {}
        }
    }

    fn resync(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let mut items = Vec::new();
        for owner in agent.owners.values_mut() {
            owner.said = None;
            if let Resync::Gone(gone) = owner.lifecycle.resync(agent.clock.now()) {
                items.push(ReportItem::Gone(*gone));
            }
        }
        let uids: Vec<PodUid> = agent.owners.keys().cloned().collect();
        if !items.is_empty() {
            self.push(Todo::Brain(Input::Reports(items)));
        }
        for uid in uids {
            self.say(&uid);
        }
    }

    pub(crate) fn facts_changed(&mut self) {
        self.board.facts += 1;
        let facts = facts(self.board.facts / 2);
        self.push(Todo::Brain(Input::Facts(Box::new(facts))));
        self.settle_device();
    }

    /// Something to tell that is unlike everything told before.
    pub(crate) fn device_event(&mut self) {
        self.board.events += 1;
        let event = DeviceEvent {
            pod: None,
            container: None,
            at: self.device_now(),
            warning: false,
            reason: "Noticed".to_owned(),
            message: format!("event {}", self.board.events),
            count: 1,
        };
        self.tell_brain(Input::Reports(vec![ReportItem::Event(event)]));
    }

    pub(crate) fn device_hears(&mut self, channel: Channel, payload: Vec<u8>) {
        if self.agent.as_ref().is_some_and(|agent| agent.connected) {
            self.tell_brain(Input::Message { channel, payload });
        }
    }

    pub(crate) fn connected(&mut self, life: u32) {
        let cut = self.cut;
        if let Some(agent) = self.agent.as_mut().filter(|agent| agent.life == life && !agent.connected && !cut) {
            agent.connected = true;
            self.tell_brain(Input::Connected);
        }
    }

    pub(crate) fn disconnected(&mut self) {
        if let Some(agent) = self.agent.as_mut().filter(|agent| agent.connected) {
            agent.connected = false;
            self.tell_brain(Input::Disconnected);
        }
    }

    // --- the owners of pods

    fn give_orders(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let known = agent.owners.iter().map(|(uid, owner)| (uid.clone(), owner.given.clone())).collect();
        let desired = agent.desired.clone();
        for action in plan(&desired, &known) {
            if action.new {
                let lifecycle = Lifecycle::new(action.uid.clone(), SCHEME);
                self.own(action.uid.clone(), lifecycle, Vec::new(), Vec::new());
            }
            let owner = self.agent.as_mut().and_then(|agent| agent.owners.get_mut(&action.uid));
            if let Some(owner) = owner {
                owner.given = Some(action.order.clone());
                owner.events.push_back(Event::Order(action.order));
                self.push(Todo::Owner(action.uid));
            }
        }
    }

    fn tell_owner(&mut self, uid: &PodUid, event: Event) {
        if let Some(owner) = self.agent.as_mut().and_then(|agent| agent.owners.get_mut(uid)) {
            owner.events.push_back(event);
            self.push(Todo::Owner(uid.clone()));
        }
        self.settle_device();
    }

    /// Tells the lifecycle what happened, saves, and acts once that is durable.
    fn step_owner(&mut self, uid: &PodUid) {
        loop {
            let Some(agent) = &mut self.agent else { return };
            let now = agent.clock.now();
            let Some(owner) = agent.owners.get_mut(uid).filter(|owner| owner.held.is_none()) else { return };
            let Some(event) = owner.events.pop_front() else { return };
            let effects = owner.lifecycle.handle(now, event);
            let only_prepares =
                !effects.is_empty() && effects.iter().all(|effect| matches!(effect, Effect::Prepare(_)));
            let record = owner.lifecycle.encode();
            if !only_prepares && !owner.lifecycle.is_blank() && record != owner.saved {
                owner.saved.clone_from(&record);
                owner.held = Some(effects);
                let changes = vec![Change::SaveWorkload(uid.clone(), record)];
                self.disk.submit(self.now, changes, Urgency::Now, Some(Waiter::Owner(uid.clone())));
                return;
            }
            self.carry_out_for_owner(uid, effects);
        }
    }

    /// How the pod is, if that has changed.
    fn say(&mut self, uid: &PodUid) {
        let Some(agent) = &mut self.agent else { return };
        let now = agent.clock.now();
        let Some(owner) = agent.owners.get_mut(uid) else { return };
        if let Resync::Workload(report) = owner.lifecycle.resync(now)
            && owner.said.as_ref() != Some(&*report)
        {
            owner.said = Some((*report).clone());
            self.push(Todo::Brain(Input::Reports(vec![ReportItem::Workload(*report)])));
        }
    }

    fn carry_out_for_owner(&mut self, uid: &PodUid, effects: Vec<Effect>) {
        let Some(life) = self.agent.as_ref().map(|agent| agent.life) else { return };
        for effect in effects {
            self.note(|| format!("  pod {} {}", no_of(uid.as_str()), brief(&effect)));
            match effect {
                Effect::Prepare(spec) => {
                    let lacking = spec.blobs().find(|blob| !self.disk.memory.objects.contains_key(&blob.hash));
                    let result = match lacking {
                        Some(blob) => Err(PlaceProblem::volumes(format!("object {} is not in the ledger", blob.hash))),
                        None => Ok(PodReady::default()),
                    };
                    self.later(life, uid, Event::Prepared(result), 30);
                }
                Effect::Start(id, spec) => {
                    let image = spec.all_containers().find(|(c, _)| c.name == id.name).map(|(c, _)| c.image.clone());
                    let kind = self.kinds[&no_of(uid.as_str())];
                    self.containers.starting.insert(id.clone(), (image.unwrap_or_default(), kind));
                    let pause = self.dice.between(1, 2_000);
                    self.after(pause, Happening::Launch(life, id));
                }
                Effect::Watch(id) => {
                    if let Some(exit) = self.containers.watch(&id, life) {
                        self.later(life, uid, Event::Ended(id, exit), 5);
                    }
                }
                Effect::Signal(id, signal) => {
                    self.witness.signals(&self.api, &id, self.containers.processes.get(&id));
                    if let Heard::Ends(after, code, signal) = self.containers.signal(&id, signal) {
                        self.after(after, Happening::Ends(self.containers.boot, id, code, signal));
                    }
                }
                Effect::Probe(call) => {
                    self.later(life, uid, Event::Probed(call.id, call.kind, ProbeAnswer::Good), 500);
                }
                Effect::Hook(call) => self.later(life, uid, Event::Hooked(call.id, call.kind, HookEnd::Done), 500),
                Effect::Remove(id) => self.containers.remove(&id),
                Effect::RemovePod => {
                    self.witness.removes(&self.api, uid);
                    let pause = self.dice.between(1, 500);
                    self.after(pause, Happening::RemovePod(life, uid.clone()));
                }
                Effect::SeekRoom(spec) => {
                    let uid = spec.uid.clone();
                    self.later(life, &uid, Event::GivenRoom(spec, Ok(())), 100);
                }
                Effect::Resize(to) => {
                    let done = to.containers.iter().map(|(id, _)| id.clone()).collect();
                    let uid = to.spec.uid.clone();
                    self.later(life, &uid, Event::Resized(to, Resized { done, problem: None }), 500);
                }
                Effect::Event(event) => self.push(Todo::Brain(Input::Reports(vec![ReportItem::Event(event)]))),
                Effect::Gone(gone) => self.push(Todo::Brain(Input::Reports(vec![ReportItem::Gone(*gone)]))),
                Effect::Forget => {
                    let waiter = Waiter::Forgotten(uid.clone());
                    self.disk.submit(self.now, vec![Change::ForgetWorkload(uid.clone())], Urgency::Now, Some(waiter));
                }
            }
        }
        self.say(uid);
    }

    fn later(&mut self, life: u32, uid: &PodUid, event: Event, pause: u64) {
        let pause = self.dice.between(1, pause);
        self.after(pause, Happening::Landed(life, uid.clone(), event));
    }

    pub(crate) fn landed(&mut self, life: u32, uid: &PodUid, event: Event) {
        if self.agent.as_ref().is_some_and(|agent| agent.life == life) {
            self.tell_owner(uid, event);
        }
    }

    // --- the runtime

    pub(crate) fn launched(&mut self, life: u32, id: ContainerId) {
        if self.agent.as_ref().is_some_and(|agent| agent.life == life) {
            self.launch(&id);
            let uid = id.pod.clone();
            self.tell_owner(&uid, Event::Started(id, Ok(Started::default())));
        }
    }

    fn launch(&mut self, id: &ContainerId) {
        self.witness.launches(id, self.containers.running().map(|(id, _)| id));
        if let Some((after, code)) = self.containers.launch(self.now, id, self.calm) {
            self.after(after, Happening::Ends(self.containers.boot, id.clone(), code, None));
        }
    }

    pub(crate) fn container_ends(&mut self, id: ContainerId, code: i32, signal: Option<i32>) {
        let Some(life) = self.containers.end(self.now, &id, code, signal) else { return };
        self.note(|| format!("  {id} ends with {code}"));
        if let Some(exit) = self.containers.watch(&id, life) {
            let uid = id.pod.clone();
            self.later(life, &uid, Event::Ended(id, exit), 20);
        }
    }

    pub(crate) fn pod_removed(&mut self, life: u32, uid: &PodUid) {
        if self.agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        // Now and then it does not work at once.
        if self.dice.chance(10) {
            return self.tell_owner(uid, Event::Removed(Err("busy".to_owned())));
        }
        self.containers.remove_pod(uid);
        self.tell_owner(uid, Event::Removed(Ok(())));
    }
}

fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Prepare(_) => "prepare".to_owned(),
        Effect::Start(id, _) => format!("start {id}"),
        Effect::Event(event) => format!("event {}: {}", event.reason, event.message),
        Effect::Gone(_) => "gone".to_owned(),
        other => format!("{other:?}"),
    }
}

fn facts(version: u32) -> NodeFacts {
    let resource = |name: &str, quantity: String| Resource { name: name.to_owned(), quantity };
    NodeFacts {
        capacity: vec![resource("cpu", "4".to_owned()), resource("memory", format!("{version}Mi"))],
        allocatable: vec![resource("cpu", "4".to_owned())],
        arch: "arm64".to_owned(),
        os: "linux".to_owned(),
        kernel: "6.1".to_owned(),
        os_image: "Debian".to_owned(),
        machine_id: "m".to_owned(),
        system_uuid: "s".to_owned(),
        boot_id: "b".to_owned(),
        agent_version: "test".to_owned(),
        runtime: "scripted://1".to_owned(),
        hostname: "board".to_owned(),
        addresses: vec!["10.0.0.9".to_owned()],
        images: Vec::new(),
        conditions: Vec::new(),
    }
}
