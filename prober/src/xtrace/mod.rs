//! The trace of `iptables-legacy`: which rules of `x_tables` a marked packet matched.
//!
//! Nobody's table is touched. The bit that `-j TRACE` sets is `skb->nf_trace`, the same that `meta nftrace set 1` of
//! Waymark's own table sets, and `ipt_do_table` reports every rule that a packet with this bit matches to the logger
//! of the namespace, whoever set it. So only someone has to listen: `nfnetlink_log` has to be the logger, and its
//! group 0 is where such reports go.
//!
//! * `logger`: makes `nfnetlink_log` the logger, and gives the namespace its own one back
//! * `guard`: gives it back when the agent is killed
//! * `event`: reports, parsed
//!
//! Why not rules of one's own (`-j TRACE`), nor counters? A legacy table is replaced as a whole, so a rule of ours would
//! be lost with the next `iptables-restore` of kube-proxy, or worse, our replacement would undo theirs; and it would
//! outlive a killed agent. Counters count bystanders, too: they tell that some packet matched, not which.
//!
//! What it costs others: while a check is armed, other users' traces and the kernel's log of invalid connections
//! (`nf_conntrack_log_invalid`), which both go to the logger of the namespace, go unheard. Rules with `-j LOG` and
//! `-j NFLOG` choose their logger themselves. A group has one listener, so where `ulogd` listens to group 0 it keeps it.

mod event;
mod guard;
mod logger;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{ConfigCmd, ConfigMode, ConfigNla, config_request};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::facts::legacy_tables;
use crate::nftrace::filter;
pub use event::{XtEvent, XtKind};
use logger::Logger;

/// Where reports go that no rule sends anywhere (`default_loginfo` of `nfnetlink_log`).
const GROUP: u16 = 0;
/// As much of a packet as has its marker: IPv6 header and 20 bytes of transport header, with room for IPv4's options.
const COPIED: u32 = 100;
/// Room for some ten thousand reports between two reads. The kernel takes what they need, not all of it.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Longer than any datagram of the kernel's.
const DATAGRAM: usize = 1 << 16;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILIES: [u8; 2] = [2, 10];

/// The reports of one namespace. Nobody is told any more, and its own logger is back, when this is dropped.
pub struct XtTrace {
    reports: Socket,
    /// In the order in which they are given back.
    _loggers: Vec<Logger>,
}

impl XtTrace {
    /// Listens in the namespace of the calling thread, if it has legacy tables.
    pub fn start() -> io::Result<Option<Self>> {
        let has_tables = |family: &u8| legacy_tables(*family == FAMILIES[1]);
        let mut families = Vec::new();
        for family in FAMILIES {
            if has_tables(&family)? {
                families.push(family);
            }
        }
        if families.is_empty() {
            return Ok(None);
        }
        let reports = listen()?;
        let loggers = families.into_iter().map(Logger::take).collect::<Result<_, _>>()?;
        Ok(Some(Self { reports, _loggers: loggers }))
    }

    /// Takes all reports that are there now. Says how often some were lost.
    pub fn drain(&self, take: &mut dyn FnMut(XtEvent)) -> u64 {
        let mut overruns = 0;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            match self.reports.recv(&mut datagram, libc::MSG_DONTWAIT) {
                Ok(_) => event::parse(&datagram).for_each(&mut *take),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overruns += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing more for now; any other error would come again at the next call.
                Err(_) => return overruns,
            }
        }
    }
}

fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    // Larger than net.core.rmem_max, which CAP_NET_ADMIN may exceed; the default does for small checks.
    if set_receive_buffer_force(&socket, RECEIVE_BUFFER).is_err() {
        socket.set_rx_buf_sz(RECEIVE_BUFFER as u32)?;
    }
    // Asking loads the module, where it is one.
    order(&socket, ConfigCmd::Bind.into()).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!(
                "group {GROUP} of nfnetlink_log has a listener already (`cat /proc/net/netfilter/nfnetlink_log` tells its \
                 port, for ulogd its process); let it listen to another group"
            ),
        ),
        _ => said("listen to nfnetlink_log (CONFIG_NETFILTER_NETLINK_LOG)", &error),
    })?;
    // Each at once, instead of a hundred at a time or after a second.
    order(&socket, ConfigNla::QThresh(1)).map_err(|error| said("set the queue of nfnetlink_log", &error))?;
    order(&socket, ConfigMode::new_packet(COPIED).into())
        .map_err(|error| said("have nfnetlink_log quote packets", &error))?;
    // Whoever's rules send packets to this group and have no listener would be heard here.
    filter::attach_x_tables(&socket)?;
    Ok(socket)
}

/// One order to `nfnetlink_log`, with the kernel's answer to it.
fn order(socket: &Socket, what: ConfigNla) -> io::Result<()> {
    let request = config_request(NetfilterProtoFamily::Unspec, GROUP, vec![what]);
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

fn set_receive_buffer_force(socket: &Socket, bytes: usize) -> nix::Result<()> {
    // SAFETY: the socket is open while it is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::RcvBufForce, &bytes)
}
