//! A UDP port that sends back the probes that it gets, and nothing else.
//!
//! An answer is as long as its probe and is never answered, so a forged source gains nothing over the echo
//! that every kernel offers. It leaves from the address that the probe was sent to, or its sender's NAT would
//! not know it.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol as Number, Socket, Type};

use super::options;
use super::payload;
use crate::netns::{Netns, NetnsError};

const RECEIVE_BUFFER: usize = 1 << 20;
/// Datagrams answered at a time, so that a flood does not starve the probes.
const AT_ONCE: usize = 64;

/// A port of a namespace, in one family.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    control: Vec<u8>,
}

impl Echo {
    /// Opens the port in both families; one socket alone where there is no IPv6.
    pub fn open(netns: &Netns, port: u16) -> Result<io::Result<Vec<Self>>, NetnsError> {
        netns.run(|| {
            let v4 = Self::open_here(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
            let v6 = match Self::open_here(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
                Ok(v6) => Some(v6),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                Err(_) => None,
            };
            Ok([Some(v4), v6].into_iter().flatten().collect())
        })
    }

    fn open_here(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Number::UDP))?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        options::prefer(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        socket.bind(&address.into())?;
        let control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        Ok(Self { socket, control: vec![0; control.capacity()] })
    }

    /// Answers what is there.
    pub fn serve(&mut self) {
        for _ in 0..AT_ONCE {
            let mut buffer = [0; payload::LEN + 1];
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let fd = self.socket.as_raw_fd();
            let read =
                recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut self.control), MsgFlags::MSG_DONTWAIT);
            // Nothing more, or the error of an answer that nobody took.
            let Ok(message) = read else { return };
            let (from, length) = (message.address, message.bytes);
            let to = message
                .cmsgs()
                .ok()
                .and_then(|mut controls| controls.find_map(|control| destination(&control)));
            let datagram = &mut buffer[..length];
            let (Some(from), Some(to), Some(())) = (from, to, payload::answer(datagram)) else { continue };
            let control = match &to {
                Destination::V4(info) => ControlMessage::Ipv4PacketInfo(info),
                Destination::V6(info) => ControlMessage::Ipv6PacketInfo(info),
            };
            // Who asked sees that no answer comes.
            let _ = sendmsg(fd, &[IoSlice::new(datagram)], &[control], MsgFlags::MSG_DONTWAIT, Some(&from));
        }
    }
}

impl AsFd for Echo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where a datagram was sent to, in the form that makes an answer leave from there.
enum Destination {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

fn destination(control: &ControlMessageOwned) -> Option<Destination> {
    match control {
        // Interface 0: the way back is the routing table's business.
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let ipi_spec_dst = info.ipi_addr;
            Some(Destination::V4(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr: ipi_spec_dst }))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let ipi6_ifindex = if address.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
            Some(Destination::V6(libc::in6_pktinfo { ipi6_ifindex, ..*info }))
        }
        _ => None,
    }
}
