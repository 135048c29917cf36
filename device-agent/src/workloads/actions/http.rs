//! HTTP requests to containers. Certificates are not checked, proxies are not used, redirects are followed on the same host.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hawser_wire::deployment::HttpGet;
use http_body_util::{BodyExt, Empty};
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{HOOK_AGENT, PROBE_AGENT, ProbeAnswer, address, connect};

/// How much of an answer's body is read.
const MAX_BODY: usize = 10 * 1024;
/// How long an answer's head may be.
const MAX_HEAD: usize = 64 * 1024;
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    https: bool,
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

struct Response {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

/// Why there is no response.
enum Problem {
    /// It was not answered, or not in HTTP.
    Request(String),
    /// Its answer broke off.
    Body(String),
}

/// Asks; 200 to 399 is well.
pub(super) async fn probe(get: &HttpGet, host: &str, limit: Duration) -> ProbeAnswer {
    let target = Target::new(get, host);
    let asked = tokio::time::timeout(limit, follow(target.clone(), get, PROBE_AGENT)).await;
    let Ok(asked) = asked else {
        let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
        return ProbeAnswer::Bad(format!("Get \"{}\": {why}", target.url()));
    };
    match asked {
        Ok(response) if response.status.is_success() => ProbeAnswer::Good,
        Ok(response) if response.status.is_redirection() => {
            let body = String::from_utf8_lossy(&response.body);
            ProbeAnswer::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        // Not the body, which could hold what not everybody may read.
        Ok(response) => ProbeAnswer::Bad(format!("HTTP probe failed with statuscode: {}", response.status.as_u16())),
        Err(Problem::Request(why)) => ProbeAnswer::Bad(format!("Get \"{}\": {why}", target.url())),
        Err(Problem::Body(why)) => ProbeAnswer::Unclear(why),
    }
}

/// Calls; any answer will do.
pub(super) async fn hook(get: &HttpGet, host: &str) -> Result<(), String> {
    match follow(Target::new(get, host), get, HOOK_AGENT).await {
        Ok(_) | Err(Problem::Body(_)) => Ok(()),
        Err(Problem::Request(why)) => Err(why),
    }
}

async fn follow(mut target: Target, get: &HttpGet, agent: &'static str) -> Result<Response, Problem> {
    for _ in 0..MAX_REDIRECTS {
        let response = fetch(&target, get, agent).await?;
        if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(response);
        }
        let Some(location) = &response.location else {
            let status = response.status.as_u16();
            return Err(Problem::Request(format!("{status} response missing Location header")));
        };
        match target.redirected(location) {
            Some(next) if next.host == target.host => target = next,
            // Another host may be anywhere: that the container answers is enough.
            Some(_) => return Ok(response),
            None => return Err(Problem::Request(format!("failed to parse Location header {location:?}"))),
        }
    }
    Err(Problem::Request(format!("stopped after {MAX_REDIRECTS} redirects")))
}

async fn fetch(target: &Target, get: &HttpGet, agent: &'static str) -> Result<Response, Problem> {
    let stream = connect(&target.host, target.port).await.map_err(Problem::Request)?;
    if !target.https {
        return exchange(stream, target, get, agent).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|error| Problem::Request(error.to_string()))?;
    let connector = connector().map_err(|error| Problem::Request(error.to_string()))?;
    let stream = connector.connect(name, stream).await;
    exchange(stream.map_err(|error| Problem::Request(format!("tls: {error}")))?, target, get, agent).await
}

async fn exchange<S>(stream: S, target: &Target, get: &HttpGet, agent: &'static str) -> Result<Response, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| Problem::Request(error.to_string());
    let mut request = Request::builder().uri(&target.path).body(Empty::<Bytes>::new()).map_err(|error| {
        Problem::Request(format!("path {:?}: {error}", target.path)) //
    })?;
    *request.headers_mut() = headers(target, get, agent).map_err(Problem::Request)?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) =
        builder.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let location = response.headers().get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let location = location.map(std::borrow::Cow::into_owned);
        let (mut body, mut incoming) = (Vec::new(), response.into_body());
        while body.len() < MAX_BODY
            && let Some(frame) = incoming.frame().await
        {
            let frame = frame.map_err(|error| Problem::Body(error.to_string()))?;
            let data = frame.into_data().unwrap_or_default();
            body.extend_from_slice(&data[..data.len().min(MAX_BODY - body.len())]);
        }
        Ok(Response { status, location, body })
    };
    // The end of the connection is told by the answer.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    // Both are dropped together.
    tokio::select! {
        answer = answer => answer,
        never = drive => match never {},
    }
}

