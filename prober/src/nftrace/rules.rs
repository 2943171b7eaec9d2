//! The rules of Waymark's tables: which packets are traced, or logged when they arrive.
//!
//! Every packet of a watched namespace goes through them, and a look into a set costs as much as ten comparisons. So a first chain compares a few bytes, which lets all go but packets that are likely to be marked
//! (`likely`) or are encapsulated (`tunnelled`); those are skimmed once more by their inner headers. Only likely ones are
//! looked up.

use std::ffi::CStr;
use std::ptr::NonNull;

use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Expression, Immediate, Lookup, Meta, Payload, Register, TransportHeaderField,
    Verdict,
};
use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::set::{Set, SetKey};
use nftnl::{Chain, Rule};
use waymark_proto::Protocol;
use waymark_proto::marker::MAGIC;

/// `NFT_META_NFTRACE`
const META_NFTRACE: u32 = libc::NFT_META_NFTRACE as u32;

/// Behind a UDP or ICMP header.
const PAYLOAD: u32 = 8;
/// The first bytes of VXLAN's header (RFC 7348): of its flags only I is set, and what is reserved is zero.
const VXLAN_FLAGS: u32 = 0x0800_0000;
/// From the outer UDP header to the inner IP header: UDP 8, VXLAN 8, Ethernet 14.
const INNER: u32 = 30;
/// Lengths of an inner IP header, IPv4 without options or IPv6, and where its protocol's number is.
const INNER_HEADERS: [(u32, u32); 2] = [(20, 9), (40, 6)];
/// Where the TCP sequence number is; the acknowledgement number follows it.
const SEQUENCE: u32 = 4;
/// Where four bytes with TCP's flags are, and which of them are SYN and RST: markers have one of them, and so have answers.
const FLAGS: (u32, [u8; 4]) = (12, [0, 0b110, 0, 0]);

/// Lets all go but those that may be marked.
pub fn skim<'a>(first: &'a Chain<'a>, likely: &Chain<'_>) -> [Rule<'a>; 2] {
    [
        jump(first, likely, |rule| equals(rule, PAYLOAD, &MAGIC.to_be_bytes())),
        jump(first, likely, |rule| {
            rule.add_expr(&Meta::L4Proto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, Protocol::Tcp.number(false)));
            opens_or_resets(rule, 0);
        }),
    ]
}

/// Takes those aside that have another packet inside.
pub fn skim_outer<'a>(first: &'a Chain<'a>, tunnelled: &Chain<'_>) -> Rule<'a> {
    jump(first, tunnelled, |rule| equals(rule, PAYLOAD, &VXLAN_FLAGS.to_be_bytes()))
}

/// Lets all go but those that may be marked, of packets in VXLAN.
pub fn skim_inner<'a>(tunnelled: &'a Chain<'a>, likely: &Chain<'_>) -> Vec<Rule<'a>> {
    let of_header = |(length, protocol): (u32, u32)| {
        [
            jump(tunnelled, likely, |rule| equals(rule, INNER + length + PAYLOAD, &MAGIC.to_be_bytes())),
            jump(tunnelled, likely, |rule| {
                equals(rule, INNER + protocol, &[Protocol::Tcp.number(false)]);
                opens_or_resets(rule, INNER + length);
            }),
        ]
    };
    INNER_HEADERS.into_iter().flat_map(of_header).collect()
}

/// The sets of a table.
pub struct Sets<'a> {
    pub tags: Set<'a, Tag>,
    pub sequences: Set<'a, Sequence>,
    pub acknowledgements: Set<'a, Acknowledgement>,
}

/// Traces the packets whose tag, sequence or acknowledgement number is in a set, also those in VXLAN.
pub fn trace<'a>(likely: &'a Chain<'a>, sets: &Sets<'_>) -> Vec<Rule<'a>> {
    let inner = INNER_HEADERS.map(|(length, _)| INNER + length);
    let of_headers = |transport| {
        // Only the outermost header's protocol can be asked for; around a tunnelled packet it is UDP's.
        let protocol = if transport == 0 { Protocol::Tcp } else { Protocol::Udp };
        if_marked(likely, protocol, transport, sets, &|rule| {
            rule.add_expr(&Immediate::new(1_u8, Register::Reg1));
            rule.add_expr(&SetNftrace);
        })
    };
    [0].into_iter().chain(inner).flat_map(of_headers).collect()
}

/// Logs those packets to a group.
pub fn log<'a>(likely: &'a Chain<'a>, sets: &Sets<'_>, to: &Log) -> Vec<Rule<'a>> {
    if_marked(likely, Protocol::Tcp, 0, sets, &|rule| rule.add_expr(to)).into()
}

/// `… in @set → does, accept`. Accepted, so that of a trace one event says both that the packet is traced and that it came
/// in; in a base chain that ends this chain alone.
fn if_marked<'a>(
    chain: &'a Chain<'a>,
    protocol: Protocol,
    transport: u32,
    sets: &Sets<'_>,
    does: &dyn Fn(&mut Rule<'a>),
) -> [Rule<'a>; 3] {
    let numbered = Some(protocol.number(false));
    [
        if_in(chain, None, transport + PAYLOAD, 8, &sets.tags, does),
        if_in(chain, numbered, transport + SEQUENCE, 4, &sets.sequences, does),
        if_in(chain, numbered, transport + SEQUENCE + 4, 4, &sets.acknowledgements, does),
    ]
}

