//! Where nodes' rules lead a Service, held against its endpoints.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use waymark_proto::{
    Branch, Cause, Deviation, DeviationKind, Disposition, Hook, Intent, Path, PolicyField, RuleRef, Service,
    Step,
};

use super::Question;
use super::words::{list, look_at_service, owner, service as object};
use crate::advice::look_at_rule;

/// What is wrong with the rules that the prediction met for a Service.
pub(super) fn of_service(question: &Question<'_>, service: &Service, intent: &Intent) -> Vec<Deviation> {
    // The ready backends that the traffic policy lets count.
    let meant: BTreeSet<SocketAddr> = intent
        .receivers
        .iter()
        .filter_map(|receiver| Some(SocketAddr::new(receiver.address, receiver.port?)))
        .collect();
    // Whom kube-proxy takes for a sender within the cluster, and leads to all backends in spite of an
    // externalTrafficPolicy, depends on its configuration.
    let strict = intent.local_only.as_ref().is_none_or(|only| only.policy == PolicyField::Internal);
    let ready: BTreeSet<SocketAddr> = if strict { meant.clone() } else { ready(service) };
    let branches = &question.prediction.branches;
    let led: Vec<(&Step, SocketAddr)> =
        branches.iter().filter_map(|branch| translation(question, &branch.path)).collect();
    let mut deviations: Vec<Deviation> = led
        .iter()
        .filter(|(_, to)| !ready.contains(to) && !falls_back(service, &ready, *to))
        .map(|(step, to)| stale(question, service, intent, &ready, step, *to))
        .collect();
    deviations.extend(branches.iter().filter_map(|branch| refused(question, service, &meant, branch)));
    // Where a rule leads elsewhere, the one that is missing is the same one.
    let complete = deviations.is_empty() && led.len() == branches.len();
    let reached: BTreeSet<SocketAddr> = led.iter().map(|(_, to)| *to).collect();
    let left_out: Vec<String> =
        meant.difference(&reached).map(|endpoint| named(question, *endpoint)).collect();
    if let Some((step, _)) = led.first().filter(|_| complete && !left_out.is_empty()) {
        deviations.push(missing(question, service, step, &left_out));
    }
    if led.is_empty()
        && !meant.is_empty()
        // What no rule translates may still come there by a load balancer.
        && !service.external_ips.contains(&question.flow.dst)
        && let Some(step) = branches.iter().find_map(|branch| untouched(question, &branch.path))
    {
        deviations.push(absent(question, service, step));
    }
    deviations
}

fn ready(service: &Service) -> BTreeSet<SocketAddr> {
    let ready = service.backends.iter().filter(|backend| backend.ready);
    ready.map(|backend| SocketAddr::new(backend.ip, backend.port)).collect()
}

/// Whether an endpoint that is not ready serves for want of better: kube-proxy takes those that terminate and
/// still serve.
fn falls_back(service: &Service, ready: &BTreeSet<SocketAddr>, to: SocketAddr) -> bool {
    let is_it = |backend: &&waymark_proto::Backend| (backend.ip, backend.port) == (to.ip(), to.port());
    ready.is_empty() && service.backends.iter().filter(is_it).any(|backend| !backend.ready)
}

/// The step that gives the packet another destination, and that destination.
fn translation<'a>(question: &Question<'_>, path: &'a Path) -> Option<(&'a Step, SocketAddr)> {
    let asked = SocketAddr::new(question.flow.dst, question.flow.dst_port);
    path.steps().iter().find_map(|step| {
        let now = SocketAddr::new(step.flow?.dst, step.flow?.dst_port);
        (now != asked).then_some((step, now))
    })
}

/// Whether kube-proxy refuses packets for this cause.
fn is_want_of_endpoints(cause: Cause) -> bool {
    matches!(cause, Cause::ServiceWithoutEndpoints | Cause::ServiceWithoutLocalEndpoints)
}

/// The step at which rules of a node could have translated the packet and did not.
fn untouched<'a>(question: &Question<'_>, path: &'a Path) -> Option<&'a Step> {
    let of_node = |step: &Step| {
        let node = question.inventory.node(&step.place.node);
        node.is_some_and(|node| node.netns == step.place.netns)
    };
    let settled = path.disposition() != Disposition::InsufficientInfo
        && !path.last().cause.is_some_and(is_want_of_endpoints);
    path.steps().iter().find(|step| {
        settled
            && matches!(step.hook, Hook::NetfilterPrerouting | Hook::NetfilterOutput)
            && step.action.continues()
            && of_node(step)
            && step.flow.is_some_and(|flow| flow.dst == question.flow.dst)
    })
}

