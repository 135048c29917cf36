//! What kills, blocks or confuses rumqttd when clients reach it directly, each shown to stop at the front.

mod support;

use anyhow::{Result, ensure};
use embedded_hub::{Closed, Hub, Limits, Refused};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, PubAck, Publish};
use std::time::Duration;
use support::{Client, Pair, as_bridge, as_device, config_with, eventually, hub, soon, with_will};
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test]
async fn a_client_id_with_a_slash_harms_nobody() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    for _ in 0..5 {
        let mut connect = as_device("a");
        connect.client_id = "agent/a".to_owned();
        ensure!(Client::refused(hub.local_addr(), connect).await? == 2);
    }
    pair.talk().await?;
    Client::connect(hub.local_addr(), as_device("a")).await?;
    ensure!(hub.metrics().refused(Refused::ClientId) == 5);
    ensure!(hub.metrics().router_restarts() == 0);
    Ok(())
}

#[tokio::test]
async fn a_shared_subscription_is_refused_and_its_client_may_drop() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    for n in 0..3 {
        let mut client = Client::connect(hub.local_addr(), as_device(&format!("s{n}"))).await?;
        let filter = format!("$share/group/hawser/s{n}/down/#");
        ensure!(client.subscribe(&filter, QoS::AtLeastOnce).await? == 0x80);
        pair.bridge.publish(&format!("hawser/s{n}/down"), "nobody hears this").await?;
    }
    pair.talk().await?;
    ensure!(hub.metrics().router_restarts() == 0);
    Ok(())
}

#[tokio::test]
async fn connecting_past_the_limit_harms_nobody_and_never_locks_the_bridge_out() -> Result<()> {
    let hub = Hub::start(config_with(Limits { devices: 3, bridges: 2, ..Limits::default() })).await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let _second = Client::connect(hub.local_addr(), as_device("b")).await?;
    let third = Client::connect(hub.local_addr(), as_device("c")).await?;
    for _ in 0..5 {
        ensure!(Client::refused(hub.local_addr(), as_device("d")).await? == 3);
    }
    let _bridge = Client::connect(hub.local_addr(), as_bridge("2")).await?;
    ensure!(Client::refused(hub.local_addr(), as_bridge("3")).await? == 3);
    ensure!(hub.metrics().refused(Refused::Devices) == 5);
    ensure!(hub.metrics().refused(Refused::Bridges) == 1);
    pair.talk().await?;

    drop(third);
    eventually("the place of a device that left", || hub.metrics().closed(Closed::Gone) == 1).await?;
    let mut admitted = Client::connect(hub.local_addr(), as_device("d")).await?;
    admitted.publish("hawser/d/up", "here").await?;
    ensure!(pair.bridge.text().await?.1 == "here");
    Ok(())
}

#[tokio::test]
async fn a_silent_connection_blocks_nobody_and_is_closed() -> Result<()> {
    let limits = Limits { connect_timeout: Duration::from_millis(300), ..Limits::default() };
    let hub = Hub::start(config_with(limits)).await?;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(Client::new(TcpStream::connect(hub.local_addr()).await?));
    }
    // Half a CONNECT is as silent as none.
    silent[0].raw(&[0x10, 0x20, 0, 4, b'M']).await?;
    Pair::connect(hub.local_addr(), "pi").await?.talk().await?;
    for client in &mut silent {
        ensure!(client.read_to_end().await?.is_empty());
    }
    ensure!(hub.metrics().refused(Refused::Timeout) == 10);
    Ok(())
}

