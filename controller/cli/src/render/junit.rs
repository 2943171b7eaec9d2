//! The result of a check for those who collect test results: one test case.

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
use waymark_proto::{Anomaly, CheckResult, Language, Text, Verdict, text};

use super::sentence::sentence;
use super::{counts, ends, fault, remarks};
use crate::args::Expect;
use crate::verdict_code;

/// The report. What could not be determined is an error, what is not as expected a failure.
///
/// # Errors
/// The writer's of XML.
pub(super) fn junit(
    result: &CheckResult,
    expect: Expect,
    language: Language,
) -> Result<String, SerializeError> {
    let kind = match verdict_code(result.verdict, expect) {
        0 => None,
        2 => Some(NonSuccessKind::Error),
        _ => Some(NonSuccessKind::Failure),
    };
    let status = kind.map_or_else(TestCaseStatus::success, |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        status
            .set_type(result.verdict.to_string())
            .set_message(message(result).say(language))
            .set_description(words(result, language));
        status
    });
    let name = ends(result).say(language);
    let mut case = TestCase::new(name, status);
    case.set_classname("waymark.check");
    let verdict = text!(walk::VerdictWithCounts { verdict: result.verdict.words(), counts: counts(result) });
    let anomalies = result.anomalies.iter().map(Anomaly::sentence);
    let told =
        std::iter::once(verdict).chain(anomalies).chain(remarks(result)).map(|text| text.say(language));
    case.set_system_out(told.collect::<Vec<_>>().join("\n"));
    let mut suite = TestSuite::new("waymark check");
    suite.add_test_case(case);
    let mut report = Report::new("waymark");
    report.add_test_suite(suite);
    report.to_string()
}

/// One sentence.
fn message(result: &CheckResult) -> Text {
    match &result.fault_point {
        Some(point) => sentence(point),
        None if result.verdict == Verdict::Reachable => text!(walk::IsReachable),
        None => text!(walk::VerdictAndCounts { verdict: result.verdict.words(), counts: counts(result) }),
    }
}

/// The evidence and the advice.
fn words(result: &CheckResult, language: Language) -> String {
    let labelled = |label: Text, words: Text| text!(label::With { label, words });
    let lines = match &result.fault_point {
        None => remarks(result),
        Some(point) => {
            let culprit = point.culprit.as_ref();
            let culprit = culprit.map(|one| labelled(text!(label::Culprit), Text::verbatim(one.to_string())));
            let evidence =
                point.evidence.iter().map(|evidence| labelled(text!(label::Evidence), evidence.clone()));
            let next = labelled(text!(label::Next), point.advice.clone());
            culprit.into_iter().chain(evidence).chain([fault::confidence(point), next]).collect()
        }
    };
    lines.iter().map(|text| text.say(language)).collect::<Vec<_>>().join("\n")
}
