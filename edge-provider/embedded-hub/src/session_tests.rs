//! Tables for the session: a packet in, effects out.

use super::*;
use crate::accounts::{Accounts, Password};
use rumqttc::mqttbytes::v4::{LastWill, Login, SubscribeFilter};

fn limits() -> Limits {
    Limits { inflight: 3, subscriptions: 2, topic_bytes: 64, ..Limits::default() }
}

fn connect(client_id: &str, username: &str, password: &str) -> Connect {
    let mut connect = Connect::new(client_id);
    connect.login = (!username.is_empty()).then(|| Login::new(username, password));
    connect
}

fn try_open(connect: Connect) -> Result<Session, Refusal> {
    let accounts = Accounts::new(Password::new("secret"));
    let admit = |username: &str, password: &str| accounts.admit(username, password);
    open(connect, admit, &Arc::new(Acl::new("hawser")), &limits()).map(|(_, session)| session)
}

fn device() -> Session {
    try_open(connect("agent-pi", "pi", "")).expect("a device is let in")
}

fn bridge() -> Session {
    try_open(connect("bridge-1", "bridge", "secret")).expect("a bridge is let in")
}

fn publish(topic: &str, qos: QoS, pkid: u16) -> Packet {
    let mut publish = Publish::new(topic, qos, "payload");
    publish.pkid = pkid;
    Packet::Publish(publish)
}

fn subscribe(session: &mut Session, filter: &str, qos: QoS) -> SubscribeReasonCode {
    let mut subscribe = Subscribe::new(filter, qos);
    subscribe.pkid = 7;
    match session.on_packet(Packet::Subscribe(subscribe)).expect("well formed").reply {
        Some(Packet::SubAck(ack)) if ack.pkid == 7 && ack.return_codes.len() == 1 => ack.return_codes[0],
        other => panic!("expected a SUBACK, got {other:?}"),
    }
}

fn message(topic: &str, qos: QoS) -> Message {
    Message { topic: topic.to_owned(), qos, payload: Bytes::from_static(b"payload") }
}

#[test]
fn who_is_let_in() {
    let cases = [
        ("agent-pi", "pi", "", None),
        ("agent-pi", "pi", "ignored", None),
        ("bridge-a", "bridge", "secret", None),
        ("bridge-a", "bridge", "wrong", Some((Refused::Credentials, 4))),
        ("agent-bridge", "bridge", "secret", Some((Refused::ClientId, 2))),
        ("agent-pi", "po", "", Some((Refused::ClientId, 2))),
        ("bridge-a", "pi", "", Some((Refused::ClientId, 2))),
        ("hawser-agent/pi", "pi", "", Some((Refused::ClientId, 2))),
        ("", "pi", "", Some((Refused::ClientId, 2))),
        ("agent-pi", "", "", Some((Refused::Credentials, 4))),
        ("agent-p/i", "p/i", "", Some((Refused::Credentials, 4))),
    ];
    for (id, username, password, refused) in cases {
        let outcome = try_open(connect(id, username, password)).err();
        let outcome = outcome.map(|refusal| (refusal.reason, refusal.connack as u8));
        assert_eq!(outcome, refused, "{id} as {username}");
    }
}

#[test]
fn a_will_goes_only_where_its_client_may_publish() {
    let cases = [
        ("hawser/pi/presence", true),
        ("hawser/pi/up/x", true),
        ("hawser/po/presence", false),
        ("hawser/pi/down", false),
        ("hawser/+/presence", false),
        ("$SYS/x", false),
        ("", false),
    ];
    for (topic, fine) in cases {
        let mut connect = connect("agent-pi", "pi", "");
        connect.last_will = Some(LastWill::new(topic, "gone", QoS::ExactlyOnce, true));
        let outcome = try_open(connect);
        assert_eq!(outcome.as_ref().err().map(|refusal| refusal.reason), (!fine).then_some(Refused::Will), "{topic}");
        if let Ok(mut session) = outcome {
            let will = session.take_will(Closed::Gone).expect("a will");
            assert_eq!((will.topic.as_str(), will.qos), (topic, QoS::AtLeastOnce));
        }
    }
}

