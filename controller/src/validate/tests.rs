//! Validations against a made-up [`World`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::json;
use waymark_proto::Text;
use waymark_sim::{Pair, Survey};

use super::fixture::{objects, pod};
use super::*;

mod away;
mod world;

use world::{Trouble, World};

fn key(name: &str) -> Key {
    Key { kind: Kind::NetworkPolicy, namespace: "shop".into(), name: name.into() }
}

fn manifest(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// Nobody but `from` may send to `pay`.
fn only(from: &str) -> Value {
    json!({
        "podSelector": {"matchLabels": {"app": "pay"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}]}],
    })
}

fn plan(intention: Intention, objects: &[(&str, Value)]) -> Plan {
    let items =
        objects.iter().map(|(name, spec)| Item { key: key(name), manifest: manifest(name, spec) }).collect();
    Plan {
        change: Change { intention, items },
        expectations: Expectations::default(),
        bounds: Bounds { most: 24, udp: false },
        settle: Duration::ZERO,
        rollback: Rollback::OnFailure,
        cautious: false,
    }
}

async fn run(world: &World, stop: &Stop, plan: &Plan) -> ValidationReport {
    validate(world, world, plan, stop, &|_| ()).await.unwrap()
}

fn judgements(report: &ValidationReport) -> BTreeSet<Judgement> {
    report.checks.iter().filter_map(|check| check.judgement).collect()
}

#[tokio::test]
async fn a_wanted_change_stays() {
    let (world, stop) = World::new(Trouble::None);
    let mut plan = plan(Intention::Apply, &[("p", only("cart"))]);
    plan.expectations.accept_lost = true;
    let report = run(&world, &stop, &plan).await;
    assert_eq!((report.outcome, report.state, report.exit_code()), (Outcome::AsPredicted, State::Applied, 1));
    assert_eq!(judgements(&report), BTreeSet::from([Judgement::AsPredicted]));
    assert_eq!((report.reachability.lost, report.reachability.gained), (1, 0));
    assert!(
        report.checks.iter().any(|check| check.before == Seen::Works && check.after == Some(Seen::Fails))
    );
    assert!(report.checks.iter().any(|check| check.after == Some(Seen::Works)), "a control");
    assert!(report.settled_ms.is_some());
    assert!(world.state().contains_key(&key("p")));
}

#[tokio::test]
async fn what_is_lost_unasked_is_rolled_back() {
    let (world, stop) = World::new(Trouble::None);
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])).await;
    assert_eq!((report.outcome, report.state, report.exit_code()), (Outcome::Failed, State::RolledBack, 2));
    assert_eq!(
        report.failures,
        ["pod/shop/web → pod/shop/pay 8080/tcp: lost, as predicted, and not accepted"]
    );
    let rollback = report.rollback.unwrap();
    assert_eq!((rollback.back, rollback.not_back.len()), (Some(report.checks.len()), 0));
    assert!(world.state().is_empty());
}

#[tokio::test]
async fn a_cautious_validation_does_not_even_try() {
    let (world, stop) = World::new(Trouble::None);
    let plan = Plan { cautious: true, ..plan(Intention::Apply, &[("p", only("cart"))]) };
    let report = run(&world, &stop, &plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::NotApplied));
    assert!(report.failures[0].contains("pod/shop/web → pod/shop/pay 8080/tcp works now and would be lost"));
    assert!(world.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_loss_that_no_check_would_see_is_not_even_tried() {
    let (mut world, stop) = World::new(Trouble::None);
    world.with_dns(true);
    let change = plan(Intention::Apply, &[("p", only("cart"))]);
    let report = run(&world, &stop, &change).await;
    assert_eq!((report.outcome, report.state, report.exit_code()), (Outcome::Failed, State::NotApplied, 2));
    let [failure] = report.failures.as_slice() else { panic!("{:?}", report.failures) };
    assert!(failure.starts_with("pod/shop/web → pod/shop/pay 53/udp would be lost"), "{failure}");
    assert!(failure.contains("--udp") && failure.contains("--accept-lost"), "{failure}");
    assert!(world.requests.lock().unwrap().is_empty());
    // Where it is checked, it is tried; where it is given up, it stays.
    let bounds = Bounds { udp: true, ..change.bounds };
    let report = run(&world, &stop, &Plan { bounds, ..change.clone() }).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack));
    let expectations = Expectations { accept_lost: true, ..change.expectations.clone() };
    let report = run(&world, &stop, &Plan { expectations, ..change }).await;
    assert_eq!((report.outcome, report.state), (Outcome::AsPredicted, State::Applied));
}

