//! TLS between real ends on loopback: who is let in, for what, and what is said to who is not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use waymark_controller::history::History;
use waymark_controller::tls::{
    Authority, Document, FolderStore, Found, Keeper, LIFETIME, Names, Role, Saved, Store,
};
use waymark_controller::watching::Watches;
use waymark_controller::{Api, FileSource, Hub, Listener, Notices, Patience, Security, serve};
use waymark_proto::rpc::agent_hub_client::AgentHubClient;
use waymark_proto::rpc::waymark_client::WaymarkClient;
use waymark_proto::rpc::{self, from_agent};
use waymark_proto::{Credentials, CredentialsError, Dial, DialError, Endpoint, Plaintext, Trouble};

/// A controller with a folder of certificates.
struct Stage {
    endpoint: Endpoint,
    store: FolderStore,
    folder: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stage {
    async fn new() -> Self {
        Self::at("https://127.0.0.1:0", OffsetDateTime::now_utc()).await
    }

    /// One whose certificates were made at this time.
    async fn at(listen: &str, made: OffsetDateTime) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(folder.path().join("tls"));
        let listen: Endpoint = listen.parse().unwrap();
        let security = match listen {
            Endpoint::Tls { .. } => {
                let keeper = Keeper::start(Box::new(store.clone()), Names::new(&listen, &[]), made).await;
                Security::Certificates(Box::new(keeper.unwrap()))
            }
            _ => Security::Open,
        };
        let listener = Listener::bind(&listen).await.unwrap();
        let endpoint = listener.endpoint().unwrap();
        let inventory = folder.path().join("inventory.json");
        std::fs::write(&inventory, r#"{"nodes":[{"name":"node1","ip":"10.0.0.1"}]}"#).unwrap();
        let hub = Hub::new(Patience::default());
        let source = Arc::new(FileSource::new(inventory));
        let (watches, _) = Watches::new(hub.clone(), source.clone(), None).unwrap();
        let history = History::open(None, &Notices::default()).unwrap();
        let api = Api::new(hub.clone(), source, watches).with_history(history);
        let server = tokio::spawn(async move {
            serve(listener, security, &hub, &api, std::future::pending()).await.unwrap();
        });
        Self { endpoint, store, folder, server }
    }

    fn credentials(&self, role: Role) -> Credentials {
        Credentials::Folder(self.store.folder(Document::Role(role)))
    }

    fn dial(&self, role: Role) -> Dial {
        Dial::new(self.endpoint.clone(), Some(self.credentials(role)), Plaintext::Refused).unwrap()
    }

    fn port(&self) -> u16 {
        match &self.endpoint {
            Endpoint::Tls { port, .. } | Endpoint::Tcp { port, .. } => *port,
            Endpoint::Unix(_) => unreachable!("a stage listens on TCP"),
        }
    }
}

/// What a call came to.
#[derive(Debug)]
enum Outcome {
    Answered,
    Refused(Status),
    Undialled(DialError),
}

impl Outcome {
    fn trouble(self) -> Trouble {
        match self {
            Self::Undialled(DialError::Security { trouble, .. }) => trouble,
            other => panic!("trouble was expected, not {other:?}"),
        }
    }
}

fn outcome<T>(dial: &Dial, answer: Result<T, Status>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Answered,
        Err(status) => match dial.refusal(&status) {
            Some(error) => Outcome::Undialled(error),
            None => Outcome::Refused(status),
        },
    }
}

async fn ask(dial: &Dial) -> Outcome {
    match dial.connect().await {
        Ok(channel) => outcome(dial, WaymarkClient::new(channel).status(rpc::StatusRequest {}).await),
        Err(error) => Outcome::Undialled(error),
    }
}

async fn attach(dial: &Dial) -> Outcome {
    let (says, stream) = mpsc::channel(1);
    let hello = rpc::Hello {
        node: "node1".into(),
        version: "1".into(),
        protocol: rpc::PROTOCOL,
        ..Default::default()
    };
    says.send(rpc::FromAgent { order: 0, body: Some(from_agent::Body::Hello(hello)) }).await.unwrap();
    match dial.connect().await {
        Ok(channel) => outcome(dial, AgentHubClient::new(channel).attach(ReceiverStream::new(stream)).await),
        Err(error) => Outcome::Undialled(error),
    }
}

/// Credentials that a CA issued at a time, in a folder that belongs to nobody else.
async fn issued(authority: &Authority, folder: &Path, made: OffsetDateTime) -> Credentials {
    let document = Document::Role(Role::Client);
    let store = FolderStore::new(folder);
    let pem = authority.issue(Role::Client, made).unwrap();
    assert_eq!(store.save(document, &pem, &Found::default()).await.unwrap(), Saved::Done);
    Credentials::Folder(store.folder(document))
}

