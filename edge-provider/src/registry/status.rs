//! Writes what is known about devices into their status: when it changes, and every few minutes while they are heard.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hawser_wire::DeviceId;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::device::Device;

/// `lastSeen` alone is written at most this often.
pub const LAST_SEEN_EVERY: Duration = Duration::from_secs(300);
/// How many writes are under way at once.
const AT_ONCE: usize = 8;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// What is known about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNews {
    /// Which device.
    pub device: DeviceId,
    /// Its UID.
    pub uid: String,
    /// `True` (heard) or `Unknown` (not heard).
    pub ready: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// The agent's version.
    pub agent_version: Option<String>,
    /// The architecture, in Go's spelling.
    pub architecture: Option<String>,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
}

/// As much of what was written about a device as tells whether the next is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// A hash of everything but the next. It never leaves this process.
    rest: u64,
    last_seen: Option<Timestamp>,
}

impl Written {
    /// `rest` is everything that is written but `last_seen`.
    pub fn new(rest: impl Hash, last_seen: Option<Timestamp>) -> Self {
        let mut hasher = DefaultHasher::new();
        rest.hash(&mut hasher);
        Self { rest: hasher.finish(), last_seen }
    }

    /// Whether it has to be written, given what was written last.
    pub fn is_news_after(self, before: Option<Self>) -> bool {
        let Some(before) = before else { return true };
        if self.rest != before.rest {
            return true;
        }
        match (self.last_seen, before.last_seen) {
            (Some(now), Some(before)) => now.duration_since(before).unsigned_abs() >= LAST_SEEN_EVERY,
            (now, before) => now != before,
        }
    }
}

impl DeviceNews {
    /// A merge patch that touches only what is ours: the key in the status has another writer.
    fn patch(&self) -> serde_json::Value {
        let whole = |time: Timestamp| time.round(jiff::Unit::Second).unwrap_or(time).to_string();
        let (reason, message) = match self.ready {
            "True" => ("DeviceOnline", "the device is connected"),
            _ => ("DeviceOffline", "the device is not heard"),
        };
        let mut status = json!({
            "conditions": [{
                "type": "Ready", "status": self.ready, "reason": reason, "message": message,
                "lastTransitionTime": whole(self.since),
            }],
        });
        let known = [
            ("agentVersion", self.agent_version.clone()),
            ("architecture", self.architecture.clone()),
            ("lastSeen", self.last_seen.map(whole)),
        ];
        for (field, value) in known {
            if let Some(value) = value {
                status[field] = value.into();
            }
        }
        json!({ "metadata": { "uid": self.uid }, "status": status })
    }
}

/// Writes until told to stop. `news` holds one: the fleet keeps the latest of each device itself while this is busy.
pub async fn run(client: kube::Client, mut news: mpsc::Receiver<DeviceNews>, stop: CancellationToken) {
    let devices: Api<Device> = Api::all(client);
    let mut waiting: BTreeMap<DeviceId, DeviceNews> = BTreeMap::new();
    let mut busy: BTreeSet<DeviceId> = BTreeSet::new();
    let mut writes = FuturesUnordered::new();
    loop {
        while writes.len() < AT_ONCE {
            // One write per device at a time: an older one must not come in last.
            let Some(id) = waiting.keys().find(|id| !busy.contains(*id)).cloned() else { break };
            let Some(item) = waiting.remove(&id) else { break };
            busy.insert(id);
            writes.push(write(&devices, item));
        }
        tokio::select! {
            // Cancel-safe: a token only ever goes one way.
            () = stop.cancelled() => return,
            // Cancel-safe: yields a finished write only if this arm runs.
            Some((device, failed)) = writes.next() => {
                busy.remove(&device);
                if let Some(item) = failed {
                    waiting.entry(device).or_insert(item);
                }
            }
            // Cancel-safe: `recv` takes nothing unless it returns.
            item = news.recv(), if waiting.len() < AT_ONCE => match item {
                Some(item) => drop(waiting.insert(item.device.clone(), item)),
                None => return,
            },
        }
    }
}

/// Gives the news back if they have to be written again.
async fn write(devices: &Api<Device>, news: DeviceNews) -> (DeviceId, Option<DeviceNews>) {
    let written =
        devices.patch_status(news.device.as_str(), &PatchParams::default(), &Patch::Merge(news.patch())).await;
    let device = news.device.clone();
    match written {
        Ok(_) => (device, None),
        // Gone, or another Device of the same name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => (device, None),
        Err(error) => {
            tracing::warn!(%device, %error, "cannot write the device's status; trying again");
            tokio::time::sleep(PAUSE).await;
            (device, Some(news))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(ready: &'static str, last_seen: i64) -> DeviceNews {
        DeviceNews {
            device: DeviceId::new("pi").unwrap(),
            uid: "u".to_owned(),
            ready,
            since: Timestamp::from_second(1_790_000_000).unwrap(),
            agent_version: None,
            architecture: Some("arm64".to_owned()),
            last_seen: Timestamp::from_second(last_seen).ok(),
        }
    }

    #[test]
    fn a_device_that_is_merely_alive_is_written_every_five_minutes() {
        let at = |ready: &str, second| Written::new(ready, Timestamp::from_second(second).ok());
        let written = at("True", 1_790_000_000);
        assert!(written.is_news_after(None));
        assert!(!written.is_news_after(Some(written)));
        assert!(!at("True", 1_790_000_299).is_news_after(Some(written)));
        assert!(at("True", 1_790_000_300).is_news_after(Some(written)));
        assert!(at("Unknown", 1_790_000_010).is_news_after(Some(written)));
    }

    #[test]
    fn the_key_is_never_part_of_a_patch() {
        let patch = news("True", 1_790_000_000).patch();
        assert_eq!(patch["status"]["lastSeen"], "2026-09-21T14:13:20Z");
        assert_eq!(patch["status"]["conditions"][0]["type"], "Ready");
        assert!(patch["status"].get("publicKey").is_none());
        assert!(patch["status"].get("agentVersion").is_none(), "unknown is not written");
    }
}
