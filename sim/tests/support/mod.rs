//! A cluster in memory, what is predicted of it, and how predictions read.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses a part of it")]

use std::ops::{Deref, DerefMut};

use waymark_proto::{Branch, Flow, PathSet, Place, Protocol};
use waymark_sim::{Cluster, predict};

pub use waymark_lab::{DATAPLANES, Dataplane, address, ip, link, mac, route};

/// A cluster under construction, of which predictions are asked.
pub struct Lab(waymark_lab::Lab);

impl Deref for Lab {
    type Target = waymark_lab::Lab;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Lab {
    pub fn new(dataplane: Dataplane) -> Self {
        Self(waymark_lab::Lab::new(dataplane))
    }

    pub fn nft(&mut self, netns: &str, json: &str) {
        self.netns(netns).netfilter.nft = Some(serde_json::from_str(json).unwrap());
    }

    pub fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(&self.inventory);
        for facts in &self.facts {
            cluster.add(facts.clone()).unwrap();
        }
        cluster
    }

    pub fn predict(&self, start: &str, flow: &Flow) -> PathSet {
        predict(&self.cluster(), &self.place(start), flow)
    }

    /// The only branch of a prediction that must have one.
    pub fn one(&self, start: &str, flow: &Flow) -> Branch {
        let mut paths = self.predict(start, flow);
        assert_eq!(paths.branches.len(), 1, "{}", render(&paths));
        paths.branches.remove(0)
    }
}

pub fn tcp(src: &str, dst: &str, dst_port: u16) -> Flow {
    Flow { src: ip(src), dst: ip(dst), protocol: Protocol::Tcp, src_port: 40000, dst_port }
}

pub fn udp(src: &str, dst: &str, dst_port: u16) -> Flow {
    Flow { protocol: Protocol::Udp, ..tcp(src, dst, dst_port) }
}

/// `pod1-1:inject pod1-1:route eth0 …`: the steps as one readable line each.
pub fn steps(branch: &Branch) -> Vec<String> {
    let text = |step: &waymark_proto::Step| {
        let device = step.device.as_deref().map(|device| format!(" {device}")).unwrap_or_default();
        let action = match step.action {
            waymark_proto::Action::Forwarded => String::new(),
            other => format!(" {other}"),
        };
        let cause = step.cause.map(|cause| format!(" {cause}")).unwrap_or_default();
        format!("{} {}{device}{action}{cause}", step.place.netns, step.hook)
    };
    branch.path.steps().iter().map(text).collect()
}

/// The place of `pod1-2` or `node1`.
pub fn place(netns: &str) -> Place {
    let number: String =
        netns.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    Place::new(format!("n{number}"), netns)
}

/// A whole prediction, for failure messages.
pub fn render(paths: &PathSet) -> String {
    let step =
        |step: &waymark_proto::Step| format!("    {step} {:?} {:?} {:?}", step.cause, step.object, step.note);
    let mut lines = Vec::new();
    for branch in &paths.branches {
        let fate = branch.path.disposition();
        lines.push(format!("{:.3} {:?} {fate}", branch.probability, choices(branch)));
        lines.extend(branch.path.steps().iter().map(step));
        for answer in &branch.answer {
            lines.push(format!("  answer {}", answer.path.disposition()));
            lines.extend(answer.path.steps().iter().map(step));
        }
    }
    lines.push(format!("needs {:?}", paths.needs));
    lines.join("\n")
}

/// What decided for a branch, as text.
pub fn choices(branch: &Branch) -> Vec<String> {
    branch.choices.iter().map(ToString::to_string).collect()
}
