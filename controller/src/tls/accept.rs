//! Handshakes, each in a task of its own: a slow one holds up nobody.
//!
//! Who fails is told why before the connection ends: the alert, or HTTP/2's own word to who speaks plaintext.
//! It would be lost if the connection was closed at once, with what the other side sent still unread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many may be under way; more wait in the kernel's queue.
const UNDER_WAY: usize = 1024;
/// How long the end of a failed connection is waited for.
const LINGER: Duration = Duration::from_secs(2);
/// How long nothing is accepted when there are no file descriptors left.
const BREATH: Duration = Duration::from_millis(100);
/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;
/// What who speaks plaintext HTTP/2 is told: empty SETTINGS, and GOAWAY with
/// `INADEQUATE_SECURITY` (RFC 9113, 6.8 and 7).
const GO_AWAY: &[u8] = &[
    0, 0, 0, 4, 0, 0, 0, 0, 0, // SETTINGS
    0, 0, 8, 7, 0, 0, 0, 0, 0, // GOAWAY
    0, 0, 0, 0, 0, 0, 0, 0x0c,
];

/// The connections that completed a handshake. Each is made with the newest of `configuration`.
pub fn incoming(
    listener: TcpListener,
    configuration: watch::Receiver<Arc<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (accepted, stream) = mpsc::channel(1);
    let places = Arc::new(Semaphore::new(UNDER_WAY));
    tokio::spawn(async move {
        loop {
            // The error is that of a closed semaphore; nobody closes this one.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let connection = tokio::select! {
                () = accepted.closed() => return,
                connection = listener.accept() => connection,
            };
            let (connection, peer) = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&configuration.borrow()));
            let accepted = accepted.clone();
            tokio::spawn(async move {
                match tokio::time::timeout(PATIENCE, shake(connection, acceptor)).await {
                    Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::info!(%peer, %error, "a connection was refused"),
                    Err(_) => tracing::info!(%peer, "a connection was given up: no handshake"),
                }
                drop(place);
            });
        }
    });
    ReceiverStream::new(stream)
}

async fn shake(connection: TcpStream, acceptor: TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    connection.set_nodelay(true)?;
    let mut first = [0];
    if connection.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] != HANDSHAKE {
        return Err(turn_away(connection).await);
    }
    match acceptor.accept(connection).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, connection)) => {
            linger(connection).await;
            Err(error)
        }
    }
}

async fn turn_away(mut connection: TcpStream) -> io::Error {
    if let Err(error) = connection.write_all(GO_AWAY).await {
        return error;
    }
    linger(connection).await;
    io::Error::other("it does not speak TLS")
}

/// Says that nothing more is coming, and reads what is until the other side has closed too.
async fn linger(mut connection: TcpStream) {
    let mut ignored = [0; 4096];
    let rest = async {
        connection.shutdown().await?;
        while connection.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection ends here.
    drop(tokio::time::timeout(LINGER, rest).await);
}
