//! `hawser device add`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use hawser_wire::token::JoinToken;
use hawser_wire::{DeviceId, PublicKey, Root, TokenId};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Taint};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;

use super::{Output, Where, print_json, reach, text};
use crate::device::bridge_info::{self, BridgeInfo};
use crate::device::join_token::{StoredToken, secret_name};
use crate::device::{Device, DeviceSpec};

/// How long a join token may live at most: it is a password that lies in a Secret.
const MAX_TTL: i64 = 30 * 86_400;

/// Add a device and print the command that joins it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hawser device add pi-4
  hawser device add gate-7 --label site=berlin --taint hawser.dev/device:NoSchedule --token-ttl 7d
  hawser device add pi-4 --renew                  another token: the first one was lost or has expired
  hawser device add pi-4 --renew --reset-key      the board was installed anew and has lost its key
  hawser device add pi-4 -o json | jq -r .command")]
pub struct Add {
    /// The device's name, which will be its Node's name
    #[arg(value_parser = |name: &str| DeviceId::new(name).map_err(|error| error.to_string()))]
    name: DeviceId,
    /// A label for the Node, as key=value; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// A taint for the Node, as key[=value]:effect, or `none`; may be repeated [default: hawser.dev/device:NoSchedule]
    #[arg(long = "taint", value_name = "TAINT", value_parser = parse_taint)]
    taints: Vec<Option<Taint>>,
    /// The device's public key, if it is known already
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    public_key: Option<PublicKey>,
    /// How long the join token may be used, at most 30d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ttl)]
    token_ttl: i64,
    /// Make a new token for a device that exists already
    #[arg(long, conflicts_with_all = ["labels", "taints", "public_key"])]
    renew: bool,
    /// With --renew: forget the key with which the device joined, so that it can join with another
    #[arg(long, requires = "renew")]
    reset_key: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    pub(super) place: Where,
}

impl Add {
    pub(super) async fn execute(&self, client: Client, now: Timestamp, out: &mut dyn Write) -> anyhow::Result<()> {
        let namespace = &self.place.namespace;
        // First, because without it nothing useful could be printed.
        let bridge = self.bridge(&client).await?;
        let device = if self.renew { self.existing(&client).await? } else { self.create(&client).await? };
        let mut secret = [0; 32];
        let mut id = [0; 8];
        getrandom::fill(&mut secret)
            .and_then(|()| getrandom::fill(&mut id))
            .context("the system gives no randomness")?;
        let expires = now
            .checked_add(SignedDuration::from_secs(self.token_ttl))
            .context("the clock of this machine is too far in the future")?;
        let stored = StoredToken { token: JoinToken { id: TokenId(id), secret }, expires };
        self.store(&client, &device, &stored).await.map_err(|error| {
            let name = &self.name;
            anyhow!("{error}; the device exists now: `hawser device add {name} --renew -n {namespace}` makes its token")
        })?;
        self.print(&bridge, &stored, now, out)
    }

    async fn bridge(&self, client: &Client) -> anyhow::Result<BridgeInfo> {
        let namespace = &self.place.namespace;
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        match api.get(bridge_info::CONFIG_MAP).await {
            Ok(map) => Ok(BridgeInfo::from_config_map(&map)?),
            Err(error) if reach::is_missing(&error) => bail!(
                "there is no ConfigMap `{}` in namespace `{namespace}`: no bridge has run there yet; start `hawser bridge`, or name the bridge's namespace with -n",
                bridge_info::CONFIG_MAP
            ),
            Err(error) => Err(reach::explain("reading what the bridge says of itself", &error)),
        }
    }

    async fn create(&self, client: &Client) -> anyhow::Result<Device> {
        let spec = DeviceSpec {
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            taints: (!self.taints.is_empty()).then(|| self.taints.iter().flatten().cloned().collect()),
            public_key: self.public_key.map(|key| key.to_string()),
        };
        let api: Api<Device> = Api::all(client.clone());
        let name = &self.name;
        api.create(&PostParams::default(), &Device::new(name.as_str(), spec)).await.map_err(|error| {
            if reach::is_taken(&error) {
                anyhow!(
                    "there is a device `{name}` already; choose another name, or make a new token for it with --renew"
                )
            } else {
                reach::explain(&format!("adding device `{name}`"), &error)
            }
        })
    }

    async fn existing(&self, client: &Client) -> anyhow::Result<Device> {
        let api: Api<Device> = Api::all(client.clone());
        let name = &self.name;
        let device = match api.get(name.as_str()).await {
            Ok(device) => device,
            Err(error) if reach::is_missing(&error) => {
                bail!("there is no device `{name}` to renew the token of; leave out --renew to add it")
            }
            Err(error) => return Err(reach::explain(&format!("reading device `{name}`"), &error)),
        };
        let joined = device.status.as_ref().is_some_and(|status| status.public_key.is_some());
        let keyed = joined || device.spec.public_key.is_some();
        match (keyed, self.reset_key) {
            (false, _) => return Ok(device),
            (true, false) => bail!(
                "device `{name}` has a key already and needs no token; if the board was installed anew and its key is lost, add --reset-key"
            ),
            (true, true) => {}
        }
        let failed = |error| reach::explain(&format!("forgetting the key of device `{name}`"), &error);
        let params = PatchParams::default();
        if joined {
            let forget = json!({"status": {"publicKey": null, "joinedAt": null}});
            api.patch_status(name.as_str(), &params, &Patch::Merge(forget)).await.map_err(failed)?;
        }
        if device.spec.public_key.is_some() {
            let forget = json!({"spec": {"publicKey": null}});
            api.patch(name.as_str(), &params, &Patch::Merge(forget)).await.map_err(failed)?;
        }
        Ok(device)
    }

