//! The lab's own certificate authority, the key of its tokens, and the admin's secret.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::random;

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or certificate could not be made or read.
    #[error("could not make or read the lab's certificates")]
    Certificates(#[source] rcgen::Error),
}

/// The secrets as they are kept between runs.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    ca_certificate: String,
    ca_key: String,
    token_key: String,
    admin_token: String,
}

/// Issues certificates and signs tokens.
pub(crate) struct Authority {
    secrets: Secrets,
    issuer_key: KeyPair,
    token_key: KeyPair,
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "hawser-lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// A new authority with new keys.
    pub(crate) fn generate() -> Result<Self, AuthorityError> {
        let ca_key = KeyPair::generate().map_err(AuthorityError::Certificates)?;
        let token_key = KeyPair::generate().map_err(AuthorityError::Certificates)?;
        let certificate = ca_params().self_signed(&ca_key).map_err(AuthorityError::Certificates)?;
        Self::load(Secrets {
            ca_certificate: certificate.pem(),
            ca_key: ca_key.serialize_pem(),
            token_key: token_key.serialize_pem(),
            admin_token: random::secret(),
        })
    }

    /// The authority of an earlier run.
    pub(crate) fn load(secrets: Secrets) -> Result<Self, AuthorityError> {
        let issuer_key = KeyPair::from_pem(&secrets.ca_key).map_err(AuthorityError::Certificates)?;
        let token_key = KeyPair::from_pem(&secrets.token_key).map_err(AuthorityError::Certificates)?;
        Ok(Self { secrets, issuer_key, token_key })
    }

    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.secrets.ca_certificate
    }

    pub(crate) fn admin_token(&self) -> &str {
        &self.secrets.admin_token
    }

    pub(crate) fn token_key(&self) -> &KeyPair {
        &self.token_key
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Result<rcgen::Certificate, AuthorityError> {
        let ca = ca_params();
        let issuer = Issuer::from_params(&ca, &self.issuer_key);
        params.signed_by(key, &issuer).map_err(AuthorityError::Certificates)
    }

    /// A serving certificate for an address, with its key.
    pub(crate) fn server(
        &self,
        address: IpAddr,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Certificates)?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        let mut params = CertificateParams::new(names).map_err(AuthorityError::Certificates)?;
        params.distinguished_name.push(DnType::CommonName, "hawser-lab-kube-api");
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = self.sign(&params, &key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((certificate.der().clone(), key))
    }

    /// A client certificate for a user, with its key, both PEM. A name holds each attribute once, so there is at most one
    /// group.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Result<(String, String), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Certificates)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = self.sign(&params, &key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::auth::{self, User};

    #[test]
    fn a_client_certificate_names_its_user() {
        let authority = Authority::generate().unwrap_or_else(|e| panic!("{e}"));
        let (certificate, _) = authority.client("jane", Some("system:nodes")).unwrap_or_else(|e| panic!("{e}"));
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(auth::user_of_certificate(&der), Some(User::named("jane", &["system:nodes"])));
    }

    #[test]
    fn the_admin_token_is_the_admin_and_another_is_nobody() {
        let authority = Authority::generate().unwrap_or_else(|e| panic!("{e}"));
        let admin = auth::user_of_token(&authority, authority.admin_token(), 0);
        assert_eq!(admin.map(|user| user.name).ok().as_deref(), Some(auth::ADMIN));
        assert!(auth::user_of_token(&authority, "x", 0).is_err());
    }
}
