//! Sockets to which the kernel's netfilter reports: much at once, and nobody waits for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

/// Room for tens of thousands of reports between two reads. The kernel takes what they need, not all of it.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Longer than any datagram of the kernel's.
const DATAGRAM: usize = 1 << 16;

/// Opens one in the namespace of the calling thread. It hears nothing yet.
pub fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    // SAFETY: the socket is open while it is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    // Larger than net.core.rmem_max, which CAP_NET_ADMIN may exceed; the default does for small checks.
    let forced = nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER);
    if forced.is_err() {
        socket.set_rx_buf_sz(RECEIVE_BUFFER as u32)?;
    }
    Ok(socket)
}

/// Reads what has been sent by now, datagram by datagram. Says how often some was lost.
pub fn read(socket: &Socket, take: &mut dyn FnMut(&[u8])) -> u64 {
    let mut overruns = 0;
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        match socket.recv(&mut datagram, libc::MSG_DONTWAIT) {
            Ok(_) => take(&datagram),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overruns += 1,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Nothing more for now; any other error would come again at the next call.
            Err(_) => return overruns,
        }
    }
}
