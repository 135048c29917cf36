//! The hub of a world: which program it is, where it listens, and how it proves who it is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::process::Command;

use super::port::Port;
use crate::process::{Role, command};

/// Which hub a world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubKind {
    /// `hawser hub`.
    Embedded,
    /// `hawser hub`, reached over TLS as `localhost`.
    EmbeddedTls,
    /// Mosquitto without access rules: everybody may publish and subscribe wherever they like.
    OpenMosquitto,
}

/// The hub of a world.
pub(super) struct HubPlace {
    pub(super) kind: HubKind,
    port: Port,
    folder: PathBuf,
}

impl HubPlace {
    pub(super) fn new(kind: HubKind, folder: &Path) -> Result<Self> {
        let place = Self { kind, port: Port::take()?, folder: folder.to_owned() };
        std::fs::write(place.password_file(), "a password of this story\n")?;
        if kind == HubKind::OpenMosquitto {
            let port = place.address().port();
            let config =
                format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest stderr\n");
            std::fs::write(place.mosquitto_file(), config)?;
        }
        Ok(place)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// How bridge and devices find it.
    pub(super) fn url(&self) -> String {
        match self.kind {
            HubKind::Embedded | HubKind::OpenMosquitto => format!("mqtt://{}", self.address()),
            HubKind::EmbeddedTls => format!("mqtts://localhost:{}", self.address().port()),
        }
    }

    /// The certificate of whom to trust, where there is TLS.
    pub(super) fn ca(&self) -> Option<PathBuf> {
        (self.kind == HubKind::EmbeddedTls).then(|| self.folder.join("ca.pem"))
    }

    /// Whose certificate it is to show from its next start on.
    pub(super) fn set_certificate(&self, certificate: &str, key: &str) -> Result<()> {
        std::fs::write(self.folder.join("hub.pem"), certificate)?;
        Ok(std::fs::write(self.folder.join("hub.key"), key)?)
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.folder.join("hub-password")
    }

    fn mosquitto_file(&self) -> PathBuf {
        self.folder.join("mosquitto.conf")
    }

    /// The program, ready to be started.
    pub(super) fn command(&self) -> Command {
        if self.kind == HubKind::OpenMosquitto {
            let mut mosquitto = Command::new(mosquitto().unwrap_or_else(|| "mosquitto".into()));
            mosquitto.arg("-c").arg(self.mosquitto_file()).stdin(std::process::Stdio::null()).kill_on_drop(true);
            return mosquitto;
        }
        let mut hub = command(Role::Hawser);
        hub.arg("hub").arg("--bridge-password-file").arg(self.password_file());
        let address = self.address().to_string();
        if self.kind == HubKind::EmbeddedTls {
            // It also speaks plain MQTT, on a port that nobody asks for.
            hub.args(["--listen", "127.0.0.1:0", "--tls-listen", &address]);
            hub.arg("--tls-cert").arg(self.folder.join("hub.pem")).arg("--tls-key").arg(self.folder.join("hub.key"));
        } else {
            hub.args(["--listen", &address]);
        }
        hub
    }
}

/// Where Mosquitto is, if it is installed.
pub fn mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts it where only root's PATH leads.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("mosquitto")).find(|program| program.is_file())
}
