//! The way to a node's kubelet, with a kubelet that does what it is told.

mod fake;

use anyhow::{Context, Result};
use fake::{Answer, Client, Kubelet, eventually, piece, soon};
use hyper_util::rt::TokioIo;
use lab_kube_api::{Config, KubeApi};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const PODS: &str = "/api/v1/namespaces/default/pods";
const UPGRADE: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

struct World {
    api: KubeApi,
    client: Client,
    kubelet: Kubelet,
}

/// An API, a node `n` with a kubelet, a node `dead` without one, and pods.
async fn world() -> Result<World> {
    let addresses = ["InternalIP", "Hostname"].map(str::to_owned).to_vec();
    let api = KubeApi::start(Config { kubelet_addresses: addresses, ..Config::default() }).await?;
    let client = Client::of(&api)?;
    let published = client.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await?;
    let published = http_body_util::BodyExt::collect(published.into_body()).await?.to_bytes();
    let published: serde_json::Value = serde_json::from_slice(&published)?;
    let kubelet = Kubelet::start(published["data"]["client-ca-file"].as_str().context("no client CA")?).await?;
    for (node, port) in [("n", kubelet.address.port()), ("dead", free_port()?)] {
        let status = json!({"status": {
            "addresses": [{"type": "Hostname", "address": node}, {"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }});
        client.write("POST", "/api/v1/nodes", &json!({"metadata": {"name": node}})).await?;
        client.write("PATCH", &format!("/api/v1/nodes/{node}/status"), &status).await?;
    }
    client.write("POST", "/api/v1/nodes", &json!({"metadata": {"name": "nowhere"}})).await?;
    for (pod, node, containers) in [
        ("p", "n", &["a"][..]),
        ("two", "n", &["a", "b"]),
        ("waiting", "", &["a"]),
        ("lost", "gone", &["a"]),
        ("cut-off", "dead", &["a"]),
        ("unknown", "nowhere", &["a"]),
    ] {
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name, "image": "host"})).collect();
        let mut object = json!({"metadata": {"name": pod}, "spec": {"containers": containers}});
        if !node.is_empty() {
            object["spec"]["nodeName"] = json!(node);
        }
        client.write("POST", PODS, &object).await?;
    }
    Ok(World { api, client, kubelet })
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[tokio::test]
async fn a_log_comes_as_it_is_written_and_ends_with_the_kubelet() -> Result<()> {
    let mut world = world().await?;
    let (log, lines) = mpsc::channel(1);
    world.kubelet.will(Answer::Stream(lines));
    log.send(Ok("one\n")).await?;
    let query = "follow=true&tailLines=3&sinceTime=2026-01-02T03:04:05Z&container=a&timestamps=false";
    let response = world.client.get(&format!("{PODS}/p/log?{query}")).await?;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain");
    let seen = world.kubelet.saw().await?;
    let path = "/containerLogs/default/p/a?follow=true&sinceTime=2026-01-02T03%3A04%3A05Z&tailLines=3";
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", path));
    assert_eq!(seen.headers.get("authorization"), None);
    let mut body = response.into_body();
    // The second line is not written before the first one has arrived.
    assert_eq!(piece(&mut body).await?.as_deref(), Some("one\n"));
    log.send(Ok("two\n")).await?;
    assert_eq!(piece(&mut body).await?.as_deref(), Some("two\n"));
    assert_eq!(world.api.kubelet_connections(), 1);
    // A kubelet that is gone in the middle ends the log.
    log.send(Err(())).await?;
    assert_eq!(piece(&mut body).await?, None);
    eventually("the connection to the kubelet goes", || world.api.kubelet_connections() == 0).await?;
    world.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_is_said_in_the_real_words() -> Result<()> {
    let world = world().await?;
    let dead = world.client.told("GET", "/api/v1/nodes/dead", &[]).await?.1;
    let dead: serde_json::Value = serde_json::from_str(&dead)?;
    let dead = &dead["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let refused = format!("dial tcp 127.0.0.1:{dead}: connect: connection refused");
    let cases = [
        ("GET", "two/log", 400, "a container name must be specified for pod two, choose one of: [a b]".to_owned()),
        ("GET", "p/log?container=x", 400, "container x is not valid for pod p".to_owned()),
        ("GET", "none/log", 404, "pods \"none\" not found".to_owned()),
        ("GET", "waiting/log", 204, String::new()),
        ("POST", "waiting/exec?command=x", 400, "pod waiting does not have a host assigned".to_owned()),
        ("GET", "lost/log", 404, "pods \"gone\" not found".to_owned()),
        ("GET", "unknown/log", 500, "no preferred addresses found; known addresses: []".to_owned()),
        (
            "GET",
            "cut-off/log?follow=1",
            500,
            format!("Get \"https://127.0.0.1:{dead}/containerLogs/default/cut-off/a?follow=true\": {refused}"),
        ),
        ("POST", "cut-off/exec?command=x", 500, format!("error dialing backend: {refused}")),
        (
            "GET",
            "p/log?tailLines=-1",
            422,
            "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
                .to_owned(),
        ),
        ("POST", "p/log", 405, "the server does not allow this method on the requested resource".to_owned()),
        ("PUT", "p/exec", 405, "the server does not allow this method on the requested resource".to_owned()),
        ("POST", "p/exec?dryRun=All", 400, "dryRun is not supported".to_owned()),
    ];
    for (method, path, status, words) in cases {
        let told = world.client.told(method, &format!("{PODS}/{path}"), &UPGRADE).await?;
        assert_eq!(told, (status, words), "{method} {path}");
    }
    let plain = world.client.told("POST", &format!("{PODS}/p/exec?command=x"), &[]).await?;
    assert_eq!(plain, (400, "Upgrade request required".to_owned()));
    let node = world.client.told("GET", "/api/v1/nodes/dead/proxy/pods", &[]).await?;
    assert_eq!(node, (503, format!("error trying to reach service: {refused}")));
    assert_eq!(world.api.kubelet_connections(), 0);
    world.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_a_kubelet_refuses_is_passed_on() -> Result<()> {
    let world = world().await?;
    let unavailable = "the server is currently unable to handle the request ( pods/log p)";
    let gateway =
        "an error on the server (\"the device is away\") has prevented the request from succeeding ( pods/log p)";
    for (status, words, told) in [
        (400, "it waits", "it waits"),
        (500, "broken", "Internal error occurred: broken"),
        (503, "away", unavailable),
        (502, "the device is away", gateway),
        (404, "x", "the server could not find the requested resource ( pods/log p)"),
    ] {
        world.kubelet.will(Answer::Say(status, words));
        assert_eq!(world.client.told("GET", &format!("{PODS}/p/log"), &[]).await?, (status, told.to_owned()));
    }
    // Of an upgrade it goes through as it is.
    world.kubelet.will(Answer::Say(403, "not you"));
    let told = world.client.told("POST", &format!("{PODS}/p/exec?command=x"), &UPGRADE).await?;
    assert_eq!(told, (403, "not you".to_owned()));
    world.kubelet.will(Answer::Say(200, "why not"));
    let told = world.client.told("POST", &format!("{PODS}/p/exec?command=x"), &UPGRADE).await?;
    assert_eq!(told, (500, "invalid upgrade response: status code 200".to_owned()));
    // Nothing is an answer too.
    let (log, upgrade) = (format!("{PODS}/p/log"), format!("{PODS}/p/exec?command=x"));
    world.kubelet.will(Answer::Leave);
    let get = format!("Get \"https://{}/containerLogs/default/p/a\": EOF", world.kubelet.address);
    assert_eq!(world.client.told("GET", &log, &[]).await?, (500, get));
    world.kubelet.will(Answer::Leave);
    assert_eq!(world.client.told("POST", &upgrade, &UPGRADE).await?, (500, "unexpected EOF".to_owned()));
    eventually("all connections go", || world.api.kubelet_connections() == 0 && world.kubelet.open() == 0).await?;
    world.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_until_either_end_is_gone() -> Result<()> {
    let mut world = world().await?;
    for (verb, query, kubelet_path) in [
        (
            "exec",
            "stdin=true&stdout=true&command=echo&command=a%20b",
            "/exec/default/p/a?command=echo&command=a+b&input=1&output=1",
        ),
        ("attach", "stderr=true&tty=true", "/attach/default/p/a?error=1&tty=1"),
        ("portforward", "ports=80", "/portForward/default/p?port=80"),
    ] {
        for client_leaves in [true, false] {
            world.kubelet.will(Answer::Upgrade("SPDY/3.1"));
            let headers =
                [UPGRADE[0], UPGRADE[1], ("x-stream-protocol-version", "v4.channel.k8s.io"), ("x-remote-user", "root")];
            let response = world.client.send("POST", &format!("{PODS}/p/{verb}?{query}"), &headers, "").await?;
            assert_eq!((response.status().as_u16(), &response.headers()["upgrade"]), (101, &"SPDY/3.1".parse()?));
            let seen = world.kubelet.saw().await?;
            assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", kubelet_path));
            let header = |name: &str| seen.headers.get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("upgrade"), Some("SPDY/3.1"));
            assert_eq!(header("x-stream-protocol-version"), Some("v4.channel.k8s.io"));
            assert_eq!((header("host"), header("x-forwarded-for")), (Some("api.example"), Some("127.0.0.1")));
            assert_eq!((header("authorization"), header("x-remote-user")), (None, None));

            let mut client = TokioIo::new(soon("the client's end", hyper::upgrade::on(response)).await??);
            let mut kubelet = soon("the kubelet's end", world.kubelet.upgraded.recv()).await?.context("no kubelet")?;
            // More than all buffers hold together, so that pushing back is part of it.
            let much = vec![7; 3 << 20];
            let (there, back) = tokio::join!(client.write_all(&much), read(&mut kubelet, much.len()));
            there?;
            assert_eq!(back?, much);
            kubelet.write_all(b"back").await?;
            kubelet.flush().await?;
            assert_eq!(read(&mut client, 4).await?, b"back");
            if client_leaves {
                drop(client);
                assert_eq!(soon("the kubelet hears of it", kubelet.read(&mut [0])).await?.unwrap_or(0), 0);
            } else {
                kubelet.write_all(b"last").await?;
                kubelet.flush().await?;
                drop(kubelet);
                assert_eq!(read(&mut client, 4).await?, b"last");
                assert_eq!(soon("the client hears of it", client.read(&mut [0])).await?.unwrap_or(0), 0);
            }
        }
    }
    eventually("all connections go", || world.api.kubelet_connections() == 0).await?;
    world.api.stop().await;
    Ok(())
}

async fn read(io: &mut (impl AsyncReadExt + Unpin), count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    soon("bytes", io.read_exact(&mut bytes)).await??;
    Ok(bytes)
}

#[tokio::test]
async fn the_proxy_of_a_node_passes_requests_through() -> Result<()> {
    let mut world = world().await?;
    for id in [
        "n".to_owned(),
        format!("n:{}", world.kubelet.address.port()),
        format!("https:n:{}", world.kubelet.address.port()),
    ] {
        let path = format!("/api/v1/nodes/{id}/proxy/stats/summary?only=a%2Fb&limit=x");
        assert_eq!(world.client.told("GET", &path, &[("accept", "text/plain")]).await?, (200, "ok".to_owned()));
        let seen = world.kubelet.saw().await?;
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/stats/summary?only=a%2Fb&limit=x"));
        assert_eq!((&seen.headers["accept"], seen.headers.get("authorization")), (&"text/plain".parse()?, None));
    }
    let response = world.client.send("POST", "/api/v1/nodes/n/proxy/configz", &[], "a body").await?;
    assert_eq!((response.status().as_u16(), &*world.kubelet.saw().await?.body), (200, &b"a body"[..]));
    let moved = world.client.get("/api/v1/nodes/n/proxy?a=b").await?;
    assert_eq!((moved.status().as_u16(), &moved.headers()["location"]), (301, &"/api/v1/nodes/n/proxy/?a=b".parse()?));
    let other = world.client.told("GET", "/api/v1/nodes/http:n:22/proxy/", &[]).await?;
    assert_eq!(other.0, 400);
    // A kubelet that is gone in the middle is not taken for a whole answer.
    let (answer, pieces) = mpsc::channel(1);
    world.kubelet.will(Answer::Stream(pieces));
    answer.send(Ok("half")).await?;
    let mut body = world.client.get("/api/v1/nodes/n/proxy/pods").await?.into_body();
    assert_eq!(piece(&mut body).await?.as_deref(), Some("half"));
    answer.send(Err(())).await?;
    assert!(piece(&mut body).await.is_err());
    eventually("all connections go", || world.api.kubelet_connections() == 0 && world.kubelet.open() == 0).await?;
    world.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_of_clients_that_walk_away() -> Result<()> {
    let mut world = world().await?;
    let mut logs = Vec::new();
    for number in 0..100 {
        match number % 4 {
            // Before there is an answer.
            0 => {
                world.kubelet.will(Answer::Silence);
                let path = format!("{PODS}/p/log");
                let waiting = world.client.get(&path);
                tokio::select! {
                    _ = waiting => panic!("there is no answer"),
                    seen = world.kubelet.seen.recv() => drop(seen),
                }
                continue;
            }
            1 => {
                let (log, lines) = mpsc::channel(1);
                log.send(Ok("line\n")).await?;
                logs.push(log);
                world.kubelet.will(Answer::Stream(lines));
                drop(world.client.get(&format!("{PODS}/p/log?follow=true")).await?);
            }
            2 => {
                world.kubelet.will(Answer::Upgrade("websocket"));
                let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
                drop(world.client.send("GET", &format!("{PODS}/p/exec?command=x"), &headers, "").await?);
            }
            _ => {
                world.kubelet.will(Answer::Upgrade("SPDY/3.1"));
                let response = world.client.send("POST", &format!("{PODS}/p/portforward"), &UPGRADE, "").await?;
                drop(hyper::upgrade::on(response).await?);
            }
        }
        world.kubelet.saw().await?;
    }
    eventually("the API lets go of everything", || world.api.kubelet_connections() == 0).await?;
    eventually("the kubelet is let go of", || world.kubelet.open() == 0).await?;
    world.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_server_that_stops_lets_go_of_kubelets() -> Result<()> {
    let world = world().await?;
    world.kubelet.will(Answer::Upgrade("SPDY/3.1"));
    let response = world.client.send("POST", &format!("{PODS}/p/portforward"), &UPGRADE, "").await?;
    let mut client = TokioIo::new(soon("the client's end", hyper::upgrade::on(response)).await??);
    let (log, lines) = mpsc::channel(1);
    world.kubelet.will(Answer::Stream(lines));
    log.send(Ok("line\n")).await?;
    let mut body = world.client.get(&format!("{PODS}/p/log?follow=true")).await?.into_body();
    piece(&mut body).await?;
    soon("the server stops", world.api.stop()).await?;
    assert_eq!(soon("the client hears of it", client.read(&mut [0])).await?.unwrap_or(0), 0);
    eventually("the kubelet is let go of", || world.kubelet.open() == 0).await
}
