//! Who this device is: the one configuration file, written by `hawser-agent join`.
//!
//! It holds the device's secret key, so it is readable by its owner only. The ledger is sealed with that key: on a device
//! whose card may be stolen, `--config` puts this file where the card is not.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hawser_wire::session::StaticKey;
use hawser_wire::token::parse_hex;
use hawser_wire::{DeviceId, PublicKey, Root};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::link::hub_url::HubUrl;

/// The file's name in the state directory, unless `--config` names another.
pub const FILE: &str = "agent.json";
/// A configuration longer than this is none.
const MAX_FILE: u64 = 64 * 1024;

/// Who this device is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub device: DeviceId,
    /// Where the hub is.
    pub hub: HubUrl,
    /// The root of the topics.
    pub root: Root,
    /// The bridge's public key.
    pub bridge: PublicKey,
    /// The device's key.
    pub key: StaticKey,
    /// A PEM file with the certificates to trust for the hub instead of the system's.
    pub hub_ca: Option<PathBuf>,
    /// The password for the hub; the user name is the device's name.
    pub hub_password: Option<String>,
    /// Whether the bridge has welcomed us.
    pub joined: bool,
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No file.
    #[error("{0} does not exist: this device has not joined; run `hawser-agent join` (printed by `hawser device add`)")]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("{0} cannot be read; run as the user that joined, or as root")]
    Read(PathBuf, #[source] io::Error),
    /// The file says something impossible.
    #[error("{path}: {what}; correct it, or remove the file and join again")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file cannot be written.
    #[error("{0} cannot be written; check space and permissions of its directory")]
    Write(PathBuf, #[source] io::Error),
}

// The secret is wiped from memory with it.
#[derive(Serialize, Deserialize, zeroize::ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Stored {
    device: String,
    hub: String,
    root: String,
    bridge_key: String,
    secret_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[zeroize(skip)]
    hub_ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hub_password: Option<String>,
    joined: bool,
}

impl Identity {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let read = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => IdentityError::Missing(path.into()),
            _ => IdentityError::Read(path.into(), error),
        };
        let len = std::fs::metadata(path).map_err(read)?.len();
        if len > MAX_FILE {
            return Err(IdentityError::Invalid { path: path.into(), what: format!("{len} bytes are too many") });
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(read)?);
        Self::parse(&text).map_err(|what| IdentityError::Invalid { path: path.into(), what })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let stored: Stored = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut secret = Zeroizing::new([0; 32]);
        parse_hex(&stored.secret_key, secret.as_mut_slice()).ok_or("`secret_key` is not 64 hexadecimal digits")?;
        Ok(Self {
            device: DeviceId::new(&stored.device).map_err(|error| format!("`device`: {error}"))?,
            hub: HubUrl::parse(&stored.hub).map_err(|error| format!("`hub`: {error}"))?,
            root: Root::new(&stored.root).map_err(|error| format!("`root`: {error}"))?,
            bridge: PublicKey::parse(&stored.bridge_key).ok_or("`bridge_key` is not 64 hexadecimal digits")?,
            key: StaticKey::from_secret(*secret),
            hub_ca: stored.hub_ca.clone(),
            hub_password: stored.hub_password.clone(),
            joined: stored.joined,
        })
    }

    /// Writes the file, durably and at once.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        self.try_save(path).map_err(|error| IdentityError::Write(path.into(), error))
    }

    fn try_save(&self, path: &Path) -> io::Result<()> {
        let stored = Stored {
            device: self.device.to_string(),
            hub: self.hub.to_string(),
            root: self.root.to_string(),
            bridge_key: self.bridge.to_string(),
            secret_key: self.key.secret().iter().map(|byte| format!("{byte:02x}")).collect(),
            hub_ca: self.hub_ca.clone(),
            hub_password: self.hub_password.clone(),
            joined: self.joined,
        };
        let mut text = Zeroizing::new(serde_json::to_vec_pretty(&stored)?);
        text.push(b'\n');
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let new = path.with_extension("new");
        // An earlier attempt may have left one with other permissions.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn identity() -> Identity {
        Identity {
            device: DeviceId::new("pi-4").unwrap(),
            hub: HubUrl::parse("mqtts://hub:1234").unwrap(),
            root: Root::default(),
            bridge: PublicKey([3; 32]),
            key: StaticKey::from_secret([9; 32]),
            hub_ca: Some("/etc/ca.pem".into()),
            hub_password: None,
            joined: true,
        }
    }

    #[test]
    fn comes_back_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(matches!(Identity::load(&path), Err(IdentityError::Missing(_))));
        identity().save(&path).unwrap();
        identity().save(&path).unwrap();
        let loaded = Identity::load(&path).unwrap();
        assert_eq!((loaded.device.as_str(), loaded.hub.to_string().as_str()), ("pi-4", "mqtts://hub:1234"));
        assert_eq!((loaded.key.secret(), loaded.bridge, loaded.joined), (&[9; 32], PublicKey([3; 32]), true));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_bad_value_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        identity().save(&path).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for (from, to, named) in [
            ("pi-4", "Pi 4", "`device`"),
            ("mqtts://", "http://", "`hub`"),
            ("\"hawser\"", "\"a//b\"", "`root`"),
            ("0303", "xx", "`bridge_key`"),
            ("0909", "xx", "`secret_key`"),
            ("\"joined\"", "\"joind\"", "joind"),
        ] {
            std::fs::write(&path, good.replace(from, to)).unwrap();
            let error = Identity::load(&path).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        std::fs::write(&path, "").unwrap();
        assert!(matches!(Identity::load(&path), Err(IdentityError::Invalid { .. })));
    }
}
