//! One target: when it is probed, what is open, what came of it. Does no I/O and reads no clock.

use waymark_proto::{Clock, Probe, ProbeId, ProbeReport, Streak};

use super::metrics::Series;
use super::pending::{Fate, Pending, Sent};
use super::schedule::Schedule;
use super::streaks::Streaks;
use super::tally::{Counted, Rtt, Scale, Tally};

/// When an answer came.
#[derive(Clone, Copy, Debug)]
pub enum Arrival {
    /// By the monotonic clock when it was read, and by the kernel since the Unix epoch when it came.
    Packet {
        /// When it was read.
        read_ns: u64,
        /// When it came.
        came_unix_ns: Option<u64>,
    },
    /// The kernel measured the round trip itself.
    Measured {
        /// How long.
        rtt_ns: u64,
    },
    /// Only when it was read is known.
    Read {
        /// When.
        read_ns: u64,
    },
}

/// A target of a plan.
#[derive(Debug)]
pub struct Target {
    /// What the plan says.
    pub probe: Probe,
    schedule: Schedule,
    pending: Pending,
    tally: Tally,
    streaks: Streaks,
    series: Series,
}

impl Target {
    /// A target whose first probe is due at `first_ns`.
    pub fn new(probe: Probe, first_ns: u64, series: Series) -> Self {
        let schedule = Schedule::new(first_ns, probe.interval_us.saturating_mul(1000));
        Self {
            probe,
            schedule,
            pending: Pending::default(),
            tally: Tally::default(),
            streaks: Streaks::default(),
            series,
        }
    }

    /// The same target where its probes go elsewhere or at other times: counts go on, what is open is forgotten.
    #[must_use]
    pub fn succeeding(mut self, before: Self) -> Self {
        self.pending = before.pending.renewed();
        self.tally = before.tally;
        self.streaks = before.streaks;
        self
    }

    fn timeout_ns(&self) -> u64 {
        self.probe.timeout_us.saturating_mul(1000)
    }

    /// When there is something to do.
    pub fn next_ns(&self) -> u64 {
        let expiry = self.pending.first_open().map(|(_, at)| at.saturating_add(self.timeout_ns()));
        expiry.map_or(self.schedule.next_ns(), |expiry| expiry.min(self.schedule.next_ns()))
    }

    /// Begins a probe if one is due and gives its number.
    pub fn begin(&mut self, now_ns: u64, unix_ns: u64) -> Option<u32> {
        let missed = self.schedule.take(now_ns)?;
        self.tally.missed(missed);
        self.tally.sent();
        self.series.missed(missed);
        self.series.sent();
        Some(self.pending.push(Sent { at_ns: now_ns, unix_ns, departed_unix_ns: None }))
    }

    /// The kernel handed a probe to a device.
    pub fn departed(&mut self, number: u32, unix_ns: u64) {
        if let Some(sent) = self.pending.open(number) {
            // A packet passes several devices; the first is where it leaves its sender.
            sent.departed_unix_ns.get_or_insert(unix_ns);
        }
    }

    /// Whether an answer to this probe would be timed by the agent's clock for want of a departure.
    pub fn lacks_departure(&mut self, number: u32) -> bool {
        self.pending.open(number).is_some_and(|sent| sent.departed_unix_ns.is_none())
    }

    /// Whether the fate of a probe is open.
    pub fn awaits(&self, number: u32) -> bool {
        self.pending.is_open(number)
    }

    /// A probe was answered.
    pub fn answered(&mut self, number: u32, arrival: Arrival, scale: &Scale) {
        let timeout_ns = self.timeout_ns();
        let Some(sent) = self.pending.open(number) else { return };
        let rtt = rtt(sent, arrival);
        if rtt.ns > timeout_ns {
            return self.failed(number, None);
        }
        self.tally.received(rtt, scale);
        self.series.received(rtt.ns);
        self.close(number, Fate::Answered);
    }

    /// A probe failed; for a known reason, or because its time ran out.
    pub fn failed(&mut self, number: u32, reason: Option<&str>) {
        if self.pending.open(number).is_some() {
            self.tally.lost(reason);
            self.series.lost();
            self.close(number, Fate::Failed);
        }
    }

    /// Fails what waited too long, and tells which.
    pub fn expire(&mut self, now_ns: u64) -> Vec<u32> {
        let mut expired = Vec::new();
        while let Some((number, at)) = self.pending.first_open()
            && at.saturating_add(self.timeout_ns()) <= now_ns
        {
            self.failed(number, None);
            expired.push(number);
        }
        expired
    }

    fn close(&mut self, number: u32, fate: Fate) {
        self.pending.close(number, fate);
        while let Some((sent, fate)) = self.pending.pop_closed() {
            self.streaks.add(sent.unix_ns, fate);
        }
        self.series.out(self.streaks.is_out());
    }

    /// What was counted since this was last asked.
    pub fn report(&mut self, at_unix_ns: u64) -> Report {
        Report { id: self.probe.id, at_unix_ns, counted: self.tally.take(), streaks: self.streaks.take() }
    }
}

