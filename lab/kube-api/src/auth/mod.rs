//! Who is asking: client certificates of our own authority, the admin's bearer token, service-account tokens.
//! Nobody is anonymous, and everybody who is known may do everything: this is a lab.

pub(crate) mod authority;
pub(crate) mod der;
pub(crate) mod tokens;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::authority::Authority;

/// A known user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub(crate) fn named(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().chain(["system:authenticated"]).map(str::to_owned).collect();
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// The user as reviews show it.
    pub(crate) fn to_json(&self) -> Value {
        let mut user = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            user["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            user["extra"] = json!(self.extra);
        }
        user
    }
}

/// The group of those who may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// The name of the admin.
pub(crate) const ADMIN: &str = "lab-admin";
/// Who the API server is for kubelets.
pub(crate) const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// Compares secrets without telling by the time how much of them agrees.
pub(crate) fn same_secret(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().zip(right.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Reads the user from a verified client certificate.
pub(crate) fn user_of_certificate(certificate: &[u8]) -> Option<User> {
    let subject = der::subject(certificate)?;
    let name = subject.iter().find(|(attribute, _)| *attribute == der::Attribute::CommonName)?.1.clone();
    let groups = subject.iter().filter(|(attribute, _)| *attribute == der::Attribute::Organization);
    let groups: Vec<&str> = groups.map(|(_, group)| group.as_str()).collect();
    Some(User::named(&name, &groups))
}

/// Reads the user from a bearer token.
pub(crate) fn user_of_token(authority: &Authority, token: &str, now: i64) -> Result<User, tokens::Rejected> {
    if same_secret(authority.admin_token(), token) {
        return Ok(User::named(ADMIN, &[MASTERS]));
    }
    tokens::verify(authority, token, now).map(|claims| claims.user())
}