#[tokio::test]
async fn a_loss_that_no_check_sees_is_told_beside_those_that_are_seen() {
    let (mut world, stop) = World::new(Trouble::None);
    world.with_dns(false);
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack));
    let [seen, unseen] = report.failures.as_slice() else { panic!("{:?}", report.failures) };
    assert!(seen.ends_with("8080/tcp: lost, as predicted, and not accepted"), "{seen}");
    assert!(unseen.contains("53/udp would be lost, and that is not checked"), "{unseen}");
}

#[test]
fn what_a_deleted_service_cuts_is_a_loss() {
    let (world, _) = World::new(Trouble::None);
    let mut service = fixture::service("pay", "pay", "http");
    service.spec.as_mut().unwrap().cluster_ip = Some("10.96.0.1".to_owned());
    let before = convert(&objects::after(&world.base, &[Edit::Service(Box::new(service))]));
    let after = convert(&world.base);
    let touched = BTreeSet::from(["shop".to_owned()]);
    let foresight = foresee(&before, &after, &touched);
    let bounds = Bounds { most: 24, udp: false };
    let losses = |expectations: &Expectations| {
        unchecked_losses(&foresight, &[&before, &after], &[], expectations, bounds)
    };
    let told = losses(&Expectations::default());
    let of_cart = |loss: &&Text| loss.starts_with("pod/shop/cart → svc/shop/pay");
    let loss = told.iter().find(of_cart).unwrap_or_else(|| panic!("{told:?}"));
    assert!(loss.contains("will not be there any more"), "{loss}");
    assert_eq!(losses(&Expectations { accept_lost: true, ..Default::default() }), [""; 0]);
}

#[tokio::test]
async fn a_changed_policy_comes_back_with_its_managers() {
    let (world, stop) = World::new(Trouble::None);
    let world = world.with("p", &only("web"));
    let before = world.state();
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])).await;
    assert_eq!(report.state, State::RolledBack);
    assert_eq!((report.reachability.lost, report.reachability.gained), (1, 1));
    assert_eq!(world.state(), before);
    assert_eq!(*world.requests.lock().unwrap(), ["apply p", "replace p", "replace p"]);
}

#[tokio::test]
async fn a_deletion_is_taken_back_by_creating_anew() {
    let (world, stop) = World::new(Trouble::None);
    let world = world.with("p", &only("cart"));
    let plan = Plan { rollback: Rollback::Always, ..plan(Intention::Delete, &[("p", only("cart"))]) };
    let report = run(&world, &stop, &plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::AsPredicted, State::RolledBack));
    assert_eq!(report.change[0].action, Action::Deleted);
    assert_eq!(report.reachability.gained, 1);
    assert_eq!(world.state()[&key("p")]["spec"], only("cart"));
}

#[tokio::test]
async fn what_is_not_enforced_or_breaks_is_found_and_rolled_back() {
    for (trouble, judgement) in
        [(Trouble::NotEnforced, Judgement::NotEnforced), (Trouble::BreaksAll, Judgement::Broken)]
    {
        let (world, stop) = World::new(trouble);
        let mut plan = plan(Intention::Apply, &[("p", only("cart"))]);
        plan.expectations.accept_lost = true;
        let report = run(&world, &stop, &plan).await;
        assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack), "{trouble:?}");
        assert!(judgements(&report).contains(&judgement), "{trouble:?}");
        assert_eq!(report.settled_ms, None);
        assert!(world.state().is_empty(), "{trouble:?}");
    }
}

#[tokio::test]
async fn a_lost_controller_and_an_interruption_lead_to_the_rollback() {
    let (world, stop) = World::new(Trouble::ControllerAway);
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack));
    assert_eq!(report.failures, ["the controller went away"]);
    assert!(world.state().is_empty());

    let (world, stop) = World::new(Trouble::Interrupted);
    let mut plan = plan(Intention::Apply, &[("p", only("cart"))]);
    plan.settle = Duration::from_secs(60);
    let report = run(&world, &stop, &plan).await;
    assert_eq!(
        (report.outcome, report.state, report.exit_code()),
        (Outcome::Interrupted, State::RolledBack, 2)
    );
    assert!(world.state().is_empty());
}

#[tokio::test]
async fn a_change_that_is_refused_halfway_is_taken_back() {
    let (world, stop) = World::new(Trouble::SecondRefused);
    let plan = plan(Intention::Apply, &[("first", only("cart")), ("second", only("web"))]);
    let report = run(&world, &stop, &plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack));
    assert_eq!(report.failures, ["no"]);
    assert!(world.state().is_empty());
}

#[tokio::test]
async fn a_rollback_that_fails_says_what_is_left_and_what_was_there() {
    let (world, stop) = World::new(Trouble::NoDeleting);
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])).await;
    assert_eq!((report.state, report.exit_code()), (State::PartlyRolledBack, 3));
    let rollback = report.rollback.unwrap();
    assert_eq!(rollback.objects[0].left.as_deref(), Some("not permitted to delete it"));
    assert_eq!(rollback.objects[0].before, None);
    assert_eq!(
        rollback.not_back,
        ["pod/shop/web → pod/shop/pay 8080/tcp: Works before, Fails after the rollback"]
    );
}

