//! The ends of a check as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use waymark_proto::short;

/// One end of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Target {
    /// `pod/NAMESPACE/NAME[:PORT]`
    Pod {
        /// Kubernetes namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Port.
        port: Option<u16>,
    },
    /// `svc/NAMESPACE/NAME[:PORT]`
    Service {
        /// Kubernetes namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Port.
        port: Option<u16>,
    },
    /// `node/NAME[:PORT]`
    Node {
        /// Name.
        name: String,
        /// Port.
        port: Option<u16>,
    },
    /// `IP[:PORT]`, `[IPv6]:PORT`
    Address {
        /// Address.
        ip: IpAddr,
        /// Port.
        port: Option<u16>,
    },
}

/// What is wrong with the text of a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// None of the forms.
    #[error("{:?} is not a target: use {FORMS}", short(text))]
    Form {
        /// The text.
        text: String,
    },
    /// A name that nothing in Kubernetes can have.
    #[error("{:?}: a name has at most {MAX_NAME} characters, not {length}", short(text))]
    TooLong {
        /// The text.
        text: String,
        /// How many characters the name has.
        length: usize,
    },
    /// A port out of range.
    #[error("{:?}: {:?} is not a port (1 to 65535)", short(text), short(port))]
    Port {
        /// The text.
        text: String,
        /// The part that should be a port.
        port: String,
    },
}

/// The forms, for error messages.
const FORMS: &str =
    "pod/NAMESPACE/NAME[:PORT], svc/NAMESPACE/NAME:PORT, node/NAME[:PORT], IP[:PORT] or [IPv6]:PORT";

/// The longest name that Kubernetes takes, in characters: that of a DNS subdomain (RFC 1123).
pub(crate) const MAX_NAME: usize = 253;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let form = || TargetError::Form { text: text.to_owned() };
        let Some((kind, rest)) = text.split_once('/') else { return address(text) };
        let (names, port) = match rest.split_once(':') {
            Some((names, port)) => (names, Some(parse_port(text, port)?)),
            None => (rest, None),
        };
        let names: Vec<&str> = names.split('/').collect();
        if names.iter().any(|name| name.is_empty() || name.chars().any(char::is_whitespace)) {
            return Err(form());
        }
        let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        if longest > MAX_NAME {
            return Err(TargetError::TooLong { text: text.to_owned(), length: longest });
        }
        match (kind, names.as_slice()) {
            ("pod" | "po" | "pods", [namespace, name]) => {
                Ok(Self::Pod { namespace: (*namespace).into(), name: (*name).into(), port })
            }
            ("svc" | "service" | "services", [namespace, name]) => {
                Ok(Self::Service { namespace: (*namespace).into(), name: (*name).into(), port })
            }
            ("node" | "no" | "nodes", [name]) => Ok(Self::Node { name: (*name).into(), port }),
            _ => Err(form()),
        }
    }
}

fn address(text: &str) -> Result<Target, TargetError> {
    let form = || TargetError::Form { text: text.to_owned() };
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Target::Address { ip, port: None });
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(form)?;
        (host.parse::<Ipv6Addr>().map_err(|_| form())?.into(), port.strip_prefix(':'))
    } else {
        let (host, port) = text.split_once(':').ok_or_else(form)?;
        (host.parse::<IpAddr>().map_err(|_| form())?, Some(port))
    };
    match port {
        Some(port) => Ok(Target::Address { ip: host, port: Some(parse_port(text, port)?) }),
        None if text.ends_with(']') => Ok(Target::Address { ip: host, port: None }),
        None => Err(form()),
    }
}

fn parse_port(text: &str, port: &str) -> Result<u16, TargetError> {
    match port.parse() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(TargetError::Port { text: text.to_owned(), port: port.to_owned() }),
    }
}

impl Target {
    /// The port, if one was written.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Pod { port, .. }
            | Self::Service { port, .. }
            | Self::Node { port, .. }
            | Self::Address { port, .. } => *port,
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, name, .. } => write!(f, "pod/{namespace}/{name}")?,
            Self::Service { namespace, name, .. } => write!(f, "svc/{namespace}/{name}")?,
            Self::Node { name, .. } => write!(f, "node/{name}")?,
            Self::Address { ip: IpAddr::V6(ip), port: Some(_) } => write!(f, "[{ip}]")?,
            Self::Address { ip, .. } => write!(f, "{ip}")?,
        }
        match self.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_read_and_print() {
        for text in [
            "pod/shop/cart",
            "pod/shop/cart:80",
            "svc/shop/pay:80",
            "svc/shop/pay",
            "node/n1",
            "node/n1:22",
            "10.0.0.1",
            "10.0.0.1:80",
            "fd00::1",
            "[fd00::1]:80",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]".parse::<Target>().unwrap().to_string(), "::1");
    }

    #[test]
    fn mistakes_are_named() {
        for text in
            ["", "pod", "pod/x", "pod/x/", "pod//y", "pod/x/y/z", "node/", "foo/x/y", "[::1", "[1.2.3.4]:1"]
        {
            assert!(matches!(text.parse::<Target>(), Err(TargetError::Form { .. })), "{text}");
        }
        for text in ["pod/x/y:0", "pod/x/y:http", "1.2.3.4:65536", "1.2.3.4:+8", "svc/x/y:"] {
            assert!(matches!(text.parse::<Target>(), Err(TargetError::Port { .. })), "{text}");
        }
    }

    #[test]
    fn long_names_are_refused_in_few_words() {
        let name = "a".repeat(MAX_NAME);
        assert!(format!("pod/shop/{name}:80").parse::<Target>().is_ok());
        let long = "ä".repeat(100_000);
        for text in [
            format!("pod/shop/{name}a:80"),
            format!("pod/{long}/cart"),
            format!("svc/shop/{long}"),
            format!("node/{long}"),
            long.clone(),
            format!("pod/shop/cart:{long}"),
        ] {
            let message = text.parse::<Target>().unwrap_err().to_string();
            assert!(message.chars().count() < 250, "{message}");
        }
    }
}
