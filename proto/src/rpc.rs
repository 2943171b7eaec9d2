//! The gRPC messages of `schema/waymark.proto`, and their conversions from and to the vocabulary.

use std::net::IpAddr;

use crate::{Event, Flow, Hook, Losses, Marker, Match, NetnsName, NodeName, Place, Protocol, RuleRef, Seq};

#[allow(missing_docs, clippy::pedantic, reason = "generated")]
mod generated {
    tonic::include_proto!("waymark.v1");
}

pub use generated::*;

/// Version of what agents and controllers say to one another on their stream. A controller takes only agents
/// that speak its own; it grows whenever a message changes its meaning, or an order is added that agents
/// must know.
pub const PROTOCOL: u32 = 7;

/// Largest message that anybody takes: facts of a node with a large ruleset, or the scope of an agent in a
/// large cluster, exceed tonic's default of 4 MiB.
pub const MAX_MESSAGE: usize = 64 << 20;

/// What is wrong with a message from another part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub String);

fn malformed(what: impl Into<String>) -> Malformed {
    Malformed(what.into())
}

/// An address as the bytes of its family.
fn address_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ok(v6.into()),
        Err(_) => Err(malformed(format!("an address of {} bytes", bytes.len()))),
    }
}

fn port(number: u32) -> Result<u16, Malformed> {
    u16::try_from(number).map_err(|_| malformed(format!("port {number}")))
}

fn byte(what: &str, number: u32) -> Result<u8, Malformed> {
    u8::try_from(number).map_err(|_| malformed(format!("{what} {number}")))
}

/// A flow of a message's five numbers.
fn flow(src: &[u8], dst: &[u8], protocol: u32, src_port: u32, dst_port: u32) -> Result<Flow, Malformed> {
    let known = u8::try_from(protocol).ok().and_then(Protocol::from_number);
    Ok(Flow {
        src: address(src)?,
        dst: address(dst)?,
        protocol: known.ok_or_else(|| malformed(format!("protocol {protocol}")))?,
        src_port: port(src_port)?,
        dst_port: port(dst_port)?,
    })
}

impl From<crate::HookSet> for HookSet {
    fn from(set: crate::HookSet) -> Self {
        match set {
            crate::HookSet::Light => Self::Light,
            crate::HookSet::Wide => Self::Wide,
            crate::HookSet::All => Self::All,
        }
    }
}

impl From<HookSet> for crate::HookSet {
    fn from(set: HookSet) -> Self {
        match set {
            HookSet::Light => Self::Light,
            HookSet::Wide => Self::Wide,
            HookSet::All => Self::All,
        }
    }
}

impl From<&crate::Headers> for Headers {
    fn from(headers: &crate::Headers) -> Self {
        let flow = &headers.flow;
        Self {
            src: address_bytes(flow.src),
            dst: address_bytes(flow.dst),
            protocol: flow.protocol.number(flow.is_ipv6()).into(),
            src_port: flow.src_port.into(),
            dst_port: flow.dst_port.into(),
            matched: headers.matched as u32,
            ttl: headers.ttl.into(),
            len: headers.len.into(),
            ip_id: headers.ip_id.into(),
            tcp_flags: headers.tcp_flags.into(),
            mark: headers.mark,
            outer: headers.outer.as_ref().map(Outer::from),
        }
    }
}

impl TryFrom<Headers> for crate::Headers {
    type Error = Malformed;

    fn try_from(headers: Headers) -> Result<Self, Malformed> {
        Ok(Self {
            flow: flow(&headers.src, &headers.dst, headers.protocol, headers.src_port, headers.dst_port)?,
            matched: Match::from_number(headers.matched)
                .ok_or_else(|| malformed(format!("match {}", headers.matched)))?,
            ttl: byte("TTL", headers.ttl)?,
            len: port(headers.len)?,
            ip_id: port(headers.ip_id)?,
            tcp_flags: byte("TCP flags", headers.tcp_flags)?,
            mark: headers.mark,
            outer: headers.outer.map(crate::Outer::try_from).transpose()?,
        })
    }
}

impl From<&crate::Outer> for Outer {
    fn from(outer: &crate::Outer) -> Self {
        Self {
            kind: outer.kind.clone(),
            src: address_bytes(outer.src),
            dst: address_bytes(outer.dst),
            vni: outer.vni,
        }
    }
}

