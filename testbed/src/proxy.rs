//! Services as kube-proxy makes them, in its iptables and its nftables mode. Pure rendering.
//!
//! What the two modes share is here: names of chains, which follow from the Service as kube-proxy
//! derives them, so that tools which know kube-proxy's shapes find what they expect.

mod iptables;
mod nftables;

use sha2::{Digest, Sha256};
use waymark_proto::{Backend, Service};

use crate::plan::{Cluster, NodePlan, Proxy};
use crate::script::Script;

/// `KUBE-MARK-MASQ`'s bit: kubelet's `--iptables-masquerade-bit` of 14.
const MASQUERADE_MARK: u32 = 0x4000;

/// The scripts that load a node's Service rules. Every node has the same ones.
pub fn scripts(cluster: &Cluster, node: &NodePlan) -> Vec<Script> {
    match cluster.proxy {
        Proxy::Iptables => iptables::scripts(&node.netns, &cluster.services),
        Proxy::Nftables => nftables::scripts(&node.netns, &cluster.services),
    }
}

/// The rules of Services of one family in the iptables mode, as `iptables-restore` reads them.
pub fn iptables_rules(ipv6: bool, services: &[Service]) -> Vec<String> {
    iptables::tables(ipv6, &services.iter().collect::<Vec<_>>())
}

/// The script that makes one backend of a Service lead elsewhere, as a rule does that kube-proxy failed
/// to update.
pub fn redirect(
    cluster: &Cluster,
    node: &NodePlan,
    service: &Service,
    backend: &Backend,
    to: &Backend,
) -> Script {
    match cluster.proxy {
        Proxy::Iptables => iptables::redirect(&node.netns, service, backend, to),
        Proxy::Nftables => nftables::redirect(&node.netns, service, backend, to),
    }
}

/// `namespace/name`: kube-proxy adds `:port`, if the Service's port has a name; ours have none.
fn port_name(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.name)
}

/// `ADDRESS:PORT`, with brackets for IPv6.
fn endpoint(backend: &Backend) -> String {
    std::net::SocketAddr::new(backend.ip, backend.port).to_string()
}

/// RFC 4648 base 32 of the first ten bytes of a SHA-256: sixteen characters, as kube-proxy names chains.
fn chain_hash(parts: &[&str]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(parts.concat());
    let digit = |index: usize| {
        let bit = index * 5;
        let window = u16::from_be_bytes([digest[bit / 8], digest[bit / 8 + 1]]);
        char::from(ALPHABET[usize::from(window >> (11 - bit % 8) & 31)])
    };
    (0..16).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_named_as_kube_proxy_names_them() {
        // Seen in any cluster: the API server's and CoreDNS's chains.
        assert_eq!(chain_hash(&["default/kubernetes:https", "tcp"]), "NPX46M4PTMTKRN6Y");
        assert_eq!(chain_hash(&["kube-system/kube-dns:dns", "udp"]), "TCOU7JCQXEZGVUNU");
    }
}
