//! What is asked of a check, with its limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use waymark_proto::marker::TAG_LEN;
use waymark_proto::{Flow, Protocol, rpc};

use crate::target::{Target, TargetError};

/// Packets of a check unless asked otherwise: enough to tell a lost packet from a broken path. Further ones follow
/// where some of them are lost.
pub const DEFAULT_COUNT: u32 = 5;
/// Most packets of a check with all of its rounds.
pub const MAX_COUNT: u32 = 10_000;
/// Most packets of one round: what agents take by default.
pub const MAX_ROUND: u32 = 1000;
/// Most packets with those of further rounds, unless asked otherwise: a loss of 5 % shows with them.
pub const DEFAULT_MAX_PACKETS: u32 = 400;
/// Most different sizes or code points.
const MAX_VARIANTS: usize = 4;
/// Largest code point (RFC 2474).
const MAX_DSCP: u8 = 63;
/// Time between packets unless asked otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(10);
/// Shortest time between packets.
pub const MIN_INTERVAL: Duration = Duration::from_micros(1);
/// Longest time between packets.
pub const MAX_INTERVAL: Duration = Duration::from_secs(10);
/// How long to wait after the last packet unless asked otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest wait after the last packet.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// Longest wait after the last packet.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that the sending of all packets may take: agents arm for five minutes at most.
pub const MAX_SENDING: Duration = Duration::from_secs(180);
/// TTL or hop limit unless asked otherwise.
pub const DEFAULT_TTL: u8 = 64;

/// A question with all defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Request {
    /// The ends.
    pub source: Target,
    /// The destination.
    pub destination: Target,
    /// The protocol, if it was asked for.
    pub protocol: Option<Protocol>,
    /// How many packets.
    pub count: u32,
    /// Lengths of the IP packets in bytes, taken in turn; 0 for the smallest that holds a marker. None means that
    /// and the largest that leaves the source.
    pub sizes: Vec<u16>,
    /// Differentiated services code points, taken in turn.
    pub dscps: Vec<u8>,
    /// Most packets with those of further rounds, which are sent where some are lost and some are not. Where something
    /// is wrong there may be more nevertheless: the count again, or 16, for each of two closer looks.
    pub max_packets: u32,
    /// How long to wait after the last packet.
    pub timeout: Duration,
    /// Time between packets.
    pub interval: Duration,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether no answer is asked for.
    pub one_way: bool,
    /// Whether IPv6 is asked for; otherwise IPv4 is preferred.
    pub ipv6: bool,
    /// Whether all hooks are watched from the first packet on, not only once something is wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wide: bool,
    /// Whether routers may fragment packets of IPv4, which otherwise have the flag that forbids it. Of IPv6 none may.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fragmentable: bool,
}

/// What is wrong with a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// One of the ends.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The protocol.
    #[error("{0}")]
    Protocol(String),
    /// A number out of its range.
    #[error("{what} must be {range}, not {value}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it may be.
        range: String,
        /// What it is.
        value: String,
    },
    /// A size that packets of this protocol and family cannot have.
    #[error("the size of {protocol} packets over {} must be {range} bytes, not {size}", if *.ipv6 { "IPv6" } else { "IPv4" })]
    Size {
        /// The protocol.
        protocol: Protocol,
        /// The family.
        ipv6: bool,
        /// What it may be.
        range: String,
        /// What it is.
        size: u16,
    },
}

/// Length of the smallest IP packet of a flow that holds a marker, in bytes.
fn least_size(flow: &Flow) -> u16 {
    let ip = if flow.is_ipv6() { 40 } else { 20 };
    let transport = match flow.protocol {
        // The header with one option, the maximum segment size; the marker is in the sequence number.
        Protocol::Tcp => 24,
        // Eight bytes of header each.
        Protocol::Udp | Protocol::Icmp => 8 + TAG_LEN as u16,
    };
    ip + transport
}

