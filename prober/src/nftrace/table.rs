//! The nftables tables that make the kernel report what happens to marked packets.
//!
//! For whoever wants rules, one of family `inet` in each watched namespace:
//!
//! * for each of the five hooks a base chain of the first priority but one, and one of the last. Both let
//!   everything pass. (The very first belongs to `ip_sabotage_in` of `br_netfilter`, which takes packets
//!   out of prerouting that have been through it in a bridge.) For a traced packet each reports its policy, so the pair brackets the hook: who was
//!   seen by the first and not by the last died between them, whatever did it;
//! * in the two hooks by which packets come in, behind the first chain, rules that set `nftrace` on packets whose tag, TCP
//!   sequence or acknowledgement number is in a set, and let them pass (`rules`). They keep the bit in the hooks that follow.
//!   Arming a check adds elements to the sets, disarming removes them.
//!
//! Where there are bridges, a second table of the same name and of family `bridge` sets the trace bit on marked frames
//! that enter one, where they enter it: they keep the bit. Nobody asks which of a bridge's hooks a frame went through, but
//! which rule ended it.
//!
//! One rule that sets `nftrace` anywhere makes the kernel number each packet of the machine at each chain of each namespace
//! (`nft_trace_init`: a hash of its flow, and one of that), which costs bystanders as much as a program at every device. So
//! for whoever wants none there is a table without any, which logs marked packets behind all else of the input hook, to a socket.
//!
//! The tables have the `owner` flag: they belong to the socket that made them and disappear with it, so a killed agent
//! leaves nothing behind. Kernels before 5.12 do not know it: there a process of its own waits for the agent's end and
//! removes the table (`guard`). The trace bit does not cross namespaces.

use std::ffi::{CString, c_char, c_void};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_core::{NLMSG_ERROR, NLMSG_OVERRUN};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::set::Set;
use nftnl::{Batch, Chain, FinalizedBatch, Hook as NfHook, MsgType, NlMsg, Policy, ProtoFamily, Rule, Table};
use waymark_proto::marker::MAGIC;
use waymark_proto::{CheckId, FIRST_TRACED_PRIORITY, Hook, HookSet, MarkerKey, Protocol};

use super::rules::{self, Acknowledgement, Log, NamedKey, Sequence, Sets, Tag};
use crate::guard::Guard;

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

/// What a table is for.
#[derive(Clone, Copy)]
enum Purpose {
    /// Tracing, in the hooks of IP.
    Rules,
    /// In those of bridges.
    RulesOfBridges,
    /// Logging what arrives.
    Arrivals(Log),
}

impl Purpose {
    fn family(self) -> ProtoFamily {
        match self {
            Self::Rules | Self::Arrivals(_) => ProtoFamily::Inet,
            Self::RulesOfBridges => ProtoFamily::Bridge,
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
    /// Which hooks it wants.
    pub set: HookSet,
    /// Whether the packets' first bytes are wanted, too.
    pub capture: bool,
    /// Whether every rule that matches is wanted, not only those that decide.
    pub every_rule: bool,
}

/// A table in the kernel, alive as long as this value.
pub struct TraceTable {
    socket: Socket,
    table: Table,
    purpose: Purpose,
    /// Removes it should the agent die, where the kernel does not.
    guard: Option<Guard>,
}

impl TraceTable {
    /// Makes the table in the namespace of the calling thread.
    pub fn create(name: &str) -> io::Result<Self> {
        Self::make(name, Purpose::Rules)
    }

    /// Makes its companion for bridges, under the same name.
    pub fn for_bridges(&self) -> io::Result<Self> {
        Self::make(&self.name(), Purpose::RulesOfBridges)
    }

    /// Makes the table of those who want no rules in the namespace of the calling thread, where somebody listens to the log.
    pub fn for_arrivals(to: Log) -> io::Result<Self> {
        Self::make(&new_name(), Purpose::Arrivals(to))
    }

    fn make(name: &str, purpose: Purpose) -> io::Result<Self> {
        let name = c_string(name);
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // Errors quote the request otherwise, and a batch is long.
        socket.set_cap_ack(true)?;
        let mut made = Self { socket, table: Table::new(name, purpose.family()), purpose, guard: None };
        match made.commit(&made.definition(Ends::WithItsOwner)) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                made.guard = Some(Guard::set(&made.socket, &bytes_of(&made.removal()))?);
                made.commit(&made.definition(Ends::WhenRemoved))?;
            }
            outcome => outcome?,
        }
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
        self.commit(&self.removal())
    }

    fn removal(&self) -> FinalizedBatch {
        let mut batch = Batch::new();
        batch.add(&self.table, MsgType::Del);
        batch.finalize()
    }

