use super::*;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

/// An API server that knows one token and one right, and counts what it is asked.
fn auth(asked: &Arc<AtomicUsize>) -> Auth {
    let asked = Arc::clone(asked);
    Auth::new(kube::Client::new(
        tower::service_fn(move |request: http::Request<Body>| {
            let asked = Arc::clone(&asked);
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                let path = request.uri().path().to_owned();
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let mut review: Value = serde_json::from_slice(&bytes).unwrap();
                review["status"] = if path.ends_with("tokenreviews") {
                    let user = json!({"username": "ann", "uid": "7", "groups": ["ops"], "extra": {"k": ["v"]}});
                    json!({"authenticated": review["spec"]["token"] == "good", "user": user})
                } else {
                    let right = &review["spec"]["resourceAttributes"];
                    json!({"allowed": review["spec"]["user"] == "ann" && review["spec"]["groups"] == json!(["ops"])
                        && right["verb"] == "get" && right["resource"] == "nodes" && right["version"] == "v1"
                        && right["subresource"] == "proxy" && right["name"] == "gw-1"})
                };
                let answer = http::Response::new(Body::from(review.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer)
            }
        }),
        "default",
    ))
}

fn with(authorization: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().unwrap())])
}

#[tokio::test(start_paused = true)]
async fn tokens_are_reviewed_once_in_two_minutes_and_nobody_is_anonymous() {
    let asked = Arc::default();
    let auth = auth(&asked);
    let ann = auth.authenticate(None, &with("Bearer good")).await.unwrap();
    assert_eq!((ann.name.as_str(), ann.uid.as_str(), &ann.extra["k"][0]), ("ann", "7", &"v".to_owned()));
    auth.authenticate(None, &with("bearer good")).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    tokio::time::advance(KNOWN_TOKEN).await;
    auth.authenticate(None, &with("Bearer good")).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    for headers in [HeaderMap::new(), with("Bearer bad"), with("Basic good"), with("Bearer "), with("Bearer")] {
        let refusal = auth.authenticate(None, &headers).await.unwrap_err();
        assert_eq!((refusal.status, refusal.text.as_str()), (StatusCode::UNAUTHORIZED, "Unauthorized"), "{headers:?}");
    }
    let certified = User { name: "kube-apiserver".into(), ..User::default() };
    assert_eq!(auth.authenticate(Some(&certified), &HeaderMap::new()).await, Ok(certified));
}

#[tokio::test(start_paused = true)]
async fn rights_fall_back_to_proxy_are_per_node_and_are_remembered() {
    let asked = Arc::default();
    let auth = auth(&asked);
    let ann = auth.authenticate(None, &with("Bearer good")).await.unwrap();
    let node = NodeName::new("gw-1").unwrap();
    let both: &[&str] = &["pods", "proxy"];
    assert_eq!(auth.authorize(&ann, "get", both, Some(&node)).await, Ok(()));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(auth.authorize(&ann, "get", both, Some(&node)).await, Ok(()));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    tokio::time::advance(DENIED).await;
    assert_eq!(auth.authorize(&ann, "get", both, Some(&node)).await, Ok(()));
    assert_eq!(asked.load(Ordering::Relaxed), 4, "a denial is forgotten sooner");
    let other = NodeName::new("gw-2").unwrap();
    for (verb, node) in [("create", Some(&node)), ("get", Some(&other)), ("get", None)] {
        let refusal = auth.authorize(&ann, verb, both, node).await.unwrap_err();
        let text = format!("Forbidden (user=ann, verb={verb}, resource=nodes, subresource(s)=[pods proxy])\n");
        assert_eq!((refusal.status, refusal.text), (StatusCode::FORBIDDEN, text));
    }
}

#[tokio::test]
async fn an_api_server_that_cannot_be_asked_lets_nobody_in() {
    let client = kube::Client::new(
        tower::service_fn(|_: http::Request<Body>| async {
            Err::<http::Response<Body>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
        }),
        "default",
    );
    let auth = Auth::new(client);
    assert_eq!(auth.authenticate(None, &with("Bearer good")).await.unwrap_err().status, StatusCode::UNAUTHORIZED);
    let refusal = auth.authorize(&User::default(), "get", &["proxy"], None).await.unwrap_err();
    assert_eq!(refusal.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(refusal.text.starts_with("Authorization error (user=, verb=get, resource=nodes, subresource=proxy)"));
}

#[test]
fn a_certificate_names_its_user_and_groups() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = |change: fn(&mut rcgen::DistinguishedName)| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params.distinguished_name);
        params.self_signed(&key).unwrap()
    };
    let full = certificate(|name| {
        name.push(rcgen::DnType::CommonName, "ann");
        name.push(rcgen::DnType::OrganizationName, "system:masters");
    });
    let user = User::of_certificate(full.der()).unwrap();
    assert_eq!(
        (user.name.as_str(), user.groups),
        ("ann", vec!["system:masters".into(), "system:authenticated".into()])
    );
    assert_eq!(User::of_certificate(certificate(|_| {}).der()), None);
    assert_eq!(User::of_certificate(b"no certificate"), None);
}
