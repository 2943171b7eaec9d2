//! `nft monitor`: which rules marked packets met, and with what verdict.
//!
//! Waymark's own table sets the trace bit for marked packets, and the kernel tells all listeners of a namespace the same. So
//! nft is a second reader of that: of what it prints, table, chain, handle and verdict are taken. The chains of Waymark's own
//! table, first and last at each hook, tell nft too when a packet entered a hook and when it left it.
//!
//! * `printed`: what nft prints

mod printed;

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use waymark_proto::{Flow, Hook, Protocol};
use waymark_testbed::{Script, Tool as Configures};

use crate::tool::{LIMIT, Lines, Tool};
use crate::wire::{Identity, Tunnel};

/// How long to wait for a table to be told of, before another is made.
const ROUND: Duration = Duration::from_millis(200);

/// A rule by what does not change of it; a chain's policy has no handle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub family: String,
    pub table: String,
    pub chain: String,
    pub handle: Option<u64>,
}

/// What a rule said of a packet.
pub type Verdict = (Rule, String);

/// Which packet it is, as far as a trace tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Headers {
    /// Addresses and ports.
    Plain(Flow2),
    /// Those of a tunnel: of UDP without a tag.
    Tunnel(Tunnel),
}

/// A [`Flow`] that can be sorted.
pub type Flow2 = (IpAddr, IpAddr, u8, u16, u16);

/// A packet on its way through a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    pub netns: String,
    /// Waymark's table, which comes with the first check that is traced there and goes with the last.
    pub table: String,
    pub hook: Hook,
    /// Its headers when it entered.
    pub entered: Headers,
    /// Its headers when it left, if it did.
    pub left: Option<Headers>,
    /// Whether it is no passage of this hook: a chain before all others met a packet that had left this one.
    pub stray: bool,
    /// Its tag, if it has one outside of tunnels. Nobody has verified it.
    pub tag: Option<Identity>,
    /// Who decided on it, in this order.
    pub verdicts: Vec<Verdict>,
}

/// All that nft told of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    pub passages: Vec<Passage>,
    /// The end of packets in chains of bridges and devices, which are no hooks of the IP layer.
    pub ends: Vec<(String, Verdict)>,
    /// TCP markers that were armed: sequence numbers.
    pub isns: Vec<u32>,
    /// Checks whose tags were armed.
    pub checks: Vec<u32>,
}

/// The parts of a flow in the order in which they are sorted.
pub fn sortable(flow: &Flow) -> Flow2 {
    let number = match flow.protocol {
        Protocol::Icmp => 1,
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    (flow.src, flow.dst, number, flow.src_port, flow.dst_port)
}

/// nft in a namespace.
pub struct Monitor {
    netns: String,
    tool: Tool,
    lines: Lines,
}

impl Monitor {
    pub fn start(netns: &str) -> Self {
        let mut nft = Command::new("nft");
        nft.args(["--handle", "--numeric", "monitor"]);
        let mut tool = Tool::start(netns, nft.stdout(Stdio::piped()).stderr(Stdio::inherit()));
        Self { netns: netns.to_owned(), lines: tool.lines(), tool }
    }

    /// Waits until it tells what happens.
    pub fn ready(&self) {
        let end = Instant::now() + LIMIT;
        for number in 0.. {
            let table = format!("oracle_begin_{number}");
            self.table(&table);
            if self.lines.within(ROUND, |line| is_end(line, &table)).1 {
                return;
            }
            assert!(Instant::now() < end, "nft in {} does not tell of a table", self.netns);
        }
    }

    /// All that it told.
    pub fn finish(self) -> Traced {
        let table = "oracle_end";
        self.table(table);
        let lines = self.lines.up_to(|line| is_end(line, table), "that a table is gone");
        self.tool.end();
        let lost = lines.iter().find(|line| line.contains("lost"));
        assert_eq!(lost, None, "nft in {}", self.netns);
        printed::parse(&self.netns, &lines)
    }

    /// Makes a table without chains, which no packet meets, and removes it.
    fn table(&self, name: &str) {
        let lines = ["add", "delete"].map(|what| format!("{what} table inet {name}"));
        Script::new(Configures::Nft, &self.netns, lines).run().unwrap();
    }
}

fn is_end(line: &str, table: &str) -> bool {
    line.strip_prefix("delete table inet ").is_some_and(|rest| rest.split(' ').next() == Some(table))
}
