//! What a user expects of a change: a file of connections that should work or should not.
//!
//! ```yaml
//! - {source: pod/shop/cart, destination: "pod/shop/pay-*:8080", expect: Reachable}
//! - {source: "pod/test/*", destination: "svc/shop/pay", expect: Unreachable}
//! ```
//!
//! Names may end with `*`. A destination without a port means all of its ports.

use serde::Deserialize;
use waymark_proto::{Text, short, text};
use waymark_sim::{Change, Pair, Reach, Reachability, Target};

/// An expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    source: Pattern,
    destination: Pattern,
    expect: Expected,
    /// As it was written.
    text: String,
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Expected {
    /// It works after the change.
    Reachable,
    /// It does not.
    Unreachable,
}

/// All that is expected of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectations {
    /// The expectations; the first that fits a connection holds.
    pub list: Vec<Expectation>,
    /// Whether every loss is accepted that no expectation speaks of.
    pub accept_lost: bool,
}

/// Why a file holds no expectations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpectError {
    /// Not of this shape.
    #[error(
        "{name} holds no expectations: {reason}; it should be a list like `- {{source: pod/shop/cart, destination: \"svc/shop/pay:80\", expect: Reachable}}`"
    )]
    Shape {
        /// The file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// An end that is none.
    #[error("{name}, expectation {number}: {text:?} is not {wanted}")]
    End {
        /// The file.
        name: String,
        /// Which expectation, from 1.
        number: usize,
        /// The end.
        text: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// An expectation of nothing.
    #[error(
        "the expectation `{text}` fits no connection: no pod or Service that is looked at has such a name or port"
    )]
    Nothing {
        /// The expectation.
        text: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    source: String,
    destination: String,
    expect: Expected,
}

/// Some pods or Services.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    service: bool,
    namespace: String,
    name: String,
    port: Option<u16>,
}

impl Pattern {
    fn read(text: &str, destination: bool) -> Option<Self> {
        let mut parts = text.split('/');
        let service = match parts.next()? {
            "pod" => false,
            "svc" if destination => true,
            _ => return None,
        };
        let (namespace, rest) = (parts.next()?, parts.next()?);
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) if destination => (name, Some(port.parse().ok().filter(|port| *port > 0)?)),
            Some(_) => return None,
            None => (rest, None),
        };
        let whole = parts.next().is_none() && !namespace.is_empty() && !name.is_empty();
        whole.then(|| Self { service, namespace: namespace.to_owned(), name: name.to_owned(), port })
    }

    fn fits(&self, service: bool, namespace: &str, name: &str, port: Option<u16>) -> bool {
        self.service == service
            && glob(&self.namespace, namespace)
            && glob(&self.name, name)
            && (self.port.is_none() || self.port == port)
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

impl Expectations {
    /// Reads a file of expectations.
    ///
    /// # Errors
    /// Not a list of this shape, or an end that is none.
    pub fn read(name: &str, text: &str) -> Result<Vec<Expectation>, ExpectError> {
        let written: Vec<Written> = serde_saphyr::from_str(text).map_err(|error| {
            let reason = error.without_snippet().to_string();
            let reason = reason.lines().next().unwrap_or("not understood").to_owned();
            ExpectError::Shape { name: name.to_owned(), reason }
        })?;
        let read = |(index, written): (usize, Written)| {
            let text = format!("{} → {}: {:?}", written.source, written.destination, written.expect);
            let end = |text: &str, destination: bool, wanted| {
                Pattern::read(text, destination).ok_or_else(|| ExpectError::End {
                    name: name.to_owned(),
                    number: index + 1,
                    text: short(text).into_owned(),
                    wanted,
                })
            };
            Ok(Expectation {
                source: end(&written.source, false, "a source: use pod/NAMESPACE/NAME")?,
                destination: end(
                    &written.destination,
                    true,
                    "a destination: use pod/NAMESPACE/NAME[:PORT] or svc/NAMESPACE/NAME[:PORT]",
                )?,
                expect: written.expect,
                text: short(&text).into_owned(),
            })
        };
        written.into_iter().enumerate().map(read).collect()
    }

    /// What is expected of a pair, if anything is said of it.
    pub fn of(&self, pair: &Pair) -> Option<Expected> {
        self.list.iter().find(|expectation| expectation.fits(pair)).map(|expectation| expectation.expect)
    }

    /// Whether a loss is wanted.
    pub fn accepts_loss(&self, pair: &Pair) -> bool {
        match self.of(pair) {
            Some(Expected::Unreachable) => true,
            Some(Expected::Reachable) => false,
            None => self.accept_lost,
        }
    }

    /// The changes that are losses which nobody wants.
    pub fn unwanted<'a>(&self, changes: &'a [Change]) -> Vec<&'a Change> {
        use super::groups::Shift;
        let lost = changes.iter().filter(|change| Shift::of(change.before, change.after) == Shift::Lost);
        lost.filter(|change| !self.accepts_loss(&change.pair)).collect()
    }

    /// The pairs whose predicted answer is not the expected one, a sentence each for at most some of them.
    ///
    /// # Errors
    /// An expectation that fits no pair: it would hold however wrong it is.
    pub fn unmet(&self, after: &Reachability) -> Result<Vec<Text>, ExpectError> {
        let mut fitting = vec![false; self.list.len()];
        let mut unmet = Vec::new();
        if self.list.is_empty() {
            return Ok(unmet);
        }
        for (pair, reach) in after.pairs() {
            let mut fits = self.list.iter().enumerate().filter(|(_, expectation)| expectation.fits(&pair));
            let Some((first, expectation)) = fits.next() else { continue };
            fitting[first] = true;
            fits.for_each(|(index, _)| fitting[index] = true);
            let met = match (expectation.expect, reach) {
                (Expected::Reachable, Reach::Allowed)
                | (Expected::Unreachable, Reach::Denied | Reach::NoEndpoints | Reach::Absent) => true,
                // A pod reaches itself whatever anybody wants.
                (Expected::Unreachable, _) => is_itself(&pair),
                (Expected::Reachable, _) => false,
            };
            if !met {
                unmet.push(text!(validation::Unmet {
                    pair: pair.to_string(),
                    expected: format!("{:?}", expectation.expect),
                    reach: reach.words(),
                }));
            }
        }
        match fitting.iter().position(|fits| !fits) {
            Some(index) => Err(ExpectError::Nothing { text: self.list[index].text.clone() }),
            None => Ok(unmet),
        }
    }
}

