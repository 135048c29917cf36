//! What the bridge says of itself to those who add devices: where the hub is and which key a device has to pin.
//!
//! The bridge writes it to a ConfigMap in its own namespace; nothing in it is secret. `hawser device add` makes the join
//! command of it.

use std::collections::BTreeMap;

use hawser_wire::{PublicKey, Root};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "hawser-bridge";
const PUBLIC_KEY: &str = "publicKey";
const HUB_URL: &str = "hubUrl";
const ROOT: &str = "root";

/// How devices reach the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeInfo {
    /// The key that a device pins.
    pub public_key: PublicKey,
    /// The hub, as devices reach it.
    pub hub_url: String,
    /// The first level of all topics.
    pub root: Root,
}

/// The ConfigMap does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key `{key}` of ConfigMap `{CONFIG_MAP}` is {problem}; the bridge writes it when it starts")]
pub struct InvalidBridgeInfo {
    key: &'static str,
    problem: &'static str,
}

impl BridgeInfo {
    /// The ConfigMap to write.
    pub fn to_config_map(&self, namespace: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([
                (PUBLIC_KEY.to_owned(), self.public_key.to_string()),
                (HUB_URL.to_owned(), self.hub_url.clone()),
                (ROOT.to_owned(), self.root.to_string()),
            ])),
            ..ConfigMap::default()
        }
    }

    /// Reads the ConfigMap back. What it says is printed as part of a command that people paste into a shell, so a hub
    /// URL with characters that a shell would act on is refused, as a root with such characters always is.
    pub fn from_config_map(map: &ConfigMap) -> Result<Self, InvalidBridgeInfo> {
        let read = |key: &'static str| {
            let value = map.data.as_ref().and_then(|data| data.get(key)).map(|value| value.trim());
            value.filter(|value| !value.is_empty()).ok_or(InvalidBridgeInfo { key, problem: "missing" })
        };
        let public_key = PublicKey::parse(read(PUBLIC_KEY)?)
            .ok_or(InvalidBridgeInfo { key: PUBLIC_KEY, problem: "not 64 hexadecimal digits" })?;
        let hub_url = read(HUB_URL)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":/.-_[]%".contains(&byte);
        if !hub_url.bytes().all(plain) || !hub_url.contains("://") {
            return Err(InvalidBridgeInfo { key: HUB_URL, problem: "not the URL of a hub" });
        }
        let root = Root::new(read(ROOT)?).map_err(|_| InvalidBridgeInfo { key: ROOT, problem: "not a topic root" })?;
        Ok(Self { public_key, hub_url: hub_url.to_owned(), root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> BridgeInfo {
        BridgeInfo {
            public_key: PublicKey([0xab; 32]),
            hub_url: "mqtts://hub.example:8883".to_owned(),
            root: Root::default(),
        }
    }

    #[test]
    fn it_survives_its_config_map() {
        assert_eq!(BridgeInfo::from_config_map(&info().to_config_map("hawser-system")), Ok(info()));
    }

    #[test]
    fn what_the_bridge_did_not_write_is_refused_by_key() {
        for (key, value, expected) in [
            (PUBLIC_KEY, "", "`publicKey` of ConfigMap `hawser-bridge` is missing"),
            (PUBLIC_KEY, "abc", "`publicKey` of ConfigMap `hawser-bridge` is not 64 hexadecimal digits"),
            (HUB_URL, "mqtt://x; rm -rf /", "`hubUrl` of ConfigMap `hawser-bridge` is not the URL of a hub"),
            (HUB_URL, "mqtt://$(id)", "`hubUrl` of ConfigMap `hawser-bridge` is not the URL of a hub"),
            (HUB_URL, "hub", "`hubUrl` of ConfigMap `hawser-bridge` is not the URL of a hub"),
            (ROOT, "a;b", "`root` of ConfigMap `hawser-bridge` is not a topic root"),
            (ROOT, "a#", "`root` of ConfigMap `hawser-bridge` is not a topic root"),
        ] {
            let mut map = info().to_config_map("hawser-system");
            map.data.as_mut().unwrap().insert(key.to_owned(), value.to_owned());
            let error = BridgeInfo::from_config_map(&map).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(BridgeInfo::from_config_map(&ConfigMap::default()).is_err());
    }
}
