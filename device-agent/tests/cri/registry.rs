//! A registry that misbehaves: what goes wrong with it is told in its own words, and harms no other pod.

use std::time::Duration;

use hawser_wire::deployment::{Container, EdgeDeployment, PullPolicy, RestartPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::world::*;

/// The configuration of the image whose layer is corrupt, and its digest.
const CONFIG: &str = concat!(
    r#"{"rootfs":{"type":"layers","diff_ids":["sha256:"#,
    r#"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]}}"#
);
const CONFIG_DIGEST: &str = "sha256:c2275cc46e6b60166bc5da0648e2ffd38a1337a3b59fd35aac0abad2f35d7570";
/// The digest of something else than what is sent.
const OTHER: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Answers for each repository as its name says.
struct Registry {
    address: String,
    _task: JoinSet<()>,
}

impl Registry {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, _task: task }
    }

    fn pod(&self, name: &str) -> EdgeDeployment {
        let image = format!("{}/{name}:1", self.address);
        let container = Container { image, pull_policy: PullPolicy::IfNotPresent, ..shell("exec sleep 1000") };
        pod(name, RestartPolicy::Always, container)
    }
}

async fn serve(mut stream: TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if request.len() > 64 * 1024 || stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let repository = path.trim_start_matches("/v2/").split('/').next().unwrap_or_default().to_owned();
    let error = |code: &str, message: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    let (status, header, body) = match repository.as_str() {
        "unauthorized" => {
            let header = "WWW-Authenticate: Basic realm=\"the harbour\"\r\n";
            ("401 Unauthorized", header, error("UNAUTHORIZED", "authentication required"))
        }
        "missing" => ("404 Not Found", "", error("MANIFEST_UNKNOWN", "manifest unknown")),
        "busy" => ("429 Too Many Requests", "", error("TOOMANYREQUESTS", "slow down")),
        "ill" => ("503 Service Unavailable", "", "the harbour is closed".to_owned()),
        "hanging" => return std::future::pending().await,
        "slow" | "corrupt" if path.contains("/manifests/") => ("200 OK", MANIFEST_TYPE, manifest()),
        "slow" if path.contains(OTHER) => return trickle(stream).await,
        "slow" | "corrupt" if path.contains(CONFIG_DIGEST) => ("200 OK", BLOB_TYPE, CONFIG.to_owned()),
        // As long as was promised, and something else.
        "corrupt" => ("200 OK", BLOB_TYPE, "x".repeat(1_000)),
        _ => ("200 OK", "", "{}".to_owned()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    if method != "HEAD" {
        let _ = stream.write_all(body.as_bytes()).await;
    }
    let _ = stream.shutdown().await;
}

const MANIFEST_TYPE: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
const BLOB_TYPE: &str = "Content-Type: application/octet-stream\r\n";

fn manifest() -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{CONFIG_DIGEST}","size":{}}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{OTHER}","size":1000}}]}}"#,
        CONFIG.len()
    )
}

/// One byte now and then, for ever.
async fn trickle(mut stream: TcpStream) {
    let head = format!("HTTP/1.1 200 OK\r\n{BLOB_TYPE}Content-Length: 1000\r\n\r\n");
    let mut bytes = head.as_bytes();
    loop {
        let (now, later) = if bytes.is_empty() { (&b"x"[..], bytes) } else { (bytes, &b""[..]) };
        if stream.write_all(now).await.is_err() {
            return;
        }
        bytes = later;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_registry_that_refuses_is_told_in_its_own_words_and_harms_no_other_pod() {
    let Some(mut device) = Device::new() else { return };
    let registry = Registry::start().await;
    device.start().await;
    let denied = if device.engine.is_since((2, 1)) { "no basic auth credentials" } else { "401 Unauthorized" };
    let wrong = if device.engine.is_crio() {
        [
            ("unauthorized", "unauthorized"),
            ("missing", "manifest unknown"),
            ("busy", "toomanyrequests: slow down"),
            ("ill", "503 Service Unavailable"),
            ("corrupt", "Digest did not match"),
        ]
    } else {
        [
            ("unauthorized", denied),
            ("missing", "not found"),
            ("busy", "429 Too Many Requests"),
            ("ill", "503 Service Unavailable"),
            ("corrupt", "unexpected commit digest"),
        ]
    };
    for (name, _) in wrong {
        device.run(&registry.pod(name));
    }
    device.run(&pod("well", RestartPolicy::Always, shell("exec sleep 1000")));
    device.until_running("well").await;
    for (name, words) in wrong {
        let told = |device: &Device| {
            let of_pod = device.events.iter().filter(|event| event.pod == Some(uid(name)) && event.reason == "Failed");
            of_pod.map(|event| event.message.clone()).find(|message| message.starts_with("Failed to pull image"))
        };
        device.until(&format!("what is wrong with {name}"), |device| told(device).is_some()).await;
        let message = told(&device).unwrap();
        assert!(message.contains(words), "{name}: {message}");
        device.until_waiting(name, "ImagePullBackOff").await;
    }
    assert_eq!(device.container("well").unwrap().restart_count, 0);
    for name in wrong.map(|(name, _)| name).into_iter().chain(["well"]) {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn an_engine_that_dies_in_the_middle_of_a_pull_is_told_and_its_pod_comes_up_when_it_can() {
    let Some(mut device) = Device::new() else { return };
    let registry = Registry::start().await;
    device.start().await;
    device.run(&hasty(pod("well", RestartPolicy::Always, shell("exec sleep 1000"))));
    device.until_running("well").await;
    let broken = hasty(registry.pod("slow"));
    device.run(&broken);
    let told = |reason: &'static str| {
        move |device: &Device| {
            device.events.iter().any(|event| event.pod == Some(uid("slow")) && event.reason == reason)
        }
    };
    device.until("the pull to begin", told("Pulling")).await;
    device.engine.crash();
    device.until("what became of it", told("Failed")).await;
    let failed = device.events.iter().find(|event| event.reason == "Failed").unwrap();
    assert!(
        failed.message.starts_with(&format!("Failed to pull image \"{}\"", broken.containers[0].image)),
        "{failed:?}"
    );
    device.engine.run();
    device.engine.import_as(&broken.containers[0].image);
    device.until_running("slow").await;
    device.until_running("well").await;
    assert_eq!(device.container("well").unwrap().restart_count, 0);
    for name in ["slow", "well"] {
        device.sweep(name).await;
    }
}

#[tokio::test]
async fn a_registry_that_hangs_holds_up_nobody_else_and_its_pod_can_be_deleted() {
    let Some(mut device) = Device::new() else { return };
    let registry = Registry::start().await;
    device.start().await;
    for name in ["hanging", "slow"] {
        device.run(&registry.pod(name));
        let pulling =
            |event: &hawser_wire::report::DeviceEvent| event.pod == Some(uid(name)) && event.reason == "Pulling";
        device.until("the pull to begin", |device| device.events.iter().any(pulling)).await;
    }
    device.run(&pod("well", RestartPolicy::Always, shell("exec sleep 1000")));
    device.until_running("well").await;
    for name in ["hanging", "slow", "well"] {
        device.sweep(name).await;
    }
}
