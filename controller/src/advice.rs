//! What to do about a fault: one table from cause to a sentence with the commands to look with.

use waymark_proto::{Anomaly, AnomalyKind, Cause, FaultPoint, Flow, Hook, NetnsName, RuleRef};

/// The next step for a fault of this cause at this place, about this flow.
pub fn advice(fault: &FaultPoint, flow: &Flow) -> String {
    let node = match fault.netns.pod() {
        // Which path that namespace has, if any, is the container runtime's affair.
        Some(pod) => &format!("{}, in the network namespace of pod {pod}", fault.node),
        None => fault.node.as_str(),
    };
    let device = fault.device.as_deref().unwrap_or("DEVICE");
    let (dst, src) = (flow.dst, flow.src);
    let family = if flow.is_ipv6() { "-6 " } else { "" };
    let run = |command: &str| format!("`{}{command}`", entering(&fault.netns));
    let route = run(&format!("ip {family}route get {dst} from {src}"));
    match fault.cause {
        Cause::FilterDrop | Cause::FilterReject => match &fault.rule {
            Some(rule) => format!(
                "on {node}: look at the rule with {} and remove or narrow it, or change the NetworkPolicy that it comes from",
                run(&listing(rule))
            ),
            None => format!(
                "on {node}: compare {} and {} with what should pass; counters show which rule matched",
                run("nft -a list ruleset"),
                run("iptables-save -c")
            ),
        },
        Cause::ServiceWithoutEndpoints => "see that the Service's selector matches pods that are ready: `kubectl get endpointslices` and `kubectl get pods -o wide`".to_owned(),
        Cause::ServiceWithoutLocalEndpoints => format!("run a pod of the Service on {node}, or set its traffic policy to Cluster: `kubectl get services -o yaml` shows internalTrafficPolicy and externalTrafficPolicy, `kubectl get endpointslices -o yaml` the endpoints' nodes"),
        Cause::NoRoute => {
            format!("on {node}: {route} finds no route; add it, or see why the network plugin did not")
        }
        Cause::BlackholeRoute | Cause::UnreachableRoute | Cause::ProhibitRoute => format!(
            "on {node}: {route} ends at a route that refuses; find it with {} and remove it",
            run(&format!("ip {family}route show table all"))
        ),
        Cause::WrongRoute => format!(
            "on {node}: {route} leads out of the cluster; add the missing route to the node that owns {dst}"
        ),
        Cause::ForwardingDisabled => {
            let key = if flow.is_ipv6() { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
            format!("on {node}: {}, and find what turned it off", run(&format!("sysctl -w {key}=1")))
        }
        Cause::SourceValidation => format!(
            "on {node}: the way back to {src} does not leave by {device}; look at {} and {}",
            run(&format!("ip {family}route get {src}")),
            run(&format!("sysctl net.ipv4.conf.{device}.rp_filter"))
        ),
        Cause::MartianAddress => format!(
            "on {node}: {src} or {dst} may not appear there (loopback, multicast, broadcast, the host's own); look at {} and at what translates addresses",
            run("ip addr")
        ),
        Cause::TtlExpired => {
            format!("on {node}: look for a routing loop with {route} on each node of the path, or raise the TTL")
        }
        Cause::MtuExceeded => format!(
            "on {node}: compare the MTUs along the path with {}, and see that ICMP \"fragmentation needed\" is not filtered",
            run("ip link show")
        ),
        Cause::NeighbourUnresolved => format!(
            "on {node}: {}; see that the next hop is up, has that address and answers ARP or neighbour discovery",
            run(&format!("ip neigh show dev {device}"))
        ),
        Cause::WrongNeighbour => format!(
            "on {node}: {} holds a wrong link-layer address; delete the entry",
            run(&format!("ip neigh show dev {device}"))
        ),
        Cause::DeviceDown => {
            format!("on {node}: {}, and find what took it down", run(&format!("ip link set {device} up")))
        }
        Cause::NoCarrier => format!(
            "on {node}: the other end of {device} is down or gone; look at it with {}",
            run(&format!("ip -d link show {device}"))
        ),
        Cause::QueueDrop => format!(
            "on {node}: the queue is full or drops on purpose: {}",
            run(&format!("tc -s qdisc show dev {device}"))
        ),
        Cause::BridgePort => format!(
            "on {node}: see with {} and {} that the port is in the bridge, up, and forwarding",
            run("bridge link show"),
            run("bridge fdb show")
        ),
        Cause::TunnelNoRemote => format!(
            "on {node}: {} has no remote for the destination; see whether the network plugin knows the other node",
            run(&format!("bridge fdb show dev {device}"))
        ),
        Cause::TunnelUnknownVni => {
            format!("compare the VNIs on both nodes, on {node} with {}", run("ip -d link show type vxlan"))
        }
        Cause::TunnelDrop => format!(
            "compare the tunnel's settings on both nodes, on {node} with {}",
            run(&format!("ip -s -d link show {device}"))
        ),
        Cause::AddressMissing => format!(
            "on {node}: {} does not show {dst}; add it again, or find what removed it",
            run("ip addr")
        ),
        Cause::WrongReceiver => format!(
            "on {node}: find what redirects {dst}, a translation rule or an address that is there twice: {} and {}",
            run("nft list ruleset"),
            run("ip addr")
        ),
        Cause::AnswerMismatch => format!(
            "on {node}: find what rewrites the answer, or answers in another's stead: {} and {}",
            run("nft list ruleset"),
            run("conntrack -L")
        ),
        Cause::NoListener if flow.protocol.has_ports() => format!(
            "on {node}: nothing listens on port {}; look at {}, and at the Service's targetPort",
            flow.dst_port,
            run("ss -lntu")
        ),
        Cause::NoListener => format!("on {node}: no socket takes it; look at {}", run("ss -lnw")),
        Cause::SocketQueueFull => format!(
            "on {node}: the application does not take connections or data fast enough; look at {} (Recv-Q against Send-Q) and {}",
            run("ss -lnt"),
            run("nstat -az TcpExtListenDrops")
        ),
        Cause::SocketFilter => format!(
            "on {node}: a socket filter, cgroup program or security module refused it; look at `bpftool cgroup tree` and {}",
            run("ss -lnb")
        ),
        Cause::OtherHost => format!(
            "the frame that came to {node} carried another host's link-layer address; look at `ip neigh` on the sender"
        ),
        Cause::Malformed => format!(
            "on {node}: headers or checksums were damaged on the way; look at {} and {}",
            run(&format!("ethtool -k {device}")),
            run("nstat -az")
        ),
        Cause::BpfDrop => format!(
            "on {node}: a BPF program dropped it; look at {} and {}",
            run("bpftool net show"),
            run(&format!("tc filter show dev {device} ingress"))
        ),
        Cause::RoutingLoop => format!("compare {route} on the nodes of the loop; two of them point at one another"),
        Cause::SilentLoss => match &fault.span {
            Some(span) => format!(
                "nothing between {} and {} reported the loss: look at the network between them (security groups, switches, MTU) and at {}",
                span.last_seen.node,
                span.first_missing.node,
                run(&format!("ip -s link show {device}"))
            ),
            None => format!(
                "on {node}: look at the network behind {device}, and at {}",
                run(&format!("ip -s link show {device}"))
            ),
        },
        Cause::KernelDrop => format!(
            "on {node}: the kernel gives no better reason than {} in {}; look at {} and {}",
            fault.reason.as_deref().unwrap_or("NOT_SPECIFIED"),
            fault.function.as_deref().unwrap_or("an unknown function"),
            run("nstat -az"),
            run("ip -s link")
        ),
        Cause::SendFailed => format!("on {node}: the sending system call itself failed; try {route}"),
        Cause::Unknown => format!(
            "on {node}: nothing that was watched tells more; look at {route}, {} and {}",
            run("nft list ruleset"),
            run("ip -s link")
        ),
    }
}

/// The next step for what happens to packets that arrive.
pub(crate) fn of_anomaly(anomaly: &Anomaly) -> String {
    let Anomaly { node, netns, hook, span, .. } = anomaly;
    let device = anomaly.device.as_deref().unwrap_or("DEVICE");
    let run = |command: &str| format!("`{}{command}`", entering(netns));
    match (anomaly.kind, hook) {
        (_, Hook::Wire) => format!(
            "nothing on {} and {} does it: look at the network between them (links, switches, tunnels, shapers), and at {}",
            span.last_seen.node,
            span.first_missing.node,
            run(&format!("ethtool -S {device}"))
        ),
        (_, Hook::Qdisc) => format!(
            "on {node}: a queueing discipline of {device} does it: {}",
            run(&format!("tc -s qdisc show dev {device}"))
        ),
        (AnomalyKind::Delay, Hook::Socket) => format!(
            "on {node}: the receiver takes that long to answer: look at what it waits for, and at its CPU limits (`kubectl top pod`, throttling in `cpu.stat` of its cgroup)"
        ),
        (AnomalyKind::Delay, _) => format!(
            "on {node}: the network stack takes that long: look at the load of its processors (`mpstat -P ALL`), at {} and {}",
            run("cat /proc/net/softnet_stat"),
            run("nft list ruleset")
        ),
        (AnomalyKind::Duplication, _) => format!(
            "on {node}: look for what sends copies: {}, {} and mirrored bridge ports",
            run("nft list ruleset"),
            run(&format!("tc filter show dev {device} ingress"))
        ),
        (AnomalyKind::Reordering, _) => format!(
            "on {node}: look at how packets are spread over processors and queues: {} and {}",
            run(&format!("ethtool -l {device}")),
            run(&format!("grep . /sys/class/net/{device}/queues/rx-*/rps_cpus"))
        ),
    }
}

/// The command that shows a rule of a namespace among its neighbours.
pub(crate) fn look_at_rule(rule: &RuleRef, netns: &NetnsName) -> String {
    format!("`{}{}`", entering(netns), listing(rule))
}

/// The command that shows a rule among its neighbours. iptables-legacy knows positions, nftables handles.
fn listing(rule: &RuleRef) -> String {
    let RuleRef { family, table, chain, .. } = rule;
    match (rule.handle, rule.position, family.as_str()) {
        (None, Some(_), "ip6") => format!("ip6tables-legacy -t {table} -vnL {chain} --line-numbers"),
        (None, Some(_), _) => format!("iptables-legacy -t {table} -vnL {chain} --line-numbers"),
        _ => format!("nft -a list chain {family} {table} {chain}"),
    }
}

/// What to put before a command to run it in a namespace.
fn entering(netns: &NetnsName) -> String {
    match netns.as_str() {
        NetnsName::HOST => String::new(),
        _ if netns.pod().is_some() => String::new(),
        path if path.starts_with('/') => format!("nsenter --net={path} "),
        name => format!("ip netns exec {name} "),
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

    #[test]
    fn a_namespace_that_is_known_by_its_pod_is_told_in_words() {
        let netns = NetnsName::of_pod("shop", "pay-1");
        let fault = FaultPoint { cause: Cause::NoListener, netns, ..fixture::fault() };
        let text = advice(&fault, &fixture::tcp());
        assert!(text.starts_with("on node2, in the network namespace of pod shop/pay-1: "), "{text}");
        assert!(text.contains("`ss -lntu`"), "{text}");
        let fault = FaultPoint { cause: Cause::NoListener, netns: "a".into(), ..fixture::fault() };
        assert!(advice(&fault, &fixture::tcp()).contains("`ip netns exec a ss -lntu`"));
    }
}