#[tokio::test]
async fn each_certificate_does_what_it_is_for_and_nothing_else() {
    let stage = Stage::new().await;
    assert!(matches!(ask(&stage.dial(Role::Client)).await, Outcome::Answered));
    assert!(matches!(attach(&stage.dial(Role::Agent)).await, Outcome::Answered));
    for (refused, words) in [
        (ask(&stage.dial(Role::Agent)).await, "is the agents', which may not ask"),
        (attach(&stage.dial(Role::Client)).await, "is the clients', which may not attach"),
    ] {
        let Outcome::Refused(status) = refused else { panic!("{refused:?}") };
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(words), "{status}");
    }
}

#[tokio::test]
async fn results_of_the_past_are_for_clients_only() {
    let stage = Stage::new().await;
    let list = async |role| {
        let mut client = WaymarkClient::new(stage.dial(role).connect().await.unwrap());
        client.list_results(rpc::ListResultsRequest::default()).await.map_err(|status| status.code())
    };
    let show = async |role| {
        let mut client = WaymarkClient::new(stage.dial(role).connect().await.unwrap());
        let request = rpc::ShowResultRequest { id: "00c0ffee".into() };
        client.show_result(request).await.map_err(|status| status.code())
    };
    assert_eq!(list(Role::Agent).await.unwrap_err(), Code::PermissionDenied);
    assert_eq!(show(Role::Agent).await.unwrap_err(), Code::PermissionDenied);
    assert!(list(Role::Client).await.is_ok());
    assert_eq!(show(Role::Client).await.unwrap_err(), Code::NotFound);
}

#[tokio::test]
async fn an_expired_certificate_is_named_by_whose_it_is() {
    let now = OffsetDateTime::now_utc();
    let stage = Stage::new().await;
    let found = stage.store.load(Document::Authority).await.unwrap();
    let authority = Authority::from_pem(found.pem.unwrap()).unwrap();
    let old = issued(&authority, &stage.folder.path().join("old"), now - LIFETIME * 2).await;
    let folder = old.to_string();
    let dial = Dial::new(stage.endpoint.clone(), Some(old), Plaintext::Refused).unwrap();
    assert_eq!(ask(&dial).await.trouble(), Trouble::ClientExpired { credentials: folder });

    let stage = Stage::at("https://127.0.0.1:0", now - LIFETIME * 2).await;
    assert_eq!(ask(&stage.dial(Role::Client)).await.trouble(), Trouble::ServerExpired);
}

#[tokio::test]
async fn a_foreign_ca_is_noticed_by_both_sides() {
    let now = OffsetDateTime::now_utc();
    let (stage, other) = (Stage::new().await, Stage::new().await);
    let foreign = other.credentials(Role::Client);
    let credentials = foreign.to_string();
    let dial = Dial::new(stage.endpoint.clone(), Some(foreign), Plaintext::Refused).unwrap();
    assert_eq!(ask(&dial).await.trouble(), Trouble::ServerUnknown { credentials });

    // Trusts the controller, but shows what another CA issued.
    let forged = issued(&Authority::new(None, now).unwrap(), &stage.folder.path().join("x"), now).await;
    let credentials = forged.to_string();
    let ca = stage.store.folder(Document::Role(Role::Client)).join("ca.crt");
    std::fs::copy(ca, Path::new(&credentials).join("ca.crt")).unwrap();
    let dial = Dial::new(stage.endpoint.clone(), Some(forged), Plaintext::Refused).unwrap();
    assert_eq!(ask(&dial).await.trouble(), Trouble::ClientUnknown { credentials });
}

#[tokio::test]
async fn a_host_that_the_certificate_does_not_name_is_refused() {
    let stage = Stage::at("https://0.0.0.0:0", OffsetDateTime::now_utc()).await;
    let dialled = |host: &str| {
        let endpoint = Endpoint::Tls { host: host.into(), port: stage.port() };
        Dial::new(endpoint, Some(stage.credentials(Role::Client)), Plaintext::Refused).unwrap()
    };
    assert!(matches!(ask(&dialled("127.0.0.1")).await, Outcome::Answered));
    assert!(matches!(ask(&dialled("localhost")).await, Outcome::Answered));
    let other = "127.0.0.2";
    assert_eq!(ask(&dialled(other)).await.trouble(), Trouble::ServerName { host: other.into() });
}

