//! A connection to a kubelet: TCP, then TLS with the API server's client certificate.
//!
//! The kubelet's own certificate is not verified, as by a real API server without `--kubelet-certificate-authority`:
//! kubelets sign their own. What goes wrong is told in the words of the real server, because people search for them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Endpoint;
use crate::auth;
use crate::auth::authority::Authority;
use crate::server::TlsError;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a kubelet may take to greet.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// TLS to kubelets: the API server shows its client certificate, and takes whatever certificate it is shown.
pub(crate) fn connector(authority: &Authority) -> Result<TlsConnector, TlsError> {
    let (certificate, key) = authority.client(auth::KUBELET_CLIENT, None).map_err(TlsError::Certificate)?;
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| TlsError::Authority)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Authority)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_client_auth_cert(vec![certificate], key)
        .map_err(TlsError::Rustls)?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Connects; what went wrong otherwise.
pub(crate) async fn dial(connector: &TlsConnector, endpoint: &Endpoint) -> Result<TlsStream<TcpStream>, String> {
    let addresses = match endpoint.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, endpoint.port)],
        Err(_) => lookup(endpoint).await?,
    };
    let mut last = format!("dial tcp: lookup {}: no such host", endpoint.host);
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return greet(connector, endpoint, stream).await,
            Ok(Err(error)) => last = format!("dial tcp {address}: connect: {}", words(&error)),
            Err(_) => last = format!("dial tcp {address}: i/o timeout"),
        }
    }
    Err(last)
}

async fn lookup(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    match timeout(CONNECT, lookup_host((endpoint.host.as_str(), endpoint.port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(_)) => Err(format!("dial tcp: lookup {}: no such host", endpoint.host)),
        Err(_) => Err(format!("dial tcp: lookup {}: i/o timeout", endpoint.host)),
    }
}

async fn greet(
    connector: &TlsConnector,
    endpoint: &Endpoint,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| format!("tls: {error}"))?;
    match timeout(HANDSHAKE, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err("EOF".to_owned()),
        Ok(Err(error)) => Err(format!("tls: {}", words(&error))),
        Err(_) => Err("net/http: TLS handshake timeout".to_owned()),
    }
}

/// An error of the system without its number, in lower case: `connection refused`.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// Takes any certificate, but only from who has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
