//! A runtime that plays a script, for tests and simulations: containers end, crash, hang or start slowly when told, in
//! tokio's time (which tests pause).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hawser_wire::PodUid;
use hawser_wire::deployment::{Container, EdgeDeployment};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    ContainerId, ContainerStart, DiskUse, ExecError, Executed, Exit, ExitCause, Found, FoundState, Handle,
    ImageProblem, ImageState, ImageStore, ImageWanted, NewSize, PodReady, PodSetup, PrepareError, Pulled, Refusal,
    Resized, Runtime, RuntimeError, Signal, StartError, Started,
};
use crate::streams::service::{NotServed, Served, Sight};

/// What one attempt does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// How long starting takes.
    pub start_takes: Duration,
    /// Starting fails this way.
    pub start_fails: Option<ScriptedFailure>,
    /// It ends by itself after this time, with this code; `None`: it runs until it is stopped.
    pub ends: Option<(Duration, i32)>,
    /// How long after TERM it ends, and with which code; `None`: it ignores TERM.
    pub on_term: Option<(Duration, i32)>,
    /// What of its description does not hold.
    pub not_enforced: Vec<String>,
}

/// How a start fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptedFailure {
    /// There is no container.
    NotCreated(String),
    /// The pod's place is gone.
    NoPlace(String),
    /// The program could not be started.
    NotStarted(i32, String),
    /// The runtime itself is at fault: it panics.
    Panic(String),
}

impl Script {
    /// Runs until it is told to end, and then ends at once.
    pub fn server() -> Self {
        Self { on_term: Some((Duration::ZERO, 143)), ..Self::default() }
    }

    /// Ends by itself.
    pub fn ends_after(time: Duration, code: i32) -> Self {
        Self { ends: Some((time, code)), on_term: Some((Duration::ZERO, 143)), ..Self::default() }
    }

    /// Runs, and ignores TERM.
    pub fn stubborn() -> Self {
        Self::default()
    }
}

impl Served for Scripted {
    type Service = NotServed;

    fn service(&self, _: Sight) -> NotServed {
        NotServed
    }
}

/// A runtime that plays a script. Clones share their containers; keep one while agents come and go.
#[derive(Debug, Clone, Default)]
pub struct Scripted(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    scripts: BTreeMap<String, Vec<Script>>,
    running: BTreeMap<ContainerId, Arc<Process>>,
    prepared: BTreeMap<PodUid, PodSetup>,
    prepare_fails: Option<String>,
    inventory_fails: Option<String>,
    resize_fails: Option<String>,
    /// Images that have to be fetched, with how long that takes and what comes of it.
    pulls: BTreeMap<String, (Duration, Result<Pulled, ImageProblem>)>,
    /// What the disk with the images looks like.
    image_store: Option<ImageStore>,
    disk_use: BTreeMap<PodUid, DiskUse>,
    /// Commands in containers, with how long they take and how they end; all others end well at once.
    commands: BTreeMap<String, (Duration, Executed)>,
    log: Vec<String>,
    boot: u32,
}

#[derive(Debug)]
struct Process {
    image: String,
    started: Instant,
    script: Script,
    /// When and how it ends, as far as that is decided.
    end: watch::Sender<Option<(Instant, Exit)>>,
}

impl Scripted {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Containers of this name play these scripts, one per attempt; the last one again and again.
    pub fn script(&self, container: &str, scripts: Vec<Script>) {
        self.world().scripts.insert(container.to_owned(), scripts);
    }

    /// From now on places cannot be made, or can.
    pub fn set_prepare_fails(&self, cause: Option<&str>) {
        self.world().prepare_fails = cause.map(str::to_owned);
    }

    /// From now on nobody can learn what runs, or everybody can.
    pub fn set_inventory_fails(&self, cause: Option<&str>) {
        self.world().inventory_fails = cause.map(str::to_owned);
    }

    /// From now on other limits and requests cannot be applied, or can.
    pub fn set_resize_fails(&self, cause: Option<&str>) {
        self.world().resize_fails = cause.map(str::to_owned);
    }

    /// From now on containers with this image find it missing, and fetching it goes this way.
    pub fn set_pull(&self, image: &str, takes: Duration, result: Result<Pulled, ImageProblem>) {
        self.world().pulls.insert(image.to_owned(), (takes, result));
    }

    /// From now on a pod takes so much of the disk.
    pub fn set_disk_use(&self, pod: &PodUid, used: DiskUse) {
        self.world().disk_use.insert(pod.clone(), used);
    }

    /// From now on this command takes this long in every container, and ends with this code and output.
    pub fn set_command(&self, command: &str, takes: Duration, code: i32, output: &str) {
        let executed = Executed { code, output: output.into() };
        self.world().commands.insert(command.to_owned(), (takes, executed));
    }

    /// From now on there are these images. A removed one makes room for its bytes.
    pub fn set_image_store(&self, store: ImageStore) {
        self.world().image_store = Some(store);
    }

