//! Settings of a namespace, as numbers.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

/// The sysctls below `net` that are numbers.
#[derive(Debug, Default)]
pub(crate) struct Sysctls {
    plain: FxHashMap<String, i64>,
    /// `FAMILY.conf.DEVICE.KEY`, by family, device and key.
    of_devices: FxHashMap<String, OfDevices>,
    /// Of IPv4, the larger of a device's and that of `all`.
    larger: OfDevices,
}

/// Settings by device and key.
type OfDevices = FxHashMap<String, FxHashMap<String, i64>>;

/// Keys of which the larger value of two counts, and that are asked for each packet.
const LARGER: [&str; 5] = ["accept_local", "proxy_arp", "route_localnet", "rp_filter", "src_valid_mark"];

impl Sysctls {
    /// Arranges settings by their dotted names.
    pub(crate) fn new(all: &BTreeMap<String, String>) -> Self {
        let mut sysctls = Self::default();
        for (name, value) in all {
            let Ok(value) = value.trim().parse() else { continue };
            match split(name) {
                Some((family, device, key)) => {
                    let devices = sysctls.of_devices.entry(family.to_owned()).or_default();
                    devices.entry(device.to_owned()).or_default().insert(key.to_owned(), value);
                }
                None => drop(sysctls.plain.insert(name.clone(), value)),
            }
        }
        let devices = sysctls.of_devices.get("ipv4").into_iter().flat_map(OfDevices::keys);
        let larger = devices.map(|device| {
            let of_key = |key: &str| (key.to_owned(), sysctls.compare(device, key));
            (device.clone(), LARGER.map(of_key).into_iter().collect())
        });
        sysctls.larger = larger.collect();
        sysctls
    }

    /// The larger of a device's IPv4 setting and that of `all` (`IN_DEV_MAXCONF`, `IN_DEV_ORCONF`).
    pub(crate) fn larger(&self, device: &str, key: &str) -> i64 {
        let known = self.larger.get(device).and_then(|keys| keys.get(key));
        known.copied().unwrap_or_else(|| self.compare(device, key))
    }

    fn compare(&self, device: &str, key: &str) -> i64 {
        let of = |device: &str| self.of_device("ipv4", device, key);
        of(device).or_else(|| of("default")).unwrap_or(0).max(of("all").unwrap_or(0))
    }

    /// One by its dotted name.
    pub(crate) fn get(&self, name: &str) -> Option<i64> {
        match split(name) {
            Some((family, device, key)) => self.of_device(family, device, key),
            None => self.plain.get(name).copied(),
        }
    }

    /// One of a device, `all` or `default`.
    pub(crate) fn of_device(&self, family: &str, device: &str, key: &str) -> Option<i64> {
        self.of_devices.get(family)?.get(device)?.get(key).copied()
    }
}

/// Family, device and key of a setting of devices. Names of devices may have dots, too.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let (family, rest) = name.split_once(".conf.")?;
    let (device, key) = rest.rsplit_once('.')?;
    Some((family, device, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_devices_are_found_whatever_their_names() {
        let all = [
            ("ipv4.ip_forward", "1\n"),
            ("ipv4.conf.eth0.100.rp_filter", "2"),
            ("ipv6.conf.all.forwarding", "1"),
            ("ipv4.ip_local_port_range", "1 2"),
        ];
        let sysctls = Sysctls::new(&all.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(sysctls.get("ipv4.ip_forward"), Some(1));
        assert_eq!(sysctls.of_device("ipv4", "eth0.100", "rp_filter"), Some(2));
        assert_eq!(sysctls.get("ipv6.conf.all.forwarding"), Some(1));
        assert_eq!(sysctls.get("ipv4.ip_local_port_range"), None);
    }
}
