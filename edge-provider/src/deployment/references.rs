//! What a pod refers to, and what was found of it. Pure: who reads it is [`resolve`](super::resolve).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret, Volume};

use super::Object;
use super::services::Service;
use super::storage::Storage;
use super::translate::pull_secrets;

/// How long a token is asked to live when the pod does not say.
const TOKEN_SECONDS: i64 = 3600;

/// Everything that a pod refers to, by name in its own namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) tokens: BTreeSet<TokenWanted>,
    pub(crate) claims: BTreeSet<String>,
    /// No name of the pod's namespace: classes belong to the cluster.
    pub(crate) runtime_class: Option<String>,
}

/// A token of the pod's service account, bound to the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TokenWanted {
    pub(crate) audience: Option<String>,
    pub(crate) seconds: i64,
}

impl TokenWanted {
    pub(crate) fn new(audience: Option<&str>, seconds: Option<i64>) -> Self {
        let audience = audience.filter(|audience| !audience.is_empty()).map(str::to_owned);
        Self { audience, seconds: seconds.unwrap_or(TOKEN_SECONDS) }
    }
}

/// The keys of a ConfigMap or a Secret, each hashed once for all pods that use it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// What can also be an environment variable.
    pub(crate) data: BTreeMap<String, Object>,
    /// What can only be a file: `binaryData`.
    pub(crate) binary: BTreeMap<String, Object>,
}

impl Contents {
    /// How many bytes it takes to keep it, roughly.
    pub(crate) fn weight(&self) -> usize {
        let weigh = |keys: &BTreeMap<String, Object>| -> usize {
            keys.iter().map(|(key, object)| key.len() + object.bytes.len() + 128).sum()
        };
        weigh(&self.data) + weigh(&self.binary)
    }
}

impl From<ConfigMap> for Contents {
    fn from(map: ConfigMap) -> Self {
        let data = map.data.unwrap_or_default().into_iter();
        let binary = map.binary_data.unwrap_or_default().into_iter();
        Self {
            data: data.map(|(key, text)| (key, Object::new(text.into_bytes()))).collect(),
            binary: binary.map(|(key, bytes)| (key, Object::new(bytes.0))).collect(),
        }
    }
}

impl From<Secret> for Contents {
    fn from(secret: Secret) -> Self {
        let data = secret.data.unwrap_or_default().into_iter();
        Self { data: data.map(|(key, bytes)| (key, Object::new(bytes.0))).collect(), binary: BTreeMap::new() }
    }
}

/// What became of looking for an object: a ConfigMap or a Secret, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<T = Arc<Contents>> {
    /// It is there.
    Here(T),
    /// The API server says that it is not there.
    Missing,
    /// The API server does not let us read it, in its own words.
    Denied(String),
}

impl<T> Found<T> {
    /// The same about what is there as another type; as if it were missing if it is not of that.
    pub(crate) fn narrow<U>(self, form: impl FnOnce(T) -> Option<U>) -> Found<U> {
        match self {
            Self::Here(there) => form(there).map_or(Found::Missing, Found::Here),
            Self::Missing => Found::Missing,
            Self::Denied(words) => Found::Denied(words),
        }
    }
}

/// What was found of everything that a pod refers to.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) config_maps: BTreeMap<String, Found>,
    pub(crate) secrets: BTreeMap<String, Found>,
    /// The token, or the API server's words why there is none.
    pub(crate) tokens: BTreeMap<TokenWanted, Result<Object, String>>,
    pub(crate) claims: BTreeMap<String, Storage>,
    /// The engine's way to run it that its class stands for; `None`: it has no class.
    pub(crate) handler: Option<Found<String>>,
    /// The services that its containers hear of, or why the bridge does not know them.
    pub(crate) services: Result<Vec<Service>, String>,
    /// After what time the first token wants rotation.
    pub(crate) rotate: Option<Duration>,
}

/// Looks through a pod for what it refers to. A volume that no container mounts is nobody's business, as for a kubelet.
pub(crate) fn wanted(spec: &PodSpec) -> Wanted {
    let mut wanted = Wanted::default();
    for container in containers(spec) {
        want_environment(container, &mut wanted);
    }
    for container in ephemeral(spec) {
        want_environment(&container, &mut wanted);
    }
    for volume in mounted_volumes(spec).chain(volumes_of_ephemeral(spec)) {
        want_volume(volume, &mut wanted);
    }
    wanted.secrets.extend(pull_secrets(spec).map(str::to_owned));
    wanted.runtime_class = spec.runtime_class_name.clone().filter(|name| !name.is_empty());
    wanted
}

