//! Sockets that receive: `SOCK_DIAG_BY_FAMILY` for listening TCP and unconnected UDP, both families.

use std::collections::BTreeSet;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use waymark_proto::{Protocol, Socket};

use super::netlink::{Netlink, NetlinkError};
use super::{Missing, holders};

/// An unconnected UDP socket is in the state that TCP calls closed (`udp_lib_hash`ed with `TCP_CLOSE`).
const KINDS: [(Protocol, u8, StateFlags); 2] =
    [(Protocol::Tcp, IPPROTO_TCP, StateFlags::LISTEN), (Protocol::Udp, IPPROTO_UDP, StateFlags::CLOSE)];

/// Reads the receiving sockets of the thread's namespace, by protocol, port and address. Sockets that
/// share one binding (`SO_REUSEPORT`) are listed once.
pub(super) fn read(missing: &mut Missing) -> Result<Vec<Socket>, NetlinkError> {
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_SOCK_DIAG)?;
    let mut sockets: Vec<(Socket, u64)> = Vec::new();
    for (protocol, number, states) in KINDS {
        for family in [AF_INET, AF_INET6] {
            let request = InetRequest {
                family,
                protocol: number,
                extensions: ExtensionFlags::empty(),
                states: states.clone(),
                socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
            };
            let dump = match netlink.dump(&SockDiagMessage::InetRequest(request)) {
                Ok(dump) => dump,
                Err(error) => {
                    let version = if family == AF_INET { 4 } else { 6 };
                    missing.note("sockets", format!("{protocol} over IPv{version}: {error}"));
                    continue;
                }
            };
            missing.remarks("sockets", dump.remarks);
            sockets.extend(dump.messages.into_iter().filter_map(|message| match message {
                SockDiagMessage::InetResponse(response) => Some(read_one(protocol, &response)),
                _ => None,
            }));
        }
    }
    let binding = |(socket, _): &(Socket, u64)| {
        (socket.protocol, socket.port, socket.address, socket.device, socket.v6only)
    };
    sockets.sort_by_key(|socket| (binding(socket), socket.1));
    sockets.dedup_by_key(|socket| binding(socket));
    // Sockets of the kernel's own have none.
    let inodes: BTreeSet<u64> = sockets.iter().map(|(_, inode)| *inode).filter(|inode| *inode != 0).collect();
    let mut holders = holders::of(&inodes);
    let told = |(socket, inode)| Socket { holder: holders.remove(&inode), ..socket };
    Ok(sockets.into_iter().map(told).collect())
}

/// A socket, and its inode.
fn read_one(protocol: Protocol, response: &InetResponse) -> (Socket, u64) {
    let id = &response.header.socket_id;
    let socket = Socket {
        protocol,
        address: id.source_address,
        port: id.source_port,
        v6only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
        device: (id.interface_id != 0).then_some(id.interface_id),
        holder: None,
    };
    (socket, response.header.inode.into())
}
