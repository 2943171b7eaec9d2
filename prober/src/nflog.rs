//! Packets that netfilter logs to sockets (`nfnetlink_log`): what rules with `log group` and the trace of `x_tables` send.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::nflog::{
    ConfigCmd, ConfigMode, ConfigNla, PacketHdr, PacketNla, ULogMessage, config_request,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr};
use waymark_proto::Hook;

use crate::nftrace::filter;
use crate::reports;

/// As much of a packet as has its marker: IPv6 header and 20 bytes of transport header, with room for IPv4's options.
pub const COPIED: u32 = 100;
/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Whether it is one of IPv6.
    pub ipv6: bool,
    /// Where.
    pub hook: Hook,
    /// What the rule that logged it says.
    pub prefix: String,
    /// Its first bytes, from the IP header on.
    pub packet: Vec<u8>,
    /// Index of the input device.
    pub iif: Option<u32>,
    /// Index of the output device.
    pub oif: Option<u32>,
    /// `skb->mark`
    pub mark: u32,
}

/// The listener of a group in one namespace. There is one at most.
pub struct Log(Socket);

impl Log {
    /// Listens to a group in the namespace of the calling thread, for what is logged with a prefix that begins so. Of the
    /// same group others may make use, too, who have no listener. Fails with [`io::ErrorKind::ResourceBusy`] where there is
    /// one already.
    pub fn listen(group: u16, prefix: [u8; 4]) -> io::Result<Self> {
        let socket = reports::open()?;
        // Asking loads the module, where it is one.
        order(&socket, group, ConfigCmd::Bind.into()).map_err(|error| match error.raw_os_error() {
            // Another's group is said not to be permitted (`nfulnl_recv_config`), as is each to who lacks CAP_NET_ADMIN.
            Some(libc::EBUSY | libc::EPERM) => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "group {group} of nfnetlink_log has a listener already (`cat /proc/net/netfilter/nfnetlink_log` \
                     tells its port, for ulogd its process): let it listen to another group; or CAP_NET_ADMIN is lacking"
                ),
            ),
            _ => said("listen to nfnetlink_log (CONFIG_NETFILTER_NETLINK_LOG)", &error),
        })?;
        // Each at once, instead of a hundred at a time or after a second.
        order(&socket, group, ConfigNla::QThresh(1))
            .map_err(|error| said("set the queue of nfnetlink_log", &error))?;
        order(&socket, group, ConfigMode::new_packet(COPIED).into())
            .map_err(|error| said("have nfnetlink_log quote packets", &error))?;
        filter::attach_to_log(&socket, prefix)?;
        Ok(Self(socket))
    }

    /// Takes all that is there now. Says how often some was lost.
    pub fn drain(&self, take: &mut dyn FnMut(Logged)) -> u64 {
        reports::read(&self.0, &mut |datagram| parse(datagram).for_each(&mut *take))
    }
}

/// Readable when there is something.
impl AsRawFd for Log {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// One order to `nfnetlink_log`, with the kernel's answer to it.
fn order(socket: &Socket, group: u16, what: ConfigNla) -> io::Result<()> {
    let request = config_request(NetfilterProtoFamily::Unspec, group, vec![what]);
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        // Packets of others' rules may come between.
        let Ok(answer) = NetlinkMessage::<NetfilterMessage>::deserialize(&answer) else { continue };
        if let NetlinkPayload::Error(error) = answer.payload {
            return error.code.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code.get().abs())));
        }
    }
}

fn said(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

/// The packets in a datagram. What is none, or is damaged, is left out.
fn parse(mut datagram: &[u8]) -> impl Iterator<Item = Logged> {
    let messages = std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(datagram).ok()?.length() as usize;
        let message = datagram.get(..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    });
    messages.filter_map(parse_message)
}

fn parse_message(message: &[u8]) -> Option<Logged> {
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(message).ok()?;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    let ipv6 = u8::from(message.header.family) == libc::NFPROTO_IPV6 as u8;
    let NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)) = message.inner else { return None };
    let (mut hook, mut prefix, mut packet) = (None, None, Vec::new());
    let (mut iif, mut oif, mut mark) = (None, None, 0);
    for attribute in attributes {
        match attribute {
            PacketNla::PacketHdr(header) => hook = hook_of(&header),
            PacketNla::Prefix(text) => prefix = Some(text),
            PacketNla::Payload(bytes) => packet = bytes,
            PacketNla::IfIndexInDev(index) => iif = Some(index),
            PacketNla::IfIndexOutDev(index) => oif = Some(index),
            PacketNla::Mark(value) => mark = value,
            _ => {}
        }
    }
    let prefix = prefix?.to_str().ok()?.to_owned();
    Some(Logged { ipv6, hook: hook?, prefix, packet, iif, oif, mark })
}

/// The crate gives no other sight of the hook than the attribute as it was: protocol, hook, padding.
fn hook_of(header: &PacketHdr) -> Option<Hook> {
    let mut raw = [0; 4];
    header.emit_value(&mut raw);
    Some(match i32::from(raw[2]) {
        libc::NF_INET_PRE_ROUTING => Hook::NetfilterPrerouting,
        libc::NF_INET_LOCAL_IN => Hook::NetfilterInput,
        libc::NF_INET_FORWARD => Hook::NetfilterForward,
        libc::NF_INET_LOCAL_OUT => Hook::NetfilterOutput,
        libc::NF_INET_POST_ROUTING => Hook::NetfilterPostrouting,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of `x_tables` as a 6.18 kernel sent it, for an echo request that came in at INPUT.
    const REPORT: &[u8] = &[
        // nlmsghdr, nfgenmsg
        0x7c, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, //
        // NFULA_PACKET_HDR, NFULA_PREFIX, NFULA_IFINDEX_INDEV
        8, 0, 1, 0, 0x08, 0x00, 1, 0, //
        0x1f, 0, 10, 0, b'T', b'R', b'A', b'C', b'E', b':', b' ', b'f', b'i', b'l', b't', b'e', b'r', b':',
        b'F', b'O', b':', b'O', b':', b'r', b'u', b'l', b'e', b':', b'7', b' ', 0, 0, //
        8, 0, 4, 0, 0, 0, 0, 2, //
        // NFULA_PAYLOAD
        0x20, 0, 9, 0, 0x45, 0, 0, 0x54, 0x28, 0x59, 0x40, 0, 0x40, 1, 0xfd, 0xb3, 0x0a, 0x4d, 0, 2, 0x0a,
        0x4d, 0, 1, 8, 0, 0x62, 0x86, 0x78, 0xab, 0, 1,
    ];

    fn report() -> Vec<u8> {
        let mut report = REPORT.to_vec();
        report[0] = report.len() as u8;
        report
    }

    #[test]
    fn a_packet_is_read() {
        let report = report();
        let all: Vec<Logged> = parse(&report).collect();
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(
            (one.prefix.as_str(), one.hook, one.ipv6),
            ("TRACE: filter:FO:O:rule:7 ", Hook::NetfilterInput, false)
        );
        assert_eq!((one.iif, one.oif, one.mark, one.packet.len()), (Some(2), None, 0, 28));
        assert_eq!(parse(&report.repeat(2)).count(), 2);
    }

    #[test]
    fn damaged_packets_are_left_out() {
        let report = report();
        for end in 0..report.len() {
            assert_eq!(parse(&report[..end]).count(), 0);
        }
        assert_eq!(parse(&[0xff; 64]).count() + parse(&[0; 64]).count(), 0);
    }
}