fn named(question: &Question<'_>, endpoint: SocketAddr) -> String {
    let owner = owner(question.inventory, endpoint.ip());
    if owner == endpoint.ip().to_string() { endpoint.to_string() } else { format!("{endpoint} ({owner})") }
}

/// What to do about rules that kube-proxy should have written.
fn advice(question: &Question<'_>, service: &Service, step: &Step) -> String {
    let node = &step.place.node;
    if !question.inventory.has_objects() {
        let rule = step.rule.as_ref().map(|rule| look_at_rule(rule, &step.place.netns));
        let look = rule.map(|command| format!(": look at the rule with {command}")).unwrap_or_default();
        return format!("see on {node} why the rules of {} are not up to date{look}", object(service));
    }
    format!(
        "see on {node} why kube-proxy does not keep the rules up to date (is it running, does it reach the API server?): `kubectl -n kube-system get pods -o wide --field-selector spec.nodeName={node}`; compare with {}",
        look_at_service(service)
    )
}

fn deviation(
    question: &Question<'_>,
    kind: DeviationKind,
    service: &Service,
    step: &Step,
    rule: Option<RuleRef>,
    summary: String,
) -> Deviation {
    Deviation {
        kind,
        culprit: object(service),
        node: Some(step.place.node.clone()),
        endpoint: None,
        rule,
        summary,
        advice: advice(question, service, step),
    }
}

/// `10.96.0.10:80`
fn address(service: &Service) -> SocketAddr {
    SocketAddr::new(service.cluster_ip, service.port)
}

fn stale(
    question: &Question<'_>,
    service: &Service,
    intent: &Intent,
    ready: &BTreeSet<SocketAddr>,
    step: &Step,
    to: SocketAddr,
) -> Deviation {
    let (name, node) = (object(service), &step.place.node);
    let listed = service.backends.iter().find(|backend| SocketAddr::new(backend.ip, backend.port) == to);
    let what = match (listed, &intent.local_only) {
        (None, _) => "which is no endpoint of it".to_owned(),
        (Some(backend), Some(only)) if backend.ready => {
            format!("which is not on {}, and its {} is Local", only.node, only.policy)
        }
        (Some(_), _) => "which is not ready".to_owned(),
    };
    let rule = step.rule.as_ref().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
    let endpoints: Vec<String> = ready.iter().map(|endpoint| named(question, *endpoint)).collect();
    let endpoints = match endpoints.as_slice() {
        [] if intent.local_only.is_some() => "none there is ready".to_owned(),
        [] => "it has no ready endpoint".to_owned(),
        some => format!("ready is {}", list(some)),
    };
    let summary = format!(
        "{node} leads {name} ({}) to {}{rule}, {what}; {endpoints}",
        address(service),
        named(question, to)
    );
    let mut found =
        deviation(question, DeviationKind::StaleServiceRule, service, step, step.rule.clone(), summary);
    found.endpoint = Some(to.ip());
    found
}

/// A node that refuses a Service for want of endpoints, though it has some.
fn refused(
    question: &Question<'_>,
    service: &Service,
    meant: &BTreeSet<SocketAddr>,
    branch: &Branch,
) -> Option<Deviation> {
    let last = branch.path.last();
    if meant.is_empty() || !last.cause.is_some_and(is_want_of_endpoints) {
        return None;
    }
    let summary = format!(
        "{} refuses {} ({}) as one without endpoints, though {} {} ready",
        last.place.node,
        object(service),
        address(service),
        meant.len(),
        if meant.len() == 1 { "is" } else { "are" },
    );
    Some(deviation(question, DeviationKind::StaleServiceRule, service, last, last.rule.clone(), summary))
}

fn missing(question: &Question<'_>, service: &Service, step: &Step, left_out: &[String]) -> Deviation {
    let summary = format!(
        "no rule on {} leads {} to {}, which {} ready; that may be meant, by topology hints",
        step.place.node,
        object(service),
        list(left_out),
        if left_out.len() == 1 { "is" } else { "are" },
    );
    deviation(question, DeviationKind::MissingServiceRule, service, step, None, summary)
}

fn absent(question: &Question<'_>, service: &Service, step: &Step) -> Deviation {
    let summary = format!(
        "no rule on {} translates {} ({}/{})",
        step.place.node,
        object(service),
        address(service),
        service.protocol
    );
    deviation(question, DeviationKind::NoServiceRule, service, step, None, summary)
}
