//! The small example that the lab applies: a Deployment that greets from a ConfigMap, and a DaemonSet that beats on every
//! device.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::table;

const NAMESPACE: &str = "default";
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(200);

fn config_map() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "greeting" },
        "data": { "text": "ahoy" },
    })
}

fn template(app: &str, container: Value) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": {
            "containers": [container],
            "tolerations": [{ "key": "hawser.dev/device", "operator": "Exists" }],
            "terminationGracePeriodSeconds": 2,
        },
    })
}

fn deployment(devices: usize) -> Value {
    let container = json!({
        "name": "hello", "image": "host",
        "command": ["sh", "-c", "while :; do echo \"$TEXT from $NODE\"; sleep 5; done"],
        "env": [
            { "name": "TEXT", "valueFrom": { "configMapKeyRef": { "name": "greeting", "key": "text" } } },
            { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
        ],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "hello" },
        "spec": {
            "replicas": devices.max(1),
            "selector": { "matchLabels": { "app": "hello" } },
            "template": template("hello", container),
        },
    })
}

fn daemon_set() -> Value {
    let container = json!({
        "name": "beat", "image": "host", "command": ["sh", "-c", "while :; do date; sleep 10; done"],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "beat" },
        "spec": { "selector": { "matchLabels": { "app": "beat" } }, "template": template("beat", container) },
    })
}

/// The demo on one cluster.
pub struct Demo {
    client: Client,
    devices: usize,
}

impl Demo {
    /// For a lab with so many devices.
    pub fn new(client: Client, devices: usize) -> Self {
        Self { client, devices }
    }

    /// Applies the objects. Applying them again changes nothing.
    async fn apply(&self) -> Result<()> {
        let parameters = PatchParams::apply("hawser-lab").force();
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        maps.patch("greeting", &parameters, &Patch::Apply(config_map())).await.context("the ConfigMap of the demo")?;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        let hello = Patch::Apply(deployment(self.devices));
        deployments.patch("hello", &parameters, &hello).await.context("the Deployment of the demo")?;
        let daemon_sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        daemon_sets
            .patch("beat", &parameters, &Patch::Apply(daemon_set()))
            .await
            .context("the DaemonSet of the demo")?;
        Ok(())
    }

    /// Applies the objects once all devices are there, so that they are spread over all of them, and shows nodes and
    /// pods until everything is ready.
    pub async fn run(&self) -> Result<()> {
        let mut screen = Screen::new();
        self.watch_until_ready(&mut screen, 0).await?;
        self.apply().await?;
        self.watch_until_ready(&mut screen, self.devices.max(1) + self.devices).await
    }

    async fn watch_until_ready(&self, screen: &mut Screen, pods_wanted: usize) -> Result<()> {
        let started = now();
        loop {
            let (nodes, pods) = self.look().await?;
            screen.show(&table::render(&nodes, &pods, timestamp()));
            let nodes_ready = nodes.iter().filter(|node| table::node_is_ready(node)).count();
            let pods_ready = pods.iter().filter(|pod| table::pod_is_ready(pod)).count();
            // A demo of an earlier run may be there already.
            let pods_settled = pods_wanted == 0 || (pods_ready == pods_wanted && pods.len() == pods_wanted);
            if nodes_ready == self.devices && pods_settled {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "after {} s {nodes_ready} of {} nodes and {pods_ready} of {pods_wanted} pods are ready; \
                     `kubectl describe pods` and the log above say what is missing",
                    PATIENCE.as_secs(),
                    self.devices,
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Deletes the objects and waits until every pod is gone.
    pub async fn delete(&self) -> Result<()> {
        let parameters =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        deployments.delete("hello", &parameters).await.context("deleting the Deployment of the demo")?;
        let daemon_sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        daemon_sets.delete("beat", &parameters).await.context("deleting the DaemonSet of the demo")?;
        let started = now();
        loop {
            let (_, pods) = self.look().await?;
            if pods.is_empty() {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!("after {} s {} pods of the demo are still there", PATIENCE.as_secs(), pods.len());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<(Vec<Node>, Vec<Pod>)> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let demo = ListParams::default().labels("app in (hello,beat)");
        let nodes = nodes.list(&ListParams::default()).await.context("listing nodes")?;
        let pods = pods.list(&demo).await.context("listing pods")?;
        Ok((nodes.items, pods.items))
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: how long a person has waited")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the edge: ages are shown to a person")]
fn timestamp() -> Timestamp {
    Timestamp::now()
}

/// A table that is drawn over itself on a terminal, and printed anew when it changed elsewhere.
struct Screen {
    terminal: bool,
    shown: String,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), shown: String::new() }
    }

    fn show(&mut self, table: &str) {
        // Ages alone are no news for a log.
        if self.shown == table || (!self.terminal && without_ages(&self.shown) == without_ages(table)) {
            return;
        }
        let mut out = std::io::stdout().lock();
        // A closed standard output ends the showing, not the lab.
        let _ = if self.terminal {
            let up = self.shown.lines().count();
            let back = if up > 0 { format!("\x1b[{up}A\x1b[J") } else { String::new() };
            write!(out, "{back}{table}")
        } else {
            writeln!(out, "{table}")
        };
        let _ = out.flush();
        table.clone_into(&mut self.shown);
    }
}

fn without_ages(table: &str) -> Vec<Vec<&str>> {
    let is_age = |word: &str| {
        word.strip_suffix(['s', 'm', 'h', 'd']).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    table.lines().map(|line| line.split_whitespace().filter(|word| !is_age(word)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_are_what_the_api_takes() {
        for value in [deployment(3), daemon_set(), config_map()] {
            assert!(value["metadata"]["name"].is_string());
        }
        let typed: Deployment = serde_json::from_value(deployment(3)).unwrap();
        assert_eq!(typed.spec.and_then(|spec| spec.replicas), Some(3));
        let typed: DaemonSet = serde_json::from_value(daemon_set()).unwrap();
        assert!(typed.spec.is_some());
    }

    #[test]
    fn ages_are_no_news() {
        assert_eq!(without_ages("hello  1/1  Running  0  4s  lab-1"), without_ages("hello 1/1 Running 0 9s lab-1"));
        assert_ne!(without_ages("hello 0/1 Pending 0 4s"), without_ages("hello 1/1 Running 0 4s"));
    }
}
