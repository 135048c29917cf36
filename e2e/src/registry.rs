//! A registry for images on loopback: Debian's docker-registry, open or behind a user and a password.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::engine::find;

/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who may come in where not everybody may, and with what.
pub const USER: (&str, &str) = ("user", "password");
/// The line of a password file for [`USER`], as `htpasswd -B` writes it.
const PASSWORDS: &str = "user:$2b$05$KeCBe3Cul4z9j7eJI6QpueX14BUUP7nxYcKqum9Ajjyd2jIiaKsV6\n";

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: SocketAddr,
}

/// What is missing here for a registry, in words; `None`: nothing.
pub fn missing() -> Option<String> {
    find("docker-registry").is_none().then(|| "there is no docker-registry (install docker-registry)".to_owned())
}

impl Registry {
    /// A registry that is open to everybody, with its data in this folder.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::run(&folder.join("registry"), "")
    }

    /// A registry that only [`USER`] may use, with its data in this folder.
    pub fn start_with_user(folder: &Path) -> Result<Self> {
        let folder = folder.join("private-registry");
        std::fs::create_dir_all(&folder)?;
        let passwords = folder.join("passwords");
        std::fs::write(&passwords, PASSWORDS)?;
        let auth = format!("auth: {{htpasswd: {{realm: hawser, path: {}}}}}\n", passwords.display());
        Self::run(&folder, &auth)
    }

    fn run(folder: &Path, auth: &str) -> Result<Self> {
        let program = find("docker-registry").context(missing().unwrap_or_default())?;
        std::fs::create_dir_all(folder)?;
        // It cannot be asked which port it was given, so one is found for it.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = folder.join("config.yml");
        let data = folder.join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
            storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n{auth}",
            data.display()
        );
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut registry = Self { process: command.spawn()?, address };
        let deadline = now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if now() >= deadline || registry.process.try_wait()?.is_some() {
                bail!("docker-registry: {}", std::fs::read_to_string(folder.join("log")).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// Where it listens, as the name of an image begins.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "waits for a real process")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
