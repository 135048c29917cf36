//! Where a join token waits for its device: one Secret per device in the bridge's own namespace.
//!
//! The Secret goes when the device has joined; the device's key in its status is then what counts.

use std::collections::BTreeMap;

use hawser_wire::DeviceId;
use hawser_wire::token::JoinToken;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// `type` of the Secret.
pub const SECRET_TYPE: &str = "hawser.dev/join-token";
/// The label that says which device the token is for.
pub const DEVICE_LABEL: &str = "hawser.dev/device";
const TOKEN: &str = "token";
const EXPIRES: &str = "expires";

/// A token as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// The token.
    pub token: JoinToken,
    /// Until when it may be used.
    pub expires: Timestamp,
}

/// The Secret's name: a hash would hide nothing, and people look for it.
pub fn secret_name(device: &DeviceId) -> String {
    format!("hawser-join-{device}")
}

impl StoredToken {
    /// The Secret to create.
    pub fn to_secret(&self, namespace: &str, device: &DeviceId) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(secret_name(device)),
                namespace: Some(namespace.to_owned()),
                labels: Some(BTreeMap::from([(DEVICE_LABEL.to_owned(), device.to_string())])),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(BTreeMap::from([
                (TOKEN.to_owned(), ByteString(self.token.to_text().into_bytes())),
                (EXPIRES.to_owned(), ByteString(self.expires.to_string().into_bytes())),
            ])),
            ..Secret::default()
        }
    }

    /// Reads the Secret back. `None` if somebody made something else of it.
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok());
        Some(Self { token: JoinToken::parse(text(TOKEN)?).ok()?, expires: text(EXPIRES)?.trim().parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_wire::TokenId;

    #[test]
    fn a_token_survives_its_secret() {
        let stored = StoredToken {
            token: JoinToken { id: TokenId([7; 8]), secret: [9; 32] },
            expires: "2026-11-21T12:00:00Z".parse().unwrap(),
        };
        let device = DeviceId::new("pi").unwrap();
        let secret = stored.to_secret("hawser-system", &device);
        assert_eq!(StoredToken::from_secret(&secret), Some(stored));
        assert_eq!(StoredToken::from_secret(&Secret::default()), None);
    }
}
