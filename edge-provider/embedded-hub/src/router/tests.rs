//! The box around rumqttd, with the real rumqttd in it.

use super::keeper::Attachment;
use super::*;
use crate::acl::Direction;
use crate::config::Limits;
use crate::metrics::{Closed, HubMetrics};
use crate::session::{Ending, Message};
use rumqttc::mqttbytes::QoS;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct Routers {
    supervisor: Supervisor,
    metrics: HubMetrics,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Routers {
    async fn start(limits: &Limits) -> Self {
        let (metrics, stop) = (HubMetrics::default(), CancellationToken::new());
        let (mut supervisor, supervising) = Supervisor::new(limits, metrics.clone(), stop.clone());
        let task = tokio::spawn(supervising);
        supervisor.started().await;
        Self { supervisor, metrics, stop, task }
    }

    fn generation(&self) -> Generation {
        self.supervisor.current.borrow().clone().expect("a router runs")
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the supervisor does not panic");
        assert!(self.supervisor.current.borrow().is_none());
    }
}

fn message(n: usize, bytes: usize) -> Message {
    let mut payload = n.to_be_bytes().to_vec();
    payload.resize(bytes.max(8), 0);
    Message { topic: "hawser/pi/up".into(), qos: QoS::AtMostOnce, payload: payload.into() }
}

async fn publish(generation: &Generation, message: Message) {
    let lane = Lane::of(Direction::Up, "pi");
    generation.commands.send(Command::Publish(lane, message)).await.expect("a keeper");
}

async fn probe(generation: &Generation) {
    let (reply, answer) = oneshot::channel();
    generation.commands.send(Command::Probe(reply)).await.expect("a keeper");
    tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
}

type Pumped = (mpsc::Receiver<Delivery>, tokio::task::JoinHandle<Ending>);

fn pumped(attachment: Attachment) -> Pumped {
    let (sender, queue) = Queue::new(100_000_000);
    (queue, tokio::spawn(pump(attachment, |_: &Message| true, sender)))
}

#[tokio::test]
async fn a_router_that_panics_is_replaced() {
    let routers = Routers::start(&Limits::default()).await;
    for round in 1..=2 {
        let first = routers.generation();
        let (_queue, pumping) = pumped(first.attach(Lane::Up).await.expect("a place"));
        // rumqttd panics when a connection that it has let go says that it is ready.
        let Attachment { link, .. } = first.attach(Lane::Up).await.expect("a place");
        probe(&first).await;
        link.ready().expect("the router still runs");

        let ending = tokio::time::timeout(PATIENCE, pumping).await.expect("in time").expect("no panic");
        assert_eq!(ending.reason, Closed::RouterGone);
        tokio::time::timeout(PATIENCE, first.gone.cancelled()).await.expect("the generation is abandoned");
        assert!(first.attach(Lane::Up).await.is_none(), "a dead router gave a place");

        let mut current = routers.supervisor.current.clone();
        let next = tokio::time::timeout(PATIENCE, current.wait_for(Option::is_some)).await.expect("in time");
        let next = next.expect("the supervisor runs").clone().expect("a router");
        let (mut queue, _pumping) = pumped(next.attach(Lane::Up).await.expect("a place"));
        publish(&next, message(round, 8)).await;
        let delivery = tokio::time::timeout(PATIENCE, queue.recv()).await.expect("in time").expect("a message");
        assert_eq!(delivery.message, message(round, 8));
        assert_eq!(routers.metrics.router_restarts(), round as u64);
    }
    routers.stop().await;
}

#[tokio::test]
async fn places_are_given_up_and_used_again() {
    // The router has room for 2 × (1 + 1) + 16 connections: far fewer than come and go here.
    let routers = Routers::start(&Limits { devices: 1, bridges: 1, ..Limits::default() }).await;
    let generation = routers.generation();
    for n in 0..200 {
        let (mut queue, pumping) = pumped(generation.attach(Lane::Up).await.expect("a place"));
        publish(&generation, message(n, 8)).await;
        let delivery = tokio::time::timeout(PATIENCE, queue.recv()).await.expect("in time").expect("a message");
        assert_eq!(delivery.message, message(n, 8), "a place heard what was meant for the one before it");
        pumping.abort();
        pumping.await.ok();
    }
    assert_eq!(routers.metrics.router_restarts(), 0);
    routers.stop().await;
}

#[tokio::test]
async fn being_overtaken_by_the_ring_is_noticed() {
    let routers = Routers::start(&Limits::default()).await;
    let generation = routers.generation();
    let attachment = generation.attach(Lane::Up).await.expect("a place");
    // Six times what the ring holds, while nobody pumps.
    for n in 0..800 {
        publish(&generation, message(n, 8 * 1024)).await;
    }
    probe(&generation).await;
    let (mut queue, pumping) = pumped(attachment);
    let ending = tokio::time::timeout(PATIENCE, pumping).await.expect("in time").expect("no panic");
    assert_eq!(ending.reason, Closed::Overrun);
    // What came before the gap came whole.
    let mut expected = 0;
    while let Some(delivery) = queue.recv().await {
        assert_eq!(delivery.message, message(expected, 8 * 1024));
        expected += 1;
    }
    assert!(expected >= 100, "only {expected} messages before the gap");
    routers.stop().await;
}

#[tokio::test]
async fn everything_published_is_pumped_in_order() {
    let routers = Routers::start(&Limits::default()).await;
    let generation = routers.generation();
    let (mut queue, _pumping) = pumped(generation.attach(Lane::Up).await.expect("a place"));
    let publisher = tokio::spawn(async move {
        for n in 0..5000 {
            publish(&generation, message(n, 100)).await;
        }
    });
    for n in 0..5000 {
        let delivery = tokio::time::timeout(PATIENCE, queue.recv()).await.expect("in time").expect("a message");
        assert_eq!(delivery.message, message(n, 100));
    }
    publisher.await.expect("no panic");
    routers.stop().await;
}
