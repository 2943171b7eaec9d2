//! The report for those who collect test results.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
use waymark_proto::{Language, text};

use super::report::{CheckReport, Outcome, State, ValidationReport};

/// A validation as a `JUnit` report: a test case for the whole, and one for each connection that was checked.
///
/// # Errors
/// Never for what a validation makes; the writer of XML may refuse.
pub fn junit(report: &ValidationReport, language: Language) -> Result<String, SerializeError> {
    let mut suite = TestSuite::new("waymark validate");
    let mut whole =
        TestCase::new(text!(validation::Case).say(language), status(whole_failure(report, language)));
    whole.set_classname("waymark.validate");
    if let Some(settled) = report.settled_ms {
        whole.set_time(Duration::from_millis(settled));
    }
    let remarks: Vec<String> =
        report.change.iter().map(|one| format!("{} {:?}", one.object, one.action)).collect();
    let told = report.remarks.iter().map(|remark| remark.say(language));
    whole.set_system_out(remarks.into_iter().chain(told).collect::<Vec<_>>().join("\n"));
    suite.add_test_case(whole);
    for check in &report.checks {
        let mut case = TestCase::new(check.pair.to_string(), check_status(check, language));
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

fn whole_failure(report: &ValidationReport, language: Language) -> Option<(String, String)> {
    let state = match report.state {
        State::NotApplied => text!(validation::NothingApplied),
        State::Applied => text!(validation::InPlace),
        State::RolledBack => text!(validation::CaseRolledBack),
        State::PartlyRolledBack => text!(validation::CasePartlyRolledBack),
    };
    let outcome = match report.outcome {
        Outcome::Unchanged | Outcome::AsPredicted if report.state != State::PartlyRolledBack => None,
        Outcome::Interrupted => Some(text!(validation::Interrupted)),
        Outcome::Unchanged | Outcome::AsPredicted | Outcome::Failed => Some(text!(validation::CaseFailed)),
    };
    let failures = report.failures.iter().map(|failure| failure.say(language));
    let message = text!(validation::CaseOf { outcome: outcome?, state }).say(language);
    Some((message, failures.collect::<Vec<_>>().join("\n")))
}

fn check_status(check: &CheckReport, language: Language) -> TestCaseStatus {
    let Some(judgement) = check.judgement else { return TestCaseStatus::skipped() };
    let failure = judgement.fails().then(|| {
        let fault = check.fault_point.as_ref().map(|fault| {
            let (cause, node, hook) = (fault.cause, &fault.node, fault.hook);
            text!(validation::CaseFault { cause, node, hook, advice: &fault.advice })
        });
        let facts = text!(validation::CaseFacts {
            before: format!("{:?}", check.before),
            intended: check.intended.words(),
            predicted: check.predicted.words(),
            after: format!("{:?}", check.after),
        });
        let lines = [Some(facts), fault, check.note.clone()].into_iter().flatten();
        let lines: Vec<String> = lines.map(|line| line.say(language)).collect();
        (judgement.words().say(language), lines.join("\n"))
    });
    status(failure)
}
