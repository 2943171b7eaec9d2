//! The probes of one target that were sent and whose fate is open.
//!
//! Fates come in any order, but are handed on in the order of sending: "three failures in a row" is about
//! probes that were sent in a row.

use std::collections::VecDeque;

/// A probe's times.
#[expect(clippy::struct_field_names, reason = "they end in their unit")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// When, by the monotonic clock.
    pub at_ns: u64,
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// When the kernel handed it to a device, in nanoseconds since the Unix epoch.
    pub departed_unix_ns: Option<u64>,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered in time.
    Answered,
    /// It was not, or could not be sent.
    Failed,
}

/// Probes by number. Numbers go up by one.
#[derive(Debug, Default)]
pub struct Pending {
    /// Number of the first entry.
    first: u32,
    entries: VecDeque<(Sent, Option<Fate>)>,
}

impl Pending {
    /// Adds the next probe and gives its number.
    pub fn push(&mut self, sent: Sent) -> u32 {
        let number = self.first.wrapping_add(self.entries.len() as u32);
        self.entries.push_back((sent, None));
        number
    }

    /// Without the probes, whose numbers are not used again: a late answer to one is none to another.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { first: self.first.wrapping_add(self.entries.len() as u32), entries: VecDeque::new() }
    }

    fn entry(&mut self, number: u32) -> Option<&mut (Sent, Option<Fate>)> {
        self.entries.get_mut(number.wrapping_sub(self.first) as usize)
    }

    /// The times of a probe whose fate is open.
    pub fn open(&mut self, number: u32) -> Option<&mut Sent> {
        match self.entry(number)? {
            (sent, None) => Some(sent),
            (_, Some(_)) => None,
        }
    }

    /// Whether the fate of a probe is open.
    pub fn is_open(&self, number: u32) -> bool {
        let entry = self.entries.get(number.wrapping_sub(self.first) as usize);
        entry.is_some_and(|(_, fate)| fate.is_none())
    }

    /// Closes a probe; nothing happens if it is closed or forgotten.
    pub fn close(&mut self, number: u32, fate: Fate) {
        if let Some((_, open @ None)) = self.entry(number) {
            *open = Some(fate);
        }
    }

    /// The number and time of the first open probe.
    pub fn first_open(&self) -> Option<(u32, u64)> {
        let index = self.entries.iter().position(|(_, fate)| fate.is_none())?;
        Some((self.first.wrapping_add(index as u32), self.entries[index].0.at_ns))
    }

    /// Takes out the first probe, if its fate is known.
    pub fn pop_closed(&mut self) -> Option<(Sent, Fate)> {
        let (sent, Some(fate)) = *self.entries.front()? else { return None };
        self.entries.pop_front();
        self.first = self.first.wrapping_add(1);
        Some((sent, fate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(at_ns: u64) -> Sent {
        Sent { at_ns, unix_ns: at_ns, departed_unix_ns: None }
    }

    #[test]
    fn fates_come_out_in_the_order_of_sending() {
        let mut pending = Pending { first: u32::MAX, ..Pending::default() };
        let numbers = [10, 20, 30].map(|at| pending.push(sent(at)));
        assert_eq!(numbers, [u32::MAX, 0, 1]);
        pending.close(0, Fate::Answered);
        assert_eq!(pending.pop_closed(), None, "the one before it is open");
        assert_eq!(pending.first_open(), Some((u32::MAX, 10)));
        pending.close(u32::MAX, Fate::Failed);
        assert_eq!(pending.pop_closed(), Some((sent(10), Fate::Failed)));
        assert_eq!(pending.pop_closed(), Some((sent(20), Fate::Answered)));
        assert_eq!(pending.pop_closed(), None);
        assert_eq!(pending.first_open(), Some((1, 30)));
    }

    #[test]
    fn a_fate_is_final() {
        let mut pending = Pending::default();
        let number = pending.push(sent(1));
        assert!(pending.open(number).is_some());
        pending.close(number, Fate::Failed);
        pending.close(number, Fate::Answered);
        assert!(pending.open(number).is_none());
        assert_eq!(pending.pop_closed(), Some((sent(1), Fate::Failed)));
        assert!(pending.open(number).is_none() && pending.open(77).is_none());
    }
}
