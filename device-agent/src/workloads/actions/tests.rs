//! Probes and hooks over real sockets on loopback, and commands by a script.

use std::net::SocketAddr;
use std::sync::Arc;

use hawser_wire::PodUid;
use hawser_wire::deployment::{Care, Container, EdgeDeployment, GrpcHealth, Header, HttpGet, Probe, TcpSocket};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::runtime::scripted::Scripted;
use crate::workloads::lifecycle::{HookKind, ProbeKind};

fn id() -> ContainerId {
    ContainerId { pod: PodUid::new("u").unwrap(), name: "web".into(), attempt: 0 }
}

/// A pod whose container has this probe for everything, and this hook.
fn spec(action: &Action, timeout_seconds: u32) -> Arc<EdgeDeployment> {
    use crate::workloads::lifecycle::fixtures::{container, pod};
    let probe = Probe {
        action: action.clone(),
        initial_delay_seconds: 0,
        period_seconds: 1,
        timeout_seconds,
        success_threshold: 1,
        failure_threshold: 1,
        grace_seconds: None,
    };
    let care = Care { liveness: Some(probe), pre_stop: Some(action.clone()), ..Care::default() };
    let web = Container { care: Some(care), ..container("web") };
    Arc::new(pod(hawser_wire::deployment::RestartPolicy::Always, vec![], vec![web]))
}

async fn asked_of(runtime: &Scripted, action: &Action, timeout_seconds: u32) -> ProbeAnswer {
    let spec = spec(action, timeout_seconds);
    ask(runtime, &ProbeCall { id: id(), kind: ProbeKind::Liveness, spec, host: "127.0.0.1".into() }).await
}

async fn asked(action: &Action) -> ProbeAnswer {
    // Far more than an answer on loopback takes.
    asked_of(&Scripted::default(), action, 60).await
}

async fn hooked(runtime: &Scripted, action: &Action, limit: Option<Duration>) -> HookEnd {
    let spec = spec(action, 1);
    let call = HookCall { id: id(), kind: HookKind::PreStop, spec, host: "127.0.0.1".into(), limit };
    carry_out(runtime, &call).await
}

fn get(port: u16, path: &str) -> HttpGet {
    HttpGet { https: false, host: None, port, path: path.into(), headers: vec![] }
}

fn bad(words: &str) -> ProbeAnswer {
    ProbeAnswer::Bad(words.into())
}

/// Somebody who reads a request's head and answers each path in its way; what was asked, in the end.
async fn server(answer: impl Fn(&str) -> String + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = stream.write_all(answer(&String::from_utf8_lossy(&head)).as_bytes()).await;
        }
    });
    (port, task)
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_status_between_200_and_399_is_well() {
    let (port, task) = server(|head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let status = path.trim_start_matches('/');
        format!("HTTP/1.1 {status} Word\r\nContent-Length: 2\r\n\r\nhi")
    })
    .await;
    let ask = async |path: &str| asked(&Action::Http(get(port, path))).await;
    assert_eq!(ask("/200").await, ProbeAnswer::Good);
    assert_eq!(ask("204").await, ProbeAnswer::Good);
    assert_eq!(ask("/304").await, ProbeAnswer::Warning("Probe terminated redirects, Response body: ".into()));
    assert_eq!(ask("/400").await, bad("HTTP probe failed with statuscode: 400"));
    assert_eq!(ask("/503").await, bad("HTTP probe failed with statuscode: 503"));
    task.abort();
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let (port, task) = server(|head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let location = match path {
            "/here" => "/there",
            "/away" => "http://192.0.2.1/",
            "/round" => "/round",
            _ => return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\ngone")
    })
    .await;
    let ask = async |path: &str| asked(&Action::Http(get(port, path))).await;
    assert_eq!(ask("/here").await, ProbeAnswer::Good);
    assert_eq!(ask("/away").await, ProbeAnswer::Warning("Probe terminated redirects, Response body: gone".into()));
    assert_eq!(ask("/round").await, bad(&format!("Get \"http://127.0.0.1:{port}/round\": stopped after 10 redirects")));
    task.abort();
}

