//! The way from the machine to an API server that only a namespace reaches: listens on the machine's
//! loopback, and connects from inside the namespace.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use tokio::io::copy_bidirectional;
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use crate::{Error, Result};

/// Relays for ever. Writes its address into `ready`.
pub fn relay(netns: &str, to: SocketAddr, ready: &Path) -> Result<()> {
    let netns = Netns::open(&NetnsName::from(netns))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(Error::file("start", "an asynchronous runtime"))?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(Error::file("listen on", "127.0.0.1"))?;
        let own = listener.local_addr().map_err(Error::file("listen on", "127.0.0.1"))?;
        let draft = ready.with_extension("draft");
        std::fs::write(&draft, own.to_string()).map_err(Error::file("write", &draft))?;
        std::fs::rename(&draft, ready).map_err(Error::file("write", ready))?;
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    tokio::spawn(carry(client, netns.clone(), to));
                }
                Err(error) => {
                    eprintln!("relay: {error}");
                    // Out of descriptors: some will be closed.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    })
}

async fn carry(mut client: tokio::net::TcpStream, netns: Netns, to: SocketAddr) {
    let connect = move || -> std::io::Result<TcpStream> {
        let server = netns.run(|| TcpStream::connect(to)).map_err(std::io::Error::other)??;
        server.set_nonblocking(true)?;
        Ok(server)
    };
    let carried = async {
        let server = tokio::task::spawn_blocking(connect).await.map_err(std::io::Error::other)??;
        let mut server = tokio::net::TcpStream::from_std(server)?;
        copy_bidirectional(&mut client, &mut server).await
    };
    if let Err(error) = carried.await {
        // Clients that go away are no news; a server that is not there is.
        eprintln!("relay to {to}: {error}");
    }
}