    /// What was done, in order: `prepare a`, `pull image`, `start a-web-0`, `exec a-web-0 true`, `term a-web-0`, `kill …`, `remove …`, `remove a`,
    /// `remove image a`.
    pub fn log(&self) -> Vec<String> {
        self.world().log.clone()
    }

    /// What a pod was prepared with last.
    pub fn prepared(&self, uid: &PodUid) -> Option<PodSetup> {
        self.world().prepared.get(uid).cloned()
    }

    /// The device is restarted: nothing runs any more, and nobody saw how it ended.
    #[expect(clippy::disallowed_methods, reason = "the script's world has tokio's time")]
    pub fn reboot(&self) {
        let now = Instant::now();
        let mut world = self.world();
        world.boot += 1;
        for process in world.running.values() {
            let ended = process.end.borrow().as_ref().is_some_and(|(at, _)| *at <= now);
            if !ended {
                process.end.send_replace(Some((now, Exit::lost("the device was restarted"))));
            }
        }
    }

    /// A container ends now by itself.
    #[expect(clippy::disallowed_methods, reason = "the script's world has tokio's time")]
    pub fn end(&self, id: &ContainerId, code: i32) {
        if let Some(process) = self.world().running.get(id) {
            process.end_at(Instant::now(), code, None);
        }
    }

    fn process(&self, id: &ContainerId) -> Option<Arc<Process>> {
        self.world().running.get(id).cloned()
    }
}

impl Process {
    /// The earliest end wins.
    fn end_at(&self, at: Instant, code: i32, signal: Option<i32>) {
        let ran = at.saturating_duration_since(self.started);
        let exit = Exit { code, signal, cause: ExitCause::Own, message: None, ran: Some(ran), ago: None };
        self.end.send_if_modified(|end| {
            let earlier = end.as_ref().is_none_or(|(old, _)| at < *old);
            if earlier {
                *end = Some((at, exit));
            }
            earlier
        });
    }
}