#[test]
fn which_ends_publish_the_will() {
    let cases = [
        (Closed::Gone, true),
        (Closed::KeepAlive, true),
        (Closed::TakenOver, true),
        (Closed::Account, true),
        (Closed::SlowSubscriber, true),
        (Closed::Protocol, true),
        (Closed::ForbiddenPublish, true),
        (Closed::Disconnect, false),
        (Closed::HubStopping, false),
        (Closed::RouterGone, false),
    ];
    for (reason, publishes) in cases {
        let mut connect = connect("agent-pi", "pi", "");
        connect.last_will = Some(LastWill::new("hawser/pi/presence", "gone", QoS::AtMostOnce, false));
        let mut session = try_open(connect).expect("let in");
        assert_eq!(session.take_will(reason).is_some(), publishes, "{reason:?}");
        assert_eq!(session.take_will(reason), None, "published twice");
    }
    let mut session = device();
    assert_eq!(session.on_packet(Packet::Disconnect).map_err(|ending| ending.reason), Err(Closed::Disconnect));
}

#[test]
fn keep_alive_is_bounded_and_stretched_by_half() {
    let limits = Limits { keep_alive: Duration::from_secs(100), ..Limits::default() };
    for (announced, allowed) in [(10, 15), (100, 150), (101, 150), (65_535, 150), (0, 150)] {
        assert_eq!(allowed_silence(announced, &limits), Duration::from_secs(allowed), "{announced}");
    }
}

#[test]
fn publishes_are_acknowledged_by_their_qos() {
    let mut session = device();
    let up = "hawser/pi/up";
    let effects = session.on_packet(publish(up, QoS::AtMostOnce, 0)).expect("allowed");
    assert_eq!((effects.publish, effects.reply), (Some(message(up, QoS::AtMostOnce)), None));

    let effects = session.on_packet(publish(up, QoS::AtLeastOnce, 5)).expect("allowed");
    assert_eq!(effects.publish, Some(message(up, QoS::AtLeastOnce)));
    assert_eq!(effects.reply, Some(Packet::PubAck(PubAck { pkid: 5 })));

    let effects = session.on_packet(publish(up, QoS::ExactlyOnce, 6)).expect("allowed");
    assert_eq!(effects.publish, Some(message(up, QoS::AtLeastOnce)));
    assert_eq!(effects.reply, Some(Packet::PubRec(PubRec { pkid: 6 })));
    let again = session.on_packet(publish(up, QoS::ExactlyOnce, 6)).expect("allowed");
    assert_eq!((again.publish, again.reply), (None, Some(Packet::PubRec(PubRec { pkid: 6 }))), "published twice");
    let released = session.on_packet(Packet::PubRel(PubRel { pkid: 6 })).expect("allowed");
    assert_eq!(released.reply, Some(Packet::PubComp(PubComp { pkid: 6 })));
    let next = session.on_packet(publish(up, QoS::ExactlyOnce, 6)).expect("allowed");
    assert!(next.publish.is_some(), "a released id is a new message");
}

#[test]
fn unreleased_publishes_are_bounded() {
    let mut session = device();
    for id in 1..=UNRELEASED as u16 {
        session.on_packet(publish("hawser/pi/up", QoS::ExactlyOnce, id)).expect("within the bound");
    }
    let over = session.on_packet(publish("hawser/pi/up", QoS::ExactlyOnce, 1000)).expect_err("over the bound");
    assert_eq!(over.reason, Closed::Protocol);
}

#[test]
fn a_forbidden_publish_ends_the_session() {
    let cases = [
        ("hawser/po/up", Closed::ForbiddenPublish),
        ("hawser/pi/down", Closed::ForbiddenPublish),
        ("$SYS/x", Closed::ForbiddenPublish),
        ("$share/g/hawser/pi/up", Closed::ForbiddenPublish),
        ("ä", Closed::ForbiddenPublish),
        ("hawser/pi/up/+", Closed::Protocol),
        ("", Closed::Protocol),
        (&"hawser/pi/up/".repeat(8), Closed::Protocol),
    ];
    for (topic, reason) in cases {
        let ending = device().on_packet(publish(topic, QoS::AtMostOnce, 0)).expect_err(topic);
        assert_eq!(ending.reason, reason, "{topic}");
    }
}

#[test]
fn retain_is_cleared_and_counted() {
    let mut retained = Publish::new("hawser/pi/presence", QoS::AtMostOnce, "here");
    retained.retain = true;
    let effects = device().on_packet(Packet::Publish(retained)).expect("allowed");
    assert!(effects.retain_ignored && effects.publish.is_some());
}

