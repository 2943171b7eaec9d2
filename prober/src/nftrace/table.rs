//! The nftables table that makes the kernel report what happens to marked packets.
//!
//! One table of family `inet` in each watched namespace:
//!
//! * for each of the five hooks a base chain of the first priority but one, and one of the last. Both let
//!   everything pass. (The very first belongs to `ip_sabotage_in` of `br_netfilter`, which takes packets
//!   out of prerouting that have been through it in a bridge.) For a traced packet each reports its policy, so the pair brackets the hook: who was
//!   seen by the first and not by the last died between them, whatever did it;
//! * behind each first chain, rules that set `nftrace` on packets whose tag, TCP sequence or acknowledgement
//!   number is in a set, and let them pass (`rules`). Arming a check adds elements to the sets, disarming removes them. The
//!   input hook has sets of its own: for a light look, which is about what arrives, there are elements in those alone.
//!
//! Where there are bridges, a second table of the same name and of family `bridge` sets the trace bit on marked frames
//! that enter one, where they enter it: they keep the bit. Nobody asks which of a bridge's hooks a frame went through, but
//! which rule ended it.
//!
//! The table has the `owner` flag (kernel 5.12): it belongs to the socket that made it and disappears
//! with it, so a killed agent leaves nothing behind. The trace bit does not cross namespaces.

use std::ffi::{CString, c_char, c_void};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_core::{NLMSG_ERROR, NLMSG_OVERRUN};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::set::Set;
use nftnl::{Batch, Chain, FinalizedBatch, Hook as NfHook, MsgType, NlMsg, Policy, ProtoFamily, Table};
use waymark_proto::marker::MAGIC;
use waymark_proto::{CheckId, FIRST_TRACED_PRIORITY, Hook, MarkerKey, Protocol};
use waymark_tracer_ebpf::HookSet;

use super::rules::{self, Acknowledgement, NamedKey, Sequence, Tag};

/// Tables whose names begin so are Waymark's own.
pub const TABLE_PREFIX: &str = "waymark_";

/// `NFT_TABLE_F_OWNER`: the table belongs to its socket.
const TABLE_F_OWNER: u32 = 0x2;

/// The five hooks of the IP layer, with the names of their chains.
const HOOKS: [(Hook, NfHook, &str); 5] = [
    (Hook::NetfilterPrerouting, NfHook::PreRouting, "prerouting"),
    (Hook::NetfilterInput, NfHook::In, "input"),
    (Hook::NetfilterForward, NfHook::Forward, "forward"),
    (Hook::NetfilterOutput, NfHook::Out, "output"),
    (Hook::NetfilterPostrouting, NfHook::PostRouting, "postrouting"),
];

/// Priorities of the brackets: behind `NF_IP_PRI_FIRST` alone, and with `NF_IP_PRI_LAST`.
const FIRST: i32 = FIRST_TRACED_PRIORITY;
const LAST: i32 = i32::MAX;

/// Where a table's chains are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// In the hooks of IP.
    Ip,
    /// In those of bridges.
    Bridge,
}

impl Layer {
    /// Whether packets are looked at in a hook: in a bridge, whose hooks are in one namespace, where they enter it.
    fn begins_at(self, hook: Hook) -> bool {
        self == Self::Ip || matches!(hook, Hook::NetfilterPrerouting | Hook::NetfilterOutput)
    }

    fn family(self) -> ProtoFamily {
        match self {
            Self::Ip => ProtoFamily::Inet,
            Self::Bridge => ProtoFamily::Bridge,
        }
    }
}

/// What a chain of the table stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bracket {
    /// The first chain of a hook, with the chain that its likely packets go to.
    First(Hook),
    /// The last chain of a hook.
    Last(Hook),
}

impl Bracket {
    /// The meaning of a chain's name.
    pub fn of_chain(name: &str) -> Option<Self> {
        let (hook, end) = name.split_once('-')?;
        let (hook, ..) = HOOKS.iter().find(|(_, _, known)| *known == hook)?;
        match end {
            "first" | "likely" => Some(Self::First(*hook)),
            "last" => Some(Self::Last(*hook)),
            _ => None,
        }
    }
}

/// The markers of a check, and at which hooks they are traced.
#[derive(Clone, Copy, Debug)]
pub struct Traced {
    /// The check.
    pub check: CheckId,
    /// Its secret.
    pub key: MarkerKey,
    /// Its markers are 0 to `count`, exclusive.
    pub count: u32,
    /// Protocol of its packets.
    pub protocol: Protocol,
    /// All hooks, or for a light look the input hook alone.
    pub set: HookSet,
    /// Whether the packets' first bytes are wanted, too.
    pub capture: bool,
}

