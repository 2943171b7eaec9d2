//! The rules of the trace table: which packets are traced.
//!
//! Every packet of a watched namespace goes through them at every hook, and a look into a set costs as much as ten
//! comparisons. So a first chain compares a few bytes, which lets all go but packets that are likely to be marked
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

/// Lets all go but those that may be marked or have another packet inside.
pub fn skim<'a>(first: &'a Chain<'a>, likely: &Chain<'_>, tunnelled: &Chain<'_>) -> [Rule<'a>; 3] {
    [
        jump(first, likely, |rule| equals(rule, PAYLOAD, &MAGIC.to_be_bytes())),
        jump(first, tunnelled, |rule| equals(rule, PAYLOAD, &VXLAN_FLAGS.to_be_bytes())),
        jump(first, likely, |rule| {
            rule.add_expr(&Meta::L4Proto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, Protocol::Tcp.number(false)));
            opens_or_resets(rule, 0);
        }),
    ]
}

/// The same for packets in VXLAN.
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

/// Traces the packets whose tag, sequence or acknowledgement number is in a set.
pub fn trace<'a>(
    likely: &'a Chain<'a>,
    tags: &Set<'_, Tag>,
    sequences: &Set<'_, Sequence>,
    acknowledgements: &Set<'_, Acknowledgement>,
) -> Vec<Rule<'a>> {
    let mut rules = Vec::new();
    let inner = INNER_HEADERS.map(|(length, _)| INNER + length);
    for transport in [0].into_iter().chain(inner) {
        // Only the outermost header's protocol can be asked for; around a tunnelled packet it is UDP's.
        let protocol = if transport == 0 { Protocol::Tcp } else { Protocol::Udp };
        let protocol = Some(protocol.number(false));
        rules.push(trace_if(likely, None, transport + PAYLOAD, 8, tags));
        rules.push(trace_if(likely, protocol, transport + SEQUENCE, 4, sequences));
        rules.push(trace_if(likely, protocol, transport + SEQUENCE + 4, 4, acknowledgements));
    }
    rules
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

/// `payload in @set → nftrace on, accept`, for packets of a transport protocol if one is given. Accepted, so that one
/// event says both that the packet is traced and that it came in; in a base chain that ends this chain alone.
fn trace_if<'a, K: NamedKey>(
    chain: &'a Chain<'a>,
    protocol: Option<u8>,
    offset: u32,
    length: u32,
    set: &Set<'_, K>,
) -> Rule<'a> {
    let mut rule = Rule::new(chain);
    if let Some(protocol) = protocol {
        rule.add_expr(&Meta::L4Proto);
        rule.add_expr(&Cmp::new(CmpOp::Eq, protocol));
    }
    rule.add_expr(&payload(offset, length));
    rule.add_expr(&Lookup::new(set));
    rule.add_expr(&Immediate::new(1_u8, Register::Reg1));
    rule.add_expr(&SetNftrace);
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

/// A set's key together with the names of its sets, for the input hook and for the others, and the number of the first
/// within the transaction.
pub trait NamedKey: SetKey {
    const NAMES: [&'static CStr; 2];
    const ID: u32;
}

macro_rules! set_key {
    ($(#[$doc:meta])* $type:ident, $length:literal, $names:expr, $id:literal) => {
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
            const NAMES: [&'static CStr; 2] = $names;
            const ID: u32 = $id;
        }
    };
}

set_key!(
    /// Magic and check of a tag.
    Tag, 8, [c"input_tags", c"tags"], 1
);
set_key!(
    /// TCP sequence number.
    Sequence, 4, [c"input_sequences", c"sequences"], 2
);
set_key!(
    /// TCP acknowledgement number.
    Acknowledgement, 4, [c"input_acknowledgements", c"acknowledgements"], 3
);
