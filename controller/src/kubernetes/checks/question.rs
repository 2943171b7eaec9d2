//! From a Check's spec to a question for the engine: pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use waymark_proto::short;

use crate::kubernetes::crd;
use crate::request::{MAX_INTERVAL, MAX_TIMEOUT, MIN_INTERVAL, MIN_TIMEOUT, Request, RequestError};
use crate::target::Target;

/// From where Checks may send.
///
/// Whoever may create Checks in a namespace may send from the pods of that namespace: little more than what
/// those pods can do themselves. In the namespaces named here Checks may send from every pod and node, so
/// the right to create Checks there is one over the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    cluster_wide: BTreeSet<String>,
}

impl Tenancy {
    /// Cluster-wide sources for the Checks of these namespaces.
    pub fn cluster_wide(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self { cluster_wide: namespaces.into_iter().collect() }
    }

    /// Whether a Check of this namespace may send from there.
    fn allows(&self, namespace: &str, source: &Target) -> bool {
        let own = matches!(source, Target::Pod { namespace: of, .. } if of == namespace);
        own || self.cluster_wide.contains(namespace)
    }
}

/// Why a Check is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    /// The object is not of the form that this controller reads.
    #[error("the Check cannot be read: {0}")]
    Unreadable(String),
    /// None or several of the fields of an end.
    #[error("spec.{end} must have exactly one of {fields}")]
    End {
        /// `source` or `destination`.
        end: &'static str,
        /// The fields.
        fields: &'static str,
    },
    /// A namespace for what has none.
    #[error("spec.{end}.namespace is of no use: only {kinds} have a namespace")]
    Namespace {
        /// `source` or `destination`.
        end: &'static str,
        /// What has one.
        kinds: &'static str,
    },
    /// An address that is none.
    #[error("spec.destination.ip: {:?} is not an address", short(.0))]
    Address(String),
    /// A length of time that is none, or out of its range.
    #[error("spec.{field} must be {least:?} to {most:?}, not {:?}", short(value))]
    Time {
        /// The field.
        field: &'static str,
        /// Shortest.
        least: Duration,
        /// Longest.
        most: Duration,
        /// What it is.
        value: String,
    },
    /// Values that do not fit together.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A source that Checks of this namespace may not use.
    #[error(
        "a Check in namespace {namespace} may send from pods of {namespace} only, not from {source_}: create it in a namespace that the controller was given by --cluster-checks-in"
    )]
    NotPermitted {
        /// The Check's namespace.
        namespace: String,
        /// The source.
        source_: String,
    },
}

/// The question that a spec asks, in this namespace.
pub(super) fn question(
    spec: &crd::CheckSpec,
    namespace: &str,
    tenancy: &Tenancy,
) -> Result<Request, Rejection> {
    let source = source(&spec.source, namespace)?;
    if !tenancy.allows(namespace, &source) {
        let (namespace, source_) = (namespace.to_owned(), source.to_string());
        return Err(Rejection::NotPermitted { namespace, source_ });
    }
    let request = Request {
        protocol: spec.protocol.map(|protocol| match protocol {
            crd::Protocol::Tcp => waymark_proto::Protocol::Tcp,
            crd::Protocol::Udp => waymark_proto::Protocol::Udp,
            crd::Protocol::Icmp => waymark_proto::Protocol::Icmp,
        }),
        count: spec.count,
        sizes: spec.size.into_iter().collect(),
        max_packets: spec.max_packets,
        timeout: time("timeout", &spec.timeout, MIN_TIMEOUT, MAX_TIMEOUT)?,
        interval: time("interval", &spec.interval, MIN_INTERVAL, MAX_INTERVAL)?,
        ttl: spec.hop_limit,
        one_way: spec.one_way,
        ipv6: spec.ip_family == Some(crd::Family::IPv6),
        ..Request::new(source, destination(&spec.destination, namespace)?)
    };
    Ok(request.checked()?)
}

fn source(source: &crd::Source, namespace: &str) -> Result<Target, Rejection> {
    match (&source.pod, &source.node) {
        (Some(name), None) => Ok(Target::Pod {
            namespace: source.namespace.as_deref().unwrap_or(namespace).to_owned(),
            name: name.clone(),
            port: None,
        }),
        (None, Some(_)) if source.namespace.is_some() => {
            Err(Rejection::Namespace { end: "source", kinds: "pods" })
        }
        (None, Some(name)) => Ok(Target::Node { name: name.clone(), port: None }),
        _ => Err(Rejection::End { end: "source", fields: "pod and node" }),
    }
}

