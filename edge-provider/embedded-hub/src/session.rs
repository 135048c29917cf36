//! One client's MQTT session: packets in, effects out. Pure: no socket, no clock, no router.
//!
//! It lives as long as the connection and is owned by the connection's task. Everything that MQTT promises to a client
//! is decided here and not in the router: acknowledgements, packet ids, subscriptions, the will.

use crate::accounts::{Denied, Grant, Role};
use crate::acl::{self, Acl};
use crate::codec::Malformed;
use crate::config::Limits;
use crate::metrics::{Closed, Refused};
use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, Packet, PubAck, PubComp, PubRec, PubRel, Publish, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Largest number of QoS 2 publishes of one client that wait for their PUBREL.
const UNRELEASED: usize = 64;

/// A message on its way through the hub. Its QoS is 0 or 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    pub(crate) payload: Bytes,
}

/// What to do after a packet. The publish comes first: the reply acknowledges it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) publish: Option<Message>,
    pub(crate) reply: Option<Packet>,
    /// The message asked to be retained, which nothing is.
    pub(crate) retain_ignored: bool,
    /// Filters that were refused.
    pub(crate) refused_filters: Vec<String>,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) reason: Closed,
    pub(crate) detail: String,
}

impl Ending {
    pub(crate) fn new(reason: Closed, detail: impl fmt::Display) -> Self {
        Self { reason, detail: detail.to_string() }
    }
}

impl From<Malformed> for Ending {
    fn from(malformed: Malformed) -> Self {
        Self::new(Closed::Protocol, malformed)
    }
}

/// The session of one connected client.
#[derive(Debug)]
pub(crate) struct Session {
    role: Role,
    acl: Arc<Acl>,
    topic_bytes: usize,
    max_subscriptions: usize,
    window: usize,
    subscriptions: Vec<(String, QoS)>,
    /// QoS 1 deliveries that the client has not acknowledged.
    inflight: HashSet<u16>,
    last_id: u16,
    /// QoS 2 publishes that were passed on and wait for PUBREL.
    unreleased: HashSet<u16>,
    will: Option<Message>,
}

/// A CONNECT that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Refused,
    /// What to tell the client.
    pub(crate) connack: ConnectReturnCode,
}

/// Judges a CONNECT: who is it, may it use its client id, may its will be published?
pub(crate) fn open(
    connect: Connect,
    admit: impl FnOnce(&str, &str) -> Result<Grant, Denied>,
    acl: &Arc<Acl>,
    limits: &Limits,
) -> Result<(Grant, Session), Refusal> {
    let refuse = |reason, connack| Err(Refusal { reason, connack });
    let (username, password) = match &connect.login {
        Some(login) => (login.username.as_str(), login.password.as_str()),
        None => ("", ""),
    };
    let grant = match admit(username, password) {
        Ok(grant) => grant,
        Err(Denied::BadName | Denied::BadPassword) => {
            return refuse(Refused::Credentials, ConnectReturnCode::BadUserNamePassword);
        }
        Err(Denied::Unknown) => return refuse(Refused::Account, ConnectReturnCode::NotAuthorized),
    };
    if !acl::client_id_fits(&connect.client_id, &grant.role) {
        return refuse(Refused::ClientId, ConnectReturnCode::BadClientId);
    }
    let mut session = Session {
        role: grant.role.clone(),
        acl: acl.clone(),
        topic_bytes: limits.topic_bytes,
        max_subscriptions: limits.subscriptions,
        window: limits.inflight,
        subscriptions: Vec::new(),
        inflight: HashSet::new(),
        last_id: 0,
        unreleased: HashSet::new(),
        will: None,
    };
    if let Some(will) = connect.last_will {
        let qos = inner_qos(will.qos);
        let will = Message { topic: will.topic, qos, payload: will.message };
        if session.check_topic(&will.topic).is_err() {
            return refuse(Refused::Will, ConnectReturnCode::NotAuthorized);
        }
        session.will = Some(will);
    }
    Ok((grant, session))
}

/// How long a client may be silent, given the keep-alive that it announced.
pub(crate) fn allowed_silence(announced_seconds: u16, limits: &Limits) -> Duration {
    let announced = Duration::from_secs(u64::from(announced_seconds));
    let keep_alive = if announced.is_zero() { limits.keep_alive } else { announced.min(limits.keep_alive) };
    keep_alive + keep_alive / 2
}

impl Session {
    /// Takes a packet from the client.
    pub(crate) fn on_packet(&mut self, packet: Packet) -> Result<Effects, Ending> {
        match packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubRel(PubRel { pkid }) => {
                self.unreleased.remove(&pkid);
                Ok(Effects::reply(Packet::PubComp(PubComp { pkid })))
            }
            Packet::PubAck(PubAck { pkid }) => {
                // In any order, and an unknown one harms nobody.
                self.inflight.remove(&pkid);
                Ok(Effects::default())
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => Ok(self.on_unsubscribe(&unsubscribe)),
            Packet::PingReq => Ok(Effects::reply(Packet::PingResp)),
            Packet::Disconnect => {
                self.will = None;
                Err(Ending::new(Closed::Disconnect, "the client said so"))
            }
            other => Err(Ending::new(Closed::Protocol, format_args!("no client sends {other:?}"))),
        }
    }

