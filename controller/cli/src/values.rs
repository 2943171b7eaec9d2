//! Values of the command line, from text. Errors say what is allowed, and repeat little of the text: the
//! sentence around them does that.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use waymark_proto::{Endpoint, EndpointError, NodeName};

/// Longest name of a node, as of anything in Kubernetes, in bytes.
const MAX_NAME: usize = 253;
/// Longest path, in bytes: `PATH_MAX` less the final zero.
const MAX_PATH: usize = 4095;
/// Longest component of a path, in bytes: `NAME_MAX`.
const MAX_COMPONENT: usize = 255;
/// Longest path of a unix socket, in bytes: `sun_path` less the final zero.
const MAX_SOCKET: usize = 107;

/// A whole number within a range.
pub(crate) fn number<T: Copy + Display + TryFrom<i64> + Into<i64>>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let (least, most) = (*range.start(), *range.end());
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("must be a number from {least} to {most}"));
        }
        // What is too long even for this is out of range too.
        let number = text.parse::<i64>().ok().filter(|n| (least.into()..=most.into()).contains(n));
        number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| format!("must be {least} to {most}"))
    }
}

/// Least rate of loss that can be asked for, in percent: it takes as many packets as a check may send.
const LEAST_LOSS: f64 = 0.05;

/// A rate of loss, in percent.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    number
        .filter(|percent| (LEAST_LOSS..100.0).contains(percent))
        .ok_or_else(|| format!("must be a number of percent from {LEAST_LOSS} to less than 100, like 0.5"))
}

/// A length of time within a range: seconds, or a number with one of the units us, ms, s, m.
pub(crate) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let wrong = || "is not a length of time: use 2s, 500ms or a number of seconds".to_owned();
        let outside = || format!("must be {:?} to {:?}", range.start(), range.end());
        let positive = text.strip_prefix('-').unwrap_or(text);
        let digits = positive.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(positive.len());
        let (number, unit) = positive.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let scale = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            _ => return Err(wrong()),
        };
        // What is too long to be counted is out of range too.
        let duration = Duration::try_from_secs_f64(number * scale).ok();
        duration.filter(|d| positive == text && range.contains(d)).ok_or_else(outside)
    }
}

/// An address of a controller.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, String> {
    let parsed: Result<Endpoint, EndpointError> = text.parse();
    match parsed.map_err(|error| error.to_string())? {
        Endpoint::Unix(path) if path.as_os_str().len() > MAX_SOCKET => {
            Err(format!("the path of a unix socket has at most {MAX_SOCKET} bytes"))
        }
        Endpoint::Tls { host, .. } | Endpoint::Tcp { host, .. } if host.len() > MAX_NAME => {
            Err(format!("the name of a host has at most {MAX_NAME} characters"))
        }
        endpoint => Ok(endpoint),
    }
}

/// A name of a node.
pub(crate) fn node(text: &str) -> Result<NodeName, String> {
    match text.len() {
        0 => Err("a node has a name".to_owned()),
        1..=MAX_NAME => Ok(text.into()),
        length => Err(format!("a name has at most {MAX_NAME} characters, not {length}")),
    }
}

/// A path of a file. Bytes that are no UTF-8 are refused by clap.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.len() > MAX_PATH || text.split('/').any(|component| component.len() > MAX_COMPONENT) {
        return Err(format!(
            "a path has at most {MAX_PATH} bytes, each of its parts at most {MAX_COMPONENT}"
        ));
    }
    if text.is_empty() { Err("a path is needed".to_owned()) } else { Ok(text.into()) }
}

/// A path of a recording to be written.
pub(crate) fn recording(text: &str) -> Result<PathBuf, String> {
    let path = path(text)?;
    match path.extension() {
        Some(extension) if extension == "zst" => {
            Err("recordings are compressed by gzip: let the name end in .json.gz, or in .json".to_owned())
        }
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_loss_are_read() {
        assert_eq!((percent("0.5"), percent("5%")), (Ok(0.5), Ok(5.0)));
        for wrong in ["0", "100", "-1", "x", "", "NaN", "inf", "1e-9"] {
            assert!(percent(wrong).unwrap_err().contains("must be a number of percent"), "{wrong}");
        }
    }

    #[test]
    fn lengths_of_time_are_read() {
        let duration = duration(Duration::from_millis(1)..=Duration::from_secs(60));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for text in ["", "s", "-", "--local", "1h", "1e99", "1.2.3", "soon"] {
            assert!(duration(text).unwrap_err().starts_with("is not a length of time"), "{text}");
        }
        let long = "9".repeat(1000);
        for text in ["0", "-1", "-1s", "999us", "61", "99999999999s", "99999999999999999999999s", &long] {
            assert_eq!(duration(text).unwrap_err(), "must be 1ms to 60s", "{text}");
        }
    }

    #[test]
    fn numbers_keep_to_their_range() {
        let number = number(1..=1000_u32);
        assert_eq!((number("1"), number("1000")), (Ok(1), Ok(1000)));
        for text in ["0", "-1", "1001", "99999999999999999999999"] {
            assert_eq!(number(text).unwrap_err(), "must be 1 to 1000", "{text}");
        }
        for text in ["", "-", "x", "+1", "1.5", "--1"] {
            assert_eq!(number(text).unwrap_err(), "must be a number from 1 to 1000", "{text}");
        }
    }

    #[test]
    fn long_texts_are_refused_in_few_words() {
        let long = "a".repeat(100_000);
        let errors = [
            endpoint(&long).unwrap_err(),
            endpoint(&format!("unix:/{long}")).unwrap_err(),
            endpoint(&format!("{long}:1")).unwrap_err(),
            node(&long).unwrap_err(),
            path(&long).unwrap_err(),
            path(&"a/".repeat(50_000)).unwrap_err(),
        ];
        for error in errors {
            assert!(error.chars().count() < 160, "{error}");
        }
    }
}
