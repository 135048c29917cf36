//! Reads what pods refer to: by name, one object at a time, so that the bridge needs no right to list Secrets.
//!
//! What was read serves all pods for a short time ([`ReferencesConfig::keep`]): a rollout of thousands of pods that share
//! a ConfigMap costs one request. Tokens are kept until most of their life is over.

mod kept;

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Secret, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{GetParams, PostParams};
use tokio::time::Instant;
use virtual_node::provider::NotApplied;

use self::kept::{Kept, Kind, ObjectKey};
use super::Object;
use super::node::Here;
use super::references::{Contents, Fetched, Found, TokenWanted, Wanted};
use super::services::Services;
use super::shelf::Shelf;
use super::storage::Storage;
use super::subject::Subject;

/// How references are read and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencesConfig {
    /// How long an object that was read serves all pods that refer to it.
    pub keep: Duration,
    /// For how long an object that is missing, or could not be read, is not looked for again.
    pub keep_failure: Duration,
    /// How often a pod's references are looked at again, give or take a quarter.
    pub refresh: Duration,
    /// How many bytes of objects are kept at most, and as many of tokens.
    pub max_kept_bytes: usize,
    /// How long one request may take.
    pub timeout: Duration,
}

impl Default for ReferencesConfig {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(15),
            keep_failure: Duration::from_secs(1),
            refresh: Duration::from_secs(20),
            max_kept_bytes: 64 * 1024 * 1024,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Reads ConfigMaps, Secrets and tokens. A clone is another handle to the same.
#[derive(Clone)]
pub struct References {
    shared: Arc<Shared>,
}

/// How many requests may be under way at once.
const GATES: usize = 64;

struct Shared {
    client: kube::Client,
    config: ReferencesConfig,
    services: Services,
    objects: Mutex<Shelf<ObjectKey, Looked>>,
    tokens: Mutex<Shelf<TokenKey, Token>>,
    // Who asks for the same object waits at the same gate and then finds it on the shelf.
    gates: [tokio::sync::Mutex<()>; GATES],
    hasher: RandomState,
}

/// What came of a look: an answer, or what stood in the way.
type Looked = Result<Found<Kept>, String>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    pod_uid: String,
    account: String,
    wanted: TokenWanted,
}

#[derive(Clone)]
struct Token {
    object: Object,
    rotate_at: Instant,
}

/// Why there is no token.
enum NoToken {
    /// The API server says no, in these words.
    Refused(String),
    /// There was no answer.
    Unavailable(String),
}

