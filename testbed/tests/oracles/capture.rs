//! tcpdump: which packets came by which device of a namespace, and which way.
//!
//! One process per namespace listens on all its devices at once. What it cannot tell: packets that leave by `lo`, which
//! libpcap leaves out because they come in there again.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

use crate::clock::Clock;
use crate::counters::Link;
use crate::tool::{LIMIT, Lines, Tool, receive};
use crate::wire::{Reading, read};

/// More than the headers of any marked packet, whatever is around them.
const SNAP: &str = "256";
/// KiB of packets that wait for tcpdump.
const BUFFER: &str = "8192";
/// What the last packet says.
const END: &[u8] = b"waymark: an oracle's end";

/// Which way a packet came by a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    In,
    Out,
}

/// A marked packet that tcpdump saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    pub netns: String,
    pub device: String,
    pub way: Way,
    /// In nanoseconds of the monotonic clock.
    pub at_ns: u64,
    pub reading: Reading,
}

/// A packet as it is in the file.
struct Frame {
    /// In nanoseconds since 1970.
    at_ns: u64,
    ifindex: u32,
    way: Way,
    bytes: Vec<u8>,
}

/// tcpdump on all devices of a namespace.
pub struct Capture {
    netns: String,
    tool: Tool,
    frames: Receiver<Frame>,
    errors: Lines,
}

impl Capture {
    pub fn start(netns: &str) -> Self {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["--interface=any", "--linktype=LINUX_SLL2", "--immediate-mode", "--packet-buffered"]);
        tcpdump.args(["--time-stamp-precision=nano", "-s", SNAP, "-B", BUFFER, "-w", "-"]);
        let mut tool = Tool::start(netns, tcpdump.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let (errors, pipe) = (tool.errors(), tool.stdout());
        let (sender, frames) = mpsc::channel();
        std::thread::spawn(move || {
            let mut file = PcapReader::new(pipe).expect("tcpdump writes files of its own format");
            assert_eq!(file.header().datalink, DataLink::LINUX_SLL2);
            // Raw, since the crate else refuses packets that are longer than what is kept of them.
            while let Some(Ok(packet)) = file.next_raw_packet() {
                let at_ns = u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac);
                if frame(at_ns, &packet.data).is_some_and(|frame| sender.send(frame).is_err()) {
                    break;
                }
            }
        });
        Self { netns: netns.to_owned(), tool, frames, errors }
    }

    /// Waits until it captures.
    pub fn ready(&self) {
        self.errors.up_to(|line| line.contains("listening on any"), "that it listens");
    }

    /// All marked packets so far.
    pub fn finish(self, clock: &Clock, links: &[Link]) -> Vec<Tapped> {
        let names: BTreeMap<u32, &str> =
            links.iter().map(|link| (link.ifindex, link.name.as_str())).collect();
        send_end(&self.netns);
        let mut tapped = Vec::new();
        let ended = receive(&self.frames, LIMIT, |Frame { at_ns, ifindex, way, bytes }| {
            if let Some(reading) = read(&bytes) {
                let device =
                    names.get(&ifindex).map_or_else(|| format!("if{ifindex}"), |&name| name.to_owned());
                let (netns, at_ns) = (self.netns.clone(), clock.monotonic(at_ns));
                tapped.push(Tapped { netns, device, way, at_ns, reading });
            }
            bytes.ends_with(END)
        });
        assert!(ended, "tcpdump in {} does not see what is sent to it", self.netns);
        self.tool.end();
        let told = self.errors.rest();
        let nothing_lost = told.iter().any(|line| line.starts_with("0 packets dropped by kernel"));
        assert!(nothing_lost, "tcpdump in {}: {told:?}", self.netns);
        tapped
    }
}

/// What comes last, past all rules that could be in the way: on `lo`, to a port where nobody listens.
fn send_end(netns: &str) {
    let inside = Netns::open(&NetnsName::from(netns)).unwrap();
    let send = || UdpSocket::bind("127.0.0.1:0")?.send_to(END, "127.0.0.1:9");
    inside.run(send).unwrap().unwrap_or_else(|error| panic!("{netns}: {error}"));
}

/// Takes apart the pseudo header of `LINKTYPE_LINUX_SLL2`: protocol, reserved, index, hardware type, packet type.
fn frame(at_ns: u64, bytes: &[u8]) -> Option<Frame> {
    const HEADER: usize = 20;
    const OUTGOING: u8 = 4;
    let ifindex = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    let way = if *bytes.get(10)? == OUTGOING { Way::Out } else { Way::In };
    Some(Frame { at_ns, ifindex, way, bytes: bytes.get(HEADER..)?.to_vec() })
}
