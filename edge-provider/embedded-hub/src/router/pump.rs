//! Carries messages from the router to one connection's queue, at the router's pace.
//!
//! The queue is bounded in messages and bytes. A pump never waits for room: the client that leaves it full is too slow
//! and is disconnected, since the alternative is what rumqttd does, to lose messages in silence.

use super::envelope;
use super::keeper::Attachment;
use crate::metrics::Closed;
use crate::session::{Ending, Message};
use rumqttd::Notification;
use std::sync::Arc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What a queued message is charged on top of its topic and payload.
const OVERHEAD: usize = 64;

/// A message in a connection's queue, with the share of the queue's bytes that it holds.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    _bytes: OwnedSemaphorePermit,
}

/// Pumps until the router, the connection or its patience ends; says which.
pub(crate) async fn pump(
    mut attachment: Attachment,
    concerns: impl Fn(&Message) -> bool,
    queue: mpsc::Sender<Delivery>,
    budget: Arc<Semaphore>,
) -> Ending {
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
        if let Err(ending) = enqueue(message, &queue, &budget) {
            return ending;
        }
    }
}

fn enqueue(message: Message, queue: &mpsc::Sender<Delivery>, budget: &Arc<Semaphore>) -> Result<(), Ending> {
    let size = message.topic.len() + message.payload.len() + OVERHEAD;
    let too_slow = |what: &str| Ending::new(Closed::SlowSubscriber, format_args!("{what} in its queue"));
    let charge = u32::try_from(size).ok().and_then(|size| budget.clone().try_acquire_many_owned(size).ok());
    let Some(charge) = charge else { return Err(too_slow("too many bytes")) };
    match queue.try_send(Delivery { message, _bytes: charge }) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(_)) => Err(too_slow("too many messages")),
        Err(TrySendError::Closed(_)) => Err(Ending::new(Closed::Gone, "the connection ended")),
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
        let (queue, mut waiting) = mpsc::channel(2);
        let budget = Arc::new(Semaphore::new(1000));
        assert_eq!(enqueue(message(10), &queue, &budget), Ok(()));
        assert_eq!(enqueue(message(10), &queue, &budget), Ok(()));
        let full = enqueue(message(10), &queue, &budget).expect_err("a third message");
        assert_eq!(full.reason, Closed::SlowSubscriber);

        drop(waiting.try_recv().expect("the first message"));
        assert_eq!(budget.available_permits(), 1000 - (10 + 1 + OVERHEAD), "a delivered message is still charged");
        let big = enqueue(message(990), &queue, &budget).expect_err("more bytes than the queue may hold");
        assert_eq!(big.reason, Closed::SlowSubscriber);
        assert_eq!(enqueue(message(500), &queue, &budget), Ok(()));
    }
}