#[test]
fn subscriptions_are_granted_by_role_and_number() {
    let mut session = device();
    assert_eq!(
        subscribe(&mut session, "hawser/pi/down/#", QoS::ExactlyOnce),
        SubscribeReasonCode::Success(QoS::AtLeastOnce)
    );
    for filter in ["$share/g/hawser/pi/down/#", "$SYS/#", "#", "hawser/po/down/#", "hawser/+/down"] {
        assert_eq!(subscribe(&mut session, filter, QoS::AtMostOnce), SubscribeReasonCode::Failure, "{filter}");
    }
    let long = format!("hawser/pi/down/{}", "x".repeat(64));
    assert_eq!(subscribe(&mut session, &long, QoS::AtMostOnce), SubscribeReasonCode::Failure);
    assert_ne!(subscribe(&mut session, "hawser/pi/down", QoS::AtMostOnce), SubscribeReasonCode::Failure);
    assert_eq!(subscribe(&mut session, "hawser/pi/down/3", QoS::AtMostOnce), SubscribeReasonCode::Failure, "a third");
    assert_ne!(
        subscribe(&mut session, "hawser/pi/down", QoS::AtLeastOnce),
        SubscribeReasonCode::Failure,
        "a known one"
    );

    let many = Subscribe { pkid: 1, ..Subscribe::new_many(vec![SubscribeFilter::new("a".into(), QoS::AtMostOnce); 3]) };
    let ending = session.on_packet(Packet::Subscribe(many)).expect_err("more filters than subscriptions");
    assert_eq!(ending.reason, Closed::Protocol);

    let malformed = Subscribe { pkid: 1, ..Subscribe::new("a/#/b", QoS::AtMostOnce) };
    let ending = session.on_packet(Packet::Subscribe(malformed)).expect_err("malformed");
    assert_eq!(ending.reason, Closed::Protocol);
}

#[test]
fn deliveries_follow_the_subscriptions() {
    let mut session = bridge();
    assert_eq!(session.deliver(message("hawser/pi/up", QoS::AtMostOnce)), None, "nothing was subscribed to");
    subscribe(&mut session, "hawser/+/up/#", QoS::AtMostOnce);
    subscribe(&mut session, "hawser/pi/up", QoS::AtLeastOnce);
    let cases = [
        ("hawser/pi/up", QoS::AtLeastOnce, Some(QoS::AtLeastOnce)), // both match: once, at the higher QoS
        ("hawser/pi/up", QoS::AtMostOnce, Some(QoS::AtMostOnce)),
        ("hawser/po/up/s", QoS::AtLeastOnce, Some(QoS::AtMostOnce)),
        ("hawser/po/presence", QoS::AtLeastOnce, None),
    ];
    for (topic, qos, expected) in cases {
        let publish = session.deliver(message(topic, qos));
        assert_eq!(publish.as_ref().map(|p| p.qos), expected, "{topic}");
        assert!(publish.is_none_or(|p| (p.pkid != 0) == (p.qos == QoS::AtLeastOnce)));
    }

    let unsubscribe = Unsubscribe { pkid: 9, topics: vec!["hawser/+/up/#".into(), "never/was".into()] };
    let effects = session.on_packet(Packet::Unsubscribe(unsubscribe)).expect("well formed");
    assert_eq!(effects.reply, Some(Packet::UnsubAck(UnsubAck { pkid: 9 })));
    assert_eq!(session.deliver(message("hawser/po/up/s", QoS::AtMostOnce)), None);
    assert!(session.deliver(message("hawser/pi/up", QoS::AtMostOnce)).is_some());
    subscribe(&mut session, "hawser/+/up/#", QoS::AtMostOnce);
    assert!(session.deliver(message("hawser/po/up/s", QoS::AtMostOnce)).is_some(), "subscribing again has no effect");
}

#[test]
fn the_window_opens_with_acknowledgements_in_any_order() {
    let mut session = bridge();
    subscribe(&mut session, "hawser/+/up", QoS::AtLeastOnce);
    let mut ids = Vec::new();
    while session.window_is_open() {
        ids.push(session.deliver(message("hawser/pi/up", QoS::AtLeastOnce)).expect("wanted").pkid);
    }
    assert_eq!(ids, [1, 2, 3]);
    for id in [999, 3, 1] {
        session.on_packet(Packet::PubAck(PubAck { pkid: id })).expect("harmless");
    }
    assert!(session.window_is_open());

    // Ids in use are skipped when the numbers start over.
    session.last_id = u16::MAX;
    let id = session.deliver(message("hawser/pi/up", QoS::AtLeastOnce)).expect("wanted").pkid;
    assert_eq!(id, 1);
    let id = session.deliver(message("hawser/pi/up", QoS::AtLeastOnce)).expect("wanted").pkid;
    assert_eq!(id, 3, "an id in flight was used again");
}

#[test]
fn pings_are_answered() {
    assert_eq!(device().on_packet(Packet::PingReq).map(|effects| effects.reply), Ok(Some(Packet::PingResp)));
}
