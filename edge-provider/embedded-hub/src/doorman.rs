//! Who is connected, by client id: one task owns the seats, connections hold a [`Doorbell`].
//!
//! A client id has one seat. A second connection with the same id makes the first one leave, waits until it has left
//! (its will is then on its way) and takes the seat. Devices and bridges have their own numbers of seats.

use crate::accounts::Role;
use crate::metrics::Refused;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::collections::HashMap;
use std::future::Future;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Connections that wait to be let in. Full: they wait, within their time to connect.
const KNOCKS: usize = 64;

/// Asks to be let in.
#[derive(Debug, Clone)]
pub(crate) struct Doorbell {
    knocks: mpsc::Sender<Knock>,
}

/// A seat at the hub. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Cancelled when a newer connection wants the seat.
    pub(crate) leave: CancellationToken,
    _given_up_by_drop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Knock {
    client_id: String,
    is_bridge: bool,
    answer: oneshot::Sender<Result<Seat, Refused>>,
}

/// What the task knows of a client id in use.
#[derive(Debug)]
struct Taken {
    is_bridge: bool,
    leave: CancellationToken,
    /// The connection that takes over; a newer one replaces it.
    next: Option<Knock>,
}

impl Doorbell {
    /// Prepares the task and the bell in front of it.
    pub(crate) fn new(devices: usize, bridges: usize) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (knocks, inbox) = mpsc::channel(KNOCKS);
        (Self { knocks }, attend(devices, bridges, inbox))
    }

    /// Waits for a seat.
    pub(crate) async fn ring(&self, client_id: &str, role: &Role) -> Result<Seat, Refused> {
        let (answer, seat) = oneshot::channel();
        let knock = Knock { client_id: client_id.to_owned(), is_bridge: *role == Role::Bridge, answer };
        self.knocks.send(knock).await.map_err(|_| Refused::Unavailable)?;
        seat.await.unwrap_or(Err(Refused::Unavailable))
    }
}

/// Runs until every bell is gone.
async fn attend(devices: usize, bridges: usize, mut inbox: mpsc::Receiver<Knock>) {
    let mut seats: HashMap<String, Taken> = HashMap::new();
    let mut leaving = FuturesUnordered::new();
    loop {
        let knock = tokio::select! {
            // Cancel-safe: `recv` takes a knock only if this arm runs.
            knock = inbox.recv() => match knock {
                Some(knock) => Some(knock),
                None => return,
            },
            // Cancel-safe: `next` yields an id only if this arm runs.
            Some(client_id) = leaving.next() => seats.remove::<String>(&client_id).and_then(|taken| taken.next),
        };
        let Some(knock) = knock else { continue };
        if let Some(taken) = seats.get_mut(&knock.client_id) {
            taken.leave.cancel();
            if let Some(superseded) = taken.next.replace(knock) {
                superseded.answer.send(Err(Refused::Superseded)).ok();
            }
            continue;
        }
        let in_use = seats.values().filter(|taken| taken.is_bridge == knock.is_bridge).count();
        if in_use >= if knock.is_bridge { bridges } else { devices } {
            let full = if knock.is_bridge { Refused::Bridges } else { Refused::Devices };
            knock.answer.send(Err(full)).ok();
            continue;
        }
        let leave = CancellationToken::new();
        let (given_up_by_drop, left) = oneshot::channel::<()>();
        let seat = Seat { leave: leave.clone(), _given_up_by_drop: given_up_by_drop };
        let id = knock.client_id.clone();
        seats.insert(knock.client_id, Taken { is_bridge: knock.is_bridge, leave, next: None });
        leaving.push(async move {
            // Resolves with an error when the seat is dropped, which is the only thing that happens to it.
            left.await.ok();
            id
        });
        // If the connection has gone meanwhile, the seat comes back in the error and is given up at once.
        knock.answer.send(Ok(seat)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn device(name: &str) -> Role {
        Role::Device(name.to_owned())
    }

    #[tokio::test]
    async fn a_newer_connection_waits_until_the_older_has_left() {
        let (bell, task) = Doorbell::new(2, 1);
        let task = tokio::spawn(task);
        let first = bell.ring("agent-a", &device("a")).await.expect("a seat");

        let second_bell = bell.clone();
        let second = tokio::spawn(async move { second_bell.ring("agent-a", &device("a")).await });
        first.leave.cancelled().await;
        assert!(!second.is_finished(), "two connections hold one client id");

        let third_bell = bell.clone();
        let third = tokio::spawn(async move { third_bell.ring("agent-a", &device("a")).await });
        assert_eq!(second.await.expect("no panic").err(), Some(Refused::Superseded));
        drop(first);
        let third = third.await.expect("no panic").expect("the seat");
        assert!(third.leave.cancelled().now_or_never().is_none());
        drop((bell, third));
        task.await.expect("ends with its bells");
    }

    #[tokio::test]
    async fn devices_cannot_take_the_bridges_seats() {
        let (bell, task) = Doorbell::new(2, 1);
        let task = tokio::spawn(task);
        let a = bell.ring("agent-a", &device("a")).await.expect("a seat");
        let _b = bell.ring("agent-b", &device("b")).await.expect("a seat");
        assert_eq!(bell.ring("agent-c", &device("c")).await.err(), Some(Refused::Devices));
        let _bridge = bell.ring("bridge-1", &Role::Bridge).await.expect("a seat");
        assert_eq!(bell.ring("bridge-2", &Role::Bridge).await.err(), Some(Refused::Bridges));
        drop(a);
        // The seat comes back without anybody waiting for it: ask until the task has seen it.
        while bell.ring("agent-c", &device("c")).await.is_err() {
            tokio::task::yield_now().await;
        }
        drop(bell);
        task.await.expect("ends with its bells");
    }
}
