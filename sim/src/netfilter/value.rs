//! What netfilter compares: values, patterns, and sets of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// One operand: a header field, a mark, a device name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// Marks, ports, protocols, types, flags.
    Number(u64),
    /// An address.
    Ip(IpAddr),
    /// A device name.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// What one operand is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Anything (the catch-all element of a set).
    Any,
    /// Equal.
    Is(Value),
    /// From the first to the second, both included; of one kind.
    Range(Value, Value),
    /// A device name that starts so (`eth+`, `eth*`).
    StartsWith(String),
}

impl Pattern {
    /// The pattern of a prefix: its first to its last address.
    pub(crate) fn net(net: IpNet) -> Self {
        if net.prefix_len() == net.max_prefix_len() {
            return Self::Is(Value::Ip(net.addr()));
        }
        Self::Range(Value::Ip(net.network()), Value::Ip(net.broadcast()))
    }

    /// Whether a value fits.
    pub(crate) fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Is(wanted) => wanted == value,
            Self::Range(low, high) => same_kind(low, value) && low <= value && value <= high,
            Self::StartsWith(start) => matches!(value, Value::Text(text) if text.starts_with(start.as_str())),
        }
    }

    /// How many addresses or numbers it covers, as the logarithm of base two; smaller is more specific.
    fn breadth(&self) -> u32 {
        let width = |low: u128, high: u128| 128 - high.saturating_sub(low).leading_zeros();
        match self {
            Self::Any => 129,
            Self::Is(_) => 0,
            Self::StartsWith(_) => 1,
            Self::Range(Value::Ip(low), Value::Ip(high)) => width(bits(*low), bits(*high)),
            Self::Range(Value::Number(low), Value::Number(high)) => width((*low).into(), (*high).into()),
            Self::Range(..) => 128,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Is(value) => write!(f, "{value}"),
            Self::Range(low, high) => match prefix(low, high) {
                Some(net) => write!(f, "{net}"),
                None => write!(f, "{low}-{high}"),
            },
            Self::StartsWith(start) => write!(f, "{start}*"),
        }
    }
}

/// The prefix that is these addresses, from the first to the last.
fn prefix(low: &Value, high: &Value) -> Option<IpNet> {
    let (&Value::Ip(low), &Value::Ip(high)) = (low, high) else { return None };
    let width = if low.is_ipv4() { 32 } else { 128 };
    let differing = 128 - (bits(low) ^ bits(high)).leading_zeros();
    let net = IpNet::new(low, u8::try_from(width - differing).ok()?).ok()?;
    (net.network() == low && net.broadcast() == high).then_some(net)
}

fn same_kind(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Ip(a), Value::Ip(b)) => a.is_ipv4() == b.is_ipv4(),
        (Value::Number(_), Value::Number(_)) | (Value::Text(_), Value::Text(_)) => true,
        _ => false,
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// `address & mask`, for masks that are no prefix too; the mask of the other family leaves it alone.
pub(crate) fn masked(ip: IpAddr, mask: IpAddr) -> IpAddr {
    match (ip, mask) {
        (IpAddr::V4(ip), IpAddr::V4(mask)) => Ipv4Addr::from(u32::from(ip) & u32::from(mask)).into(),
        (IpAddr::V6(ip), IpAddr::V6(mask)) => Ipv6Addr::from(u128::from(ip) & u128::from(mask)).into(),
        (ip, _) => ip,
    }
}

/// A set or map: keys of one or more operands, each with its data (`()` for sets).
#[derive(Clone, Debug, Default)]
pub(crate) struct Elements<D> {
    exact: BTreeMap<Vec<Value>, D>,
    ranges: Vec<(Vec<Pattern>, D)>,
    unread: Option<String>,
}

impl<D> Elements<D> {
    pub(crate) fn new() -> Self {
        Self { exact: BTreeMap::new(), ranges: Vec::new(), unread: None }
    }

