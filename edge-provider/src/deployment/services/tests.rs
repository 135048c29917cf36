use k8s_openapi::api::core::v1;
use serde_json::{Value, json};

use super::*;

fn service(namespace: &str, name: &str, since: &str, spec: Value) -> v1::Service {
    let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": since});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn at(address: &str) -> Value {
    json!({"clusterIP": address, "ports": [{"port": 80}]})
}

const EARLY: &str = "2026-11-21T08:00:00Z";

fn town() -> Services {
    Services::these(&[
        service(
            "default",
            "kubernetes",
            EARLY,
            json!({"clusterIP": "10.0.0.1", "ports": [{"name": "https", "port": 443}]}),
        ),
        service("default", "other", EARLY, at("10.0.0.2")),
        service("shop", "web", EARLY, at("10.0.0.3")),
        service("shop", "late", "2026-11-21T12:00:00Z", at("10.0.0.4")),
        service("shop", "headless", EARLY, at("None")),
        service("shop", "elsewhere", EARLY, json!({"type": "ExternalName", "externalName": "example.com"})),
        service("shop", "portless", EARLY, json!({"clusterIP": "10.0.0.5"})),
        service("shop-2", "next", EARLY, at("10.0.0.6")),
        service("own", "kubernetes", EARLY, at("10.0.0.7")),
    ])
}

fn pod(namespace: &str, links: Value, status: Value) -> Pod {
    let metadata = json!({"namespace": namespace, "name": "p", "creationTimestamp": "2026-11-21T10:00:00Z"});
    serde_json::from_value(
        json!({"metadata": metadata, "spec": {"containers": [], "enableServiceLinks": links}, "status": status}),
    )
    .unwrap()
}

async fn heard(pod: &Pod) -> Vec<String> {
    let services = town().of(pod, Duration::ZERO).await.unwrap().unwrap();
    services.into_iter().map(|service| format!("{} {}", service.name, service.address)).collect()
}

#[tokio::test]
async fn a_pod_hears_of_its_namespace_and_of_the_api_server() {
    for (namespace, links, expected) in [
        ("shop", Value::Null, vec!["kubernetes 10.0.0.1", "late 10.0.0.4", "web 10.0.0.3"]),
        ("shop", json!(true), vec!["kubernetes 10.0.0.1", "late 10.0.0.4", "web 10.0.0.3"]),
        ("shop", json!(false), vec!["kubernetes 10.0.0.1"]),
        ("empty", json!(true), vec!["kubernetes 10.0.0.1"]),
        ("default", json!(true), vec!["kubernetes 10.0.0.1", "other 10.0.0.2"]),
        ("default", json!(false), vec!["kubernetes 10.0.0.1"]),
        ("own", json!(true), vec!["kubernetes 10.0.0.7"]),
        ("own", json!(false), vec!["kubernetes 10.0.0.1"]),
    ] {
        assert_eq!(heard(&pod(namespace, links.clone(), Value::Null)).await, expected, "{namespace} {links}");
    }
}

#[tokio::test]
async fn a_service_that_comes_later_is_none_until_a_container_starts_again() {
    let container = |state: Value, last: Value| {
        json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": state, "lastState": last}]})
    };
    let running = |since: &str| json!({"running": {"startedAt": since}});
    let ended = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-11-21T12:00:01Z"}});
    let (before, after) = ("2026-11-21T11:59:59Z", "2026-11-21T12:00:01Z");
    for (case, status, late, web) in [
        ("not started", json!({"phase": "Pending"}), true, true),
        ("waits for its image", container(json!({"waiting": {"reason": "ImagePullBackOff"}}), json!({})), true, true),
        ("started before it came", container(running(before), json!({})), false, true),
        ("started after it came", container(running(after), json!({})), true, true),
        ("has ended since", container(ended.clone(), json!({})), true, true),
        ("waits to be started again", container(json!({"waiting": {}}), ended.clone()), true, true),
        ("says it started at a time that was not", container(running("1970-01-01T00:00:05Z"), json!({})), false, true),
    ] {
        let heard = heard(&pod("shop", Value::Null, status)).await;
        let has = |name: &str| heard.iter().any(|service| service.starts_with(name));
        assert_eq!((has("late"), has("web")), (late, web), "{case}");
    }
}

#[test]
fn variables_are_named_and_ordered_as_a_kubelet_does() {
    let ports = json!([{"name": "dns-tcp", "port": 53}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let service = Service::of(&service("a", "my-dns", EARLY, json!({"clusterIP": "fd00::1", "ports": ports}))).unwrap();
    let lines: Vec<_> = service.variables().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        lines,
        [
            "MY_DNS_SERVICE_HOST=fd00::1",
            "MY_DNS_SERVICE_PORT=53",
            "MY_DNS_SERVICE_PORT_DNS_TCP=53",
            "MY_DNS_SERVICE_PORT_DNS=53",
            "MY_DNS_PORT=tcp://[fd00::1]:53",
            "MY_DNS_PORT_53_TCP=tcp://[fd00::1]:53",
            "MY_DNS_PORT_53_TCP_PROTO=tcp",
            "MY_DNS_PORT_53_TCP_PORT=53",
            "MY_DNS_PORT_53_TCP_ADDR=fd00::1",
            "MY_DNS_PORT_53_UDP=udp://[fd00::1]:53",
            "MY_DNS_PORT_53_UDP_PROTO=udp",
            "MY_DNS_PORT_53_UDP_PORT=53",
            "MY_DNS_PORT_53_UDP_ADDR=fd00::1",
        ]
    );
}

#[test]
fn a_new_list_replaces_what_was_known_and_a_service_without_address_goes() {
    let mut known = Known::default();
    let names = |known: &Known| known.services.keys().map(|(_, name)| name.clone()).collect::<Vec<_>>();
    known.begin_list();
    known.put(&service("a", "one", EARLY, at("10.0.0.1")));
    known.put(&service("a", "two", EARLY, at("10.0.0.2")));
    assert!(names(&known).is_empty() && !known.listed, "half a list is none");
    known.end_list();
    assert_eq!(names(&known), ["one", "two"]);
    known.begin_list();
    known.put(&service("a", "two", EARLY, at("10.0.0.2")));
    known.end_list();
    assert_eq!(names(&known), ["two"]);
    known.put(&service("a", "two", EARLY, at("None")));
    assert!(names(&known).is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_may_not_read_services_says_so_and_who_has_not_yet_is_waited_for() {
    let (sender, known) = latest::channel(Known::default());
    let services = Services { known };
    let pod = pod("shop", Value::Null, Value::Null);
    let patience = Duration::from_secs(10);
    assert_eq!(services.of(&pod, patience).await, Err(NOT_READ.to_owned()));
    sender.send_modify(|known| known.denied = Some("services is forbidden".to_owned()));
    assert_eq!(services.of(&pod, patience).await, Ok(Err(format!("{NOT_READ}: services is forbidden"))));
    sender.send_modify(|known| {
        known.begin_list();
        known.end_list();
    });
    assert_eq!(services.of(&pod, patience).await, Ok(Ok(Vec::new())));
}
