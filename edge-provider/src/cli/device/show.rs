//! `hawser device show`.

use std::io::Write;

use anyhow::bail;
use clap::Args;
use hawser_wire::DeviceId;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use super::list::{Summary, ago};
use super::{Output, Where, print_json, reach, text};
use crate::device::join_token::{StoredToken, secret_name};
use crate::device::{DEVICE_TAINT, Device};

/// Show all about one device.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hawser device show pi-4
  hawser device show pi-4 -o json | jq .conditions")]
pub struct Show {
    /// The device's name
    #[arg(value_parser = |name: &str| DeviceId::new(name).map_err(|error| error.to_string()))]
    name: DeviceId,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    pub(super) place: Where,
}

/// All about one device.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(flatten)]
    summary: Summary,
    public_key: Option<String>,
    joined_at: Option<Timestamp>,
    token: Token,
    labels: std::collections::BTreeMap<String, String>,
    taints: Option<Vec<Taint>>,
    conditions: Vec<Condition>,
    running: Option<Vec<PodLine>>,
}

/// What is known of the join token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
enum Token {
    /// There is none.
    None,
    /// It can be used until then.
    Valid { expires: Timestamp },
    /// It could be used until then.
    Expired { expires: Timestamp },
    /// Somebody made something else of its Secret.
    Unreadable,
    /// The caller may not read it.
    Hidden,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodLine {
    namespace: String,
    name: String,
    phase: String,
    created_at: Option<Timestamp>,
}

impl Show {
    pub(super) async fn execute(&self, client: Client, now: Timestamp, out: &mut dyn Write) -> anyhow::Result<()> {
        let device = device(&client, &self.name).await?;
        let token = self.token(&client, now).await?;
        let pods = pods(&client, &self.name).await?;
        let status = device.status.clone().unwrap_or_default();
        let details = Details {
            summary: Summary::of(&device, pods.as_ref().map(Vec::len)),
            public_key: device.spec.public_key.clone().or(status.public_key),
            joined_at: status.joined_at.map(|time| time.0),
            token,
            labels: device.spec.labels.clone(),
            taints: device.spec.taints.clone(),
            conditions: status.conditions,
            running: pods,
        };
        if self.output == Output::Json {
            return print_json(out, &details);
        }
        Ok(out.write_all(details.text(now).as_bytes())?)
    }

    async fn token(&self, client: &Client, now: Timestamp) -> anyhow::Result<Token> {
        let api: Api<Secret> = Api::namespaced(client.clone(), &self.place.namespace);
        match api.get(&secret_name(&self.name)).await {
            Ok(secret) => Ok(match StoredToken::from_secret(&secret) {
                Some(stored) if stored.expires > now => Token::Valid { expires: stored.expires },
                Some(stored) => Token::Expired { expires: stored.expires },
                None => Token::Unreadable,
            }),
            Err(error) if reach::is_missing(&error) => Ok(Token::None),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Token::Hidden),
            Err(error) => Err(reach::explain("reading the join token", &error)),
        }
    }
}

impl Details {
    fn text(&self, now: Timestamp) -> String {
        let summary = &self.summary;
        let name = &summary.name;
        let mut lines = vec![("Name", name.clone()), ("Ready", summary.ready.clone())];
        lines.push(("Agent", summary.agent_version.clone().unwrap_or_else(|| "-".to_owned())));
        lines.push(("Arch", summary.architecture.clone().unwrap_or_else(|| "-".to_owned())));
        lines.push(("Last seen", ago(summary.last_seen, now)));
        lines.push(("Joined", ago(self.joined_at, now)));
        lines.push(("Key", self.public_key.clone().unwrap_or_else(|| "not known yet".to_owned())));
        lines.push(("Join token", self.token.text(name, self.public_key.is_some(), now)));
        lines.push(("Labels", words(self.labels.iter().map(|(key, value)| format!("{key}={value}")))));
        lines.push((
            "Taints",
            match &self.taints {
                None => format!("{DEVICE_TAINT}:NoSchedule"),
                Some(taints) => words(taints.iter().map(taint)),
            },
        ));
        lines.push(("Age", summary.created_at.map_or_else(|| "-".to_owned(), |time| text::age(time, now))));
        let mut all: String = lines.iter().map(|(label, value)| format!("{label:<12}{value}\n")).collect();
        if !self.conditions.is_empty() {
            let rows: Vec<_> = self.conditions.iter().map(|condition| condition_row(condition, now)).collect();
            all += &format!("\nConditions\n{}", text::table(["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"], &rows));
        }
        match &self.running {
            None => all += "\nPods: you may not list them\n",
            Some(pods) if pods.is_empty() => all += "\nPods: none\n",
            Some(pods) => {
                let rows: Vec<_> = pods.iter().map(|pod| pod.row(now)).collect();
                all += &format!("\nPods\n{}", text::table(["NAMESPACE", "NAME", "STATUS", "AGE"], &rows));
            }
        }
        all
    }
}