#[tokio::test]
async fn a_request_carries_the_headers_that_are_given_and_says_who_asks() {
    let (port, task) = server(|head| {
        // What was asked comes back where an answer's words are told.
        let shown: Vec<&str> = head.lines().filter(|line| !line.is_empty()).collect();
        let shown = shown.join("|").to_lowercase();
        format!("HTTP/1.1 300 Shown\r\nContent-Length: {}\r\n\r\n{shown}", shown.len())
    })
    .await;
    let shown = async |headers: &[(&str, &str)]| {
        let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
        let get = HttpGet { headers: headers.iter().map(header).collect(), ..get(port, "/p?q") };
        match asked(&Action::Http(get)).await {
            ProbeAnswer::Warning(words) => words.split("Response body: ").nth(1).unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let plain = shown(&[]).await;
    assert!(plain.starts_with("get /p?q http/1.1|"), "{plain}");
    for line in [&format!("host: 127.0.0.1:{port}"), "user-agent: kube-probe/1.36", "accept: */*", "connection: close"]
    {
        assert!(plain.split('|').any(|shown| shown == line), "{line} in {plain}");
    }
    let own = [("Host", "shop.example"), ("User-Agent", "me"), ("Accept", ""), ("X-A", "1"), ("X-A", "2")];
    let own = shown(&own).await;
    for line in ["host: shop.example", "user-agent: me", "x-a: 1", "x-a: 2"] {
        assert!(own.split('|').any(|shown| shown == line), "{line} in {own}");
    }
    assert!(!own.contains("accept"), "{own}");
    task.abort();
}

#[tokio::test]
async fn an_answer_may_be_long_or_nonsense() {
    let (port, task) = server(|head| match head.split(' ').nth(1) {
        Some("/long") => format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{}", "x".repeat(100_000)),
        Some("/head") => format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1_000_000)),
        _ => "SSH-2.0-OpenSSH\r\n".to_owned(),
    })
    .await;
    assert_eq!(asked(&Action::Http(get(port, "/long"))).await, ProbeAnswer::Good, "the rest of it is not waited for");
    for path in ["/head", "/ssh"] {
        let ProbeAnswer::Bad(words) = asked(&Action::Http(get(port, path))).await else { panic!("{path}") };
        assert!(words.starts_with(&format!("Get \"http://127.0.0.1:{port}{path}\": ")), "{words}");
    }
    task.abort();
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let runtime = Scripted::default();
    let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    let expected = bad(&format!("Get \"http://127.0.0.1:{port}/\": {why}"));
    assert_eq!(asked_of(&runtime, &Action::Http(get(port, "/")), 1).await, expected);
    let health = GrpcHealth { port, service: String::new() };
    let ProbeAnswer::Bad(words) = asked_of(&runtime, &Action::Grpc(health), 1).await else { panic!() };
    assert!(words.starts_with("timeout: "), "{words}");
    drop(listener);
}

#[tokio::test]
async fn nobody_there_is_bad() {
    let port = free_port().await;
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(asked(&Action::Tcp(TcpSocket { host: None, port })).await, bad(&refused));
    let expected = bad(&format!("Get \"http://127.0.0.1:{port}/\": {refused}"));
    assert_eq!(asked(&Action::Http(get(port, "/"))).await, expected);
    let health = GrpcHealth { port, service: String::new() };
    let ProbeAnswer::Bad(words) = asked(&Action::Grpc(health)).await else { panic!() };
    assert!(words.starts_with(&format!("error: failed to connect service at \"127.0.0.1:{port}\": ")), "{words}");
}

