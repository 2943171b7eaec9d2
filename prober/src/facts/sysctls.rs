//! Sysctls below `/proc/sys/net`, which shows the namespace of the thread that reads it
//! (`net_ctl_root.lookup`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::Missing;

const ROOT: &str = "/proc/sys/net";

/// Settings of the whole namespace that decide a packet's way, or explain a loss.
const GLOBAL: &[&str] = &[
    "ipv4.ip_forward",
    "ipv4.ip_default_ttl",
    "ipv4.ip_nonlocal_bind",
    "ipv4.icmp_echo_ignore_all",
    "ipv4.icmp_echo_ignore_broadcasts",
    "ipv4.fib_multipath_hash_policy",
    "ipv4.fib_multipath_hash_fields",
    "ipv4.fib_multipath_use_neigh",
    "ipv4.fwmark_reflect",
    "ipv4.tcp_fwmark_accept",
    "ipv4.tcp_l3mdev_accept",
    "ipv4.udp_l3mdev_accept",
    "ipv6.icmp.echo_ignore_all",
    "ipv6.fib_multipath_hash_policy",
    "ipv6.fib_multipath_hash_fields",
    "ipv6.fwmark_reflect",
    "bridge.bridge-nf-call-iptables",
    "bridge.bridge-nf-call-ip6tables",
    "bridge.bridge-nf-call-arptables",
    "bridge.bridge-nf-filter-vlan-tagged",
    "netfilter.nf_conntrack_max",
    "netfilter.nf_conntrack_count",
    "netfilter.nf_conntrack_tcp_be_liberal",
    "netfilter.nf_conntrack_tcp_loose",
];

/// Settings of each device, and of `all` and `default`.
const PER_DEVICE: &[(&str, &[&str])] = &[
    (
        "ipv4",
        &[
            "forwarding",
            "rp_filter",
            "accept_local",
            "proxy_arp",
            "proxy_arp_pvlan",
            "route_localnet",
            "arp_ignore",
            "arp_filter",
            "src_valid_mark",
            "ignore_routes_with_linkdown",
            "disable_policy",
        ],
    ),
    ("ipv6", &["forwarding", "disable_ipv6", "proxy_ndp", "ignore_routes_with_linkdown"]),
];

/// Reads the sysctls of the thread's namespace. One that is not there belongs to a feature that the kernel
/// does not have (or has not loaded), and is left out.
pub(super) fn read(missing: &mut Missing) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    for &name in GLOBAL {
        // Names of this table have no dot within a component.
        let path = Path::new(ROOT).join(name.replace('.', "/"));
        add(&mut sysctls, name.to_owned(), &path, missing);
    }
    for &(family, settings) in PER_DEVICE {
        let folder = Path::new(ROOT).join(family).join("conf");
        let devices = match fs::read_dir(&folder) {
            Ok(devices) => devices,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                missing.note("sysctls", format!("{}: {error}", folder.display()));
                continue;
            }
        };
        for device in devices.flatten() {
            let Ok(name) = device.file_name().into_string() else { continue };
            for setting in settings {
                let path = device.path().join(setting);
                add(&mut sysctls, format!("{family}.conf.{name}.{setting}"), &path, missing);
            }
        }
    }
    sysctls
}

fn add(sysctls: &mut BTreeMap<String, String>, name: String, path: &Path, missing: &mut Missing) {
    match fs::read_to_string(path) {
        Ok(value) => {
            sysctls.insert(name, value.trim().to_owned());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => missing.note("sysctls", format!("{name}: {error}")),
    }
}
