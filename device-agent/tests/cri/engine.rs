//! A container engine of the test's own: a containerd, or a CRI-O where one is named.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

mod crio;
mod image;

use self::crio::{CRIO, Crio};
pub(crate) use self::image::{DATA_IMAGE, FOREIGN_IMAGE, IMAGE, RICK};
use self::image::{FOREIGN, go_arch, pack, wants_interpreter};

/// Engines of one process have networks of their own.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Engine {
    pub(crate) dir: tempfile::TempDir,
    process: Option<Child>,
    programs: Programs,
    network: u32,
}

enum Programs {
    Containerd(Containerd),
    Crio(Crio),
}

struct Containerd {
    containerd: PathBuf,
    ctr: PathBuf,
    plugins: PathBuf,
}

/// A folder with the programs of another containerd than the machine's own.
const OTHER_CONTAINERD: &str = "HAWSER_CONTAINERD";

/// What the tests need, or what is missing of it.
fn programs() -> Result<(Programs, PathBuf), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can run containers".to_owned());
    }
    find("runc")?;
    let busybox = find("busybox")?;
    let bytes = std::fs::read(&busybox).map_err(|error| error.to_string())?;
    if wants_interpreter(&bytes) {
        return Err("busybox is not static (install busybox-static)".to_owned());
    }
    let plugins = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from).into_iter().find(|dir| dir.join("ptp").exists());
    let plugins = plugins.ok_or("there are no CNI plugins (install containernetworking-plugins)")?;
    if let Some(folder) = std::env::var_os(CRIO) {
        return Ok((Programs::Crio(Crio::named(Path::new(&folder), plugins)), busybox));
    }
    let containerd = |containerd, ctr| Programs::Containerd(Containerd { containerd, ctr, plugins });
    let Some(folder) = std::env::var_os(OTHER_CONTAINERD).map(PathBuf::from) else {
        return Ok((containerd(find("containerd")?, find("ctr")?), busybox));
    };
    // Whoever names one wants no other.
    let given = ["containerd", "ctr", "containerd-shim-runc-v2"].map(|name| folder.join(name));
    let missing = given.iter().find(|path| !path.is_file());
    assert!(missing.is_none(), "{OTHER_CONTAINERD}: there is no {}", missing.unwrap().display());
    let [program, ctr, _] = given;
    Ok((containerd(program, ctr), busybox))
}

fn find(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/bin:/sbin";
    let place = path.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    place.ok_or_else(|| format!("there is no {name}"))
}

impl Engine {
    /// An engine with the images, or `None` and a word about what is missing.
    pub(crate) fn start() -> Option<Self> {
        let (programs, busybox) = match programs() {
            Ok(found) => found,
            Err(missing) => {
                // Not by the macro: the word is to be seen although the test passes.
                let _ = writeln!(std::io::stderr(), "SKIPPED: tests of the cri runtime: {missing}");
                return None;
            }
        };
        let network = std::process::id().wrapping_mul(16).wrapping_add(NETWORKS.fetch_add(1, Ordering::Relaxed)) % 4096;
        let mut engine = Self { dir: tempfile::tempdir().unwrap(), process: None, programs, network };
        engine.configure();
        engine.run();
        let images = engine.dir.path().join("images");
        pack(&images, &busybox, IMAGE, go_arch());
        engine.import(&images, IMAGE);
        Some(engine)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("engine.sock")
    }