/// What there is to tell of a target, not yet in the form of the wire.
#[derive(Debug)]
pub struct Report {
    id: ProbeId,
    at_unix_ns: u64,
    counted: Counted,
    streaks: Vec<Streak>,
}

impl From<Report> for ProbeReport {
    fn from(report: Report) -> Self {
        let Report { id, at_unix_ns, counted, streaks } = report;
        let rtt_v2 = counted.rtt_v2();
        Self { id, at_unix_ns, counts: counted.counts, rtt_v2, clock: counted.clock, streaks }
    }
}

/// The kernel's times if it has both, else the agent's.
fn rtt(sent: &Sent, arrival: Arrival) -> Rtt {
    let by_agent = |read_ns: u64| Rtt { ns: read_ns.saturating_sub(sent.at_ns), clock: Clock::Agent };
    match arrival {
        Arrival::Measured { rtt_ns } => Rtt { ns: rtt_ns, clock: Clock::Kernel },
        Arrival::Read { read_ns } => by_agent(read_ns),
        Arrival::Packet { read_ns, came_unix_ns } => {
            // The kernel stamps by the wall clock, which may be set while a packet travels.
            let kernel = sent.departed_unix_ns.zip(came_unix_ns);
            match kernel.and_then(|(departed, came)| came.checked_sub(departed)) {
                Some(ns) if ns <= read_ns.saturating_sub(sent.at_ns) => Rtt { ns, clock: Clock::Kernel },
                _ => by_agent(read_ns),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymark_proto::Protocol;

    const MS: u64 = 1_000_000;

    fn target() -> Target {
        let probe = Probe {
            id: ProbeId(1),
            watch: "w".to_owned(),
            source: "pod/a/b".to_owned(),
            destination: "pod/a/c".to_owned(),
            netns: "n".into(),
            address: "10.0.0.1".parse().unwrap(),
            port: None,
            protocol: Protocol::Icmp,
            interval_us: 10_000,
            timeout_us: 25_000,
        };
        Target::new(probe, 0, Series::default())
    }

    fn read(read_ns: u64) -> Arrival {
        Arrival::Packet { read_ns, came_unix_ns: None }
    }

    #[test]
    fn every_probe_ends_in_one_count() {
        let (mut target, scale) = (target(), Scale::default());
        for round in 0..6 {
            let now = round * 10 * MS;
            target.expire(now);
            let number = target.begin(now, now).expect("it is time");
            match round {
                1 => target.answered(number, read(now + MS), &scale),
                2 => target.failed(number, Some("no route to host")),
                _ => {}
            }
        }
        target.expire(1000 * MS);
        let report = ProbeReport::from(target.report(0));
        assert_eq!((report.counts.sent, report.counts.received, report.counts.lost), (6, 1, 5));
        assert_eq!(report.counts.errors["no route to host"], 1);
        let out = Streak { since_unix_ns: 20 * MS, failures: 4, until_unix_ns: None };
        assert_eq!(report.streaks, [out]);
    }

    #[test]
    fn it_wakes_for_the_next_probe_or_the_next_expiry() {
        let mut target = target();
        assert_eq!(target.next_ns(), 0);
        target.begin(0, 0);
        assert_eq!(target.next_ns(), 10 * MS);
        target.begin(10 * MS, 0);
        target.begin(20 * MS, 0);
        assert_eq!(target.next_ns(), 25 * MS, "the first expires");
        assert_eq!(target.expire(25 * MS), [0]);
        assert_eq!(target.next_ns(), 30 * MS);
    }

    #[test]
    fn the_kernels_times_are_preferred_where_they_make_sense() {
        let (mut target, scale) = (target(), Scale::default());
        let number = target.begin(0, 5000 * MS).unwrap();
        target.departed(number, 5001 * MS);
        target.departed(number, 5009 * MS);
        let came_unix_ns = Some(5003 * MS);
        target.answered(number, Arrival::Packet { read_ns: 9 * MS, came_unix_ns }, &scale);
        let report = ProbeReport::from(target.report(0));
        assert_eq!(report.clock, Clock::Kernel);

        // The clock was set back meanwhile.
        let number = target.begin(10 * MS, 5010 * MS).unwrap();
        target.departed(number, 5010 * MS);
        target.answered(number, Arrival::Packet { read_ns: 11 * MS, came_unix_ns: Some(1) }, &scale);
        let report = ProbeReport::from(target.report(0));
        assert_eq!((report.clock, report.counts.received), (Clock::Agent, 1));
    }

    #[test]
    fn an_answer_after_its_time_is_a_loss_and_comes_too_late_for_more() {
        let (mut target, scale) = (target(), Scale::default());
        let number = target.begin(0, 0).unwrap();
        target.answered(number, read(26 * MS), &scale);
        target.answered(number, read(1), &scale);
        let counts = ProbeReport::from(target.report(0)).counts;
        assert_eq!((counts.sent, counts.received, counts.lost), (1, 0, 1));
    }
}
