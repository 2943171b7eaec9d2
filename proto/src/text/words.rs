//! What the enums of the vocabulary are called, and how several things are enumerated.

use super::{Arg, Text};
use crate::{
    Action, AnomalyKind, Choice, ChoiceKind, DeviceProgram, Disposition, Exemption, Expectation, FactorKind,
    ProgramPoint, Share, Step, Verdict, text,
};

impl Verdict {
    /// The word in text.
    pub fn words(self) -> Text {
        match self {
            Self::Reachable => text!(verdict::Reachable),
            Self::Inconsistent => text!(verdict::Inconsistent),
            Self::Unreachable => text!(verdict::Unreachable),
            Self::Undetermined => text!(verdict::Undetermined),
        }
    }
}

impl Disposition {
    /// The word in text.
    pub fn words(self) -> Text {
        match self {
            Self::Delivered => text!(fate::Delivered),
            Self::Dropped => text!(fate::Dropped),
            Self::Rejected => text!(fate::Rejected),
            Self::NoRoute => text!(fate::NoRoute),
            Self::NeighbourUnreachable => text!(fate::NeighbourUnreachable),
            Self::Loop => text!(fate::Loop),
            Self::ExitsCluster => text!(fate::ExitsCluster),
            Self::InsufficientInfo => text!(fate::InsufficientInfo),
        }
    }
}

impl Action {
    /// The word in text.
    pub fn words(self) -> Text {
        match self {
            Self::Injected => text!(action::Injected),
            Self::Forwarded => text!(action::Forwarded),
            Self::Translated => text!(action::Translated),
            Self::Encapsulated => text!(action::Encapsulated),
            Self::Decapsulated => text!(action::Decapsulated),
            Self::Queued => text!(action::Queued),
            Self::Delivered => text!(action::Delivered),
            Self::Dropped => text!(action::Dropped),
            Self::Rejected => text!(action::Rejected),
            Self::Unknown => text!(action::Unknown),
        }
    }
}

impl Expectation {
    /// The word in text.
    pub fn words(self) -> Text {
        match self {
            Self::Allowed => text!(expectation::Allowed),
            Self::Partly => text!(expectation::Partly),
            Self::Denied => text!(expectation::Denied),
            Self::NoEndpoints => text!(expectation::NoEndpoints),
            Self::Unknown => text!(expectation::Unknown),
        }
    }
}

impl Exemption {
    /// The sentence.
    pub fn words(self) -> Text {
        match self {
            Self::SamePod => text!(exemption::SamePod),
            Self::OwnNode => text!(exemption::OwnNode),
            Self::NoPod => text!(exemption::NoPod),
        }
    }
}

impl AnomalyKind {
    /// The name in text.
    pub fn words(self) -> Text {
        match self {
            Self::Delay => text!(anomaly::Delay),
            Self::Duplication => text!(anomaly::Duplication),
            Self::Reordering => text!(anomaly::Reordering),
            Self::OtherWay => text!(anomaly::OtherWay),
        }
    }
}

impl FactorKind {
    /// The name in text.
    pub fn words(self) -> Text {
        match self {
            Self::Size => text!(factor::Size),
            Self::Dscp => text!(factor::Dscp),
            Self::Backend => text!(factor::Backend),
            Self::NextHop => text!(factor::NextHop),
            Self::Rule => text!(factor::Rule),
            Self::SourcePort => text!(factor::SourcePort),
        }
    }
}

impl Share {
    /// The losses, their rate, and the interval in which it lies.
    pub fn words(&self) -> Text {
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        text!(loss::Share {
            lost: self.lost,
            of: self.of,
            rate: percent(self.rate()),
            low: percent(self.low),
            high: percent(self.high),
        })
    }
}

impl Choice {
    /// What was chosen, and how likely that was.
    pub fn words(&self) -> Text {
        let (taken, probability) = (&self.taken, format!("{:.2}", self.probability));
        match self.kind {
            ChoiceKind::Backend => text!(choice::Backend { taken, probability }),
            ChoiceKind::NextHop => text!(choice::NextHop { taken, probability }),
            ChoiceKind::Rule => text!(choice::Rule { taken, probability }),
        }
    }
}

impl DeviceProgram {
    /// What it is, and of which device.
    pub fn words(&self) -> Text {
        let title = match self.point {
            ProgramPoint::XdpDriver => text!(program::XdpDriver),
            ProgramPoint::XdpGeneric => text!(program::XdpGeneric),
            ProgramPoint::XdpHardware => text!(program::XdpHardware),
            ProgramPoint::TcIngress => text!(program::TcIngress),
            ProgramPoint::TcEgress => text!(program::TcEgress),
        };
        text!(program::Named { title, name: self.name.as_deref(), id: self.id, device: &self.device })
    }
}

impl Step {
    /// Its place: `node1/host driver-tx eth0`.
    pub fn at(&self) -> Text {
        text!(step::At { place: &self.place, hook: self.hook, device: self.device.as_deref() })
    }

    /// Its place and what it did.
    pub fn words(&self) -> Text {
        text!(step::Did { at: self.at(), action: self.action.words() })
    }
}

/// `a`, `a and b`, `a, b and c`; of many the first few.
pub fn listed<T: Clone + Into<Arg>>(items: &[T]) -> Text {
    const MOST: usize = 5;
    match items {
        [] => text!(list::Nothing),
        many if many.len() > MOST => text!(list::Some { items: &many[..MOST], more: many.len() - MOST }),
        few => text!(list::All { items: few }),
    }
}

/// Words in quotation marks.
pub fn quoted(words: &str) -> Text {
    text!(list::Quoted { words })
}
