//! What an owner does in the world, because its lifecycle wants it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use hawser_wire::PodUid;
use hawser_wire::deployment::{Content, EdgeDeployment, VolumeSource};
use hawser_wire::report::ReportItem;
use tracing::{debug, warn};

use super::super::actions;
use super::super::env_file;
use super::super::expand::{HostFacts, expand_container};
use super::super::lifecycle::{Effect, Event, NoRoom, PlaceProblem, StartProblem};
use super::super::pull::{self, Had, Pull, Went};
use super::super::store::WorkloadStore;
use super::Owner;
use super::flight::Landed;
use crate::runtime::{
    ContainerId, ContainerStart, ImageState, ImageWanted, PodReady, PodSetup, PrepareError, Refusal, Runtime,
    StartError, Started, VolumeFile,
};

impl<R: Runtime, S: WorkloadStore> Owner<R, S> {
    /// Fetches an image, unless the pod is told to end meanwhile.
    pub(super) fn pull(&mut self, want: ImageWanted) {
        self.note_of(&want, "Pulling", &pull::begins(&want));
        let (runtime, pulls, wanted) = (self.runtime.clone(), self.pulls.clone(), want.clone());
        let work = async move { pulls.run_until_cancelled(runtime.pull(wanted)).await };
        self.go_on(Pull::begin(want, self.clock.clone(), work));
    }

    /// Says that an image is still being fetched.
    pub(super) fn pull_on(&mut self, pull: Pull) {
        self.note_of(pull.want(), "Pulling", &pull.progress());
        self.go_on(pull);
    }

    fn go_on(&mut self, pull: Pull) {
        self.flight.launch(async move {
            let (id, problem) = match pull.go_on().await {
                Went::On(pull) => return Landed::Pulling(pull),
                Went::Over(want, Some(Ok(had))) => return Landed::Image(want, had),
                Went::Over(want, Some(Err(problem))) => (want.id, StartProblem::NoImage(problem)),
                Went::Over(want, None) => (want.id, StartProblem::Abandoned),
            };
            Landed::Happened(Event::Started(id, Err(problem)))
        });
    }

    /// Goes on with the container that waited for this image.
    pub(super) fn start_with_image(&mut self, want: ImageWanted, had: Had) {
        self.note_of(&want, "Pulled", &had.words(&want));
        let (id, spec) = (want.id.clone(), want.spec.clone());
        self.start(id, spec, want.next());
    }

    /// Starts a container once it has this image and those after it; `None`: it has all that it needs.
    fn start(&mut self, id: ContainerId, spec: Arc<EdgeDeployment>, mut needs: Option<ImageWanted>) {
        let (runtime, host, own) = (self.runtime.clone(), self.host.borrow().clone(), self.addresses.clone());
        self.flight.launch(async move {
            while let Some(want) = needs {
                match runtime.image(want.clone()).await {
                    Ok(ImageState::Pull) => return Landed::Pull(want),
                    Ok(ImageState::Present) => return Landed::Image(want, Had::Before),
                    Ok(ImageState::Ready) => needs = want.next(),
                    Err(problem) => {
                        return Landed::Happened(Event::Started(id, Err(StartProblem::NoImage(problem))));
                    }
                }
            }
            let result = start(&*runtime, id.clone(), spec, &host, own.as_deref()).await;
            Landed::Happened(Event::Started(id, result))
        });
    }

    /// Does something that makes sense only while the container runs.
    fn beside(&mut self, id: ContainerId, work: impl Future<Output = Event> + Send + 'static) {
        let Some(companions) = self.companions.get(&id).cloned() else { return };
        self.flight.launch(async move {
            companions.run_until_cancelled_owned(work).await.map_or(Landed::Nothing, Landed::Happened)
        });
    }

    /// Whether the pod is, or may be, on this device.
    fn take_in(&mut self, pod: &EdgeDeployment) -> Result<(), Refusal> {
        if self.lifecycle.has_begun() {
            self.taken = Some(self.room.hold(pod));
            return Ok(());
        }
        let taken = match self.runtime.reject(pod) {
            Some(refusal) => Err(refusal),
            None => self.room.take(pod, &self.host.borrow().allocatable),
        };
        let (taken, refused) = match taken {
            Ok(taken) => (Some(taken), Ok(())),
            Err(refusal) => (None, Err(refusal)),
        };
        self.taken = taken;
        refused
    }

