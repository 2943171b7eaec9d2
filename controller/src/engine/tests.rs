use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::mpsc;
use waymark_proto::{Facts, HookReport, Losses, Sighting, Verdict};

use super::*;
use crate::fixture::{BACK, THERE, inventory, reports, sightings, steps, tcp};

/// Agents that see a healthy round trip of whatever is sent, and know no facts.
#[derive(Default)]
struct Fakes {
    sinks: Mutex<HashMap<NodeName, mpsc::Sender<Sighting>>>,
    disarmed: Mutex<Vec<NodeName>>,
    /// The node that has no agent.
    absent: Option<NodeName>,
    /// Whether injecting fails.
    broken: bool,
    /// Whether answers come back.
    mute: bool,
    /// The node whose agent never answers when it is to arm.
    stuck: Option<NodeName>,
}

#[async_trait]
impl Agents for Fakes {
    async fn facts(&self, node: &NodeName) -> Result<Facts, AgentError> {
        let message = "nothing is known".to_owned();
        match &self.absent {
            Some(absent) if absent == node => Err(AgentError::NoAgent { node: node.clone() }),
            _ => Err(AgentError::Failed { node: node.clone(), operation: "collect facts", message }),
        }
    }

    async fn arm(
        &self,
        node: &NodeName,
        _arm: rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        if self.absent.as_ref() == Some(node) {
            return Err(AgentError::NoAgent { node: node.clone() });
        }
        if self.stuck.as_ref() == Some(node) {
            std::future::pending::<()>().await;
        }
        self.sinks.lock().unwrap().insert(node.clone(), sink);
        let own = if node.as_str() == "node1" { ["t-cart", "t-node1"] } else { ["t-pay", "t-node2"] };
        Ok(reports(&own))
    }

    async fn inject(&self, node: &NodeName, inject: rpc::Inject) -> Result<rpc::Injected, AgentError> {
        if self.broken {
            let message = "no socket".to_owned();
            return Err(AgentError::Failed { node: node.clone(), operation: "inject", message });
        }
        let packets = (0..inject.count).map(|seq| rpc::SentPacket {
            seq,
            source_port: tcp().src_port.into(),
            sent_ns: 9_000_000,
            error: String::new(),
        });
        let sinks = self.sinks.lock().unwrap().clone();
        for seq in 0..inject.count {
            let mut seen = sightings(&steps(THERE, tcp()), seq, false);
            if !self.mute {
                seen.extend(sightings(&steps(BACK, tcp().reversed()), seq, true));
            }
            for sighting in seen {
                if let Some(sink) = sinks.get(&sighting.place.node) {
                    sink.send(sighting).await.unwrap();
                }
            }
        }
        Ok(rpc::Injected { packets: packets.collect() })
    }

    async fn disarm(&self, node: &NodeName, _check: CheckId) -> Result<Losses, AgentError> {
        self.sinks.lock().unwrap().remove(node);
        self.disarmed.lock().unwrap().push(node.clone());
        Ok(Losses::default())
    }
}

fn request() -> Request {
    Request::new("pod/shop/cart".parse().unwrap(), "pod/shop/pay:80".parse().unwrap())
}

async fn run(fakes: Fakes, request: &Request) -> (Result<CheckResult, CheckError>, Vec<String>) {
    let fakes = Arc::new(fakes);
    let agents: Arc<dyn Agents> = Arc::clone(&fakes) as _;
    let (progress, _lines) = Progress::channel();
    let result = check(&agents, &inventory(), request, &progress).await;
    let mut disarmed: Vec<String> = fakes.disarmed.lock().unwrap().iter().map(ToString::to_string).collect();
    disarmed.sort();
    (result, disarmed)
}

#[tokio::test]
async fn a_check_without_facts_still_observes() {
    let (result, disarmed) = run(Fakes::default(), &request()).await;
    let result = result.unwrap();
    assert_eq!(result.verdict, Verdict::Reachable, "{result:#?}");
    assert_eq!((result.sent, result.delivered, result.replied), (5, 5, Some(5)));
    assert!(result.rtt_ns.is_some());
    assert!(result.notes.iter().any(|note| note.contains("no facts of node2")), "{:?}", result.notes);
    assert_eq!(disarmed, ["node1", "node2"]);
}

#[tokio::test]
async fn udp_is_sent_only_if_it_was_asked_for() {
    let to_udp_port = Request { destination: "svc/shop/pay:53".parse().unwrap(), ..request() };
    let (result, disarmed) = run(Fakes::default(), &to_udp_port).await;
    assert!(result.unwrap_err().to_string().contains("say --proto udp"));
    assert!(disarmed.is_empty(), "nothing was armed");
}

#[tokio::test]
async fn a_failed_injection_disarms() {
    let (result, disarmed) = run(Fakes { broken: true, ..Fakes::default() }, &request()).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "nothing was sent: the agent of node1 could not inject: no socket"
    );
    assert_eq!(disarmed, ["node1", "node2"]);
}

#[tokio::test]
async fn without_an_agent_at_the_source_nothing_is_sent() {
    let fakes = Fakes { absent: Some("node1".into()), ..Fakes::default() };
    let (result, disarmed) = run(fakes, &request()).await;
    assert!(result.unwrap_err().to_string().contains("no agent is attached for node node1"));
    assert!(disarmed.is_empty());
}

#[tokio::test]
async fn without_an_agent_at_the_destination_the_answers_tell() {
    let fakes = Fakes { absent: Some("node2".into()), ..Fakes::default() };
    let (result, _) = run(fakes, &request()).await;
    let result = result.unwrap();
    assert_eq!(result.verdict, Verdict::Reachable, "{result:#?}");
    assert!(result.notes.iter().any(|note| note.contains("node2 was not watched")), "{:?}", result.notes);
}

#[tokio::test]
async fn a_cancelled_check_disarms() {
    let fakes = Arc::new(Fakes { mute: true, ..Fakes::default() });
    let agents: Arc<dyn Agents> = Arc::clone(&fakes) as _;
    let (progress, mut lines) = Progress::channel();
    let hang_up = async {
        while let Some(line) = lines.recv().await {
            if line.starts_with("waiting") {
                break;
            }
        }
        drop(lines);
    };
    let patient = Request { timeout: Duration::from_secs(3600), ..request() };
    let inventory = inventory();
    let (result, ()) = tokio::join!(check(&agents, &inventory, &patient, &progress), hang_up);
    assert!(matches!(result, Err(CheckError::Cancelled)));
    assert_eq!(fakes.disarmed.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_check_that_is_cancelled_while_it_arms_disarms_who_is_armed() {
    let fakes = Arc::new(Fakes { stuck: Some("node2".into()), ..Fakes::default() });
    let agents: Arc<dyn Agents> = Arc::clone(&fakes) as _;
    let (progress, lines) = Progress::channel();
    let hang_up = async {
        while fakes.sinks.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(lines);
    };
    let (inventory, request) = (inventory(), request());
    let (result, ()) = tokio::join!(check(&agents, &inventory, &request, &progress), hang_up);
    assert!(matches!(result, Err(CheckError::Cancelled)));
    while fakes.disarmed.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*fakes.disarmed.lock().unwrap(), [NodeName::from("node1")]);
}
