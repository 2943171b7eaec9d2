//! Netlink requests over blocking sockets: one dump, one question.
//!
//! A dump is answered in many datagrams while the kernel's tables may change. The kernel says so with
//! `NLM_F_DUMP_INTR`; such a dump is asked for again, a few times, and then kept with a remark. A message
//! that the packet crates cannot read costs that message only.

use std::fmt::Display;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// Room for one datagram. The kernel fills at most 32 KiB per datagram of a dump (`netlink_dump`), and a
/// single message of a link with all its attributes stays below that.
const DATAGRAM: usize = 64 * 1024;
/// How often a dump is asked for while the kernel reports that its table changed meanwhile.
const ATTEMPTS: u32 = 4;
/// The kernel answers at once; this only bounds what a kernel bug could cost. Seconds.
const PATIENCE: i64 = 5;

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// A system call failed.
    #[error("netlink: cannot {operation}: {source}")]
    Call {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel answered with an error.
    #[error("netlink: the kernel refused: {0}")]
    Refused(io::Error),
    /// The answer is not netlink.
    #[error("netlink: unreadable answer: {0}")]
    Unreadable(String),
}

impl NetlinkError {
    /// Whether the kernel was built or booted without what was asked for.
    pub(crate) fn is_unsupported(&self) -> bool {
        let (Self::Refused(error) | Self::Call { source: error, .. }) = self else { return false };
        matches!(
            error.raw_os_error(),
            Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOENT | libc::EINVAL)
        )
    }

    /// Whether the privilege is missing.
    pub(crate) fn is_denied(&self) -> bool {
        let (Self::Refused(error) | Self::Call { source: error, .. }) = self else { return false };
        error.kind() == io::ErrorKind::PermissionDenied
    }
}

/// The answer to a dump.
#[derive(Debug)]
pub(crate) struct Dump<M> {
    /// The messages, in the kernel's order.
    pub(crate) messages: Vec<M>,
    /// What makes them less than the whole truth.
    pub(crate) remarks: Vec<String>,
}

/// A netlink socket in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket of a protocol (`NETLINK_ROUTE`, …).
    pub(crate) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let call = |operation| move |source: io::Error| NetlinkError::Call { operation, source };
        let mut socket = Socket::new(protocol).map_err(call("open a socket"))?;
        socket.bind_auto().map_err(call("bind a socket"))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))
            .map_err(|errno| call("set the time limit of a socket")(errno.into()))?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM), sequence: 0 })
    }

    /// Asks for a whole table.
    pub(crate) fn dump<M>(&mut self, request: &M) -> Result<Dump<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        for _ in 1..ATTEMPTS {
            if let (dump, false) = self.dump_once(request)? {
                return Ok(dump);
            }
        }
        let (mut dump, interrupted) = self.dump_once(request)?;
        if interrupted {
            dump.remarks.push(format!("changed while it was read, {ATTEMPTS} times in a row"));
        }
        Ok(dump)
    }

    /// Asks for one thing.
    pub(crate) fn ask<M>(&mut self, request: &M) -> Result<Option<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let (dump, _) = self.converse(request, NLM_F_ACK)?;
        Ok(dump.messages.into_iter().next())
    }

    fn dump_once<M>(&mut self, request: &M) -> Result<(Dump<M>, bool), NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        self.converse(request, NLM_F_DUMP)
    }

    /// Sends a request and reads until its end: `NLMSG_DONE` of a dump, or the acknowledgement. The
    /// second result tells whether the kernel called the dump interrupted.
    fn converse<M>(&mut self, request: &M, flags: u16) -> Result<(Dump<M>, bool), NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        self.send(request, flags)?;
        let mut dump = Dump { messages: Vec::new(), remarks: Vec::new() };
        let mut unread = Unread::default();
        let mut interrupted = false;
        loop {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let frame = NetlinkBuffer::new_checked(rest)
                    .map_err(|error| NetlinkError::Unreadable(error.to_string()))?;
                let (length, answers) = (frame.length() as usize, frame.sequence_number());
                interrupted |= frame.flags() & NLM_F_DUMP_INTR != 0;
                let message = NetlinkMessage::<M>::deserialize(&rest[..length]);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if answers != self.sequence {
                    // The rest of an answer that an earlier error cut short.
                    continue;
                }
                match message.map(|message| message.payload) {
                    Ok(NetlinkPayload::InnerMessage(message)) => dump.messages.push(message),
                    Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                        return Err(NetlinkError::Refused(io::Error::from_raw_os_error(-done.code)));
                    }
                    Ok(NetlinkPayload::Error(error)) if error.code.is_some() => {
                        return Err(NetlinkError::Refused(error.to_io()));
                    }
                    Ok(NetlinkPayload::Done(_) | NetlinkPayload::Error(_)) => {
                        dump.remarks.extend(unread.remark());
                        return Ok((dump, interrupted));
                    }
                    Ok(_) => {}
                    Err(error) => unread.add(&error),
                }
            }
        }
    }

    fn send<M: NetlinkSerializable + Clone>(&mut self, request: &M, flags: u16) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.clone()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0);
        sent.map_err(|source| NetlinkError::Call { operation: "send a request", source })?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(), NetlinkError> {
        self.buffer.clear();
        let received = self.socket.recv(&mut self.buffer, libc::MSG_TRUNC);
        let length =
            received.map_err(|source| NetlinkError::Call { operation: "receive an answer", source })?;
        if length > self.buffer.len() {
            return Err(NetlinkError::Unreadable(format!("a datagram of {length} bytes")));
        }
        Ok(())
    }
}

