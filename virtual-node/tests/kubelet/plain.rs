//! Requests with plain answers: logs, pods, numbers, and who may ask.

use anyhow::Result;
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use crate::support::{Identity, World, eventually, send, soon, whole};

#[tokio::test(flavor = "multi_thread")]
async fn logs_flow_and_errors_are_a_kubelets() -> Result<()> {
    let world = World::new().await?;
    assert_eq!(world.get("/containerLogs/default/web/main").await?, (StatusCode::OK, "one\ntwo\n".into()));
    let (_, text) = world.get("/containerLogs/default/web/main?tailLines=10000").await?;
    assert_eq!(text.len(), 80_000);
    for (path, status, text) in [
        ("/containerLogs/default/web/main?previous=true", 400, "previous terminated container \"main\" not found"),
        ("/containerLogs/default/web/main?tailLines=x", 400, r#"{"message": "Unable to decode query."}"#),
        ("/containerLogs/default/web/other", 404, "container \"other\" not found in pod \"web\""),
        ("/containerLogs/default/gone/main", 404, "pod \"gone\" does not exist"),
        ("/exec/default/gone/main?command=x&output=1", 404, "pod does not exist"),
        ("/exec/default/web/a-stale-uid/main?command=x&output=1", 404, "pod not found"),
        ("/exec/default/web/other?command=x&output=1", 500, "container not found (\"other\")"),
        ("/exec/default/web/main?command=x", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/default/web/main?command=x&output=1", 400, "Upgrade request required"),
        ("/portForward/default/web", 400, "Upgrade request required"),
        ("/nothing", 404, "404: Page Not Found"),
        ("/run/default/web/main?cmd=x", 405, "Method Not Allowed"),
    ] {
        let (got, said) = world.get(path).await?;
        assert_eq!((got.as_u16(), said.as_str()), (status, text), "{path}");
    }
    let (status, text) = world.post("/checkpoint/default/web/main").await?;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text.contains("this node cannot checkpoint"));
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_ends_with_its_connection_so_that_no_proxy_loses_its_end() -> Result<()> {
    let world = World::new().await?;
    let answer = world.send(world.request(Method::GET, "/containerLogs/default/web/main")).await?;
    let framed = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH].map(|name| answer.headers().contains_key(name));
    assert_eq!((answer.version(), framed), (Version::HTTP_10, [false, false]));
    assert_eq!(whole(answer).await?, (StatusCode::OK, "one\ntwo\n".into()));
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_comes_at_once_and_ends_with_its_client() -> Result<()> {
    let world = World::new().await?;
    let mut answers = Vec::new();
    for _ in 0..5 {
        let request = world.request(Method::GET, "/containerLogs/default/web/main?follow=true");
        let mut answer = world.send(request).await?;
        let frame = soon(answer.body_mut().frame()).await?.unwrap()?;
        assert_eq!(frame.into_data().unwrap(), "one\ntwo\n");
        answers.push(answer);
    }
    assert_eq!(world.provider.live.load(std::sync::atomic::Ordering::SeqCst), 5);
    drop(answers);
    world.nothing_lives().await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_can_be_run_without_a_stream() -> Result<()> {
    let world = World::new().await?;
    assert_eq!(world.post("/run/default/web/main?cmd=say+out+err+0").await?, (StatusCode::OK, "outerr".into()));
    let (status, text) = world.post("/run/default/web/main?cmd=say+out+err+3").await?;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "command 'say out err 3' exited with 3: outerr")
    );
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_uses_is_told_apart_by_query() -> Result<()> {
    let world = World::new().await?;
    for path in ["/metrics/resource", "/stats/summary", "/pods"] {
        let (status, text) = world.get(path).await?;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(text.contains("?node=NAME"), "{text}");
    }
    let (_, text) = world.get("/metrics/resource?node=gw").await?;
    assert!(text.contains("\nnode_cpu_usage_seconds_total 2.5\n"), "{text}");
    let (_, text) = world.get("/metrics/cadvisor?node=gw").await?;
    assert!(text.contains("container_memory_working_set_bytes{container=\"main\",id=\"/u/main\""), "{text}");
    let (_, text) = world.get("/stats/summary?node=gw").await?;
    let summary: Value = serde_json::from_str(&text)?;
    assert_eq!(summary["pods"][0]["memory"]["workingSetBytes"], 77);
    let (_, text) = world.get("/pods?node=gw").await?;
    let pods: Value = serde_json::from_str(&text)?;
    assert_eq!((&pods["kind"], &pods["items"][0]["metadata"]["name"]), (&json!("PodList"), &json!("web")));
    let (_, text) = world.get("/runningpods/?node=gw").await?;
    assert_eq!(serde_json::from_str::<Value>(&text)?["items"], json!([]));
    assert_eq!(world.get("/healthz").await?, (StatusCode::OK, "ok".into()));
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_port_of_its_own_needs_no_name() -> Result<()> {
    let world = World::with(|config| config.node_ports = Some(31_000..=31_999)).await?;
    let shown = |node: &k8s_openapi::api::core::v1::Node| {
        node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref().map(|endpoint| endpoint.port)
    };
    let node = world.node_is(|node| shown(node).is_some()).await?;
    let addresses = node.status.as_ref().unwrap().addresses.clone().unwrap();
    assert_eq!((addresses[0].type_.as_str(), addresses[0].address.as_str()), ("InternalIP", "127.0.0.1"));
    let mut address = world.address;
    address.set_port(u16::try_from(shown(&node).unwrap())?);
    assert_ne!(address, world.address);
    let (status, text) = eventually("the port to be open", async || {
        whole(send(address, None, world.request(Method::GET, "/metrics/resource")).await.ok()?).await.ok()
    })
    .await?;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("node_cpu_usage_seconds_total 2.5"));
    let answer = send(address, None, world.request(Method::GET, "/containerLogs/default/web/main")).await?;
    assert_eq!(whole(answer).await?.0, StatusCode::OK);
    world.stop().await
}

/// An authority, and a client that it has certified.
fn authority() -> Result<(String, Identity)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver-kubelet-client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    Ok((ca.pem(), (vec![certificate.der().clone()], key)))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_anonymous_and_certificates_of_the_authority_count() -> Result<()> {
    let (ca, (chain, key)) = authority()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, ca)?;
    let world = World::with(|config| config.client_ca = Some(path.clone())).await?;
    let plain = || Request::get("/healthz").header("host", "gw");
    let (status, text) = whole(send(world.address, None, plain()).await?).await?;
    assert_eq!((status, text.as_str()), (StatusCode::UNAUTHORIZED, "Unauthorized"));
    let wrong = plain().header("authorization", "Bearer nonsense");
    assert_eq!(send(world.address, None, wrong).await?.status(), StatusCode::UNAUTHORIZED);
    let known = send(world.address, Some((chain, key)), plain()).await?;
    assert_eq!(known.status(), StatusCode::OK);
    let (_, stranger) = authority()?;
    assert!(send(world.address, Some(stranger), plain()).await.is_err(), "refused in the handshake");
    world.stop().await
}