impl TryFrom<Outer> for crate::Outer {
    type Error = Malformed;

    fn try_from(outer: Outer) -> Result<Self, Malformed> {
        Ok(Self { kind: outer.kind, src: address(&outer.src)?, dst: address(&outer.dst)?, vni: outer.vni })
    }
}

impl From<&Flow> for Tuple {
    fn from(flow: &Flow) -> Self {
        Self {
            src: address_bytes(flow.src),
            dst: address_bytes(flow.dst),
            protocol: flow.protocol.number(flow.is_ipv6()).into(),
            src_port: flow.src_port.into(),
            dst_port: flow.dst_port.into(),
        }
    }
}

impl TryFrom<Tuple> for Flow {
    type Error = Malformed;

    fn try_from(tuple: Tuple) -> Result<Self, Malformed> {
        flow(&tuple.src, &tuple.dst, tuple.protocol, tuple.src_port, tuple.dst_port)
    }
}

impl From<&crate::Metadata> for Metadata {
    fn from(metadata: &crate::Metadata) -> Self {
        let conntrack = metadata.conntrack.as_ref().map(|conntrack| Conntrack {
            info: conntrack.info(),
            original: Some(Tuple::from(&conntrack.original)),
            reply: Some(Tuple::from(&conntrack.reply)),
            status: conntrack.status,
        });
        let checksum = metadata.checksum.map(|checksum| checksum as u32);
        Self { vlan: metadata.vlan.map(u32::from), checksum, conntrack }
    }
}

impl TryFrom<Metadata> for crate::Metadata {
    type Error = Malformed;

    fn try_from(metadata: Metadata) -> Result<Self, Malformed> {
        let checksum = |number| {
            crate::Checksum::from_number(number).ok_or_else(|| malformed(format!("checksum state {number}")))
        };
        let conntrack = |Conntrack { info, original, reply, status }| {
            let (state, is_reply) = crate::ConntrackState::from_number(info)
                .ok_or_else(|| malformed(format!("conntrack state {info}")))?;
            let flow = |tuple: Option<Tuple>| {
                Flow::try_from(tuple.ok_or_else(|| malformed("a conntrack entry without its tuples"))?)
            };
            let (original, reply) = (flow(original)?, flow(reply)?);
            Ok::<_, Malformed>(crate::Conntrack { state, is_reply, original, reply, status })
        };
        Ok(Self {
            vlan: metadata.vlan.map(port).transpose()?,
            checksum: metadata.checksum.map(checksum).transpose()?,
            conntrack: metadata.conntrack.map(conntrack).transpose()?,
        })
    }
}

impl From<&crate::Sighting> for Sighting {
    fn from(sighting: &crate::Sighting) -> Self {
        use sighting::Event as Wire;
        let event = match &sighting.event {
            Event::Seen => Wire::Seen(Nothing {}),
            Event::Arrived => Wire::Arrived(Nothing {}),
            Event::Entered => Wire::Entered(Nothing {}),
            Event::Left => Wire::Left(Nothing {}),
            Event::Passed => Wire::Passed(Nothing {}),
            Event::Verdict { rule, verdict } => Wire::Verdict(RuleVerdict {
                family: rule.family.clone(),
                table: rule.table.clone(),
                chain: rule.chain.clone(),
                handle: rule.handle,
                position: rule.position,
                text: rule.text.clone(),
                verdict: verdict.clone(),
            }),
            Event::Transmitted { code } => Wire::Transmitted(*code),
            Event::Called { function, answer } => {
                Wire::Called(Call { function: function.clone(), answer: answer.clone() })
            }
            Event::Dropped { reason, function } => {
                Wire::Dropped(Freed { reason: reason.clone(), function: Some(function.clone()) })
            }
            Event::Consumed { function } => {
                Wire::Consumed(Freed { reason: None, function: function.clone() })
            }
        };
        Self {
            netns: sighting.place.netns.to_string(),
            at_ns: sighting.at_ns,
            seq: sighting.marker.seq.0,
            hook: u32::from(sighting.hook as u8),
            device: sighting.device.clone(),
            fragment_offset: sighting.fragment_offset.into(),
            headers: sighting.headers.as_ref().map(Headers::from),
            metadata: (!sighting.metadata.is_empty()).then(|| Metadata::from(&sighting.metadata)),
            identity: sighting.identity,
            buffer: sighting.buffer,
            packet: sighting.packet.clone(),
            event: Some(event),
        }
    }
}

