//! The packets of a recording for other tools, as pcapng (draft-ietf-opsawg-pcapng).
//!
//! Each place at which packets were seen (node, namespace, device, hook) is an interface of its own; what became of a packet
//! there is its comment. Packets begin with their outermost IP header: what lies below it differs from hook to hook.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, PcapError};
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use waymark_proto::{Checksum, Event, Hook, Marker, Metadata, Place, Sighting};

use super::Recording;
use super::clocks::{Clocks, is_answer};

/// `if_tsresol`: a negative power of ten, of a second.
const NANOSECONDS: u8 = 9;
/// Of an IPv6 header, which its payload's length does not count.
const IPV6_HEADER: u32 = 40;

/// Why no packets were written.
#[derive(Debug, thiserror::Error)]
pub enum PcapngError {
    /// The file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There are none.
    #[error(
        "the recording holds no packets: none were seen, or its agents were of a version that keeps none"
    )]
    NoPackets,
}

/// Where packets were seen: node and namespace, hook, device.
type Point<'a> = (String, &'static str, &'a str);

impl Recording {
    /// Writes the packets of all rounds, in the order in which they were seen. Times are of the clock of the node that sent,
    /// and begin with the first of them.
    ///
    /// # Errors
    /// [`PcapngError`].
    pub fn write_pcapng(&self, to: impl Write) -> Result<(), PcapngError> {
        let all: Vec<&Sighting> = self.sightings().collect();
        let clocks = Clocks::of(&self.check.ends.source.node, &all);
        let passages = Passages::of(&all);
        let captured = all.into_iter().filter(|sighting| !sighting.packet.is_empty());
        let turn = |sighting| {
            let (beside, turn) = passages.turn(sighting);
            (clocks.time(beside), turn)
        };
        let mut seen: Vec<_> = captured.map(|sighting| (turn(sighting), sighting)).collect();
        seen.sort_by_key(|&(turn, _)| turn);
        let ((begin, _), _) = *seen.first().ok_or(PcapngError::NoPackets)?;

        let mut file = PcapNgWriter::with_section_header(to, self.section()).map_err(io_error)?;
        let mut interfaces: BTreeMap<Point<'_>, u32> = BTreeMap::new();
        for (_, sighting) in &seen {
            let number = interfaces.len() as u32;
            if let Entry::Vacant(entry) = interfaces.entry(point(sighting)) {
                file.write_pcapng_block(interface(entry.key())).map_err(io_error)?;
                entry.insert(number);
            }
        }
        for ((at, _), sighting) in seen {
            let block = EnhancedPacketBlock {
                interface_id: interfaces[&point(sighting)],
                timestamp: Duration::from_nanos(u64::try_from(at - begin).unwrap_or(u64::MAX)),
                original_len: whole_length(&sighting.packet),
                data: Cow::Borrowed(&sighting.packet),
                options: vec![EnhancedPacketOption::Comment(comment(sighting).into())],
            };
            file.write_pcapng_block(block).map_err(io_error)?;
        }
        Ok(())
    }

    /// What was seen in all rounds of the check.
    fn sightings(&self) -> impl Iterator<Item = &Sighting> {
        [&self.check.light, &self.check.wide, &self.check.all]
            .into_iter()
            .flat_map(|trials| &trials.seen.sightings)
    }

    fn section(&self) -> SectionHeaderBlock<'static> {
        let application = SectionHeaderOption::UserApplication(format!("waymark {}", self.version).into());
        let ends = format!("{} to {}", self.check.request.source, self.check.request.destination);
        let comment = SectionHeaderOption::Comment(format!("waymark check {}: {ends}", self.check.id).into());
        SectionHeaderBlock { options: vec![application, comment], ..SectionHeaderBlock::default() }
    }
}

/// What the kernel saw of packets at the devices of each namespace, by packet and direction.
struct Passages<'a>(BTreeMap<(&'a Place, Marker, Option<bool>, Hook), Vec<&'a Sighting>>);

impl<'a> Passages<'a> {
    fn of(all: &[&'a Sighting]) -> Self {
        let mut passages: BTreeMap<_, Vec<&Sighting>> = BTreeMap::new();
        for sighting in all.iter().filter(|sighting| !sighting.is_later_fragment()) {
            let key = (&sighting.place, sighting.marker, is_answer(sighting), sighting.hook);
            passages.entry(key).or_default().push(sighting);
        }
        Self(passages)
    }

    /// Beside what a sighting belongs, and whether before or behind it. What netfilter tells comes without the kernel's
    /// time: it was behind the reception, or before the queue, and happened in the order of the hooks.
    fn turn(&self, sighting: &'a Sighting) -> (&'a Sighting, i8) {
        let (hook, turn) = match sighting.hook {
            Hook::NetfilterPrerouting => (Hook::DriverRx, 1),
            Hook::NetfilterInput | Hook::NetfilterForward => (Hook::DriverRx, 2),
            Hook::NetfilterOutput => (Hook::Qdisc, -2),
            Hook::NetfilterPostrouting => (Hook::Qdisc, -1),
            _ => return (sighting, 0),
        };
        let key = (&sighting.place, sighting.marker, is_answer(sighting), hook);
        let Some(passages) = self.0.get(&key) else { return (sighting, 0) };
        let beside = passages.iter().find(|other| other.device == sighting.device);
        (beside.unwrap_or(&passages[0]), turn)
    }
}

fn point(sighting: &Sighting) -> Point<'_> {
    (sighting.place.to_string(), sighting.hook.name(), sighting.device.as_deref().unwrap_or_default())
}

