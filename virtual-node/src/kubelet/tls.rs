//! Our certificate, and the authorities of our clients': read at the start, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::{CertificateFiles, KubeletConfig};
use crate::api::{self, CallError, Kind};

/// How often files and the ConfigMap are looked at. A certificate is replaced long before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
const CA_KEY: &str = "client-ca-file";
/// No honest certificate file is longer.
const FILE_LIMIT: u64 = 1 << 20;

/// What is wrong with certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// A file cannot be read.
    #[error("cannot read {path} for the kubelet API")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something holds no usable PEM.
    #[error("{place} holds no usable {what} for the kubelet API: expected PEM")]
    Pem {
        /// Where.
        place: String,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key cannot be used, or not together.
    #[error(
        "the serving certificate of the kubelet API cannot be used: check that certificate and key belong together"
    )]
    Unusable(#[source] rustls::Error),
    /// None could be made.
    #[error("cannot make a certificate for the kubelet API")]
    Make(#[source] rcgen::Error),
}

/// What goes into a configuration, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    /// PEM; `None`: clients with certificates are not known.
    authorities: Option<String>,
}

/// The TLS of the kubelet API.
#[derive(Debug)]
pub(crate) struct Tls {
    certificate: Option<CertificateFiles>,
    client_ca: Option<PathBuf>,
    material: Material,
    current: Arc<Current>,
}

/// The configuration for the next connection.
#[derive(Debug)]
pub(crate) struct Current(Mutex<Arc<ServerConfig>>);

impl Current {
    pub(crate) fn get(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tls {
    pub(crate) async fn load(client: &kube::Client, config: &KubeletConfig) -> Result<Self, TlsFault> {
        let (chain, key) = match &config.certificate {
            Some(files) => read_certificate(files)?,
            None => make_certificate(config)?,
        };
        let authorities = match &config.client_ca {
            Some(path) => Some(read(path)?),
            None => match published(client).await {
                Ok(pem) => pem,
                Err(error) => {
                    tracing::warn!(%error, "cannot read which authorities sign clients of the kubelet API: for now only bearer tokens are known; it is tried again");
                    None
                }
            },
        };
        let material = Material { chain, key, authorities };
        let current = Arc::new(Current(Mutex::new(material.config()?)));
        Ok(Self { certificate: config.certificate.clone(), client_ca: config.client_ca.clone(), material, current })
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current)
    }

    /// Looks for changes until `stop`. What cannot be used leaves things as they are, and is told.
    pub(crate) async fn follow(mut self, client: kube::Client, stop: CancellationToken) {
        // Cancel-safe: nothing is lost with a sleep or a read that is begun anew.
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let Some(looked) = stop.run_until_cancelled(self.look(&client)).await else { return };
            let (material, config) = match looked.and_then(|material| Ok((material.config()?, material))) {
                Ok((config, material)) => (material, config),
                Err(fault) => {
                    tracing::warn!(%fault, "new certificates of the kubelet API cannot be used; the old ones stay");
                    continue;
                }
            };
            if material != self.material {
                tracing::info!("the kubelet API uses new certificates");
                *self.current.0.lock().unwrap_or_else(PoisonError::into_inner) = config;
                self.material = material;
            }
        }
    }

    async fn look(&self, client: &kube::Client) -> Result<Material, TlsFault> {
        let mut material = self.material.clone();
        if let Some(files) = &self.certificate {
            (material.chain, material.key) = read_certificate(files)?;
        }
        match &self.client_ca {
            Some(path) => material.authorities = Some(read(path)?),
            None => {
                if let Ok(pem) = published(client).await {
                    material.authorities = pem;
                }
            }
        }
        Ok(material)
    }
}

impl Material {
    fn config(&self) -> Result<Arc<ServerConfig>, TlsFault> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsFault::Unusable)?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let unusable = || TlsFault::Pem { place: "the client CA".to_owned(), what: "certificate" };
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate.map_err(|_| unusable())?).map_err(|_| unusable())?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    // Others have a bearer token; who has neither is turned away by name.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|_| unusable())?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(self.key.clone())
            .map_err(|_| TlsFault::Pem { place: "the key file".to_owned(), what: "key" })?;
        let mut config = builder.with_single_cert(self.chain.clone(), key).map_err(TlsFault::Unusable)?;
        // Upgrades need HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<String, TlsFault> {
    use std::io::Read as _;
    let fault = |source| TlsFault::Read { path: path.to_owned(), source };
    let mut text = String::new();
    std::fs::File::open(path).map_err(fault)?.take(FILE_LIMIT).read_to_string(&mut text).map_err(fault)?;
    Ok(text)
}

type Pair = (Vec<CertificateDer<'static>>, Vec<u8>);

fn read_certificate(files: &CertificateFiles) -> Result<Pair, TlsFault> {
    let fault = |path: &Path, what| TlsFault::Pem { place: path.display().to_string(), what };
    let chain = read(&files.chain)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| fault(&files.chain, "certificate"))?;
    if chain.is_empty() {
        return Err(fault(&files.chain, "certificate"));
    }
    let key = read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| fault(&files.key, "key"))?;
    Ok((chain, key.secret_der().to_vec()))
}

/// For API servers that do not verify kubelets' certificates, which is how they come unless they are told otherwise.
fn make_certificate(config: &KubeletConfig) -> Result<Pair, TlsFault> {
    let key = rcgen::KeyPair::generate().map_err(TlsFault::Make)?;
    let mut params = rcgen::CertificateParams::new([config.advertise.to_string()]).map_err(TlsFault::Make)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("virtual-nodes@{}", config.advertise));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).map_err(TlsFault::Make)?;
    Ok((vec![certificate.der().clone()], key.serialize_der()))
}

/// What the API server says of its own clients: the certificate with which it comes to kubelets is signed by one of them.
async fn published(client: &kube::Client) -> Result<Option<String>, CallError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    match api::call(api.get(CONFIG_MAP)).await {
        Ok(map) => Ok(map.data.and_then(|mut data| data.remove(CA_KEY)).filter(|pem| !pem.trim().is_empty())),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