    async fn store(&self, client: &Client, device: &Device, token: &StoredToken) -> anyhow::Result<()> {
        let namespace = &self.place.namespace;
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let mut secret = token.to_secret(namespace, &self.name);
        // The token goes with the device, whoever removes it and however.
        secret.metadata.owner_references = device.owner_ref(&()).map(|owner| vec![owner]);
        let failed = |error| reach::explain("storing the join token", &error);
        match api.create(&PostParams::default(), &secret).await {
            Err(error) if reach::is_taken(&error) => {
                let name = secret_name(&self.name);
                api.replace(&name, &PostParams::default(), &secret).await.map_err(failed)?;
            }
            done => drop(done.map_err(failed)?),
        }
        Ok(())
    }

    fn print(
        &self,
        bridge: &BridgeInfo,
        stored: &StoredToken,
        now: Timestamp,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let name = &self.name;
        let token = stored.token.to_text();
        let command = join_command(bridge, name, &token);
        if self.output == Output::Json {
            return print_json(
                out,
                &json!({
                    "name": name.as_str(),
                    "hubUrl": bridge.hub_url,
                    "root": bridge.root.as_str(),
                    "bridgeKey": bridge.public_key.to_string(),
                    "token": token,
                    "expires": stored.expires.to_string(),
                    "command": command,
                }),
            );
        }
        let did = if self.renew { "has a new join token" } else { "is added" };
        let ttl = text::length(stored.expires.as_second() - now.as_second());
        writeln!(out, "Device `{name}` {did}. Within {ttl}, run this on it, once:\n\n  {command}\n")?;
        writeln!(out, "Then start it with `hawser-agent run`, and see it with `hawser device show {name}`.")?;
        Ok(())
    }
}

fn join_command(bridge: &BridgeInfo, name: &DeviceId, token: &str) -> String {
    let root = if bridge.root == Root::default() { String::new() } else { format!(" --root {}", bridge.root) };
    format!(
        "hawser-agent join {} --name {name}{root} --bridge-key {} --token {token}",
        bridge.hub_url, bridge.public_key
    )
}

fn parse_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text).ok_or_else(|| "a public key has 64 hexadecimal digits".to_owned())
}

fn parse_ttl(text: &str) -> Result<i64, String> {
    match text::parse_length(text)? {
        seconds @ 60..=MAX_TTL => Ok(seconds),
        _ => Err("a join token lives between 1m and 30d".to_owned()),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is no label: write key=value"))?;
    check_key(key)?;
    check_value(value)?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_taint(text: &str) -> Result<Option<Taint>, String> {
    if text == "none" {
        return Ok(None);
    }
    let wrong = || format!("`{text}` is no taint: write key:effect or key=value:effect, or none");
    let (rest, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("`{effect}` is no effect of a taint: NoSchedule, PreferNoSchedule or NoExecute"));
    }
    let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value)));
    check_key(key)?;
    value.map(check_value).transpose()?;
    let (key, value) = (key.to_owned(), value.map(str::to_owned));
    Ok(Some(Taint { key, value, effect: effect.to_owned(), time_added: None }))
}

/// The name of a label or taint: up to 63 characters, perhaps after a DNS name and a slash.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let good = !name.is_empty() && is_word(name) && prefix.is_none_or(|prefix| DeviceId::new(prefix).is_ok());
    if good { Ok(()) } else { Err(format!("`{key}` is no name of a label or taint, such as site or example.com/site")) }
}

fn check_value(value: &str) -> Result<(), String> {
    if is_word(value) {
        Ok(())
    } else {
        Err(format!("`{value}` is no value of a label or taint: at most 63 letters, digits, `-`, `_` and `.`"))
    }
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_are_read_or_explained() {
        assert_eq!(parse_label("example.com/site=a.b").unwrap(), ("example.com/site".to_owned(), "a.b".to_owned()));
        assert_eq!(parse_label("empty=").unwrap().1, "");
        for bad in
            ["site", "=x", "-a=x", "a b=x", "a/=x", "/a=x", "A/b=x", "a=x y", "a=-x", &format!("a={}", "x".repeat(64))]
        {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_taint("none"), Ok(None));
        let taint = parse_taint("a.b/c=d:NoExecute").unwrap().unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("a.b/c", Some("d"), "NoExecute")
        );
        assert_eq!(parse_taint("a:NoSchedule").unwrap().unwrap().value, None);
        for bad in ["a", "a:Never", ":NoSchedule", "a=b", "a b:NoSchedule", "a=b c:NoSchedule"] {
            assert!(parse_taint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_lives_between_a_minute_and_thirty_days() {
        assert_eq!(parse_ttl("1m"), Ok(60));
        assert_eq!(parse_ttl("30d"), Ok(MAX_TTL));
        for bad in ["59s", "31d", "soon"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_root_is_part_of_the_command() {
        let mut bridge =
            BridgeInfo { public_key: PublicKey([1; 32]), hub_url: "mqtt://hub:1883".to_owned(), root: Root::default() };
        let name = DeviceId::new("pi").unwrap();
        let key = "01".repeat(32);
        assert_eq!(
            join_command(&bridge, &name, "T"),
            format!("hawser-agent join mqtt://hub:1883 --name pi --bridge-key {key} --token T")
        );
        bridge.root = Root::new("site").unwrap();
        assert!(join_command(&bridge, &name, "T").contains(" --root site "));
    }
}
