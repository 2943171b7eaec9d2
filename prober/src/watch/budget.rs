//! What of a plan an agent serves. Decides alone; does nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use waymark_proto::{Probe, ProbeId, ProbePlan, Protocol, Refusal};

/// What an agent refuses to exceed, whoever asks.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Targets.
    pub targets: usize,
    /// Probes per second of all targets together.
    pub per_second: u32,
    /// Least time between two probes of a target.
    pub interval: Duration,
    /// Longest wait for an answer: a histogram's highest time.
    pub timeout: Duration,
    /// Connections that are open at a time, of all TCP targets together.
    pub connections: usize,
    /// Ports that answer.
    pub responders: usize,
    /// How long to go on when the controller is gone.
    pub lease: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            targets: 5000,
            per_second: 5000,
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(60),
            connections: 5000,
            responders: 256,
            lease: Duration::from_secs(3600),
        }
    }
}

/// Probes of one target that may wait for answers at a time.
const OPEN: u64 = 1000;

/// Splits a plan into what is served and why the rest is not. Earlier entries come first where a budget ends.
pub fn admit(
    plan: ProbePlan,
    budget: &Budget,
    may_send_to: impl Fn(IpAddr) -> bool,
) -> (ProbePlan, Vec<Refusal>) {
    let mut admitted = ProbePlan::default();
    let mut refusals = Vec::new();
    let mut spent = Spent::default();
    for probe in plan.probes {
        let id = probe.id;
        let outcome = check(&probe, budget)
            .and_then(|()| {
                let address = probe.address;
                if may_send_to(address) {
                    return Ok(());
                }
                Err(format!("{address} is neither in the inventory nor allowed: start the agent with --allow to probe it"))
            })
            .and_then(|()| spent.take(&probe, budget));
        match outcome {
            Ok(()) => admitted.probes.push(probe),
            Err(why) => refusals.push(Refusal { probe: Some(id), why }),
        }
    }
    let mut known = BTreeSet::new();
    for responder in plan.responders {
        let why = if responder.port == 0 {
            Some(format!("port 0 of {} cannot answer", responder.netns))
        } else if known.len() >= budget.responders && !known.contains(&responder) {
            let limit = budget.responders;
            Some(format!("this agent answers at {limit} ports at most: {} is one more", responder.port))
        } else {
            None
        };
        match why {
            Some(why) => refusals.push(Refusal { probe: None, why }),
            None if known.insert(responder.clone()) => admitted.responders.push(responder),
            None => {}
        }
    }
    (admitted, refusals)
}

/// Whether a target makes sense by itself.
fn check(probe: &Probe, budget: &Budget) -> Result<(), String> {
    let interval = Duration::from_micros(probe.interval_us);
    let timeout = Duration::from_micros(probe.timeout_us);
    if interval < budget.interval {
        let least = budget.interval;
        return Err(format!("an interval of {interval:?} is shorter than this agent's least, {least:?}"));
    }
    if timeout.is_zero() || timeout > budget.timeout {
        let most = budget.timeout;
        return Err(format!("a timeout of {timeout:?} is not possible: more than 0 and at most {most:?} is"));
    }
    if open(probe) > OPEN {
        return Err(format!(
            "a timeout of {timeout:?} with an interval of {interval:?} keeps more than {OPEN} probes open: make it shorter, or probe less often"
        ));
    }
    match (probe.protocol, probe.port) {
        (Protocol::Icmp, _) | (Protocol::Tcp | Protocol::Udp, Some(1..)) => Ok(()),
        (protocol, Some(0)) => Err(format!("port 0 cannot be probed by {protocol}")),
        (protocol, None) => Err(format!("{} has no port, which {protocol} needs", probe.destination)),
    }
}

/// Probes that wait for an answer at a time, at most.
fn open(probe: &Probe) -> u64 {
    probe.timeout_us.div_ceil(probe.interval_us)
}

/// What the admitted targets use.
#[derive(Default)]
struct Spent {
    ids: BTreeSet<ProbeId>,
    /// Probes per second, in millionths.
    rate: u64,
    connections: u64,
}

