use waymark_proto::rpc::{self, from_agent, to_agent};
use waymark_proto::{Clock, ProbeCounts, ProbeId, Refusal, Streak, Verdict};

use super::super::documents::TargetState;
use super::super::spec::spec;
use super::*;
use crate::engine::fakes::Fakes;
use crate::fixture::inventory;
use crate::hub::Patience;
use crate::hub::puppet::{Changing, Puppet, Stage, stage};
use crate::notices::Notices;

/// Watches by a hub that listens, with checks by fake agents. What works on them ends with it.
struct Play {
    stage: Stage,
    watches: Watches,
    checks: Arc<Fakes>,
    work: tokio::task::JoinHandle<()>,
}

impl Drop for Play {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// Watches that nobody works on yet.
async fn idle(folder: Option<&Path>, checks: Fakes) -> (Stage, Watches, Arc<Fakes>, Incoming) {
    let stage = stage(Patience::default()).await;
    let source = Changing::default();
    source.set(inventory());
    let checks = Arc::new(checks);
    let agents: Arc<dyn Agents> = Arc::clone(&checks) as _;
    let (watches, incoming) =
        Watches::with_agents(stage.hub.clone(), agents, Arc::new(source), folder).unwrap();
    (stage, watches, checks, incoming)
}

async fn play(folder: Option<&Path>, checks: Fakes) -> Play {
    let (stage, watches, checks, incoming) = idle(folder, checks).await;
    let working = watches.clone();
    let work = tokio::spawn(async move { working.run(incoming).await });
    Play { stage, watches, checks, work }
}

/// The plan that an agent is given next, which it takes on but for these refusals.
async fn plan_refusing(puppet: &mut Puppet, refusals: &[Refusal]) -> ProbePlan {
    let order = puppet.order().await;
    let Some(to_agent::Body::Probe(work)) = order.body else { panic!("{order:?} is no plan") };
    let refusals_json = serde_json::to_vec(refusals).unwrap();
    puppet.answer(order.order, from_agent::Body::Probing(rpc::Probing { refusals_json })).await;
    serde_json::from_slice(&work.plan_json).unwrap()
}

async fn plan(puppet: &mut Puppet) -> ProbePlan {
    plan_refusing(puppet, &[]).await
}

fn destinations(plan: &ProbePlan) -> Vec<&str> {
    plan.probes.iter().map(|probe| probe.destination.as_str()).collect()
}

/// A report of probes that all failed.
fn failures(id: ProbeId, streaks: &[Streak]) -> ProbeReport {
    ProbeReport {
        id,
        at_unix_ns: 0,
        counts: ProbeCounts { sent: 1, lost: 1, ..ProbeCounts::default() },
        rtt_v2: Vec::new(),
        clock: Clock::Kernel,
        streaks: streaks.to_vec(),
    }
}

fn lasting(since_unix_ns: u64, failures: u64) -> Streak {
    Streak { since_unix_ns, failures, until_unix_ns: None }
}

async fn report(puppet: &Puppet, reports: Vec<ProbeReport>) {
    let reports = reports.into_iter().map(rpc::ProbeReport::from).collect();
    puppet.answer(0, from_agent::Body::ProbeReports(rpc::ProbeReports { reports })).await;
}

fn checks(watches: &Watches) -> Vec<OutageCheck> {
    watches.list(None).unwrap().outages.into_iter().map(|outage| outage.check).collect()
}

#[tokio::test]
async fn agents_get_an_empty_plan_when_the_watch_is_stopped() {
    let play = play(None, Fakes::default()).await;
    play.watches.start(spec("a", &["pod/shop/cart"], &["pod/shop/pay"])).await.unwrap();
    play.watches.start(spec("b", &["pod/shop/cart"], &["pod/shop/pay:80"])).await.unwrap();
    let mut puppet = Puppet::attach(&play.stage, "node1").await;
    assert_eq!(plan(&mut puppet).await.probes.len(), 2);
    assert_eq!(play.watches.stop(Some("a")), Ok(vec!["a".to_owned()]));
    assert_eq!(destinations(&plan(&mut puppet).await), ["pod/shop/pay:80"]);
    assert_eq!(play.watches.stop(None), Ok(vec!["b".to_owned()]));
    assert_eq!(plan(&mut puppet).await, ProbePlan::default());
    let unknown = play.watches.stop(Some("a")).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no watch \"a\"; there are none");
}

