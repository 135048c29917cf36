//! Writes what a device needs to know to join where `hawser device add` finds it.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};

use super::{StartError, api_error};
use crate::device::bridge_info::{BridgeInfo, CONFIG_MAP};

/// Writes the ConfigMap.
pub(crate) async fn announce(client: &kube::Client, namespace: &str, info: &BridgeInfo) -> Result<(), StartError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply("hawser-bridge").force();
    match maps.patch(CONFIG_MAP, &params, &Patch::Apply(&info.to_config_map(namespace))).await {
        Ok(_) => Ok(()),
        Err(error) => Err(api_error("write the ConfigMap `hawser-bridge` in its namespace", error)),
    }
}
