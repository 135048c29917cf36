//! The pod that is being prepared, with what everybody asks of it.

use hawser_wire::PodUid;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use virtual_node::provider::NotApplied;

/// A pod that came from an API server: it has a name, a namespace, a UID and a spec.
pub(crate) struct Subject<'p> {
    pub(crate) pod: &'p Pod,
    pub(crate) namespace: &'p str,
    pub(crate) name: &'p str,
    pub(crate) uid: PodUid,
    pub(crate) spec: &'p PodSpec,
}

impl<'p> Subject<'p> {
    /// Takes what did not come from an API server for what it is.
    pub(crate) fn of(pod: &'p Pod) -> Result<Self, NotApplied> {
        let refused = |message: String| NotApplied::Refused { reason: "InvalidPod".to_owned(), message };
        let meta = &pod.metadata;
        let (Some(namespace), Some(name), Some(uid), Some(spec)) =
            (meta.namespace.as_deref(), meta.name.as_deref(), meta.uid.as_deref(), pod.spec.as_ref())
        else {
            return Err(refused("a pod needs metadata.namespace, metadata.name, metadata.uid and spec".to_owned()));
        };
        let uid = PodUid::new(uid).map_err(|error| refused(format!("metadata.uid: {error}")))?;
        Ok(Self { pod, namespace, name, uid, spec })
    }

    /// Who the pod is towards the API server.
    pub(crate) fn service_account(&self) -> &'p str {
        match self.spec.service_account_name.as_deref() {
            None | Some("") => "default",
            Some(name) => name,
        }
    }
}
