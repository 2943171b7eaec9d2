//! perf: where the kernel freed packets, and why.
//!
//! perf cannot read packets, but it tells the address of each buffer. So events that say by which device a buffer came are
//! recorded beside `skb:kfree_skb`: the comparison finds out by them which buffer was a marked packet's.
//!
//! perf looks at the whole machine, and others may be busy on it. So it has a higher priority than they, to read what the
//! kernel tells before there is no more room for it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use waymark_proto::Hook;

use crate::awake::Awake;
use crate::tool::{LIMIT, Lines, Tool};

const EVENTS: [&str; 5] = [
    "skb:kfree_skb",
    "skb:consume_skb",
    "net:net_dev_queue",
    "net:net_dev_start_xmit",
    "net:netif_receive_skb",
];
/// Pages of events for each processor: eight MiB.
const PAGES: &str = "2048";
/// The lowest priority that is above all of those who share a processor.
const PRIORITY: &str = "--realtime=1";

/// What happened to a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It came by a device.
    Came { hook: Hook, device: String, length: u32 },
    /// It was dropped: the function with the offset in it, the reason, the protocol by its number for Ethernet.
    Dropped { function: String, reason: String, protocol: u16 },
    /// It was used up.
    Consumed,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    /// In nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Address of the buffer.
    pub buffer: u64,
    pub what: What,
}

/// perf, machine-wide.
pub struct Recorder {
    tool: Tool,
    errors: Lines,
    data: PathBuf,
    awake: Awake,
}

impl Recorder {
    pub fn start(folder: &Path) -> Self {
        let pipe = |name: &str| {
            let path = folder.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            // For both, so that opening does not wait for the other end.
            let file = File::options().read(true).write(true).open(&path).unwrap();
            (path, file)
        };
        let ((control_path, mut control), (answer_path, mut answer)) = (pipe("control"), pipe("answer"));
        let (awake, data) = (Awake::start(), folder.join("perf.data"));
        let mut perf = Command::new("perf");
        perf.args(["record", "--all-cpus", "--clockid=CLOCK_MONOTONIC", "--delay=-1", "-m", PAGES]);
        perf.args([PRIORITY, "--no-buildid", "--no-bpf-event"]);
        perf.args(EVENTS.iter().flat_map(|event| ["-e", event]));
        perf.arg(format!("--control=fifo:{},{}", control_path.display(), answer_path.display()));
        // It records until its command ends, which it does when this process has closed its input, however it ends.
        perf.arg("--output").arg(&data).args(["--", "cat"]);
        let mut tool = Tool::start("host", perf.stdout(Stdio::null()).stderr(Stdio::piped()));
        let errors = tool.errors();
        control.write_all(b"enable\n").unwrap();
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut told = [0; 4];
            let told = answer.read_exact(&mut told).map(|()| told);
            drop(sender.send(told));
        });
        let ready = ready.recv_timeout(LIMIT).ok().and_then(Result::ok);
        if ready != Some(*b"ack\n") {
            tool.close();
            panic!("perf does not record: {:?}", errors.rest());
        }
        Self { tool, errors, data, awake }
    }

    /// All that it recorded.
    pub fn finish(self) -> Vec<Freed> {
        self.tool.close();
        drop(self.awake);
        let told = self.errors.rest();
        leave_out_programs(&self.data);
        let mut script = Command::new("perf");
        script.args(["script", "--ns", "--fields=time,event,trace", "--show-lost-events", "--input"]);
        let output = script.arg(&self.data).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told:?} {}", String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains("PERF_RECORD_LOST"), "perf lost events");
        let mut all: Vec<Freed> = text.lines().filter_map(parse).collect();
        // Each processor has a buffer of its own.
        all.sort_by_key(|freed| freed.at_ns);
        all
    }
}

/// Makes records of BPF programs that came and went in a file of perf's ones that it ignores. Where several look at the
/// whole machine at once, the kernel writes those so that perf cannot read them, and stops there.
fn leave_out_programs(data: &Path) {
    /// `PERF_RECORD_KSYMBOL`
    const PROGRAM: u32 = 17;
    /// `PERF_RECORD_HEADER_EVENT_TYPE`, of the past.
    const IGNORED: u32 = 65;
    let mut bytes = std::fs::read(data).unwrap();
    let number = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    // struct perf_file_header: where the records begin, and their length.
    let (mut at, length) = (number(&bytes, 40), number(&bytes, 48));
    let end = at + length;
    while at < end {
        // struct perf_event_header: type, flags, length.
        let kind = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        if kind == PROGRAM {
            bytes[at..at + 4].copy_from_slice(&IGNORED.to_ne_bytes());
        }
        let length = u16::from_ne_bytes([bytes[at + 6], bytes[at + 7]]);
        assert!(length > 0, "perf's file ends in the middle of a record");
        at += usize::from(length);
    }
    std::fs::write(data, bytes).unwrap();
}

/// `SECONDS.NANOSECONDS: EVENT: NAME=VALUE …`
pub fn parse(line: &str) -> Option<Freed> {
    let (time, rest) = line.trim_start().split_once(':')?;
    let (seconds, nanoseconds) = time.split_once('.')?;
    let at_ns = seconds.parse::<u64>().ok()? * 1_000_000_000 + nanoseconds.parse::<u64>().ok()?;
    let (event, fields) = rest.trim_start().split_once(": ")?;
    let field = |name: &str| {
        let mut words = fields.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let buffer = u64::from_str_radix(field("skbaddr")?.strip_prefix("0x")?, 16).ok()?;
    let came = |hook| {
        let length = field("len")?.parse().ok()?;
        Some(What::Came { hook, device: field("dev")?.to_owned(), length })
    };
    let what = match event {
        "skb:kfree_skb" => What::Dropped {
            function: field("location")?.to_owned(),
            reason: fields.rsplit_once("reason: ")?.1.trim().to_owned(),
            protocol: field("protocol")?.parse().ok()?,
        },
        "skb:consume_skb" => What::Consumed,
        "net:net_dev_queue" => came(Hook::Qdisc)?,
        "net:net_dev_start_xmit" => came(Hook::DriverTx)?,
        "net:netif_receive_skb" => came(Hook::DriverRx)?,
        _ => return None,
    };
    Some(Freed { at_ns, buffer, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_prints_is_read() {
        let dropped = "   790.836782548:          skb:kfree_skb: skbaddr=0xffff88810654e100 rx_sk=(nil) protocol=2048 location=nft_do_chain+0x3e8 reason: NETFILTER_DROP";
        let what = What::Dropped {
            function: "nft_do_chain+0x3e8".into(),
            reason: "NETFILTER_DROP".into(),
            protocol: 2048,
        };
        let buffer = 0xffff_8881_0654_e100;
        assert_eq!(parse(dropped), Some(Freed { at_ns: 790_836_782_548, buffer, what }));
        let came = " 1472.272330692:  net:netif_receive_skb: dev=p12 skbaddr=0xffff8882399e6d00 len=50";
        let what = What::Came { hook: Hook::DriverRx, device: "p12".into(), length: 50 };
        assert_eq!(parse(came).unwrap().what, what);
        assert_eq!(parse("Warning: whatever"), None);
    }
}
