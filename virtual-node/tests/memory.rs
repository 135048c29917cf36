//! What an idle node costs the library, in bytes of the heap: a budget of the bridge, which has thousands of them.
//!
//! The API server of this test keeps nothing, so that what is counted is the library's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::{NodeAddress, NodeSystemInfo, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::client::Body;
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use virtual_node::provider::{Applied, ConditionReport, Liveness, NodeReport, NodeTemplate, NotApplied, Receipt};
use virtual_node::{Config, NodeName, PodRef, Provider, Revision, VirtualNodes, reports};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const NODES: usize = 500;
/// Half of what the bridge may take for an idle device altogether.
const BUDGET: usize = 4 * 1024;

struct Idle;

impl Provider for Idle {
    async fn apply(&self, _: Arc<Pod>, _: Revision) -> Result<Applied, NotApplied> {
        Ok(Applied::Settled)
    }
    async fn stop(&self, _: &NodeName, _: &PodRef, _: Duration, _: Revision) {}
    async fn forget(&self, _: &NodeName, _: &PodRef, _: Revision) {}
    async fn synced(&self, _: &NodeName, _: Vec<String>, _: Revision) {}
}

/// Has nothing, accepts everything, and counts the renewals of leases.
async fn answer(request: Request<Body>, renewals: Arc<AtomicUsize>) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().split('/').collect();
    if parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
        return std::future::pending().await;
    }
    let known = |name: &str| json!({"metadata": {"name": name, "uid": "u", "resourceVersion": "2"}});
    let (code, answer) = match (&parts.method, path.as_slice()) {
        (&Method::GET, [.., "nodes" | "pods"]) => (200, json!({"metadata": {"resourceVersion": "1"}, "items": []})),
        (&Method::POST, [.., "nodes"]) => {
            let bytes = body.collect_bytes().await.map_err(std::io::Error::other)?;
            let mut made: Value = serde_json::from_slice(&bytes)?;
            (made["metadata"]["uid"], made["metadata"]["resourceVersion"]) = (json!("u"), json!("1"));
            (201, made)
        }
        (&Method::PATCH, [.., "nodes", name, "status"]) => (200, known(name)),
        (&Method::PATCH, [.., "leases", name]) => {
            renewals.fetch_add(1, Ordering::Relaxed);
            (200, known(name))
        }
        _ => (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})),
    };
    Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).map_err(std::io::Error::other)
}

fn template(node: &str) -> NodeTemplate {
    let labels = [
        ("hawser.dev/device", node),
        ("kubernetes.io/arch", "arm64"),
        ("kubernetes.io/hostname", node),
        ("kubernetes.io/os", "linux"),
        ("node-role.kubernetes.io/edge", ""),
        ("type", "virtual-kubelet"),
    ];
    NodeTemplate {
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        taints: vec![Taint { key: "hawser.dev/device".into(), effect: "NoSchedule".into(), ..Taint::default() }],
        owner: Some(OwnerReference {
            api_version: "hawser.dev/v1alpha1".into(),
            kind: "Device".into(),
            name: node.to_owned(),
            uid: "0c7b0d5f-4bd2-4f8e-a4a5-a8d7a6a2d0d1".into(),
            ..OwnerReference::default()
        }),
        provider_id: Some(format!("hawser://{node}")),
        ..NodeTemplate::default()
    }
}

fn report() -> NodeReport {
    let resources = [("cpu", "4"), ("memory", "3977088Ki"), ("ephemeral-storage", "30440692Ki"), ("pods", "110")];
    let resources = resources.map(|(name, quantity)| (name.to_owned(), Quantity(quantity.to_owned())));
    let condition = |kind: &str| ConditionReport {
        kind: kind.to_owned(),
        status: Some(false),
        reason: format!("No{kind}"),
        message: "the device has enough of what this is about".to_owned(),
    };
    NodeReport {
        capacity: resources.clone().into(),
        allocatable: resources.into(),
        node_info: NodeSystemInfo {
            architecture: "arm64".into(),
            boot_id: "3f0a2a6e-6b4a-4c64-9ad7-6f2b8e6d7f10".into(),
            kernel_version: "6.12.47+rpt-rpi-v8".into(),
            kubelet_version: "hawser-agent/0.1.0".into(),
            machine_id: "0c7b0d5f4bd24f8ea4a5a8d7a6a2d0d1".into(),
            operating_system: "linux".into(),
            os_image: "Debian GNU/Linux 13 (trixie)".into(),
            ..NodeSystemInfo::default()
        },
        addresses: vec![NodeAddress { type_: "InternalIP".into(), address: "192.0.2.1".into() }],
        images: Vec::new(),
        conditions: ["MemoryPressure", "DiskPressure", "PIDPressure", "Throttled"].map(condition).to_vec(),
        declared_features: Vec::new(),
    }
}

#[tokio::test]
async fn an_idle_node_costs_less_than_its_budget() {
    let renewals = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&renewals);
    let api = tower::service_fn(move |request| answer(request, Arc::clone(&count)));
    let (reporter, inbox) = reports(64);
    let stop = CancellationToken::new();
    let nodes = VirtualNodes::new(kube::Client::new(api, "default"), Config::default());
    let engine = tokio::spawn(nodes.run(Arc::new(Idle), inbox, stop.clone()));

    let before = HEAP.current_usage();
    for number in 0..NODES {
        let node = NodeName::new(format!("board-in-a-shed-{number}")).unwrap();
        reporter.node_present(node.clone(), template(node.as_str())).await.unwrap();
        let receipt = reporter.node_status(node.clone(), report()).await.unwrap();
        assert_eq!(receipt.outcome().await, Ok(Receipt::Accepted));
        reporter.node_liveness(node, Liveness::Online).await.unwrap();
    }
    while renewals.load(Ordering::Relaxed) < NODES {
        tokio::task::yield_now().await;
    }
    let each = HEAP.current_usage().saturating_sub(before) / NODES;
    println!("an idle node costs {each} bytes");
    assert!((500..BUDGET).contains(&each), "{each}");
    stop.cancel();
    engine.await.unwrap().unwrap();
}
