//! Whatever bytes arrive, before CONNECT or after it: the hub lives, and clients that behave do not notice.

mod support;

use anyhow::Result;
use embedded_hub::{Closed, Hub, Limits, Refused};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::Duration;
use support::{Client, Pair, as_bridge, as_device, config_with};
use tokio::net::TcpStream;

/// Bytes that get further than noise does: fragments of real packets, and noise.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(b"\x10\x0d\0\x04MQTT\x04\x02\0\x0a\0\x01a".to_vec()),
        Just(b"\x82\x13\0\x01\0\x0e$share/g/hawser\x01".to_vec()),
        Just(b"\x82\x14\0\x01\0\x0fhawser/x/down/#\x02".to_vec()),
        Just(b"\xa2\x13\0\x01\0\x0fhawser/x/down/#".to_vec()),
        Just(b"\x32\x10\0\x0bhawser/x/up\0\x01!".to_vec()),
        Just(b"\x34\x10\0\x0bhawser/x/up\0\x01!".to_vec()),
        Just(b"\x62\x02\0\x01".to_vec()),
        Just(b"\x40\x02\0\x01".to_vec()),
        Just(b"\xc0\0".to_vec()),
        Just(b"\xe0\0".to_vec()),
        (prop::sample::select(vec![0x10u8, 0x30, 0x3b, 0x82, 0xa2, 0x40, 0xf0]), any::<[u8; 4]>())
            .prop_map(|(first, length)| [&[first][..], &length].concat()),
    ];
    proptest::collection::vec(fragment, 1..6).prop_map(|fragments| fragments.concat())
}

#[test]
fn no_bytes_disturb_a_healthy_pair() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let limits = Limits { burst_per_address: 1_000_000, pending: 4096, devices: 4096, ..Limits::default() };
    let hub =
        runtime.block_on(Hub::start(config_with(Limits { connect_timeout: Duration::from_secs(1), ..limits })))?;
    let mut pair = runtime.block_on(Pair::connect(hub.local_addr(), "healthy"))?;
    // The pair's bridge hears all devices: let it hear its own only.
    runtime.block_on(async {
        pair.bridge.unsubscribe("hawser/+/up/#").await?;
        pair.bridge.subscribe("hawser/healthy/up", rumqttc::mqttbytes::QoS::AtLeastOnce).await
    })?;
    let pair = tokio::sync::Mutex::new(pair);
    let inputs = (bytes(), prop::sample::select(vec!["nobody", "device", "bridge"]));
    TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() }).run(
        &inputs,
        |(bytes, speaker)| {
            let outcome: Result<()> = runtime.block_on(async {
                let mut client = match speaker {
                    "nobody" => Client::new(TcpStream::connect(hub.local_addr()).await?),
                    "device" => Client::connect(hub.local_addr(), as_device("x")).await?,
                    _ => Client::connect(hub.local_addr(), as_bridge("x")).await?,
                };
                // The hub may close before all is written.
                client.raw(&bytes).await.ok();
                pair.lock().await.talk().await
            });
            outcome.map_err(|error| TestCaseError::fail(format!("{error:#}")))
        },
    )?;
    anyhow::ensure!(hub.metrics().router_restarts() == 0, "the router died");
    // The bytes got as far as they were meant to.
    anyhow::ensure!(hub.metrics().refused(Refused::Malformed) > 0);
    anyhow::ensure!(hub.metrics().closed(Closed::Protocol) > 0);
    anyhow::ensure!(hub.metrics().closed(Closed::Disconnect) > 0);
    Ok(())
}
