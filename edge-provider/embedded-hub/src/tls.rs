//! The TLS listener's configuration: rustls with ring, TLS 1.2 and 1.3, no client certificates (the session is what
//! authenticates a device; TLS hides metadata and stops strangers).

use crate::config::TlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A certificate or key that TLS cannot be spoken with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificate chain is not PEM.
    #[error("read the hub's TLS certificate chain")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// There is no certificate in the chain.
    #[error("the hub's TLS certificate chain holds no certificate: give PEM with at least one CERTIFICATE section")]
    NoCertificate,
    /// The key is not PEM, or of an unknown kind.
    #[error("read the hub's TLS private key: give PEM with a PKCS#8, SEC1 or PKCS#1 key")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("use the hub's TLS certificate and key together")]
    Unusable(#[source] rustls::Error),
}

pub(crate) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&config.certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(TlsError::Certificate)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(&config.key_pem).map_err(TlsError::Key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Unusable)?;
    Ok(TlsAcceptor::from(Arc::new(server)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn config(certificate_pem: &str, key_pem: &str) -> TlsConfig {
        TlsConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate_pem: certificate_pem.as_bytes().to_vec(),
            key_pem: key_pem.as_bytes().to_vec(),
        }
    }

    #[test]
    fn bad_material_is_told_apart() {
        let good = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (good.cert.pem(), good.signing_key.serialize_pem());
        assert!(acceptor(&config(&certificate, &key)).is_ok());
        assert!(matches!(acceptor(&config("", &key)), Err(TlsError::NoCertificate)));
        assert!(matches!(acceptor(&config(&certificate, "")), Err(TlsError::Key(_))));
        let other_key = other.signing_key.serialize_pem();
        assert!(matches!(acceptor(&config(&certificate, &other_key)), Err(TlsError::Unusable(_))));
        let broken = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(acceptor(&config(broken, &key)), Err(TlsError::Certificate(_))));
    }
}
