//! What keeps the device usable while nobody looks: images go before the disk is full, and pods before the device chokes.
//!
//! [`images`] and [`eviction`] decide and are pure. The task here removes images, that of [`pressure`] chooses pods, which
//! their owners then end.

mod eviction;
mod images;
mod pressure;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hawser_wire::deployment::{Volume, VolumeSource};
use hawser_wire::report::{DeviceEvent, ReportItem};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::images::{ImageKeeper, Plan};
use crate::desired::DesiredSet;
use crate::runtime::{Runtime, RuntimeError};
use crate::workloads::Clock;

pub(crate) use self::eviction::{Short, Shortage};
pub use self::images::ImageLimits;
pub(crate) use self::pressure::{Pressure, relieve};

/// How often the images are looked at.
const EVERY: Duration = Duration::from_secs(60);

/// What the upkeep needs.
pub(crate) struct Upkeep<R> {
    pub(crate) runtime: Arc<R>,
    pub(crate) desired: watch::Receiver<Arc<DesiredSet>>,
    pub(crate) reports: mpsc::Sender<ReportItem>,
    pub(crate) clock: Clock,
    pub(crate) limits: ImageLimits,
    /// Room is needed now.
    pub(crate) room: Arc<Notify>,
}

/// Keeps the device usable until stopped.
pub(crate) async fn run<R: Runtime>(upkeep: Upkeep<R>, stop: CancellationToken) {
    // A removal that is cut off is made again at the next start.
    let _: Option<()> = stop.run_until_cancelled(upkeep.keep()).await;
}

impl<R: Runtime> Upkeep<R> {
    async fn keep(self) {
        let mut keeper = ImageKeeper::new(self.limits);
        let mut short = false;
        loop {
            match self.round(&mut keeper).await {
                Ok(Some(message)) => {
                    // Said once, not every minute.
                    if !std::mem::replace(&mut short, true) {
                        self.say("FreeDiskSpaceFailed", message).await;
                    }
                }
                Ok(None) => short = false,
                Err(error) => tracing::warn!(error = error.line(), "images are not looked after for now"),
            }
            // Both arms are cancel-safe: a call for room that came during a round is kept.
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.room.notified() => {}
            }
        }
    }

    /// One look at the images; what to say if not enough could be freed.
    async fn round(&self, keeper: &mut ImageKeeper) -> Result<Option<String>, RuntimeError> {
        let wanted = wanted(&self.desired.borrow());
        let Some(store) = self.runtime.image_store(&wanted).await? else { return Ok(None) };
        let plan = keeper.plan((self.clock)().0, &store);
        let freed = self.remove(&plan).await;
        Ok((freed < plan.wanted).then(|| {
            format!(
                "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {freed} \
                 bytes eligible to free.",
                plan.wanted
            )
        }))
    }

    /// Removes images until enough is free; how much that was.
    async fn remove(&self, plan: &Plan) -> u64 {
        let mut freed = 0;
        for image in &plan.may_go {
            if freed >= plan.wanted {
                break;
            }
            // A pod may have come meanwhile, and fetching its image again may not be possible.
            let wanted = wanted(&self.desired.borrow());
            if wanted.contains(&image.name) {
                continue;
            }
            match self.runtime.remove_image(image.id.clone()).await {
                Ok(()) => {
                    tracing::info!(image = image.name, bytes = image.bytes, "an unused image was removed for room");
                    freed = freed.saturating_add(image.bytes);
                }
                Err(error) => tracing::warn!(error = error.line(), "an unused image stays"),
            }
        }
        freed
    }

    async fn say(&self, reason: &str, message: String) {
        tracing::warn!(message, reason);
        let event = DeviceEvent {
            pod: None,
            container: None,
            at: (self.clock)(),
            warning: true,
            reason: reason.to_owned(),
            message,
            count: 1,
        };
        // A closed queue means that the link is gone, and with it whoever would read this.
        let _ = self.reports.send(ReportItem::Event(event)).await;
    }
}

/// The images that pods of this device name.
fn wanted(desired: &DesiredSet) -> BTreeSet<String> {
    let pods = desired.pods.values().filter_map(|pod| pod.deployment.as_ref());
    let of_volume = |volume: &Volume| match &volume.source {
        VolumeSource::Image(image) => Some(image.reference.clone()),
        VolumeSource::EmptyDir(_) | VolumeSource::Files(_) | VolumeSource::HostPath(_) | VolumeSource::HugePages(_) => {
            None
        }
    };
    pods.flat_map(|pod| {
        let own = pod.spec.all_containers().map(|(container, _)| container.image.clone());
        own.chain(pod.spec.volumes.iter().filter_map(of_volume))
    })
    .collect()
}
