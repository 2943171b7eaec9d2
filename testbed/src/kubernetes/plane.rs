//! A control plane for tests: etcd and an API server on the loopback, and controllers if asked for.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::assets::{Assets, Program};
use super::authority::{Authority, SigningKey, Subject, Validity};
use super::crd_server::CrdServer;
use super::error::Result;
use super::flags::{self, Listen, file};
use super::kubeconfig::{self, User, write_secret};
use super::port::Port;
use super::ready;
use super::scratch::Scratch;

/// How a control plane is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the controllers run, which write `EndpointSlices` and make the pods of Deployments.
    pub controller_manager: bool,
}

/// A control plane that lives as long as this value, and no longer than this process.
#[derive(Debug)]
pub struct ControlPlane {
    // The first, so it is dropped first: the ports are held until the processes have ended.
    scratch: Scratch,
    authority: Authority,
    server: String,
    admin: PathBuf,
    assets: Assets,
    etcd: Port,
    _ports: [Port; 2],
    files: AtomicU32,
}

impl ControlPlane {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// [`super::KubernetesError::Missing`] if the programs are nowhere; else what ended, or was not ready in time.
    pub fn start(options: &Options) -> Result<Self> {
        let mut wanted = vec![Program::Etcd, Program::ApiServer];
        wanted.extend(options.controller_manager.then_some(Program::ControllerManager));
        let assets = Assets::find(&wanted)?;
        let authority = Authority::new("waymark-testbed")?;
        let (etcd, peers, port) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
        let scratch = Scratch::new("control-plane")?;
        let listen = Listen { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: port.number() };
        let server = format!("https://{}:{}", listen.ip, listen.port);
        write_pki(scratch.path(), &authority, &[listen.ip.to_string(), "localhost".into()])?;
        let admin = scratch.path().join("admin.kubeconfig");
        kubeconfig::write(&admin, &kubeconfig::document(&server, &authority, &User::admin())?)?;
        let folder = scratch.path();
        let args = flags::etcd(folder, etcd.number(), peers.number());
        scratch.spawn("etcd", &assets.path(Program::Etcd)?, &args)?;
        let args = flags::api_server(folder, etcd.number(), listen);
        scratch.spawn("kube-apiserver", &assets.path(Program::ApiServer)?, &args)?;
        ready::wait(&admin, &scratch.log("kube-apiserver"), || scratch.check())?;
        if options.controller_manager {
            let args = flags::controller_manager(folder, &admin);
            scratch.spawn("kube-controller-manager", &assets.path(Program::ControllerManager)?, &args)?;
        }
        let files = AtomicU32::new(0);
        Ok(Self { scratch, authority, server, admin, assets, etcd, _ports: [peers, port], files })
    }

    /// The one of this process, with controllers: started when it is first asked for, and ended with the
    /// process. Tests that share it use a Kubernetes namespace each.
    ///
    /// # Errors
    /// The first start's, each time.
    pub fn shared() -> std::result::Result<&'static Self, &'static super::KubernetesError> {
        static SHARED: OnceLock<Result<ControlPlane>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&Options { controller_manager: true })).as_ref()
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A kubeconfig with which everything is allowed.
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// Its folder, which holds the logs.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes a kubeconfig for somebody. It is gone with the control plane.
    pub fn user(&self, user: &User) -> Result<PathBuf> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch.path().join(format!("user-{number}.kubeconfig"));
        kubeconfig::write(&path, &kubeconfig::document(&self.server, &self.authority, user)?)?;
        Ok(path)
    }

    /// A client that may do everything. Needs a tokio runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        ready::client(&self.admin).await
    }

    /// Starts a server for custom resources of a current version beside it, which asks this one who may do
    /// what, and waits until it is ready.
    ///
    /// # Errors
    /// [`super::KubernetesError::NotBuilt`] if its program is nowhere; else what ended, or was not ready in time.
    pub fn crd_server(&self) -> Result<CrdServer> {
        let program = Assets::find(&[Program::CrdServer])?.path(Program::CrdServer)?;
        let port = Port::reserve()?;
        let listen = Listen { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), port: port.number() };
        let server = format!("https://{}:{}", listen.ip, listen.port);
        // Each its own: there may be several, and what one leaves behind leads nowhere.
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let admin = self.scratch.path().join(format!("crd-admin-{number}.kubeconfig"));
        kubeconfig::write(&admin, &kubeconfig::document(&server, &self.authority, &User::admin())?)?;
        let args = flags::crd_server(self.scratch.path(), self.etcd.number(), listen, &self.admin);
        CrdServer::start(&program, &args, port, admin)
    }

    /// Where its programs are.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }
}

/// Writes the files that [`flags`] names.
pub(crate) fn write_pki(folder: &Path, authority: &Authority, hosts: &[String]) -> Result<()> {
    let write = |name, content: &str| write_secret(&folder.join(name), content.as_bytes());
    let server = Subject { name: "kube-apiserver", group: None, hosts };
    let server = authority.issue(&server, Validity::Good)?;
    let front = Subject { name: "front-proxy", group: None, hosts: &[] };
    let front = authority.issue(&front, Validity::Good)?;
    let accounts = SigningKey::new()?;
    write(file::AUTHORITY, authority.certificate())?;
    write(file::SERVER, &server.certificate)?;
    write(file::SERVER_KEY, &server.key)?;
    write(file::FRONT, &front.certificate)?;
    write(file::FRONT_KEY, &front.key)?;
    write(file::ACCOUNTS, &accounts.public)?;
    write(file::ACCOUNTS_KEY, &accounts.private)
}
