//! Knows which containers there are, and has a follower for each of them.

use std::collections::BTreeMap;

use hawser_wire::{DeviceId, PodUid};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::bell::{Bell, News, Turn};
use super::follow::{Follower, Seen};
use super::{KeepLogs, Kept, Key};
use crate::fleet::streams::Stock;
use crate::fleet::task::FleetHandle;

/// The owner of all followers.
pub(crate) struct Keeper {
    fleet: FleetHandle,
    kept: Kept,
    bytes: u64,
    followed: BTreeMap<Key, Followed>,
    /// As many tasks as there are containers in `followed`. Dropped with this.
    tasks: JoinSet<()>,
}

/// A container whose log is read.
struct Followed {
    seen: watch::Sender<Seen>,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    pub(crate) fn new(fleet: FleetHandle, kept: Kept, keep: KeepLogs) -> Self {
        let bytes = keep.per_container as u64;
        Self { fleet, kept, bytes, followed: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Keeps logs until told to stop.
    pub(crate) async fn run(mut self, bell: Bell, stop: CancellationToken) {
        loop {
            // All arms are cancel-safe: a token, a bell from which nothing is taken, ended tasks.
            tokio::select! {
                () = stop.cancelled() => return,
                () = bell.ring() => {}
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && !error.is_cancelled() {
                        tracing::error!(%error, "a log is no longer kept; the others are");
                    }
                    continue;
                }
            }
            for (device, news) in bell.take() {
                // The fleet has stopped: so will this.
                let Ok(stock) = self.fleet.stock(&device).await else { return };
                self.look_at(&device, stock, &news);
            }
        }
    }

    fn look_at(&mut self, device: &DeviceId, stock: Option<Stock>, news: &News) {
        let pods = stock.as_ref().map(|stock| &stock.pods);
        let is_there = |key: &Key| {
            let Some(names) = pods.and_then(|pods| pods.get(&key.pod)) else { return false };
            // What a pod has, is not always known.
            names.as_ref().is_none_or(|names| names.contains(&key.container))
        };
        let gone: Vec<Key> = self.of_device(device).map(|(key, _)| key).filter(|key| !is_there(key)).cloned().collect();
        for key in gone {
            self.followed.remove(&key);
            self.kept.with(|shelf| shelf.remove(&key));
        }
        for (key, followed) in self.of_device(device) {
            let turn = turn_of(news, key);
            followed.seen.send_modify(|seen| *seen = Seen { turn: turn.or(seen.turn), news: seen.news + 1 });
            if let Some(turn) = turn {
                self.kept.with(|shelf| shelf.waits(key, turn.waits));
            }
        }
        let Some(Stock { node, pods }) = stock else { return };
        let room = KeepLogs::CONTAINERS.saturating_sub(self.of_device(device).count());
        let keys = pods.into_iter().flat_map(|(pod, names)| {
            let key = move |container| Key { device: device.clone(), pod: pod.clone(), container };
            names.unwrap_or_default().into_iter().map(key)
        });
        let new: Vec<Key> = keys.filter(|key| !self.followed.contains_key(key)).take(room).collect();
        for key in new {
            if !self.kept.with(|shelf| shelf.add(&key)) {
                continue;
            }
            let (seen, sight) = watch::channel(Seen { turn: turn_of(news, &key), news: 0 });
            let follower = Follower {
                fleet: self.fleet.clone(),
                kept: self.kept.clone(),
                node: node.clone(),
                key: key.clone(),
                bytes: self.bytes,
                seen: sight,
            };
            let task = self.tasks.spawn(follower.run());
            self.followed.insert(key, Followed { seen, task });
        }
    }

    fn of_device<'a>(&'a self, device: &'a DeviceId) -> impl Iterator<Item = (&'a Key, &'a Followed)> {
        // The first key there can be of this device.
        self.followed
            .iter()
            .skip_while(move |(key, _)| key.device < *device)
            .take_while(move |(key, _)| key.device == *device)
    }
}

fn turn_of(news: &News, key: &Key) -> Option<Turn> {
    let turns: &[(String, Turn)] = news.get::<PodUid>(&key.pod)?;
    turns.iter().find(|(name, _)| *name == key.container).map(|(_, turn)| *turn)
}
