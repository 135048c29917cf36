//! A CRI-O, where one is named. No Debian has one, so nothing takes it by itself.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use hawser_cri::{ImageSpec, PullImageRequest};

use super::{IMAGE, find};
use crate::world::PATIENCE;

/// A folder with the programs `crio` and `pinns`; `conmon` and `runc` are taken from there too, or else those of the machine.
pub(super) const CRIO: &str = "HAWSER_CRIO";

pub(super) struct Crio {
    pub(super) program: PathBuf,
    pinns: PathBuf,
    conmon: PathBuf,
    runc: PathBuf,
    plugins: PathBuf,
    images: Images,
}

impl Crio {
    /// Whoever names one wants no other.
    pub(super) fn named(folder: &Path, plugins: PathBuf) -> Self {
        let given = |name: &str| folder.join(name).is_file().then(|| folder.join(name));
        let own = |name: &str| given(name).unwrap_or_else(|| panic!("{CRIO}: there is no {name}"));
        let any = |name: &str| given(name).unwrap_or_else(|| find(name).unwrap());
        let (program, pinns, conmon, runc) = (own("crio"), own("pinns"), any("conmon"), any("runc"));
        Self { program, pinns, conmon, runc, plugins, images: Images::serve() }
    }

    pub(super) fn configure(&self, dir: &Path) {
        let d = dir.display();
        std::fs::write(dir.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        // Registries of tests listen on loopback, without certificates.
        let registries = format!(
            "[[registry]]\nprefix = \"hawser.test\"\nlocation = \"{}\"\ninsecure = true\n\
             [[registry]]\nprefix = \"127.0.0.1\"\nlocation = \"127.0.0.1\"\ninsecure = true\n",
            self.images.address
        );
        std::fs::write(dir.join("registries.conf"), registries).unwrap();
        let config = format!(
            r#"[crio]
root = "{d}/root"
runroot = "{d}/state"
storage_driver = "overlay"
log_dir = "{d}/logs"
version_file = "{d}/version"
clean_shutdown_file = "{d}/clean.shutdown"
[crio.api]
listen = "{d}/engine.sock"
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
container_exits_dir = "{d}/exits"
container_attach_socket_dir = "{d}/attach"
namespaces_dir = "{d}/ns"
pinns_path = "{pinns}"
hooks_dir = []
irqbalance_config_restore_file = "disable"
[crio.runtime.runtimes.runc]
runtime_path = "{runc}"
runtime_root = "{d}/runc"
monitor_path = "{conmon}"
monitor_cgroup = "pod"
[crio.image]
pause_image = "{IMAGE}"
pause_command = ""
signature_policy = "{d}/policy.json"
signature_policy_dir = "{d}/policies"
[crio.network]
network_dir = "{d}/net.d"
plugin_dirs = ["{plugins}"]
[crio.stats]
stats_collection_period = 0
[crio.nri]
enable_nri = false
"#,
            pinns = self.pinns.display(),
            runc = self.runc.display(),
            conmon = self.conmon.display(),
            plugins = self.plugins.display(),
        );
        std::fs::write(dir.join("config.toml"), config).unwrap();
    }

    pub(super) fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HOME", dir).arg("--config").arg(dir.join("config.toml"));
        command.arg("--config-dir").arg("").arg("--registries-conf").arg(dir.join("registries.conf"));
        command.arg("--registries-conf-dir").arg(dir.join("net.d"));
        command
    }

    /// It takes images from registries alone.
    pub(super) fn import(&self, socket: &Path, dir: &Path, name: &str) {
        self.images.add(dir, name);
        let (socket, name) = (socket.to_owned(), name.to_owned());
        // A thread of its own, because the test's may be one of an asynchronous runtime.
        let pull = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = hawser_cri::Client::new(&socket).unwrap();
                let image = Some(ImageSpec { image: name.clone(), user_specified_image: name });
                client.pull_image(PullImageRequest { image, ..PullImageRequest::default() }, PATIENCE).await.unwrap();
            });
        };
        std::thread::spawn(pull).join().unwrap();
    }
}

/// A registry with what is wanted of it.
struct Images {
    address: String,
    blobs: Arc<Mutex<Blobs>>,
}

/// By the path or the last part of it: what it is, and its bytes.
type Blobs = BTreeMap<String, (&'static str, Vec<u8>)>;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Images {
    fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let blobs: Arc<Mutex<Blobs>> = Arc::default();
        let served = blobs.clone();
        // It ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let blobs = served.clone();
                std::thread::spawn(move || answer(stream, &blobs));
            }
        });
        Self { address, blobs }
    }

    /// Takes what `pack` has left in a directory.
    fn add(&self, dir: &Path, name: &str) {
        let read = |file: &str| std::fs::read(dir.join(file)).unwrap();
        let sum = |path: PathBuf| {
            let output = Command::new("sha256sum").arg(path).output().unwrap();
            format!("sha256:{}", String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap())
        };
        let (config, layer) = (read("config.json"), read("layer.tar"));
        let (config_sum, layer_sum) = (sum(dir.join("config.json")), sum(dir.join("layer.tar")));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_sum}","size":{}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer_sum}","size":{}}}]}}"#,
            config.len(),
            layer.len()
        );
        std::fs::write(dir.join("oci.json"), &manifest).unwrap();
        let path = name.trim_start_matches("hawser.test/").replace(':', "/manifests/");
        let manifest = (MANIFEST, manifest.into_bytes());
        let mut blobs = self.blobs.lock().unwrap();
        blobs.insert(format!("/v2/{path}"), manifest.clone());
        blobs.insert(sum(dir.join("oci.json")), manifest);
        blobs.insert(config_sum, ("application/octet-stream", config));
        blobs.insert(layer_sum, ("application/octet-stream", layer));
    }
}

fn answer(mut stream: TcpStream, blobs: &Mutex<Blobs>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap().take(64 * 1024)).lines().map_while(Result::ok);
    let asked = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let mut words = asked.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let last = path.rsplit('/').next().unwrap_or_default();
    let blobs = blobs.lock().unwrap();
    let found = blobs.get(path).or_else(|| blobs.get(last)).cloned();
    drop(blobs);
    let (status, (kind, body)) = match found {
        Some(found) => ("200 OK", found),
        None if path == "/v2/" => ("200 OK", ("application/json", b"{}".to_vec())),
        None => ("404 Not Found", ("application/json", b"{}".to_vec())),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    if method != "HEAD" {
        let _ = stream.write_all(&body);
    }
}
