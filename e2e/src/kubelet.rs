//! A real kubelet on an engine, as a node of the control plane of `e2e/cluster`: what ours is compared with.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::DeleteParams;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::engine::{Engine, run};
use crate::process::{Program, is_alive};
use crate::wait::{SOON, eventually};

/// A running kubelet.
pub struct Kubelet {
    name: String,
    _address: Address,
    client: Client,
    kubelet: Program,
    log: PathBuf,
    /// It ends the containers, and takes away the mounts below its folder, which are the kubelet's too.
    engine: Arc<Engine>,
    _cgroup: Cgroup,
}

/// An address of this machine that only this machine knows. A kubelet refuses 127.0.0.1 for its node.
#[derive(Debug)]
struct Address(Ipv4Addr);

impl Address {
    fn new() -> Result<Self> {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = Self(Ipv4Addr::new(10, 111, high, low));
        run(Command::new("ip").args(["address", "replace", &address.with_prefix(), "dev", "lo"]))?;
        Ok(address)
    }

    fn with_prefix(&self) -> String {
        format!("{}/32", self.0)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["address", "del", &self.with_prefix(), "dev", "lo"]).status();
    }
}

/// The cgroup of all its pods: another kubelet of this machine may have the usual one. It must be there before the
/// kubelet, and the engine's end leaves it empty.
#[derive(Debug)]
struct Cgroup(Vec<PathBuf>);

impl Cgroup {
    fn new() -> Result<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let unified = top.join("cgroup.controllers").is_file();
        let parents = if unified {
            vec![top.to_owned()]
        } else {
            let controllers = std::fs::read_dir(top)?.flatten().map(|entry| entry.path());
            controllers.filter(|path| path.join("tasks").is_file()).collect()
        };
        let places: Vec<_> = parents.into_iter().map(|parent| parent.join(Self::name())).collect();
        for place in &places {
            std::fs::create_dir_all(place).with_context(|| format!("no cgroup {}", place.display()))?;
        }
        Ok(Self(places))
    }

    fn name() -> String {
        format!("hawser-kubelet-{}", std::process::id())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for place in &self.0 {
            let mut find = Command::new("find");
            let _ = find.arg(place).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]).output();
        }
    }
}

impl Kubelet {
    /// Starts it and waits until its node is ready. `program` is the kubelet, `pki` the folder of the control plane's
    /// authority, `kubeconfig` has all rights.
    pub async fn start(program: &Path, pki: &Path, kubeconfig: &Path, engine: Arc<Engine>) -> Result<Self> {
        // The first provider that is asked for wins; a second install is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = format!("kubelet-{}", std::process::id());
        let folder = engine.folder().join("kubelet");
        std::fs::create_dir_all(&folder)?;
        let own = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(own.clone(), &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let address = Address::new()?;
        let cgroup = Cgroup::new()?;
        let own_kubeconfig = identity(&folder, &name, pki, own)?;
        let settings = folder.join("config.yaml");
        std::fs::write(&settings, settings_of(&folder, pki, &engine, &address)?.to_string())?;

        let mut command = tokio::process::Command::new(program);
        command.arg("--config").arg(&settings).arg("--kubeconfig").arg(&own_kubeconfig);
        command.arg("--root-dir").arg(folder.join("root")).arg("--cert-dir").arg(folder.join("serving"));
        command.args(["--hostname-override", &name, "--node-ip", &address.0.to_string(), "--v=2"]);
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let kubelet = Program::new("kubelet", engine.folder());
        kubelet.start(command)?;
        let log = engine.folder().join("kubelet.log");
        let kubelet = Self { name, _address: address, client, kubelet, log, engine, _cgroup: cgroup };
        kubelet.ready().await?;
        Ok(kubelet)
    }

    async fn ready(&self) -> Result<()> {
        let ready = eventually("the kubelet's node is ready", SOON * 2, || async {
            if !self.kubelet.pid().is_some_and(is_alive) {
                return Err("it has ended".to_owned());
            }
            let node = self.nodes().get(&self.name).await.map_err(|error| error.to_string())?;
            let status = node.status.clone().unwrap_or_default();
            let ready =
                status.conditions.iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True");
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            if ready && taints.is_empty() { Ok(()) } else { Err(format!("{:?} {taints:?}", status.conditions)) }
        });
        ready.await.with_context(|| self.kubelet.tail())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Its node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The engine on which it runs pods.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.kubelet.pid()
    }

    /// The file of what it prints.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Stops it, and takes its node from the cluster.
    pub async fn end(self) -> Result<()> {
        self.kubelet.stop().await?;
        self.nodes().delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// The certificate of this node, and a kubeconfig that shows it.
fn identity(folder: &Path, name: &str, pki: &Path, mut kubeconfig: Kubeconfig) -> Result<PathBuf> {
    let [request, key, certificate] = ["node.csr", "node.key", "node.crt"].map(|file| folder.join(file));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-subj", &format!("/O=system:nodes/CN=system:node:{name}")]);
    run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&request))?;
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-req", "-days", "2", "-CAcreateserial"]).arg("-CAserial").arg(folder.join("serial"));
    openssl.arg("-CA").arg(pki.join("ca.crt")).arg("-CAkey").arg(pki.join("ca.key"));
    run(openssl.arg("-in").arg(&request).arg("-out").arg(&certificate))?;
    for named in &mut kubeconfig.auth_infos {
        named.auth_info = Some(AuthInfo {
            client_certificate: Some(certificate.display().to_string()),
            client_key: Some(key.display().to_string()),
            ..AuthInfo::default()
        });
    }
    let file = folder.join("kubeconfig");
    // JSON is YAML.
    std::fs::write(&file, serde_json::to_vec(&kubeconfig)?)?;
    Ok(file)
}

/// As kubeadm would set it up, but for where things are, and on a machine with cgroup v1 too.
fn settings_of(folder: &Path, pki: &Path, engine: &Engine, address: &Address) -> Result<serde_json::Value> {
    let port = TcpListener::bind((address.0, 0))?.local_addr()?.port();
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address.0,
        "port": port,
        "healthzPort": 0,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": pki.join("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", Cgroup::name()),
        "failCgroupV1": false,
        "failSwapOn": false,
        // How full the disk of this machine is should decide nothing.
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
            "imagefs.available": "1%", "imagefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "containerRuntimeEndpoint": format!("unix://{}", engine.socket().display()),
        "podLogsDir": folder.join("logs"),
        "volumePluginDir": folder.join("plugins"),
        "runtimeRequestTimeout": "2m",
    }))
}
