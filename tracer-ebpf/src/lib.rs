//! Kernel side of Waymark's tracer: BPF programs in C with CO-RE, and the crate that builds, embeds and
//! types them.
//!
//! ```text
//! bpf/record.h      what kernel and user space share; Rust's side is generated from it
//! bpf/kernel.h      the few kernel types that are read, relocated at load time
//! bpf/maps.h        maps and counters
//! bpf/pages.h       packets whose headers a network card left in pages
//! bpf/match.h       is this packet marked?
//! bpf/metadata.h    what the kernel keeps of a packet beside its bytes
//! bpf/skim.h        could it be? What every packet of the machine pays
//! bpf/follow.h      which packet is in this buffer?
//! bpf/live.h        packets that nobody marked, picked by a filter
//! bpf/pipeline.h    marked? → armed? → wanted? → ours? → record → submit; the same for every hook
//! bpf/device.h      hook family: devices
//! bpf/free.h        hook family: drops and frees
//! bpf/joined.h      hook family: routes and neighbours, for the packet that a processor has in hand
//! bpf/deep.h        hook family: functions, the deep tier
//! bpf/floor.bpf.c   the object of both tiers
//! ```
//!
//! A hook is one row of [`PROGRAMS`] and one function in a family's file. To add one, write both and give
//! it a number in `record.h`. A function of the deep tier is one row of [`FUNCTIONS`], and one macro in `deep.h`.
//!
//! The programs are C and not Rust because rustc emits no CO-RE relocations: struct offsets would be those
//! of the build machine, and go wrong silently elsewhere.

mod deep;
mod record;

pub use deep::{Answer, FUNCTIONS, Function};
pub use record::{
    Conntrack, Counter, DEEP_POINTS, DRAFTS, Entry, FILTER_ROOM, FIRST_DEEP, LOOK, MatchKind, Point, Record,
    Tuple,
};
use waymark_proto::{Hook, HookSet};

/// The object of both tiers, as `aya::EbpfLoader` takes it.
pub static FLOOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floor.bpf.o"));

/// The function in the object whose body a filter takes: from its first instruction on for [`FILTER_ROOM`] instructions. Its
/// arguments are the first bytes of a packet, at most [`LOOK`], with 64 more to remember things in behind them; how many of them
/// are the packet's; and how long it is as a whole. It returns 0 for a packet that is not wanted.
pub const FILTER: &str = "wants";

/// The object's variables that are written before it is loaded.
pub mod globals {
    /// One byte: 1 if programs may read packets directly. Not every verifier lets them.
    pub const DIRECT_READS: &str = "direct_reads";
    /// Address of the kernel's `vmemmap_base`; 0 if it is not known.
    pub const VMEMMAP_BASE_AT: &str = "vmemmap_base_at";
    /// Address of the kernel's `page_offset_base`; 0 if it is not known.
    pub const PAGE_OFFSET_BASE_AT: &str = "page_offset_base_at";
    /// [`DEEP_POINTS`](super::DEEP_POINTS) bytes: how many arguments each function of the deep tier has, from
    /// [`FIRST_DEEP`](super::FIRST_DEEP) on; 0 if that is not known.
    pub const ARGUMENTS: &str = "arguments";
    /// One byte: 1 if packets are picked by [`FILTER`](super::FILTER), not by markers.
    pub const LIVE: &str = "live";
    /// `u32`: the check that is armed then.
    pub const LIVE_CHECK: &str = "live_check";
    /// `u32`: how many packets are picked at most.
    pub const LIVE_MOST: &str = "live_most";
    /// `u32`: how many processors there may be.
    pub const PROCESSORS: &str = "processors";
}

/// Names of the maps in the object.
pub mod maps {
    /// Armed checks: `u32` id → [`Armed`](super::record::Armed).
    pub const ARMED: &str = "armed";
    /// Initial sequence numbers: `u32` → [`Marker`](super::record::Marker).
    pub const ISNS: &str = "isns";
    /// Namespaces of the node: `u32` inode → `u8`.
    pub const NAMESPACES: &str = "namespaces";
    /// Ring buffer of [`Record`](super::Record)s.
    pub const RECORDS: &str = "records";
    /// Per-CPU `u64` counters, indexed by [`Counter`](super::Counter).
    pub const COUNTERS: &str = "counters";
    /// When a packet was followed last, in the kernel's jiffies; 0 for never.
    pub const FOLLOWED: &str = ".data.followed";
    /// What a filter works with: [`DRAFTS`](super::DRAFTS) entries where there is one.
    pub const LOOKED: &str = "looked";
}

pub use record::{Armed as MapArmed, Marker as MapMarker};

/// One BPF program: the row that a hook has in the registry.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Name of the program in the object, and of the tracepoint that it is attached to.
    pub tracepoint: &'static str,
    /// The hook that it serves; `None` for those that serve whichever hook the packet was at.
    pub hook: Option<Hook>,
    /// The smallest set that it belongs to.
    pub set: HookSet,
}

/// The programs of the floor tier. Of a device's hooks the first is where every packet comes by; the others tell more of some.
pub const PROGRAMS: &[Program] = &[
    Program { tracepoint: "netif_receive_skb", hook: Some(Hook::DriverRx), set: HookSet::Light },
    Program { tracepoint: "net_dev_queue", hook: Some(Hook::Qdisc), set: HookSet::Wide },
    Program { tracepoint: "net_dev_start_xmit", hook: Some(Hook::DriverTx), set: HookSet::Wide },
    Program { tracepoint: "net_dev_xmit", hook: Some(Hook::DriverTx), set: HookSet::All },
    Program { tracepoint: "kfree_skb", hook: None, set: HookSet::Light },
    Program { tracepoint: "consume_skb", hook: None, set: HookSet::Wide },
    Program { tracepoint: "napi_gro_receive_entry", hook: Some(Hook::DriverRx), set: HookSet::Wide },
    Program { tracepoint: "qdisc_dequeue", hook: Some(Hook::Qdisc), set: HookSet::Wide },
    Program { tracepoint: "fib_table_lookup", hook: Some(Hook::Route), set: HookSet::Wide },
    Program { tracepoint: "fib6_table_lookup", hook: Some(Hook::Route), set: HookSet::Wide },
    Program { tracepoint: "neigh_event_send_done", hook: Some(Hook::Neighbour), set: HookSet::Wide },
];
