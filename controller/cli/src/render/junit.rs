//! The result of a check for those who collect test results: one test case.

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
use waymark_proto::{CheckResult, Verdict};

use super::sentence::sentence;
use super::{counts, fault, remarks};
use crate::args::Expect;
use crate::verdict_code;

/// The report. What could not be determined is an error, what is not as expected a failure.
///
/// # Errors
/// The writer's of XML.
pub(super) fn junit(result: &CheckResult, expect: Expect) -> Result<String, SerializeError> {
    let kind = match verdict_code(result.verdict, expect) {
        0 => None,
        2 => Some(NonSuccessKind::Error),
        _ => Some(NonSuccessKind::Failure),
    };
    let status = kind.map_or_else(TestCaseStatus::success, |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        status
            .set_type(result.verdict.to_string())
            .set_message(message(result))
            .set_description(words(result));
        status
    });
    let name = format!("{} → {} ({})", result.source, result.destination, result.flow.protocol);
    let mut case = TestCase::new(name, status);
    case.set_classname("waymark.check");
    let told = std::iter::once(format!("{}: {}", result.verdict, counts(result))).chain(remarks(result));
    case.set_system_out(told.collect::<Vec<_>>().join("\n"));
    let mut suite = TestSuite::new("waymark check");
    suite.add_test_case(case);
    let mut report = Report::new("waymark");
    report.add_test_suite(suite);
    report.to_string()
}

/// One sentence.
fn message(result: &CheckResult) -> String {
    match &result.fault_point {
        Some(point) => sentence(point),
        None if result.verdict == Verdict::Reachable => "it is reachable".to_owned(),
        None => format!("{}, {}", result.verdict, counts(result)),
    }
}

/// The evidence and the advice.
fn words(result: &CheckResult) -> String {
    let Some(point) = &result.fault_point else { return remarks(result).join("\n") };
    let culprit = point.culprit.as_ref().map(|culprit| format!("Culprit: {culprit}"));
    let evidence = point.evidence.iter().map(|evidence| format!("Evidence: {evidence}"));
    let confidence = format!("Confidence: {}", fault::confidence(point.confidence));
    let next = format!("Next: {}", point.advice);
    culprit.into_iter().chain(evidence).chain([confidence, next]).collect::<Vec<_>>().join("\n")
}
