//! What an owner has asked of the world.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::super::lifecycle::Event;
use super::super::pull::{Had, Pull};
use crate::runtime::{ImageWanted, PodReady};

/// What came back from the world.
pub(super) enum Landed {
    Happened(Event),
    Ready(PodReady),
    /// An image has to be fetched before its container can be started.
    Pull(ImageWanted),
    /// It is being fetched, and that takes long.
    Pulling(Pull),
    /// An image that a container needs is there.
    Image(ImageWanted, Had),
    Forgotten,
    Nothing,
}

/// What was asked of the world and has not come back. A pod has a handful of containers, so all are polled each time.
#[derive(Default)]
pub(super) struct Flight(Vec<Pin<Box<dyn Future<Output = Landed> + Send>>>);

impl Flight {
    pub(super) fn launch(&mut self, future: impl Future<Output = Landed> + Send + 'static) {
        self.0.push(Box::pin(future));
    }

    /// The next that lands. Cancel-safe: what has not landed stays in flight. Pending for ever while nothing is.
    pub(super) async fn next(&mut self) -> Landed {
        poll_fn(|context| {
            for at in 0..self.0.len() {
                if let Poll::Ready(landed) = self.0[at].as_mut().poll(context) {
                    drop(self.0.swap_remove(at));
                    return Poll::Ready(landed);
                }
            }
            Poll::Pending
        })
        .await
    }
}
