//! Carrying out what was decided, on the object as the API server has it now.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::Shared;
use super::decide::{Decision, Owner, Policy, decide};
use super::graph::{FOREGROUND, Item, ORPHAN};
use super::kinds::Offered;
use crate::cluster::{Failure, FailureKind};
use crate::identity::{self, ObjectKey};
use crate::reconcile::{Next, Reconciler};

/// The workers of the garbage collector; keys are UIDs.
pub(super) struct Collector {
    pub(super) shared: Arc<Shared>,
}

/// An object that the API server has right now.
struct Live<'a> {
    api: Api<DynamicObject>,
    meta: ObjectMeta,
    named: &'a ObjectKey,
    kind: &'a str,
}

impl Reconciler for Collector {
    const NAME: &'static str = "garbage-collector";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let uid = key.name.as_str();
        let Some(item) = self.shared.graph().get(uid).cloned() else { return Ok(Next::OnChange) };
        let owners = self.owners(&item).await?;
        let decision = decide(uid, &item, &owners, &self.shared.graph());
        match decision {
            Decision::Nothing => return Ok(Next::OnChange),
            Decision::Wait(dependents) => {
                self.shared.look_at(dependents);
                return Ok(Next::OnChange);
            }
            _ => {}
        }
        // The graph may be behind; what is written is decided on the object itself.
        let kinds = self.shared.kinds();
        let Some(offered) = kinds.get(&item.kind) else { return Ok(Next::OnChange) };
        let named = ObjectKey::new(&item.namespace, &item.name);
        let Some(live) = self.live(offered, &named, uid).await? else {
            let dirty = self.shared.graph().forget(uid);
            self.shared.look_at(dirty);
            return Ok(Next::OnChange);
        };
        let current = Item::of(&item.kind, &live.meta);
        let owners = self.owners(&current).await?;
        let decision = decide(uid, &current, &owners, &self.shared.graph());
        self.carry_out(uid, &live, decision).await
    }
}

