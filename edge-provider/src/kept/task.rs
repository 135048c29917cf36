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
    /// By device, since news are of one device; none of them is empty.
    followed: BTreeMap<DeviceId, BTreeMap<Key, Followed>>,
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
        let mut followed = self.followed.remove(device).unwrap_or_default();
        followed.retain(|key, _| {
            let stays = is_there(key);
            if !stays {
                self.kept.with(|shelf| shelf.remove(key));
            }
            stays
        });
        for (key, followed) in &followed {
            let turn = turn_of(news, key);
            followed.seen.send_modify(|seen| *seen = Seen { turn: turn.or(seen.turn), news: seen.news + 1 });
            if let Some(turn) = turn {
                self.kept.with(|shelf| shelf.waits(key, turn.waits));
            }
        }
        if let Some(stock) = stock {
            self.follow_new(device, stock, news, &mut followed);
        }
        if !followed.is_empty() {
            self.followed.insert(device.clone(), followed);
        }
    }

    /// Begins to follow what is not followed yet, as far as there is room.
    fn follow_new(&mut self, device: &DeviceId, stock: Stock, news: &News, followed: &mut BTreeMap<Key, Followed>) {
        let Stock { node, pods } = stock;
        let room = KeepLogs::CONTAINERS.saturating_sub(followed.len());
        let keys = pods.into_iter().flat_map(|(pod, names)| {
            let key = move |container| Key { device: device.clone(), pod: pod.clone(), container };
            names.unwrap_or_default().into_iter().map(key)
        });
        let new: Vec<Key> = keys.filter(|key| !followed.contains_key(key)).take(room).collect();
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
            followed.insert(key, Followed { seen, task });
        }
    }
}

fn turn_of(news: &News, key: &Key) -> Option<Turn> {
    let turns: &[(String, Turn)] = news.get::<PodUid>(&key.pod)?;
    turns.iter().find(|(name, _)| *name == key.container).map(|(_, turn)| *turn)
}