fn interface((place, hook, device): &Point<'_>) -> InterfaceDescriptionBlock<'static> {
    let name = [place.as_str(), device, hook].into_iter().filter(|part| !part.is_empty());
    let options = vec![
        InterfaceDescriptionOption::IfName(name.collect::<Vec<_>>().join(" ").into()),
        InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
    ];
    // Some readers take 0, which means without limit, for a limit.
    InterfaceDescriptionBlock { linktype: DataLink::RAW, snaplen: u16::MAX.into(), options }
}

/// Which packet it is, and what became of it there. Not translated: it is read by tools that are not, either.
fn comment(sighting: &Sighting) -> String {
    let packet = sighting.marker.seq.0;
    let who = match is_answer(sighting) {
        Some(true) => format!("answer to packet {packet}"),
        _ => format!("packet {packet}"),
    };
    let who = match sighting.fragment_offset {
        0 => who,
        offset => format!("{who}, fragment from byte {offset} on"),
    };
    let what = match &sighting.event {
        Event::Seen => "seen".to_owned(),
        Event::Arrived => "received, waits for the stack".to_owned(),
        Event::Entered => "enters the hook".to_owned(),
        Event::Left => "leaves the hook".to_owned(),
        Event::Passed => "passes the hook".to_owned(),
        Event::Verdict { rule, verdict } => format!("{verdict} by {rule}"),
        Event::Transmitted { code } => format!("the driver answers {code}"),
        Event::Called { function, answer: Some(answer) } => format!("{function} answers {answer}"),
        Event::Called { function, answer: None } => format!("{function} is called"),
        Event::Dropped { reason: Some(reason), function } => format!("dropped, {reason}, in {function}"),
        Event::Dropped { reason: None, function } => format!("dropped in {function}"),
        Event::Consumed { function: Some(function) } => format!("used up in {function}"),
        Event::Consumed { function: None } => "used up".to_owned(),
    };
    let Metadata { vlan, checksum, conntrack } = &sighting.metadata;
    let beside = [
        vlan.map(|number| format!("VLAN {number}")),
        (*checksum == Some(Checksum::Partial)).then(|| "checksum not computed yet".to_owned()),
        conntrack.as_ref().map(|conntrack| format!("conntrack {conntrack}")),
    ];
    std::iter::once(format!("{who}: {what}"))
        .chain(beside.into_iter().flatten())
        .collect::<Vec<_>>()
        .join("; ")
}

/// Length of a packet by its header, of which the first bytes are given.
fn whole_length(packet: &[u8]) -> u32 {
    let by_header = match packet.first().map(|first| first >> 4) {
        Some(4) => Ipv4Packet::new(packet).map(|ip| ip.get_total_length().into()),
        Some(6) => Ipv6Packet::new(packet).map(|ip| u32::from(ip.get_payload_length()) + IPV6_HEADER),
        _ => None,
    };
    by_header.unwrap_or_default().max(packet.len() as u32)
}

fn io_error(error: PcapError) -> PcapngError {
    PcapngError::Io(match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_fragment_is_told() {
        let step = &crate::fixture::steps(crate::fixture::THERE, crate::fixture::tcp())[0];
        let mut sighting = crate::fixture::drop_at(step, 3, false, "NETFILTER_DROP", "nf_hook_slow+0x1");
        sighting.fragment_offset = 1480;
        let told = comment(&sighting);
        assert_eq!(
            told,
            "packet 3, fragment from byte 1480 on: dropped, NETFILTER_DROP, in nf_hook_slow+0x1"
        );
    }

    #[test]
    fn the_header_tells_how_long_a_packet_was() {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&1500_u16.to_be_bytes());
        assert_eq!(whole_length(&packet), 1500);
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&1440_u16.to_be_bytes());
        assert_eq!(whole_length(&packet), 1480);
        // Cut short, or none at all.
        assert_eq!(whole_length(&[0x45; 7]), 7);
        assert_eq!(whole_length(&[]), 0);
    }
}