impl Collector {
    async fn carry_out(&self, uid: &str, live: &Live<'_>, decision: Decision) -> Result<Next, Failure> {
        match decision {
            Decision::Nothing => {}
            Decision::Wait(dependents) => self.shared.look_at(dependents),
            Decision::DropReferences(lost) => {
                let owners = live.meta.owner_references.iter().flatten();
                let kept: Vec<_> = owners.filter(|owner| !lost.contains(&owner.uid)).collect();
                live.patch("drop lost owners of", &json!({ "ownerReferences": kept })).await?;
            }
            Decision::Delete { policy, unblock } => {
                if unblock {
                    let owners = live.meta.owner_references.clone().unwrap_or_default().into_iter();
                    let loose: Vec<_> =
                        owners.map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner }).collect();
                    live.patch("unblock the owners of", &json!({ "ownerReferences": loose })).await?;
                    // Deleted in the next round, which the change brings.
                    return Ok(Next::OnChange);
                }
                debug!(object = %live.named, kind = live.kind, ?policy, "garbage is deleted");
                live.delete(policy).await?;
            }
            Decision::FinishForeground => live.without_finalizer(FOREGROUND).await?,
            Decision::Orphan(dependents) => {
                for dependent in dependents {
                    self.orphan(&dependent, uid).await?;
                }
                live.without_finalizer(ORPHAN).await?;
            }
        }
        Ok(Next::OnChange)
    }

    /// Takes the reference to an owner from a dependent.
    async fn orphan(&self, dependent: &str, owner: &str) -> Result<(), Failure> {
        let Some(item) = self.shared.graph().get(dependent).cloned() else { return Ok(()) };
        let kinds = self.shared.kinds();
        let Some(offered) = kinds.get(&item.kind) else { return Ok(()) };
        let named = ObjectKey::new(&item.namespace, &item.name);
        let Some(live) = self.live(offered, &named, dependent).await? else { return Ok(()) };
        let owners = live.meta.owner_references.iter().flatten();
        let kept: Vec<_> = owners.filter(|one| one.uid != owner).collect();
        live.patch("orphan", &json!({ "ownerReferences": kept })).await
    }

    async fn owners(&self, item: &Item) -> Result<Vec<Owner>, Failure> {
        if item.deleting {
            return Ok(Vec::new());
        }
        let mut states = Vec::with_capacity(item.owners.len());
        for owner in &item.owners {
            states.push(self.owner(item, owner).await?);
        }
        Ok(states)
    }

    async fn owner(&self, item: &Item, owner: &OwnerReference) -> Result<Owner, Failure> {
        let kinds = self.shared.kinds();
        let known = self.shared.graph().get(&owner.uid).cloned();
        if let Some(known) = known {
            let kind_fits = kinds.get(&known.kind).is_some_and(|offered| offered.resource.kind == owner.kind);
            let here = known.namespace.is_empty() || known.namespace == item.namespace;
            if kind_fits && known.name == owner.name && here {
                return Ok(if known.waits_for_dependents() { Owner::Waiting } else { Owner::Solid });
            }
        }
        // Not seen: perhaps not yet. Only the API server can say that there is no such object.
        let Some(offered) = kinds.referred(&owner.api_version, &owner.kind) else {
            debug!(
                kind = owner.kind,
                api = owner.api_version,
                "owner of a kind that the API does not offer: left alone"
            );
            return Ok(Owner::Solid);
        };
        if offered.namespaced && item.namespace.is_empty() {
            warn!(
                object = item.name,
                owner = owner.name,
                "cluster-scoped object names an owner in a namespace: left alone"
            );
            return Ok(Owner::Solid);
        }
        let namespace = if offered.namespaced { item.namespace.as_str() } else { "" };
        let named = ObjectKey::new(namespace, &owner.name);
        let live = self.live(offered, &named, &owner.uid).await?;
        Ok(match live {
            None => Owner::Absent,
            Some(live) if live.meta.deletion_timestamp.is_some() && has(&live.meta, FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
        })
    }

    /// The object of this name, if it is the one with this UID.
    async fn live<'a>(
        &self,
        offered: &'a Offered,
        named: &'a ObjectKey,
        uid: &str,
    ) -> Result<Option<Live<'a>>, Failure> {
        let client = self.shared.cluster.client.clone();
        let api: Api<DynamicObject> = if offered.namespaced {
            Api::namespaced_with(client, &named.namespace, &offered.resource)
        } else {
            Api::all_with(client, &offered.resource)
        };
        let kind = offered.resource.kind.as_str();
        let found = api.get_metadata_opt(&named.name).await;
        let found = found.map_err(|error| Failure::request("read", format!("{kind} {named}"), error))?;
        let found = found.filter(|found| identity::uid(&found.metadata) == uid);
        Ok(found.map(|found| Live { api, meta: found.metadata, named, kind }))
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|one| one == finalizer)
}

impl Live<'_> {
    fn target(&self) -> String {
        format!("{} {}", self.kind, self.named)
    }

    /// Patches the metadata of exactly the version that was read.
    async fn patch(&self, operation: &'static str, metadata: &Value) -> Result<(), Failure> {
        let mut metadata = metadata.clone();
        metadata["uid"] = json!(self.meta.uid);
        metadata["resourceVersion"] = json!(self.meta.resource_version);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let patched = self.api.patch_metadata(&self.named.name, &PatchParams::default(), &patch).await;
        gone_is_fine(patched.map(drop).map_err(|error| Failure::request(operation, self.target(), error)))
    }

    async fn without_finalizer(&self, finalizer: &str) -> Result<(), Failure> {
        let kept: Vec<_> = self.meta.finalizers.iter().flatten().filter(|one| *one != finalizer).collect();
        self.patch("take a finalizer from", &json!({ "finalizers": kept })).await
    }

    async fn delete(&self, policy: Policy) -> Result<(), Failure> {
        let params = DeleteParams {
            propagation_policy: Some(match policy {
                Policy::Background => PropagationPolicy::Background,
                Policy::Foreground => PropagationPolicy::Foreground,
                Policy::Orphan => PropagationPolicy::Orphan,
            }),
            // If the owners change in this moment, the decision was about another object.
            preconditions: Some(Preconditions {
                uid: self.meta.uid.clone(),
                resource_version: self.meta.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let deleted = self.api.delete(&self.named.name, &params).await;
        gone_is_fine(deleted.map(drop).map_err(|error| Failure::request("delete", self.target(), error)))
    }
}

fn gone_is_fine(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.kind() == FailureKind::NotFound => Ok(()),
        other => other,
    }
}
