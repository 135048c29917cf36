//! `hawser hub`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use embedded_hub::{Accounts, Devices, Hub, HubConfig, Password, TlsConfig};
use hawser_wire::{DeviceId, Root};

use super::Failure;
use super::process::{LogArgs, install_crypto, stop_on_signals};

const EXAMPLES: &str = "\
Examples:
  hawser hub --listen 0.0.0.0:1883 --bridge-password-file password
  hawser hub --tls-listen 0.0.0.0:8883 --tls-cert hub.pem --tls-key hub.key --bridge-password-file password
  hawser hub --listen 0.0.0.0:1883 --bridge-password-file password --devices-file devices

The devices file has one `name:password` per line. Without it every device may connect under its own name: the
workloads are protected by the session between agent and bridge, which the hub cannot read.";

/// Passwords are short; whatever is named by mistake is not read into memory.
const MAX_PASSWORD_FILE: u64 = 4096;
const MAX_DEVICES_FILE: u64 = 16 * 1024 * 1024;

/// Arguments of `hawser hub`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct HubArgs {
    #[command(flatten)]
    log: LogArgs,
    /// Where plain MQTT is spoken
    #[arg(long, value_name = "ADDR:PORT", env = "HAWSER_HUB_LISTEN", default_value = "127.0.0.1:1883")]
    listen: SocketAddr,
    /// Where MQTT over TLS is spoken
    #[arg(long, value_name = "ADDR:PORT", env = "HAWSER_HUB_TLS_LISTEN", requires_all = ["tls_cert", "tls_key"])]
    tls_listen: Option<SocketAddr>,
    /// The hub's certificate chain
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_TLS_CERT", requires = "tls_listen")]
    tls_cert: Option<PathBuf>,
    /// The key of the hub's certificate
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_TLS_KEY", requires = "tls_listen")]
    tls_key: Option<PathBuf>,
    /// The first levels of all topics
    #[arg(long, value_name = "ROOT", env = "HAWSER_ROOT", default_value = "hawser")]
    root: String,
    /// A file with the password of user `bridge` [default: $HAWSER_HUB_PASSWORD]
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_PASSWORD_FILE")]
    bridge_password_file: Option<PathBuf>,
    /// A file with the devices that may connect
    #[arg(long, value_name = "FILE", env = "HAWSER_HUB_DEVICES_FILE")]
    devices_file: Option<PathBuf>,
}

impl HubArgs {
    /// Runs the hub until a signal comes.
    pub async fn run(self) -> Result<(), Failure> {
        self.log.start()?;
        install_crypto();
        let stop = stop_on_signals().context("cannot listen to signals").map_err(Failure::running)?;
        let hub = Hub::start(self.config()?).await.map_err(Failure::address)?;
        stop.cancelled().await;
        hub.stop(Duration::from_secs(3)).await;
        Ok(())
    }

    fn config(&self) -> Result<HubConfig, Failure> {
        let root = Root::new(&self.root).context("--root").map_err(Failure::usage)?;
        let password = match &self.bridge_password_file {
            Some(path) => read_password(path)?,
            None => std::env::var("HAWSER_HUB_PASSWORD").unwrap_or_default(),
        };
        if password.is_empty() {
            return Err(Failure::usage(anyhow!(
                "the bridge needs a password: write one to a file and name it with --bridge-password-file"
            )));
        }
        let accounts = Accounts::new(Password::new(password));
        if let Some(path) = &self.devices_file {
            let text = read(path, MAX_DEVICES_FILE)?;
            accounts.set_devices(Devices::Table(devices(&text, path)?));
        }
        Ok(HubConfig {
            listen: self.listen,
            tls: self.tls()?,
            root: root.as_str().to_owned(),
            ..HubConfig::on_loopback(accounts)
        })
    }

    fn tls(&self) -> Result<Option<TlsConfig>, Failure> {
        let (Some(listen), Some(certificate), Some(key)) = (self.tls_listen, &self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let pem = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display())).map_err(Failure::address)
        };
        Ok(Some(TlsConfig { listen, certificate_pem: pem(certificate)?, key_pem: pem(key)? }))
    }
}

/// Reads a password from a file, without the end of its line.
pub(super) fn read_password(path: &Path) -> Result<String, Failure> {
    let text = read(path, MAX_PASSWORD_FILE)?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.contains('\n') {
        return Err(Failure::usage(anyhow!("the password file {} must hold one line", path.display())));
    }
    Ok(password.to_owned())
}

fn read(path: &Path, limit: u64) -> Result<String, Failure> {
    let named = || format!("cannot read {}", path.display());
    let len = std::fs::metadata(path).with_context(named).map_err(Failure::usage)?.len();
    if len > limit {
        return Err(Failure::usage(anyhow!("{} has {len} bytes, where at most {limit} make sense", path.display())));
    }
    std::fs::read_to_string(path).with_context(named).map_err(Failure::usage)
}

fn devices(text: &str, path: &Path) -> Result<BTreeMap<String, Password>, Failure> {
    let mut devices = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line.split_once(':').filter(|(_, password)| !password.is_empty());
        let entry = entry.and_then(|(name, password)| Some((DeviceId::new(name).ok()?, password)));
        let (name, password) = entry.ok_or_else(|| {
            Failure::usage(anyhow!("line {} of {}: expected `name:password`", number + 1, path.display()))
        })?;
        devices.insert(name.to_string(), Password::new(password));
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_file_is_read_and_its_faults_are_named() {
        let path = Path::new("devices");
        let read = devices("# ours\npi:secret:with:colons\n\ngw-1:x\n", path).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["gw-1", "pi"]);
        assert_eq!(read["pi"].reveal(), "secret:with:colons");
        for bad in ["pi", "pi:", "PI:x", ":x"] {
            let error = devices(&format!("a:b\n{bad}\n"), path).unwrap_err();
            assert!(error.line().contains("line 2 of devices"), "{}", error.line());
            assert_eq!(error.code, 2);
        }
    }

    #[test]
    fn a_password_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "secret\r\n").unwrap();
        assert_eq!(read_password(&path).unwrap(), "secret");
        for bad in ["", "\n", "a\nb\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(read_password(&path).is_err());
        }
        assert!(read_password(Path::new("/nowhere")).unwrap_err().line().contains("/nowhere"));
    }
}