#[tokio::test]
async fn a_watch_that_cannot_be_forgotten_goes_on_until_it_can() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("state");
    let play = play(Some(&folder), Fakes::default()).await;
    play.watches.start(spec("a", &["pod/shop/cart"], &["pod/shop/pay"])).await.unwrap();
    let mut puppet = Puppet::attach(&play.stage, "node1").await;
    assert_eq!(plan(&mut puppet).await.probes.len(), 1);

    std::fs::remove_dir_all(&folder).unwrap();
    for name in [Some("a"), None] {
        let error = play.watches.stop(name).unwrap_err();
        assert!(matches!(error, WatchError::Store(_)), "{error}");
    }
    let error = play.watches.start(spec("b", &["pod/shop/cart"], &["pod/shop/pay"])).await.unwrap_err();
    assert!(matches!(error, WatchError::Store(_)), "{error}");
    // What people see is what agents do.
    let list = play.watches.list(None).unwrap();
    assert_eq!(list.watches.iter().map(|watch| watch.spec.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(list.watches[0].targets.len(), 1);

    std::fs::create_dir(&folder).unwrap();
    play.watches.stop(Some("a")).unwrap();
    assert_eq!(plan(&mut puppet).await, ProbePlan::default());
    assert_eq!(Store::open(&folder).unwrap().1, []);
}

#[tokio::test]
async fn watches_resume_from_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let before = play(Some(folder.path()), Fakes::default()).await;
    before.watches.start(spec("a", &["pod/shop/cart"], &["pod/shop/pay"])).await.unwrap();
    before.watches.start(spec("b", &["pod/shop/cart"], &["pod/shop/pay:80"])).await.unwrap();
    before.watches.stop(Some("a")).unwrap();
    drop(before);

    let after = play(Some(folder.path()), Fakes::default()).await;
    let mut puppet = Puppet::attach(&after.stage, "node1").await;
    assert_eq!(destinations(&plan(&mut puppet).await), ["pod/shop/pay:80"]);
    assert_eq!(after.watches.list(Some("b")).unwrap().watches[0].targets.len(), 1);
}

#[tokio::test]
async fn an_agent_is_told_its_plan_whenever_it_attaches() {
    let play = play(None, Fakes::default()).await;
    let mut first = Puppet::attach(&play.stage, "node1").await;
    // It may still follow a plan from before.
    assert_eq!(plan(&mut first).await, ProbePlan::default());
    play.watches.start(spec("a", &["pod/shop/cart"], &["pod/shop/pay"])).await.unwrap();
    let told = plan(&mut first).await;
    let mut second = Puppet::attach(&play.stage, "node1").await;
    let refusals = [Refusal { probe: Some(told.probes[0].id), why: "too many".to_owned() }];
    assert_eq!(plan_refusing(&mut second, &refusals).await, told);
    // The next plan is made when the answer to this one was read.
    play.watches.start(spec("b", &["pod/shop/cart"], &["pod/shop/pay"])).await.unwrap();
    assert_eq!(plan_refusing(&mut second, &refusals).await.probes.len(), 2);
    let state = play.watches.list(Some("a")).unwrap().watches[0].targets[0].state.clone();
    assert_eq!(state, TargetState::Refused { why: "too many".to_owned() });
}

