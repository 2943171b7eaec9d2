//! Netfilter: the rules of a namespace, compiled once, and what they do to a packet at a hook.
//!
//! * [`ruleset`]: what runs at each hook, in order
//! * [`rule`]: rules in one form; [`value`]: what they compare; [`symbols`]: names for numbers
//! * [`index`]: which rules of a chain a packet may match; [`classes`]: packets that a chain cannot tell apart
//! * [`iptables`], [`nft`], [`ipset`]: the three notations
//! * [`hook`]: a packet passes a hook
//! * [`run`]: a packet in the chains of one hook; [`read`]: what tests read; [`nat`]: translations
//! * [`address`]: types of addresses
//! * [`source`]: the address that is masqueraded with
//! * [`raw`]: headers as bytes
//! * [`members`]: what sets say of a packet

mod address;
mod classes;
mod hook;
mod index;
mod ipset;
mod iptables;
mod members;
mod nat;
mod nft;
mod raw;
mod read;
mod rule;
mod ruleset;
mod run;
mod source;
mod symbols;
mod value;

pub(crate) use classes::Memory;
pub(crate) use hook::{At, pass};
pub use members::Membership;
pub(crate) use members::asked;
pub(crate) use read::Context;
pub(crate) use ruleset::Ruleset;
pub(crate) use source::select as select_source;
