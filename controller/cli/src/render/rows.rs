//! The steps of a walk as every format shows them: mark, place, hook, device, predicted, observed.

use std::net::SocketAddr;

use waymark_proto::{
    Action, Agreement, ComparedStep, Conntrack, FaultPoint, Flow, Hook, Language, Place, Step, Text,
    WalkComparison, text,
};

/// What became of the packets at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// Predicted and seen.
    Seen,
    /// Predicted where nobody can see.
    Hidden,
    /// Seen, though not predicted.
    Unexpected,
    /// Seen for some of the packets.
    Partly,
    /// Predicted, watched, and not seen.
    Missing,
    /// The end.
    Fault,
}

impl Mark {
    /// The character that stands for it.
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Seen => "✓",
            Self::Fault | Self::Missing => "✗",
            Self::Hidden => "·",
            Self::Partly => "?",
            Self::Unexpected => "+",
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row<'a> {
    pub(super) place: &'a Place,
    pub(super) mark: Mark,
    pub(super) hook: Hook,
    pub(super) device: &'a str,
    /// What it should do; absent where nothing was predicted.
    pub(super) predicted: Option<Text>,
    /// What it did; absent where nobody can know.
    pub(super) observed: Option<Text>,
    /// Whether it did what steps usually do.
    usual: bool,
    /// How many packets were seen here; absent where nobody can know.
    pub(super) packets: Option<u32>,
}

impl Row<'_> {
    /// What a drawing says of the step beside its name: nothing where it did what steps usually do, or where its
    /// colour says all.
    pub(super) fn remark(&self, language: Language) -> Option<String> {
        let said = self.observed.as_ref().or(self.predicted.as_ref())?;
        (self.mark != Mark::Missing && !self.usual).then(|| said.say(language))
    }

    /// What was predicted.
    pub(super) fn predicted(&self, language: Language) -> String {
        self.predicted.as_ref().map(|text| text.say(language)).unwrap_or_default()
    }

    /// What was observed.
    pub(super) fn observed(&self, language: Language) -> String {
        self.observed.as_ref().map(|text| text.say(language)).unwrap_or_default()
    }
}

/// Up to which row packets came, counted from 1.
pub(super) fn reached(rows: &[Row<'_>]) -> usize {
    rows.iter().rposition(|row| !matches!(row.mark, Mark::Missing | Mark::Hidden)).map_or(0, |last| last + 1)
}

/// The rows of a comparison.
pub(super) struct Rows<'a> {
    /// All of them.
    pub(super) all: Vec<Row<'a>>,
    /// How many of them tell something: behind the fault, the first step that missed the packet is worth a
    /// line, the others are not.
    pub(super) telling: usize,
    /// The most packets that any step saw.
    pub(super) packets: u32,
}

impl<'a> Rows<'a> {
    /// The rows of a comparison, one of them the fault if it is in this direction.
    pub(super) fn of(walk: &'a WalkComparison, fault: Option<&FaultPoint>) -> Self {
        let packets = walk.steps.iter().map(|step| step.packets).max().unwrap_or(0);
        let mut flows = [None, None];
        let at_fault = fault.and_then(|fault| {
            let at = |wanted: &dyn Fn(&ComparedStep) -> bool| walk.steps.iter().position(wanted);
            // What sent it astray let it pass; then the end is where that led it.
            at(&|step| is_at(step, fault)).or_else(|| at(&is_foretold_end))
        });
        let all: Vec<Row<'_>> = (walk.steps.iter().enumerate())
            .filter_map(|(index, step)| {
                let mut row = row(step, packets, &mut flows)?;
                if Some(index) == at_fault {
                    row.mark = Mark::Fault;
                    if step.observed.is_none() {
                        row.observed = Some(text!(walk::EndsHere));
                        row.usual = false;
                    }
                }
                Some(row)
            })
            .collect();
        Self { telling: telling(&all), all, packets }
    }

    /// The steps around the end: the last that were seen before it, and all that tells something behind them.
    /// Empty if nothing ends here.
    pub(super) fn around_the_end(&self) -> &[Row<'a>] {
        let told = &self.all[..self.telling];
        let ends = |row: &Row<'_>| matches!(row.mark, Mark::Fault | Mark::Missing);
        // The fault itself; where it is in no row, the first that missed the packet.
        let Some(end) =
            (told.iter().position(|row| row.mark == Mark::Fault)).or_else(|| told.iter().position(ends))
        else {
            return &[];
        };
        let seen = (0..end).rev().filter(|&index| !matches!(told[index].mark, Mark::Hidden | Mark::Missing));
        let first = seen.take(LAST_SEEN).last().unwrap_or(end);
        let behind = told[end + 1..].iter().position(ends).map_or(end, |missing| end + 1 + missing);
        &told[first..=behind]
    }
}

/// How many steps before the end show the way to it.
const LAST_SEEN: usize = 2;