impl Request {
    /// A question between two ends with defaults for all else.
    pub fn new(source: Target, destination: Target) -> Self {
        Self {
            source,
            destination,
            protocol: None,
            count: DEFAULT_COUNT,
            sizes: Vec::new(),
            dscps: vec![0],
            max_packets: DEFAULT_MAX_PACKETS,
            timeout: DEFAULT_TIMEOUT,
            interval: DEFAULT_INTERVAL,
            ttl: DEFAULT_TTL,
            one_way: false,
            ipv6: false,
            wide: false,
            fragmentable: false,
        }
    }

    /// Whether packets of this flow can have the size that was asked for.
    ///
    /// # Errors
    /// Too small for headers and marker.
    pub fn check_size(&self, flow: &Flow) -> Result<(), RequestError> {
        let (least, protocol, ipv6) = (least_size(flow), flow.protocol, flow.is_ipv6());
        let range = format!("{least} to {}", u16::MAX);
        match self.sizes.iter().find(|&&size| size != 0 && size < least) {
            Some(&size) => Err(RequestError::Size { protocol, ipv6, range, size }),
            None => Ok(()),
        }
    }

    /// The question, if its numbers are within their ranges.
    pub(crate) fn checked(self) -> Result<Self, RequestError> {
        let range = |what, range: String, value: String| Err(RequestError::Range { what, range, value });
        if !(1..=MAX_COUNT).contains(&self.count) {
            return range("the count", format!("1 to {MAX_COUNT}"), self.count.to_string());
        }
        if self.max_packets > MAX_COUNT {
            return range("the most packets", format!("at most {MAX_COUNT}"), self.max_packets.to_string());
        }
        for (what, variants) in
            [("the number of sizes", self.sizes.len()), ("the number of code points", self.dscps.len())]
        {
            if variants > MAX_VARIANTS {
                return range(what, format!("at most {MAX_VARIANTS}"), variants.to_string());
            }
        }
        if let Some(dscp) = self.dscps.iter().find(|&&dscp| dscp > MAX_DSCP) {
            return range("a code point", format!("0 to {MAX_DSCP}"), dscp.to_string());
        }
        if self.timeout > MAX_TIMEOUT {
            return range("the timeout", format!("at most {MAX_TIMEOUT:?}"), format!("{:?}", self.timeout));
        }
        if self.interval > MAX_INTERVAL {
            return range(
                "the interval",
                format!("at most {MAX_INTERVAL:?}"),
                format!("{:?}", self.interval),
            );
        }
        let sending = self.interval * self.count;
        if sending > MAX_SENDING {
            return range("count × interval", format!("at most {MAX_SENDING:?}"), format!("{sending:?}"));
        }
        Ok(self)
    }
}

impl TryFrom<rpc::CheckRequest> for Request {
    type Error = RequestError;

