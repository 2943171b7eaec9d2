//! Checks of Services, and three breakages with different culprits.

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::conditions::{is_deleted, is_pod_running};
use kube::runtime::wait::await_condition;
use rustix::process::{Signal, kill_process};
use serde_json::json;
use waymark_proto::{Cause, Hook, Verdict};

use super::super::objects::Objects;
use super::story::{Story, culprit};
use crate::process::{Running, recorded};
use crate::script::{Script, Tool};
use crate::tell::chapter;
use crate::topology::Topology;
use crate::{Error, Result};

const NAMESPACE: &str = "shop";
const STOCK: &str = "svc/shop/stock:8080";
const STOCK_SERVICE: &str = "Service shop/stock";

/// Two Services that work.
pub(super) fn healthy(story: &Story<'_>) -> Result<()> {
    chapter("1. Checks on demand. Two Services, by the rules that the real kube-proxy wrote:");
    for destination in ["svc/shop/pay:80", STOCK] {
        story.check(destination, Verdict::Reachable, |_| true)?;
    }
    Ok(())
}

/// A kube-proxy that is stopped while it lives, and goes on when this is dropped.
struct Stopped(Running);

impl Stopped {
    fn stop(story: &Story<'_>, role: &str) -> Result<Self> {
        let running = recorded(&story.instance.dir().pid(role))
            .ok_or_else(|| Error::Demo(format!("{role} does not run any more")))?;
        kill_process(running.pid, Signal::STOP)
            .map_err(|errno| Error::Demo(format!("cannot stop {role}: {errno}")))?;
        Ok(Self(running))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been ended meanwhile; then there is nothing to go on.
        let _ = kill_process(self.0.pid, Signal::CONT);
    }
}

/// kube-proxy of one node is stuck; a pod gets another address; that node's rules lead to the old one.
pub(super) fn stale_rule(story: &Story<'_>) -> Result<()> {
    chapter("2. What died where. kube-proxy on node1 hangs, and the pod behind Service stock is replaced:");
    let stopped = Stopped::stop(story, "kube-proxy-node1")?;
    replace(story, "stock")?;
    story.check(STOCK, Verdict::Unreachable, |result| culprit(result).as_deref() == Some(STOCK_SERVICE))?;
    chapter("kube-proxy goes on:");
    drop(stopped);
    story.check(STOCK, Verdict::Reachable, |_| true).map(drop)
}

/// Deletes a pod and makes it again; it gets the next address.
fn replace(story: &Story<'_>, name: &str) -> Result<()> {
    let objects = Objects::of(&Topology::default()).map_err(Error::Demo)?;
    let pod = objects.pods.into_iter().find(|pod| pod.metadata.name.as_deref() == Some(name));
    let pod = pod.ok_or_else(|| Error::Demo(format!("the topology has no pod {name}")))?;
    let wait = |error: kube::runtime::wait::Error| match error {
        kube::runtime::wait::Error::ProbeFailed(kube::runtime::watcher::Error::InitialListFailed(error)) => {
            error
        }
        other @ kube::runtime::wait::Error::ProbeFailed(_) => kube::Error::Service(Box::new(other)),
    };
    story.api(&format!("replace pod {name}"), async |client| {
        let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
        let uid = pods.get(name).await?.metadata.uid.unwrap_or_default();
        pods.delete(name, &DeleteParams::default()).await?;
        await_condition(pods.clone(), name, is_deleted(&uid)).await.map_err(wait)?;
        pods.create(&PostParams::default(), &pod).await?;
        await_condition(pods, name, is_pod_running()).await.map_err(wait)?;
        Ok(())
    })
}

/// A Service whose targetPort nobody listens on.
pub(super) fn wrong_port(story: &Story<'_>) -> Result<()> {
    chapter("Somebody mistypes the targetPort of Service stock:");
    set_target_port(story, 8081)?;
    story.check(STOCK, Verdict::Unreachable, |result| {
        let refused = result.fault_point.as_ref().is_some_and(|fault| fault.cause == Cause::NoListener);
        refused && culprit(result).as_deref() == Some(STOCK_SERVICE)
    })?;
    chapter("The targetPort is put right:");
    set_target_port(story, 80)?;
    story.check(STOCK, Verdict::Reachable, |_| true).map(drop)
}

fn set_target_port(story: &Story<'_>, port: u16) -> Result<()> {
    story.api("patch Service stock", async |client| {
        let services: Api<Service> = Api::namespaced(client, NAMESPACE);
        let change = json!([{ "op": "replace", "path": "/spec/ports/0/targetPort", "value": port }]);
        let change: Patch<Service> =
            Patch::Json(serde_json::from_value(change).expect("a patch of one operation"));
        services.patch("stock", &PatchParams::default(), &change).await.map(drop)
    })
}

/// A rule that looks as if a policy had asked for it, on one node.
pub(super) fn foreign_rule(story: &Story<'_>) -> Result<()> {
    chapter("A rule like a NetworkPolicy's is left behind on node2, though no policy asks for it:");
    let node = story.cluster.nodes.iter().find(|node| node.name == "node2");
    let node = node.ok_or_else(|| Error::Demo("the topology has no node2".into()))?;
    let rule = |verb: &str| {
        let line = format!(
            "{verb} FORWARD -p tcp -m tcp --dport 80 -m comment --comment \"policy shop/pay-strict\" -j DROP"
        );
        Script::new(Tool::Iptables, &node.netns, ["*filter".to_owned(), line, "COMMIT".to_owned()])
    };
    rule("-I").run()?;
    let shown = story.check("pod/shop/pay-1:80", Verdict::Unreachable, |result| {
        let there = |fault: &waymark_proto::FaultPoint| {
            fault.node.as_str() == "node2"
                && fault.hook == Hook::NetfilterForward
                && fault.evidence.iter().any(|words| words.contains("no NetworkPolicy asks for that"))
        };
        result.fault_point.as_ref().is_some_and(there) && culprit(result).as_deref() == Some("Node node2")
    });
    rule("-D").run()?;
    shown?;
    chapter("The rule is removed:");
    story.check("pod/shop/pay-1:80", Verdict::Reachable, |_| true).map(drop)
}
