//! Carries messages from the router to one connection's queue, at the router's pace.
//!
//! The queue is bounded in bytes. A pump never waits for room: the client that leaves it full is too slow
//! and is disconnected, since the alternative is what rumqttd does, to lose messages in silence.

use super::envelope;
use super::keeper::Attachment;
use crate::config::MESSAGE_OVERHEAD;
use crate::metrics::Closed;
use crate::session::{Ending, Message};
use rumqttd::Notification;
use std::sync::Arc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The sending half of a connection's queue.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Delivery>,
    budget: Arc<Semaphore>,
}

/// A message in a connection's queue, with the share of the queue's bytes that it holds.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    _bytes: OwnedSemaphorePermit,
}

impl Queue {
    /// A queue for this many bytes. Each message is charged [`MESSAGE_OVERHEAD`] at least, so the channel's bound, which
    /// costs nothing while it is empty, is never what a message fails at.
    pub(crate) fn new(bytes: usize) -> (Self, mpsc::Receiver<Delivery>) {
        let (sender, receiver) = mpsc::channel(bytes / MESSAGE_OVERHEAD + 1);
        (Self { sender, budget: Arc::new(Semaphore::new(bytes)) }, receiver)
    }

    /// The bytes that are free in it.
    pub(crate) fn free(&self) -> Arc<Semaphore> {
        self.budget.clone()
    }

    fn push(&self, message: Message) -> Result<(), Ending> {
        let size = message.topic.len() + message.payload.len() + MESSAGE_OVERHEAD;
        let charge = u32::try_from(size).ok().and_then(|size| self.budget.clone().try_acquire_many_owned(size).ok());
        let full = || Ending::new(Closed::SlowSubscriber, "its queue is full");
        let delivery = Delivery { message, _bytes: charge.ok_or_else(full)? };
        self.sender.try_send(delivery).map_err(|error| match error {
            TrySendError::Full(_) => full(),
            TrySendError::Closed(_) => Ending::new(Closed::Gone, "the connection ended"),
        })
    }
}

/// Pumps until the router, the connection or its patience ends; says which.
pub(crate) async fn pump(mut attachment: Attachment, concerns: impl Fn(&Message) -> bool, queue: Queue) -> Ending {
    let mut expected = None;
    loop {
        let notification = match attachment.link.next().await {
            Ok(Some(notification)) => notification,
            // A wake-up whose messages were read with an earlier one.
            Ok(None) => continue,
            Err(error) => return Ending::new(Closed::RouterGone, error),
        };
        let forward = match notification {
            Notification::Forward(forward) => forward,
            // The router has given us as much as it will before it hears that we have read it.
            Notification::Unschedule => match attachment.link.wake().await {
                Ok(()) => continue,
                Err(error) => return Ending::new(Closed::RouterGone, error),
            },
            _ => continue,
        };
        if let Some((_, offset)) = forward.cursor {
            if expected.is_some_and(|expected| expected != offset) {
                return Ending::new(Closed::Overrun, "the router overtook the connection");
            }
            expected = Some(offset + 1);
        }
        let Some(message) = envelope::unwrap(&forward.publish.payload) else { continue };
        if !concerns(&message) {
            continue;
        }
        if let Err(ending) = queue.push(message) {
            return ending;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::mqttbytes::QoS;

    fn message(bytes: usize) -> Message {
        Message { topic: "t".into(), qos: QoS::AtMostOnce, payload: vec![0; bytes].into() }
    }

    #[test]
    fn a_full_queue_ends_the_connection_by_count_and_by_bytes() {
        let (queue, mut waiting) = Queue::new(1000);
        for _ in 0..3 {
            assert_eq!(queue.push(message(10)), Ok(()));
        }
        assert_eq!(queue.push(message(10)).map_err(|ending| ending.reason), Err(Closed::SlowSubscriber));

        drop(waiting.try_recv().expect("the first message"));
        assert_eq!(queue.push(message(800)).map_err(|ending| ending.reason), Err(Closed::SlowSubscriber));
        assert_eq!(queue.push(message(10)), Ok(()), "a delivered message is still charged");
        while waiting.try_recv().is_ok() {}
        assert_eq!(queue.push(message(1000 - MESSAGE_OVERHEAD - 1)), Ok(()), "an empty queue refused what it is for");
    }
}
