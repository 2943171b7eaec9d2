//! What a probe carries, and finding it again: in an answer, in an ICMP error that quotes the probe, in the copy
//! that the kernel returns with a time stamp.
//!
//! ```text
//! 0..4 kind | 4..12 nonce | 12..20 target | 20..24 number of the probe      all big endian
//! ```
//!
//! The nonce is random for each agent's run: nobody who does not see the probes can answer them, and answers
//! to an earlier run are none of ours.

use waymark_proto::ProbeId;

/// Length of a payload.
pub const LEN: usize = 24;

/// What asks.
const PROBE: [u8; 4] = *b"WMp?";
/// What a responder answers; never answered itself, so two responders cannot keep each other busy.
const ANSWER: [u8; 4] = *b"WMp!";

/// Which probe a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The target.
    pub id: ProbeId,
    /// The probe's number.
    pub number: u32,
}

/// What tells one agent's probes from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub u64);

impl Payload {
    /// The bytes of a probe.
    pub fn to_bytes(self, nonce: Nonce) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&PROBE);
        bytes[4..12].copy_from_slice(&nonce.0.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.id.0.to_be_bytes());
        bytes[20..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// Finds a payload of this agent anywhere in a packet. Where it begins depends on which headers the kernel
    /// or another host saw fit to put before it.
    pub fn find(packet: &[u8], nonce: Nonce) -> Option<Self> {
        packet.windows(LEN).find_map(|window| {
            let kind = &window[..4];
            let u64_at = |at: usize| window[at..at + 8].try_into().map(u64::from_be_bytes).ok();
            let ours = (kind == PROBE || kind == ANSWER) && u64_at(4)? == nonce.0;
            let number = window[20..].try_into().map(u32::from_be_bytes).ok()?;
            Some(Self { id: ProbeId(u64_at(12)?), number }).filter(|_| ours)
        })
    }
}

/// Turns a probe into its answer; `None` for anything else, which is not to be answered.
pub fn answer(datagram: &mut [u8]) -> Option<()> {
    if datagram.len() != LEN || datagram[..4] != PROBE {
        return None;
    }
    datagram[..4].copy_from_slice(&ANSWER);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce(0x0123_4567_89ab_cdef);

    #[test]
    fn a_payload_is_found_behind_any_headers() {
        let payload = Payload { id: ProbeId(7), number: 3 };
        let bytes = payload.to_bytes(NONCE);
        for before in 0..70 {
            let packet = [vec![0x57; before], bytes.to_vec(), vec![0; before % 9]].concat();
            assert_eq!(Payload::find(&packet, NONCE), Some(payload));
            assert_eq!(Payload::find(&packet, Nonce(1)), None);
        }
        assert_eq!(Payload::find(&bytes[..LEN - 1], NONCE), None);
        assert_eq!(Payload::find(&[], NONCE), None);
    }

    #[test]
    fn answers_are_not_answered() {
        let mut bytes = Payload { id: ProbeId(7), number: 3 }.to_bytes(NONCE);
        assert!(answer(&mut bytes).is_some());
        assert!(Payload::find(&bytes, NONCE).is_some(), "it is still the same probe");
        assert!(answer(&mut bytes).is_none());
        assert!(answer(&mut b"anything else of 24 byte"[..].to_vec()).is_none());
    }
}