fn jump<'a>(chain: &'a Chain<'a>, to: &Chain<'_>, condition: impl FnOnce(&mut Rule<'a>)) -> Rule<'a> {
    let mut rule = Rule::new(chain);
    condition(&mut rule);
    rule.add_expr(&Verdict::Jump { chain: to.get_name().to_owned() });
    rule
}

fn equals(rule: &mut Rule<'_>, offset: u32, bytes: &[u8]) {
    rule.add_expr(&payload(offset, bytes.len() as u32));
    rule.add_expr(&Cmp::new(CmpOp::Eq, bytes));
}

/// Has a TCP header at an offset SYN or RST?
fn opens_or_resets(rule: &mut Rule<'_>, transport: u32) {
    let (offset, mask) = FLAGS;
    rule.add_expr(&payload(transport + offset, mask.len() as u32));
    rule.add_expr(&Bitwise::new(&mask[..], &[0_u8; 4][..]));
    rule.add_expr(&Cmp::new(CmpOp::Neq, &[0_u8; 4][..]));
}

/// Bytes from the transport header.
fn payload(offset: u32, length: u32) -> Payload {
    // The crate's names say bits; the kernel takes bytes, and gets these numbers as they are.
    Payload::Transport(TransportHeaderField::Raw { offset_bits: offset, length_bits: length })
}

/// `payload in @set → does, accept`, for packets of a transport protocol if one is given.
fn if_in<'a, K: NamedKey>(
    chain: &'a Chain<'a>,
    protocol: Option<u8>,
    offset: u32,
    length: u32,
    set: &Set<'_, K>,
    does: &dyn Fn(&mut Rule<'a>),
) -> Rule<'a> {
    let mut rule = Rule::new(chain);
    if let Some(protocol) = protocol {
        rule.add_expr(&Meta::L4Proto);
        rule.add_expr(&Cmp::new(CmpOp::Eq, protocol));
    }
    rule.add_expr(&payload(offset, length));
    rule.add_expr(&Lookup::new(set));
    does(&mut rule);
    rule.add_expr(&Verdict::Accept);
    rule
}

/// `meta nftrace set <register 1>`, which the crate does not have.
struct SetNftrace;

impl Expression for SetNftrace {
    fn to_expr(&self, _rule: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name is a C string; the attributes are those of a meta expression and of its
        // types. The caller frees the expression.
        unsafe {
            let expression = NonNull::new(sys::nftnl_expr_alloc(c"meta".as_ptr()))
                .expect("libnftnl knows meta expressions and has memory for one");
            sys::nftnl_expr_set_u32(expression.as_ptr(), sys::NFTNL_EXPR_META_KEY as u16, META_NFTRACE);
            sys::nftnl_expr_set_u32(
                expression.as_ptr(),
                sys::NFTNL_EXPR_META_SREG as u16,
                Register::Reg1.to_raw(),
            );
            expression
        }
    }
}

/// Where packets are logged to: `log group GROUP prefix "PREFIX" queue-threshold 1`, which the crate does not have.
#[derive(Clone, Copy)]
pub struct Log {
    pub group: u16,
    pub prefix: &'static CStr,
    /// Bytes of each packet.
    pub copied: u32,
}

impl Expression for Log {
    fn to_expr(&self, _rule: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the names are C strings; the attributes are those of a log expression and of its types. The caller frees
        // the expression.
        unsafe {
            let expression = NonNull::new(sys::nftnl_expr_alloc(c"log".as_ptr()))
                .expect("libnftnl knows log expressions and has memory for one");
            let log = expression.as_ptr();
            sys::nftnl_expr_set_u16(log, sys::NFTNL_EXPR_LOG_GROUP as u16, self.group);
            sys::nftnl_expr_set_u32(log, sys::NFTNL_EXPR_LOG_SNAPLEN as u16, self.copied);
            sys::nftnl_expr_set_u16(log, sys::NFTNL_EXPR_LOG_QTHRESHOLD as u16, 1);
            sys::nftnl_expr_set_str(log, sys::NFTNL_EXPR_LOG_PREFIX as u16, self.prefix.as_ptr());
            expression
        }
    }
}

/// A set's key together with the name of its set, and its number within the transaction.
pub trait NamedKey: SetKey {
    const NAME: &'static CStr;
    const ID: u32;
}

macro_rules! set_key {
    ($(#[$doc:meta])* $type:ident, $length:literal, $name:literal, $id:literal) => {
        $(#[$doc])*
        pub struct $type(pub [u8; $length]);

        impl SetKey for $type {
            /// `TYPE_INTEGER` of nft, which is for display only.
            const TYPE: u32 = 4;
            const LEN: u32 = $length;

            fn data(&self) -> Box<[u8]> {
                Box::new(self.0)
            }
        }

        impl NamedKey for $type {
            const NAME: &'static CStr = $name;
            const ID: u32 = $id;
        }
    };
}

set_key!(
    /// Magic and check of a tag.
    Tag, 8, c"tags", 1
);
set_key!(
    /// TCP sequence number.
    Sequence, 4, c"sequences", 2
);
set_key!(
    /// TCP acknowledgement number.
    Acknowledgement, 4, c"acknowledgements", 3
);
