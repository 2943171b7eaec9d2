//! NetworkPolicies.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;
use waymark_proto::{Absent, NetworkPolicySpec, text};

use super::{absent, name, namespace};

/// A policy. One with fields that are not understood has no place: half of it would be judged wrongly.
pub(super) fn convert(policy: &NetworkPolicy) -> Result<waymark_proto::NetworkPolicy, Absent> {
    // What is not there is null here, and absent in the vocabulary.
    let spec = serde_json::to_value(&policy.spec).map(without_nulls);
    let spec = spec.and_then(|spec| match spec {
        Value::Null => Ok(NetworkPolicySpec::default()),
        spec => serde_json::from_value(spec),
    });
    match spec {
        Ok(spec) => Ok(waymark_proto::NetworkPolicy {
            namespace: namespace(&policy.metadata),
            name: name(&policy.metadata),
            spec,
        }),
        Err(error) => Err(absent(
            "NetworkPolicy",
            &policy.metadata,
            text!(absent::NotUnderstood { error: error.to_string() }),
        )),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