impl Token {
    fn text(&self, name: &str, joined: bool, now: Timestamp) -> String {
        match self {
            Self::Valid { expires } => format!("valid for another {}", text::age(now, *expires)),
            Self::Expired { expires } => {
                format!("expired {}; make a new one with `hawser device add {name} --renew`", ago(Some(*expires), now))
            }
            Self::Unreadable => {
                format!("its Secret is not readable; make a new one with `hawser device add {name} --renew`")
            }
            Self::Hidden => "you may not read it".to_owned(),
            Self::None if joined => "none, and none is needed".to_owned(),
            Self::None => format!("none; make one with `hawser device add {name} --renew`"),
        }
    }
}

impl PodLine {
    fn of(pod: Pod) -> Self {
        let phase = pod.status.and_then(|status| status.phase).unwrap_or_else(|| "Unknown".to_owned());
        let leaving = pod.metadata.deletion_timestamp.is_some();
        Self {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            phase: if leaving { "Terminating".to_owned() } else { phase },
            created_at: pod.metadata.creation_timestamp.map(|time| time.0),
        }
    }

    fn row(&self, now: Timestamp) -> [String; 4] {
        let age = self.created_at.map_or_else(|| "-".to_owned(), |time| text::age(time, now));
        [self.namespace.clone(), self.name.clone(), self.phase.clone(), age]
    }
}

fn condition_row(condition: &Condition, now: Timestamp) -> [String; 5] {
    [
        condition.type_.clone(),
        condition.status.clone(),
        text::age(condition.last_transition_time.0, now),
        condition.reason.clone(),
        condition.message.clone(),
    ]
}

fn taint(taint: &Taint) -> String {
    let value = taint.value.as_ref().filter(|value| !value.is_empty()).map(|value| format!("={value}"));
    format!("{}{}:{}", taint.key, value.unwrap_or_default(), taint.effect)
}

fn words(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// The Device, or a line that says why not.
pub(super) async fn device(client: &Client, name: &DeviceId) -> anyhow::Result<Device> {
    let api: Api<Device> = Api::all(client.clone());
    match api.get(name.as_str()).await {
        Ok(device) => Ok(device),
        Err(error) if reach::is_missing(&error) => {
            bail!("there is no device `{name}`; `hawser device list` shows those there are")
        }
        Err(error) => Err(reach::explain(&format!("reading device `{name}`"), &error)),
    }
}

/// The pods bound to the device's Node; nothing for somebody who may not list pods.
async fn pods(client: &Client, name: &DeviceId) -> anyhow::Result<Option<Vec<PodLine>>> {
    let api: Api<Pod> = Api::all(client.clone());
    match api.list(&ListParams::default().fields(&format!("spec.nodeName={name}"))).await {
        Ok(pods) => Ok(Some(pods.items.into_iter().map(PodLine::of).collect())),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(reach::explain("listing pods", &error)),
    }
}

/// How many pods are bound to the device's Node.
pub(super) async fn count_pods(client: &Client, name: &DeviceId) -> anyhow::Result<Option<usize>> {
    Ok(pods(client, name).await?.map(|pods| pods.len()))
}
