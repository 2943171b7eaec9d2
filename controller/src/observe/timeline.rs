//! The order of sightings on one node.

use std::collections::BTreeMap;

use waymark_proto::{Conntrack, Event, Flow, Hook, NetnsName, Outer, Place, RuleRef, Sighting, Text, text};

/// One thing that happened to the packet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) hook: Hook,
    pub(super) device: Option<String>,
    pub(super) flow: Option<Flow>,
    pub(super) outer: Option<Outer>,
    pub(super) ttl: Option<u8>,
    pub(super) at_ns: u64,
    pub(super) conntrack: Option<Conntrack>,
    /// Of a later fragment where in the packet it begins; else 0.
    pub(super) fragment_offset: u16,
    pub(super) what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// It came by a hook.
    Passed { note: Option<Text> },
    /// It went through a netfilter hook, or into it and not out.
    Filtered {
        left: bool,
        /// The flow as it left, which translation may have changed.
        after: Option<Flow>,
        verdicts: Vec<(RuleRef, String)>,
    },
    /// The kernel dropped it.
    Dropped { reason: Option<String>, function: String },
    /// The kernel freed it as used up.
    Consumed { function: Option<String> },
}

impl Item {
    fn new(sighting: &Sighting, what: What) -> Self {
        let headers = sighting.headers.as_ref();
        Self {
            place: sighting.place.clone(),
            hook: sighting.hook,
            device: sighting.device.clone(),
            flow: headers.map(|headers| headers.flow),
            outer: headers.and_then(|headers| headers.outer.clone()),
            ttl: headers.map(|headers| headers.ttl).filter(|&ttl| ttl > 0),
            at_ns: sighting.at_ns,
            conntrack: sighting.metadata.conntrack.clone(),
            fragment_offset: sighting.fragment_offset,
            what,
        }
    }

    pub(super) fn is_at(
        &self,
        place: &Place,
        hook: Hook,
        device: Option<&String>,
        encapsulated: bool,
    ) -> bool {
        self.place == *place
            && self.hook == hook
            && (device.is_none() || self.device.is_none() || self.device.as_ref() == device)
            && (self.flow.is_none() || self.outer.is_some() == encapsulated)
    }

    /// Whether it is the end of a packet, or of a copy.
    pub(super) fn is_freed(&self) -> bool {
        matches!(self.what, What::Dropped { .. } | What::Consumed { .. })
    }

    /// Whether it went through a netfilter hook but was not seen to leave it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.what, What::Filtered { left: false, .. })
    }
}

/// The timeline of one node in one direction.
pub(super) fn of_node(sightings: &[&Sighting]) -> Vec<Item> {
    let (traced, kernel): (Vec<&Sighting>, Vec<&Sighting>) = sightings.iter().partition(|sighting| {
        matches!(sighting.event, Event::Entered | Event::Left | Event::Passed | Event::Verdict { .. })
    });
    let kernel = kernel_items(kernel);
    let mut by_netns: BTreeMap<&NetnsName, Vec<&Sighting>> = BTreeMap::new();
    for sighting in traced {
        by_netns.entry(&sighting.place.netns).or_default().push(sighting);
    }
    let mut placed = Vec::new();
    for sightings in by_netns.into_values() {
        place(traversals(sightings), &kernel, &mut placed);
    }
    placed.sort_by_key(|(before, _)| *before);
    let mut placed = placed.into_iter().peekable();
    let mut items = Vec::new();
    for (index, item) in kernel.into_iter().enumerate() {
        while let Some((_, traversal)) = placed.next_if(|(before, _)| *before <= index) {
            items.push(traversal);
        }
        items.push(item);
    }
    items.extend(placed.map(|(_, traversal)| traversal));
    items
}

/// What tracepoints saw, in true order, twins merged.
fn kernel_items(mut sightings: Vec<&Sighting>) -> Vec<Item> {
    sightings.sort_by_key(|sighting| sighting.at_ns);
    let mut items: Vec<Item> = Vec::new();
    for sighting in sightings {
        let what = match &sighting.event {
            // The driver's answer comes after all that its transmission set off, for example the reception
            // by a veth's other end; it belongs to the transmission before it.
            Event::Transmitted { code } => {
                // Older recordings hold the answers of drivers that took a packet, too.
                let note = (*code != 0).then(|| text!(seen::DriverAnswered { code: code.to_string() }));
                let sent = items.iter_mut().rev().find(|item| {
                    item.hook == Hook::DriverTx
                        && item.place == sighting.place
                        && item.device == sighting.device
                });
                match sent {
                    Some(sent) => {
                        if note.is_some() {
                            sent.what = What::Passed { note };
                        }
                        continue;
                    }
                    None => What::Passed { note },
                }
            }
            Event::Dropped { reason, function } => {
                What::Dropped { reason: reason.clone(), function: function.clone() }
            }
            Event::Consumed { function } => What::Consumed { function: function.clone() },
            Event::Seen
            | Event::Arrived
            | Event::Entered
            | Event::Left
            | Event::Passed
            | Event::Verdict { .. }
            | Event::Called { .. } => What::Passed { note: None },
        };
        let item = Item::new(sighting, what);
        // In older recordings `netif_rx` and then `netif_receive_skb` report one reception; and a walk is that of one copy.
        let mut passed = items.iter().filter(|item| matches!(item.what, What::Passed { .. }));
        let twin = matches!(item.what, What::Passed { .. })
            && passed.next_back().is_some_and(|last| {
                last.fragment_offset == item.fragment_offset
                    && last.is_at(&item.place, item.hook, item.device.as_ref(), item.outer.is_some())
            });
        if !twin {
            items.push(item);
        }
    }
    items
}

