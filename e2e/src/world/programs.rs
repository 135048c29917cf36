//! The programs of a world: started, killed, asked, and listened to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result};
use hawser_lab::rope::{Faults, Rope};
use tokio::process::Command;

use super::board::Join;
use super::{SYSTEM, World};
use crate::ground::on_cluster;
use crate::process::{Program, Role, command, output, processes_of};
use crate::wait::{SOON, eventually};

impl World {
    // ---- the hub ----

    /// Starts the hub.
    pub async fn start_hub(&self) -> Result<()> {
        self.hub.start(self.hub_place.command())?;
        let address = self.hub_address();
        eventually("the hub listens", SOON, || async {
            tokio::net::TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    /// SIGKILL for the hub. It keeps nothing.
    pub async fn kill_hub(&self) -> Result<()> {
        self.hub.kill().await
    }

    /// Whose certificate, as PEM, the hub is to show from its next start on, with its key.
    pub fn set_hub_certificate(&self, (certificate, key): &(String, String)) -> Result<()> {
        self.hub_place.set_certificate(certificate, key)
    }

    // ---- the bridge ----

    /// Starts the bridge, with rights of its own and no others.
    pub async fn start_bridge(&self) -> Result<()> {
        self.start_bridge_with(&[])
    }

    /// As [`start_bridge`](Self::start_bridge), with further arguments.
    pub fn start_bridge_with(&self, arguments: &[&str]) -> Result<()> {
        self.bridge.start(self.bridge_command(arguments))
    }

    /// Runs a bridge that is expected to give up, and waits for that.
    pub async fn run_bridge(&self, arguments: &[&str]) -> Result<Output> {
        output(self.bridge_command(arguments)).await
    }

    fn bridge_command(&self, arguments: &[&str]) -> Command {
        let mut bridge = command(Role::Hawser);
        bridge.arg("bridge").arg("--kubeconfig").arg(self.ground.bridge_kubeconfig());
        bridge.args(["--namespace", SYSTEM, "--hub", &self.hub_place.url()]);
        bridge.arg("--hub-password-file").arg(self.hub_place.password_file());
        if let Some(ca) = self.hub_place.ca() {
            bridge.arg("--hub-ca").arg(ca);
        }
        bridge.args(["--heartbeat", &self.heartbeat_seconds.to_string()]);
        if !arguments.contains(&"--http") {
            bridge.args(["--http", "none"]);
        }
        if !arguments.contains(&"--kubelet-listen") {
            // The port may be another one after a restart: the nodes tell it.
            bridge.args(["--kubelet-listen", &SocketAddr::new(kubelet_address(), 0).to_string()]);
        }
        bridge.args(arguments);
        bridge
    }

    /// Whether API servers pass requests to `nodes/<name>/proxy` on to where the kubelet API of this world is: real ones
    /// refuse loopback addresses.
    pub fn kubelet_is_proxied(&self) -> bool {
        !on_cluster() || !kubelet_address().is_loopback()
    }

    /// SIGKILL for the bridge.
    pub async fn kill_bridge(&self) -> Result<()> {
        self.bridge.kill().await
    }

    /// The bridge's process id.
    pub fn bridge_pid(&self) -> Option<u32> {
        self.bridge.pid()
    }

    /// What the bridge has printed, over all its lives.
    pub fn bridge_said(&self) -> String {
        self.bridge.said()
    }

    // ---- agents ----

    /// Starts an agent.
    pub async fn start_agent(&self, number: usize) -> Result<()> {
        self.devices[number].agent.start(self.agent_command(number))
    }

    /// Starts an agent whose wall clock says 1970. `false`, with a word about it: it was started with the right time.
    pub async fn start_agent_in_1970(&self, number: usize) -> Result<bool> {
        Ok(self.start_agent_with_clock(number, "@1970-01-01 00:01:00")?.is_some())
    }

    /// Starts an agent whose wall clock is ten years behind, as are those of the shims that it starts. `false`, with a word
    /// about it: it was started with the right time.
    pub async fn start_agent_years_behind(&self, number: usize) -> Result<bool> {
        let mut agent = self.agent_command(number);
        let pretends = pretend(&mut agent);
        if pretends {
            // Not a clock that can be set: the shims have to have it too.
            agent.env("FAKETIME", "-10y");
        }
        self.devices[number].agent.start(agent)?;
        Ok(pretends)
    }

    /// Starts an agent whose wall clock can be set while it runs. `None`, with a word about it: it was started with the right
    /// time.
    pub fn start_agent_with_clock(&self, number: usize, time: &str) -> Result<Option<WallClock>> {
        let clock = WallClock { file: self.folder.path().join(format!("clock-{number}")) };
        clock.set(time)?;
        let mut agent = self.agent_command(number);
        let pretends = pretend(&mut agent);
        if pretends {
            agent.env("FAKETIME_TIMESTAMP_FILE", &clock.file).env("FAKETIME_NO_CACHE", "1");
        }
        self.devices[number].agent.start(agent)?;
        Ok(pretends.then_some(clock))
    }

    /// Starts an agent that may read its state and not write it. It is alone in that: what already runs, and other
    /// programs, see the directory as it is. `false`, with a word about it, where this process may not arrange that.
    pub async fn start_agent_on_read_only_state(&self, number: usize) -> Result<bool> {
        let state = &self.devices[number].state;
        let may = read_only(state, Command::new("true")).status().await.is_ok_and(|status| status.success());
        if may {
            self.devices[number].agent.start(read_only(state, self.agent_command(number)))?;
        } else {
            println!("NOT TESTED: a read-only state directory needs a mount namespace (run as root)");
        }
        Ok(may)
    }

    /// Lets such an agent write again, while it runs.
    pub async fn make_state_writable(&self, number: usize) -> Result<()> {
        let pid = self.devices[number].agent.pid().context("the agent does not run")?.to_string();
        let mut remount = Command::new("nsenter");
        remount.args(["--mount", "--target", &pid, "mount", "-o", "remount,bind,rw"]).arg(&self.devices[number].state);
        anyhow::ensure!(remount.status().await?.success(), "the state directory cannot be made writable again");
        Ok(())
    }

    fn agent_command(&self, number: usize) -> Command {
        let mut agent = command(Role::Agent);
        agent.arg("run").arg("--state-dir").arg(&self.devices[number].state);
        match &self.engine {
            None => agent.args(["--runtime", "process"]),
            Some(engine) => agent.args(["--runtime", "cri", "--cri", &format!("unix://{}", engine.socket().display())]),
        };
        agent
    }

    /// SIGKILL for an agent. Its workloads go on.
    pub async fn kill_agent(&self, number: usize) -> Result<()> {
        self.devices[number].agent.kill().await
    }

    /// The process id of an agent.
    pub fn agent_pid(&self, number: usize) -> Option<u32> {
        self.devices[number].agent.pid()
    }

    /// What an agent has printed, over all its lives.
    pub fn agent_said(&self, number: usize) -> String {
        self.devices[number].agent.said()
    }

    /// SIGKILL for everything that the agent of a device started, as a power cut would end it.
    pub fn kill_shims(&self, number: usize) -> Result<()> {
        for pid in processes_of(&self.devices[number].state) {
            std::process::Command::new("kill").arg("-KILL").arg(pid.to_string()).status()?;
        }
        Ok(())
    }

    /// Runs a second agent on the state of one that runs, and waits for it to give up.
    pub async fn run_second_agent(&self, number: usize) -> Result<Output> {
        output(self.agent_command(number)).await
    }

    /// Starts a second agent with the identity of a device and a state directory of its own, as a copied card would.
    pub fn start_twin(&self, number: usize) -> Result<Program> {
        let state = self.folder.path().join(format!("twin-{number}"));
        std::fs::create_dir_all(&state)?;
        let identity = device_agent::identity::FILE;
        std::fs::copy(self.devices[number].state.join(identity), state.join(identity))?;
        let twin = Program::new(&format!("twin-{number}"), self.folder.path());
        let mut agent = command(Role::Agent);
        // The folder of secrets would be the same one, on one machine.
        agent
            .args(["run", "--runtime", "process"])
            .arg("--state-dir")
            .arg(&state)
            .arg("--secrets-dir")
            .arg(state.join("secrets"));
        twin.start(agent)?;
        Ok(twin)
    }

    /// `hawser-agent status -o json` of a device, whatever it says with its exit code.
    pub async fn agent_status(&self, number: usize) -> Result<device_agent::agent::Status> {
        let mut agent = command(Role::Agent);
        agent.args(["status", "-o", "json", "--state-dir"]).arg(&self.devices[number].state);
        let output = output(agent).await?;
        serde_json::from_slice(&output.stdout).map_err(|error| anyhow::anyhow!("{error}: {output:?}"))
    }

    // ---- commands ----

    /// Runs `hawser` with the rights of an operator.
    pub async fn hawser(&self, arguments: &[&str]) -> Result<Output> {
        let mut hawser = command(Role::Hawser);
        hawser.args(arguments).env("KUBECONFIG", self.kubeconfig());
        output(hawser).await
    }

    /// `hawser device add`.
    pub async fn add_device(&self, name: &str) -> Result<Join> {
        let label = format!("e2e.hawser.dev/world={}", self.name);
        // The bridge publishes its key when it has started.
        eventually(&format!("device add {name}"), SOON, || async {
            let mut arguments = vec!["device", "add", name, "--label", &label, "-n", SYSTEM, "-o", "json"];
            if !self.tainted {
                arguments.extend(["--taint", "none"]);
            }
            match self.hawser(&arguments).await {
                Ok(output) if output.status.success() => {
                    serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// `hawser-agent join`, of a device that is none of this world's boards.
    pub async fn join(&self, join: &Join) -> Result<Output> {
        self.join_at(join, &self.hub_place.url(), self.hub_place.ca().as_deref()).await
    }

    /// As [`join`](Self::join), at this hub and trusting this authority.
    pub async fn join_at(&self, join: &Join, hub: &str, ca: Option<&Path>) -> Result<Output> {
        output(join_command(join, &self.state_of_stranger(join), hub, ca)).await
    }

    /// As [`join`](Self::join), on a state directory that may be read only. `None` where that cannot be arranged.
    pub async fn join_on_read_only_state(&self, join: &Join) -> Result<Option<Output>> {
        let state = self.state_of_stranger(join);
        std::fs::create_dir_all(&state)?;
        if !read_only(&state, Command::new("true")).status().await.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let joining = join_command(join, &state, &self.hub_place.url(), self.hub_place.ca().as_deref());
        output(read_only(&state, joining)).await.map(Some)
    }

    fn state_of_stranger(&self, join: &Join) -> PathBuf {
        self.folder.path().join(format!("stranger-{}", join.name))
    }

    /// Tries to join as a device that has joined already, with the same token and another key.
    pub async fn join_again_as_another_agent(&self, number: usize) -> Result<Output> {
        let state = self.folder.path().join("impostor");
        let join = &self.devices[number].joined_with;
        output(join_command(join, &state, &self.hub_place.url(), self.hub_place.ca().as_deref())).await
    }

    /// Joins a board of this world at the end of its rope.
    pub(super) async fn join_board(&self, join: &Join, state: &Path, rope: Option<&Rope>) -> Result<Output> {
        let hub = rope.map_or_else(|| self.hub_place.url(), |rope| format!("mqtt://{}", rope.address()));
        output(join_command(join, state, &hub, self.hub_place.ca().as_deref())).await
    }

    // ---- ropes ----

    /// Cuts the connection between a device and the hub.
    pub fn cut_rope(&self, number: usize) {
        self.rope(number).cut();
    }

    /// Ties it again, with these faults.
    pub fn mend_rope(&self, number: usize, faults: Faults) {
        self.rope(number).mend(faults);
    }

    /// How many messages passed, were lost, repeated, held back.
    pub fn rope_tally(&self, number: usize) -> [u64; 4] {
        self.rope(number).tally().counts()
    }

    /// Bytes of messages over a device's rope so far.
    pub fn rope_bytes(&self, number: usize) -> u64 {
        self.rope(number).tally().bytes()
    }

    fn rope(&self, number: usize) -> &Rope {
        self.devices[number].rope.as_ref().expect("there is no rope where the hub speaks TLS")
    }
}

/// The wall clock of one agent.
#[derive(Debug)]
pub struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// Sets it, in the words of `faketime`: `+10d` is ten days ahead, `@1970-01-01 00:01:00` a point in time.
    pub fn set(&self, time: &str) -> Result<()> {
        // In one step, or the agent could read the half of it.
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, time)?;
        Ok(std::fs::rename(draft, &self.file)?)
    }
}

/// Lets a program see another wall clock, and no other monotonic one, by the library of Debian's package `faketime`. `false`,
/// with a word about it, where that cannot be arranged.
fn pretend(program: &mut Command) -> bool {
    let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
    if !library.exists() {
        println!(
            "NOT TESTED: a clock that is wrong (install Debian's package faketime); the rest of the story goes on"
        );
        return false;
    }
    program.env("LD_PRELOAD", library).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    true
}

fn join_command(join: &Join, state: &Path, hub: &str, ca: Option<&Path>) -> Command {
    let mut agent = command(Role::Agent);
    agent.args(["join", hub, "--name", &join.name]);
    agent.args(["--bridge-key", &join.bridge_key, "--token", &join.token]).arg("--state-dir").arg(state);
    if let Some(ca) = ca {
        agent.arg("--hub-ca").arg(ca);
    }
    agent
}

/// The same command in a mount namespace of its own, where `folder` is read-only: as root, file modes stop nobody.
fn read_only(folder: &Path, then: Command) -> Command {
    const SCRIPT: &str = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    let then = then.into_std();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", SCRIPT]).arg(folder).arg(then.get_program()).args(then.get_args());
    for (key, value) in then.get_envs() {
        match value {
            Some(value) => unshare.env(key, value),
            None => unshare.env_remove(key),
        };
    }
    unshare.stdin(std::process::Stdio::null()).kill_on_drop(true);
    unshare
}

/// Where the kubelet API of a world is: on loopback, or where HAWSER_KUBELET_ADDRESS says.
fn kubelet_address() -> IpAddr {
    let named = std::env::var("HAWSER_KUBELET_ADDRESS").ok().and_then(|address| address.parse().ok());
    named.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
