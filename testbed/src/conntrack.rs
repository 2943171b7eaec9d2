//! Forgetting connections: what a rule did to a connection outlives the rule (`nf_conntrack`).

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use crate::{Error, Result};

/// A request to delete connections that names none, and so means all: `nlmsghdr` with type
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` and flags `NLM_F_REQUEST | NLM_F_ACK`, and an empty `nfgenmsg`
/// (`ctnetlink_del_conntrack`).
fn flush() -> [u8; 20] {
    let mut message = [0; 20];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&0x0102_u16.to_ne_bytes());
    message[6..8].copy_from_slice(&0x0005_u16.to_ne_bytes());
    message
}

/// Has a namespace forget all its connections.
///
/// # Errors
/// There is no such namespace, or the kernel refuses.
pub(crate) fn forget_all(netns: &str) -> Result<()> {
    let refused = |source: io::Error| Error::Command {
        command: "the deletion of all connections (ctnetlink)".to_owned(),
        netns: netns.to_owned(),
        stderr: source.to_string(),
    };
    Netns::open(&NetnsName::from(netns))?.run(ask)?.map_err(refused)
}

/// The calling thread's namespace.
fn ask() -> io::Result<()> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    send(&socket, &flush(), SendFlags::empty())?;
    // `nlmsgerr`: the error behind the header, negative, or 0.
    let mut answer = [0; 256];
    let (filled, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let error = answer[..filled].get(16..20).ok_or(io::ErrorKind::UnexpectedEof)?;
    match i32::from_ne_bytes(error.try_into().expect("four bytes")) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
