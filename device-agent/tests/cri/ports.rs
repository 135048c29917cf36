//! Connections to ports of pods that have a network of their own, or the device's.

use device_agent::streams::service::{Connection, Service};
use hawser_wire::deployment::{EdgeDeployment, RestartPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::world::*;

/// Says back what it hears, when it has heard all.
const ECHO: &str =
    "echo up; exec busybox nc -ll -p 8080 -e /bin/sh -c 'cat > /tmp/$$; echo -n \"<\"; cat /tmp/$$; echo -n \">\"'";

#[tokio::test]
async fn connections_reach_the_pods_own_network_and_end_one_way_at_a_time() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    device.run(&hasty(pod("p", RestartPolicy::Never, shell(ECHO))));
    device.until_running("p").await;
    device.until("its word", |device| device.output("p") == "up\n").await;
    device.engine.pid_of("nc -ll");
    let verbs = device.verbs();
    let mut connections = Vec::new();
    for number in 0..10_u8 {
        let connection = loop {
            match verbs.port_forward(uid("p"), 8080).await {
                Ok(connection) => break connection,
                // The program is on its way to its port.
                Err(refused) => assert!(refused.message.contains("connection refused"), "{refused:?}"),
            }
        };
        connections.push((number, connection));
    }
    let sent = |number| vec![b'a' + number; 300_000];
    let mut talks = tokio::task::JoinSet::new();
    for (number, Connection { mut output, mut input }) in connections {
        talks.spawn(async move {
            input.write_all(&sent(number)).await.unwrap();
            input.shutdown().await.unwrap();
            let mut back = Vec::new();
            output.read_to_end(&mut back).await.unwrap();
            assert!(back.len() == 300_002 && back[1..300_001] == sent(number), "{number}: {}", back.len());
        });
    }
    let all = async {
        while let Some(talk) = talks.join_next().await {
            talk.unwrap()
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    // A connection goes on while the engine is away.
    let Connection { mut output, mut input } = verbs.port_forward(uid("p"), 8080).await.unwrap();
    device.engine.crash();
    input.write_all(b"still here").await.unwrap();
    input.shutdown().await.unwrap();
    let mut back = String::new();
    output.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "<still here>");
    device.engine.run();
    // What the device itself listens to is not the pod's.
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = own.local_addr().unwrap().port();
    let refused = when_up(|| verbs.port_forward(uid("p"), port)).await.unwrap_err();
    let (begin, end) = (
        format!("failed to connect to localhost:{port} inside namespace "),
        "IPv4: connection refused, IPv6: connection refused",
    );
    assert!(
        refused.status == 409 && refused.message.starts_with(&begin) && refused.message.contains(end),
        "{refused:?}"
    );
    device.sweep("p").await;
}

#[tokio::test]
async fn a_pod_on_the_devices_network_has_its_ports_there_and_one_that_does_not_run_has_none() {
    let Some(mut device) = Device::new() else { return };
    device.start().await;
    let shared = EdgeDeployment {
        host_network: true,
        hostname: None,
        ..pod("p", RestartPolicy::Never, shell("exec sleep 1000"))
    };
    device.run(&hasty(shared));
    device.until_running("p").await;
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = own.local_addr().unwrap().port();
    let verbs = device.verbs();
    let Connection { mut output, mut input } = verbs.port_forward(uid("p"), port).await.unwrap();
    let (mut peer, _) = own.accept().await.unwrap();
    input.write_all(b"in").await.unwrap();
    let mut heard = [0; 2];
    peer.read_exact(&mut heard).await.unwrap();
    peer.write_all(b"out").await.unwrap();
    drop(peer);
    let mut back = String::new();
    output.read_to_string(&mut back).await.unwrap();
    assert_eq!((&heard, back.as_str()), (b"in", "out"));
    let refused = verbs.port_forward(uid("nobody"), port).await.unwrap_err();
    assert_eq!((refused.status, refused.message.as_str()), (404, "the device has no pod nobody"));
    device.sweep("p").await;
}
