//! The two clocks: tcpdump tells the time of day, Waymark and perf how long the machine has been up.

use std::time::{SystemTime, UNIX_EPOCH};

use waymark_prober::tracer::now_ns;

/// How far the time of day is ahead of the monotonic clock.
pub struct Clock {
    ahead_ns: u64,
}

impl Clock {
    /// As it is now.
    pub fn now() -> Self {
        let day =
            || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64;
        // The reading that took the least time is the truest: others were interrupted.
        let measure = || {
            let (before, day, after) = (now_ns(), day(), now_ns());
            (after - before, day - u64::midpoint(before, after))
        };
        let (_, ahead_ns) = (0..16).map(|_| measure()).min().expect("measured more than once");
        Self { ahead_ns }
    }

    /// A time of day, in nanoseconds since 1970, as one of the monotonic clock.
    pub fn monotonic(&self, day_ns: u64) -> u64 {
        day_ns.saturating_sub(self.ahead_ns)
    }
}
