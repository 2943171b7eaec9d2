//! What there is in an instance, as a table for people.

use comfy_table::{ContentArrangement, Table, presets};

use crate::Result;
use crate::instance::Instance;
use crate::plan::Control;

/// An empty table in this program's style.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// Nodes, pods, Services, processes and faults.
pub fn render(instance: &Instance) -> Result<String> {
    let state = instance.state()?;
    let cluster = state.cluster(instance.name());
    let mut nodes = table(&["NODE", "NETNS", "IP", "IP6", "PODS"]);
    for node in &cluster.nodes {
        nodes.add_row([
            &node.name,
            &node.netns,
            &node.ip().to_string(),
            &node.ip6().to_string(),
            &node.pod_net().to_string(),
        ]);
    }
    let mut pods = table(&["POD", "NODE", "NETNS", "IP", "IP6", "HOST DEVICE"]);
    for pod in &cluster.pods {
        let node = &cluster.node_of(pod).name;
        pods.add_row([
            &pod.full_name,
            node,
            &pod.netns,
            &pod.ip.to_string(),
            &pod.ip6.to_string(),
            &pod.host_device,
        ]);
    }
    for pod in instance.records() {
        let ip = pod.ip.map_or_else(|| "none yet".to_owned(), |ip| ip.to_string());
        pods.add_row([&pod.full_name(), &pod.node, &pod.netns, &ip, "", ""]);
    }
    let mut services = table(&["SERVICE", "ADDRESS", "PORT", "BACKENDS"]);
    for service in &cluster.services {
        let backends: Vec<_> = service.backends.iter().filter_map(|backend| backend.pod.clone()).collect();
        services.add_row([
            format!("{}/{}", service.namespace, service.name),
            service.cluster_ip.to_string(),
            format!("{}/{}", service.port, service.protocol),
            if backends.is_empty() { "none".into() } else { backends.join(", ") },
        ]);
    }
    let mut processes = table(&["PROCESS", "STATE"]);
    for (role, pid) in instance.processes() {
        processes.add_row([role, pid.map_or("dead".into(), |pid| format!("running, pid {pid}"))]);
    }
    let api = match state.control {
        Control::Inventory => "none".into(),
        Control::Kubernetes => instance.dir().kubernetes().kubeconfig().display().to_string(),
    };
    let services = match state.control {
        Control::Inventory => services.to_string(),
        Control::Kubernetes => "SERVICES  `kubectl get services -A` shows them".into(),
    };
    let whole = if state.complete { "" } else { ", not complete: `up` is still running or was killed" };
    let agents = if state.agents { instance.dir().controller() } else { "none".into() };
    let faults: Vec<_> = state.faults.iter().map(|fault| fault.name.as_str()).collect();
    let faults = if faults.is_empty() { "none".into() } else { faults.join(", ") };
    Ok(format!(
        "testbed {}: {}{whole}\nfabric: {}\nkubeconfig: {api}\ncontroller: {agents}\nfaults: {faults}\n\n{nodes}\n\n{pods}\n\n{services}\n\n{processes}",
        instance.name(),
        state.dataplane,
        cluster.fabric,
    ))
}
