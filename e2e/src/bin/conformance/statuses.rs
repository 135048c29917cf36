//! Recording what a kubelet writes as the status of pods of all shapes.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use hawser_e2e::engine::Engine;
use hawser_e2e::shapes::shapes;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::Arguments;

/// Runs every shape on a kubelet and writes e2e/statuses.
pub(crate) async fn record(arguments: &Arguments) -> Result<()> {
    let kubelet = crate::start_kubelet(arguments, Arc::new(Engine::start()?)).await?;
    let pods: Api<Pod> = Api::default_namespaced(kubelet.client());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("statuses");
    for shape in shapes() {
        let status = shape.observe(&pods, kubelet.name()).await?;
        std::fs::write(folder.join(format!("{}.json", shape.name)), serde_json::to_string_pretty(&status)? + "\n")?;
        println!("recorded {}", shape.name);
    }
    kubelet.end().await
}
