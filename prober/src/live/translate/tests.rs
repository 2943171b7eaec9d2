//! Translated filters beside libpcap's own machine.

use pcap::{Capture, Linktype};
use proptest::prelude::*;
use waymark_controller::live::compile;

use super::*;

const ROOM: usize = 4096;

/// What libpcap says of a packet, which has a machine of its own for classic BPF.
fn wants(filter: &str, packet: &[u8]) -> bool {
    let capture = Capture::dead(Linktype::from_name("RAW").unwrap()).unwrap();
    capture.compile(filter, true).unwrap().filter(packet)
}

/// Runs a translated filter as the kernel would: with bytes, how many they are, and the length of the whole packet.
fn run(translated: &[Instruction], packet: &[u8], whole: u32) -> bool {
    let length = packet.len().min(LOOK) as u32;
    let mut program = Program::default();
    program.set(LENGTH, length);
    program.set(WHOLE, whole);
    let code: Vec<u8> = program.instructions.iter().chain(translated).flatten().copied().collect();
    let mut memory = vec![0xa5; LOOK + 4 * CELLS as usize];
    memory[..length as usize].copy_from_slice(&packet[..length as usize]);
    let machine = rbpf::EbpfVmRaw::new(Some(&code)).unwrap();
    // The register is of 64 bits, of which a function that returns 32 promises nothing of the upper half.
    machine.execute_program(&mut memory).unwrap() as u32 != 0
}

fn agree(filter: &str, packet: &[u8]) -> Result<(), TestCaseError> {
    let translated = translate(&compile(filter).unwrap(), ROOM).unwrap();
    prop_assert_eq!(translated.len(), ROOM);
    // Nothing but zero is there for what lies beyond the packet's own length, so both are one here.
    let whole = u32::try_from(packet.len()).unwrap();
    prop_assert_eq!(run(&translated, packet, whole), wants(filter, packet), "{}: {:02x?}", filter, packet);
    Ok(())
}

/// Filters of all kinds of instructions that libpcap makes.
const FILTERS: &[&str] = &[
    "ip",
    "ip6",
    "tcp",
    "icmp or icmp6",
    "tcp port 80",
    "udp and not port 53",
    "src host 10.0.0.1",
    "dst net 10.0.0.0/9 and not src host 10.0.0.1",
    "host fd00::1",
    "portrange 50-100",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "ip[8] < 5",
    "greater 60 and less 100",
    "ip[6:2] & 0x1fff != 0",
    "udp[8:4] = 0x5741594d",
    "ip[ip[8] - 10] = 7",
    "ip[2:2] / ip[9] > 3",
    "ip[2:2] % (ip[8] & 3) = 1",
    "icmp[icmptype] = icmp-echo",
    "ip proto 50 or ip6 proto 50",
    "(tcp[4:4] * 3) ^ 0x55aa = 0",
    "-ip[1] = 0",
    "ip[1] << (ip[8] & 7) > 100",
    "less 100",
    "ip[300] = 1",
];

/// Packets that many of these are about.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let protocols = prop::sample::select(vec![1u8, 6, 17, 50, 58]);
    let ports = prop::sample::select(vec![53u16, 80, 99, 4242]);
    let tail = prop::collection::vec(any::<u8>(), 0..300);
    let v4 = (protocols.clone(), ports.clone(), 5u8..8, any::<u8>(), any::<bool>(), tail.clone()).prop_map(
        |(protocol, port, words, ttl, fragment, tail)| {
            let mut packet =
                vec![0x40 | words, 0, 0, 0, 0, 1, 0, 0, ttl, protocol, 0, 0, 10, 0, 0, 1, 10, 1, 0, 2];
            packet.resize(usize::from(words) * 4, 0);
            packet[7] = fragment.into();
            packet.extend(port.to_be_bytes());
            packet.extend(tail);
            let length = packet.len() as u16;
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet
        },
    );
    let v6 = (protocols, ports, tail.clone()).prop_map(|(protocol, port, tail)| {
        let mut packet = vec![0x60, 0, 0, 0, 0, tail.len() as u8, protocol, 64];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend(port.to_be_bytes());
        packet.extend(tail);
        packet
    });
    prop_oneof![4 => v4, 2 => v6, 1 => tail]
}

proptest! {
    #[test]
    fn a_filter_says_of_each_packet_what_libpcap_says(which in 0..FILTERS.len(), packet in packets(), cut in any::<u8>()) {
        agree(FILTERS[which], &packet)?;
        agree(FILTERS[which], &packet[..packet.len().min(cut.into())])?;
    }

    #[test]
    fn what_is_no_program_is_refused_or_ends(
        program in prop::collection::vec((any::<u16>(), 0u8..4, 0u8..4, any::<u32>()), 1..20),
        packet in packets(),
    ) {
        let program: Vec<_> =
            program.into_iter().map(|(code, jt, jf, k)| FilterInstruction { code: code & 0xff, jt, jf, k }).collect();
        if let Ok(translated) = translate(&program, ROOM) {
            prop_assert_eq!(translated.len(), ROOM);
            run(&translated, &packet, 100);
        }
    }
}

const ALL: FilterInstruction = FilterInstruction { code: RET, jt: 0, jf: 0, k: 1 };

#[test]
fn what_lies_beyond_what_may_be_looked_at_is_not_there() {
    let last = FilterInstruction { code: LD | B | ABS, jt: 0, jf: 0, k: LOOK as u32 - 1 };
    let beyond = FilterInstruction { k: LOOK as u32, ..last };
    let packet = vec![1; 2 * LOOK];
    for (first, wanted) in [(last, true), (beyond, false)] {
        assert_eq!(run(&translate(&[first, ALL], ROOM).unwrap(), &packet, 600), wanted);
    }
}

#[test]
fn a_program_that_leads_nowhere_is_refused() {
    let jump = |jt, jf| FilterInstruction { code: JMP | 0x10, jt, jf, k: 0 };
    let load = FilterInstruction { code: LD | W | ABS, jt: 0, jf: 0, k: 0 };
    let refused = |program: &[FilterInstruction]| translate(program, ROOM).unwrap_err();
    assert_eq!(refused(&[]), FilterError::Astray { at: 0 });
    assert_eq!(refused(&[load]), FilterError::Astray { at: 0 });
    assert_eq!(refused(&[jump(0, 1), ALL]), FilterError::Astray { at: 0 });
    assert_eq!(
        refused(&[FilterInstruction { code: JMP, jt: 0, jf: 0, k: u32::MAX }, ALL]),
        FilterError::Astray { at: 0 }
    );
    let divide = FilterInstruction { code: ALU | u16::from(DIV), jt: 0, jf: 0, k: 0 };
    assert_eq!(refused(&[divide, ALL]), FilterError::Operand { at: 0, k: 0 });
    let store = FilterInstruction { code: ST, jt: 0, jf: 0, k: CELLS };
    assert_eq!(refused(&[ALL, store, ALL]), FilterError::Operand { at: 1, k: CELLS });
    let length = ROOM;
    assert_eq!(refused(&vec![ALL; length]), FilterError::Length { length, room: ROOM });
}
