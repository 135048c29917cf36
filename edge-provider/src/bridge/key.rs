//! The bridge's key: the one thing that devices trust. It lives in a Secret, or in a file given by the operator.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hawser_wire::session::StaticKey;
use hawser_wire::token::parse_hex;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use zeroize::Zeroizing;

/// The Secret's name.
pub const SECRET_NAME: &str = "hawser-bridge-key";
const FIELD: &str = "key";
/// A key file is 64 digits and perhaps a line end.
const MAX_FILE: u64 = 256;

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The Secret [`SECRET_NAME`] in the bridge's namespace, made at the first start.
    Secret,
    /// A file with 64 hexadecimal digits.
    File(PathBuf),
}

/// The key cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the bridge key file {}: check --key-file", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("the bridge key file {} is not a key: expected 64 hexadecimal digits, as `openssl rand -hex 32` prints", path.display())]
    File {
        /// Which file.
        path: PathBuf,
    },
    /// The Secret holds something else. It is not replaced: devices have pinned what it was.
    #[error(
        "the Secret {namespace}/{SECRET_NAME} holds no key (field `{FIELD}`, 64 hexadecimal digits): restore it from a backup; if there is none, delete it, and every device has to join again"
    )]
    Secret {
        /// In which namespace.
        namespace: String,
    },
    /// The Secret can be neither read nor made.
    #[error(
        "cannot read or make the Secret {namespace}/{SECRET_NAME}: the namespace must exist and the bridge be allowed to get and create Secrets there (`hawser manifests rbac`)"
    )]
    Api {
        /// In which namespace.
        namespace: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// There is no randomness to make a key of.
    #[error("the operating system gives no random numbers to make the bridge's key of")]
    Random(#[source] getrandom::Error),
}

/// Reads the key; makes it if this is the first start.
pub async fn obtain(client: &kube::Client, namespace: &str, source: &KeySource) -> Result<StaticKey, KeyError> {
    match source {
        KeySource::File(path) => from_file(path).await,
        KeySource::Secret => from_secret(Api::namespaced(client.clone(), namespace), namespace).await,
    }
}

async fn from_file(path: &Path) -> Result<StaticKey, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let not_a_key = || KeyError::File { path: path.to_owned() };
    // Its length is looked at first: whatever is named by mistake is not read into memory.
    if tokio::fs::metadata(path).await.map_err(failed)?.len() > MAX_FILE {
        return Err(not_a_key());
    }
    let bytes = Zeroizing::new(tokio::fs::read(path).await.map_err(failed)?);
    parse(&bytes).ok_or_else(not_a_key)
}

async fn from_secret(secrets: Api<Secret>, namespace: &str) -> Result<StaticKey, KeyError> {
    let failed = |source| KeyError::Api { namespace: namespace.to_owned(), source };
    // A second round if another bridge made it between our look and our attempt.
    for _ in 0..2 {
        if let Some(secret) = secrets.get_opt(SECRET_NAME).await.map_err(failed)? {
            let stored = secret.data.as_ref().and_then(|data| data.get(FIELD));
            return stored
                .and_then(|bytes| parse(&bytes.0))
                .ok_or_else(|| KeyError::Secret { namespace: namespace.to_owned() });
        }
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(KeyError::Random)?;
        let key = StaticKey::from_secret(*bytes);
        match secrets.create(&PostParams::default(), &to_secret(&key, namespace)).await {
            Ok(_) => {
                tracing::info!(namespace, secret = SECRET_NAME, "made the bridge's key; keep a backup of this Secret");
                return Ok(key);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(KeyError::Secret { namespace: namespace.to_owned() })
}

fn to_secret(key: &StaticKey, namespace: &str) -> Secret {
    let digits: String = key.secret().iter().map(|byte| format!("{byte:02x}")).collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET_NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(FIELD.to_owned(), ByteString(digits.into_bytes()))])),
        type_: Some("hawser.dev/bridge-key".to_owned()),
        ..Secret::default()
    }
}

fn parse(bytes: &[u8]) -> Option<StaticKey> {
    let mut secret = Zeroizing::new([0; 32]);
    parse_hex(std::str::from_utf8(bytes).ok()?.trim(), secret.as_mut_slice())?;
    // All zeros is what an empty disk gives, not what anybody chose.
    secret.iter().any(|byte| *byte != 0).then(|| StaticKey::from_secret(*secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_file_is_a_key_or_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, format!("{}\n", "ab".repeat(32))).unwrap();
        let key = from_file(&path).await.unwrap();
        assert_eq!(key.secret(), &[0xab; 32]);
        for bad in ["", "abc", &"zz".repeat(32), &"00".repeat(32), &"a".repeat(10_000)] {
            std::fs::write(&path, bad).unwrap();
            let error = from_file(&path).await.unwrap_err();
            assert!(matches!(error, KeyError::File { .. }), "{bad}");
            assert!(error.to_string().contains(path.to_str().unwrap()));
        }
        let missing = from_file(&folder.path().join("none")).await.unwrap_err();
        assert!(matches!(missing, KeyError::Read { .. }));
    }

    #[test]
    fn a_key_survives_its_secret() {
        let key = StaticKey::from_secret([7; 32]);
        let secret = to_secret(&key, "hawser-system");
        assert_eq!(parse(&secret.data.unwrap()[FIELD].0).unwrap().public(), key.public());
    }
}
