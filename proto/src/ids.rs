//! Names and numbers that identify things, one type each, so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl<T: Into<String>> From<T> for $type {
            fn from(name: T) -> Self {
                Self(name.into().into())
            }
        }
    };
}

name! {
    /// Name of a node, as Kubernetes or the inventory gives it.
    NodeName
}
name! {
    /// Name of a network namespace: what `ip netns exec` takes, an absolute path, `host`, or
    /// `pod:NAMESPACE/NAME` for one that is known by its pod alone.
    NetnsName
}

impl NetnsName {
    /// The namespace in which the agent itself runs.
    pub const HOST: &'static str = "host";
    /// What names of namespaces that are known by their pods begin with. No file's name does: it has a slash.
    const POD: &'static str = "pod:";

    /// The namespace of a pod, where nobody says by which name or path it can be opened.
    pub fn of_pod(namespace: &str, name: &str) -> Self {
        Self(format!("{}{namespace}/{name}", Self::POD).into())
    }

    /// `NAMESPACE/NAME` of the pod, if that is all that is known of it.
    pub fn pod(&self) -> Option<&str> {
        self.0.strip_prefix(Self::POD)
    }
}

/// Identity of a network namespace while it lives: the inode number of its nsfs file
/// (`net->ns.inum`), which is also what a kernel tracer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetnsInode(pub u32);

/// Identity of a check: random, never zero, unique among the checks that are armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CheckId(u32);

impl CheckId {
    /// Makes an id from a random number; `None` for zero, which marks "no check" in kernel maps.
    pub fn new(id: u32) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// The number as it travels in a marker.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for CheckId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u32::from_str_radix(text, 16)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| format!("{text:?} is not a check id (eight hexadecimal digits)"))
    }
}

impl From<CheckId> for String {
    fn from(id: CheckId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for CheckId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Number of a packet within its check, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u32);

/// A network namespace of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeName,
    /// The namespace on it.
    pub netns: NetnsName,
}

impl Place {
    /// A place from its two names.
    pub fn new(node: impl Into<NodeName>, netns: impl Into<NetnsName>) -> Self {
        Self { node: node.into(), netns: netns.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.netns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_pod_or_by_a_name() {
        assert_eq!(NetnsName::of_pod("shop", "cart").pod(), Some("shop/cart"));
        assert_eq!(NetnsName::from("cart").pod(), None);
    }

    #[test]
    fn check_ids_round_trip_and_refuse_zero() {
        let id = CheckId::new(0x00c0_ffee).unwrap();
        assert_eq!(id.to_string(), "00c0ffee");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("0".parse::<CheckId>().is_err());
        assert!("xyz".parse::<CheckId>().is_err());
        assert_eq!(CheckId::new(0), None);
    }
}
