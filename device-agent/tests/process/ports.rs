//! Connections to ports of pods.

use device_agent::streams::service::{Connection, Service};
use hawser_wire::deployment::RestartPolicy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::world::*;

#[tokio::test]
async fn connections_carry_bytes_both_ways_and_end_one_way_at_a_time() {
    let mut device = Device::new();
    device.start();
    device.run(&pod("p", RestartPolicy::Never, shell("exec sleep 1000")));
    device.until_running("p").await;
    let mut listeners = vec![TcpListener::bind("127.0.0.1:0").await.unwrap()];
    // Not every machine has IPv6.
    listeners.extend(TcpListener::bind("[::1]:0").await);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let verbs = device.verbs();
    for listener in listeners {
        let port = listener.local_addr().unwrap().port();
        // Says back what it hears when it has heard all, with a word of its own before and after.
        let serving = tokio::spawn(async move {
            for _ in 0..20 {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    stream.write_all(b"<").await.unwrap();
                    let mut heard = Vec::new();
                    stream.read_to_end(&mut heard).await.unwrap();
                    heard.push(b'>');
                    stream.write_all(&heard).await.unwrap();
                });
            }
        });
        let mut connections = Vec::new();
        for number in 0..20_u8 {
            connections.push((number, verbs.port_forward(uid("p"), port).await.unwrap()));
        }
        for (number, Connection { mut output, mut input }) in connections {
            assert_eq!(output.read_u8().await.unwrap(), b'<');
            let sent = vec![number; 300_000];
            input.write_all(&sent).await.unwrap();
            input.shutdown().await.unwrap();
            let mut back = Vec::new();
            output.read_to_end(&mut back).await.unwrap();
            assert_eq!((back.pop(), back == sent), (Some(b'>'), true));
        }
        serving.await.unwrap();
    }
    let refused = verbs.port_forward(uid("p"), closed).await.unwrap_err();
    let words = format!("failed to connect to localhost:{closed} inside namespace \"host\", IPv4: connection refused");
    assert!(refused.status == 409 && refused.message.starts_with(&words), "{refused:?}");
    device.run(&pod("over", RestartPolicy::Never, shell("exit 0")));
    device
        .until("the end", |device| {
            device.report("over").is_some_and(|report| report.phase == hawser_wire::report::Phase::Succeeded)
        })
        .await;
    for (pod, status, words) in
        [("over", 409, "pod \"over\" does not run"), ("nobody", 404, "the device has no pod nobody")]
    {
        let refused = verbs.port_forward(uid(pod), closed).await.unwrap_err();
        assert_eq!((refused.status, refused.message.as_str()), (status, words));
    }
    device.stop().await;
}
