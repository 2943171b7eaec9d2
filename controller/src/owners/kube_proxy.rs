//! Chains of kube-proxy: by hash in its iptables mode, spelled out in its nftables mode.

use data_encoding::BASE32;
use sha2::{Digest, Sha256};
use waymark_proto::{Backend, Inventory, RuleRef, Service};

/// Length of the hash in a chain's name.
const HASH: usize = 16;

/// `portProtoHash` and `servicePortEndpointChainName`: base 32 of a SHA-256, its first sixteen characters.
pub(super) fn hash(parts: &[&str]) -> String {
    let mut encoded = BASE32.encode(&Sha256::digest(parts.concat()));
    encoded.truncate(HASH);
    encoded
}

/// The Service's port that a chain's hash stands for.
pub(super) fn service(inventory: &Inventory, hashed: &str) -> Option<String> {
    let mut services = inventory.services.iter();
    let is_it = |service: &&Service| hash(&[&port(service), &service.protocol.to_string()]) == hashed;
    services.find(is_it).map(object)
}

/// The endpoint that a chain's hash stands for.
pub(super) fn endpoint(inventory: &Inventory, hashed: &str) -> Option<String> {
    inventory.services.iter().find_map(|service| {
        let (port, protocol) = (port(service), service.protocol.to_string());
        let is_it = |backend: &&Backend| hash(&[&port, &protocol, &address(backend)]) == hashed;
        let backend = service.backends.iter().find(is_it)?;
        Some(format!("{}, endpoint {}", object(service), address(backend)))
    })
}

/// The Service that the comment of a rule begins with: `"shop/pay:http cluster IP"`, `"shop/pay has no endpoints"`.
pub(super) fn commented(inventory: &Inventory, rule: &RuleRef) -> Option<String> {
    let words = shlex::split(rule.text.as_deref()?)?;
    let comment = words.iter().skip_while(|word| *word != "--comment").nth(1)?;
    let named = comment.split_whitespace().next()?;
    inventory.services.iter().find(|service| port(service) == named).map(object)
}

/// `NWBZK7IH-kube-system/kube-dns/tcp/dns-tcp`, or with an endpoint `…/p80__10.180.0.1/80`.
pub(super) fn spelled(rest: &str) -> Option<String> {
    let (_, name) = rest.split_once('-')?;
    let (name, endpoint) = match name.split_once("__") {
        Some((name, endpoint)) => (name, Some(endpoint)),
        None => (name, None),
    };
    let mut parts = name.splitn(4, '/');
    let (namespace, service, _, port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let port = if port.is_empty() { String::new() } else { format!(":{port}") };
    // Colons of an address are dots there, so that of IPv6 only its port can be read for certain.
    let endpoint = endpoint.map(|endpoint| format!(", endpoint {}", endpoint.replacen('/', ":", 1)));
    Some(format!("Service {namespace}/{service}{port}{}", endpoint.unwrap_or_default()))
}

fn object(service: &Service) -> String {
    format!("Service {}", port(service))
}

/// `shop/pay:http`, or `shop/pay` for a port without name (`ServicePortName.String`).
fn port(service: &Service) -> String {
    let name = service.port_name.as_deref().filter(|name| !name.is_empty());
    let suffix = name.map(|name| format!(":{name}")).unwrap_or_default();
    format!("{}/{}{suffix}", service.namespace, service.name)
}

fn address(backend: &Backend) -> String {
    std::net::SocketAddr::new(backend.ip, backend.port).to_string()
}
