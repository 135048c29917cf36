//! A containerd of a world's own: its own root, state, socket, network and images, gone with it.

mod disk;
mod image;
mod leftovers;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use image::{Busybox, Image, Layer, archive, go_arch, program, sha256};

/// The image of the sandboxes, which is also a box with the usual commands.
pub const BOX: &str = "hawser.test/box:1";
/// A folder with the programs of another containerd than the machine's own.
const OTHER: &str = "HAWSER_CONTAINERD";
/// How long the engine may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where Debian and the makers of the plugins put them.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

const SUBNET: &str = r#""subnet":""#;
/// Engines of one process have networks of their own.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// A running containerd.
#[derive(Debug)]
pub struct Engine {
    folder: tempfile::TempDir,
    programs: Programs,
    sandbox: String,
    process: Mutex<Option<Child>>,
}

/// What an engine needs of the machine.
#[derive(Debug, Clone)]
struct Programs {
    containerd: PathBuf,
    ctr: PathBuf,
    plugins: PathBuf,
}

/// A program in the usual places, which a bare login's PATH may lack.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/bin:/sbin:/usr/bin:/bin";
    path.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// What is missing here for containers, in words; `None`: nothing.
pub fn missing() -> Option<String> {
    Programs::find().and_then(|_| Busybox::find().map(drop)).err()
}

impl Programs {
    fn find() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can run containers".to_owned());
        }
        let need = |name: &str| find(name).ok_or_else(|| format!("there is no {name} (install containerd and runc)"));
        need("runc")?;
        let plugins = PLUGINS.map(PathBuf::from).into_iter().find(|folder| folder.join("ptp").exists());
        let plugins = plugins.ok_or("there are no CNI plugins (install containernetworking-plugins)")?;
        let Some(folder) = std::env::var_os(OTHER).map(PathBuf::from) else {
            return Ok(Self { containerd: need("containerd")?, ctr: need("ctr")?, plugins });
        };
        // Whoever names one wants no other, so this is not something that may be missing.
        let given = |name: &str| {
            let path = folder.join(name);
            assert!(path.is_file(), "{OTHER}: there is no {}", path.display());
            path
        };
        given("containerd-shim-runc-v2");
        Ok(Self { containerd: given("containerd"), ctr: given("ctr"), plugins })
    }
}

impl Engine {
    /// An engine with the box and no other image.
    pub fn start() -> Result<Self> {
        Self::start_with(BOX)?.with_box()
    }

    fn with_box(self) -> Result<Self> {
        let folder = self.folder.path().join("images");
        let layer = Layer::of(&folder, "box", |root| Busybox::find().map_err(anyhow::Error::msg)?.unpack(root))?;
        self.import(&archive(&folder, &[Image::new(BOX, &[&layer]).command(&["sleep", "2147483647"])])?)?;
        Ok(self)
    }

    /// An engine without images, whose sandboxes will be of this one.
    pub fn start_with(sandbox: &str) -> Result<Self> {
        Self::start_on(sandbox, disk::ROOMY)
    }

