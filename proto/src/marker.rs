//! The identity of one injected packet, as it travels in the packet itself.
//!
//! `skb->mark` does not survive a namespace border, so the marker lives in the packet:
//!
//! * UDP and ICMP echo carry a [`Tag`] at the start of the layer-4 payload:
//!
//!   | bytes | field | |
//!   |---|---|---|
//!   | 0..4 | magic | [`MAGIC`], big endian |
//!   | 4..8 | check | [`CheckId`], big endian |
//!   | 8..12 | seq | [`Seq`], big endian |
//!   | 12..16 | zero | reserved |
//!   | 16..24 | sent | nanoseconds of the sender's monotonic clock, big endian |
//!   | 24..32 | tag | [`MarkerKey::tag`], big endian |
//!
//!   Magic and check together are one aligned 64-bit load for BPF and one `@th,64,64` match for
//!   nftables; and magic, check and seq together fit into the 20 bytes of transport header that an
//!   nftables trace event quotes, so such an event names its marker without help.
//! * A TCP SYN carries [`MarkerKey::isn`] as its initial sequence number; the answer carries it as
//!   acknowledgement minus one.
//!
//! The keyed hash is SipHash-2-4 (Aumasson, Bernstein 2012). Who does not know the key of a check can
//! neither make a packet that a tracer takes for a marker's TCP SYN nor one whose tag verifies.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::{CheckId, Seq};

/// First four bytes of a tag: "WAYM".
pub const MAGIC: u32 = 0x5741_594d;

/// Length of a [`Tag`] on the wire, in bytes.
pub const TAG_LEN: usize = 32;

/// Which injected packet a sighting is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Marker {
    /// The check that injected it.
    pub check: CheckId,
    /// Its number within the check.
    pub seq: Seq,
}

/// Secret of one check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MarkerKey(pub [u8; 16]);

impl std::fmt::Debug for MarkerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MarkerKey(..)")
    }
}

impl MarkerKey {
    /// The keyed hash of a marker.
    pub fn tag(&self, marker: Marker) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u32(marker.check.get());
        hasher.write_u32(marker.seq.0);
        hasher.finish()
    }

    /// The keyed hash of a number that is not to be told.
    pub fn hide(&self, number: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u64(number);
        hasher.finish()
    }

    /// The initial sequence number of a marker's TCP SYN: the low half of its keyed hash.
    pub fn isn(&self, marker: Marker) -> u32 {
        self.tag(marker) as u32
    }

    /// The initial sequence numbers of a check's markers 0 to `count`, exclusive.
    pub fn isns(&self, check: CheckId, count: u32) -> impl Iterator<Item = (Seq, u32)> {
        (0..count).map(move |seq| {
            let marker = Marker { check, seq: Seq(seq) };
            (marker.seq, self.isn(marker))
        })
    }
}

/// What a marked UDP or ICMP payload begins with. See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The packet's identity.
    pub marker: Marker,
    /// When it was sent: nanoseconds of the sender's monotonic clock.
    pub sent_ns: u64,
    /// The keyed hash of the identity.
    pub hash: u64,
}

impl Tag {
    /// The tag of a marker that is sent now.
    pub fn new(key: &MarkerKey, marker: Marker, sent_ns: u64) -> Self {
        Self { marker, sent_ns, hash: key.tag(marker) }
    }

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> [u8; TAG_LEN] {
        let mut bytes = [0; TAG_LEN];
        bytes[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.marker.check.get().to_be_bytes());
        bytes[8..12].copy_from_slice(&self.marker.seq.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.hash.to_be_bytes());
        bytes
    }

    /// Reads a tag from the start of a payload; `None` if it is none or was cut short. The hash is not
    /// verified here: compare it with [`MarkerKey::tag`].
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let bytes = payload.get(..TAG_LEN)?;
        let u32_at = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if u32_at(0)? != MAGIC {
            return None;
        }
        let marker = Marker { check: CheckId::new(u32_at(4)?)?, seq: Seq(u32_at(8)?) };
        Some(Self { marker, sent_ns: u64_at(16)?, hash: u64_at(24)? })
    }
}

/// Reads the identity alone from the first twelve bytes of a payload, all that a trace event quotes.
pub fn parse_identity(payload: &[u8]) -> Option<Marker> {
    let word = |at: usize| Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    if word(0)? != MAGIC {
        return None;
    }
    Some(Marker { check: CheckId::new(word(4)?)?, seq: Seq(word(8)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: MarkerKey = MarkerKey(*b"0123456789abcdef");

    fn marker(seq: u32) -> Marker {
        Marker { check: CheckId::new(7).unwrap(), seq: Seq(seq) }
    }

    #[test]
    fn a_tag_survives_the_wire() {
        let tag = Tag::new(&KEY, marker(3), 99);
        let mut payload = tag.to_bytes().to_vec();
        payload.extend_from_slice(b"padding");
        assert_eq!(Tag::parse(&payload), Some(tag));
        assert_eq!(parse_identity(&payload[..12]), Some(tag.marker));
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        let mut bytes = Tag::new(&KEY, marker(0), 1).to_bytes();
        assert_eq!(Tag::parse(&bytes[..TAG_LEN - 1]), None);
        assert_eq!(parse_identity(&bytes[..11]), None);
        bytes[0] ^= 1;
        assert_eq!(Tag::parse(&bytes), None);
        assert_eq!(parse_identity(&bytes), None);
    }

    #[test]
    fn keys_and_sequence_numbers_change_the_hash() {
        assert_ne!(KEY.isn(marker(0)), KEY.isn(marker(1)));
        assert_ne!(KEY.tag(marker(0)), MarkerKey([0; 16]).tag(marker(0)));
    }
}
