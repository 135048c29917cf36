//! Renews one Lease: the sign of life by which the cluster knows that a node is there.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api::{self, CallError, Kind};
use crate::clock;
use crate::config::Config;
use crate::ids::NodeName;

/// Renews the Lease, or makes it. Everything that matters is written each time, so that a Lease that somebody has changed,
/// or that belongs to a Node object since re-created, is right again after one renewal.
pub(crate) async fn renew(
    client: kube::Client,
    config: Arc<Config>,
    node: NodeName,
    node_uid: String,
) -> Result<(), CallError> {
    let api: Api<Lease> = Api::namespaced(client, &config.lease_namespace);
    let lease = lease(&config, &node, node_uid, clock::wall());
    let patch = json!({"metadata": {"ownerReferences": lease.metadata.owner_references}, "spec": lease.spec});
    let params = PatchParams { field_manager: Some(config.component.clone()), ..PatchParams::default() };
    match api::call(api.patch(node.as_str(), &params, &Patch::Merge(patch))).await {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() != Kind::NotFound => return Err(error),
        Err(_) => {}
    }
    let params = PostParams { field_manager: Some(config.component.clone()), ..PostParams::default() };
    match api::call(api.create(&params, &lease)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn lease(config: &Config, node: &NodeName, node_uid: String, now: Timestamp) -> Lease {
    let owner = OwnerReference {
        api_version: Node::api_version(&()).into_owned(),
        kind: Node::kind(&()).into_owned(),
        name: node.to_string(),
        uid: node_uid,
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta {
            name: Some(node.to_string()),
            namespace: Some(config.lease_namespace.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_string()),
            lease_duration_seconds: Some(i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_the_nodes_own() {
        let node = NodeName::new("gw-1").unwrap();
        let lease = lease(&Config::default(), &node, "n1".into(), Timestamp::UNIX_EPOCH);
        assert_eq!(
            serde_json::to_value(lease).unwrap(),
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "gw-1", "namespace": "kube-node-lease",
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "gw-1", "uid": "n1"}]},
                "spec": {"holderIdentity": "gw-1", "leaseDurationSeconds": 40, "renewTime": "1970-01-01T00:00:00.000000Z"},
            })
        );
    }
}
