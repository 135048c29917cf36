//! Generated schedules of crashes, reboots, failures and repeated events.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Fault {
    ContainerEnds(usize, i32),
    AgentDies,
    /// The agent dies between saving and acting: its next effects are lost.
    AgentDiesBeforeActing,
    RecordIsLost,
    Reboot,
    StartsFail(bool),
    PlacesFail(bool),
    OldEventsAgain,
    Time(u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => (0..3_usize, prop_oneof![Just(0), Just(1)]).prop_map(|(at, code)| Fault::ContainerEnds(at, code)),
        2 => Just(Fault::AgentDies),
        2 => Just(Fault::AgentDiesBeforeActing),
        1 => Just(Fault::RecordIsLost),
        1 => Just(Fault::Reboot),
        1 => any::<bool>().prop_map(Fault::StartsFail),
        1 => any::<bool>().prop_map(Fault::PlacesFail),
        2 => Just(Fault::OldEventsAgain),
        4 => (0..400_000_u64).prop_map(Fault::Time),
    ]
}

/// A container with all probes, which are always answered well, and both hooks.
fn watched(name: &str) -> Described {
    use hawser_wire::deployment::{Action, Probe};
    let action = Action::Exec(vec!["ok".into()]);
    let probe = Probe {
        action: action.clone(),
        initial_delay_seconds: 3,
        period_seconds: 150,
        timeout_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
        grace_seconds: None,
    };
    let care = Care {
        liveness: Some(probe.clone()),
        readiness: Some(probe.clone()),
        startup: Some(probe),
        post_start: Some(action.clone()),
        pre_stop: Some(action),
        ..Care::default()
    };
    Described { care: Some(care), ..container(name) }
}

/// A runtime that keeps its contract, with what it remembers.
struct World {
    life: Lifecycle,
    saved: Vec<u8>,
    spec: EdgeDeployment,
    now: u64,
    boot: u32,
    /// Everything that was ever started: `None` runs.
    containers: BTreeMap<ContainerId, Option<Exit>>,
    starts_fail: bool,
    places_fail: bool,
    lose_effects: bool,
    told: Vec<Event>,
    signals: usize,
}

impl World {
    fn new(spec: EdgeDeployment) -> Self {
        let life = Lifecycle::new(uid(), "process");
        let mut world = Self {
            life,
            saved: vec![],
            spec,
            now: 1,
            boot: 0,
            containers: BTreeMap::new(),
            starts_fail: false,
            places_fail: false,
            lose_effects: false,
            told: vec![],
            signals: 0,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.told.clear();
        let state = |exit: &Option<Exit>| match exit {
            None => FoundState::Running { started_ago: Duration::ZERO },
            Some(exit) => FoundState::Ended(exit.clone()),
        };
        let found = self
            .containers
            .iter()
            .map(|(id, exit)| Found { id: id.clone(), image: None, handle: Handle::default(), state: state(exit) })
            .collect();
        self.tell(Event::Inventory { epoch: format!("boot-{}", self.boot), found });
        self.tell(Event::Order(Order::Run(deployment(&self.spec))));
    }

    fn restart(&mut self) {
        self.life = match self.saved.as_slice() {
            [] => Lifecycle::new(uid(), "process"),
            saved => Lifecycle::recover(uid(), "process", saved).unwrap(),
        };
        self.begin();
    }

    fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        while !events.is_empty() {
            let event = events.remove(0);
            if !matches!(event, Event::Inventory { .. } | Event::Order(_)) {
                self.told.push(event.clone());
            }
            let effects = self.life.handle(DeviceTime(self.now), event);
            self.saved = self.life.encode();
            if std::mem::take(&mut self.lose_effects) {
                return self.restart();
            }
            for effect in effects {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Prepare(_) if self.places_fail => Some(Event::Prepared(Err(PlaceProblem::volumes("full".into())))),
            Effect::Prepare(_) => Some(Event::Prepared(Ok(PodReady::default()))),
            Effect::Start(id, _) if self.starts_fail => {
                Some(Event::Started(id, Err(StartProblem::NotCreated("full".into()))))
            }
            Effect::Start(id, _) => {
                let others = self.containers.iter().filter(|(other, exit)| other.name == id.name && exit.is_none());
                assert_eq!(others.filter(|(other, _)| **other != id).count(), 0, "{id} is started beside another");
                self.containers.entry(id.clone()).or_insert(None);
                Some(Event::Started(id, Ok(Started::default())))
            }
            Effect::Watch(id) => {
                let exit = self.containers.get(&id).cloned().unwrap_or_else(|| Some(Exit::lost("")));
                exit.map(|exit| Event::Ended(id, exit))
            }
            Effect::Signal(id, signal) => {
                self.signals += 1;
                let running = self.containers.get_mut(&id).filter(|exit| exit.is_none())?;
                let code = if signal == Signal::Term { 143 } else { 137 };
                *running = Some(exit(code));
                Some(Event::Ended(id, exit(code)))
            }
            Effect::Remove(id) => {
                assert!(self.containers.get(&id).is_none_or(Option::is_some), "{id} is removed while it runs");
                self.containers.remove(&id);
                None
            }
            Effect::RemovePod => {
                self.containers.clear();
                Some(Event::Removed(Ok(())))
            }
            Effect::Probe(call) => Some(Event::Probed(call.id, call.kind, ProbeAnswer::Good)),
            Effect::Hook(call) => Some(Event::Hooked(call.id, call.kind, HookEnd::Done)),
            Effect::SeekRoom(spec) => Some(Event::GivenRoom(spec, Ok(()))),
            Effect::Resize(to) => {
                let done = to.containers.iter().map(|(id, _)| id.clone()).collect();
                Some(Event::Resized(to, Resized { done, problem: None }))
            }
            Effect::Event(_) | Effect::Gone(_) | Effect::Forget => None,
        }
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::ContainerEnds(at, code) => {
                let running: Vec<ContainerId> =
                    self.containers.iter().filter(|(_, exit)| exit.is_none()).map(|(id, _)| id.clone()).collect();
                if let Some(id) = running.get(at) {
                    self.containers.insert(id.clone(), Some(exit(code)));
                    self.tell(Event::Ended(id.clone(), exit(code)));
                }
            }
            Fault::AgentDies => self.restart(),
            Fault::AgentDiesBeforeActing => self.lose_effects = true,
            Fault::RecordIsLost => {
                self.saved.clear();
                self.restart();
            }
            Fault::Reboot => {
                self.boot += 1;
                for exit in self.containers.values_mut() {
                    exit.get_or_insert_with(|| Exit::lost("reboot"));
                }
                self.restart();
            }
            Fault::StartsFail(fail) => self.starts_fail = fail,
            Fault::PlacesFail(fail) => self.places_fail = fail,
            Fault::OldEventsAgain => {
                for event in self.told.clone() {
                    // What a runtime says of an attempt does not change.
                    if matches!(&event, Event::Ended(..) | Event::Tick) {
                        self.tell(event);
                    }
                }
            }
            Fault::Time(millis) => self.pass(millis),
        }
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + millis;
        while let Some(wake) = self.life.wake().filter(|wake| wake.0 <= until) {
            self.now = self.now.max(wake.0);
            let before = self.life.wake();
            self.tell(Event::Tick);
            assert!(self.life.wake() != before || self.lose_effects, "it wakes again and again for the same");
        }
        self.now = until;
    }

