//! What netfilter compares: values, patterns, and sets of them.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// One operand: a header field, a mark, a device name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Value {
    /// Marks, ports, protocols, types, flags.
    Number(u64),
    /// An address.
    Ip(IpAddr),
    /// A device name.
    Text(Arc<str>),
}

impl Value {
    /// A device name.
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }
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

    /// The prefix that it is, of more than one address.
    pub(crate) fn as_net(&self) -> Option<IpNet> {
        match self {
            Self::Range(low, high) => prefix(low, high),
            _ => None,
        }
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

/// Operands of one expression or key, mostly one.
pub(crate) type Operands = SmallVec<[Value; 1]>;

/// A set or map: keys of one or more operands, each with its data (`()` for sets).
#[derive(Clone, Debug)]
pub(crate) struct Elements<D> {
    exact: FxHashMap<Operands, D>,
    /// The number that is its only element.
    single: Option<u64>,
    /// Prefixes that are the only operand, by length.
    nets: BTreeMap<Reverse<u8>, BTreeMap<IpAddr, D>>,
    ranges: Vec<(Vec<Pattern>, D)>,
    unread: Option<String>,
}

impl<D> Default for Elements<D> {
    fn default() -> Self {
        Self {
            exact: FxHashMap::default(),
            single: None,
            nets: BTreeMap::new(),
            ranges: Vec::new(),
            unread: None,
        }
    }
}

impl<D> Elements<D> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an element. Of equal keys the last one stays.
    pub(crate) fn insert(&mut self, key: Vec<Pattern>, data: D) {
        let is_first = self.exact.is_empty() && self.nets.is_empty() && self.ranges.is_empty();
        self.single = match key.as_slice() {
            [Pattern::Is(Value::Number(number))] if is_first => Some(*number),
            _ => None,
        };
        let exact: Option<Operands> = key
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
            None => match <[Pattern; 1]>::try_from(key) {
                Ok([only]) => match only.as_net() {
                    Some(net) => {
                        let same = self.nets.entry(Reverse(net.prefix_len())).or_default();
                        same.insert(net.network(), data);
                    }
                    None => self.ranges.push((vec![only], data)),
                },
                Err(key) => self.ranges.push((key, data)),
            },
        }
    }

    /// All keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Vec<Pattern>> {
        let exact = self.exact.keys().map(|key| key.iter().cloned().map(Pattern::Is).collect());
        let nets = self.nets.iter().flat_map(|(&Reverse(length), nets)| {
            nets.keys().filter_map(move |&ip| Some(vec![Pattern::net(IpNet::new(ip, length).ok()?)]))
        });
        exact.chain(nets).chain(self.ranges.iter().map(|(key, _)| key.clone()))
    }

    /// The data of all elements.
    pub(crate) fn data(&self) -> impl Iterator<Item = &D> {
        let nets = self.nets.values().flat_map(BTreeMap::values);
        self.exact.values().chain(nets).chain(self.ranges.iter().map(|(_, data)| data))
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
        self.single.filter(|_| self.unread.is_none())
    }

    /// The data of the most specific element that a key falls into.
    pub(crate) fn get(&self, key: &[Value]) -> Option<&D> {
        self.exact.get(key).or_else(|| self.wider(key).map(|(_, data)| data))
    }

    /// That element, operand by operand, for people.
    pub(crate) fn element(&self, key: &[Value]) -> Option<Vec<String>> {
        if self.exact.contains_key(key) {
            return Some(key.iter().map(Value::to_string).collect());
        }
        self.wider(key).map(|(patterns, _)| patterns.iter().map(Pattern::to_string).collect())
    }

    /// The most specific element of more than one value.
    fn wider(&self, key: &[Value]) -> Option<(Cow<'_, [Pattern]>, &D)> {
        let net = self.net(key).map(|(net, data)| (vec![Pattern::net(net)].into(), data));
        let range = self.range(key).map(|(patterns, data)| (patterns.into(), data));
        // Of ipset's pairs of networks the first decides before the second (`mtype_test_cidrs`).
        net.into_iter().chain(range).min_by_key(|(patterns, _): &(Cow<'_, [Pattern]>, _)| breadth(patterns))
    }

    /// The longest prefix that an address is in.
    fn net(&self, key: &[Value]) -> Option<(IpNet, &D)> {
        let &[Value::Ip(ip)] = key else { return None };
        self.nets.iter().find_map(|(&Reverse(length), nets)| {
            let net = IpNet::new(ip, length).ok()?.trunc();
            nets.get(&net.addr()).map(|data| (net, data))
        })
    }

    fn range(&self, key: &[Value]) -> Option<(&[Pattern], &D)> {
        let fits = |patterns: &[Pattern]| {
            patterns.len() == key.len() && patterns.iter().zip(key).all(|(p, v)| p.matches(v))
        };
        let fitting = self.ranges.iter().filter(|(patterns, _)| fits(patterns));
        let narrowest = fitting.min_by_key(|(patterns, _)| breadth(patterns));
        narrowest.map(|(patterns, data)| (patterns.as_slice(), data))
    }
}

/// How much a key covers, operand by operand; less is more specific.
fn breadth(patterns: &[Pattern]) -> Vec<u32> {
    patterns.iter().map(Pattern::breadth).collect()
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
