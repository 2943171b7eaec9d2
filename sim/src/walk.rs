//! One walk while it is being predicted, and the loop that drives it.

use std::net::IpAddr;
use std::rc::Rc;

use smallvec::SmallVec;
use waymark_proto::{
    Action, Cause, Choice, Disposition, Flow, Hook, NodeName, Outer, Place, RuleRef, Step, Text, text,
};

use crate::cluster::Cluster;
use crate::conntrack;
use crate::netfilter::Memory;
use crate::packet::Packet;
use crate::stage;

/// Stages after which a walk is given up; the longest real ones have some eighty.
const MAX_STAGES: usize = 512;
/// Branches after which no more are followed.
const MAX_BRANCHES: usize = 4096;

/// Where a packet leaves a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Index of the device.
    pub(crate) device: u32,
    /// The next hop: the gateway, or the destination itself.
    pub(crate) next_hop: IpAddr,
    /// Whether the packet stays here: the device is the loopback.
    pub(crate) local: bool,
}

/// What comes next. Devices are given by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Inject,
    /// Routing of a packet of this host; `again` after the output hook changed it, which
    /// forgets `oif`.
    RouteOutput {
        again: bool,
        /// The device that it must leave by, if its sender says so.
        oif: Option<u32>,
    },
    FilterOutput(Egress),
    FilterPostrouting {
        /// The device that it came in by, if it is passed on.
        input: Option<u32>,
        egress: Egress,
    },
    Neighbour(Egress),
    /// Queueing discipline and driver.
    Transmit(u32),
    /// A bridge's own transmission.
    BridgeSend(u32),
    Encapsulate(u32),
    Wire(u32),
    Receive(u32),
    /// A frame at a bridge port.
    BridgePort(u32),
    /// A bridge passes a frame from one port to another.
    BridgeForward {
        bridge: u32,
        from: u32,
    },
    /// The IP layer, on a device that is no port.
    Ip(u32),
    RouteInput(u32),
    FilterForward {
        input: u32,
        egress: Egress,
    },
    FilterInput(u32),
    Decapsulate,
    Socket(u32),
}

/// A walk that is not finished, or just was: handed on from stage to stage.
pub(crate) type Walk = Box<State>;

/// What comes of a walk at a stage: mostly one.
pub(crate) type Walks = SmallVec<[Walk; 1]>;

/// All that a walk has.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) at: Place,
    /// Which namespace of the cluster that is, once it was looked up.
    pub(crate) home: Option<usize>,
    pub(crate) stage: Stage,
    /// The packet that devices see: the outer one while it is encapsulated.
    pub(crate) packet: Packet,
    /// Packets inside it, the innermost first, each with the outer header around it.
    pub(crate) carried: Vec<(Packet, Outer)>,
    pub(crate) next_hop: Option<IpAddr>,
    /// The bridge port by which the packet came, if the bridge called netfilter: rules see it in all hooks
    /// of the namespace (`nf_bridge_info`).
    pub(crate) port: Option<u32>,
    /// Whether the prerouting hook was run on behalf of a bridge (`nf_bridge`).
    pub(crate) filtered_by_bridge: bool,
    /// By namespace.
    pub(crate) connections: Vec<(Place, conntrack::Table)>,
    pub(crate) steps: Vec<Step>,
    pub(crate) probability: f64,
    pub(crate) choices: Vec<Choice>,
    pub(crate) fate: Option<Disposition>,
    pub(crate) needs: Option<NodeName>,
    /// How much of it is told.
    pub(crate) detail: Detail,
    /// What is remembered of other walks, if this is one of many.
    pub(crate) memory: Option<Rc<Memory>>,
    /// The answer's receiver and its flow, if this is the walk of an answer.
    pub(crate) expected: Option<(Place, Flow)>,
    visited: Vec<(Place, u32, Flow, u32, usize)>,
    /// How many it went through.
    stages: usize,
}

/// How much of a walk is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detail {
    /// Its last step alone, if that decided.
    Fate,
    /// All its steps.
    Steps,
    /// With all rules that matched.
    Matches,
}

impl State {
    /// A walk that begins.
    pub(crate) fn begin(at: Place, stage: Stage, packet: Packet) -> Walk {
        Box::new(Self {
            home: None,
            at,
            stage,
            packet,
            carried: Vec::new(),
            next_hop: None,
            port: None,
            filtered_by_bridge: false,
            connections: Vec::new(),
            steps: Vec::new(),
            probability: 1.0,
            choices: Vec::new(),
            fate: None,
            needs: None,
            detail: Detail::Steps,
            memory: None,
            stages: 0,
            expected: None,
            visited: Vec::new(),
        })
    }

    /// Goes on in another namespace.
    pub(crate) fn move_to(&mut self, place: Place) {
        self.at = place;
        self.home = None;
    }

