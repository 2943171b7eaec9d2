//! Socket options that `nix` has no names for.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{SetSockOpt, setsockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use socket2::Socket;

/// `ICMP_FILTER` of linux/icmp.h.
const ICMP_FILTER: i32 = 1;
/// `ICMPV6_FILTER` of linux/icmpv6.h.
const ICMPV6_FILTER: i32 = 1;
const ECHO_REPLY: u32 = 0;
const ECHO_REPLY_V6: usize = 129;

sockopt_impl!(
    /// The ICMP types that a raw socket does not get, one bit each.
    IcmpFilter,
    SetOnly,
    libc::SOL_RAW,
    ICMP_FILTER,
    u32
);
sockopt_impl!(
    /// The same for `ICMPv6`.
    Icmp6Filter,
    SetOnly,
    libc::SOL_ICMPV6,
    ICMPV6_FILTER,
    [u32; 8]
);
sockopt_impl!(
    /// What the kernel knows about a connection.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// Lets a raw ICMP socket get echo replies alone. Errors still come, to its error queue.
pub fn only_echo_replies(socket: &Socket, ipv6: bool) -> Result<(), Errno> {
    if ipv6 {
        let mut blocked = [u32::MAX; 8];
        blocked[ECHO_REPLY_V6 / 32] &= !(1 << (ECHO_REPLY_V6 % 32));
        setsockopt(socket, Icmp6Filter, &blocked)
    } else {
        setsockopt(socket, IcmpFilter, &!(1 << ECHO_REPLY))
    }
}

/// Sets an option that makes things better where it can be had.
pub fn prefer<O: SetSockOpt>(socket: &Socket, option: O, value: &O::Val) {
    if let Err(errno) = setsockopt(socket, option, value) {
        tracing::debug!(fd = socket.as_raw_fd(), %errno, "a socket option was refused");
    }
}