impl Runtime for Scripted {
    fn scheme(&self) -> &'static str {
        "scripted"
    }

    fn epoch(&self) -> String {
        format!("boot-{}", self.world().boot)
    }

    fn refuse(&self, _pod: &EdgeDeployment, container: &Container) -> Option<Refusal> {
        (container.image == "refused").then(|| Refusal {
            reason: "ImageNotSupported".to_owned(),
            message: "the script refuses this image".to_owned(),
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the script's world has tokio's time")]
    async fn inventory(&self) -> Result<Vec<Found>, RuntimeError> {
        let now = Instant::now();
        if let Some(cause) = &self.world().inventory_fails {
            let source = std::io::Error::other(cause.clone());
            return Err(RuntimeError { operation: "list what runs".to_owned(), source });
        }
        let found = |(id, process): (&ContainerId, &Arc<Process>)| {
            let ended = process.end.borrow().clone().filter(|(at, _)| *at <= now);
            let state = match ended {
                Some((at, exit)) => FoundState::Ended(Exit { ago: Some(now - at), ..exit }),
                None => FoundState::Running { started_ago: now.saturating_duration_since(process.started) },
            };
            Found { id: id.clone(), image: Some(process.image.clone()), handle: Handle::default(), state }
        };
        Ok(self.world().running.iter().map(found).collect())
    }

    async fn prepare(&self, pod: PodSetup) -> Result<PodReady, PrepareError> {
        let mut world = self.world();
        world.log.push(format!("prepare {}", pod.uid));
        if let Some(cause) = &world.prepare_fails {
            let source = std::io::Error::other(cause.clone());
            return Err(RuntimeError { operation: "make the pod's place".to_owned(), source }.into());
        }
        world.prepared.insert(pod.uid.clone(), pod);
        Ok(PodReady::default())
    }

    async fn image(&self, want: ImageWanted) -> Result<ImageState, ImageProblem> {
        let image = want.name();
        Ok(if self.world().pulls.contains_key(image) { ImageState::Pull } else { ImageState::Ready })
    }

    async fn pull(&self, want: ImageWanted) -> Result<Pulled, ImageProblem> {
        let image = want.name().to_owned();
        let (takes, result) = {
            let mut world = self.world();
            world.log.push(format!("pull {image}"));
            world.pulls.get(&image).cloned().unwrap_or((Duration::ZERO, Ok(Pulled::default())))
        };
        tokio::time::sleep(takes).await;
        if result.is_ok() {
            self.world().pulls.remove(&image);
        }
        result
    }

    #[expect(clippy::disallowed_methods, reason = "the script's world has tokio's time")]
    async fn start(&self, start: ContainerStart) -> Result<Started, StartError> {
        let image = start.container().map(|container| container.image.clone()).unwrap_or_default();
        let id = start.id;
        let script = {
            let mut world = self.world();
            if world.running.contains_key(&id) {
                return Ok(Started::default());
            }
            world.log.push(format!("start {id}"));
            let scripts = world.scripts.get(&id.name).map(Vec::as_slice).unwrap_or_default();
            scripts.get(id.attempt as usize).or(scripts.last()).cloned().unwrap_or_else(Script::server)
        };
        tokio::time::sleep(script.start_takes).await;
        match &script.start_fails {
            Some(ScriptedFailure::NotCreated(message)) => {
                let source = std::io::Error::other(message.clone());
                Err(StartError::NotCreated(RuntimeError { operation: "create".to_owned(), source }))
            }
            Some(ScriptedFailure::NoPlace(message)) => Err(StartError::NoPlace(message.clone())),
            Some(ScriptedFailure::NotStarted(code, message)) => {
                Err(StartError::NotStarted { code: *code, message: message.clone() })
            }
            Some(ScriptedFailure::Panic(message)) => panic!("{message}"),
            None => {
                let not_enforced = script.not_enforced.clone();
                let process = Process { image, started: Instant::now(), script, end: watch::Sender::new(None) };
                if let Some((after, code)) = process.script.ends {
                    process.end_at(process.started + after, code, None);
                }
                self.world().running.insert(id, Arc::new(process));
                Ok(Started { not_enforced, handle: Handle::default() })
            }
        }
    }

    async fn ended(&self, id: ContainerId) -> Exit {
        let Some(process) = self.process(&id) else { return Exit::lost("it was never started") };
        let mut ends = process.end.subscribe();
        loop {
            let end = ends.borrow_and_update().clone();
            // Cancel-safe: neither arm holds anything. An earlier end replaces the one that is waited for.
            tokio::select! {
                () = async {
                    match &end {
                        Some((at, _)) => tokio::time::sleep_until(*at).await,
                        None => std::future::pending().await,
                    }
                } => if let Some((_, exit)) = end { return exit },
                changed = ends.changed() => if changed.is_err() { return Exit::lost("the script is over") },
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the script's world has tokio's time")]
    async fn signal(&self, id: ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        let now = Instant::now();
        let word = if signal == Signal::Term { "term" } else { "kill" };
        self.world().log.push(format!("{word} {id}"));
        if let Some(process) = self.process(&id) {
            match (signal, process.script.on_term) {
                (Signal::Kill, _) => process.end_at(now, 137, Some(9)),
                (Signal::Term, Some((after, code))) => process.end_at(now + after, code, (code == 143).then_some(15)),
                (Signal::Term, None) => {}
            }
        }
        Ok(())
    }

    async fn exec(
        &self,
        id: ContainerId,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<Executed, ExecError> {
        let word = command.join(" ");
        let (takes, executed) = {
            let mut world = self.world();
            world.log.push(format!("exec {id} {word}"));
            world.commands.get(&word).cloned().unwrap_or_default()
        };
        let over = tokio::time::timeout(limit.unwrap_or(Duration::MAX), tokio::time::sleep(takes)).await;
        over.map(|()| executed).map_err(|_| ExecError::TimedOut)
    }

    fn refuse_resize(&self, _pod: &EdgeDeployment) -> Option<String> {
        None
    }

    async fn resize(&self, to: NewSize) -> Resized {
        let done: Vec<ContainerId> = to.containers.into_iter().map(|(id, _)| id).collect();
        let names: Vec<&str> = done.iter().map(|id| id.name.as_str()).collect();
        let mut world = self.world();
        world.log.push(format!("resize {} [{}]", to.spec.uid, names.join(" ")));
        let problem = world.resize_fails.clone();
        Resized { done: if problem.is_some() { Vec::new() } else { done }, problem }
    }

    async fn remove(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let mut world = self.world();
        world.log.push(format!("remove {id}"));
        world.running.remove(&id);
        Ok(())
    }

    async fn remove_pod(&self, uid: PodUid) -> Result<(), RuntimeError> {
        let mut world = self.world();
        world.log.push(format!("remove {uid}"));
        world.running.retain(|id, _| id.pod != uid);
        world.prepared.remove(&uid);
        Ok(())
    }

    async fn disk_use(&self, pod: Arc<EdgeDeployment>) -> Result<DiskUse, RuntimeError> {
        Ok(self.world().disk_use.get(&pod.uid).cloned().unwrap_or_default())
    }

    async fn image_store(&self, wanted: &BTreeSet<String>) -> Result<Option<ImageStore>, RuntimeError> {
        let mut store = self.world().image_store.clone();
        for image in store.iter_mut().flat_map(|store| &mut store.images) {
            image.in_use |= wanted.contains(&image.name);
        }
        Ok(store)
    }

    async fn remove_image(&self, id: String) -> Result<(), RuntimeError> {
        let mut world = self.world();
        world.log.push(format!("remove image {id}"));
        if let Some(store) = &mut world.image_store
            && let Some(at) = store.images.iter().position(|image| image.id == id)
        {
            store.available += store.images.remove(at).bytes;
        }
        Ok(())
    }

    fn log(&self, _id: &ContainerId) -> Option<PathBuf> {
        None
    }
}