impl References {
    /// Reads through `client`; `services` are what the watch over them knows.
    pub fn new(client: kube::Client, services: Services, config: ReferencesConfig) -> Self {
        let shared = Shared {
            client,
            services,
            objects: Mutex::new(Shelf::new(config.max_kept_bytes)),
            tokens: Mutex::new(Shelf::new(config.max_kept_bytes)),
            gates: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            hasher: RandomState::new(),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn config(&self) -> &ReferencesConfig {
        &self.shared.config
    }

    /// The node that a pod is bound to, as it may have been a moment ago; `None`: it is not there, or may not be read.
    pub(crate) async fn node(&self, name: &str) -> Result<Option<Arc<Here>>, NotApplied> {
        let found = self.shared.object(ObjectKey::new(Kind::Node, "", name)).await;
        found.map(there).map_err(|message| NotApplied::Unavailable { message })
    }

    /// The same as it is now.
    pub(crate) async fn node_now(&self, name: &str) -> Result<Option<Arc<Here>>, NotApplied> {
        let found = self.shared.read(&ObjectKey::new(Kind::Node, "", name), &GetParams::default()).await;
        found.map(there).map_err(|message| NotApplied::Unavailable { message })
    }

    /// Looks for everything that a pod wants.
    pub(crate) async fn fetch(&self, pod: &Subject<'_>, wanted: &Wanted) -> Result<Fetched, NotApplied> {
        let shared = &self.shared;
        let objects = |kind: Kind, names: &std::collections::BTreeSet<String>| {
            try_join_all(names.iter().cloned().map(move |name| async move {
                let found = shared.object(ObjectKey::new(kind, pod.namespace, &name)).await?;
                Ok::<_, String>((name, found.narrow(Kept::contents)))
            }))
        };
        let claims = try_join_all(
            wanted
                .claims
                .iter()
                .map(|name| async move { Ok::<_, String>((name.clone(), shared.storage(pod, name).await?)) }),
        );
        let handler = async {
            let Some(name) = &wanted.runtime_class else { return Ok(None) };
            Ok(Some(shared.object(ObjectKey::new(Kind::RuntimeClass, "", name)).await?.narrow(Kept::handler)))
        };
        let tokens = try_join_all(wanted.tokens.iter().map(|token| async move {
            let found = match shared.token(pod, token).await {
                Ok(token) => Ok(token),
                Err(NoToken::Refused(words)) => Err(words),
                Err(NoToken::Unavailable(message)) => return Err(message),
            };
            Ok((token.clone(), found))
        }));
        let services = shared.services.of(pod.pod, shared.config.timeout);
        let (config_maps, secrets, tokens, services, claims, handler) = futures::try_join!(
            objects(Kind::ConfigMap, &wanted.config_maps),
            objects(Kind::Secret, &wanted.secrets),
            tokens,
            services,
            claims,
            handler
        )
        .map_err(|message| NotApplied::Unavailable { message })?;
        let now = now();
        let rotations = tokens.iter().filter_map(|(_, token)| Some(token.as_ref().ok()?.rotate_at));
        Ok(Fetched {
            rotate: rotations.min().map(|at| at.saturating_duration_since(now)),
            config_maps: config_maps.into_iter().collect(),
            secrets: secrets.into_iter().collect(),
            tokens: tokens.into_iter().map(|(wanted, token)| (wanted, token.map(|token| token.object))).collect(),
            services,
            claims: claims.into_iter().collect(),
            handler,
        })
    }
}

impl Shared {
    async fn object(&self, key: ObjectKey) -> Looked {
        if let Some(looked) = lock(&self.objects).get(&key, now()) {
            return looked;
        }
        let _turn = self.gate(&key).lock().await;
        if let Some(looked) = lock(&self.objects).get(&key, now()) {
            return looked;
        }
        let looked = self.look(&key).await;
        let (weight, keep) = match &looked {
            Ok(Found::Here(kept)) if kept.is_settled() => (kept.weight(), self.config.keep),
            Ok(Found::Here(kept)) => (kept.weight(), self.config.keep_failure),
            Ok(Found::Missing | Found::Denied(_)) | Err(_) => (0, self.config.keep_failure),
        };
        let now = now();
        lock(&self.objects).put(key.clone(), looked.clone(), weight + key.weight(), now + keep, now);
        looked
    }

    async fn look(&self, key: &ObjectKey) -> Looked {
        // Version 0 is answered from the API server's memory, which may lag behind: what it lacks may be there all the
        // same, and a pod created right after its ConfigMap must not be told otherwise.
        match self.read(key, &GetParams::any()).await? {
            Found::Missing => self.read(key, &GetParams::default()).await,
            found => Ok(found),
        }
    }

    async fn read(&self, key: &ObjectKey, version: &GetParams) -> Looked {
        let ObjectKey { kind, namespace, name } = key;
        let client = self.client.clone();
        let answer = match kind {
            Kind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(client, namespace);
                let found = self.in_time(api.get_with(name, version)).await;
                found.map(|map| Kept::Contents(Arc::new(Contents::from(map))))
            }
            Kind::Secret => {
                let api: Api<Secret> = Api::namespaced(client, namespace);
                let found = self.in_time(api.get_with(name, version)).await;
                found.map(|secret| Kept::Contents(Arc::new(Contents::from(secret))))
            }
            Kind::PersistentVolumeClaim => {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace);
                self.in_time(api.get_with(name, version)).await.map(|claim| Kept::Claim(claim.into()))
            }
            Kind::PersistentVolume => {
                let api: Api<PersistentVolume> = Api::all(client);
                self.in_time(api.get_with(name, version)).await.map(|volume| Kept::Volume(Box::new(volume.into())))
            }
            Kind::Node => {
                let api: Api<Node> = Api::all(client);
                let found = self.in_time(api.get_with(name, version)).await;
                found.map(|node| Kept::Node(Arc::new(Here::from(node))))
            }
            Kind::RuntimeClass => {
                let api: Api<RuntimeClass> = Api::all(client);
                self.in_time(api.get_with(name, version)).await.map(|class| Kept::Handler(class.handler))
            }
        };
        match answer {
            Ok(kept) => Ok(Found::Here(kept)),
            Err(Fault::Said(status)) if status.code == 404 => Ok(Found::Missing),
            Err(Fault::Said(status)) if status.code == 403 => Ok(Found::Denied(status.message)),
            Err(fault) if namespace.is_empty() => Err(format!("reading {kind:?} {name}: {}", fault.words())),
            Err(fault) => Err(format!("reading {kind:?} {namespace}/{name}: {}", fault.words())),
        }
    }

