//! What a pod runs: listens on its ports and answers. One process per pod.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::process::announce;
use crate::{Error, Result};

/// Largest datagram that is echoed, in bytes.
const DATAGRAM: usize = 65_536;
/// How long a client that does not read may hold up the others.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than fits into the smallest receive buffer that Linux makes, 2304 bytes with the kernel's own share.
const FILL: [u8; 1024] = [0; 1024];
const FILLS: usize = 8;

/// How a pod's server behaves. All but the first are faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// It answers.
    #[default]
    Ordinary,
    /// It listens on the loopback addresses only.
    Loopback,
    /// It accepts no connection, and its queue of them is full.
    FullAcceptQueue,
    /// It reads no datagram, and its receive buffer is full.
    FullReceiveBuffer,
    /// Its sockets have a filter that refuses everything.
    Filtered,
    /// Its sockets are bound to the loopback device.
    LoopbackDevice,
    /// It is in a cgroup with a BPF program that refuses everything.
    CgroupFiltered,
}

impl fmt::Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ordinary => "ordinary",
            Self::Loopback => "loopback",
            Self::FullAcceptQueue => "full-accept-queue",
            Self::FullReceiveBuffer => "full-receive-buffer",
            Self::Filtered => "filtered",
            Self::LoopbackDevice => "loopback-device",
            Self::CgroupFiltered => "cgroup-filtered",
        })
    }
}

impl Manner {
    fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::Loopback => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            _ => vec![Ipv6Addr::UNSPECIFIED.into()],
        }
    }

    fn listen(self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        self.filter(&socket)?;
        let full = self == Self::FullAcceptQueue;
        socket.listen(if full { 0 } else { 128 })?;
        if full {
            // A queue of length 0 holds one. It must outlive this function: nobody hangs up.
            std::mem::forget(TcpStream::connect((Ipv6Addr::LOCALHOST, address.port()))?);
        }
        Ok(socket.into())
    }

    fn bind(self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.bind(&address.into())?;
        self.filter(&socket)?;
        if self == Self::FullReceiveBuffer {
            socket.set_recv_buffer_size(1)?;
            let sender = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            for _ in 0..FILLS {
                sender.send_to(&FILL, (Ipv6Addr::LOCALHOST, address.port()))?;
            }
        }
        Ok(socket.into())
    }

    fn filter(self, socket: &Socket) -> io::Result<()> {
        // `BPF_RET | BPF_K`: keep 0 bytes of every packet.
        const NOTHING: SockFilter = SockFilter::new(6, 0, 0, 0);
        match self {
            Self::Filtered => socket.attach_filter(&[NOTHING]),
            Self::LoopbackDevice => socket.bind_device(Some(b"lo")),
            _ => Ok(()),
        }
    }
}

/// Listens on the ports for both families, says so by making `ready`, and answers for ever: a TCP client
/// gets a line and the end of the connection, a UDP client its datagram back.
pub fn serve(tcp: &[u16], udp: &[u16], manner: Manner, ready: &Path) -> Result<()> {
    let failed =
        |protocol: &'static str, port: u16| Error::file("listen on", format!("{protocol} port {port}"));
    if manner == Manner::CgroupFiltered {
        crate::cgroup::refuse_everything().map_err(Error::file("join", "a cgroup"))?;
    }
    let addresses = manner.addresses();
    let everywhere = |ports: &[u16]| -> Vec<SocketAddr> {
        let each = |&port: &u16| addresses.iter().map(move |&ip| SocketAddr::new(ip, port));
        ports.iter().flat_map(each).collect()
    };
    let listen = |address| manner.listen(address).map_err(failed("TCP", address.port()));
    let listeners = everywhere(tcp).into_iter().map(listen).collect::<Result<Vec<_>>>()?;
    let bind = |address| manner.bind(address).map_err(failed("UDP", address.port()));
    let sockets = everywhere(udp).into_iter().map(bind).collect::<Result<Vec<_>>>()?;
    announce(ready)?;
    std::thread::scope(|scope| {
        if manner != Manner::FullAcceptQueue {
            for listener in &listeners {
                scope.spawn(|| listener.incoming().for_each(|client| greet(client, listener)));
            }
        }
        if manner != Manner::FullReceiveBuffer {
            for socket in &sockets {
                scope.spawn(|| echo(socket));
            }
        }
        // A pod that listens nowhere lives all the same.
        loop {
            std::thread::park();
        }
    })
}

fn greet(client: io::Result<TcpStream>, listener: &TcpListener) {
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
