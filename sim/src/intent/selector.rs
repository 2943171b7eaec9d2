//! Label selectors.

use std::collections::BTreeMap;

use waymark_proto::{LabelOperator, LabelRequirement, LabelSelector};

/// Labels of a pod or namespace.
pub(super) type Labels = BTreeMap<String, String>;

/// Whether a selector selects what has these labels. An empty one selects everything.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selects_map(&selector.match_labels, labels)
        && selector.match_expressions.iter().all(|requirement| holds(requirement, labels))
}

/// Whether labels have all of these values: the selector of a Service.
pub(super) fn selects_map(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn holds(requirement: &LabelRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let among = || value.is_some_and(|value| requirement.values.contains(value));
    match requirement.operator {
        LabelOperator::In => among(),
        // What lacks the label has none of the values.
        LabelOperator::NotIn => !among(),
        LabelOperator::Exists => value.is_some(),
        LabelOperator::DoesNotExist => value.is_none(),
    }
}