#[tokio::test]
async fn a_crowd_of_silent_connections_is_bounded() -> Result<()> {
    let hub = Hub::start(config_with(Limits { pending: 4, ..Limits::default() })).await?;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(Client::new(TcpStream::connect(hub.local_addr()).await?));
    }
    for client in &mut silent[4..] {
        ensure!(client.read_to_end().await?.is_empty());
    }
    ensure!(hub.metrics().refused(Refused::Pending) == 2);
    silent.truncate(3);
    eventually("room for another", || hub.metrics().refused(Refused::Malformed) == 1).await?;
    Client::connect(hub.local_addr(), as_device("pi")).await?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_turned_away() -> Result<()> {
    let limits = Limits { burst_per_address: 3, connects_per_second_per_address: 1, ..Limits::default() };
    let hub = Hub::start(config_with(limits)).await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let _third = Client::connect(hub.local_addr(), as_device("c")).await?;
    let mut fourth = Client::new(TcpStream::connect(hub.local_addr()).await?);
    ensure!(fourth.read_to_end().await?.is_empty());
    ensure!(hub.metrics().refused(Refused::Rate) == 1);
    pair.talk().await
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_disconnected_and_the_others_miss_nothing() -> Result<()> {
    let limits = Limits { bridge_queue_bytes: 1024 * 1024, ..Limits::default() };
    let hub = Hub::start(config_with(limits)).await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let mut slow = Client::connect(hub.local_addr(), as_bridge("slow")).await?;
    slow.subscribe("hawser/+/up/#", QoS::AtMostOnce).await?;
    let filler = "x".repeat(64 * 1024);
    let mut sent = 0u32;
    while hub.metrics().closed(Closed::SlowSubscriber) == 0 {
        ensure!(sent < 1000, "64 MB were not enough to fill a queue of 1 MB");
        pair.device.publish("hawser/pi/up", format!("{sent} {filler}")).await?;
        let (_, heard) = pair.bridge.text().await?;
        ensure!(heard.split(' ').next() == Some(sent.to_string().as_str()), "a message was lost or overtaken");
        sent += 1;
    }
    pair.talk().await?;

    // It comes back and is served again; what it missed is not kept for it.
    let mut back = Client::connect(hub.local_addr(), as_bridge("slow")).await?;
    back.subscribe("hawser/+/up/#", QoS::AtMostOnce).await?;
    pair.device.publish("hawser/pi/up", "fresh").await?;
    ensure!(back.text().await?.1 == "fresh");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_for_the_write_timeout_is_disconnected() -> Result<()> {
    let limits = Limits { write_timeout: Duration::from_millis(300), ..Limits::default() };
    let hub = Hub::start(config_with(limits)).await?;
    let mut deaf = Client::connect(hub.local_addr(), as_bridge("deaf")).await?;
    deaf.subscribe("hawser/+/up", QoS::AtMostOnce).await?;
    let mut device = Client::connect(hub.local_addr(), as_device("pi")).await?;
    // More than the sockets' buffers hold, less than the queue does.
    for _ in 0..80 {
        device.publish("hawser/pi/up", vec![0; 250 * 1024]).await?;
    }
    eventually("its end", || hub.metrics().closed(Closed::WriteStalled) == 1).await?;
    device.publish("hawser/pi/up", "still here").await
}

#[tokio::test]
async fn a_device_that_floods_is_slowed_down_and_does_not_cost_the_bridge_its_connection() -> Result<()> {
    let limits = Limits { packet_bytes: 8 * 1024, bridge_queue_bytes: 1024 * 1024, ..Limits::default() };
    let hub = Hub::start(config_with(limits)).await?;
    let socket = TcpSocket::new_v4()?;
    // The system may not hold for the bridge what the hub should hold back.
    socket.set_recv_buffer_size(8 * 1024)?;
    let mut bridge = Client::over(socket.connect(hub.local_addr()).await?, as_bridge("1")).await?;
    bridge.subscribe("hawser/+/up", QoS::AtMostOnce).await?;
    let mut device = Client::connect(hub.local_addr(), as_device("pi")).await?;
    let flood = tokio::spawn(async move {
        for n in 0..5000 {
            device.publish_unacknowledged("hawser/pi/up", format!("{n:04000}")).await?;
        }
        anyhow::Ok(())
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    ensure!(!flood.is_finished(), "20 MB went into a queue of 1 MB");
    for n in 0..5000 {
        ensure!(bridge.text().await?.1 == format!("{n:04000}"), "message {n} was lost or overtaken");
    }
    flood.await??;
    ensure!(hub.metrics().closed(Closed::SlowSubscriber) == 0);
    Ok(())
}

#[tokio::test]
async fn a_subscriber_that_never_acknowledges_gets_its_window_and_is_then_disconnected() -> Result<()> {
    let limits = Limits { packet_bytes: 1024, bridge_queue_bytes: 3000, inflight: 5, ..Limits::default() };
    let hub = Hub::start(config_with(limits)).await?;
    let mut deaf = Client::connect(hub.local_addr(), as_bridge("deaf")).await?;
    deaf.subscribe("hawser/+/up", QoS::AtLeastOnce).await?;
    let mut device = Client::connect(hub.local_addr(), as_device("pi")).await?;
    for n in 0..5 {
        device.publish("hawser/pi/up", n.to_string()).await?;
        ensure!(matches!(deaf.packet().await?, Packet::Publish(publish) if publish.payload == n.to_string()));
    }
    while hub.metrics().closed(Closed::SlowSubscriber) == 0 {
        device.publish("hawser/pi/up", "beyond the window").await?;
    }
    ensure!(deaf.read_to_end().await?.is_empty(), "it got more than its window without acknowledging");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_that_was_away_hears_what_comes_after_it() -> Result<()> {
    let hub = hub().await?;
    let mut bridge = Client::connect(hub.local_addr(), as_bridge("1")).await?;
    let mut connect = as_device("pi");
    connect.clean_session = false;
    let mut device = Client::connect(hub.local_addr(), connect.clone()).await?;
    device.subscribe("hawser/pi/down", QoS::AtLeastOnce).await?;
    device.send(Packet::Disconnect).await?;
    eventually("its leaving", || hub.metrics().closed(Closed::Disconnect) == 1).await?;
    bridge.publish("hawser/pi/down", "missed").await?;

    // No session was kept, and the hub says so (checked by `connect`): the client subscribes again.
    let mut device = Client::connect(hub.local_addr(), connect).await?;
    device.subscribe("hawser/pi/down", QoS::AtLeastOnce).await?;
    bridge.publish("hawser/pi/down", "heard").await?;
    ensure!(device.text().await?.1 == "heard");
    Ok(())
}

#[tokio::test]
async fn acknowledgements_may_come_in_any_order() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let mut ids = Vec::new();
    for n in 0..10 {
        pair.device.publish("hawser/pi/up", n.to_string()).await?;
        match pair.bridge.packet().await? {
            Packet::Publish(publish) => ids.push(publish.pkid),
            other => anyhow::bail!("expected a message, got {other:?}"),
        }
    }
    for id in ids.into_iter().rev() {
        pair.bridge.send(Packet::PubAck(PubAck::new(id))).await?;
    }
    // Twice, and one that never was.
    pair.bridge.send(Packet::PubAck(PubAck::new(1))).await?;
    pair.bridge.send(Packet::PubAck(PubAck::new(60_000))).await?;
    pair.talk().await
}

#[tokio::test]
async fn nothing_is_retained_and_an_empty_message_is_only_a_message() -> Result<()> {
    let hub = hub().await?;
    let mut bridge = Client::connect(hub.local_addr(), as_bridge("1")).await?;
    bridge.subscribe("hawser/+/presence", QoS::AtLeastOnce).await?;
    let mut device = Client::connect(hub.local_addr(), as_device("pi")).await?;
    let mut retained = Publish::new("hawser/pi/presence", QoS::AtMostOnce, "here");
    retained.retain = true;
    device.send(Packet::Publish(retained)).await?;
    let heard = bridge.message().await?;
    ensure!(!heard.retain && heard.payload == "here", "{heard:?}");
    device.publish("hawser/pi/presence", "").await?;
    ensure!(bridge.message().await?.payload.is_empty());

    let mut late = Client::connect(hub.local_addr(), as_bridge("2")).await?;
    for _ in 0..2 {
        late.subscribe("hawser/+/presence", QoS::AtLeastOnce).await?;
    }
    device.publish("hawser/pi/presence", "now").await?;
    ensure!(late.text().await?.1 == "now", "something was retained");
    Ok(())
}

#[tokio::test]
async fn a_takeover_publishes_the_right_will_before_the_newcomer_speaks() -> Result<()> {
    let hub = hub().await?;
    let mut bridge = Client::connect(hub.local_addr(), as_bridge("1")).await?;
    bridge.subscribe("hawser/+/presence", QoS::AtLeastOnce).await?;
    let presence = "hawser/pi/presence";
    let mut current = Client::connect(hub.local_addr(), with_will(as_device("pi"), presence, "will of 0")).await?;
    for n in 1..20 {
        let will = format!("will of {n}");
        let mut next = Client::connect(hub.local_addr(), with_will(as_device("pi"), presence, &will)).await?;
        next.publish(presence, format!("birth of {n}")).await?;
        ensure!(bridge.text().await?.1 == format!("will of {}", n - 1));
        ensure!(bridge.text().await?.1 == format!("birth of {n}"));
        ensure!(current.read_to_end().await?.is_empty());
        current = next;
    }
    ensure!(hub.metrics().closed(Closed::TakenOver) == 19);
    ensure!(hub.metrics().connections() == 2);
    Ok(())
}

#[tokio::test]
async fn wills_are_for_those_who_leave_without_a_word() -> Result<()> {
    let limits = Limits { keep_alive: Duration::from_millis(600), ..Limits::default() };
    let hub = Hub::start(config_with(limits)).await?;
    let mut bridge = Client::connect(hub.local_addr(), as_bridge("1")).await?;
    bridge.subscribe("hawser/+/presence", QoS::AtMostOnce).await?;
    let connect = |name: &str| with_will(as_device(name), &format!("hawser/{name}/presence"), "gone");

    let mut polite = Client::connect(hub.local_addr(), connect("polite")).await?;
    polite.send(Packet::Disconnect).await?;
    eventually("the polite one's leaving", || hub.metrics().closed(Closed::Disconnect) == 1).await?;
    drop(Client::connect(hub.local_addr(), connect("cut")).await?);
    ensure!(bridge.text().await? == ("hawser/cut/presence".into(), "gone".into()));

    // The bridge has the same short keep-alive: it keeps itself alive while it waits.
    let _silent = Client::connect(hub.local_addr(), connect("silent")).await?;
    loop {
        bridge.send(Packet::PingReq).await?;
        match bridge.packet().await? {
            Packet::PingResp => tokio::time::sleep(Duration::from_millis(20)).await,
            Packet::Publish(publish) if publish.topic == "hawser/silent/presence" => break,
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
    ensure!(hub.metrics().closed(Closed::KeepAlive) == 1);

    let foreign = with_will(as_device("x"), "hawser/cut/presence", "a lie");
    ensure!(Client::refused(hub.local_addr(), foreign).await? == 5);
    Ok(())
}

#[tokio::test]
async fn unsubscribing_works_and_can_be_undone() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    pair.device.subscribe("hawser/pi/down/s", QoS::AtMostOnce).await?;
    pair.device.unsubscribe("hawser/pi/down/#").await?;
    pair.device.unsubscribe("hawser/pi/never").await?;
    pair.bridge.publish("hawser/pi/down", "unheard").await?;
    pair.bridge.publish("hawser/pi/down/s", "heard").await?;
    ensure!(pair.device.text().await?.1 == "heard");
    pair.device.subscribe("hawser/pi/down/#", QoS::AtLeastOnce).await?;
    pair.talk().await
}

#[tokio::test]
async fn a_forbidden_publish_ends_only_its_own_connection() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let mut liar = Client::connect(hub.local_addr(), as_device("liar")).await?;
    liar.publish_unacknowledged("hawser/pi/up", "I am pi").await?;
    ensure!(liar.read_to_end().await?.is_empty());
    ensure!(hub.metrics().closed(Closed::ForbiddenPublish) == 1);
    // `talk` fails if the bridge hears anything else first.
    pair.talk().await
}

#[tokio::test]
async fn a_packet_over_the_limit_is_refused_by_its_length_alone() -> Result<()> {
    let hub = hub().await?;
    let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
    let mut large = Client::connect(hub.local_addr(), as_device("large")).await?;
    large.raw(&[0x30, 0x80, 0x80, 0x80, 0x32]).await?;
    ensure!(large.read_to_end().await?.is_empty());
    ensure!(hub.metrics().closed(Closed::Protocol) == 1);

    let mut before_connect = Client::new(TcpStream::connect(hub.local_addr()).await?);
    before_connect.raw(&[0x10, 0x80, 0x80, 0x80, 0x32]).await?;
    ensure!(before_connect.read_to_end().await?.is_empty());
    pair.talk().await
}

#[tokio::test]
async fn other_versions_get_an_answer_that_they_understand() -> Result<()> {
    let hub = hub().await?;
    let cases: [(&[u8], &[u8]); 3] = [
        (b"\x10\x0e\0\x04MQTT\x05\x02\0\x0a\0\0\x01a", &[0x20, 3, 0, 0x84, 0]),
        (b"\x10\x0f\0\x06MQIsdp\x03\x02\0\x0a\0\x01a", &[0x20, 2, 0, 1]),
        (b"\x10\x0d\0\x04MQTT\x06\x02\0\x0a\0\x01a", &[0x20, 2, 0, 1]),
    ];
    for (connect, answer) in cases {
        let mut client = Client::new(TcpStream::connect(hub.local_addr()).await?);
        client.raw(connect).await?;
        ensure!(client.read_to_end().await? == answer, "{connect:?}");
    }
    ensure!(hub.metrics().refused(Refused::Version) == 3);
    Ok(())
}

#[tokio::test]
async fn a_router_restart_disconnects_everybody_and_everybody_can_come_back() -> Result<()> {
    let hub = hub().await?;
    for round in 1..=3 {
        let mut pair = Pair::connect(hub.local_addr(), "pi").await?;
        pair.talk().await?;
        soon("a restart", hub.restart_router()).await?;
        ensure!(pair.device.read_to_end().await?.is_empty());
        ensure!(pair.bridge.read_to_end().await?.is_empty());
        ensure!(hub.metrics().router_restarts() == round);
    }
    Pair::connect(hub.local_addr(), "pi").await?.talk().await?;
    eventually("counting", || hub.metrics().closed(Closed::RouterGone) == 6).await
}
