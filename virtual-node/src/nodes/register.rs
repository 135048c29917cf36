//! Brings one Node object to what it should be, or removes it: read it, ask [`object`](super::object), write.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};

use super::object::{self, Adoption, Foreign};
use super::packed::Packed;
use crate::api::{self, CallError, Kind};
use crate::clock;
use crate::config::Config;
use crate::ids::{NodeName, Revision};
use crate::kubelet::Ports;
use crate::provider::{Liveness, NodeReport, NodeTemplate};

/// How often somebody else may write in between before we take a break.
const ATTEMPTS: usize = 4;

/// What a node should be.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) template: Packed<NodeTemplate>,
    pub(crate) report: Option<Packed<NodeReport>>,
    pub(crate) liveness: Option<Liveness>,
    pub(crate) heartbeat: bool,
}

/// The Node object as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) uid: String,
    pub(crate) digest: u64,
    pub(crate) revision: Revision,
    /// See [`Provider::synced`](crate::Provider::synced).
    pub(crate) pod_ranges: Vec<String>,
    /// Whether we wrote to it.
    pub(crate) wrote: bool,
}

/// Why a node could not be brought to what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSettled {
    /// It is not ours.
    #[error(transparent)]
    Foreign(Foreign),
    /// A call failed.
    #[error(transparent)]
    Call(CallError),
    /// It is on its way out; it will be made again when it is gone.
    #[error("the Node object is being deleted and still held by a finalizer")]
    Leaving,
}

impl From<CallError> for NotSettled {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Creates or adopts the Node object and writes its status.
pub(crate) async fn settle(
    client: kube::Client,
    config: Arc<Config>,
    ports: Option<Arc<Ports>>,
    name: NodeName,
    wanted: Wanted,
) -> Result<Seen, NotSettled> {
    let api: Api<Node> = Api::all(client);
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match settle_once(&api, &config, ports.as_deref(), &name, &wanted).await {
            // Somebody was faster: look again.
            Err(NotSettled::Call(error))
                if matches!(error.kind(), Kind::Conflict | Kind::AlreadyExists | Kind::NotFound) =>
            {
                last = Some(error);
            }
            other => return other,
        }
    }
    Err(last.map_or(NotSettled::Leaving, NotSettled::Call))
}

async fn settle_once(
    api: &Api<Node>,
    config: &Config,
    ports: Option<&Ports>,
    name: &NodeName,
    wanted: &Wanted,
) -> Result<Seen, NotSettled> {
    let params = PatchParams { field_manager: Some(config.component.clone()), ..PatchParams::default() };
    let existing = get(api, name).await?;
    if existing.as_ref().is_some_and(|node| node.metadata.deletion_timestamp.is_some()) {
        return Err(NotSettled::Leaving);
    }
    let adoption = object::adopt(name, existing.as_ref(), &wanted.template.get(), &config.component);
    let mut wrote = true;
    let node = match (adoption.map_err(NotSettled::Foreign)?, existing) {
        (Adoption::Create(node), _) => {
            let params = PostParams { field_manager: Some(config.component.clone()), ..PostParams::default() };
            api::call(api.create(&params, &node)).await?
        }
        (Adoption::Patch(patch), _) => api::call(api.patch(name.as_str(), &params, &Patch::Merge(patch))).await?,
        (Adoption::Nothing, Some(node)) => {
            wrote = false;
            node
        }
        (Adoption::Nothing, None) => return Err(NotSettled::Leaving),
    };
    let status = object::status_patch(
        &node,
        wanted.report.as_ref().map(Packed::get).as_ref(),
        wanted.liveness.as_ref(),
        ports.map(|ports| ports.endpoint(name, object::kubelet_port(&node))),
        wanted.heartbeat,
        clock::wall(),
    );
    let node = match status {
        None => node,
        Some(patch) => {
            wrote = true;
            api::call(api.patch_status(name.as_str(), &params, &Patch::Merge(patch))).await?
        }
    };
    Ok(Seen {
        uid: node.metadata.uid.clone().unwrap_or_default(),
        digest: object::digest(&node),
        pod_ranges: object::pod_ranges(&node),
        revision: node.metadata.resource_version.as_deref().and_then(Revision::parse).unwrap_or_default(),
        wrote,
    })
}

/// Removes the Node object and its Lease, if they are ours.
pub(crate) async fn remove(client: kube::Client, config: Arc<Config>, name: NodeName) -> Result<(), NotSettled> {
    let api: Api<Node> = Api::all(client.clone());
    if let Some(node) = get(&api, &name).await? {
        object::whose(&name, &node, &config.component).map_err(NotSettled::Foreign)?;
        let precondition = Preconditions { uid: node.metadata.uid, resource_version: None };
        let params = DeleteParams::default().preconditions(precondition);
        match api::call(api.delete(name.as_str(), &params)).await {
            Err(error) if error.kind() != Kind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let leases: Api<Lease> = Api::namespaced(client, &config.lease_namespace);
    match api::call(leases.delete(name.as_str(), &DeleteParams::default())).await {
        Err(error) if error.kind() != Kind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

async fn get(api: &Api<Node>, name: &NodeName) -> Result<Option<Node>, CallError> {
    match api::call(api.get(name.as_str())).await {
        Ok(node) => Ok(Some(node)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
