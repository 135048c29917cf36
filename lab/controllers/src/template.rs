//! Pod templates: their hash, and the pod that is made from one. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Label that ties a ReplicaSet and its pods to one version of a Deployment's template.
pub(crate) const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Without vowels and look-alikes, so that no hash spells a word.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name-safe hash of a template; `collisions` changes it when two templates got the same one.
///
/// The value differs from the one kube-controller-manager computes (that is a hash of a Go memory dump); nothing may
/// depend on the value, only on it being the same for the same template.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // Serialising a plain data type with string keys cannot fail; an empty text would only mean one shared hash,
    // which the collision count resolves.
    let mut text = serde_json::to_vec(template).unwrap_or_default();
    if collisions > 0 {
        text.extend_from_slice(&collisions.to_le_bytes());
    }
    safe_encode(fnv1a(&text))
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn safe_encode(hash: u32) -> String {
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// Whether two templates are the same but for the hash label that the Deployment controller adds.
pub(crate) fn same(left: &PodTemplateSpec, right: &PodTemplateSpec) -> bool {
    without_hash(left) == without_hash(right)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    // The API server stores a null timestamp in templates; it is not part of what the user asked for.
    meta.creation_timestamp = None;
    if let Some(labels) = &mut meta.labels {
        labels.remove(POD_TEMPLATE_HASH);
    }
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    template
}

/// A copy of the template with one more label.
pub(crate) fn with_label(template: &PodTemplateSpec, key: &str, value: &str) -> PodTemplateSpec {
    let mut template = template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(key.to_owned(), value.to_owned());
    template
}

/// The labels that pods of this template will have.
pub(crate) fn labels(template: &PodTemplateSpec) -> Option<&BTreeMap<String, String>> {
    template.metadata.as_ref()?.labels.as_ref()
}

/// The pod that `owner` creates from its template; the API server completes the name.
pub(crate) fn pod(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn the_hash_is_stable_and_safe_in_names() {
        let template = samples::template("app", "busybox:1");
        let first = hash(&template, 0);
        assert_eq!(first, hash(&template.clone(), 0));
        assert_ne!(first, hash(&samples::template("app", "busybox:2"), 0));
        assert_ne!(first, hash(&template, 1), "a collision count gives another hash");
        assert!(first.bytes().all(|byte| ALPHABET.contains(&byte)) && first.len() <= 10, "{first}");
    }

    #[test]
    fn the_hash_label_does_not_make_templates_differ() {
        let template = samples::template("app", "busybox:1");
        assert!(same(&template, &with_label(&template, POD_TEMPLATE_HASH, "abc")));
        assert!(!same(&template, &with_label(&template, "other", "abc")));
        assert!(!same(&template, &samples::template("app", "busybox:2")));
    }

    #[test]
    fn a_pod_takes_the_template_and_names_its_owner() {
        let owner = OwnerReference { name: "web".into(), uid: "u1".into(), ..OwnerReference::default() };
        let pod = pod(&samples::template("app", "busybox:1"), "default", owner);
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(pod.metadata.owner_references.unwrap()[0].uid, "u1");
        assert_eq!(pod.metadata.labels.unwrap()["app"], "app");
    }
}