impl Sighting {
    /// The sighting that this message carries, which came from `node` about `check`.
    pub fn into_sighting(self, node: &NodeName, check: crate::CheckId) -> Result<crate::Sighting, Malformed> {
        use sighting::Event as Wire;
        let hook = u8::try_from(self.hook).ok().and_then(Hook::from_number);
        let event = match self.event.ok_or_else(|| malformed("a sighting without event"))? {
            Wire::Seen(Nothing {}) => Event::Seen,
            Wire::Arrived(Nothing {}) => Event::Arrived,
            Wire::Entered(Nothing {}) => Event::Entered,
            Wire::Left(Nothing {}) => Event::Left,
            Wire::Passed(Nothing {}) => Event::Passed,
            Wire::Verdict(rule) => Event::Verdict {
                rule: RuleRef {
                    family: rule.family,
                    table: rule.table,
                    chain: rule.chain,
                    handle: rule.handle,
                    position: rule.position,
                    text: rule.text,
                },
                verdict: rule.verdict,
            },
            Wire::Transmitted(code) => Event::Transmitted { code },
            Wire::Called(Call { function, answer }) => Event::Called { function, answer },
            Wire::Dropped(freed) => Event::Dropped {
                reason: freed.reason,
                function: freed.function.ok_or_else(|| malformed("a drop without function"))?,
            },
            Wire::Consumed(freed) => Event::Consumed { function: freed.function },
        };
        Ok(crate::Sighting {
            place: Place { node: node.clone(), netns: NetnsName::from(self.netns) },
            at_ns: self.at_ns,
            marker: Marker { check, seq: Seq(self.seq) },
            hook: hook.ok_or_else(|| malformed(format!("hook {}", self.hook)))?,
            device: self.device,
            event,
            fragment_offset: u16::try_from(self.fragment_offset)
                .map_err(|_| malformed(format!("fragment offset {}", self.fragment_offset)))?,
            headers: self.headers.map(crate::Headers::try_from).transpose()?,
            metadata: self.metadata.map(crate::Metadata::try_from).transpose()?.unwrap_or_default(),
            identity: self.identity,
            buffer: self.buffer,
            packet: self.packet,
        })
    }
}

impl From<crate::FilterInstruction> for FilterInstruction {
    fn from(crate::FilterInstruction { code, jt, jf, k }: crate::FilterInstruction) -> Self {
        Self { code: code.into(), jt: jt.into(), jf: jf.into(), k }
    }
}

impl TryFrom<&FilterInstruction> for crate::FilterInstruction {
    type Error = Malformed;

    fn try_from(&FilterInstruction { code, jt, jf, k }: &FilterInstruction) -> Result<Self, Malformed> {
        let code = u16::try_from(code).map_err(|_| malformed(format!("instruction {code:#x}")))?;
        Ok(Self { code, jt: byte("jump", jt)?, jf: byte("jump", jf)?, k })
    }
}

impl From<Losses> for Disarmed {
    fn from(losses: Losses) -> Self {
        Self {
            ring_full: losses.ring_full,
            trace_overruns: losses.trace_overruns,
            follow_full: losses.follow_full,
            out_of_reach: losses.out_of_reach,
        }
    }
}

impl From<Disarmed> for Losses {
    fn from(disarmed: Disarmed) -> Self {
        Self {
            ring_full: disarmed.ring_full,
            trace_overruns: disarmed.trace_overruns,
            follow_full: disarmed.follow_full,
            out_of_reach: disarmed.out_of_reach,
        }
    }
}

impl From<crate::ProbeReport> for ProbeReport {
    fn from(report: crate::ProbeReport) -> Self {
        let counts = report.counts;
        Self {
            id: report.id.0,
            at_unix_ns: report.at_unix_ns,
            sent: counts.sent,
            received: counts.received,
            lost: counts.lost,
            missed: counts.missed,
            errors: counts.errors.into_iter().collect(),
            rtt_v2: report.rtt_v2,
            kernel_clock: report.clock == crate::Clock::Kernel,
            streaks: report.streaks.into_iter().map(Streak::from).collect(),
        }
    }
}