impl Spent {
    fn take(&mut self, probe: &Probe, budget: &Budget) -> Result<(), String> {
        if self.ids.contains(&probe.id) {
            return Err(format!("the plan has target {} twice", probe.id.0));
        }
        if self.ids.len() >= budget.targets {
            return Err(format!("this agent probes {} targets at most", budget.targets));
        }
        let rate = self.rate + 1_000_000_000_000 / probe.interval_us;
        if rate > u64::from(budget.per_second) * 1_000_000 {
            return Err(format!(
                "this agent sends {} probes per second at most, which the targets before this one use up: probe fewer, or less often",
                budget.per_second
            ));
        }
        let tcp = if probe.protocol == Protocol::Tcp { open(probe) } else { 0 };
        if self.connections + tcp > budget.connections as u64 {
            return Err(format!(
                "this agent keeps {} connections open at most, which the targets before this one may need: shorten the timeout, or probe less often",
                budget.connections
            ));
        }
        self.ids.insert(probe.id);
        self.rate = rate;
        self.connections += tcp;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymark_proto::Responder;

    fn probe(id: u64) -> Probe {
        Probe {
            id: ProbeId(id),
            watch: "w".to_owned(),
            source: "node/a".to_owned(),
            destination: "node/b".to_owned(),
            netns: "a".into(),
            address: "10.0.0.2".parse().unwrap(),
            port: Some(80),
            protocol: Protocol::Tcp,
            interval_us: 1_000_000,
            timeout_us: 1_000_000,
        }
    }

    fn refused(probes: Vec<Probe>, budget: &Budget) -> Vec<(u64, String)> {
        let plan = ProbePlan { probes, responders: Vec::new() };
        let count = plan.probes.len();
        let (admitted, refusals) = admit(plan, budget, |ip| ip.to_string().starts_with("10.0.0."));
        assert_eq!(admitted.probes.len() + refusals.len(), count, "each is either served or refused");
        refusals.into_iter().map(|refusal| (refusal.probe.map_or(0, |id| id.0), refusal.why)).collect()
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        let cases = [
            (Probe { interval_us: 9_999, ..probe(1) }, "shorter"),
            (Probe { interval_us: 0, ..probe(1) }, "shorter"),
            (Probe { timeout_us: 0, ..probe(1) }, "timeout of 0ns"),
            (Probe { timeout_us: u64::MAX, ..probe(1) }, "at most 60s"),
            (Probe { interval_us: 10_000, timeout_us: 20_000_000, ..probe(1) }, "1000 probes open"),
            (Probe { port: None, ..probe(1) }, "no port"),
            (Probe { port: Some(0), protocol: Protocol::Udp, ..probe(1) }, "port 0"),
            (Probe { address: "10.1.0.2".parse().unwrap(), ..probe(1) }, "--allow"),
        ];
        for (probe, words) in cases {
            let refused = refused(vec![probe], &Budget::default());
            assert!(refused[0].1.contains(words), "{refused:?}");
        }
        let icmp = Probe { port: None, protocol: Protocol::Icmp, ..probe(1) };
        assert_eq!(refused(vec![icmp], &Budget::default()), []);
    }

    #[test]
    fn what_exceeds_a_budget_is_refused_and_the_rest_is_served() {
        let budget = Budget { targets: 2, ..Budget::default() };
        assert_eq!(refused(vec![probe(1), probe(1), probe(2), probe(3)], &budget).len(), 2);
        let budget = Budget { per_second: 10, ..Budget::default() };
        let fast = |id| Probe { interval_us: 200_000, timeout_us: 1000, ..probe(id) };
        let refusals = refused(vec![fast(1), fast(2), fast(3)], &budget);
        assert_eq!(refusals.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3]);
        let budget = Budget { connections: 12, ..Budget::default() };
        let slow = |id| Probe { timeout_us: 6_000_000, ..probe(id) };
        assert_eq!(refused(vec![slow(1), slow(2), slow(3)], &budget)[0].0, 3);
    }

    #[test]
    fn ports_that_answer_are_bounded_too() {
        let responders = [0, 7, 7, 8, 9].map(|port| Responder { netns: "a".into(), port }).into();
        let budget = Budget { responders: 2, ..Budget::default() };
        let (admitted, refusals) = admit(ProbePlan { probes: Vec::new(), responders }, &budget, |_| true);
        assert_eq!(admitted.responders.len(), 2);
        assert_eq!(refusals.len(), 2, "{refusals:?}");
    }
}