/// Messages that could not be read: how many, and why the first.
#[derive(Default)]
struct Unread {
    count: usize,
    first: Option<String>,
}

impl Unread {
    fn add(&mut self, error: &dyn Display) {
        self.count += 1;
        self.first.get_or_insert_with(|| error.to_string());
    }

    fn remark(self) -> Option<String> {
        let Self { count, first } = self;
        first.map(|first| format!("{count} entries could not be read; the first because: {first}"))
    }
}

/// A message of a kind that the packet crates do not know, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawMessage {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// Family header and attributes.
    pub(crate) payload: Vec<u8>,
}

impl RawMessage {
    /// The attributes behind a family header of `header` bytes, by type without flags. A malformed one
    /// ends the list.
    pub(crate) fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, Vec<u8>)> {
        let attributes = self.payload.get(header..).unwrap_or_default();
        NlasIterator::new(attributes)
            .map_while(Result::ok)
            .map(|attribute: NlaBuffer<&[u8]>| (attribute.kind(), attribute.value().to_vec()))
    }
}

impl NetlinkSerializable for RawMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for RawMessage {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self { kind: header.message_type, payload: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_refusal_is_told_and_the_socket_goes_on() {
        let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        let nonsense = RawMessage { kind: 9999, payload: vec![0; 16] };
        let error = netlink.dump(&nonsense).unwrap_err();
        assert!(matches!(error, NetlinkError::Refused(_)) && error.is_unsupported(), "{error}");
        // RTM_GETLINK for everything.
        let links = netlink.dump(&RawMessage { kind: 18, payload: vec![0; 16] }).unwrap();
        assert!(!links.messages.is_empty() && links.remarks.is_empty());
        assert!(links.messages[0].attributes(16).any(|(kind, name)| kind == 3 && name == b"lo\0"));
    }

    #[test]
    fn malformed_attributes_end_the_list() {
        let attributes = |payload: &[u8]| {
            RawMessage { kind: 0, payload: payload.to_vec() }.attributes(4).collect::<Vec<_>>()
        };
        assert_eq!(attributes(&[]), []);
        assert_eq!(attributes(&[0, 0, 0, 0, 6, 0, 1, 0, 7, 8, 0, 0, 99, 0, 1, 0]), [(1, vec![7, 8])]);
    }
}
