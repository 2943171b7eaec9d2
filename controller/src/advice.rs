//! What to do about a fault: one table from cause to a sentence with the commands to look with.

use waymark_proto::{Cause, FaultPoint, Flow};

/// The next step for a fault of this cause at this place, about this flow.
pub fn advice(fault: &FaultPoint, flow: &Flow) -> String {
    let at = match fault.netns.as_str() {
        waymark_proto::NetnsName::HOST => format!("on {}", fault.node),
        netns => format!("on {}, in `ip netns exec {netns}`", fault.node),
    };
    let device = fault.device.as_deref().unwrap_or("DEVICE");
    let (dst, src) = (flow.dst, flow.src);
    let family = if flow.is_ipv6() { "-6 " } else { "" };
    let route = format!("`ip {family}route get {dst} from {src}`");
    match fault.cause {
        Cause::FilterDrop | Cause::FilterReject => match &fault.rule {
            Some(rule) => format!(
                "{at}: look at the rule with `nft -a list chain {} {} {}` (or `iptables-save`) and remove or narrow it, or change the NetworkPolicy that it comes from",
                rule.family, rule.table, rule.chain
            ),
            None => format!("{at}: compare `nft -a list ruleset` and `iptables-save -c` with what should pass; counters show which rule matched"),
        },
        Cause::ServiceWithoutEndpoints => "check that the Service's selector matches pods that are Ready: `kubectl get endpointslices` and `kubectl get pods -o wide`".to_owned(),
        Cause::NoRoute => format!("{at}: {route} finds no route; add it, or see why the network plugin did not"),
        Cause::BlackholeRoute | Cause::UnreachableRoute | Cause::ProhibitRoute => {
            format!("{at}: {route} ends at a route that refuses; find it with `ip {family}route show table all` and remove it")
        }
        Cause::WrongRoute => format!("{at}: {route} leads out of the cluster; add the missing route to the node that owns {dst}"),
        Cause::ForwardingDisabled => {
            let key = if flow.is_ipv6() { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
            format!("{at}: `sysctl -w {key}=1`, and find what turned it off")
        }
        Cause::SourceValidation => format!("{at}: the way back to {src} does not leave by {device}; look at `ip {family}route get {src}` and `sysctl net.ipv4.conf.{device}.rp_filter`"),
        Cause::MartianAddress => format!("{at}: neither {src} nor {dst} may be loopback, multicast or broadcast there; look at `ip addr` and at what translates addresses"),
        Cause::TtlExpired => format!("{at}: look for a routing loop with {route} on each node, or raise the TTL"),
        Cause::MtuExceeded => format!("{at}: compare `ip link show` MTUs along the path and see that ICMP \"fragmentation needed\" is not filtered"),
        Cause::NeighbourUnresolved => format!("{at}: `ip neigh show dev {device}`; see that the next hop is up, has that address and answers ARP or neighbour discovery"),
        Cause::WrongNeighbour => format!("{at}: `ip neigh show dev {device}` holds a wrong link-layer address; delete the entry"),
        Cause::DeviceDown => format!("{at}: `ip link set {device} up`, and find what took it down"),
        Cause::NoCarrier => format!("{at}: {device} has no carrier: its other end is down or gone; look at `ip link show` on both ends"),
        Cause::QueueDrop => format!("{at}: `tc -s qdisc show dev {device}`; the queue is full or the qdisc drops on purpose"),
        Cause::BridgePort => format!("{at}: `bridge link show`, `bridge fdb show`; see that the port is in the bridge, up, and forwarding"),
        Cause::TunnelNoRemote => format!("{at}: `bridge fdb show dev {device}` has no remote for the destination; see whether the network plugin knows the other node"),
        Cause::TunnelUnknownVni => format!("{at}: `ip -d link show type vxlan` on both nodes: the VNIs differ"),
        Cause::TunnelDrop => format!("{at}: `ip -d link show {device}` and `ip -s link show {device}`; compare the tunnel's settings on both nodes"),
        Cause::NoListener => match flow.protocol.has_ports() {
            true => format!("{at}: nothing listens on port {}; look at `ss -lntu`, and at the Service's targetPort", flow.dst_port),
            false => format!("{at}: no socket takes it; look at `ss -lnw`"),
        },
        Cause::SocketQueueFull => format!("{at}: the application does not take connections or data fast enough; look at `ss -lnt` (Recv-Q against Send-Q) and `nstat -az TcpExtListenDrops`"),
        Cause::SocketFilter => format!("{at}: a socket filter, cgroup program or security module refused it; look at `bpftool cgroup tree` and `ss -lnb`"),
        Cause::OtherHost => format!("{at}: the frame carried another host's link-layer address; look at `ip neigh` on the sender"),
        Cause::Malformed => format!("{at}: headers or checksums were damaged on the way; look at `ethtool -k` offloads and `nstat -az` error counters"),
        Cause::BpfDrop => format!("{at}: a BPF program dropped it; look at `bpftool net show` and `tc filter show dev {device} ingress`"),
        Cause::RoutingLoop => format!("compare {route} on each node of the loop; two of them point at one another"),
        Cause::SilentLoss => match &fault.span {
            Some(span) => format!(
                "nothing between {} and {} reported the loss: look at the network between them (security groups, switch, MTU, `ip -s link show {}`)",
                span.last_seen.node, span.first_missing.node, span.last_seen.device.as_deref().unwrap_or(device)
            ),
            None => format!("{at}: look at what lies behind {device}: `ip -s link show {device}`, and at the network that it leads to"),
        },
        Cause::KernelDrop => format!("{at}: the kernel names reason {} in {}; look at `nstat -az` and `ip -s link`", fault.reason.as_deref().unwrap_or("NOT_SPECIFIED"), fault.function.as_deref().unwrap_or("an unknown function")),
        Cause::SendFailed => format!("{at}: try {route}; the sending system call itself failed"),
        Cause::Unknown => format!("{at}: {route}, `nft list ruleset`, `ip -s link`; nothing that was watched tells more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn every_cause_has_advice_with_a_place_or_a_command() {
        for &cause in Cause::ALL {
            let fault = FaultPoint { cause, ..fixture::fault() };
            let text = advice(&fault, &fixture::tcp());
            assert!(text.contains('`'), "{cause}: {text}");
        }
    }
}
