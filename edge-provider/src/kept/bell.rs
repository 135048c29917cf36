//! What the fleet has to say to those who keep logs. It never waits: what was not taken is kept here, the latest of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hawser_wire::{DeviceId, PodUid};
use k8s_openapi::api::core::v1::ContainerStatus;
use tokio::sync::Notify;
use virtual_node::PodRef;
use virtual_node::provider::PodReport;

/// A bell, and what is new. Clones are the same. Bounded by the pods of all devices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    news: Mutex<BTreeMap<DeviceId, News>>,
    bell: Notify,
}

/// What is new of a device: that it has spoken in a new session, has other pods or is gone; and how its pods are.
pub(crate) type News = BTreeMap<PodUid, Vec<(String, Turn)>>;

/// Which run of a container it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// How often it was started again.
    pub(crate) restarts: i32,
    /// It is not running, and will be started again.
    pub(crate) waits: bool,
}

impl Turn {
    fn of(status: &ContainerStatus) -> Self {
        let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
        Self { restarts: status.restart_count, waits }
    }
}

impl Bell {
    /// There is something new about this device.
    pub(crate) fn device(&self, device: &DeviceId) {
        self.tell(device, |_| {});
    }

    /// This is how a pod is.
    pub(crate) fn pod(&self, device: &DeviceId, pod: &PodRef, report: &PodReport) {
        // One that cannot travel runs nowhere.
        let Ok(pod) = PodUid::new(pod.uid.as_str()) else { return };
        let statuses = report.init_containers.iter().chain(&report.containers).chain(&report.ephemeral_containers);
        let turns = statuses.map(|status| (status.name.clone(), Turn::of(status))).collect();
        self.tell(device, |news| drop(news.insert(pod, turns)));
    }

    /// Waits until there is something. Cancel-safe: nothing is taken.
    pub(crate) async fn ring(&self) {
        self.0.bell.notified().await;
    }

    /// Takes it.
    pub(crate) fn take(&self) -> BTreeMap<DeviceId, News> {
        std::mem::take(&mut self.0.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, device: &DeviceId, what: impl FnOnce(&mut News)) {
        let mut all = self.0.news.lock().unwrap_or_else(PoisonError::into_inner);
        what(all.entry(device.clone()).or_default());
        drop(all);
        self.0.bell.notify_one();
    }
}
