use super::*;

use kube::client::Body;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NAME: &str = "127.0.0.1";

/// Signs for both ends.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Certified {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn certify(&self) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Certified { chain, key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// Does somebody with this certificate, who trusts only `servers`, get in?
async fn lets_in(current: &Current, servers: &Authority, client: Option<&Certified>) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(servers.roots());
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(Certified { chain, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    let (here, there) = tokio::io::duplex(1 << 16);
    let serve = async {
        let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(current.get()).accept(here).await else { return false };
        let known = stream.get_ref().1.peer_certificates().is_some();
        stream.write_all(b"!").await.is_ok() && known == client.is_some()
    };
    let ask = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let Ok(mut stream) = connector.connect(ServerName::try_from(NAME).unwrap(), there).await else { return false };
        // With TLS 1.3 a client hears only now that its certificate is refused.
        stream.read_exact(&mut [0]).await.is_ok()
    };
    let (served, heard) = tokio::join!(serve, ask);
    served && heard
}

/// What an API server publishes, for now; `None`: it cannot be asked.
type Published = Arc<Mutex<Option<String>>>;

fn api_server(published: &Published) -> kube::Client {
    let published = Arc::clone(published);
    let answer = move |request: http::Request<Body>| {
        assert_eq!(
            request.uri().path(),
            "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
        );
        let pem = published.lock().unwrap().clone();
        async move {
            let pem = pem.ok_or(std::io::ErrorKind::ConnectionRefused)?;
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"client-ca-file": pem}});
            Ok::<_, std::io::Error>(http::Response::new(Body::from(map.to_string().into_bytes())))
        }
    };
    kube::Client::new(tower::service_fn(answer), "default")
}

struct Followed {
    current: Arc<Current>,
    folder: tempfile::TempDir,
    stop: CancellationToken,
    following: tokio::task::JoinHandle<()>,
    published: Published,
}

impl Followed {
    /// With a certificate in files, and with the client CA in one if `client_ca` says so.
    async fn new(serving: &Certified, client_ca: Option<&str>, published: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut config = KubeletConfig::new("127.0.0.1:0".parse().unwrap(), NAME.parse().unwrap());
        config.certificate = Some(CertificateFiles { chain: path("tls.crt"), key: path("tls.key") });
        std::fs::write(path("tls.crt"), &serving.chain).unwrap();
        std::fs::write(path("tls.key"), &serving.key).unwrap();
        if let Some(pem) = client_ca {
            config.client_ca = Some(path("ca.crt"));
            std::fs::write(path("ca.crt"), pem).unwrap();
        }
        let published = Arc::new(Mutex::new(published.map(str::to_owned)));
        let client = api_server(&published);
        let tls = Tls::load(&client, &config).await.unwrap();
        let (current, stop) = (tls.current(), CancellationToken::new());
        let following = tokio::spawn(tls.follow(client, stop.clone()));
        Self { current, folder, stop, following, published }
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    async fn looked(&self) {
        tokio::time::sleep(LOOK_EVERY + Duration::from_secs(1)).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.following.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_serving_certificate_is_used_once_it_is_whole() {
    let (old, new, clients) = (Authority::new(), Authority::new(), Authority::new());
    let followed = Followed::new(&old.certify(), None, Some(&clients.pem)).await;
    let client = clients.certify();
    assert!(lets_in(&followed.current, &old, Some(&client)).await);

    let next = new.certify();
    followed.put("tls.crt", &next.chain);
    followed.looked().await;
    assert!(lets_in(&followed.current, &old, Some(&client)).await, "a certificate without its key changes nothing");
    followed.put("tls.key", "half a k");
    followed.looked().await;
    assert!(lets_in(&followed.current, &old, Some(&client)).await, "nor does a key that is being written");
    followed.put("tls.key", &next.key);
    assert!(!lets_in(&followed.current, &new, Some(&client)).await);
    followed.looked().await;
    assert!(lets_in(&followed.current, &new, Some(&client)).await);
    assert!(!lets_in(&followed.current, &old, Some(&client)).await);
    assert!(lets_in(&followed.current, &new, None).await, "who brings a token is still heard");
    followed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replaced_file_of_client_authorities_is_used() {
    let (server, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let followed = Followed::new(&server.certify(), Some(&old.pem), None).await;
    let (of_old, of_new) = (old.certify(), new.certify());
    assert!(lets_in(&followed.current, &server, Some(&of_old)).await);
    assert!(!lets_in(&followed.current, &server, Some(&of_new)).await);

    followed.put("ca.crt", "");
    followed.looked().await;
    assert!(lets_in(&followed.current, &server, Some(&of_old)).await, "an empty file is none");
    followed.put("ca.crt", &format!("{}{}", old.pem, new.pem));
    followed.looked().await;
    assert!(lets_in(&followed.current, &server, Some(&of_old)).await, "both, while the clients change over");
    assert!(lets_in(&followed.current, &server, Some(&of_new)).await);
    followed.put("ca.crt", &new.pem);
    followed.looked().await;
    assert!(!lets_in(&followed.current, &server, Some(&of_old)).await);
    assert!(lets_in(&followed.current, &server, Some(&of_new)).await);
    followed.stop().await;
}

#[tokio::test(start_paused = true)]
async fn client_authorities_follow_what_the_api_server_publishes() {
    let (server, old, new) = (Authority::new(), Authority::new(), Authority::new());
    // It was not there when the bridge started.
    let followed = Followed::new(&server.certify(), None, None).await;
    let (of_old, of_new) = (old.certify(), new.certify());
    let publish = |pem: Option<&str>| *followed.published.lock().unwrap() = pem.map(str::to_owned);
    assert!(!lets_in(&followed.current, &server, Some(&of_old)).await);
    assert!(lets_in(&followed.current, &server, None).await);

    publish(Some(&old.pem));
    followed.looked().await;
    assert!(lets_in(&followed.current, &server, Some(&of_old)).await);
    publish(None);
    followed.looked().await;
    assert!(lets_in(&followed.current, &server, Some(&of_old)).await, "what was heard last counts while it is away");
    publish(Some(&new.pem));
    followed.looked().await;
    assert!(lets_in(&followed.current, &server, Some(&of_new)).await);
    assert!(!lets_in(&followed.current, &server, Some(&of_old)).await);
    followed.stop().await;
}