    /// The innermost packet's flow: what steps tell.
    pub(crate) fn flow(&self) -> Flow {
        self.carried.first().map_or(self.packet.flow, |(inner, _)| inner.flow)
    }

    /// Whether all steps are told.
    pub(crate) fn tells_steps(&self) -> bool {
        self.detail >= Detail::Steps
    }

    /// The connections here.
    pub(crate) fn table(&self) -> Option<&conntrack::Table> {
        self.connections.iter().find(|(place, _)| *place == self.at).map(|(_, table)| table)
    }

    /// Looks the packet's connection up in the table here.
    pub(crate) fn track(&mut self) {
        let table = self.connections.iter().find(|(place, _)| *place == self.at);
        conntrack::track(&mut self.packet, table.map(|(_, table)| table));
    }

    /// Enters the packet's connection into the table here, if it has one.
    pub(crate) fn confirm(&mut self) {
        if !matches!(self.packet.tracking, conntrack::Tracking::Tracked { .. }) {
            return;
        }
        let index = self.connections.iter().position(|(place, _)| *place == self.at);
        let index = index.unwrap_or_else(|| {
            self.connections.push((self.at.clone(), conntrack::Table::new()));
            self.connections.len() - 1
        });
        conntrack::confirm(&mut self.packet, &mut self.connections[index].1);
    }

    /// Tells a step here, of which `fill` says more.
    pub(crate) fn step(
        &mut self,
        hook: Hook,
        device: Option<&str>,
        action: Action,
        fill: impl FnOnce(&mut Step),
    ) {
        if self.tells_steps() {
            fill(self.add_step(hook, device, action));
        }
    }

    fn add_step(&mut self, hook: Hook, device: Option<&str>, action: Action) -> &mut Step {
        let mut step = Step::new(self.at.clone(), hook, action);
        step.device = device.map(str::to_owned);
        step.flow = Some(self.flow());
        step.outer = self.carried.last().map(|(_, outer)| outer.clone());
        let at = self.steps.len();
        self.steps.push(step);
        &mut self.steps[at]
    }

    /// The same walk at its next stage.
    pub(crate) fn to(mut self: Walk, stage: Stage) -> Walk {
        self.stage = stage;
        self
    }

    /// Ends the walk: a drop for a cause, with the object that decided.
    pub(crate) fn dropped(
        mut self: Walk,
        hook: Hook,
        device: Option<&str>,
        cause: Cause,
        object: impl Into<Option<Text>>,
    ) -> Walk {
        let action = if cause.fate() == Disposition::Rejected { Action::Rejected } else { Action::Dropped };
        let step = self.add_step(hook, device, action);
        step.cause = Some(cause);
        step.object = object.into();
        self.fate = Some(cause.fate());
        self
    }

    /// Ends the walk: by a rule or policy.
    pub(crate) fn refused(
        mut self: Walk,
        hook: Hook,
        device: Option<&str>,
        cause: Cause,
        rule: RuleRef,
    ) -> Walk {
        self = self.dropped(hook, device, cause, None);
        if let Some(step) = self.steps.last_mut() {
            step.rule = Some(rule);
        }
        self
    }

    /// Ends the walk: what happens here cannot be said.
    pub(crate) fn unknown(mut self: Walk, hook: Hook, device: Option<&str>, why: Text) -> Walk {
        self.add_step(hook, device, Action::Unknown).note = Some(why);
        self.fate = Some(Disposition::InsufficientInfo);
        self
    }

    /// Ends the walk at its receiver.
    pub(crate) fn delivered(mut self: Walk, device: Option<&str>, object: impl FnOnce() -> Text) -> Walk {
        self.step(Hook::Socket, device, Action::Delivered, |step| step.object = Some(object()));
        self.fate = Some(Disposition::Delivered);
        self
    }

    /// Notes that the packet is at this device with these headers; `false` if it was before.
    pub(crate) fn visit(&mut self, device: u32) -> bool {
        let mark = self.packet.mark;
        let here = (self.at.clone(), device, self.packet.flow, mark, self.carried.len());
        let is_new = !self.visited.contains(&here);
        self.visited.push(here);
        is_new
    }
}

/// Follows a walk through all its branches to their ends.
pub(crate) fn follow(cluster: &Cluster, start: Walk) -> Walks {
    let mut ended = Walks::new();
    let mut open = vec![start];
    while let Some(mut walk) = open.pop() {
        walk.stages += 1;
        if walk.fate.is_some() {
            ended.push(walk);
        } else if walk.stages > MAX_STAGES || open.len() + ended.len() > MAX_BRANCHES {
            ended.push(walk.unknown(Hook::Ip, None, text!(model::TooManySteps)));
        } else {
            open.extend(stage::process(cluster, walk));
        }
    }
    ended
}