#[tokio::test]
async fn an_outage_triggers_one_check_whose_result_is_kept_with_it() {
    let play = play(None, Fakes::default()).await;
    let history = History::open(None, &Notices::default()).unwrap();
    play.watches.keep_results_in(history.clone());
    let ends = ["pod/shop/pay:80", "svc/shop/pay:80"];
    play.watches.start(spec("w", &["pod/shop/cart"], &ends)).await.unwrap();
    let mut puppet = Puppet::attach(&play.stage, "node1").await;
    let told = plan(&mut puppet).await;
    let id = |end: &str| told.probes.iter().find(|probe| probe.destination == end).unwrap().id;
    let [pod, service] = ends.map(id);

    report(&puppet, vec![failures(pod, &[lasting(7, 3)])]).await;
    report(&puppet, vec![failures(pod, &[lasting(7, 4)])]).await;
    let ended = Streak { until_unix_ns: Some(9), ..lasting(7, 5) };
    report(&puppet, vec![failures(pod, &[ended]), failures(service, &[lasting(8, 3)])]).await;
    let outages = loop {
        let outages = play.watches.list(Some("w")).unwrap().outages;
        let is_over = |outage: &Outage| matches!(outage.check, OutageCheck::Done { .. });
        if outages.len() == 2 && outages.iter().all(is_over) {
            break outages;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(*play.checks.injections.borrow(), 2);
    assert_eq!((outages[0].destination.as_str(), outages[0].failures), ("pod/shop/pay:80", 5));
    let OutageCheck::Done { result, .. } = &outages[0].check else { panic!("{:?}", outages[0].check) };
    let kept = history.show(&result.check.to_string()).await.unwrap();
    assert_eq!((&kept.result, kept.asker.to_string().as_str()), (&**result, "outage #1 of watch w"));
    assert_eq!((result.source.as_str(), result.destination.as_str()), ("pod/shop/cart", "pod/shop/pay:80"));
    assert_eq!(result.verdict, Verdict::Reachable);
    assert_eq!(outages[1].destination, "svc/shop/pay:80");
    assert_eq!(play.watches.outages_opened(), 2);
}

#[tokio::test]
async fn a_check_that_gives_no_result_says_why() {
    let broken = Fakes { broken: true, ..Fakes::default() };
    let (_stage, watches, _checks, mut incoming) = idle(None, broken).await;
    watches.start(spec("w", &["pod/shop/cart"], &["pod/shop/pay:80"])).await.unwrap();
    let id = watches.0.board().plan(&"node1".into()).probes[0].id;
    watches.take(&"node1".into(), &[failures(id, &[lasting(7, 3)])]);
    assert_eq!(checks(&watches), [OutageCheck::Waiting]);
    let number = incoming.outages.recv().await.unwrap();
    watches.examine(number).await;
    let message = "nothing was sent: the agent of node1 could not inject: no socket".to_owned();
    assert_eq!(checks(&watches), [OutageCheck::Failed { message }]);
}

#[tokio::test]
async fn an_outage_is_not_checked_when_too_many_wait() {
    let (_stage, watches, _checks, mut incoming) = idle(None, Fakes::default()).await;
    watches.start(spec("w", &["pod/shop/cart"], &["pod/shop/pay:80"])).await.unwrap();
    let id = watches.0.board().plan(&"node1".into()).probes[0].id;
    let over = |since| Streak { until_unix_ns: Some(since + 1), ..lasting(since, 3) };
    let streaks: Vec<_> = (0..=WAITING_CHECKS as u64).map(|number| over(10 * number)).collect();
    watches.take(&"node1".into(), &[failures(id, &streaks)]);

    let mut checks = checks(&watches);
    let message = "32 other outages were waiting for their checks already".to_owned();
    assert_eq!(checks.pop(), Some(OutageCheck::Skipped { message }));
    assert_eq!(checks, vec![OutageCheck::Waiting; WAITING_CHECKS]);
    // Those that wait are examined, the other never is.
    let mut waiting = Vec::new();
    while let Ok(number) = incoming.outages.try_recv() {
        waiting.push(number);
    }
    assert_eq!(waiting, (1..=WAITING_CHECKS as u64).collect::<Vec<_>>());
}
