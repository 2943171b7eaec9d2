//! The Rust side of `bpf/record.h`.

use std::mem::size_of;
use std::net::IpAddr;

use waymark_proto::HookSet;

#[allow(
    missing_docs,
    unreachable_pub,
    non_camel_case_types,
    dead_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/record.rs"));
}

use generated as g;

macro_rules! numbers {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $constant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $type {
            $($(#[$vdoc])* $variant = g::$constant,)*
        }

        impl $type {
            /// The value of a number; `None` if `record.h` has none such.
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $(g::$constant => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

numbers! {
    /// Where in the datapath a record was made.
    Point {
        /// `__netif_receive_skb_core`
        NetifReceiveSkb = WM_POINT_NETIF_RECEIVE_SKB,
        /// `__dev_queue_xmit`
        NetDevQueue = WM_POINT_NET_DEV_QUEUE,
        /// `xmit_one`, before the driver
        NetDevStartXmit = WM_POINT_NET_DEV_START_XMIT,
        /// `xmit_one`, after the driver
        NetDevXmit = WM_POINT_NET_DEV_XMIT,
        /// A drop.
        KfreeSkb = WM_POINT_KFREE_SKB,
        /// A free that is no drop.
        ConsumeSkb = WM_POINT_CONSUME_SKB,
        /// `napi_gro_receive`
        GroEntry = WM_POINT_GRO_ENTRY,
        /// `dequeue_skb`
        QdiscDequeue = WM_POINT_QDISC_DEQUEUE,
        /// `fib_table_lookup`, `fib6_table_lookup`
        FibLookup = WM_POINT_FIB_LOOKUP,
        /// `fib_table_lookup` for the way back: by `fib_validate_source`, or for an answer
        FibLookupBack = WM_POINT_FIB_LOOKUP_BACK,
        /// `__neigh_event_send`
        NeighResolution = WM_POINT_NEIGH_RESOLUTION,
        /// `fib_validate_source`
        FibValidateSource = WM_POINT_FIB_VALIDATE_SOURCE,
        /// `ip_route_input_noref`
        IpRouteInput = WM_POINT_IP_ROUTE_INPUT,
        /// `ip6_route_input`
        Ip6RouteInput = WM_POINT_IP6_ROUTE_INPUT,
        /// `nf_hook_slow`
        NfHookSlow = WM_POINT_NF_HOOK_SLOW,
        /// `nf_conntrack_in`
        NfConntrackIn = WM_POINT_NF_CONNTRACK_IN,
        /// `__nf_conntrack_confirm`
        NfConntrackConfirm = WM_POINT_NF_CONNTRACK_CONFIRM,
        /// `bpf_prog_run_generic_xdp`
        XdpGeneric = WM_POINT_XDP_GENERIC,
        /// `tcf_classify`
        TcfClassify = WM_POINT_TCF_CLASSIFY,
        /// `tcf_classify_ingress`
        TcfClassifyIngress = WM_POINT_TCF_CLASSIFY_INGRESS,
        /// `br_handle_frame_finish`
        BrHandleFrameFinish = WM_POINT_BR_HANDLE_FRAME_FINISH,
        /// `br_flood`
        BrFlood = WM_POINT_BR_FLOOD,
        /// `ip_finish_output2`
        IpFinishOutput2 = WM_POINT_IP_FINISH_OUTPUT2,
        /// `ip6_finish_output2`
        Ip6FinishOutput2 = WM_POINT_IP6_FINISH_OUTPUT2,
        /// `__neigh_event_send`
        NeighEventSend = WM_POINT_NEIGH_EVENT_SEND,
        /// `ip_protocol_deliver_rcu`
        IpProtocolDeliver = WM_POINT_IP_PROTOCOL_DELIVER,
        /// `ip6_protocol_deliver_rcu`
        Ip6ProtocolDeliver = WM_POINT_IP6_PROTOCOL_DELIVER,
        /// `sk_filter_trim_cap`
        SkFilter = WM_POINT_SK_FILTER,
        /// `vxlan_rcv`
        VxlanRcv = WM_POINT_VXLAN_RCV,
    }
}

/// The first number of the deep tier's points.
pub const FIRST_DEEP: u32 = g::WM_POINT_DEEP;
/// How many points that tier may have.
pub const DEEP_POINTS: usize = g::WM_DEEP_POINTS as usize;

/// How many bytes of a packet a filter may look at.
pub const LOOK: usize = g::WM_LOOK as usize;
/// How many instructions a filter may have.
pub const FILTER_ROOM: usize = g::WM_FILTER_ROOM as usize;
/// Records that a processor may be filling in, those that were interrupted among them.
pub const DRAFTS: u32 = g::WM_DRAFTS;

numbers! {
    /// How a marker was recognized.
    MatchKind {
        /// Tag in a UDP payload or an ICMP echo request.
        Tag = WM_MATCH_TAG,
        /// Tag in an ICMP echo reply.
        EchoReply = WM_MATCH_ECHO_REPLY,
        /// TCP sequence number.
        TcpSeq = WM_MATCH_TCP_SEQ,
        /// TCP acknowledgement number.
        TcpAck = WM_MATCH_TCP_ACK,
        /// The packet that an ICMP error quotes.
        Quoted = WM_MATCH_QUOTED,
        /// The buffer alone.
        Buffer = WM_MATCH_BUFFER,
        /// A filter.
        Filter = WM_MATCH_FILTER,
    }
}

numbers! {
    /// Counters of the in-kernel pipeline.
    Counter {
        /// Packets without a marker.
        NotMarked = WM_COUNT_NOT_MARKED,
        /// Markers of a check that is not armed.
        NotArmed = WM_COUNT_NOT_ARMED,
        /// Markers of a check whose lease has ended.
        Expired = WM_COUNT_EXPIRED,
        /// Markers in namespaces of other nodes.
        ForeignNetns = WM_COUNT_FOREIGN_NETNS,
        /// Records lost because the ring buffer was full.
        RingFull = WM_COUNT_RING_FULL,
        /// Buffers not followed because the map refused.
        FollowFull = WM_COUNT_FOLLOW_FULL,
        /// Records submitted.
        Recorded = WM_COUNT_RECORDED,
        /// Answers of drivers for packets that were not marked.
        NotInFlight = WM_COUNT_NOT_IN_FLIGHT,
        /// Markers of a check with the light set, at a hook of the wide one.
        NotWanted = WM_COUNT_NOT_WANTED,
        /// Packets of the node whose headers could not be read, because a network card left them in pages.
        OutOfReach = WM_COUNT_OUT_OF_REACH,
    }
}

/// A marker as the maps hold it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Marker(g::wm_marker);

impl Marker {
    /// A marker by its two numbers.
    pub fn new(check: u32, seq: u32) -> Self {
        Self(g::wm_marker { check, seq })
    }
}

// SAFETY: two u32, no padding, every bit pattern valid.
unsafe impl aya::Pod for Marker {}

/// What is armed of a check, as the map holds it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Armed(g::wm_armed);

impl Armed {
    /// Until when (`CLOCK_MONOTONIC` nanoseconds), which hooks are wanted, and whether the packets' first bytes are.
    pub fn new(until_ns: u64, hooks: HookSet, capture: bool) -> Self {
        let hooks = match hooks {
            HookSet::Light => g::WM_HOOKS_LIGHT,
            HookSet::Wide => g::WM_HOOKS_WIDE,
            HookSet::All => g::WM_HOOKS_ALL,
        };
        Self(g::wm_armed { until_ns, hooks, capture: capture.into() })
    }
}

// SAFETY: a u64 and two u32, no padding, every bit pattern valid.
unsafe impl aya::Pod for Armed {}

/// One sighting as the kernel side wrote it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Record(g::wm_record);

const _: () = assert!(size_of::<Record>() == 168, "record.h and its Rust side have one size");

/// The entry of connection tracking that a packet carries, as the kernel side wrote it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Conntrack(g::wm_conntrack);

/// One direction of a connection, as the kernel keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or the echo identifier.
    pub src_port: u16,
    /// Destination port; of ICMP type and code.
    pub dst_port: u16,
}

impl Conntrack {
    /// The original tuple and that of answers; `None` if the packet carries no entry.
    pub fn tuples(&self) -> Option<(Tuple, Tuple)> {
        let tuple = |tuple: &g::wm_tuple| {
            Some(Tuple {
                src: address(self.0.family, &tuple.src)?,
                dst: address(self.0.family, &tuple.dst)?,
                src_port: tuple.src_port,
                dst_port: tuple.dst_port,
            })
        };
        Some((tuple(&self.0.original)?, tuple(&self.0.reply)?))
    }

    /// IANA protocol number.
    pub fn protocol(&self) -> u8 {
        self.0.protocol
    }

    /// `enum ip_conntrack_info`
    pub fn info(&self) -> u8 {
        self.0.info
    }

    /// Bits of `enum ip_conntrack_status`.
    pub fn status(&self) -> u32 {
        self.0.status
    }
}

/// One entry of the ring buffer.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The sighting.
    pub record: Record,
    /// The connection of the packet, if it carries one and the hook tells it.
    pub conntrack: Option<Conntrack>,
    /// What was captured of the packet: its first bytes from the outermost IP header on, none if nobody asked for them.
    pub packet: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads an entry. `None` if the number of bytes is not right.
    pub fn from_bytes(entry: &'a [u8]) -> Option<Self> {
        let (record, rest) = entry.split_at_checked(size_of::<g::wm_record>())?;
        // SAFETY: the length was checked; wm_record holds integers only, so every bit pattern is valid,
        // and read_unaligned asks for no alignment.
        let record = Record(unsafe { record.as_ptr().cast::<g::wm_record>().read_unaligned() });
        if rest.is_empty() {
            return Some(Self { record, conntrack: None, packet: rest });
        }
        let (conntrack, rest) = rest.split_at_checked(size_of::<g::wm_conntrack>())?;
        // SAFETY: the same of wm_conntrack.
        let conntrack = Conntrack(unsafe { conntrack.as_ptr().cast::<g::wm_conntrack>().read_unaligned() });
        let conntrack = conntrack.tuples().is_some().then_some(conntrack);
        if rest.is_empty() {
            return Some(Self { record, conntrack, packet: rest });
        }
        if entry.len() != size_of::<g::wm_captured>() {
            return None;
        }
        let (length, bytes) = rest.split_first_chunk::<8>()?;
        let length = u32::from_ne_bytes(*length.first_chunk()?) as usize;
        Some(Self { record, conntrack, packet: bytes.get(..length)? })
    }
}

impl Record {
    /// Where it was made.
    pub fn point(&self) -> Option<Point> {
        Point::from_number(self.0.point.into())
    }

    /// How the marker was recognized.
    pub fn matched(&self) -> Option<MatchKind> {
        MatchKind::from_number(self.0.match_.into())
    }

    /// Nanoseconds of the monotonic clock.
    pub fn time_ns(&self) -> u64 {
        self.0.time_ns
    }

    /// Check and sequence number.
    pub fn marker(&self) -> (u32, u32) {
        (self.0.check, self.0.seq)
    }

    /// Keyed hash of a tag; `None` where there is none, or it could not be read.
    pub fn hash(&self) -> Option<u64> {
        Some(self.0.hash).filter(|&hash| hash != 0)
    }

    /// Inode of the namespace.
    pub fn netns(&self) -> u32 {
        self.0.netns
    }

    /// Name of the device; `None` if the packet had none. Of [`Point::FibLookup`] that to which the route leads.
    pub fn device(&self) -> Option<String> {
        let bytes: Vec<u8> =
            self.0.device.iter().map(|&c| c.cast_unsigned()).take_while(|&c| c != 0).collect();
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `skb->head`.
    pub fn buffer(&self) -> u64 {
        self.0.buffer
    }

    /// Address of the function that freed it; 0 where the kernel does not say. Of a route the address of the gateway, in the
    /// bytes of the network, 0 if there is none.
    pub fn location(&self) -> u64 {
        self.0.location
    }

    /// Drop reason; 0 where the kernel gives none. Of a route its table. Of a function: what [`Answer`](crate::Answer) says.
    pub fn reason(&self) -> u32 {
        self.0.reason
    }

    /// The driver's answer, or that of a function. Of a route its error.
    pub fn code(&self) -> i32 {
        self.0.code
    }

    /// Number of the VLAN whose tag is beside the packet, if there is one.
    pub fn vlan(&self) -> Option<u16> {
        let present = g::WM_VLAN_PRESENT as u16;
        (self.0.vlan & present != 0).then_some(self.0.vlan & !present)
    }

    /// `skb->ip_summed`
    pub fn checksum(&self) -> u8 {
        self.0.checksum
    }

    /// `skb->mark`.
    pub fn mark(&self) -> u32 {
        self.0.mark
    }

    /// Source and destination address, if the headers were read.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        Some((address(self.0.family, &self.0.src)?, address(self.0.family, &self.0.dst)?))
    }

    /// IANA protocol number.
    pub fn protocol(&self) -> u8 {
        self.0.protocol
    }

    /// Source and destination port, or twice the echo identifier.
    pub fn ports(&self) -> (u16, u16) {
        (self.0.src_port, self.0.dst_port)
    }

    /// TTL or hop limit.
    pub fn ttl(&self) -> u8 {
        self.0.ttl
    }

    /// TCP flags.
    pub fn tcp_flags(&self) -> u8 {
        self.0.tcp_flags
    }

    /// IP total length in bytes.
    pub fn ip_len(&self) -> u16 {
        self.0.len
    }

    /// Where in the packet a later fragment has its payload, in bytes; 0 for others.
    pub fn fragment_offset(&self) -> u16 {
        self.0.fragment
    }

    /// IPv4 identification of the outermost header.
    pub fn ip_id(&self) -> u16 {
        self.0.ip_id
    }

    /// Source port of a VXLAN packet's outer header.
    pub fn outer_src_port(&self) -> u16 {
        self.0.outer_src_port
    }

    /// Outer source, outer destination and VNI of a VXLAN packet.
    pub fn vxlan(&self) -> Option<(IpAddr, IpAddr, u32)> {
        let family = self.0.outer_family;
        Some((address(family, &self.0.outer_src)?, address(family, &self.0.outer_dst)?, self.0.vni))
    }
}

fn address(family: u8, bytes: &[u8; 16]) -> Option<IpAddr> {
    match family {
        4 => Some(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        6 => Some(IpAddr::from(*bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_another_size_is_refused() {
        for size in [0, 167, 169, 247, 249, 447, 449] {
            assert!(Entry::from_bytes(&vec![0; size]).is_none(), "{size}");
        }
        let Entry { record, conntrack, packet } = Entry::from_bytes(&[0; 168]).unwrap();
        assert!(packet.is_empty() && conntrack.is_none());
        assert_eq!(record.point(), None);
        assert_eq!(record.addresses(), None);
        assert_eq!(record.device(), None);
        assert_eq!(record.vlan(), None);
        assert!(Entry::from_bytes(&[0; 248]).unwrap().conntrack.is_none());
    }

    #[test]
    fn a_connection_follows_the_record() {
        let mut entry = [0; 248];
        entry[168..172].copy_from_slice(&[10, 0, 0, 1]);
        entry[200..202].copy_from_slice(&7_u16.to_ne_bytes());
        entry[240..244].copy_from_slice(&8_u32.to_ne_bytes());
        entry[244..247].copy_from_slice(&[2, 4, 17]);
        let conntrack = Entry::from_bytes(&entry).unwrap().conntrack.unwrap();
        let (original, _) = conntrack.tuples().unwrap();
        assert_eq!((original.src, original.src_port), (IpAddr::from([10, 0, 0, 1]), 7));
        assert_eq!((conntrack.info(), conntrack.protocol(), conntrack.status()), (2, 17, 8));
    }

    #[test]
    fn captured_bytes_come_last() {
        let mut entry = [0; 448];
        entry[248..252].copy_from_slice(&2_u32.to_ne_bytes());
        entry[256..258].copy_from_slice(&[0x45, 1]);
        assert_eq!(Entry::from_bytes(&entry).unwrap().packet, [0x45, 1]);
        entry[248..252].copy_from_slice(&193_u32.to_ne_bytes());
        assert!(Entry::from_bytes(&entry).is_none());
    }

    #[test]
    fn numbers_of_the_header_are_known() {
        assert_eq!(Point::from_number(Point::KfreeSkb as u32), Some(Point::KfreeSkb));
        assert_eq!(Point::from_number(0), None);
    }

    #[test]
    fn both_sides_look_for_one_magic() {
        let expected = format!("#define MAGIC {:#010x} ", waymark_proto::marker::MAGIC);
        assert!(include_str!("../bpf/match.h").contains(&expected));
    }
}
