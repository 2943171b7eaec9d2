//! What a pod runs: listens on its ports and answers. One process per pod.

use std::io::Write;
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::process::announce;
use crate::{Error, Result};

/// Largest datagram that is echoed, in bytes.
const DATAGRAM: usize = 65_536;
/// How long a client that does not read may hold up the others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Listens on the ports for both families, says so by making `ready`, and answers for ever: a TCP client
/// gets a line and the end of the connection, a UDP client its datagram back.
pub fn serve(tcp: &[u16], udp: &[u16], ready: &Path) -> Result<()> {
    let failed =
        |protocol: &'static str, port: u16| Error::file("listen on", format!("{protocol} port {port}"));
    let listen = |&port: &u16| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(failed("TCP", port));
    let listeners = tcp.iter().map(listen).collect::<Result<Vec<_>>>()?;
    let bind = |&port: &u16| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(failed("UDP", port));
    let sockets = udp.iter().map(bind).collect::<Result<Vec<_>>>()?;
    announce(ready)?;
    std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| listener.incoming().for_each(|client| greet(client, listener)));
        }
        for socket in &sockets {
            scope.spawn(|| echo(socket));
        }
        // A pod that listens nowhere lives all the same.
        loop {
            std::thread::park();
        }
    })
}

fn greet(client: std::io::Result<TcpStream>, listener: &TcpListener) {
    let greeting = || {
        let mut client = client?;
        client.set_write_timeout(Some(PATIENCE))?;
        writeln!(client, "waymark testbed {}", listener.local_addr()?)
    };
    if let Err(error) = greeting() {
        // Clients that reset the connection are what checks send.
        eprintln!("tcp: {error}");
    }
}

fn echo(socket: &UdpSocket) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let echoed =
            socket.recv_from(&mut buffer).and_then(|(len, from)| socket.send_to(&buffer[..len], from));
        if let Err(error) = echoed {
            eprintln!("udp: {error}");
        }
    }
}
