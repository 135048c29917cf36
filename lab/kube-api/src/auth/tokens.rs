//! Service-account tokens: ES256 JSON web tokens with the claims of the real server.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{PublicKeyData, SigningKey};
use rustls::SignatureScheme;
use serde_json::{Value, json};

use super::authority::Authority;
use super::{User, der};
use crate::object::{integer, list, text};

/// Who issues the tokens, and whom they are for unless said otherwise.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("invalid bearer token")]
    Malformed,
    #[error("invalid bearer token, signature verification failed")]
    Signature,
    #[error("[invalid bearer token, service account token has expired]")]
    Expired,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claims(Value);

/// What a token is made for.
#[derive(Debug, Clone)]
pub(crate) struct Grant<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) account_uid: &'a str,
    pub(crate) audiences: Vec<String>,
    /// The object the token lives and dies with: kind, name, uid.
    pub(crate) bound_to: Option<(&'a str, &'a str, &'a str)>,
    pub(crate) issued: i64,
    pub(crate) expires: i64,
}

impl Claims {
    pub(crate) fn of(grant: &Grant<'_>, id: &str) -> Self {
        let mut kubernetes = json!({
            "namespace": grant.namespace,
            "serviceaccount": {"name": grant.account, "uid": grant.account_uid},
        });
        if let Some((kind, name, uid)) = grant.bound_to {
            kubernetes[kind.to_lowercase()] = json!({"name": name, "uid": uid});
        }
        Self(json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{}:{}", grant.namespace, grant.account),
            "aud": grant.audiences,
            "iat": grant.issued, "nbf": grant.issued, "exp": grant.expires,
            "jti": id,
            "kubernetes.io": kubernetes,
        }))
    }

    pub(crate) fn audiences(&self) -> Vec<String> {
        list(&self.0, &["aud"]).iter().filter_map(|audience| Some(audience.as_str()?.to_owned())).collect()
    }

    fn part(&self, path: &[&str]) -> &str {
        let mut full = vec!["kubernetes.io"];
        full.extend(path);
        text(&self.0, &full)
    }

    pub(crate) fn namespace(&self) -> &str {
        self.part(&["namespace"])
    }

    /// The objects that must still exist: plural, name, uid.
    pub(crate) fn bound(&self) -> Vec<(&'static str, &str, &str)> {
        let kinds = [("serviceaccount", "serviceaccounts"), ("pod", "pods"), ("secret", "secrets"), ("node", "nodes")];
        let bound =
            kinds.into_iter().map(|(kind, plural)| (plural, self.part(&[kind, "name"]), self.part(&[kind, "uid"])));
        bound.filter(|(_, name, _)| !name.is_empty()).collect()
    }

    pub(crate) fn user(&self) -> User {
        let namespace = self.namespace();
        let in_namespace = format!("system:serviceaccounts:{namespace}");
        let mut user = User::named(text(&self.0, &["sub"]), &["system:serviceaccounts", &in_namespace]);
        user.uid = self.part(&["serviceaccount", "uid"]).to_owned();
        user.extra.insert(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("JTI={}", text(&self.0, &["jti"]))],
        );
        for kind in ["pod", "node"] {
            for what in ["name", "uid"] {
                let value = self.part(&[kind, what]);
                if !value.is_empty() {
                    user.extra.insert(format!("authentication.kubernetes.io/{kind}-{what}"), vec![value.to_owned()]);
                }
            }
        }
        user
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Signs a token.
pub(crate) fn sign(authority: &Authority, claims: &Claims) -> Result<String, rcgen::Error> {
    let header = json!({"alg": "ES256", "kid": "hawser-lab"});
    let body = format!("{}.{}", encode(&header), encode(&claims.0));
    let signature = authority.token_key().sign(body.as_bytes())?;
    let fixed = der::fixed_signature(&signature).ok_or(rcgen::Error::CouldNotParseKeyPair)?;
    Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(fixed)))
}

/// Checks a token's signature and time.
pub(crate) fn verify(authority: &Authority, token: &str, now: i64) -> Result<Claims, Rejected> {
    let (body, signature) = token.rsplit_once('.').ok_or(Rejected::Malformed)?;
    let (_, claims) = body.split_once('.').ok_or(Rejected::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Rejected::Malformed)?;
    let signature: [u8; 64] = signature.try_into().map_err(|_| Rejected::Malformed)?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let algorithm = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256)
        .and_then(|(_, algorithms)| {
            algorithms.iter().find(|one| one.public_key_alg_id() == rustls::pki_types::alg_id::ECDSA_P256)
        })
        .ok_or(Rejected::Signature)?;
    algorithm
        .verify_signature(authority.token_key().der_bytes(), body.as_bytes(), &der::der_signature(&signature))
        .map_err(|_| Rejected::Signature)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Rejected::Malformed)?;
    let claims: Value = serde_json::from_slice(&claims).map_err(|_| Rejected::Malformed)?;
    if integer(&claims, &["exp"]).is_none_or(|expires| expires <= now) {
        return Err(Rejected::Expired);
    }
    Ok(Claims(claims))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_until_it_expires_and_not_when_altered() {
        let authority = Authority::generate().unwrap_or_else(|e| panic!("{e}"));
        let grant = Grant {
            namespace: "ns",
            account: "sa",
            account_uid: "u",
            audiences: vec![ISSUER.to_owned()],
            bound_to: Some(("Pod", "p", "pu")),
            issued: 100,
            expires: 200,
        };
        let token = sign(&authority, &Claims::of(&grant, "id")).unwrap_or_else(|e| panic!("{e}"));
        let user = verify(&authority, &token, 150).map(|claims| claims.user()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(verify(&authority, &token, 200), Err(Rejected::Expired));
        let parts: Vec<&str> = token.split('.').collect();
        let other = encode(&json!({"sub": "system:serviceaccount:ns:other", "exp": 900}));
        let altered = format!("{}.{other}.{}", parts[0], parts[2]);
        assert_eq!(verify(&authority, &altered, 150), Err(Rejected::Signature));
        assert_eq!(verify(&authority, "garbage", 150), Err(Rejected::Malformed));
        let stranger = Authority::generate().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(verify(&stranger, &token, 150), Err(Rejected::Signature));
    }
}
