//! What a joining device changes in the cluster: its key is kept in the Device, its token ends.

use hawser_wire::{DeviceId, PublicKey, TokenId};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::device::Device;
use crate::device::join_token::{StoredToken, secret_name};

/// How often a write that met another writer is tried again.
const ATTEMPTS: usize = 8;

/// Reads tokens and keeps keys. Cheap to clone.
#[derive(Clone)]
pub struct KeyStore {
    devices: Api<Device>,
    secrets: Api<Secret>,
}

/// What became of a key that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is in the Device's status (or was already).
    Yes,
    /// Another key was there first.
    OtherKey,
    /// The Device is gone, or is another one of the same name.
    NoDevice,
}

impl KeyStore {
    /// Tokens are in `namespace`.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        Self { devices: Api::all(client.clone()), secrets: Api::namespaced(client, namespace) }
    }

    /// The token that waits for a device.
    pub async fn token(&self, device: &DeviceId) -> Result<Option<StoredToken>, kube::Error> {
        let secret = self.secrets.get_opt(&secret_name(device)).await?;
        Ok(secret.as_ref().and_then(StoredToken::from_secret))
    }

    /// Keeps a key, unless there is one already.
    pub async fn keep(
        &self,
        device: &DeviceId,
        uid: &str,
        key: PublicKey,
        now: Timestamp,
    ) -> Result<Kept, kube::Error> {
        for attempt in 1.. {
            let Some(object) = self.devices.get_opt(device.as_str()).await? else { return Ok(Kept::NoDevice) };
            if object.metadata.uid.as_deref() != Some(uid) {
                return Ok(Kept::NoDevice);
            }
            match object.status.as_ref().and_then(|status| status.public_key.as_deref()) {
                Some(known) if PublicKey::parse(known) == Some(key) => return Ok(Kept::Yes),
                Some(_) => return Ok(Kept::OtherKey),
                None => {}
            }
            // With the resourceVersion that was read: whoever wrote in between makes this a conflict.
            let patch = json!({
                "metadata": { "resourceVersion": object.metadata.resource_version, "uid": uid },
                "status": { "publicKey": key.to_string(), "joinedAt": Time(now) },
            });
            match self.devices.patch_status(device.as_str(), &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(Kept::Yes),
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < ATTEMPTS => {}
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Kept::NoDevice),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Ends a token, unless another one waits there by now.
    pub async fn end_token(&self, device: &DeviceId, id: TokenId) -> Result<(), kube::Error> {
        let name = secret_name(device);
        let Some(secret) = self.secrets.get_opt(&name).await? else { return Ok(()) };
        if StoredToken::from_secret(&secret).is_some_and(|stored| stored.token.id != id) {
            return Ok(());
        }
        let preconditions = Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        };
        match self.secrets.delete(&name, &DeleteParams::default().preconditions(preconditions)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
