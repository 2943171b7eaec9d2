//! The times of one target's probes: fixed when it starts, whatever answers or sending take.

/// Times at equal distances, each taken once or missed.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    next_ns: u64,
    interval_ns: u64,
}

impl Schedule {
    /// Times from `first_ns` on, in nanoseconds of the monotonic clock. The interval is at least 1 ns.
    pub fn new(first_ns: u64, interval_ns: u64) -> Self {
        Self { next_ns: first_ns, interval_ns: interval_ns.max(1) }
    }

    /// When the next probe is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Takes the latest time that has come; `None` if none has. Gives the number of earlier ones that passed
    /// unused: sending those late would measure what the agent did, not the network.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let late = now_ns.checked_sub(self.next_ns)?;
        let missed = late / self.interval_ns;
        self.next_ns += (missed + 1) * self.interval_ns;
        Some(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_do_not_move_when_probes_are_late() {
        let mut schedule = Schedule::new(100, 10);
        assert_eq!(schedule.take(99), None);
        assert_eq!(schedule.take(100), Some(0));
        assert_eq!(schedule.next_ns(), 110);
        assert_eq!(schedule.take(119), Some(0), "late, but not by an interval");
        assert_eq!(schedule.next_ns(), 120);
    }

    #[test]
    fn what_passed_unused_is_counted() {
        let mut schedule = Schedule::new(100, 10);
        assert_eq!(schedule.take(135), Some(3), "those of 100, 110 and 120; 130 is sent");
        assert_eq!(schedule.next_ns(), 140);
        assert_eq!(schedule.take(135), None);
    }
}