    fn restarts(&self) -> Vec<u32> {
        let report = self.life.report(DeviceTime(self.now)).unwrap();
        report.init_containers.iter().chain(&report.containers).map(|c| c.restart_count).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_fault_stops_a_wanted_pod_and_in_the_end_it_runs(faults in prop::collection::vec(fault(), 0..60)) {
        let spec = pod(RestartPolicy::Always, vec![container("i"), sidecar("s")], vec![watched("a"), container("b")]);
        let mut world = World::new(spec);
        let mut counts = world.restarts();
        for fault in faults {
            // Then only the attempts count that the runtime knows, and one that was decided on may not be there.
            let forgets = matches!(fault, Fault::RecordIsLost);
            world.suffer(fault);
            prop_assert_eq!(world.signals, 0, "a fault stops nothing");
            let now = world.restarts();
            prop_assert!(forgets || counts.iter().zip(&now).all(|(before, now)| before <= now), "{:?} then {:?}", counts, now);
            counts = now;
        }
        // From here on everything works, and the init container does its job.
        (world.starts_fail, world.places_fail, world.lose_effects) = (false, false, false);
        for _ in 0..20 {
            world.pass(700_000);
            let init: Vec<_> = world.containers.iter().filter(|(id, e)| id.name == "i" && e.is_none()).map(|(id, _)| id.clone()).collect();
            for id in init {
                world.containers.insert(id.clone(), Some(exit(0)));
                world.tell(Event::Ended(id, exit(0)));
            }
        }
        let report = world.life.report(DeviceTime(world.now)).unwrap();
        prop_assert!(report.containers.iter().all(|c| c.ready) && report.phase == Phase::Running, "{:#?}", report);
        prop_assert_eq!(world.signals, 0);
        // And what is not wanted goes.
        world.tell(Event::Order(Order::Remove));
        world.pass(100_000);
        prop_assert!(world.containers.is_empty());
    }

    #[test]
    fn a_record_survives_its_encoding(faults in prop::collection::vec(fault(), 0..30)) {
        let mut world = World::new(pod(RestartPolicy::OnFailure, vec![], vec![container("a"), container("b")]));
        for fault in faults {
            world.suffer(fault);
        }
        let again = Lifecycle::recover(uid(), "process", &world.life.encode()).unwrap();
        prop_assert_eq!(again.encode(), world.life.encode());
    }

    #[test]
    fn no_bytes_are_worse_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Lifecycle::recover(uid(), "process", &bytes);
        let _ = Lifecycle::recover(uid(), "process", &[&[1], bytes.as_slice()].concat());
    }
}