impl From<ProbeReport> for crate::ProbeReport {
    fn from(report: ProbeReport) -> Self {
        Self {
            id: crate::ProbeId(report.id),
            at_unix_ns: report.at_unix_ns,
            counts: crate::ProbeCounts {
                sent: report.sent,
                received: report.received,
                lost: report.lost,
                missed: report.missed,
                errors: report.errors.into_iter().collect(),
            },
            rtt_v2: report.rtt_v2,
            clock: if report.kernel_clock { crate::Clock::Kernel } else { crate::Clock::Agent },
            streaks: report.streaks.into_iter().map(crate::Streak::from).collect(),
        }
    }
}

impl From<crate::Streak> for Streak {
    fn from(streak: crate::Streak) -> Self {
        let crate::Streak { since_unix_ns, failures, until_unix_ns } = streak;
        Self { since_unix_ns, failures, until_unix_ns }
    }
}

impl From<Streak> for crate::Streak {
    fn from(streak: Streak) -> Self {
        let Streak { since_unix_ns, failures, until_unix_ns } = streak;
        Self { since_unix_ns, failures, until_unix_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CheckId;

    #[test]
    fn a_sighting_survives_the_wire() {
        let check = CheckId::new(9).unwrap();
        let flow = Flow {
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2".parse().unwrap(),
            protocol: Protocol::Udp,
            src_port: 4000,
            dst_port: 53,
        };
        let outer = crate::Outer {
            kind: "vxlan".into(),
            src: "172.16.0.1".parse().unwrap(),
            dst: "172.16.0.2".parse().unwrap(),
            vni: Some(42),
        };
        let headers = crate::Headers {
            flow,
            matched: Match::Tag,
            ttl: 64,
            len: 60,
            ip_id: 7,
            tcp_flags: 0,
            mark: 1,
            outer: Some(outer),
        };
        let conntrack = crate::Conntrack {
            state: crate::ConntrackState::Related,
            is_reply: true,
            original: flow,
            reply: flow.reversed(),
            status: 1 << 3,
        };
        let metadata = crate::Metadata {
            vlan: Some(7),
            checksum: Some(crate::Checksum::Partial),
            conntrack: Some(conntrack),
        };
        let rule = RuleRef {
            family: "ip".into(),
            table: "filter".into(),
            chain: "FORWARD".into(),
            handle: Some(4),
            position: None,
            text: None,
        };
        let events = [
            Event::Seen,
            Event::Arrived,
            Event::Entered,
            Event::Left,
            Event::Passed,
            Event::Verdict { rule, verdict: "drop".into() },
            Event::Transmitted { code: 16 },
            Event::Dropped { reason: Some("NO_SOCKET".into()), function: "f+0x1".into() },
            Event::Consumed { function: None },
            Event::Called { function: "f".into(), answer: Some("EXDEV".into()) },
        ];
        for event in events {
            let sighting = crate::Sighting {
                place: Place::new("n", "x"),
                at_ns: 5,
                marker: Marker { check, seq: Seq(3) },
                hook: Hook::DriverRx,
                device: Some("eth0".into()),
                event,
                fragment_offset: 1480,
                headers: Some(headers.clone()),
                metadata: metadata.clone(),
                identity: 0x1_2345,
                buffer: 0xffff,
                packet: vec![0x45],
            };
            let back = Sighting::from(&sighting).into_sighting(&NodeName::from("n"), check);
            assert_eq!(back, Ok(sighting));
        }
    }

    #[test]
    fn probe_reports_round_trip() {
        let report = crate::ProbeReport {
            id: crate::ProbeId(7),
            at_unix_ns: 1,
            counts: crate::ProbeCounts {
                sent: 4,
                received: 1,
                lost: 3,
                missed: 2,
                errors: [("connection refused".to_owned(), 3)].into(),
            },
            rtt_v2: vec![1, 2, 3],
            clock: crate::Clock::Kernel,
            streaks: vec![crate::Streak { since_unix_ns: 5, failures: 3, until_unix_ns: Some(9) }],
        };
        assert_eq!(crate::ProbeReport::from(ProbeReport::from(report.clone())), report);
    }
}
