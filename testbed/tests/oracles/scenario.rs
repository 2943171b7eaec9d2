//! One scenario: something is broken, or nothing is, and a check is made while all oracles look on.

use waymark_testbed::{Cluster, Fault, Pair, Probe};

use crate::common::Testbed;
use crate::evidence::Evidence;

/// What is broken, and what is asked.
pub struct Scenario {
    pub name: String,
    /// In the order in which they are undone.
    faults: Vec<&'static Fault>,
    probe: Probe,
}

impl Scenario {
    /// Nothing is broken.
    pub fn healthy(probe: Probe) -> Self {
        Self { name: probe.to_string(), faults: Vec::new(), probe }
    }

    /// One fault, and the traffic on which it shows.
    pub fn of_fault(fault: &'static Fault, cluster: &Cluster) -> Self {
        Self { name: fault.name.clone(), faults: vec![fault], probe: fault.probe(cluster).unwrap() }
    }

    /// Two. What comes first on the way is broken last, since it may hide the other from the tools, too.
    pub fn of_pair(pair: &Pair, cluster: &Cluster) -> Self {
        let probe = pair.first.probe(cluster).unwrap();
        Self { name: pair.name(), faults: vec![pair.first, pair.second], probe }
    }

    /// Plays it: what all sides saw, or why there was no answer.
    pub fn play(&self, testbed: &Testbed, cluster: &Cluster) -> Result<Evidence, String> {
        // By the program: of some faults another process of it is a part.
        for fault in self.faults.iter().rev() {
            testbed.succeed(&["fault", "inject", &fault.name]);
        }
        let evidence = Evidence::gather(&testbed.instance(), cluster, &self.probe);
        for fault in &self.faults {
            testbed.succeed(&["fault", "clear", &fault.name]);
        }
        evidence
    }
}
