//! An API server that is away while a change has to be taken back.

use waymark_proto::Text;

use super::super::patience::Patience;
use super::super::undo::undo_within;
use super::*;

/// Validates a policy that cuts a connection; also what the user is told.
async fn harmful(world: &World, stop: &Stop) -> (ValidationReport, Vec<String>) {
    let said = Mutex::<Vec<String>>::default();
    let say = |words: String| said.lock().unwrap().push(words);
    let plan = plan(Intention::Apply, &[("p", only("cart"))]);
    let report = validate(world, world, &plan, stop, &say).await.unwrap();
    (report, said.into_inner().unwrap())
}

#[tokio::test]
async fn a_server_that_restarts_is_waited_for() {
    // More tries than a conflict has, and none of them is counted.
    let (world, stop) = World::new(Trouble::Away(6));
    let world = world.with("p", &only("web"));
    let before = world.state();
    let (report, said) = harmful(&world, &stop).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack), "{:?}", report.rollback);
    assert_eq!(world.state(), before);
    let waiting: Vec<_> = said.iter().filter(|words| words.contains("no server")).collect();
    assert_eq!(waiting.len(), 6, "{said:?}");
    let first = waiting[0].strip_prefix("taking the change back: no server; trying for another ");
    let seconds: u64 = first.unwrap().strip_suffix(" s").unwrap().parse().unwrap();
    assert!((50..=60).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn what_was_applied_without_an_answer_is_taken_back() {
    // The answer is lost, and so is the one to the question what was done.
    let (world, stop) = World::new(Trouble::AwayWithoutAnswer(2));
    let (report, said) = harmful(&world, &stop).await;
    assert_eq!((report.outcome, report.state), (Outcome::Failed, State::RolledBack), "{:?}", report.rollback);
    assert_eq!(report.failures, ["no server"]);
    assert!(world.state().is_empty());
    assert!(said.iter().any(|words| words.starts_with("looking what was applied: no server")), "{said:?}");
}

#[tokio::test]
async fn a_server_that_stays_away_is_not_waited_for_forever() {
    let (world, _stop) = World::new(Trouble::Away(u32::MAX));
    world.note("apply".to_owned());
    let one = |name| Done { key: key(name), before: None, after: Some(manifest(name, &only("cart"))) };
    let patience = Patience::within(Duration::ZERO, &|_| ());
    let undone = undo_within(&world, &[one("p"), one("q")], patience).await;
    let left = |name| (key(name), Undone::Left(Text::verbatim("no server (tried for 0 s)")));
    assert_eq!(undone, [left("q"), left("p")]);
    assert_eq!(*world.unanswered.lock().unwrap(), 2, "one try each, as it is known to be away");
}

#[tokio::test]
async fn an_object_that_was_made_again_without_an_answer_is_as_it_was() {
    let (world, _stop) = World::new(Trouble::None);
    let before = world.with("p", &only("cart"));
    let object = before.state()[&key("p")].clone();
    let mut again = object.clone();
    again["metadata"]["uid"] = "uid-new".into();
    before.objects.lock().unwrap().insert(key("p"), again);
    let deleted = Done { key: key("p"), before: Some(object), after: None };
    assert_eq!(undo(&before, &[deleted], &|_| ()).await, [(key("p"), Undone::Restored)]);
    assert!(before.requests.lock().unwrap().is_empty());
}