    /// Adds an element. Of equal keys the last one stays.
    pub(crate) fn insert(&mut self, key: Vec<Pattern>, data: D) {
        let exact: Option<Vec<Value>> = key
            .iter()
            .map(|pattern| match pattern {
                Pattern::Is(value) => Some(value.clone()),
                _ => None,
            })
            .collect();
        match exact {
            Some(values) => {
                self.exact.insert(values, data);
            }
            None => self.ranges.push((key, data)),
        }
    }

    /// Notes an element that could not be read: that a key is not found says nothing then.
    pub(crate) fn note_unread(&mut self, element: String) {
        self.unread = Some(element);
    }

    /// An element that could not be read.
    pub(crate) fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// The number that is its only element.
    pub(crate) fn single(&self) -> Option<u64> {
        match (self.exact.len(), self.ranges.len(), self.exact.keys().next().map(Vec::as_slice)) {
            (1, 0, Some([Value::Number(number)])) => Some(*number),
            _ => None,
        }
    }

    /// The data of the most specific element that a key falls into.
    pub(crate) fn get(&self, key: &[Value]) -> Option<&D> {
        self.exact.get(key).or_else(|| self.range(key).map(|(_, data)| data))
    }

    /// That element, operand by operand, for people.
    pub(crate) fn element(&self, key: &[Value]) -> Option<Vec<String>> {
        if self.exact.contains_key(key) {
            return Some(key.iter().map(Value::to_string).collect());
        }
        self.range(key).map(|(patterns, _)| patterns.iter().map(Pattern::to_string).collect())
    }

    fn range(&self, key: &[Value]) -> Option<&(Vec<Pattern>, D)> {
        self.ranges
            .iter()
            .filter(|(patterns, _)| {
                patterns.len() == key.len() && patterns.iter().zip(key).all(|(p, v)| p.matches(v))
            })
            // Of ipset's pairs of networks the first decides before the second (`mtype_test_cidrs`).
            .min_by_key(|(patterns, _)| patterns.iter().map(Pattern::breadth).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Value {
        Value::Ip(text.parse().unwrap())
    }

    #[test]
    fn the_most_specific_element_decides() {
        let mut set = Elements::new();
        set.insert(vec![Pattern::net("10.0.0.0/8".parse().unwrap())], "wide");
        set.insert(vec![Pattern::net("10.1.0.0/16".parse().unwrap())], "narrow");
        set.insert(vec![Pattern::net("10.1.1.1/32".parse().unwrap())], "one");
        set.insert(vec![Pattern::Any], "any");
        assert_eq!(set.get(&[ip("10.2.0.1")]), Some(&"wide"));
        assert_eq!(set.get(&[ip("10.1.0.1")]), Some(&"narrow"));
        assert_eq!(set.get(&[ip("10.1.1.1")]), Some(&"one"));
        assert_eq!(set.get(&[ip("11.0.0.0")]), Some(&"any"));
        assert_eq!(set.get(&[ip("11.0.0.0"), Value::Number(1)]), None);
    }

    #[test]
    fn elements_are_told_as_their_tools_write_them() {
        let mut set = Elements::new();
        set.insert(vec![Pattern::net("10.1.0.0/16".parse().unwrap()), Pattern::Is(Value::Number(80))], ());
        let range = Pattern::Range(ip("10.2.0.1"), ip("10.2.0.9"));
        set.insert(vec![range, Pattern::Any], ());
        set.insert(vec![Pattern::net("fd00::/64".parse().unwrap()), Pattern::Any], ());
        let element =
            |address: &str| set.element(&[ip(address), Value::Number(80)]).map(|words| words.join(" "));
        assert_eq!(element("10.1.2.3").as_deref(), Some("10.1.0.0/16 80"));
        assert_eq!(element("10.2.0.5").as_deref(), Some("10.2.0.1-10.2.0.9 *"));
        assert_eq!(element("fd00::1").as_deref(), Some("fd00::/64 *"));
        assert_eq!(element("10.3.0.5"), None);
    }

    #[test]
    fn families_do_not_mix() {
        let net = Pattern::net("0.0.0.0/0".parse().unwrap());
        assert!(net.matches(&ip("1.2.3.4")));
        assert!(!net.matches(&ip("::1")));
    }
}