impl Expectation {
    fn fits(&self, pair: &Pair) -> bool {
        let destination = &pair.destination;
        let (service, name) = match &destination.target {
            Target::Pod(name) => (false, name),
            Target::Service(name) => (true, name),
        };
        self.source.fits(false, &pair.namespace, &pair.pod, None)
            && self.destination.fits(service, &destination.namespace, name, destination.traffic.port())
    }
}

/// Whether a pod is asked about itself.
pub(super) fn is_itself(pair: &Pair) -> bool {
    let to = &pair.destination;
    to.namespace == pair.namespace && to.target == Target::Pod(pair.pod.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymark_proto::TransportProtocol;
    use waymark_sim::{Destination, Traffic};

    fn pair(pod: &str, target: Target, port: u16) -> Pair {
        let traffic = Traffic::Port(TransportProtocol::Tcp, port);
        let destination = Destination { namespace: "shop".into(), target, traffic };
        Pair { namespace: "shop".into(), pod: pod.into(), destination }
    }

    fn expectations(text: &str) -> Expectations {
        Expectations { list: Expectations::read("e.yaml", text).unwrap(), accept_lost: false }
    }

    #[test]
    fn the_first_that_fits_holds() {
        let expectations = expectations(
            "- {source: pod/shop/cart, destination: 'pod/shop/pay-*:8080', expect: Reachable}\n\
             - {source: pod/shop/*, destination: pod/*/*, expect: Unreachable}\n",
        );
        let of =
            |pod: &str, target: &str, port| expectations.of(&pair(pod, Target::Pod(target.into()), port));
        assert_eq!(of("cart", "pay-1", 8080), Some(Expected::Reachable));
        assert_eq!(of("cart", "pay-1", 9090), Some(Expected::Unreachable));
        assert_eq!(of("other", "pay-1", 8080), Some(Expected::Unreachable));
        assert_eq!(expectations.of(&pair("cart", Target::Service("pay".into()), 80)), None);
        assert!(expectations.accepts_loss(&pair("other", Target::Pod("x".into()), 1)));
        assert!(!expectations.accepts_loss(&pair("cart", Target::Service("pay".into()), 80)));
    }

    #[test]
    fn mistakes_are_named() {
        let says = |text: &str| Expectations::read("e.yaml", text).unwrap_err().to_string();
        assert!(says("source: x").contains("e.yaml holds no expectations"));
        assert!(says("- {source: pod/a/b, destination: pod/a/b, expect: reachable}").contains("reachable"));
        assert!(says("- {source: pod/a/b, destination: pod/a/b, expected: Reachable}").contains("expected"));
        assert_eq!(
            says("- {source: svc/a/b, destination: pod/a/b, expect: Reachable}"),
            "e.yaml, expectation 1: \"svc/a/b\" is not a source: use pod/NAMESPACE/NAME"
        );
        assert!(
            says("- {source: pod/a/b, destination: 'pod/a/b:0', expect: Reachable}").contains("destination")
        );
        assert!(
            says("- {source: pod/a/b, destination: pod/a/b/c, expect: Reachable}").contains("destination")
        );
    }
}