fn destination(destination: &crd::Destination, namespace: &str) -> Result<Target, Rejection> {
    let crd::Destination { pod, service, namespace: of, node, ip, port } = destination;
    let namespace = || of.as_deref().unwrap_or(namespace).to_owned();
    let port = *port;
    if of.is_some() && pod.is_none() && service.is_none() {
        return Err(Rejection::Namespace { end: "destination", kinds: "pods and Services" });
    }
    match (pod, service, node, ip) {
        (Some(name), None, None, None) => {
            Ok(Target::Pod { namespace: namespace(), name: name.clone(), port })
        }
        (None, Some(name), None, None) => {
            Ok(Target::Service { namespace: namespace(), name: name.clone(), port })
        }
        (None, None, Some(name), None) => Ok(Target::Node { name: name.clone(), port }),
        (None, None, None, Some(ip)) => {
            let ip: IpAddr = ip.parse().map_err(|_| Rejection::Address(ip.clone()))?;
            Ok(Target::Address { ip, port })
        }
        _ => Err(Rejection::End { end: "destination", fields: "pod, service, node and ip" }),
    }
}

/// A length of time as the schema's pattern has it: one number, one unit.
fn time(field: &'static str, text: &str, least: Duration, most: Duration) -> Result<Duration, Rejection> {
    let units = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(units);
    let seconds = match unit {
        "us" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let length = number.parse().ok().zip(seconds).map(|(number, seconds): (f64, f64)| number * seconds);
    length
        .and_then(|length| Duration::try_from_secs_f64(length).ok())
        .filter(|length| (least..=most).contains(length))
        .ok_or_else(|| Rejection::Time { field, least, most, value: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A spec as the API server stores it, with a value merged in.
    fn spec(part: &Value) -> crd::CheckSpec {
        let mut value = json!({"source": {"pod": "cart"}, "destination": {"service": "pay", "port": 80}});
        for (name, field) in part.as_object().unwrap() {
            value[name] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn asked(part: &Value) -> Result<Request, String> {
        question(&spec(part), "shop", &Tenancy::default()).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn names_without_namespace_are_of_the_checks_own() {
        let request = asked(&json!({})).unwrap();
        assert_eq!(
            request,
            Request::new("pod/shop/cart".parse().unwrap(), "svc/shop/pay:80".parse().unwrap())
        );
        for (destination, text) in [
            (json!({"pod": "pay"}), "pod/shop/pay"),
            (json!({"pod": "pay", "namespace": "till", "port": 1}), "pod/till/pay:1"),
            (json!({"service": "pay", "namespace": "till", "port": 1}), "svc/till/pay:1"),
            (json!({"node": "n1"}), "node/n1"),
            (json!({"ip": "fd00::1", "port": 65535}), "[fd00::1]:65535"),
        ] {
            let request = asked(&json!({"destination": destination})).unwrap();
            assert_eq!(request.destination.to_string(), text);
        }
    }

    #[test]
    fn all_fields_are_asked() {
        let request = asked(&json!({
            "protocol": "UDP", "ipFamily": "IPv6", "count": 7, "interval": "1.5s", "timeout": "1m",
            "size": 1500, "hopLimit": 3, "oneWay": true, "expect": "Unreachable"
        }));
        let request = request.unwrap();
        assert_eq!(request.protocol, Some(waymark_proto::Protocol::Udp));
        assert_eq!((request.count, request.sizes, request.ttl), (7, vec![1500], 3));
        assert_eq!((request.interval, request.timeout), (Duration::from_millis(1500), MAX_TIMEOUT));
        assert!(request.one_way && request.ipv6);
    }

    #[test]
    fn what_the_schema_cannot_refuse_is_refused_in_one_sentence() {
        for (part, sentence) in [
            (json!({"timeout": "61s"}), "spec.timeout must be 1ms to 60s, not \"61s\""),
            (json!({"timeout": "0s"}), "spec.timeout must be 1ms to 60s, not \"0s\""),
            (json!({"interval": "999999999m"}), "spec.interval must be 1µs to 10s, not \"999999999m\""),
            (json!({"interval": "soon"}), "spec.interval must be 1µs to 10s, not \"soon\""),
            (json!({"interval": "1s", "count": 1000}), "count × interval must be at most 180s, not 1000s"),
            (json!({"source": {}}), "spec.source must have exactly one of pod and node"),
            (
                json!({"source": {"pod": "a", "node": "b"}}),
                "spec.source must have exactly one of pod and node",
            ),
            (
                json!({"destination": {"node": "a", "namespace": "b"}}),
                "spec.destination.namespace is of no use: only pods and Services have a namespace",
            ),
            (json!({"destination": {"ip": "1.2.3"}}), "spec.destination.ip: \"1.2.3\" is not an address"),
        ] {
            assert_eq!(asked(&part).unwrap_err(), sentence);
        }
    }

    #[test]
    fn checks_send_from_their_own_namespace_unless_it_is_cluster_wide() {
        let tenancy = Tenancy::cluster_wide(["ops".to_owned()]);
        let other = spec(&json!({"source": {"pod": "cart", "namespace": "shop"}}));
        let node = spec(&json!({"source": {"node": "n1"}}));
        assert!(question(&other, "shop", &tenancy).is_ok());
        for spec in [&other, &node] {
            assert!(question(spec, "ops", &tenancy).is_ok());
            let refused = question(spec, "till", &tenancy).unwrap_err();
            assert!(matches!(&refused, Rejection::NotPermitted { .. }), "{refused}");
            assert!(
                refused.to_string().starts_with("a Check in namespace till may send from pods of till only")
            );
        }
    }
}