    /// A network for sandboxes; without it the engine is not ready to make any.
    pub(crate) fn network(&self, there: bool) {
        let path = self.dir.path().join("net.d/10-test.conflist");
        if !there {
            std::fs::remove_file(path).unwrap();
            return;
        }
        // CRI-O takes away what others have of a network of this name.
        let own = self.dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let conflist = format!(
            r#"{{"cniVersion":"0.4.0","name":"test-{own}","plugins":[{{"type":"ptp","ipMasq":false,
            "ipam":{{"type":"host-local","ranges":[[{{"subnet":"10.{}.{}.0/24"}}]],"dataDir":"{}/ipam"}}}}]}}"#,
            80 + self.network / 256,
            self.network % 256,
            self.dir.path().display()
        );
        std::fs::write(path, conflist).unwrap();
    }

    /// From the next start on the engine has no network until it is told the addresses of pods.
    pub(crate) fn waits_for_addresses(&self) {
        let path = self.dir.path().join("net.d/10-test.conflist");
        let there = std::fs::read_to_string(&path).unwrap();
        let (before, after) = there.split_once(r#""subnet":""#).unwrap();
        let (_, after) = after.split_once('"').unwrap();
        let template = format!(r#"{before}"subnet":"{{{{.PodCIDR}}}}"{after}"#);
        std::fs::write(self.dir.path().join("template.conflist"), template).unwrap();
        self.network(false);
    }

    fn configure(&self) {
        let dir = self.dir.path().display();
        std::fs::create_dir(self.dir.path().join("net.d")).unwrap();
        std::fs::create_dir(self.dir.path().join("images")).unwrap();
        self.network(true);
        let programs = match &self.programs {
            Programs::Containerd(programs) => programs,
            Programs::Crio(crio) => return crio.configure(self.dir.path()),
        };
        let config = format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/engine.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{IMAGE}"
  stream_server_port = "0"
  stats_collect_period = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{dir}/net.d"
    # Only used when the engine is told the addresses of pods and has no network.
    conf_template = "{dir}/template.conflist"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
# Its socket is one for all engines of a machine, and two that start at a time are in each other's way.
[plugins."io.containerd.nri.v1.nri"]
  disable = true
# Who pulls in a containerd from 2.1 on; an older one has no such part.
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/{arch}"
  snapshotter = "native"
"#,
            plugins = programs.plugins.display(),
            arch = go_arch(),
        );
        std::fs::write(self.dir.path().join("config.toml"), config).unwrap();
    }

    /// Starts the engine and waits until it answers.
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::options().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let mut command = match &self.programs {
            Programs::Crio(crio) => crio.command(self.dir.path()),
            Programs::Containerd(programs) => {
                let folder = programs.containerd.parent().unwrap();
                let mut command = Command::new(&programs.containerd);
                // The programs that watch over containers are those beside it.
                command.env("PATH", format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default()));
                command.arg("--config").arg(self.dir.path().join("config.toml"));
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.process = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.is_up() {
            assert!(Instant::now() < deadline, "the engine does not come up:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_up(&self) -> bool {
        match &self.programs {
            // The part for Kubernetes comes up last.
            Programs::Containerd(_) => {
                self.log().contains("containerd successfully booted") && self.try_ctr(&["version"])
            }
            Programs::Crio(_) => UnixStream::connect(self.socket()).is_ok(),
        }
    }

    /// Starts the engine anew without its part for Kubernetes, as Docker ships it.
    pub(crate) fn run_without_pods(&mut self) {
        self.crash();
        let path = self.dir.path().join("config.toml");
        let config = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{config}")).unwrap();
        self.run();
    }

    /// Ends the engine as a crash would; containers go on.
    pub(crate) fn crash(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        std::fs::write(self.dir.path().join("log"), "").unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn is_crio(&self) -> bool {
        matches!(self.programs, Programs::Crio(_))
    }

    /// Whether the engine is a containerd of this version or a later one, or a CRI-O.
    pub(crate) fn is_since(&self, since: (u32, u32)) -> bool {
        let containerd = match &self.programs {
            Programs::Containerd(programs) => &programs.containerd,
            Programs::Crio(_) => return true,
        };
        let told = Command::new(containerd).arg("--version").output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let version = told.split_whitespace().nth(2).unwrap().trim_start_matches('v');
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap()) >= since
    }

    /// Whether a runc came along with the engine, so that it is not the machine's own.
    pub(crate) fn has_own_runc(&self) -> bool {
        let Programs::Containerd(programs) = &self.programs else { return false };
        std::env::var_os(OTHER_CONTAINERD).is_some() && programs.containerd.with_file_name("runc").is_file()
    }

    pub(crate) fn import_data(&self) {
        self.import_other("data", DATA_IMAGE, go_arch());
    }

    pub(crate) fn import_foreign(&self) {
        self.import_other("foreign", FOREIGN_IMAGE, FOREIGN);
    }

    /// The image of all tests under one more name.
    pub(crate) fn import_as(&self, name: &str) {
        match &self.programs {
            Programs::Containerd(_) => self.ctr(&["-n", "k8s.io", "images", "tag", IMAGE, name]),
            Programs::Crio(crio) => crio.import(&self.socket(), &self.dir.path().join("images"), name),
        }
    }

    fn import_other(&self, folder: &str, name: &str, arch: &str) {
        let busybox = self.dir.path().join("images/root/bin/busybox");
        let folder = self.dir.path().join(folder);
        pack(&folder, &busybox, name, arch);
        self.import(&folder, name);
    }

    /// What `pack` has left in a folder.
    fn import(&self, folder: &Path, name: &str) {
        let archive = folder.join("image.tar");
        match &self.programs {
            Programs::Containerd(_) => {
                self.ctr(&["-n", "k8s.io", "images", "import", "--all-platforms", archive.to_str().unwrap()]);
            }
            Programs::Crio(crio) => crio.import(&self.socket(), folder, name),
        }
    }

    fn ctr(&self, args: &[&str]) {
        assert!(self.try_ctr(args), "ctr {args:?} failed:\n{}", self.log());
    }

    fn try_ctr(&self, args: &[&str]) -> bool {
        let Programs::Containerd(programs) = &self.programs else { return false };
        let socket = self.socket();
        let mut command = Command::new(&programs.ctr);
        command.arg("--connect-timeout").arg("10s").arg("-a").arg(socket).args(args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// A process of a container of this engine whose command line has these words. A container that has just been started
    /// may still be on its way to its program.
    pub(crate) fn pid_of(&self, words: &str) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let all = self.processes();
            if let Some((_, pid)) = all.iter().find(|(line, _)| line.contains(words)) {
                return *pid;
            }
            assert!(Instant::now() < deadline, "no {words} in {all:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How the cgroup of a container is called, by what the agent calls the container.
    pub(crate) fn cgroup_name(&self, container: &str) -> String {
        let (_, own) = container.split_once("://").unwrap();
        if self.is_crio() { format!("crio-{own}") } else { own.to_owned() }
    }

    /// The reason of a container whose registry is out of reach.
    pub(crate) fn out_of_reach(&self) -> &'static str {
        if self.is_crio() { "RegistryUnavailable" } else { "ErrImagePull" }
    }

    /// How many processes a sandbox has. CRI-O keeps none for one whose containers have processes of their own.
    pub(crate) fn of_a_sandbox(&self) -> usize {
        usize::from(!self.is_crio())
    }

    /// The first processes of all containers, with their command lines.
    pub(crate) fn processes(&self) -> Vec<(String, i32)> {
        let (mut all, mut waiting) = (Vec::new(), self.shims());
        while let Some(pid) = waiting.pop() {
            for pid in children(pid) {
                let line = command_line(pid);
                // With CRI-O whoever starts a command stays beside it.
                let starts = self.is_crio() && line.contains("runc --root");
                if starts { waiting.push(pid) } else { all.push((line, pid)) }
            }
        }
        all
    }

    /// The command lines of everything in any container, a space after each word.
    pub(crate) fn everybody(&self) -> Vec<String> {
        let (mut found, mut waiting) = (Vec::new(), self.shims());
        while let Some(pid) = waiting.pop() {
            for pid in children(pid) {
                found.push(command_line(pid));
                waiting.push(pid);
            }
        }
        found
    }

    /// How many files the engine has open.
    pub(crate) fn open_files(&self) -> usize {
        let pid = self.process.as_ref().unwrap().id();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// How many pipes of commands and containers the engine has on the disk.
    pub(crate) fn fifos(&self) -> usize {
        let all = Command::new("find").arg(self.dir.path().join("state")).args(["-type", "p"]).output().unwrap();
        String::from_utf8_lossy(&all.stdout).lines().count()
    }

    /// Every process whose command line has this engine's directory: shims.
    fn shims(&self) -> Vec<i32> {
        let dir = self.dir.path().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let own = std::process::id() as i32;
        let is_ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != own && String::from_utf8_lossy(&line).contains(&dir)
        };
        pids.filter(is_ours).collect()
    }
}

impl Drop for Engine {
    /// Nothing stays, however the test ended: neither processes nor mounts nor files.
    fn drop(&mut self) {
        self.crash();
        // An engine that was killed in the middle of a start may have left a shim that is only just coming up.
        for _ in 0..50 {
            let shims = self.shims();
            if shims.is_empty() {
                break;
            }
            for shim in shims {
                for pid in children(shim).into_iter().chain([shim]) {
                    let pid = rustix::process::Pid::from_raw(pid).unwrap();
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        let ours = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&dir));
        for path in ours {
            let _ = Command::new("umount").arg("-l").arg(path).status();
        }
    }
}

/// Those that a process has started, by whichever of its threads.
fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let told = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    told.flat_map(|told| told.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Its words, a space after each.
fn command_line(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}