#[tokio::test]
async fn plaintext_and_tls_do_not_mix_and_both_say_so() {
    let stage = Stage::new().await;
    let plain = Endpoint::Tcp { host: "127.0.0.1".into(), port: stage.port() };
    let dial = Dial::new(plain, None, Plaintext::Accepted).unwrap();
    assert_eq!(ask(&dial).await.trouble(), Trouble::NeedsTls);
    assert_eq!(attach(&dial).await.trouble(), Trouble::NeedsTls);

    let open = Stage::at("http://127.0.0.1:0", OffsetDateTime::now_utc()).await;
    let endpoint = Endpoint::Tls { host: "127.0.0.1".into(), port: open.port() };
    let dial = Dial::new(endpoint, Some(stage.credentials(Role::Client)), Plaintext::Refused).unwrap();
    assert_eq!(ask(&dial).await.trouble(), Trouble::NotTls);
}

#[tokio::test]
async fn a_way_that_makes_no_sense_is_refused_before_anything_is_dialled() {
    let some = || Some(Credentials::Folder("/nowhere".into()));
    let new = |address: &str, credentials| {
        Dial::new(address.parse().unwrap(), credentials, Plaintext::Refused).unwrap_err()
    };
    assert!(matches!(new("https://h:1", None), DialError::NoCertificate { .. }));
    assert!(matches!(new("http://h:1", None), DialError::Plaintext { .. }));
    assert!(matches!(new("http://h:1", some()), DialError::UselessCertificate { .. }));
    assert!(matches!(new("unix:/a", some()), DialError::UselessCertificate { .. }));
}

#[tokio::test]
async fn unusable_credentials_are_told_apart() {
    let (stage, other) = (Stage::new().await, Stage::new().await);
    let folder = stage.store.folder(Document::Role(Role::Client));
    let read = || Credentials::Folder(folder.clone()).read();
    let key = folder.join("tls.key");
    let kept = std::fs::read(&key).unwrap();

    let foreign = other.store.folder(Document::Role(Role::Client)).join("tls.key");
    std::fs::copy(foreign, &key).unwrap();
    assert!(matches!(read(), Err(CredentialsError::Mismatch { .. })));
    std::fs::write(&key, "no key").unwrap();
    assert!(matches!(read(), Err(CredentialsError::Malformed { .. })));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(read(), Err(CredentialsError::Missing { .. })));
    std::fs::create_dir(&key).unwrap();
    assert!(matches!(read(), Err(CredentialsError::Read { .. })));
    std::fs::remove_dir(&key).unwrap();

    std::fs::write(&key, kept).unwrap();
    let mode = |mode| {
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(0o644);
    assert!(matches!(read(), Err(CredentialsError::Exposed { .. })));
    mode(0o640);
    read().unwrap();
    let nowhere = Some(Credentials::Folder("/nowhere".into()));
    let dial = Dial::new(stage.endpoint.clone(), nowhere, Plaintext::Refused).unwrap();
    let missing = ask(&dial).await;
    assert!(matches!(missing, Outcome::Undialled(DialError::Credentials(CredentialsError::Missing { .. }))));
}

#[tokio::test]
async fn new_certificates_are_used_from_the_next_connection_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::new(folder.path().join("tls"));
    let names = Names::new(&"localhost:1".parse().unwrap(), &[]);
    let now = OffsetDateTime::now_utc();
    let mut keeper = Keeper::start(Box::new(store.clone()), names, now).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let hub = Hub::new(Patience::default());
    let connections = waymark_controller::tls::incoming(listener, keeper.server());
    let server = tonic::transport::Server::builder().add_service(hub.service());
    let server = tokio::spawn(server.serve_with_incoming(connections));

    let endpoint = Endpoint::Tls { host: "localhost".into(), port };
    let agents = Credentials::Folder(store.folder(Document::Role(Role::Agent)));
    let before = Credentials::Held { origin: "memory".into(), pem: Arc::new(agents.read().unwrap()) };
    let dial = |credentials| Dial::new(endpoint.clone(), Some(credentials), Plaintext::Refused).unwrap();
    let agent = dial(agents);
    assert!(matches!(attach(&agent).await, Outcome::Answered));
    std::fs::remove_dir_all(store.folder(Document::Authority)).unwrap();
    keeper.round(now).await.unwrap();
    // Nobody was restarted: the files are read again, and the server has its new certificate.
    assert!(matches!(attach(&agent).await, Outcome::Answered));
    let trouble = attach(&dial(before)).await.trouble();
    assert_eq!(trouble, Trouble::ServerUnknown { credentials: "memory".into() });
    server.abort();
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let stage = Stage::new().await;
    let address = SocketAddr::from(([127, 0, 0, 1], stage.port()));
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        // The beginning of a handshake that never goes on.
        connection.write_all(&[0x16]).await.unwrap();
        silent.push(connection);
    }
    assert!(matches!(ask(&stage.dial(Role::Client)).await, Outcome::Answered));
}