#[tokio::test]
async fn what_somebody_else_changed_meanwhile_is_left_alone() {
    let (world, stop) = World::new(Trouble::Meddler);
    let world = world.with("p", &only("web"));
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])).await;
    assert_eq!((report.state, report.exit_code()), (State::PartlyRolledBack, 3));
    let left = &report.rollback.unwrap().objects[0];
    assert_eq!(left.left.as_deref(), Some("somebody else changed it meanwhile (field manager argocd)"));
    assert_eq!(left.before.as_ref().unwrap()["spec"], only("web"));
    assert_eq!(world.state()[&key("p")]["spec"]["podSelector"]["matchLabels"]["app"], "meddled");
}

#[tokio::test]
async fn nothing_is_applied_that_changes_nothing_or_is_not_there() {
    let (world, stop) = World::new(Trouble::None);
    let world = world.with("p", &only("cart"));
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])).await;
    assert_eq!(
        (report.outcome, report.state, report.exit_code()),
        (Outcome::Unchanged, State::NotApplied, 0)
    );
    assert_eq!(report.change[0].action, Action::Unchanged);
    let missing = plan(Intention::Delete, &[("q", only("cart"))]);
    let error = validate(&world, &world, &missing, &stop, &|_| ()).await.unwrap_err().to_string();
    assert_eq!(error, "NetworkPolicy shop/q is not there, so it cannot be deleted; nothing was applied");
    assert!(world.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_policy_that_selects_nobody_changes_nothing_and_says_so() {
    let (world, stop) = World::new(Trouble::None);
    let nobody = json!({"podSelector": {"matchLabels": {"app": "nobody"}}});
    let report = run(&world, &stop, &plan(Intention::Apply, &[("p", nobody)])).await;
    assert_eq!((report.outcome, report.state, report.exit_code()), (Outcome::Unchanged, State::Applied, 0));
    assert_eq!(report.remarks, ["NetworkPolicy shop/p selects no pod"]);
}

#[tokio::test]
async fn expectations_are_held_against_the_prediction_first() {
    let (world, stop) = World::new(Trouble::None);
    let expect =
        |text: &str| Expectations { list: Expectations::read("e", text).unwrap(), accept_lost: false };
    let mut plan = plan(Intention::Apply, &[("p", only("cart"))]);
    plan.expectations = expect("- {source: pod/shop/web, destination: pod/shop/pay, expect: Reachable}");
    let report = run(&world, &stop, &plan).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::NotApplied));
    assert_eq!(
        report.failures,
        ["pod/shop/web → pod/shop/pay 8080/tcp is expected to be Reachable and will be denied"]
    );
    plan.expectations = expect("- {source: pod/shop/web, destination: pod/shop/pay, expect: Unreachable}");
    assert_eq!(run(&world, &stop, &plan).await.outcome, Outcome::AsPredicted);
    plan.expectations = expect("- {source: pod/shop/wbe, destination: pod/shop/pay, expect: Unreachable}");
    let error = validate(&world, &world, &plan, &stop, &|_| ()).await.unwrap_err().to_string();
    assert!(error.contains("fits no connection"), "{error}");
}

#[tokio::test]
async fn differences_are_put_together_with_their_reason() {
    let (world, _stop) = World::new(Trouble::None);
    let plan = plan(Intention::Apply, &[("p", json!({"podSelector": {}}))]);
    let report = preview(&world, &plan).await.unwrap().report;
    assert_eq!(report.reachability.lost, 6);
    let [group, ..] = report.reachability.groups.as_slice() else { panic!("no group") };
    let because = group.because.as_deref().unwrap();
    assert!(because.starts_with("denied by NetworkPolicy shop/p (ingress of shop/"), "{because}");
    assert_eq!(group.sources.len(), 2);
    let outside: Vec<_> = report.reachability.outside.iter().map(|o| (o.pods.as_str(), o.port)).collect();
    assert_eq!(outside, [("shop/cart", 8080), ("shop/pay", 8080), ("shop/web", 8080)]);
}

#[test]
fn every_ending_has_its_place_in_junit() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (world, stop) = World::new(Trouble::None);
    let report = runtime.block_on(run(&world, &stop, &plan(Intention::Apply, &[("p", only("cart"))])));
    let text = junit(&report, waymark_proto::Language::En).unwrap();
    assert!(text.contains(r#"failures="2""#), "the whole and the lost connection: {text}");
    assert!(text.contains("pod/shop/web → pod/shop/pay 8080/tcp"), "{text}");
    assert!(text.contains("the change was rolled back"), "{text}");
}
