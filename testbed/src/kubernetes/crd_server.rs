//! A server for custom resources of a current Kubernetes version: structural schemas, CEL rules. It has no
//! `/api`, so kubectl does not work on it; kube's client does.

use std::path::{Path, PathBuf};

use super::error::Result;
use super::port::Port;
use super::ready;
use super::scratch::Scratch;

/// A running server for custom resources. Drop it before the control plane that it asks.
#[derive(Debug)]
pub struct CrdServer {
    // The first, so it is dropped first: the port is held until the process has ended.
    scratch: Scratch,
    admin: PathBuf,
    _port: Port,
}

impl CrdServer {
    pub(crate) fn start(program: &Path, args: &[String], port: Port, admin: PathBuf) -> Result<Self> {
        let scratch = Scratch::new("crd-server")?;
        scratch.spawn("apiextensions-apiserver", program, args)?;
        ready::wait(&admin, &scratch.log("apiextensions-apiserver"), || scratch.check())?;
        Ok(Self { scratch, admin, _port: port })
    }

    /// A kubeconfig with which everything is allowed.
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// Its folder, which holds its log.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// A client that may do everything. Needs a tokio runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        ready::client(&self.admin).await
    }
}
