//! What schemas need beside what the derive makes of the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

/// A DNS label (RFC 1123): names of namespaces and Services.
pub(super) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A DNS subdomain (RFC 1123): names of pods and nodes.
pub(super) const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A length of time: one number, one unit.
pub(super) const DURATION: &str = r"^[0-9]{1,9}(\.[0-9]{1,3})?(us|ms|s|m)$";

/// Exactly one of these fields is there.
pub(super) fn one_of(fields: &[&str]) -> Value {
    fields.iter().map(|field| json!({"required": [field]})).collect()
}

/// Only pods have a namespace.
pub(super) fn source_rules() -> Value {
    json!([{"anyOf": [{"required": ["pod"]}, {"not": {"required": ["namespace"]}}]}])
}

/// A Service needs a port; only pods and Services have a namespace.
pub(super) fn destination_rules() -> Value {
    json!([
        {"anyOf": [{"required": ["port"]}, {"not": {"required": ["service"]}}]},
        {"anyOf": [{"required": ["pod"]}, {"required": ["service"]}, {"not": {"required": ["namespace"]}}]},
    ])
}

/// An address of either family.
pub(super) fn any_address() -> Value {
    json!([{"format": "ipv4"}, {"format": "ipv6"}])
}

/// The definition as API servers like it: with Kubernetes' own formats of numbers (servers warn of others,
/// and derived schemas have `uint16` and the like; bounds say what the format no longer does), and with
/// descriptions that are not broken into lines.
///
/// Nothing in a spec is nullable: what is not there is left out, and a null would count as there in
/// `required`. In a status what is optional has to be: of an object that an apply no longer has, API servers
/// 1.20 make a null, and refuse it where there may be none.
pub(super) fn tidy(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a definition is plain data");
    tidy_value(&mut value, false);
    serde_json::from_value(value).expect("only optional fields were changed")
}

fn tidy_value(value: &mut Value, in_spec: bool) {
    match value {
        Value::Object(fields) => {
            if in_spec && fields.get("nullable").is_some_and(Value::is_boolean) {
                fields.remove("nullable");
            }
            for (name, value) in fields {
                match (name.as_str(), value.as_str()) {
                    ("format", Some("uint8" | "uint16" | "uint32")) => *value = "int32".into(),
                    ("format", Some("uint64")) => *value = "int64".into(),
                    ("description", Some(text)) => *value = text.replace('\n', " ").into(),
                    _ => tidy_value(value, in_spec || name == "spec" && value.get("description").is_some()),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| tidy_value(value, in_spec)),
        _ => {}
    }
}
