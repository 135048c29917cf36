//! Watches the Devices and tells the fleet which there are.

use std::collections::BTreeMap;

use futures::StreamExt;
use hawser_wire::DeviceId;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::CancellationToken;

use super::record::DeviceRecord;
use crate::device::Device;
use crate::fleet::task::{FleetHandle, FleetStopped};

/// Watches until told to stop. An error of the API is waited out.
pub async fn run(client: kube::Client, fleet: FleetHandle, stop: CancellationToken) -> Result<(), FleetStopped> {
    let events = watcher(Api::<Device>::all(client), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut known = Known::default();
    let mut reported = false;
    loop {
        let event = tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = stop.cancelled() => return Ok(()),
            // Cancel-safe: an event not taken stays in the stream.
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => {
                reported = false;
                for change in known.take(event) {
                    match change {
                        Change::Present(record) => fleet.device(*record).await?,
                        Change::Gone(device) => fleet.no_device(device).await?,
                        Change::Listed => fleet.devices_listed().await?,
                    }
                }
            }
            Some(Err(error)) => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::error!(%error, "cannot watch Devices; trying again (is the CRD installed, `hawser manifests crd`, and may the bridge list devices.hawser.dev?)");
                }
            }
            // The watcher's stream never ends.
            None => return Ok(()),
        }
    }
}

/// The UIDs of the Devices told so far, to find out who is missing from a new list.
#[derive(Default)]
struct Known {
    told: BTreeMap<DeviceId, String>,
    listing: Option<BTreeMap<DeviceId, String>>,
}

enum Change {
    Present(Box<DeviceRecord>),
    Gone(DeviceId),
    Listed,
}

impl Known {
    fn take(&mut self, event: watcher::Event<Device>) -> Vec<Change> {
        match event {
            watcher::Event::Init => {
                self.listing = Some(BTreeMap::new());
                Vec::new()
            }
            watcher::Event::InitApply(device) | watcher::Event::Apply(device) => self.present(&device),
            watcher::Event::Delete(device) => self.gone(&device),
            watcher::Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let missing: Vec<_> = self.told.keys().filter(|id| !listed.contains_key(id)).cloned().collect();
                self.told = listed;
                missing.into_iter().map(Change::Gone).chain([Change::Listed]).collect()
            }
        }
    }

    fn present(&mut self, device: &Device) -> Vec<Change> {
        let Some(record) = DeviceRecord::of(device) else { return self.gone(device) };
        let before = self.told.insert(record.id.clone(), record.uid.clone());
        if let Some(listing) = &mut self.listing {
            listing.insert(record.id.clone(), record.uid.clone());
        }
        let replaced = before.filter(|uid| *uid != record.uid).map(|_| Change::Gone(record.id.clone()));
        replaced.into_iter().chain([Change::Present(Box::new(record))]).collect()
    }

    fn gone(&mut self, device: &Device) -> Vec<Change> {
        let id = device.metadata.name.as_deref().and_then(|name| DeviceId::new(name).ok());
        id.filter(|id| self.told.remove(id).is_some()).map(Change::Gone).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;

    fn device(name: &str, uid: &str) -> Device {
        let mut device = Device::new(name, DeviceSpec::default());
        device.metadata.uid = Some(uid.to_owned());
        device
    }

    fn told(known: &mut Known, event: watcher::Event<Device>) -> Vec<String> {
        let told = |change: &Change| match change {
            Change::Present(record) => format!("+{}:{}", record.id, record.uid),
            Change::Gone(id) => format!("-{id}"),
            Change::Listed => "listed".to_owned(),
        };
        known.take(event).iter().map(told).collect()
    }

    #[test]
    fn who_is_missing_from_a_new_list_is_gone_and_a_namesake_is_another() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut known = Known::default();
        assert!(told(&mut known, Init).is_empty());
        assert_eq!(told(&mut known, InitApply(device("a", "1"))), ["+a:1"]);
        assert_eq!(told(&mut known, InitDone), ["listed"]);
        assert_eq!(told(&mut known, Apply(device("b", "1"))), ["+b:1"]);
        // The watch broke, and meanwhile `a` went and `b` was made anew.
        assert!(told(&mut known, Init).is_empty());
        assert_eq!(told(&mut known, InitApply(device("b", "2"))), ["-b", "+b:2"]);
        assert_eq!(told(&mut known, InitDone), ["-a", "listed"]);
        let mut leaving = device("b", "2");
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-11-21T12:00:00Z".parse().unwrap()));
        assert_eq!(told(&mut known, Apply(leaving)), ["-b"]);
        assert!(told(&mut known, Delete(device("b", "2"))).is_empty());
    }
}