#[tokio::test]
async fn a_port_that_listens_is_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(asked(&Action::Tcp(TcpSocket { host: None, port })).await, ProbeAnswer::Good);
    assert_eq!(asked(&Action::Tcp(TcpSocket { host: Some("localhost".into()), port })).await, ProbeAnswer::Good);
}

/// A gRPC server that answers a health question about `good`, `bad` and `none` so.
async fn health_server() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |request: hyper::Request<hyper::body::Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let question = request.into_body().collect().await.unwrap().to_bytes();
        let response = hyper::Response::builder().header("content-type", "application/grpc");
        let status = match question.get(7..) {
            Some(b"good") => 1,
            Some(b"bad") => 2,
            _ => {
                let refused = response.header("grpc-status", "12").header("grpc-message", "unknown service");
                return refused.body(Full::new(bytes::Bytes::new()).boxed());
            }
        };
        let message = bytes::Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
        response.body(body.boxed())
    };
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let executor = hyper_util::rt::TokioExecutor::new();
            let builder = hyper::server::conn::http2::Builder::new(executor);
            let service = hyper::service::service_fn(answer);
            let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_grpc_health_service_is_believed() {
    let (address, task) = health_server().await;
    for (service, expected) in [
        ("good", ProbeAnswer::Good),
        ("bad", bad("service unhealthy (responded with \"NOT_SERVING\")")),
        (
            "none",
            bad(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service",
            ),
        ),
    ] {
        let health = GrpcHealth { port: address.port(), service: service.into() };
        assert_eq!(asked(&Action::Grpc(health)).await, expected, "{service}");
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_command_is_well_if_it_ends_with_0_in_time() {
    let runtime = Scripted::default();
    runtime.set_command("sick", Duration::ZERO, 1, "no such file\n");
    runtime.set_command("slow", Duration::from_secs(5), 0, "");
    runtime.set_command("wordy", Duration::ZERO, 1, &"ü".repeat(10_000));
    let ask = async |command: &str| asked_of(&runtime, &Action::Exec(vec![command.into()]), 2).await;
    assert_eq!(ask("fine").await, ProbeAnswer::Good);
    assert_eq!(ask("sick").await, bad("no such file\n"));
    assert_eq!(ask("slow").await, bad("command timed out: \"slow\" timed out after 2s"));
    let ProbeAnswer::Bad(words) = ask("wordy").await else { panic!() };
    assert_eq!(words.len(), MAX_WORDS);
}

#[tokio::test(start_paused = true)]
async fn hooks_end_well_badly_or_not_in_time() {
    let runtime = Scripted::default();
    runtime.set_command("sick", Duration::ZERO, 1, "");
    runtime.set_command("slow", Duration::from_secs(5), 0, "");
    let exec = |command: &str| Action::Exec(vec![command.into()]);
    let soon = Some(Duration::from_secs(2));
    for (case, action, limit, expected) in [
        ("a command", exec("fine"), soon, HookEnd::Done),
        ("a command that fails", exec("sick"), soon, HookEnd::Failed),
        ("a command that takes too long", exec("slow"), soon, HookEnd::Cut),
        ("a command that may take long", exec("slow"), None, HookEnd::Done),
        ("a pause", Action::Sleep(1), soon, HookEnd::Done),
        ("a long pause", Action::Sleep(3), soon, HookEnd::Cut),
        ("what kubelets fail, too", Action::Tcp(TcpSocket { host: None, port: 1 }), soon, HookEnd::Failed),
    ] {
        assert_eq!(hooked(&runtime, &action, limit).await, expected, "{case}");
    }
}

#[tokio::test]
async fn any_answer_will_do_for_a_hook() {
    let (port, task) = server(|_| "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
    let runtime = Scripted::default();
    assert_eq!(hooked(&runtime, &Action::Http(get(port, "/")), None).await, HookEnd::Done);
    let nobody = free_port().await;
    assert_eq!(hooked(&runtime, &Action::Http(get(nobody, "/")), None).await, HookEnd::Failed);
    task.abort();
}