fn headers(target: &Target, get: &HttpGet, agent: &'static str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in &get.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|error| format!("{error}"))?;
        let value = HeaderValue::from_str(&header.value).map_err(|error| format!("header {name}: {error}"))?;
        // There is one host; the last word counts.
        if name == HOST {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    if !headers.contains_key(HOST) {
        let host = HeaderValue::from_str(&address(&target.host, target.port)).map_err(|error| error.to_string())?;
        headers.insert(HOST, host);
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(agent));
    match headers.get(ACCEPT) {
        None => drop(headers.insert(ACCEPT, HeaderValue::from_static("*/*"))),
        Some(accept) if accept.is_empty() => drop(headers.remove(ACCEPT)),
        Some(_) => {}
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

impl Target {
    fn new(get: &HttpGet, host: &str) -> Self {
        let host = get.host.as_deref().unwrap_or(host).to_owned();
        Self { https: get.https, host, port: get.port, path: path(&get.path) }
    }

    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", address(&self.host, self.port), self.path)
    }

    /// Where a `Location` leads from here.
    fn redirected(&self, location: &str) -> Option<Self> {
        let absolute = match location.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", if self.https { "https" } else { "http" }),
            None => location.to_owned(),
        };
        if !absolute.contains("://") {
            let directory =
                self.path.split('?').next().and_then(|path| path.rsplit_once('/')).map_or("", |(dir, _)| dir);
            let joined = if absolute.starts_with('/') { absolute } else { format!("{directory}/{absolute}") };
            return Some(Self { path: path(&joined), ..self.clone() });
        }
        let uri: hyper::Uri = absolute.parse().ok()?;
        let https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Self { https, host, port, path: path(uri.path_and_query().map_or("/", |path| path.as_str())) })
    }
}

/// A path as a request may carry it: from a slash on, without a fragment, and without bytes that would need escaping.
fn path(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut escaped = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        escaped.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'!' | b'#'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn connector() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A container's certificate proves nothing to the device it runs on, and is not asked to: the question is whether
/// somebody answers.
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        Target { https: false, host: "10.0.0.1".into(), port: 8080, path: path.into() }
    }

    #[test]
    fn a_path_is_made_fit_to_be_sent() {
        for (given, expected) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a?b=c&d=%20", "/a?b=c&d=%20"),
            ("/a b#c", "/a%20b"),
            ("/\r\nHost: evil", "/%0D%0AHost:%20evil"),
            ("/ü", "/%C3%BC"),
        ] {
            assert_eq!(path(given), expected);
            assert!(given.is_empty() || expected.parse::<hyper::http::uri::PathAndQuery>().is_ok(), "{expected}");
        }
    }

    #[test]
    fn redirects_lead_where_they_say() {
        for (location, expected) in [
            ("/b", Some("http://10.0.0.1:8080/b")),
            ("b", Some("http://10.0.0.1:8080/x/b")),
            ("//other/b", Some("http://other:80/b")),
            ("https://10.0.0.1/b?c", Some("https://10.0.0.1:443/b?c")),
            ("http://[::1]:81", Some("http://[::1]:81/")),
            ("ftp://10.0.0.1/", None),
            ("http://", None),
        ] {
            let led = target("/x/a?q").redirected(location);
            assert_eq!(led.map(|target| target.url()).as_deref(), expected, "{location}");
        }
    }
}