    /// Whether there is room for the pod as it is to be from now on.
    fn seek_room(&self, pod: &EdgeDeployment) -> Result<(), NoRoom> {
        if let Some(message) = self.runtime.refuse_resize(pod) {
            return Err(NoRoom { infeasible: true, message });
        }
        let found = self.room.exchange(pod, &self.host.borrow().allocatable);
        found.map_err(|message| NoRoom { infeasible: false, message })
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        let runtime = self.runtime.clone();
        match effect {
            Effect::Prepare(spec) => {
                if let Err(refusal) = self.take_in(&spec) {
                    self.flight.launch(std::future::ready(Landed::Happened(Event::Rejected(refusal))));
                    return;
                }
                let (store, uid, host) = (self.store.clone(), self.uid.clone(), self.host.borrow().clone());
                let own = self.addresses.clone();
                self.flight.launch(async move {
                    match prepare(&*runtime, &*store, uid, spec, &host, own.as_deref()).await {
                        Ok(ready) => Landed::Ready(ready),
                        Err(problem) => Landed::Happened(Event::Prepared(Err(problem))),
                    }
                });
            }
            Effect::Start(id, spec) => {
                let want = ImageWanted::first(id.clone(), spec.clone());
                if let Some(refusal) = want.container().and_then(|container| runtime.refuse(&spec, container)) {
                    let refused = Landed::Happened(Event::Started(id, Err(StartProblem::Refused(refusal))));
                    self.flight.launch(std::future::ready(refused));
                    return;
                }
                self.start(id, spec, Some(want));
            }
            Effect::Watch(id) => {
                self.companions.entry(id.clone()).or_default();
                self.flight.launch(async move {
                    let exit = runtime.ended(id.clone()).await;
                    debug!(container = id.name, attempt = id.attempt, code = exit.code, "a container ended");
                    Landed::Happened(Event::Ended(id, exit))
                });
            }
            Effect::Probe(call) => self.beside(call.id.clone(), async move {
                let answer = actions::ask(&*runtime, &call).await;
                Event::Probed(call.id, call.kind, answer)
            }),
            Effect::Hook(call) => self.beside(call.id.clone(), async move {
                let end = actions::carry_out(&*runtime, &call).await;
                Event::Hooked(call.id, call.kind, end)
            }),
            Effect::Signal(id, signal) => self.flight.launch(async move {
                if let Err(error) = runtime.signal(id, signal).await {
                    warn!(error = error.line(), ?signal, "a signal did not arrive");
                }
                Landed::Nothing
            }),
            Effect::Remove(id) => self.flight.launch(async move {
                if let Err(error) = runtime.remove(id).await {
                    debug!(error = error.line(), "an old attempt was not removed");
                }
                Landed::Nothing
            }),
            Effect::RemovePod => {
                let uid = self.uid.clone();
                self.flight.launch(async move {
                    let result = runtime.remove_pod(uid).await.map_err(|error| error.line());
                    Landed::Happened(Event::Removed(result))
                });
            }
            Effect::SeekRoom(spec) => {
                let given = self.seek_room(&spec);
                self.flight.launch(std::future::ready(Landed::Happened(Event::GivenRoom(spec, given))));
            }
            Effect::Resize(to) => self.flight.launch(async move {
                let resized = runtime.resize(to.clone()).await;
                Landed::Happened(Event::Resized(to, resized))
            }),
            Effect::Event(event) => self.enqueue(ReportItem::Event(event)),
            Effect::Gone(gone) => self.enqueue(ReportItem::Gone(*gone)),
            Effect::Forget => {
                let (store, uid) = (self.store.clone(), self.uid.clone());
                self.flight.launch(async move {
                    if let Err(error) = store.forget(&uid).await {
                        // At the next start it is found, not wanted, and forgotten then.
                        warn!(error = error.line(), "the record of a pod that is gone stays for now");
                    }
                    Landed::Forgotten
                });
            }
        }
    }
}

/// Resolves the files of all volumes and makes the pod's place.
async fn prepare<R: Runtime, S: WorkloadStore>(
    runtime: &R,
    store: &S,
    uid: PodUid,
    spec: Arc<EdgeDeployment>,
    host: &HostFacts,
    own: Option<&[String]>,
) -> Result<PodReady, PlaceProblem> {
    let mut files = BTreeMap::new();
    for volume in &spec.volumes {
        let VolumeSource::Files(source) = &volume.source else { continue };
        let mut resolved = Vec::with_capacity(source.entries.len());
        for file in &source.entries {
            let content = match &file.content {
                Content::Inline(bytes) => bytes.as_slice().into(),
                Content::Device(field) => host.field(field, own).into_bytes().into(),
                Content::Blob(blob) => {
                    store.blob(blob.hash).await.map_err(|error| PlaceProblem::volumes(error.line()))?
                }
            };
            resolved.push(VolumeFile { path: file.path.clone(), mode: file.mode, content, owner: file.owner });
        }
        files.insert(volume.name.clone(), resolved);
    }
    runtime.prepare(PodSetup { uid, spec, files }).await.map_err(|error| match error {
        PrepareError::Volumes(error) => PlaceProblem::volumes(error.line()),
        error @ PrepareError::NoNetwork(_) => PlaceProblem::network(error.to_string()),
        error @ (PrepareError::Sandbox(_) | PrepareError::Impossible(_)) => PlaceProblem::sandbox(error.to_string()),
    })
}

async fn start<R: Runtime>(
    runtime: &R,
    id: ContainerId,
    spec: Arc<EdgeDeployment>,
    host: &HostFacts,
    own: Option<&[String]>,
) -> Result<Started, StartProblem> {
    let Some((container, _)) = spec.all_containers().find(|(container, _)| container.name == id.name) else {
        return Err(StartProblem::NotCreated(format!("the pod has no container {}", id.name)));
    };
    let container = env_file::filled(runtime, &spec, container).await.map_err(StartProblem::Config)?;
    let expanded = expand_container(&container, runtime.environment(&spec, &id), host, own);
    let start = ContainerStart {
        id,
        command: expanded.command,
        env: expanded.env,
        sub_paths: expanded.sub_paths.map_err(StartProblem::Config)?,
        spec: spec.clone(),
    };
    runtime.start(start).await.map_err(|error| match error {
        StartError::NotCreated(error) => StartProblem::NotCreated(error.line()),
        StartError::Config(message) => StartProblem::Config(message),
        StartError::NoPlace(message) => StartProblem::NoPlace(message),
        StartError::NotStarted { code, message } => StartProblem::NotStarted { code, message },
    })
}