/// The traversals of netfilter hooks of one namespace.
fn traversals(mut sightings: Vec<&Sighting>) -> Vec<(Item, bool)> {
    sightings.sort_by_key(|sighting| sighting.at_ns);
    let mut items: Vec<Item> = Vec::new();
    for sighting in sightings {
        let continues = items.last().is_some_and(|item| item.is_open() && item.hook == sighting.hook)
            && !matches!(sighting.event, Event::Entered | Event::Passed);
        if !continues {
            items
                .push(Item::new(sighting, What::Filtered { left: false, after: None, verdicts: Vec::new() }));
        }
        let item = items.last_mut().expect("one was pushed if there was none");
        if let What::Filtered { left, after, verdicts } = &mut item.what {
            match &sighting.event {
                Event::Left | Event::Passed => {
                    *left = true;
                    *after = sighting.headers.as_ref().map(|headers| headers.flow);
                }
                Event::Verdict { rule, verdict } => verdicts.push((rule.clone(), verdict.clone())),
                _ => {}
            }
        }
        item.device = item.device.take().or_else(|| sighting.device.clone());
    }
    bridged(items)
}

/// Tells for each traversal whether it was that of a bridged frame.
///
/// A bridge that calls iptables runs prerouting for the frame; when the packet then goes up to the host, the
/// kernel enters the hook again and leaves it by `ip_sabotage_in` before any chain but the first. That second
/// entry is no traversal, but a witness of the first one's place.
fn bridged(items: Vec<Item>) -> Vec<(Item, bool)> {
    let mut told: Vec<(Item, bool)> = Vec::new();
    for item in items {
        let untouched =
            matches!(&item.what, What::Filtered { left: false, verdicts, .. } if verdicts.is_empty());
        let same = |first: &Item| {
            first.hook == item.hook
                && first.device == item.device
                && first.outer.is_some() == item.outer.is_some()
        };
        match told.last_mut() {
            Some((first, bridged)) if item.hook == Hook::NetfilterPrerouting && untouched && same(first) => {
                *bridged = true;
            }
            _ => told.push((item, false)),
        }
    }
    told
}

/// Finds for each traversal of one namespace the kernel's item before which it belongs.
fn place(traversals: Vec<(Item, bool)>, kernel: &[Item], placed: &mut Vec<(usize, Item)>) {
    let (mut at, mut from_bridge) = (0, false);
    for (traversal, bridged) in traversals {
        let encapsulated = traversal.outer.is_some();
        let find = |hook, device| {
            let from = kernel.iter().enumerate().skip(at);
            from.filter(|(_, item)| item.is_at(&traversal.place, hook, device, encapsulated))
                .map(|(index, _)| index)
                .next()
        };
        let device = traversal.device.as_ref();
        let dropped = || {
            let mut from = kernel.iter().enumerate().skip(at);
            from.find(|(_, item)| item.place == traversal.place && matches!(item.what, What::Dropped { .. }))
                .map(|(index, _)| index)
        };
        // A bridged frame has its bridge for a device, and comes and goes by the ports.
        let received =
            || find(Hook::DriverRx, device).filter(|_| !bridged).or_else(|| find(Hook::DriverRx, None));
        let slot = match traversal.hook {
            Hook::NetfilterPrerouting => received().map(|index| index + 1),
            Hook::NetfilterInput | Hook::NetfilterForward if at == 0 || from_bridge => {
                received().map(|index| index + 1)
            }
            Hook::NetfilterInput | Hook::NetfilterForward => Some(at),
            _ => find(Hook::Qdisc, device).or_else(|| find(Hook::Qdisc, None)),
        };
        let last_resort = || {
            let last = kernel.iter().rposition(|item| item.place == traversal.place);
            last.map_or(kernel.len(), |last| last + 1).max(at)
        };
        at = slot.or_else(dropped).unwrap_or_else(last_resort);
        from_bridge = bridged;
        placed.push((at, traversal));
    }
}