    /// Zero and empty stand for the defaults.
    fn try_from(asked: rpc::CheckRequest) -> Result<Self, RequestError> {
        let mut request = Self::new(asked.source.parse()?, asked.destination.parse()?);
        if !asked.protocol.is_empty() {
            request.protocol = Some(asked.protocol.parse().map_err(RequestError::Protocol)?);
        }
        let too_large = |what, most: u64, value: u32| RequestError::Range {
            what,
            range: format!("at most {most}"),
            value: value.to_string(),
        };
        if asked.count != 0 {
            request.count = asked.count;
        }
        let size = |size: u32| u16::try_from(size).map_err(|_| too_large("the size", 65535, size));
        if !asked.sizes.is_empty() {
            request.sizes = asked.sizes.into_iter().map(size).collect::<Result<_, _>>()?;
        } else if asked.size != 0 {
            request.sizes = vec![size(asked.size)?];
        }
        if !asked.dscps.is_empty() {
            let dscp = |dscp: u32| u8::try_from(dscp).map_err(|_| too_large("a code point", 63, dscp));
            request.dscps = asked.dscps.into_iter().map(dscp).collect::<Result<_, _>>()?;
        }
        if asked.max_packets != 0 {
            request.max_packets = asked.max_packets;
        }
        if asked.ttl != 0 {
            request.ttl = u8::try_from(asked.ttl).map_err(|_| too_large("the TTL", 255, asked.ttl))?;
        }
        if asked.timeout_ms != 0 {
            request.timeout = Duration::from_millis(asked.timeout_ms.into());
        }
        if asked.interval_us != 0 {
            request.interval = Duration::from_micros(asked.interval_us.into());
        }
        request.one_way = asked.one_way;
        request.ipv6 = asked.ipv6;
        request.wide = asked.wide;
        request.fragmentable = asked.fragmentable;
        request.checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> rpc::CheckRequest {
        rpc::CheckRequest { source: "pod/a/b".into(), destination: "10.0.0.1".into(), ..Default::default() }
    }

    #[test]
    fn defaults_fill_in() {
        let request = Request::try_from(asked()).unwrap();
        assert_eq!((request.count, request.ttl, request.sizes), (DEFAULT_COUNT, DEFAULT_TTL, vec![]));
    }

    #[test]
    fn limits_hold() {
        let says = |request: rpc::CheckRequest| Request::try_from(request).unwrap_err().to_string();
        assert_eq!(
            says(rpc::CheckRequest { count: 10_001, ..asked() }),
            "the count must be 1 to 10000, not 10001"
        );
        assert_eq!(
            says(rpc::CheckRequest { size: 65536, ..asked() }),
            "the size must be at most 65535, not 65536"
        );
        assert!(says(rpc::CheckRequest { dscps: vec![64], ..asked() }).contains("0 to 63, not 64"));
        assert!(says(rpc::CheckRequest { sizes: vec![100; 5], ..asked() }).contains("at most 4, not 5"));
        assert!(says(rpc::CheckRequest { max_packets: 10_001, ..asked() }).contains("at most 10000"));
        assert!(says(rpc::CheckRequest { ttl: 256, ..asked() }).contains("TTL"));
        assert!(says(rpc::CheckRequest { timeout_ms: 60_001, ..asked() }).contains("timeout"));
        assert!(
            says(rpc::CheckRequest { count: 1000, interval_us: 1_000_000, ..asked() }).contains("interval")
        );
        assert!(says(rpc::CheckRequest { protocol: "gre".into(), ..asked() }).contains("gre"));
        assert!(says(rpc::CheckRequest { source: "x".into(), ..asked() }).contains("not a target"));
    }

    #[test]
    fn sizes_hold_headers_and_marker() {
        let allows = |protocol, ip: &str, size: Option<u16>| {
            let ip = ip.parse().unwrap();
            let flow = Flow { src: ip, dst: ip, protocol, src_port: 1, dst_port: 1 };
            let sizes = size.into_iter().collect();
            let request = Request { sizes, ..Request::try_from(asked()).unwrap() };
            request.check_size(&flow).map_err(|error| error.to_string())
        };
        for (protocol, ip, least) in [
            (Protocol::Udp, "10.0.0.1", 60),
            (Protocol::Icmp, "10.0.0.1", 60),
            (Protocol::Udp, "fd00::1", 80),
            (Protocol::Icmp, "fd00::1", 80),
            (Protocol::Tcp, "10.0.0.1", 44),
            (Protocol::Tcp, "fd00::1", 64),
        ] {
            assert!(allows(protocol, ip, None).is_ok());
            assert!(allows(protocol, ip, Some(least)).is_ok());
            assert!(allows(protocol, ip, Some(least - 1)).is_err());
            assert!(allows(protocol, ip, Some(1500)).is_ok());
        }
        assert_eq!(
            allows(Protocol::Udp, "10.0.0.1", Some(59)).unwrap_err(),
            "the size of udp packets over IPv4 must be 60 to 65535 bytes, not 59"
        );
        assert_eq!(
            allows(Protocol::Tcp, "fd00::1", Some(63)).unwrap_err(),
            "the size of tcp packets over IPv6 must be 64 to 65535 bytes, not 63"
        );
    }
}
