//! What the bridge keeps of a Device: a few hundred bytes instead of the whole object.

use std::collections::BTreeMap;

use hawser_wire::{DeviceId, PublicKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;

use crate::device::Device;

/// A Device, reduced to what is needed.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRecord {
    /// Its name.
    pub id: DeviceId,
    /// Its UID: a Device of the same name created later is another one.
    pub uid: String,
    /// Its key, if known.
    pub key: KnownKey,
    /// Labels for its Node.
    pub labels: BTreeMap<String, String>,
    /// Taints for its Node; `None`: the default one.
    pub taints: Option<Vec<Taint>>,
    /// Its architecture, as far as an earlier bridge knew it.
    pub architecture: Option<String>,
    /// When an earlier bridge heard it last.
    pub last_seen: Option<Timestamp>,
    /// What the condition `Ready` says, and since when.
    pub ready: Option<(String, Timestamp)>,
}

/// A device's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownKey {
    /// The device has not joined.
    None,
    /// The operator gave it.
    Given(PublicKey),
    /// The device joined with it.
    Joined(PublicKey),
    /// What is stored is not a key.
    Invalid,
}

impl KnownKey {
    /// The key, if there is one.
    pub fn key(self) -> Option<PublicKey> {
        match self {
            Self::Given(key) | Self::Joined(key) => Some(key),
            Self::None | Self::Invalid => None,
        }
    }
}

impl DeviceRecord {
    /// Reads a Device. `None` if it has no usable name (the API server would not have accepted it) or is being deleted.
    pub fn of(device: &Device) -> Option<Self> {
        if device.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let status = device.status.as_ref();
        let joined = status.and_then(|status| status.public_key.as_deref());
        let key = match (device.spec.public_key.as_deref(), joined) {
            (Some(given), _) => PublicKey::parse(given).map_or(KnownKey::Invalid, KnownKey::Given),
            (None, Some(joined)) => PublicKey::parse(joined).map_or(KnownKey::Invalid, KnownKey::Joined),
            (None, None) => KnownKey::None,
        };
        Some(Self {
            id: DeviceId::new(device.metadata.name.as_deref()?).ok()?,
            uid: device.metadata.uid.clone()?,
            key,
            labels: device.spec.labels.clone(),
            taints: device.spec.taints.clone(),
            architecture: status.and_then(|status| status.architecture.clone()),
            last_seen: status.and_then(|status| status.last_seen.as_ref()).map(|time| time.0),
            ready: status
                .and_then(|status| status.conditions.iter().find(|condition| condition.type_ == "Ready"))
                .map(|ready| (ready.status.clone(), ready.last_transition_time.0)),
        })
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: &str) -> Self {
        Self {
            id: DeviceId::new(name).unwrap(),
            uid: format!("uid-of-{name}"),
            key: KnownKey::None,
            labels: BTreeMap::new(),
            taints: None,
            architecture: None,
            last_seen: None,
            ready: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceSpec, DeviceStatus};

    fn device(given: Option<&str>, joined: Option<&str>) -> Device {
        let mut device =
            Device::new("pi", DeviceSpec { public_key: given.map(str::to_owned), ..DeviceSpec::default() });
        device.metadata.uid = Some("u".to_owned());
        device.status = Some(DeviceStatus { public_key: joined.map(str::to_owned), ..DeviceStatus::default() });
        device
    }

    #[test]
    fn the_operators_key_counts_before_the_joined_one() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let key = |given, joined| DeviceRecord::of(&device(given, joined)).unwrap().key;
        assert_eq!(key(None, None), KnownKey::None);
        assert_eq!(key(None, Some(&b)), KnownKey::Joined(PublicKey([0xbb; 32])));
        assert_eq!(key(Some(&a), Some(&b)), KnownKey::Given(PublicKey([0xaa; 32])));
        // A damaged key must not open the door for whoever joins next.
        assert_eq!(key(Some("zz"), Some(&b)), KnownKey::Invalid);
        assert_eq!(key(None, Some("b")), KnownKey::Invalid);
    }
}
