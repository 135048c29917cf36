//! Where an external hub is, and how the bridge proves itself to it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A hub's address: `mqtt://host[:port]` or `mqtts://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress {
    /// The host: a name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// A text that is not the address of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the address of a hub: expected mqtt://host[:port] or mqtts://host[:port]")]
pub struct InvalidAddress(pub String);

impl HubAddress {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(200).collect());
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err(invalid()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(invalid)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(invalid)?) })
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(invalid());
        }
        let default = if tls { 8883 } else { 1883 };
        let port = port.map_or(Ok(default), str::parse).map_err(|_| invalid())?;
        if port == 0 { Err(invalid()) } else { Ok(Self { host: host.to_owned(), port, tls }) }
    }
}

impl std::fmt::Display for HubAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Files for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that the hub's certificate may come from. Missing: those of the system.
    pub ca: Option<PathBuf>,
    /// The bridge's own certificate and key, if the hub wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("{what} {path}: not readable as PEM; give a file that holds it")]
    File {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// No authority to trust.
    #[error("no certificate authority to trust: the system has none; name one with --hub-ca")]
    NoAuthority,
    /// The certificate and the key do not fit.
    #[error("the certificate or key for the hub is not usable")]
    Unusable(#[source] rustls::Error),
}

impl TlsFiles {
    /// Reads the files.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates("certificate authority", path)? {
                    roots.add(certificate).map_err(TlsError::Unusable)?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(TlsError::NoAuthority);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("client certificate", certificate)?;
                let read = PrivateKeyDer::from_pem_file(key);
                let key = read.map_err(|source| TlsError::File { what: "client key", path: key.clone(), source })?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Unusable)?
            }
        };
        Ok(Arc::new(config))
    }
}

fn certificates(what: &'static str, path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { what, path: path.clone(), source };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(failed(rustls::pki_types::pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed() {
        for (text, printed) in [
            ("mqtt://hub", "mqtt://hub:1883"),
            ("mqtts://hub.example:9999/", "mqtts://hub.example:9999"),
            ("mqtt://127.0.0.1:1884", "mqtt://127.0.0.1:1884"),
            ("mqtts://[::1]", "mqtts://[::1]:8883"),
            ("mqtt://[fe80::1]:1", "mqtt://[fe80::1]:1"),
        ] {
            assert_eq!(HubAddress::parse(text).unwrap().to_string(), printed);
        }
        for bad in [
            "",
            "hub",
            "http://hub",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://h:0",
            "mqtt://h:x",
            "mqtt://h:99999",
            "mqtt://[::1",
            "mqtt://a b",
            "mqtt://h/p",
        ] {
            assert!(HubAddress::parse(bad).unwrap_err().to_string().contains("mqtt://host"), "{bad}");
        }
    }

    #[test]
    fn a_missing_or_empty_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for path in [folder.path().join("missing.pem"), empty] {
            let error = TlsFiles { ca: Some(path.clone()), identity: None }.client_config().unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }
}
