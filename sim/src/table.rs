//! A routing table, to be asked for the longest prefix.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use waymark_proto::Route;

/// The routes of one table and family.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By length of the prefix, then by its network; of one prefix by metric.
    by_length: BTreeMap<Reverse<u8>, BTreeMap<IpAddr, Vec<Route>>>,
}

impl Table {
    /// Arranges the routes of a table. Of equal metric they keep their order.
    pub(crate) fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut table = Self::default();
        for route in routes {
            let same_length = table.by_length.entry(Reverse(route.dst.prefix_len())).or_default();
            same_length.entry(route.dst.network()).or_default().push(route);
        }
        for routes in table.by_length.values_mut().flat_map(BTreeMap::values_mut) {
            routes.sort_by_key(|route| route.metric);
        }
        table
    }

    /// The routes whose prefix has an address, the longest first, then by metric.
    pub(crate) fn to(&self, ip: IpAddr) -> impl Iterator<Item = &Route> {
        let lengths = self.by_length.iter();
        let routes = lengths
            .filter_map(move |(&Reverse(length), nets)| nets.get(&IpNet::new(ip, length).ok()?.network()));
        routes.flatten()
    }

    /// All routes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.by_length.values().flat_map(BTreeMap::values).flatten()
    }
}

#[cfg(test)]
mod tests {
    use waymark_proto::RouteType;

    use super::*;

    fn route(dst: &str, metric: u32) -> Route {
        let dst = dst.parse().unwrap();
        let (table, kind, next_hops) = (254, RouteType::Unicast, Vec::new());
        Route { table, dst, kind, metric, tos: 0, prefsrc: None, next_hops }
    }

    #[test]
    fn the_longest_prefix_comes_first_then_the_smallest_metric() {
        let all = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.5/32", "10.2.0.0/16"];
        let mut routes: Vec<Route> = all.iter().map(|dst| route(dst, 100)).collect();
        routes.push(route("10.1.0.0/16", 50));
        let table = Table::new(routes);
        let to = |ip: &str| -> Vec<String> {
            table.to(ip.parse().unwrap()).map(|route| format!("{} {}", route.dst, route.metric)).collect()
        };
        assert_eq!(to("10.1.0.9"), ["10.1.0.0/16 50", "10.1.0.0/16 100", "10.0.0.0/8 100", "0.0.0.0/0 100"]);
        assert_eq!(to("10.1.0.5")[0], "10.1.0.5/32 100");
        assert_eq!(to("192.0.2.1"), ["0.0.0.0/0 100"]);
    }
}
