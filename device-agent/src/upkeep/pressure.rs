//! When the device is short of something, a pod goes.
//!
//! One at a time, and the next one only when the last one has ended or has had its time: its share has to come back before
//! anybody can say whether more is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::PodUid;
use hawser_wire::deployment::EdgeDeployment;
use hawser_wire::stream::Stats;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::eviction::{Amounts, Candidate, Consumer, Shortage, choose, is_limited, over_limit};
use crate::desired::{DesiredSet, DesiredWish};
use crate::runtime::{DiskUse, Runtime, Space};
use crate::streams::service::Service;
use crate::workloads::Eviction;

/// How often the limits of pods on the disk are checked.
const CHECK_LIMITS: Duration = Duration::from_secs(30);
/// How long an evicted pod may take until the next one is chosen all the same.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it takes to choose a pod.
pub(crate) struct Pressure<R, S> {
    pub(crate) runtime: Arc<R>,
    pub(crate) service: Arc<S>,
    pub(crate) desired: watch::Receiver<Arc<DesiredSet>>,
    /// What the device is short of; a new value with every measurement.
    pub(crate) shortages: watch::Receiver<Vec<Shortage>>,
    /// Asks for images to go.
    pub(crate) room: Arc<Notify>,
    pub(crate) evictions: watch::Sender<Option<Arc<Eviction>>>,
    /// Who was chosen before: what is left of such a pod still takes its share of the disk, and choosing it again gives nothing
    /// back.
    pub(crate) chosen: BTreeSet<PodUid>,
}

/// Watches until stopped.
pub(crate) async fn relieve<R: Runtime, S: Service>(pressure: Pressure<R, S>, stop: CancellationToken) {
    // What was being chosen is chosen again at the next start.
    let _: Option<()> = stop.run_until_cancelled(pressure.watch()).await;
}

impl<R: Runtime, S: Service> Pressure<R, S> {
    async fn watch(mut self) {
        let mut limits = tokio::time::interval(CHECK_LIMITS);
        limits.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut measured = true;
        let mut asked_for_room = false;
        loop {
            // Both arms are cancel-safe: a watch and an interval have nothing to lose.
            let chosen = tokio::select! {
                changed = self.shortages.changed(), if measured => {
                    measured = changed.is_ok();
                    let shortage = self.shortages.borrow_and_update().first().copied();
                    match shortage {
                        // Images that nothing uses go before any pod does.
                        Some(shortage) if shortage.of.is_disk() && !asked_for_room => {
                            asked_for_room = true;
                            self.room.notify_one();
                            None
                        }
                        Some(shortage) => self.choose(shortage).await,
                        None => {
                            asked_for_room = false;
                            None
                        }
                    }
                }
                _ = limits.tick() => self.over_limit().await,
            };
            if let Some((uid, message)) = chosen {
                self.chosen.insert(uid.clone());
                tracing::warn!(pod = %uid, message, "a pod has to go");
                self.evictions.send_replace(Some(Arc::new(Eviction { uid: uid.clone(), message })));
                self.until_ended(&uid).await;
            }
        }
    }

    async fn choose(&mut self, shortage: Shortage) -> Option<(PodUid, String)> {
        let pods = self.pods();
        let stats = match self.service.stats().await {
            Ok(stats) => stats,
            // Without knowing who takes it, nobody is to blame.
            Err(refusal) => {
                tracing::warn!(
                    ?shortage,
                    why = refusal.message,
                    "the device is short of something, and no pod can be chosen"
                );
                return None;
            }
        };
        let mut candidates = Vec::new();
        for (uid, spec) in pods {
            let disk = shortage.of.is_disk();
            let used = if disk { self.disk_use(&spec).await } else { DiskUse::default() };
            candidates.extend(candidate(uid, &spec, &stats, &used));
        }
        let chosen = choose(shortage, &candidates);
        if chosen.is_none() {
            tracing::warn!(?shortage, "the device is short of something, and there is no pod that may go");
        }
        chosen
    }

    async fn over_limit(&mut self) -> Option<(PodUid, String)> {
        for (uid, spec) in self.pods() {
            if is_limited(&spec)
                && let Some(message) = over_limit(&spec, &self.disk_use(&spec).await)
            {
                return Some((uid, message));
            }
        }
        None
    }

    async fn disk_use(&self, spec: &Arc<EdgeDeployment>) -> DiskUse {
        self.runtime.disk_use(spec.clone()).await.unwrap_or_else(|error| {
            tracing::warn!(error = error.line(), "what a pod takes of the disk is not known");
            DiskUse::default()
        })
    }

    /// The pods that are to run and were not chosen before.
    fn pods(&mut self) -> BTreeMap<PodUid, Arc<EdgeDeployment>> {
        let desired = self.desired.borrow();
        self.chosen.retain(|uid| desired.pods.contains_key(uid));
        let running = desired.pods.iter().filter(|(_, pod)| pod.wish == DesiredWish::Run);
        let running = running.filter(|(uid, _)| !self.chosen.contains(uid));
        running.filter_map(|(uid, pod)| Some((uid.clone(), pod.deployment.as_ref()?.spec.clone()))).collect()
    }

    /// Whether anything of a pod runs.
    async fn runs(&self, uid: &PodUid) -> bool {
        self.service.stats().await.is_ok_and(|stats| stats.pods.iter().any(|pod| pod.pod == *uid))
    }

    async fn until_ended(&self, uid: &PodUid) {
        let ended = async {
            while self.runs(uid).await {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        // Beyond that it is not the one that helps.
        let _ = tokio::time::timeout(PATIENCE, ended).await;
    }
}

/// A pod as a candidate, if anything of it runs: one that takes nothing cannot give anything back.
fn candidate(uid: PodUid, spec: &EdgeDeployment, stats: &Stats, disk: &DiskUse) -> Option<Candidate> {
    let told = stats.pods.iter().find(|pod| pod.pod == uid).map(|pod| &pod.containers);
    if told.is_none() && disk.volumes.is_empty() && disk.containers.is_empty() {
        return None;
    }
    let consumer = |container: &hawser_wire::deployment::Container| {
        let usage = told.into_iter().flatten().find(|told| told.name == container.name).map(|told| told.usage);
        let space = disk.containers.get(&container.name).copied().unwrap_or_default();
        let memory = usage.and_then(|usage| usage.memory_working_set_bytes).unwrap_or(0);
        let processes = usage.and_then(|usage| usage.processes).unwrap_or(0).into();
        let resources = &container.resources;
        Consumer {
            name: container.name.clone(),
            used: Amounts { memory, storage: space.bytes, inodes: space.inodes, processes },
            requested: Amounts {
                memory: resources.memory_request_bytes.unwrap_or(0),
                storage: resources.storage_request_bytes.unwrap_or(0),
                ..Amounts::default()
            },
        }
    };
    let mut volumes = Space::default();
    for space in disk.volumes.values() {
        volumes += *space;
    }
    Some(Candidate {
        uid,
        priority: spec.priority.unwrap_or(0),
        containers: spec.all_containers().map(|(container, _)| consumer(container)).collect(),
        volumes: Amounts { storage: volumes.bytes, inodes: volumes.inodes, ..Amounts::default() },
    })
}

#[cfg(test)]
mod tests;
