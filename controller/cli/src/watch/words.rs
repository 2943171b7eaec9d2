//! Times, shares and outages as people read them.

use std::time::Duration;

use waymark_controller::watching::{Outage, OutageCheck, Summary};
use waymark_proto::RTT_BUCKET_BOUNDS_NS;

use crate::render::fault_in_words;

/// A round-trip time: three digits and a unit.
pub(super) fn rtt(ns: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let ns = ns as f64;
    let (value, unit) = match ns {
        _ if ns < 1e3 => (ns, "ns"),
        _ if ns < 1e6 => (ns / 1e3, "µs"),
        _ if ns < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// A length of time: `250 ms`, `12 s`, `3 min 20 s`, `5 h 2 min`, `4 d 3 h`.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..10 => format!("{:.1} s", time.as_secs_f64()).replace(".0 ", " "),
        10..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

/// A share of lost probes.
pub(super) fn loss(summary: &Summary) -> String {
    match summary.loss() {
        None => "-".to_owned(),
        Some(0.0) => "0 %".to_owned(),
        Some(share) if share < 0.001 => "< 0.1 %".to_owned(),
        Some(share) => format!("{:.1} %", share * 100.0).replace(".0 ", " "),
    }
}

/// Counts as bars between the bounds of the first and the last that hold any: `≤ 200 µs ▂█▁ ≤ 800 µs`.
pub(super) fn bars(counts: &[u64]) -> String {
    const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let held = |count: &u64| *count > 0;
    let (Some(first), Some(last)) = (counts.iter().position(held), counts.iter().rposition(held)) else {
        return "-".to_owned();
    };
    let most = counts.iter().copied().max().unwrap_or(1);
    let bar = |count: &u64| match (*count * 8).div_ceil(most) {
        0 => ' ',
        eighths => EIGHTHS[eighths as usize - 1],
    };
    let drawn: String = counts[first..=last].iter().map(bar).collect();
    let (low, high) = (bucket(first), bucket(last));
    if first == last { format!("{low} {drawn}") } else { format!("{low} {drawn} {high}") }
}

/// The bucket of a time, as people read it.
pub(super) fn bucket(index: usize) -> String {
    match RTT_BUCKET_BOUNDS_NS.get(index) {
        Some(bound) => format!("≤ {}", rtt(*bound)),
        None => "longer".to_owned(),
    }
}

/// `#3 mesh: node/a → node/b (icmp) failed 2.1 s, 10 probes; Unreachable: lost between …`
pub(super) fn outage(outage: &Outage, now_unix_ns: u64) -> String {
    let length = span(Duration::from_nanos(outage.length_ns(now_unix_ns)));
    let tense = if outage.until_unix_ns.is_some() { "failed for" } else { "fails since" };
    format!(
        "#{} {}: {} → {} ({}) {tense} {length}, {} probes; {}",
        outage.id,
        outage.watch,
        outage.source,
        outage.destination,
        outage.protocol,
        outage.failures,
        check(&outage.check)
    )
}

fn check(check: &OutageCheck) -> String {
    let (verdict, fault) = match check {
        OutageCheck::Waiting => return "its check waits".to_owned(),
        OutageCheck::Running => return "its check runs".to_owned(),
        OutageCheck::Failed { message } => return format!("its check failed: {message}"),
        OutageCheck::Skipped { message } => return format!("no check: {message}"),
        OutageCheck::Done { result, .. } => (result.verdict, result.fault_point.as_ref()),
        OutageCheck::Outlined { verdict, fault_point, .. } => (*verdict, fault_point.as_deref()),
    };
    match fault {
        Some(fault) => {
            let culprit = fault.culprit.as_ref().map(|culprit| format!("; culprit {culprit}"));
            format!("{verdict}: {}{}", fault_in_words(fault), culprit.unwrap_or_default())
        }
        None => format!("the check said {verdict}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown: Vec<String> =
            [900, 1_234, 51_234, 999_400, 1_500_000, 45_600_000, 2_000_000_000].map(rtt).into();
        assert_eq!(shown, ["900 ns", "1.23 µs", "51.2 µs", "999 µs", "1.50 ms", "45.6 ms", "2.00 s"]);
        let shown: Vec<String> = [250, 1_000, 2_140, 12_000, 200_000, 18_120_000, 356_400_000]
            .map(|ms| span(Duration::from_millis(ms)))
            .into();
        assert_eq!(shown, ["250 ms", "1 s", "2.1 s", "12 s", "3 min 20 s", "5 h 2 min", "4 d 3 h"]);
    }

    #[test]
    fn bars_stand_between_their_bounds() {
        assert_eq!(bars(&[0, 0]), "-");
        assert_eq!(bars(&[0, 3, 0]), "≤ 100 µs █");
        assert_eq!(bars(&[1, 16, 0, 4]), "≤ 50.0 µs ▁█ ▂ ≤ 400 µs");
        let mut longest = vec![0; RTT_BUCKET_BOUNDS_NS.len() + 1];
        *longest.last_mut().unwrap() = 1;
        assert_eq!(bars(&longest), "longer █");
    }

    #[test]
    fn no_loss_is_told_from_nothing_known() {
        let of = |received, lost| {
            let mut summary = Summary::default();
            (summary.counts.received, summary.counts.lost) = (received, lost);
            loss(&summary)
        };
        assert_eq!([of(0, 0), of(10, 0), of(1999, 1), of(3, 1)], ["-", "0 %", "< 0.1 %", "25 %"]);
    }
}