fn telling(rows: &[Row<'_>]) -> usize {
    if !rows.iter().any(|row| matches!(row.mark, Mark::Missing | Mark::Fault)) {
        return rows.len();
    }
    let last_known = rows.iter().rposition(|row| !matches!(row.mark, Mark::Missing | Mark::Hidden));
    last_known.map_or(rows.len(), |last| {
        let missing = rows[last + 1..].iter().position(|row| row.mark == Mark::Missing);
        missing.map_or(last + 1, |missing| last + missing + 2)
    })
}

/// The rows of predicted steps alone.
pub(super) fn predicted(steps: &[Step]) -> Vec<Row<'_>> {
    let mut flow = None;
    steps
        .iter()
        .map(|step| Row {
            place: &step.place,
            mark: match step.action {
                Action::Dropped | Action::Rejected => Mark::Fault,
                Action::Unknown => Mark::Partly,
                _ => Mark::Seen,
            },
            hook: step.hook,
            device: step.device.as_deref().unwrap_or_default(),
            predicted: Some(words(step, &mut flow, true)),
            observed: None,
            usual: is_usual(step, true),
            packets: None,
        })
        .collect()
}

fn row<'a>(step: &'a ComparedStep, packets: u32, flows: &mut [Option<Flow>; 2]) -> Option<Row<'a>> {
    let shown = step.predicted.as_ref().or(step.observed.as_ref())?;
    let mark = match step.agreement {
        Agreement::Seen => Mark::Seen,
        Agreement::Partly => Mark::Partly,
        Agreement::Missing => Mark::Missing,
        Agreement::NotObservable => Mark::Hidden,
        Agreement::Unexpected => Mark::Unexpected,
        Agreement::Died => Mark::Fault,
    };
    let [predicted_flow, observed_flow] = flows;
    let predicted = step.predicted.as_ref().map(|step| words(step, predicted_flow, true));
    let some = step.packets < packets;
    let observed = match (&step.observed, mark) {
        (Some(observed), _) => {
            let words = words(observed, observed_flow, false);
            let share = text!(walk::PacketsOf { some: step.packets, all: packets });
            Some(if some { text!(walk::Clauses { items: vec![words, share] }) } else { words })
        }
        (None, Mark::Missing | Mark::Partly) => Some(text!(walk::NotSeen)),
        (None, _) => None,
    };
    let usual = match (&step.observed, &step.predicted) {
        (Some(observed), _) => is_usual(observed, false) && !some,
        (None, Some(predicted)) => observed.is_none() && is_usual(predicted, true),
        (None, None) => true,
    };
    let device = shown.device.as_deref().or_else(|| step.observed.as_ref()?.device.as_deref());
    Some(Row {
        place: &shown.place,
        mark,
        hook: shown.hook,
        device: device.unwrap_or_default(),
        predicted,
        observed,
        usual,
        packets: (mark != Mark::Hidden).then_some(step.packets),
    })
}

/// Whether a step's words, with or without why it ends, say no more than steps usually do.
fn is_usual(step: &Step, why: bool) -> bool {
    let usual = matches!(step.action, Action::Forwarded | Action::Injected | Action::Delivered);
    let object = why && !step.action.continues() && step.object.is_some();
    usual && step.cause.is_none() && step.reason.is_none() && !object && connection(step).is_none()
}

/// What a step did, in words. `flow` is the flow before it, and after the call the one behind it.
fn words(step: &Step, flow: &mut Option<Flow>, why: bool) -> Text {
    let before = *flow;
    *flow = step.flow.or(before);
    let (mut to, mut from, mut outer) = (None, None, None);
    match (step.action, before, step.flow) {
        (Action::Translated, Some(before), Some(after)) => {
            let changed = |before: SocketAddr, after: SocketAddr| (before != after).then_some(after);
            let ends = |flow: Flow| {
                (SocketAddr::new(flow.dst, flow.dst_port), SocketAddr::new(flow.src, flow.src_port))
            };
            let ((dst_before, src_before), (dst, src)) = (ends(before), ends(after));
            to = changed(dst_before, dst);
            from = changed(src_before, src);
        }
        (Action::Encapsulated, _, _) => {
            let header = step.outer.as_ref();
            outer = header.map(|outer| format!("{} {} → {}", outer.kind, outer.src, outer.dst));
        }
        _ => {}
    }
    text!(walk::Step {
        action: step.action.words(),
        to,
        from,
        outer,
        why: step.reason.clone().or_else(|| step.cause.map(|cause| cause.to_string())),
        object: step.object.as_ref().filter(|_| why && !step.action.continues()),
        conntrack: connection(step).map(ToString::to_string),
    })
}

/// The connection of a packet, where it says something: it died, or what is tracked is not what is to be seen.
fn connection(step: &Step) -> Option<&Conntrack> {
    step.conntrack.as_ref().filter(|conntrack| !step.action.continues() || conntrack.is_translated())
}

/// Whether the prediction has a packet die at a step, and nobody saw it do otherwise.
fn is_foretold_end(step: &ComparedStep) -> bool {
    let dies = step.predicted.as_ref().is_some_and(|step| step.cause.is_some());
    dies && matches!(step.agreement, Agreement::NotObservable | Agreement::Missing)
}

fn is_at(step: &ComparedStep, fault: &FaultPoint) -> bool {
    let same = |step: &Step| {
        (&step.place.node, &step.place.netns, step.hook) == (&fault.node, &fault.netns, fault.hook)
            && (step.device.is_none() || fault.device.is_none() || step.device == fault.device)
    };
    let hidden_or_dead = !matches!(step.agreement, Agreement::Seen | Agreement::Unexpected);
    (hidden_or_dead || step.predicted.as_ref().is_some_and(|step| step.cause.is_some()))
        && (step.predicted.as_ref().is_some_and(same) || step.observed.as_ref().is_some_and(same))
}
