//! A device with the runtime `cri`, through hub and bridge, and a kubelet: on the same control plane, each with a containerd of
//! its own (a kubelet takes every pod of its engine for its own).

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use hawser_e2e::engine::Engine;
use hawser_e2e::kubelet::Kubelet;
use hawser_e2e::world::{Setting, World};

use crate::memory::HEARTBEAT;

pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) kubelet: Kubelet,
}

impl Pair {
    /// `None`, with a word about it, where one of them cannot be had.
    pub(crate) async fn start(name: &str) -> Result<Option<Self>> {
        let Some(program) = std::env::var_os("HAWSER_KUBELET").map(PathBuf::from) else {
            println!("NOT MEASURED: it takes a control plane, a kubelet and root: run e2e/cluster/bench");
            return Ok(None);
        };
        let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").context("KUBECONFIG names no cluster")?);
        let pki = kubeconfig.parent().context("the folder of the control plane")?.join("pki");
        let setting = Setting::of(name).devices(1).heartbeat_seconds(HEARTBEAT);
        let world = setting.engine(Arc::new(Engine::start()?)).untainted().start().await?;
        let kubelet = Kubelet::start(&program, &pki, &kubeconfig, Arc::new(Engine::start()?)).await?;
        Ok(Some(Self { world, kubelet }))
    }

    pub(crate) async fn end(self) -> Result<()> {
        self.kubelet.end().await?;
        self.world.end().await
    }
}
