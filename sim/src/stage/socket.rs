//! Local delivery: sockets, and the kernel's own ICMP responder.

use std::net::IpAddr;

use smallvec::smallvec;
use waymark_proto::{Cause, Hook, Protocol, Socket, SocketHolder, Text, text};

use super::Here;
use crate::walk::{Walk, Walks};

/// Delivers a packet to this host (`tcp_v4_rcv`, `udp_rcv`, `icmp_rcv` and their IPv6 relatives).
pub(super) fn deliver(here: Here<'_>, walk: Walk, device: u32) -> Walks {
    let name = here.namespace.name_of(device);
    let on = Some(&*name);
    if let Some((origin, expected)) = walk.expected.clone() {
        return smallvec![answered(walk, on, &origin, &expected)];
    }
    let flow = walk.packet.flow;
    if flow.protocol == Protocol::Icmp {
        let sysctl = if flow.is_ipv6() { "ipv6.icmp.echo_ignore_all" } else { "ipv4.icmp_echo_ignore_all" };
        if here.namespace.sysctl(sysctl).unwrap_or(0) != 0 {
            return smallvec![walk.dropped(
                Hook::Socket,
                on,
                Cause::EchoIgnored,
                Text::verbatim(format!("net.{sysctl} = 1")),
            )];
        }
        return smallvec![walk.delivered(on, || text!(object::Responder { ip: flow.dst }))];
    }
    let fits = |socket: &&Socket| {
        socket.protocol == flow.protocol
            && socket.port == flow.dst_port
            && socket.device.is_none_or(|bound| bound == device)
            && takes(socket, flow.dst)
    };
    if let Some(socket) = here.namespace.sockets.iter().find(fits) {
        let object = || {
            let bound = std::net::SocketAddr::new(socket.address, socket.port);
            let holder = socket.holder.as_ref().map(|SocketHolder { pid, command, cgroup }| {
                text!(object::Holder { command, pid: *pid, cgroup: cgroup.as_deref() })
            });
            text!(object::Socket { protocol: flow.protocol, bound, holder })
        };
        return smallvec![walk.delivered(on, object)];
    }
    if let Some(why) = here.namespace.lacks("sockets") {
        return smallvec![walk.unknown(Hook::Socket, on, why)];
    }
    let to = std::net::SocketAddr::new(flow.dst, flow.dst_port);
    let on_port = || {
        let all = here.namespace.sockets.iter();
        all.filter(|socket| socket.protocol == flow.protocol && socket.port == flow.dst_port)
    };
    if let Some(socket) = on_port().find(|socket| takes(socket, flow.dst))
        && let Some(bound) = socket.device
    {
        let object = text!(object::ListensOnDevice {
            protocol: flow.protocol,
            socket: std::net::SocketAddr::new(socket.address, socket.port),
            bound: here.namespace.name_of(bound),
            device: &name,
        });
        return smallvec![walk.dropped(Hook::Socket, on, Cause::NoListener, object)];
    }
    let elsewhere = on_port().next();
    let object = text!(object::NobodyListens {
        protocol: flow.protocol,
        to,
        bound: elsewhere.map(|socket| std::net::SocketAddr::new(socket.address, socket.port)),
        loopback: elsewhere.is_some_and(|socket| socket.address.is_loopback()),
    });
    smallvec![walk.dropped(Hook::Socket, on, Cause::NoListener, object)]
}

/// Whether a socket's bound address takes a destination.
fn takes(socket: &Socket, dst: IpAddr) -> bool {
    match socket.address {
        // The kernel gives mapped addresses to IPv4 packets of dual-stack sockets.
        IpAddr::V6(bound) if dst.is_ipv4() => {
            !socket.v6only && (bound.is_unspecified() || bound.to_ipv4_mapped().map(IpAddr::V4) == Some(dst))
        }
        bound => bound.is_ipv4() == dst.is_ipv4() && (bound.is_unspecified() || bound == dst),
    }
}

/// An answer is delivered if it comes where it is waited for, from whom it is expected.
fn answered(
    walk: Walk,
    on: Option<&str>,
    origin: &waymark_proto::Place,
    expected: &waymark_proto::Flow,
) -> Walk {
    let flow = walk.packet.flow;
    if walk.at == *origin && flow == *expected {
        return walk.delivered(on, || text!(object::Sender));
    }
    let object = if walk.at == *origin {
        text!(object::AnswerDiffers { answer: flow, expected })
    } else {
        text!(object::AnswerElsewhere { place: &walk.at, origin })
    };
    walk.dropped(Hook::Socket, on, Cause::NoListener, object)
}
