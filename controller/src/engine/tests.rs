use std::time::Duration;

use waymark_proto::{HookSet, Text, Verdict};

use super::fakes::Fakes;
use super::*;
use crate::fixture::inventory;

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

#[tokio::test]
async fn what_is_known_is_told_though_no_more_can_be_sent() {
    let quick = Request { timeout: Duration::from_millis(10), ..request() };
    let (result, disarmed) = run(Fakes { fading: true, ..Fakes::default() }, &quick).await;
    let result = result.unwrap();
    assert_eq!((result.verdict, result.sent, result.delivered), (Verdict::Inconsistent, 5, 3), "{result:#?}");
    let told = |note: &Text| note.starts_with("no more packets could be sent") && note.ends_with("no socket");
    assert!(result.notes.iter().any(told), "{:?}", result.notes);
    assert_eq!(disarmed, ["node1", "node1", "node2", "node2"]);
}

#[tokio::test]
async fn a_closer_look_is_had_only_where_something_is_wrong() {
    let looks = async |fakes: Fakes, request: Request| {
        let fakes = Arc::new(fakes);
        let agents: Arc<dyn Agents> = Arc::clone(&fakes) as _;
        let (progress, _lines) = Progress::channel();
        let (result, recording) = check_and_record(&agents, &inventory(), &request, &progress).await.unwrap();
        let looks = fakes.hooks.lock().unwrap().clone();
        assert_eq!(replay(&recording).unwrap(), result, "a recording has all looks");
        (result, looks)
    };
    let many = Request { count: 100, ..request() };
    let (result, orders) = looks(Fakes::default(), many.clone()).await;
    assert_eq!((result.verdict, result.sent), (Verdict::Reachable, 100));
    assert_eq!(orders, [HookSet::Light; 4], "two rounds on two nodes");
    let (_, orders) = looks(Fakes::default(), Request { wide: true, ..many }).await;
    assert_eq!(orders, [HookSet::All; 2]);
    let quick = Request { timeout: Duration::from_millis(10), ..request() };
    let (result, orders) = looks(Fakes { mute: true, ..Fakes::default() }, quick).await;
    assert_eq!(
        (result.verdict, result.sent, result.delivered),
        (Verdict::Unreachable, 15, 15),
        "{result:#?}"
    );
    let each = [HookSet::Light, HookSet::Wide, HookSet::All];
    assert_eq!(orders[..6], each.map(|hooks| [hooks; 2]).concat());
}