    fn definition(&self, ends: Ends) -> FinalizedBatch {
        let mut batch = Batch::new();
        batch.add(&NewTable(&self.table, self.purpose.family(), ends), MsgType::Add);
        let sets = self.sets();
        batch.add(&sets.tags, MsgType::Add);
        batch.add(&sets.sequences, MsgType::Add);
        batch.add(&sets.acknowledgements, MsgType::Add);
        for (hook, at, name) in HOOKS {
            let base = |end, priority| {
                let mut chain = self.chain(name, end);
                chain.set_hook(at, priority);
                chain.set_policy(Policy::Accept);
                chain
            };
            let (first, last) = (base("first", FIRST), base("last", LAST));
            let comes_in = matches!(hook, Hook::NetfilterPrerouting | Hook::NetfilterOutput);
            match self.purpose {
                Purpose::Rules => {
                    add_all(&mut batch, &[&first, &last]);
                    if comes_in {
                        self.add_trace(&first, name, &sets, &mut batch);
                    }
                }
                Purpose::RulesOfBridges if comes_in => {
                    add_all(&mut batch, &[&first]);
                    self.add_trace(&first, name, &sets, &mut batch);
                }
                Purpose::Arrivals(log) if hook == Hook::NetfilterInput => {
                    let likely = self.chain(name, "likely");
                    add_all(&mut batch, &[&last, &likely]);
                    add_rules(&mut batch, rules::log(&likely, &sets, &log));
                    add_rules(&mut batch, rules::skim(&last, &likely));
                }
                Purpose::RulesOfBridges | Purpose::Arrivals(_) => {}
            }
        }
        batch.finalize()
    }

    /// Has a hook's first chain trace what is marked.
    fn add_trace(&self, first: &Chain<'_>, hook: &str, sets: &Sets<'_>, batch: &mut Batch) {
        let (likely, tunnelled) = (self.chain(hook, "likely"), self.chain(hook, "tunnelled"));
        add_all(batch, &[&likely, &tunnelled]);
        add_rules(batch, rules::trace(&likely, sets));
        add_rules(batch, rules::skim_inner(&tunnelled, &likely));
        add_rules(batch, rules::skim(first, &likely));
        add_rules(batch, [rules::skim_outer(first, &tunnelled)]);
    }

    fn change_elements(&self, traced: &Traced, change: MsgType) -> io::Result<()> {
        let &Traced { check, key, count, protocol, .. } = traced;
        let Sets { mut tags, mut sequences, mut acknowledgements } = self.sets();
        let mut batch = Batch::new();
        if protocol == Protocol::Tcp {
            for (_, isn) in key.isns(check, count) {
                sequences.add(&Sequence(isn.to_be_bytes()));
                acknowledgements.add(&Acknowledgement(isn.wrapping_add(1).to_be_bytes()));
            }
            batch.add_iter(sequences.elems_iter(), change);
            batch.add_iter(acknowledgements.elems_iter(), change);
        } else {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
            bytes[4..].copy_from_slice(&check.get().to_be_bytes());
            tags.add(&Tag(bytes));
            batch.add_iter(tags.elems_iter(), change);
        }
        self.commit(&batch.finalize())
    }

    fn sets(&self) -> Sets<'_> {
        Sets { tags: self.set(), sequences: self.set(), acknowledgements: self.set() }
    }

    fn set<K: NamedKey>(&self) -> Set<'_, K> {
        Set::new_named(K::NAME, K::ID, &self.table, self.purpose.family())
    }

    fn chain(&self, hook: &str, end: &str) -> Chain<'_> {
        Chain::new(c_string(&format!("{hook}-{end}")), &self.table)
    }

    /// Sends a batch and reads the kernel's answers to it.
    fn commit(&self, batch: &FinalizedBatch) -> io::Result<()> {
        self.socket.send_to(&bytes_of(batch), &SocketAddr::new(0, 0), 0)?;
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

/// The messages of a batch, as they are sent.
fn bytes_of(batch: &FinalizedBatch) -> Vec<u8> {
    batch.iter().flatten().copied().collect()
}

/// When a table ends.
#[derive(Clone, Copy)]
enum Ends {
    WithItsOwner,
    WhenRemoved,
}

/// The message that makes a table. The crate cannot set the owner flag, nor refuse a name that is taken.
struct NewTable<'a>(&'a Table, ProtoFamily, Ends);

// SAFETY: writes one message, as libnftnl builds it, into the buffer that the batch provides for one.
unsafe impl NlMsg for NewTable<'_> {
    unsafe fn write(&self, buffer: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: `buffer` has room for a message, which is the caller's part; the table is freed after
        // its last use.
        unsafe {
            let table = NonNull::new(sys::nftnl_table_alloc()).expect("there is memory for a table").as_ptr();
            sys::nftnl_table_set_u32(table, sys::NFTNL_TABLE_FAMILY as u16, self.1 as u32);
            sys::nftnl_table_set_str(table, sys::NFTNL_TABLE_NAME as u16, self.0.get_name().as_ptr());
            if matches!(self.2, Ends::WithItsOwner) {
                sys::nftnl_table_set_u32(table, sys::NFTNL_TABLE_FLAGS as u16, TABLE_F_OWNER);
            }
            let header = sys::nftnl_nlmsg_build_hdr(
                buffer.cast::<c_char>(),
                libc::NFT_MSG_NEWTABLE as u16,
                self.1 as u16,
                (libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16,
                seq,
            );
            sys::nftnl_table_nlmsg_build_payload(header, table);
            sys::nftnl_table_free(table);
        }
    }
}

fn add_all(batch: &mut Batch, chains: &[&Chain<'_>]) {
    for chain in chains {
        batch.add(*chain, MsgType::Add);
    }
}

fn add_rules<'a>(batch: &mut Batch, rules: impl IntoIterator<Item = Rule<'a>>) {
    for rule in rules {
        batch.add(&rule, MsgType::Add);
    }
}

/// A name that no other table of the machine has.
pub fn new_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{TABLE_PREFIX}{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("names are made of letters, digits, dashes and underscores")
}