/// Init containers, then containers.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Those that were added to look at the pod, with all that such a container can have.
pub(crate) fn ephemeral(spec: &PodSpec) -> impl Iterator<Item = Container> {
    spec.ephemeral_containers.iter().flatten().map(|added| Container {
        name: added.name.clone(),
        image: added.image.clone(),
        image_pull_policy: added.image_pull_policy.clone(),
        command: added.command.clone(),
        args: added.args.clone(),
        working_dir: added.working_dir.clone(),
        env: added.env.clone(),
        env_from: added.env_from.clone(),
        volume_mounts: added.volume_mounts.clone(),
        volume_devices: added.volume_devices.clone(),
        security_context: added.security_context.clone(),
        stdin: added.stdin,
        stdin_once: added.stdin_once,
        tty: added.tty,
        termination_message_path: added.termination_message_path.clone(),
        termination_message_policy: added.termination_message_policy.clone(),
        ..Container::default()
    })
}

/// The volumes that only containers mount that were added to look at the pod.
pub(crate) fn volumes_of_ephemeral(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    let added = spec.ephemeral_containers.iter().flatten().flat_map(|added| added.volume_mounts.iter().flatten());
    let mounted: BTreeSet<&str> = added.map(|mount| mount.name.as_str()).collect();
    let anyway: BTreeSet<&str> = mounted_volumes(spec).map(|volume| volume.name.as_str()).collect();
    let only = move |name: &str| mounted.contains(name) && !anyway.contains(name);
    spec.volumes.iter().flatten().filter(move |volume| only(&volume.name))
}

/// The volumes that some container mounts, with their place in the spec.
pub(crate) fn mounted_volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    let mounted: BTreeSet<&str> =
        containers(spec).flat_map(|c| c.volume_mounts.iter().flatten()).map(|mount| mount.name.as_str()).collect();
    spec.volumes.iter().flatten().filter(move |volume| mounted.contains(volume.name.as_str()))
}

fn want_environment(container: &Container, wanted: &mut Wanted) {
    for from in container.env_from.iter().flatten() {
        wanted.config_maps.extend(from.config_map_ref.iter().map(|source| source.name.clone()));
        wanted.secrets.extend(from.secret_ref.iter().map(|source| source.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        wanted.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
        wanted.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
    }
}

fn want_volume(volume: &Volume, wanted: &mut Wanted) {
    wanted.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
    wanted.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
    wanted.claims.extend(volume.persistent_volume_claim.iter().map(|source| source.claim_name.clone()));
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        wanted.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
        wanted.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        wanted.tokens.extend(
            source
                .service_account_token
                .iter()
                .map(|token| TokenWanted::new(token.audience.as_deref(), token.expiration_seconds)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_a_pod_refers_to_is_found_once() {
        let spec: PodSpec = serde_json::from_value(json!({
            "imagePullSecrets": [{"name": "registry"}, {}], "runtimeClassName": "sandboxed",
            "initContainers": [{"name": "init", "envFrom": [
                {"configMapRef": {"name": "a"}}, {"secretRef": {"name": "s"}}]}],
            "containers": [{"name": "main",
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "b", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "C", "value": "plain"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"},
                    {"name": "p", "mountPath": "/p"}, {"name": "d", "mountPath": "/d"}]}],
            "volumes": [
                {"name": "v", "configMap": {"name": "c"}},
                {"name": "w", "secret": {"secretName": "t"}},
                {"name": "p", "projected": {"sources": [
                    {"configMap": {"name": "d"}}, {"secret": {"name": "u"}},
                    {"serviceAccountToken": {"path": "token"}},
                    {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "looked", "configMap": {"name": "e"}},
                {"name": "unused", "secret": {"secretName": "nobody-mounts-it"}}],
            "ephemeralContainers": [{"name": "debug", "envFrom": [{"configMapRef": {"name": "f"}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "looked", "mountPath": "/l"}]}]
        }))
        .unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(
            wanted(&spec),
            Wanted {
                config_maps: names(&["a", "b", "c", "d", "e", "f"]),
                secrets: names(&["registry", "s", "t", "u"]),
                tokens: [TokenWanted::new(None, None), TokenWanted::new(Some("vault"), Some(600))].into(),
                claims: names(&["data"]),
                runtime_class: Some("sandboxed".to_owned()),
            }
        );
    }
}
