//! The report for those who collect test results.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::report::{CheckReport, Outcome, State, ValidationReport};

/// A validation as a `JUnit` report: a test case for the whole, and one for each connection that was checked.
///
/// # Errors
/// Never for what a validation makes; the writer of XML may refuse.
pub fn junit(report: &ValidationReport) -> Result<String, SerializeError> {
    let mut suite = TestSuite::new("waymark validate");
    let mut whole = TestCase::new("the change is as predicted", status(whole_failure(report)));
    whole.set_classname("waymark.validate");
    if let Some(settled) = report.settled_ms {
        whole.set_time(Duration::from_millis(settled));
    }
    let remarks: Vec<String> =
        report.change.iter().map(|one| format!("{} {:?}", one.object, one.action)).collect();
    whole.set_system_out(remarks.iter().chain(&report.remarks).cloned().collect::<Vec<_>>().join("\n"));
    suite.add_test_case(whole);
    for check in &report.checks {
        let mut case = TestCase::new(check.pair.to_string(), check_status(check));
        case.set_classname("waymark.validate.connection");
        suite.add_test_case(case);
    }
    let mut junit = Report::new("waymark");
    junit.add_test_suite(suite);
    junit.to_string()
}

fn status(failure: Option<(String, String)>) -> TestCaseStatus {
    let Some((message, description)) = failure else { return TestCaseStatus::success() };
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(message).set_description(description);
    status
}

fn whole_failure(report: &ValidationReport) -> Option<(String, String)> {
    let state = match report.state {
        State::NotApplied => "nothing was applied",
        State::Applied => "the change is in place",
        State::RolledBack => "the change was rolled back",
        State::PartlyRolledBack => "the change was rolled back in part only",
    };
    match report.outcome {
        Outcome::Unchanged | Outcome::AsPredicted if report.state != State::PartlyRolledBack => None,
        Outcome::Interrupted => Some((format!("interrupted; {state}"), report.failures.join("\n"))),
        Outcome::Unchanged | Outcome::AsPredicted | Outcome::Failed => {
            Some((format!("failed; {state}"), report.failures.join("\n")))
        }
    }
}

fn check_status(check: &CheckReport) -> TestCaseStatus {
    let Some(judgement) = check.judgement else { return TestCaseStatus::skipped() };
    let failure = judgement.fails().then(|| {
        let fault = check
            .fault_point
            .as_ref()
            .map(|fault| format!("{} on {} at {}: {}", fault.cause, fault.node, fault.hook, fault.advice));
        let facts = format!(
            "before: {:?} ({}), predicted: {}, after: {:?}",
            check.before, check.intended, check.predicted, check.after
        );
        let lines: Vec<String> = [Some(facts), fault, check.note.clone()].into_iter().flatten().collect();
        (judgement.words().to_owned(), lines.join("\n"))
    });
    status(failure)
}
