//! Who manages what: adopting objects that match and have no manager, releasing those that match no longer.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use serde_json::json;

use super::{Cluster, Failure, Kind};
use crate::identity::{self, ObjectKey};
use crate::selectors;

/// What a workload should do about the objects it may manage.
#[derive(Debug)]
pub(crate) struct Claims<K> {
    pub(crate) owned: Vec<Arc<K>>,
    pub(crate) adopt: Vec<Arc<K>>,
    pub(crate) release: Vec<Arc<K>>,
}

/// Sorts the objects of a namespace. Pure. A workload that is being deleted adopts and releases nothing: what to do
/// with its dependents is then the garbage collector's business.
pub(crate) fn claims<K: Resource>(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    may_adopt: impl Fn(&K) -> bool,
) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let going = owner.deletion_timestamp.is_some();
    for object in candidates {
        let meta = object.meta();
        let matching = selectors::matches(selector, meta.labels.as_ref());
        match identity::controller_of(meta) {
            Some(manager) if manager.uid != identity::uid(owner) => {}
            Some(_) if matching || going => claims.owned.push(object),
            Some(_) => claims.release.push(object),
            None if matching && !going && meta.deletion_timestamp.is_none() && may_adopt(&object) => {
                claims.adopt.push(object);
            }
            None => {}
        }
    }
    claims
}

impl Cluster {
    /// Adopts and releases as needed, and returns what `owner` manages afterwards.
    pub(crate) async fn claim<O: Kind, K: Kind>(
        &self,
        owner: &O,
        selector: &LabelSelector,
        may_adopt: impl Fn(&K) -> bool,
    ) -> Result<Vec<Arc<K>>, Failure> {
        let meta = owner.meta();
        let key = ObjectKey::of(meta);
        let found = claims(meta, selector, K::store(&self.stores).in_namespace(&key.namespace), may_adopt);
        let mut owned = found.owned;
        for object in found.release {
            let others = object.meta().owner_references.iter().flatten();
            let rest: Vec<_> = others.filter(|one| one.uid != identity::uid(meta)).cloned().collect();
            self.set_owners(object.as_ref(), &rest).await?;
        }
        if found.adopt.is_empty() {
            return Ok(owned);
        }
        // The cache may not know yet that the owner is being deleted or was replaced; adopting then would make the
        // garbage collector delete objects of somebody else.
        let live: Option<O> = self.get_live(&key).await?;
        let still = live.is_some_and(|live| {
            identity::uid(live.meta()) == identity::uid(meta) && live.meta().deletion_timestamp.is_none()
        });
        if !still {
            return Ok(owned);
        }
        for object in found.adopt {
            let mut owners = object.meta().owner_references.clone().unwrap_or_default();
            owners.push(identity::controller_reference(&O::api_version(&()), &O::kind(&()), meta));
            owned.push(self.set_owners(object.as_ref(), &owners).await?);
        }
        Ok(owned)
    }

    async fn set_owners<K: Kind>(&self, object: &K, owners: &[OwnerReference]) -> Result<Arc<K>, Failure> {
        let meta = object.meta();
        // The list is replaced as a whole, so it must be the list of the version that was read.
        let patch = json!({ "metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "ownerReferences": owners,
        }});
        self.patch(&ObjectKey::of(meta), &patch).await
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::{pods, samples};

    fn names(objects: &[Arc<Pod>]) -> Vec<&str> {
        objects.iter().filter_map(|object| object.metadata.name.as_deref()).collect()
    }

    fn pod(name: &str, app: &str, owner: Option<&str>) -> Arc<Pod> {
        let mut pod = samples::pod(name);
        pod.metadata.labels = Some(samples::labels(&[("app", app)]));
        pod.metadata.owner_references =
            owner.map(|owner| vec![identity::controller_reference("apps/v1", "ReplicaSet", &samples::meta(owner))]);
        Arc::new(pod)
    }

    fn candidates() -> Vec<Arc<Pod>> {
        vec![
            pod("mine", "app", Some("rs")),
            pod("mine-relabelled", "other", Some("rs")),
            pod("foreign", "app", Some("another")),
            pod("orphan", "app", None),
            pod("stranger", "other", None),
            Arc::new(samples::with_phase(Pod::clone(&pod("ended-orphan", "app", None)), "Failed")),
        ]
    }

    #[test]
    fn adopts_matching_orphans_and_releases_what_matches_no_longer() {
        let claims = claims(&samples::meta("rs"), &samples::selector("app"), candidates(), pods::is_active);
        assert_eq!(names(&claims.owned), ["mine"]);
        assert_eq!(names(&claims.adopt), ["orphan"]);
        assert_eq!(names(&claims.release), ["mine-relabelled"]);
    }

    #[test]
    fn an_owner_on_its_way_out_changes_nothing() {
        let mut owner = samples::meta("rs");
        owner.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let claims = claims(&owner, &samples::selector("app"), candidates(), pods::is_active);
        assert_eq!(names(&claims.owned), ["mine", "mine-relabelled"]);
        assert!(claims.adopt.is_empty() && claims.release.is_empty());
    }
}