    fn start_on(sandbox: &str, megabytes: u32) -> Result<Self> {
        let programs = Programs::find().map_err(anyhow::Error::msg)?;
        let folder = tempfile::Builder::new().prefix("hawser-engine-").tempdir()?;
        for part in ["net.d", "images", "registries"] {
            std::fs::create_dir(folder.path().join(part))?;
        }
        let engine = Self { folder, programs, sandbox: sandbox.to_owned(), process: Mutex::default() };
        disk::mount(&engine.root(), megabytes)?;
        engine.configure()?;
        engine.run()?;
        Ok(engine)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its images and containers are: a disk of its own.
    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Whether it is of this version or a later one.
    pub fn is_since(&self, since: (u32, u32)) -> Result<bool> {
        let told = run(Command::new(&self.programs.containerd).arg("--version"))?;
        let version = told.split_whitespace().nth(2).unwrap_or_default().trim_start_matches('v');
        let mut numbers = version.split('.').map_while(|number| number.parse().ok());
        let found = numbers.next().zip(numbers.next());
        Ok(found.with_context(|| format!("containerd says no version: {told}"))? >= since)
    }

    /// Images of this registry come from that one, e.g. `http://127.0.0.1:5000`, and from nowhere else.
    pub fn mirror(&self, registry: &str, from: &str) -> Result<()> {
        let folder = self.folder.path().join("registries").join(registry);
        std::fs::create_dir_all(&folder)?;
        let hosts = format!("server = \"{from}\"\n[host.\"{from}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        Ok(std::fs::write(folder.join("hosts.toml"), hosts)?)
    }

    fn configure(&self) -> Result<()> {
        let folder = self.folder.path().display();
        let number = std::process::id().wrapping_mul(16).wrapping_add(NETWORKS.fetch_add(1, Ordering::Relaxed)) % 4096;
        let subnet = format!("10.{}.{}.0/24", 112 + number / 256, number % 256);
        let conflist = format!(
            r#"{{"cniVersion":"0.4.0","name":"hawser-{number}","plugins":[
            {{"type":"ptp","ipMasq":false,"ipam":{{"type":"host-local","ranges":[[{{{SUBNET}{subnet}"}}]],
            "routes":[{{"dst":"0.0.0.0/0"}}],"dataDir":"{folder}/ipam"}}}},
            {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#
        );
        std::fs::write(self.conflist(), conflist)?;
        // A machine whose root is an overlay cannot lay another over it.
        let snapshotter = if leftovers::overlay_works(&self.root()) { "overlayfs" } else { "native" };
        let config = format!(
            r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/engine.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{sandbox}"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    # What the suite calls the runtime that it expects to find.
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test-handler]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/net.d"
    # Only used when the engine is told the addresses of pods and has no network.
    conf_template = "{folder}/template.conflist"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
# Its socket is one for all engines of a machine, and two that start at a time are in each other's way.
[plugins."io.containerd.nri.v1.nri"]
  disable = true
# Who pulls in a containerd from 2.1 on; an older one has no such part.
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/{arch}"
  snapshotter = "{snapshotter}"
"#,
            arch = go_arch(),
            plugins = self.programs.plugins.display(),
            sandbox = self.sandbox,
        );
        Ok(std::fs::write(self.folder.path().join("config.toml"), config)?)
    }

    /// Starts it, again after [`crash`](Self::crash), and waits until it answers.
    pub fn run(&self) -> Result<()> {
        let log = std::fs::File::create(self.folder.path().join("log"))?;
        let mut containerd = Command::new(&self.programs.containerd);
        containerd.arg("--config").arg(self.folder.path().join("config.toml"));
        // The programs that watch over containers are those beside it.
        let beside = self.programs.containerd.parent().unwrap_or(Path::new("/usr/bin"));
        containerd.env("PATH", format!("{}:{}", beside.display(), std::env::var("PATH").unwrap_or_default()));
        let child = containerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        *self.process() = Some(child.context("containerd cannot be started")?);
        let deadline = now() + PATIENCE;
        // The part for Kubernetes comes up last.
        while !self.log().contains("containerd successfully booted") || self.ctr(&["version"]).is_err() {
            if now() >= deadline {
                bail!("containerd does not come up:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn conflist(&self) -> PathBuf {
        self.folder.path().join("net.d/10-hawser.conflist")
    }

    /// Starts it anew without a network: it makes one when it is told the addresses of pods. Answers those that it would have had.
    pub fn wait_for_addresses(&self) -> Result<String> {
        let there = std::fs::read_to_string(self.conflist())?;
        let range = there.split_once(SUBNET).and_then(|(_, after)| Some(after.split_once('"')?.0));
        let range = range.context("the network has no subnet")?.to_owned();
        std::fs::write(self.folder.path().join("template.conflist"), there.replace(&range, "{{.PodCIDR}}"))?;
        std::fs::remove_file(self.conflist())?;
        self.crash();
        self.run()?;
        Ok(range)
    }

    /// SIGKILL. Containers go on.
    pub fn crash(&self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it has printed in this life.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Takes the images of an archive.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.ctr(&["images", "import", "--no-unpack", &archive.display().to_string()]).map(drop)
    }

    /// Pushes one of its images to a registry on loopback, under that name, and forgets that name.
    pub fn push(&self, image: &str, to: &str, user: Option<(&str, &str)>) -> Result<()> {
        self.ctr(&["images", "tag", "--force", image, to])?;
        let user = user.map(|(name, password)| format!("{name}:{password}"));
        let login: Vec<_> = user.iter().flat_map(|user| ["--user", user]).collect();
        self.ctr(&[&["images", "push", "--plain-http"], &login[..], &[to]].concat())?;
        self.ctr(&["images", "rm", to]).map(drop)
    }

    /// Runs containerd's own tool where pods are.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut ctr = Command::new(&self.programs.ctr);
        ctr.args(["--connect-timeout", "10s", "-n", "k8s.io", "-a"]).arg(self.socket()).args(arguments);
        run(&mut ctr)
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Engine {
    /// Nothing stays, however it ended: neither processes nor mounts nor files.
    fn drop(&mut self) {
        self.crash();
        leftovers::remove(self.folder.path());
    }
}

/// Runs a command that must succeed, and returns what it prints.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        let _ = write!(said, " ({})", output.status);
        bail!("{command:?}: {said}");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[expect(clippy::disallowed_methods, reason = "waits for a real process")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
