//! Source ports that were used not long ago.
//!
//! A probe whose ports are those of an earlier one may meet what that one left behind: a conntrack entry with
//! another translation, a half-open connection in a listener's queue. It would be a fault of Waymark's own
//! making, so a port rests until all of that has ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use waymark_proto::Protocol;

/// Longer than an unanswered SYN lives in conntrack (`nf_conntrack_tcp_timeout_syn_sent`, 120 s), in a
/// listener (`tcp_synack_retries`, 63 s), and an answered datagram in conntrack (120 s).
const REST: Duration = Duration::from_secs(180);

/// Whose port it is.
type Owner = (Protocol, IpAddr, u16);

/// The ports that rest.
#[derive(Debug, Default)]
pub struct Ports(HashMap<Owner, Instant>);

impl Ports {
    /// Whether a port has rested long enough.
    pub fn is_rested(&self, protocol: Protocol, address: IpAddr, port: u16, now: Instant) -> bool {
        let used = self.0.get(&(protocol, address, port));
        used.is_none_or(|used| now.duration_since(*used) >= REST)
    }

    /// Notes that a port is used now, and forgets those that have rested.
    pub fn used(&mut self, protocol: Protocol, address: IpAddr, port: u16, now: Instant) {
        // A clean-up that is paid for by the insertions since the last one.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, used| now.duration_since(*used) < REST);
        }
        self.0.insert((protocol, address, port), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_rests_and_is_free_again() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let mut ports = Ports::default();
        let start = Instant::now();
        ports.used(Protocol::Tcp, ip, 40000, start);
        let rested = |port, protocol, after| ports.is_rested(protocol, ip, port, start + after);
        assert!(!rested(40000, Protocol::Tcp, REST / 2));
        assert!(rested(40001, Protocol::Tcp, REST / 2));
        assert!(rested(40000, Protocol::Udp, REST / 2));
        assert!(rested(40000, Protocol::Tcp, REST));
    }
}
