//! The `Device` custom resource: a board with an agent, as the cluster knows it. Its name is its Node's name.

pub mod bridge_info;
pub mod join_token;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The key of the taint that keeps pods off devices unless they tolerate it.
pub const DEVICE_TAINT: &str = "hawser.dev/device";

/// The namespace of the bridge, its tokens and what it says of itself, unless another is chosen.
pub const DEFAULT_NAMESPACE: &str = "hawser-system";

/// What the operator says about a device.
#[expect(clippy::duplicated_attributes, reason = "each printer column is one attribute of the same form")]
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "hawser.dev",
    version = "v1alpha1",
    kind = "Device",
    plural = "devices",
    shortname = "dev",
    status = "DeviceStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion"),
    printcolumn(name = "Arch", type_ = "string", json_path = ".status.architecture"),
    printcolumn(name = "Last seen", type_ = "date", json_path = ".status.lastSeen"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// Labels put on the Node in addition to our own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints put on the Node. Missing: `hawser.dev/device:NoSchedule`. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
    /// The device's public key, 64 hexadecimal digits, if the operator knows it beforehand. Missing: the key with which
    /// the device joins is kept in the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub public_key: Option<String>,
}

/// What the bridge knows about a device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// The public key with which the device joined. Whoever may write this may replace the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// When it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<Time>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The device's architecture, in Go's spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// When the device was last heard. Written when the device comes and goes and at most every few minutes between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// `Ready`: whether the device is connected and can run pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
