//! Who asks, and whether they may: as a kubelet with webhook authentication and authorisation, and without anonymous access.
//!
//! The API server is asked (TokenReview, SubjectAccessReview); its answers are kept as long as a kubelet keeps them, in
//! caches that are bounded. A certificate needs no question: TLS has verified it.

mod cache;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use blake2::{Blake2s256, Digest};
use http::{HeaderMap, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use self::cache::Cache;
use super::answer::Refusal;
use crate::api;
use crate::clock;
use crate::ids::NodeName;

const KNOWN_TOKEN: Duration = Duration::from_secs(2 * 60);
const ALLOWED: Duration = Duration::from_secs(5 * 60);
const DENIED: Duration = Duration::from_secs(30);
/// Who uses a kubelet API are a handful of components and a few people.
const ENTRIES: usize = 1024;
/// The API server's own limit for all headers is not far above.
const TOKEN_LIMIT: usize = 64 << 10;

/// Somebody who has shown who they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whom a verified certificate names: its common name, and its organisations as groups.
    pub(crate) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let organisations = subject.iter_organization().filter_map(|name| name.as_str().ok());
        let mut groups: Vec<String> = organisations.map(str::to_owned).collect();
        groups.push("system:authenticated".to_owned());
        (!name.is_empty()).then_some(Self { name, groups, ..Self::default() })
    }
}

/// Asks the API server and remembers.
pub(crate) struct Auth {
    client: kube::Client,
    tokens: Mutex<Cache<[u8; 32], Option<User>>>,
    rights: Mutex<Cache<Right, bool>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Right {
    user: User,
    verb: &'static str,
    subresource: &'static str,
    node: Option<NodeName>,
}

impl Auth {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client, tokens: Mutex::new(Cache::new(ENTRIES)), rights: Mutex::new(Cache::new(ENTRIES)) }
    }

    /// Who sends this request.
    pub(crate) async fn authenticate(&self, certified: Option<&User>, headers: &HeaderMap) -> Result<User, Refusal> {
        if let Some(user) = certified {
            return Ok(user.clone());
        }
        let unauthorized = || Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
        let token = bearer(headers).filter(|token| token.len() <= TOKEN_LIMIT).ok_or_else(unauthorized)?;
        let key: [u8; 32] = Blake2s256::digest(token).into();
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&key, clock::instant());
        let user = match known {
            Some(known) => known,
            None => {
                let user = self.review(token).await.map_err(|error| {
                    tracing::warn!(%error, "a token could not be reviewed, so its owner is turned away");
                    unauthorized()
                })?;
                let until = clock::instant() + KNOWN_TOKEN;
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                tokens.put(key, user.clone(), until, clock::instant());
                user
            }
        };
        user.ok_or_else(unauthorized)
    }

    /// Whether they may, by any of `subresources`.
    pub(crate) async fn authorize(
        &self,
        user: &User,
        verb: &'static str,
        subresources: &'static [&'static str],
        node: Option<&NodeName>,
    ) -> Result<(), Refusal> {
        for subresource in subresources {
            let right = Right { user: user.clone(), verb, subresource, node: node.cloned() };
            let known = self.rights.lock().unwrap_or_else(PoisonError::into_inner).get(&right, clock::instant());
            let allowed = match known {
                Some(allowed) => allowed,
                None => {
                    let allowed = self.may(&right).await.map_err(|error| {
                        tracing::warn!(%error, user = user.name, "whether somebody may use the kubelet API could not be asked");
                        let text = format!(
                            "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                            user.name
                        );
                        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
                    })?;
                    let now = clock::instant();
                    let until = now + if allowed { ALLOWED } else { DENIED };
                    self.rights.lock().unwrap_or_else(PoisonError::into_inner).put(right, allowed, until, now);
                    allowed
                }
            };
            if allowed {
                return Ok(());
            }
        }
        let text = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" ")
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, text))
    }

    async fn review(&self, token: &str) -> Result<Option<User>, api::CallError> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = api::call(reviews.create(&PostParams::default(), &review)).await?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        Ok(user.filter(|user| !user.name.is_empty()))
    }

    async fn may(&self, right: &Right) -> Result<bool, api::CallError> {
        let user = &right.user;
        let attributes = ResourceAttributes {
            verb: Some(right.verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(right.subresource.to_owned()),
            name: right.node.as_ref().map(ToString::to_string),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let status = api::call(reviews.create(&PostParams::default(), &review)).await?.status;
        Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests;
