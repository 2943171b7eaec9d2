//! Probes that are a TCP connection.
//!
//! No application ever sees one. The acknowledgement that would complete the handshake on the other side is
//! held back (`TCP_QUICKACK` off, as `HAProxy`'s health checks do it), and once this side's connection stands it
//! is disconnected, which sends a reset: the listener's kernel drops the half-open request, and `accept` does
//! not return. Nothing stays in `TIME_WAIT` at either end, and connection tracking on the way forgets it within
//! seconds.
//!
//! A disconnected socket can be connected again, so a namespace's sockets are made once and used for all of its
//! targets; the kernel chooses a new source port each time. It measures the round trip of the handshake itself
//! (`TCP_INFO`), unless the SYN had to be repeated: then the agent's clock tells how long it took in all.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::getsockopt;
use socket2::{Domain, Protocol as Number, Socket, Type};
use waymark_proto::{NetnsInode, ProbeId, Protocol};

use super::datagrams::Kind;
use super::options::TcpInfo;
use super::payload::Payload;
use crate::netns::{Netns, NetnsError};

/// Sockets made at a time: entering a namespace costs a thread.
const BATCH: usize = 8;
/// `TCP_SYN_SENT` of `net/tcp_states.h`.
const SYN_SENT: u8 = 2;

/// Why no connection was begun.
#[derive(Debug)]
pub enum ConnectError {
    /// The namespace cannot be entered any more.
    Netns(NetnsError),
    /// The kernel refused, or the other side at once.
    Io(io::Error),
}

/// How a connection attempt ended.
#[derive(Debug)]
pub enum Connected {
    /// It stood, and the kernel measured the round trip.
    Measured {
        /// How long.
        rtt_ns: u64,
    },
    /// It stood after more than one SYN.
    Retried,
    /// It was refused.
    Refused(io::Error),
}

/// Sockets of one namespace and family.
pub type Pool = (NetnsInode, Kind);

#[derive(Debug)]
struct Connection {
    socket: Socket,
    pool: Pool,
    /// What it is used for; nothing while it waits for use.
    probe: Option<Payload>,
}

/// All connections of an agent.
#[derive(Debug, Default)]
pub struct Connections {
    /// By the number that epoll tells.
    all: HashMap<u32, Connection>,
    next: u32,
    idle: HashMap<Pool, Vec<u32>>,
    busy: HashMap<(u64, u32), u32>,
}

impl Connections {
    /// Begins to connect. What comes of it is told by `epoll` with `token` of a number, to be given to
    /// [`Connections::finish`].
    pub fn begin(
        &mut self,
        netns: &Netns,
        address: SocketAddr,
        probe: Payload,
        epoll: &Epoll,
        token: impl Fn(u32) -> u64,
    ) -> Result<(), ConnectError> {
        let pool = (netns.inode(), Kind { protocol: Protocol::Tcp, ipv6: address.is_ipv6() });
        let number = match self.idle.entry(pool).or_default().pop() {
            Some(number) => number,
            None => self.grow(netns, pool, epoll, &token)?,
        };
        let connection = self.all.get_mut(&number).expect("idle ones are among all");
        connection.probe = Some(probe);
        self.busy.insert((probe.id.0, probe.number), number);
        let socket = &connection.socket;
        let begun = match socket.set_tcp_quickack(false).and_then(|()| socket.connect(&address.into())) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            begun => begun,
        };
        let mut interest = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT, token(number));
        let begun = begun.and_then(|()| Ok(epoll.modify(socket, &mut interest)?));
        begun.map_err(|error| {
            self.abandon(probe);
            ConnectError::Io(error)
        })
    }

    /// Makes sockets, of which one is given and the others are idle.
    fn grow(
        &mut self,
        netns: &Netns,
        pool: Pool,
        epoll: &Epoll,
        token: impl Fn(u32) -> u64,
    ) -> Result<u32, ConnectError> {
        let domain = if pool.1.ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let make = || {
            let socket = Socket::new(domain, Type::STREAM, Some(Number::TCP))?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let sockets: Vec<_> =
            netns.run(|| (0..BATCH).map(|_| make()).collect()).map_err(ConnectError::Netns)?;
        let mut failed = None;
        for socket in sockets {
            let (number, added) = (
                self.next,
                socket.and_then(|socket| {
                    // Oneshot and nothing asked for: silent until it is connected.
                    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLONESHOT, token(self.next)))?;
                    Ok(socket)
                }),
            );
            match added {
                Ok(socket) => {
                    self.next = self.next.wrapping_add(1);
                    self.all.insert(number, Connection { socket, pool, probe: None });
                    self.idle.entry(pool).or_default().push(number);
                }
                Err(error) => failed = Some(error),
            }
        }
        let one = self.idle.get_mut(&pool).and_then(Vec::pop);
        one.ok_or_else(|| ConnectError::Io(failed.unwrap_or_else(|| io::ErrorKind::Other.into())))
    }

    /// What came of a connection that epoll told of; nothing if it was abandoned meanwhile.
    pub fn finish(&mut self, number: u32) -> Option<(Payload, Connected)> {
        let connection = self.all.get(&number)?;
        let probe = connection.probe?;
        let outcome = match connection.socket.take_error() {
            Ok(None) => handshake(&connection.socket)?,
            Ok(Some(error)) | Err(error) => Connected::Refused(error),
        };
        self.abandon(probe);
        Some((probe, outcome))
    }

    /// Ends a connection or an attempt at one; its socket is idle again.
    pub fn abandon(&mut self, probe: Payload) {
        let Some(number) = self.busy.remove(&(probe.id.0, probe.number)) else { return };
        let Some(connection) = self.all.get_mut(&number) else { return };
        connection.probe = None;
        if disconnect(&connection.socket).is_ok() {
            self.idle.entry(connection.pool).or_default().push(number);
        } else {
            // Closing it is the other way to end a connection.
            self.all.remove(&number);
        }
    }

    /// Abandons the connections of all probes but these.
    pub fn abandon_unless(&mut self, kept: impl Fn(Payload) -> bool) {
        let busy = self.busy.keys().map(|&(id, number)| Payload { id: ProbeId(id), number });
        for probe in busy.filter(|probe| !kept(*probe)).collect::<Vec<_>>() {
            self.abandon(probe);
        }
    }

    /// Closes all sockets but those of these namespaces and families.
    pub fn retain(&mut self, kept: impl Fn(Pool) -> bool) {
        self.all.retain(|_, connection| kept(connection.pool));
        self.idle.retain(|pool, _| kept(*pool));
        self.busy.retain(|_, number| self.all.contains_key(number));
    }
}

/// How a handshake went; `None` if it goes on, for what epoll told was about an earlier use of the socket.
fn handshake(socket: &Socket) -> Option<Connected> {
    match getsockopt(socket, TcpInfo) {
        Ok(info) if info.tcpi_state == SYN_SENT => None,
        Ok(info) if info.tcpi_total_retrans == 0 && info.tcpi_rtt > 0 => {
            Some(Connected::Measured { rtt_ns: u64::from(info.tcpi_rtt) * 1000 })
        }
        _ => Some(Connected::Retried),
    }
}

/// Resets a connection, or ends the attempt at one, and leaves a socket that can be connected again.
fn disconnect(socket: &Socket) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as the socket is borrowed, and the address lives through the call
    // and has the length that is told.
    let result = unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const nowhere, length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // The reset is noted as an error of this socket, which would be taken for one of the next connection.
    socket.take_error().map(drop)
}
