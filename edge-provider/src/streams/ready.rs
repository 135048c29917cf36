//! Whose streams have something to say. Bounded by the number of devices.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use hawser_wire::DeviceId;
use tokio::sync::Notify;

/// A set of devices, and a bell. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ready(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    devices: Mutex<BTreeSet<DeviceId>>,
    bell: Notify,
}

impl Ready {
    /// The streams of this device may have something to say.
    pub(crate) fn tell(&self, device: &DeviceId) {
        let mut devices = self.0.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if !devices.contains(device) {
            devices.insert(device.clone());
            drop(devices);
            self.0.bell.notify_one();
        }
    }

    /// Waits until there are some. Cancel-safe: nothing is taken.
    pub(crate) async fn ring(&self) {
        self.0.bell.notified().await;
    }

    /// Takes them.
    pub(crate) fn take(&self) -> BTreeSet<DeviceId> {
        std::mem::take(&mut self.0.devices.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