    fn on_publish(&mut self, publish: Publish) -> Result<Effects, Ending> {
        let Publish { qos, pkid, topic, payload, retain, .. } = publish;
        self.check_topic(&topic)?;
        let message = Message { topic, qos: inner_qos(qos), payload };
        let (publish, reply) = match qos {
            QoS::AtMostOnce => (Some(message), None),
            QoS::AtLeastOnce => (Some(message), Some(Packet::PubAck(PubAck { pkid }))),
            QoS::ExactlyOnce => {
                let first_time = !self.unreleased.contains(&pkid);
                if first_time && self.unreleased.len() >= UNRELEASED {
                    return Err(Ending::new(
                        Closed::Protocol,
                        format_args!("more than {UNRELEASED} QoS 2 publishes wait for PUBREL"),
                    ));
                }
                self.unreleased.insert(pkid);
                (first_time.then_some(message), Some(Packet::PubRec(PubRec { pkid })))
            }
        };
        Ok(Effects { publish, reply, retain_ignored: retain, ..Effects::default() })
    }

    fn check_topic(&self, topic: &str) -> Result<(), Ending> {
        if topic.len() > self.topic_bytes || !acl::valid_topic(topic) {
            return Err(Ending::new(Closed::Protocol, "publish to a topic that is too long or holds wildcards"));
        }
        if !self.acl.may_publish(&self.role, topic) {
            return Err(Ending::new(
                Closed::ForbiddenPublish,
                format_args!("{topic:?} is not the client's to publish to"),
            ));
        }
        Ok(())
    }

    fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<Effects, Ending> {
        if subscribe.filters.len() > self.max_subscriptions {
            return Err(Ending::new(Closed::Protocol, "more filters in one SUBSCRIBE than a client may have"));
        }
        let mut effects = Effects::default();
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for filter in subscribe.filters {
            if !acl::valid_filter(&filter.path) {
                return Err(Ending::new(Closed::Protocol, format_args!("malformed filter {:?}", filter.path)));
            }
            let granted = inner_qos(filter.qos);
            codes.push(if self.add_subscription(&filter.path, granted) {
                SubscribeReasonCode::Success(granted)
            } else {
                effects.refused_filters.push(filter.path);
                SubscribeReasonCode::Failure
            });
        }
        effects.reply = Some(Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes: codes }));
        Ok(effects)
    }

    fn add_subscription(&mut self, filter: &str, qos: QoS) -> bool {
        if filter.len() > self.topic_bytes || !self.acl.may_subscribe(&self.role, filter) {
            return false;
        }
        if let Some((_, granted)) = self.subscriptions.iter_mut().find(|(known, _)| known == filter) {
            *granted = qos;
            return true;
        }
        let room = self.subscriptions.len() < self.max_subscriptions;
        if room {
            self.subscriptions.push((filter.to_owned(), qos));
        }
        room
    }

    fn on_unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> Effects {
        self.subscriptions.retain(|(filter, _)| !unsubscribe.topics.contains(filter));
        Effects::reply(Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid }))
    }

    /// Whether another QoS 1 message may be sent before the client acknowledges one.
    pub(crate) fn window_is_open(&self) -> bool {
        self.inflight.len() < self.window
    }

    /// Turns a message into the packet for this client, if one of its subscriptions wants it.
    pub(crate) fn deliver(&mut self, message: Message) -> Option<Publish> {
        let granted =
            self.subscriptions.iter().filter(|(filter, _)| acl::matches(filter, &message.topic)).map(|(_, qos)| *qos);
        let granted = granted.reduce(|a, b| if a >= b { a } else { b })?;
        let qos = if granted >= message.qos { message.qos } else { granted };
        let mut publish = Publish::from_bytes(message.topic, qos, message.payload);
        if qos == QoS::AtLeastOnce {
            publish.pkid = self.next_id();
        }
        Some(publish)
    }

    fn next_id(&mut self) -> u16 {
        // Ends because the window is smaller than the number of ids.
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.inflight.insert(self.last_id) {
                return self.last_id;
            }
        }
    }

    /// The will, if the session's end is one that publishes it.
    pub(crate) fn take_will(&mut self, reason: Closed) -> Option<Message> {
        match reason {
            Closed::Disconnect | Closed::RouterGone | Closed::HubStopping => None,
            _ => self.will.take(),
        }
    }
}

impl Effects {
    fn reply(packet: Packet) -> Self {
        Self { reply: Some(packet), ..Self::default() }
    }
}

/// The QoS that a message travels at inside the hub: exactly-once ends at the publisher's connection.
fn inner_qos(qos: QoS) -> QoS {
    match qos {
        QoS::ExactlyOnce => QoS::AtLeastOnce,
        other => other,
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
