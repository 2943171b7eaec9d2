//! Where the controller listens: binding, stale sockets, the ready file.

use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};
use waymark_proto::Endpoint;

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens already.
    #[error("a controller listens on {endpoint} already")]
    Taken {
        /// The address.
        endpoint: Endpoint,
    },
    /// The path of the socket is something else.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// An operating system call failed.
    #[error("cannot {operation} {subject}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The error.
        source: io::Error,
    },
}

fn io_error(operation: &'static str, subject: &impl ToString) -> impl FnOnce(io::Error) -> ListenError {
    let subject = subject.to_string();
    move |source| ListenError::Io { operation, subject, source }
}

/// A bound listener. A unix socket's file is removed on drop.
#[derive(Debug)]
pub enum Listener {
    /// On a unix socket.
    Unix(UnixListener, SocketFile),
    /// On a TCP port, with TLS.
    Tls(TcpListener),
    /// On a TCP port, in plaintext.
    Tcp(TcpListener),
}

/// The file of a unix socket, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the socket's file could not be removed");
        }
    }
}

impl Listener {
    /// Binds. A socket file that a dead controller left behind is replaced; one behind which somebody
    /// listens is not. Only the owner may connect to a unix socket.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        match endpoint {
            Endpoint::Unix(path) => {
                remove_stale(path, endpoint)?;
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(io_error("create", &folder.display()))?;
                }
                let listener = UnixListener::bind(path).map_err(io_error("listen on", endpoint))?;
                let file = SocketFile(path.clone());
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
                    .map_err(io_error("restrict", &path.display()))?;
                Ok(Self::Unix(listener, file))
            }
            Endpoint::Tls { host, port } => Ok(Self::Tls(bind(endpoint, host, *port).await?)),
            Endpoint::Tcp { host, port } => Ok(Self::Tcp(bind(endpoint, host, *port).await?)),
        }
    }

    /// The address that is listened on; a TCP port 0 is replaced by the one that was given.
    pub fn endpoint(&self) -> Result<Endpoint, ListenError> {
        match self {
            Self::Unix(_, file) => Ok(Endpoint::Unix(file.0.clone())),
            Self::Tls(listener) => {
                let (host, port) = address(listener)?;
                Ok(Endpoint::Tls { host, port })
            }
            Self::Tcp(listener) => {
                let (host, port) = address(listener)?;
                Ok(Endpoint::Tcp { host, port })
            }
        }
    }
}

async fn bind(endpoint: &Endpoint, host: &str, port: u16) -> Result<TcpListener, ListenError> {
    TcpListener::bind((host, port)).await.map_err(io_error("listen on", endpoint))
}

fn address(listener: &TcpListener) -> Result<(String, u16), ListenError> {
    let address = listener.local_addr().map_err(io_error("read the address of", &"the listener"))?;
    Ok((address.ip().to_string(), address.port()))
}

fn remove_stale(path: &Path, endpoint: &Endpoint) -> Result<(), ListenError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", &path.display())(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::Taken { endpoint: endpoint.clone() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io_error("remove the stale socket", &path.display()))
        }
        Err(error) => Err(io_error("look behind", &path.display())(error)),
    }
}

/// Writes the address to a file in one step, so that who waits for the file reads all of it.
pub fn write_ready_file(path: &Path, endpoint: &Endpoint) -> Result<(), ListenError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        writeln!(file, "{endpoint}")?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(drop).map_err(io_error("write", &path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(folder.path().join("sub/socket"));
        let first = Listener::bind(&endpoint).await.unwrap();
        assert!(matches!(Listener::bind(&endpoint).await, Err(ListenError::Taken { .. })));
        let Listener::Unix(listener, file) = first else { unreachable!("bound to a unix socket") };
        drop(listener);
        let path = file.0.clone();
        std::mem::forget(file);
        assert!(path.exists(), "left behind, as by kill -9");
        let second = Listener::bind(&endpoint).await.unwrap();
        drop(second);
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(Listener::bind(&endpoint).await, Err(ListenError::NotASocket { .. })));
    }

    #[tokio::test]
    async fn a_ready_file_holds_the_real_port() {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let endpoint = listener.endpoint().unwrap();
        let path = folder.path().join("ready");
        write_ready_file(&path, &endpoint).unwrap();
        let read: Endpoint = std::fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        assert!(matches!(read, Endpoint::Tls { port: 1.., .. }));
    }
}
