//! Where nodes' rules lead a Service, held against its endpoints.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use waymark_proto::{
    Branch, Cause, Deviation, DeviationKind, Disposition, Hook, Intent, Path, PolicyField, RuleRef, Service,
    Step, Text, listed, text,
};

use super::Question;
use super::words::{look_at_service, owner, service as object};
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
    let left_out: Vec<Text> = meant.difference(&reached).map(|endpoint| named(question, *endpoint)).collect();
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

fn named(question: &Question<'_>, endpoint: SocketAddr) -> Text {
    let owner = owner(question.inventory, endpoint.ip());
    if *owner == *endpoint.ip().to_string() {
        Text::verbatim(endpoint.to_string())
    } else {
        text!(deviation::EndpointOf { endpoint, owner })
    }
}

/// What to do about rules that kube-proxy should have written.
fn advice(question: &Question<'_>, service: &Service, step: &Step) -> Text {
    let node = &step.place.node;
    if !question.inventory.has_objects() {
        let look = step.rule.as_ref().map(|rule| look_at_rule(rule, &step.place.netns));
        return text!(advice::ServiceRules { node, service: object(service), look });
    }
    text!(advice::KubeProxy { node, look: look_at_service(service) })
}

fn deviation(
    question: &Question<'_>,
    kind: DeviationKind,
    service: &Service,
    step: &Step,
    rule: Option<RuleRef>,
    summary: Text,
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
    let known = service.backends.iter().find(|backend| SocketAddr::new(backend.ip, backend.port) == to);
    let what = match (known, &intent.local_only) {
        (None, _) => text!(deviation::IsNoEndpoint),
        (Some(backend), Some(only)) if backend.ready => {
            text!(deviation::IsNotLocal { node: &only.node, policy: only.policy })
        }
        (Some(_), _) => text!(deviation::IsNotReady),
    };
    let endpoints: Vec<Text> = ready.iter().map(|endpoint| named(question, *endpoint)).collect();
    let ready = match endpoints.as_slice() {
        [] if intent.local_only.is_some() => text!(deviation::NoneThereReady),
        [] => text!(deviation::NoneReady),
        some => text!(deviation::SomeReady { endpoints: listed(some) }),
    };
    let summary = text!(deviation::StaleRule {
        node,
        service: name,
        address: address(service),
        to: named(question, to),
        rule: step.rule.as_ref(),
        what,
        ready,
    });
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
    let summary = text!(deviation::Refused {
        node: &last.place.node,
        service: object(service),
        address: address(service),
        ready: meant.len(),
    });
    Some(deviation(question, DeviationKind::StaleServiceRule, service, last, last.rule.clone(), summary))
}

fn missing(question: &Question<'_>, service: &Service, step: &Step, left_out: &[Text]) -> Deviation {
    let summary = text!(deviation::MissingRule {
        node: &step.place.node,
        service: object(service),
        endpoints: listed(left_out),
        one: left_out.len() == 1,
    });
    deviation(question, DeviationKind::MissingServiceRule, service, step, None, summary)
}

fn absent(question: &Question<'_>, service: &Service, step: &Step) -> Deviation {
    let summary = text!(deviation::NoRule {
        node: &step.place.node,
        service: object(service),
        address: address(service),
        protocol: service.protocol,
    });
    deviation(question, DeviationKind::NoServiceRule, service, step, None, summary)
}