/// Hooks that share their sets of markers.
#[derive(Clone, Copy)]
enum Hooks {
    Input,
    Others,
}

/// A table in the kernel, alive as long as this value.
pub struct TraceTable {
    socket: Socket,
    table: Table,
    layer: Layer,
}

impl TraceTable {
    /// Makes the table in the namespace of the calling thread.
    pub fn create() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::make(&format!("{TABLE_PREFIX}{}_{number}", std::process::id()), Layer::Ip)
    }

    /// Makes its companion for bridges, under the same name.
    pub fn for_bridges(&self) -> io::Result<Self> {
        Self::make(&self.name(), Layer::Bridge)
    }

    fn make(name: &str, layer: Layer) -> io::Result<Self> {
        let name = c_string(name);
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // Errors quote the request otherwise, and a batch is long.
        socket.set_cap_ack(true)?;
        let made = Self { socket, table: Table::new(name, layer.family()), layer };
        made.commit(&made.definition()).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => io::Error::other(format!(
                "{error}; tables that go with their owner need kernel 5.12 or newer"
            )),
            _ => error,
        })?;
        Ok(made)
    }

    /// The table's name.
    pub fn name(&self) -> String {
        self.table.get_name().to_string_lossy().into_owned()
    }

    /// Traces the markers of a check.
    pub fn arm(&self, traced: &Traced) -> io::Result<()> {
        self.change_elements(traced, MsgType::Add)
    }

    /// No longer traces the markers of a check.
    pub fn disarm(&self, traced: &Traced) -> io::Result<()> {
        self.change_elements(traced, MsgType::Del)
    }

    /// Removes the table now. It goes with its socket, but that may live on for a moment in a process that is just being
    /// started and has not yet closed what is not its own.
    fn remove(&self) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.add(&self.table, MsgType::Del);
        self.commit(&batch.finalize())
    }

    fn definition(&self) -> FinalizedBatch {
        let mut batch = Batch::new();
        batch.add(&OwnedTable(&self.table, self.layer), MsgType::Add);
        let sets = [Hooks::Input, Hooks::Others].map(|hooks| {
            (self.set::<Tag>(hooks), self.set::<Sequence>(hooks), self.set::<Acknowledgement>(hooks))
        });
        for (tags, sequences, acknowledgements) in &sets {
            batch.add(tags, MsgType::Add);
            batch.add(sequences, MsgType::Add);
            batch.add(acknowledgements, MsgType::Add);
        }
        for (meaning, hook, name) in HOOKS.into_iter().filter(|(hook, ..)| self.layer.begins_at(*hook)) {
            let is_input = meaning == Hook::NetfilterInput && self.layer == Layer::Ip;
            let hooks = if is_input { Hooks::Input } else { Hooks::Others };
            let (tags, sequences, acknowledgements) = &sets[hooks as usize];
            let first = self.base_chain(&format!("{name}-first"), hook, FIRST);
            let tunnelled = Chain::new(c_string(&format!("{name}-tunnelled")), &self.table);
            let likely = Chain::new(c_string(&format!("{name}-likely")), &self.table);
            for chain in [&first, &tunnelled, &likely] {
                batch.add(chain, MsgType::Add);
            }
            if self.layer == Layer::Ip {
                batch.add(&self.base_chain(&format!("{name}-last"), hook, LAST), MsgType::Add);
            }
            for rule in rules::trace(&likely, tags, sequences, acknowledgements) {
                batch.add(&rule, MsgType::Add);
            }
            for rule in rules::skim_inner(&tunnelled, &likely) {
                batch.add(&rule, MsgType::Add);
            }
            for rule in rules::skim(&first, &likely, &tunnelled) {
                batch.add(&rule, MsgType::Add);
            }
        }
        batch.finalize()
    }

    fn change_elements(&self, traced: &Traced, change: MsgType) -> io::Result<()> {
        let Traced { check, key, count, protocol, set, .. } = traced;
        let groups = match (set, self.layer) {
            (HookSet::Light, Layer::Ip) => &[Hooks::Input][..],
            (HookSet::Wide, Layer::Ip) => &[Hooks::Input, Hooks::Others],
            (HookSet::Light, Layer::Bridge) => return Ok(()),
            (HookSet::Wide, Layer::Bridge) => &[Hooks::Others],
        };
        let mut batch = Batch::new();
        for &hooks in groups {
            if *protocol == Protocol::Tcp {
                let mut sequences = self.set::<Sequence>(hooks);
                let mut acknowledgements = self.set::<Acknowledgement>(hooks);
                for (_, isn) in key.isns(*check, *count) {
                    sequences.add(&Sequence(isn.to_be_bytes()));
                    acknowledgements.add(&Acknowledgement(isn.wrapping_add(1).to_be_bytes()));
                }
                batch.add_iter(sequences.elems_iter(), change);
                batch.add_iter(acknowledgements.elems_iter(), change);
            } else {
                let mut tags = self.set::<Tag>(hooks);
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
                bytes[4..].copy_from_slice(&check.get().to_be_bytes());
                tags.add(&Tag(bytes));
                batch.add_iter(tags.elems_iter(), change);
            }
        }
        self.commit(&batch.finalize())
    }

    fn set<K: NamedKey>(&self, hooks: Hooks) -> Set<'_, K> {
        let group = hooks as usize;
        Set::new_named(K::NAMES[group], K::ID + 3 * group as u32, &self.table, self.layer.family())
    }

    fn base_chain(&self, name: &str, hook: NfHook, priority: i32) -> Chain<'_> {
        let mut chain = Chain::new(c_string(name), &self.table);
        chain.set_hook(hook, priority);
        chain.set_policy(Policy::Accept);
        chain
    }

    /// Sends a batch and reads the kernel's answers to it.
    fn commit(&self, batch: &FinalizedBatch) -> io::Result<()> {
        let bytes: Vec<u8> = batch.iter().flatten().copied().collect();
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        // The kernel answers within send(): whatever it has to say is in the queue by now.
        let mut outcome = Ok(());
        loop {
            let mut answer = Vec::with_capacity(1 << 16);
            match self.socket.recv(&mut answer, libc::MSG_DONTWAIT) {
                Ok(_) => {
                    // What comes after the first is only that the rest of the batch lacks what was refused.
                    if let (Ok(()), Some(error)) = (&outcome, first_error(&answer)) {
                        outcome = Err(error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return outcome,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for TraceTable {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            // Its namespace may be gone, and the table with it; else it goes with the socket.
            tracing::debug!(table = self.name(), %error, "cannot remove the trace table");
        }
    }
}

/// The first error among the messages of a datagram.
fn first_error(mut datagram: &[u8]) -> Option<io::Error> {
    // struct nlmsghdr: length, type, flags, sequence number, port; then struct nlmsgerr: errno first.
    while let (Some(length), Some(kind)) = (datagram.get(..4), datagram.get(4..6)) {
        let length = u32::from_ne_bytes(length.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        if kind == NLMSG_OVERRUN {
            return Some(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        if kind == NLMSG_ERROR {
            let code = i32::from_ne_bytes(datagram.get(16..20)?.try_into().ok()?);
            if code != 0 {
                return Some(io::Error::from_raw_os_error(-code));
            }
        }
        datagram = datagram.get(length.next_multiple_of(4).max(16)..)?;
    }
    None
}

/// The message that makes a table with the owner flag, which the crate cannot set.
struct OwnedTable<'a>(&'a Table, Layer);

// SAFETY: writes one message, as libnftnl builds it, into the buffer that the batch provides for one.
unsafe impl NlMsg for OwnedTable<'_> {
    unsafe fn write(&self, buffer: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: `buffer` has room for a message, which is the caller's part; the table is freed after
        // its last use.
        unsafe {
            let table = NonNull::new(sys::nftnl_table_alloc()).expect("there is memory for a table").as_ptr();
            sys::nftnl_table_set_u32(table, sys::NFTNL_TABLE_FAMILY as u16, self.1.family() as u32);
            sys::nftnl_table_set_str(table, sys::NFTNL_TABLE_NAME as u16, self.0.get_name().as_ptr());
            sys::nftnl_table_set_u32(table, sys::NFTNL_TABLE_FLAGS as u16, TABLE_F_OWNER);
            let header = sys::nftnl_nlmsg_build_hdr(
                buffer.cast::<c_char>(),
                libc::NFT_MSG_NEWTABLE as u16,
                self.1.family() as u16,
                (libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16,
                seq,
            );
            sys::nftnl_table_nlmsg_build_payload(header, table);
            sys::nftnl_table_free(table);
        }
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("names are made of letters, digits, dashes and underscores")
}