    /// A claim, then the volume that it names, then the node if that matters to the volume.
    async fn storage(&self, pod: &Subject<'_>, name: &str) -> Result<Storage, String> {
        let claim = self.object(ObjectKey::new(Kind::PersistentVolumeClaim, pod.namespace, name)).await?;
        let claim = claim.narrow(Kept::claim);
        let volume = match &claim {
            Found::Here(claim) if !claim.volume.is_empty() => {
                let found = self.object(ObjectKey::new(Kind::PersistentVolume, "", &claim.volume)).await?;
                Some(found.narrow(Kept::volume))
            }
            _ => None,
        };
        let node = match &volume {
            Some(Found::Here(volume)) if volume.is_choosy() => {
                let node = pod.spec.node_name.as_deref().unwrap_or_default();
                Some(self.object(ObjectKey::new(Kind::Node, "", node)).await?.narrow(Kept::node))
            }
            _ => None,
        };
        Ok(Storage { claim, volume, node })
    }

    async fn token(&self, pod: &Subject<'_>, wanted: &TokenWanted) -> Result<Token, NoToken> {
        let key = TokenKey {
            pod_uid: pod.uid.as_str().to_owned(),
            account: pod.service_account().to_owned(),
            wanted: wanted.clone(),
        };
        let fresh = |token: &Token| now() < token.rotate_at;
        if let Some(token) = lock(&self.tokens).get(&key, now()).filter(fresh) {
            return Ok(token);
        }
        let _turn = self.gate(&key).lock().await;
        let kept = lock(&self.tokens).get(&key, now());
        if let Some(token) = kept.clone().filter(fresh) {
            return Ok(token);
        }
        // A token that wants rotation is still good.
        self.request_token(pod, key).await.or_else(|no_token| kept.ok_or(no_token))
    }

    async fn request_token(&self, pod: &Subject<'_>, key: TokenKey) -> Result<Token, NoToken> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: key.wanted.audience.clone().map(|audience| vec![audience]),
                expiration_seconds: Some(key.wanted.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name.to_owned()),
                    uid: Some(key.pod_uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod.namespace);
        let asked_at = now();
        let parameters = PostParams::default();
        let answer = match self.in_time(api.create_token_request(&key.account, &parameters, &request)).await {
            Ok(answer) => answer,
            Err(Fault::Said(status)) if matches!(status.code, 400 | 403 | 404 | 422) => {
                return Err(NoToken::Refused(format!("failed to fetch token: {}", status.message)));
            }
            Err(fault) => {
                let message = format!("requesting a token of {}/{}: {}", pod.namespace, key.account, fault.words());
                return Err(NoToken::Unavailable(message));
            }
        };
        // The API server may grant another life than asked for. Counted from when we asked, so that no clock of ours
        // or theirs has to be right.
        let seconds = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(key.wanted.seconds);
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).clamp(1, 24 * 60 * 60));
        let Some(token) = answer.status.and_then(|status| status.token) else {
            return Err(NoToken::Unavailable(format!("the token of {}/{} came empty", pod.namespace, key.account)));
        };
        let token = Token { object: Object::new(token.into_bytes()), rotate_at: asked_at + life * 4 / 5 };
        let weight = token.object.bytes.len() + 512;
        lock(&self.tokens).put(key, token.clone(), weight, asked_at + life, now());
        Ok(token)
    }

    async fn in_time<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
        match tokio::time::timeout(self.config.timeout, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(Fault::Said(status)),
            Ok(Err(error)) => Err(Fault::Failed(error)),
            Err(_) => Err(Fault::Silent(self.config.timeout)),
        }
    }

    fn gate(&self, key: &impl Hash) -> &tokio::sync::Mutex<()> {
        &self.gates[self.hasher.hash_one(key) as usize % GATES]
    }
}

fn there(found: Found<Kept>) -> Option<Arc<Here>> {
    if let Found::Here(node) = found.narrow(Kept::node) { Some(node) } else { None }
}

/// A request that brought nothing.
enum Fault {
    Said(Box<kube::core::Status>),
    Failed(kube::Error),
    Silent(Duration),
}

impl Fault {
    fn words(&self) -> String {
        match self {
            Self::Said(status) => format!("the API server says {}: {}", status.code, status.message),
            Self::Failed(error) => error.to_string(),
            Self::Silent(waited) => format!("no answer from the API server within {} s", waited.as_secs()),
        }
    }
}

/// No code that holds one of our locks can panic half way, so a poisoned one still holds what it should.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "how old what was read is; this is the IO edge")]
fn now() -> Instant {
    Instant::now()
}
