//! `hawser device list`, and the summary of a device that `show` prints too.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use super::{Output, Where, print_json, reach, text};
use crate::device::Device;

/// List the devices.
#[derive(Debug, Args)]
#[command(after_help = "READY is what the bridge last said: True, False, Unknown, or NotJoined before the first join.

Examples:
  hawser device list
  hawser device list -o json | jq -r '.[] | select(.ready != \"True\") | .name'")]
pub struct List {
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    pub(super) place: Where,
}

/// What people want to know of a device at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    pub(super) name: String,
    pub(super) ready: String,
    pub(super) agent_version: Option<String>,
    pub(super) architecture: Option<String>,
    pub(super) last_seen: Option<Timestamp>,
    /// Unknown to somebody who may not list pods.
    pub(super) pods: Option<usize>,
    pub(super) created_at: Option<Timestamp>,
}

impl Summary {
    pub(super) fn of(device: &Device, pods: Option<usize>) -> Self {
        let status = device.status.clone().unwrap_or_default();
        let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let joined = status.public_key.is_some() || device.spec.public_key.is_some();
        Self {
            name: device.metadata.name.clone().unwrap_or_default(),
            ready: match condition {
                Some(condition) => condition.status.clone(),
                None if joined => "Unknown".to_owned(),
                None => "NotJoined".to_owned(),
            },
            agent_version: status.agent_version,
            architecture: status.architecture,
            last_seen: status.last_seen.map(|time| time.0),
            pods,
            created_at: device.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }

    fn row(&self, now: Timestamp) -> [String; 7] {
        let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        [
            self.name.clone(),
            self.ready.clone(),
            known(&self.agent_version),
            known(&self.architecture),
            ago(self.last_seen, now),
            self.pods.map_or_else(|| "-".to_owned(), |pods| pods.to_string()),
            self.created_at.map_or_else(|| "-".to_owned(), |time| text::age(time, now)),
        ]
    }
}

/// `3m12s ago`, or `never`.
pub(super) fn ago(time: Option<Timestamp>, now: Timestamp) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{} ago", text::age(time, now)))
}

impl List {
    pub(super) async fn execute(&self, client: Client, now: Timestamp, out: &mut dyn Write) -> anyhow::Result<()> {
        let api: Api<Device> = Api::all(client.clone());
        let devices =
            api.list(&ListParams::default()).await.map_err(|error| reach::explain("listing devices", &error))?;
        let pods = count_pods(&client).await?;
        let count = |device: &Device| {
            let name = device.metadata.name.as_deref().unwrap_or_default();
            pods.as_ref().map(|pods| pods.get(name).copied().unwrap_or(0))
        };
        let summaries: Vec<_> = devices.items.iter().map(|device| Summary::of(device, count(device))).collect();
        if self.output == Output::Json {
            return print_json(out, &summaries);
        }
        if summaries.is_empty() {
            return Ok(writeln!(out, "There are no devices. Add one with `hawser device add NAME`.")?);
        }
        let rows: Vec<_> = summaries.iter().map(|summary| summary.row(now)).collect();
        let header = ["NAME", "READY", "AGENT", "ARCH", "LAST SEEN", "PODS", "AGE"];
        Ok(write!(out, "{}", text::table(header, &rows))?)
    }
}

/// How many pods are bound to each node. In pages, of which only the names of nodes are kept; nothing for somebody who
/// may not list pods.
async fn count_pods(client: &Client) -> anyhow::Result<Option<BTreeMap<String, usize>>> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut counts = BTreeMap::new();
    let mut page = ListParams::default().fields("spec.nodeName!=").limit(500);
    loop {
        let pods = match api.list(&page).await {
            Ok(pods) => pods,
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
            Err(error) => return Err(reach::explain("counting pods", &error)),
        };
        for node in pods.items.into_iter().filter_map(|pod| pod.spec?.node_name) {
            *counts.entry(node).or_default() += 1;
        }
        match pods.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(Some(counts)),
        }
    }
}
