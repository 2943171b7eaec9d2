//! Chains of Calico: `cali-tw-DEVICE` and `cali-fw-DEVICE` to and from a pod, `cali-pi-POLICY` and `cali-po-POLICY`.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use waymark_proto::{Inventory, Place};

/// Most characters of a chain's name (`MaxChainNameLength` of felix/iptables).
const LONGEST: usize = 28;

/// The pod at the other end of a device.
pub(super) fn workload(inventory: &Inventory, place: &Place, device: &str) -> Option<String> {
    let mut pods = inventory.pods.iter().filter(|pod| pod.node == place.node);
    let pod = pods.find(|pod| pod.host_device.as_deref() == Some(device))?;
    Some(format!("Pod {}", pod.full_name()))
}

/// The Kubernetes policy of a chain: Calico calls it `NAMESPACE/knp.default.NAME`. Its own policies are none of the
/// inventory's.
pub(super) fn policy(inventory: &Inventory, prefix: &str, rest: &str) -> Option<String> {
    // The table's name before it, in nftables' mode, is no part of what is shortened.
    let prefix = prefix.strip_prefix("filter-").unwrap_or(prefix);
    let chain = format!("{prefix}{rest}");
    let mut policies = inventory.policies.iter();
    let named = |policy: &&waymark_proto::NetworkPolicy| {
        let full = format!("{}/knp.default.{}", policy.namespace, policy.name);
        // nftables takes longer names, which need not be shortened.
        chain == shortened(prefix, &full) || rest == full
    };
    policies.find(named).map(|policy| format!("NetworkPolicy {}/{}", policy.namespace, policy.name))
}

/// `GetLengthLimitedID` of felix/hashutils: what is too long becomes a hash behind an underscore.
pub(super) fn shortened(prefix: &str, name: &str) -> String {
    let length = prefix.len() + name.len();
    if length < LONGEST || (length == LONGEST && !name.starts_with('_')) {
        return format!("{prefix}{name}");
    }
    let hash = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(name));
    format!("{prefix}_{}", &hash[..LONGEST - 1 - prefix.len()])
}
