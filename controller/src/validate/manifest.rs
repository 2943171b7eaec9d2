//! Manifests, from text to objects: YAML of several documents, JSON, lists.

use serde_json::Value;

/// One object of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it comes from, to be named: `change.yaml, document 2`.
    pub origin: String,
    /// The object.
    pub value: Value,
}

/// Why a text is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Neither YAML nor JSON.
    #[error("{name} is neither YAML nor JSON: {reason}")]
    Syntax {
        /// The text's name.
        name: String,
        /// The first mistake and where it is.
        reason: String,
    },
    /// A document that is no object.
    #[error("{origin} is no Kubernetes object: {why}")]
    NoObject {
        /// Which document.
        origin: String,
        /// Why not.
        why: &'static str,
    },
    /// Nothing at all.
    #[error("{name} has no objects in it")]
    Empty {
        /// The text's name.
        name: String,
    },
}

/// Reads the objects of a text. Lists are taken apart; empty documents are passed over.
///
/// # Errors
/// Not readable, a document that is no object, or none at all.
pub fn read(name: &str, text: &str) -> Result<Vec<Document>, ManifestError> {
    let values = values(name, text)?;
    let several = values.iter().filter(|value| !value.is_null()).count() > 1;
    let mut documents = Vec::new();
    for (index, value) in values.into_iter().enumerate().filter(|(_, value)| !value.is_null()) {
        let origin = if several { format!("{name}, document {}", index + 1) } else { name.to_owned() };
        take_apart(origin, value, &mut documents)?;
    }
    if documents.is_empty() { Err(ManifestError::Empty { name: name.to_owned() }) } else { Ok(documents) }
}

fn values(name: &str, text: &str) -> Result<Vec<Value>, ManifestError> {
    if text.trim_start().starts_with('{') {
        let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(values) = json {
            return Ok(values);
        }
        // It may yet be YAML in its flow style, and YAML's complaint names line and column as well.
    }
    serde_saphyr::from_multiple(text).map_err(|error| {
        let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
        let words = error.without_snippet().to_string();
        let words = words.lines().next().unwrap_or("not understood");
        // Its words may end with the place.
        let words = words.split(" at line ").next().unwrap_or(words);
        let reason = format!("{}{}", place.unwrap_or_default(), clipped(words));
        ManifestError::Syntax { name: name.to_owned(), reason }
    })
}

/// The longest complaint that is passed on, in characters.
const LONGEST_COMPLAINT: usize = 200;

fn clipped(words: &str) -> String {
    if words.chars().count() <= LONGEST_COMPLAINT {
        return words.to_owned();
    }
    words.chars().take(LONGEST_COMPLAINT).chain(['…']).collect()
}

fn take_apart(origin: String, mut value: Value, into: &mut Vec<Document>) -> Result<(), ManifestError> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    if !value.is_object() {
        return Err(ManifestError::NoObject { origin, why: "it is not a mapping" });
    }
    let Some(kind) = text(&value, "kind") else {
        return Err(ManifestError::NoObject { origin, why: "it has no kind" });
    };
    let Some(version) = text(&value, "apiVersion") else {
        return Err(ManifestError::NoObject { origin, why: "it has no apiVersion" });
    };
    let Some(item_kind) = kind.strip_suffix("List") else {
        into.push(Document { origin, value });
        return Ok(());
    };
    let items = match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        Some(Value::Null) | None => Vec::new(),
        Some(_) => return Err(ManifestError::NoObject { origin, why: "its items are no list" }),
    };
    for (index, mut item) in items.into_iter().enumerate() {
        // Items of a typed list may leave out what the list says for all.
        if let (false, Some(item)) = (item_kind.is_empty(), item.as_object_mut()) {
            item.entry("kind").or_insert_with(|| item_kind.into());
            item.entry("apiVersion").or_insert_with(|| version.clone().into());
        }
        take_apart(format!("{origin}, item {}", index + 1), item, into)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(String, String)> {
        let documents = read("x.yaml", text).unwrap();
        documents.into_iter().map(|d| (d.origin, d.value["kind"].as_str().unwrap().to_owned())).collect()
    }

    fn says(text: &str) -> String {
        read("x.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn all_shapes_are_read() {
        let one = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        assert_eq!(kinds("kind: Service\napiVersion: v1\n"), [one("x.yaml", "Service")]);
        assert_eq!(
            kinds("---\n# nothing\n---\nkind: Service\napiVersion: v1\n---\nkind: Pod\napiVersion: v1\n"),
            [one("x.yaml, document 1", "Service"), one("x.yaml, document 2", "Pod")]
        );
        assert_eq!(
            kinds(r#"{"kind":"List","apiVersion":"v1","items":[{"kind":"Pod","apiVersion":"v1"}]}"#),
            [one("x.yaml, item 1", "Pod")]
        );
        assert_eq!(
            kinds(
                "kind: NetworkPolicyList\napiVersion: networking.k8s.io/v1\nitems: [{metadata: {name: a}}]"
            ),
            [one("x.yaml, item 1", "NetworkPolicy")]
        );
        assert_eq!(
            kinds("{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}\n{\"kind\":\"Node\",\"apiVersion\":\"v1\"}")
                .len(),
            2
        );
        assert_eq!(kinds("{kind: Pod, apiVersion: v1}").len(), 1, "flow style");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let broken = says("kind: Service\napiVersion: v1\nspec:\n  ports: [\n");
        assert!(broken.starts_with("x.yaml is neither YAML nor JSON: line "), "{broken}");
        assert!(!broken.contains('\n'), "{broken}");
        let tab = says("kind: Service\n\tapiVersion: v1\n");
        assert!(tab.contains("line ") && tab.contains("tab"), "{tab}");
        assert_eq!(says(""), "x.yaml has no objects in it");
        assert_eq!(says("---\n---\n"), "x.yaml has no objects in it");
        assert_eq!(says("kind: List\napiVersion: v1\nitems: []"), "x.yaml has no objects in it");
        assert_eq!(says("hello"), "x.yaml is no Kubernetes object: it is not a mapping");
        assert_eq!(says("kind: Pod"), "x.yaml is no Kubernetes object: it has no apiVersion");
        assert_eq!(says("a: b"), "x.yaml is no Kubernetes object: it has no kind");
        let second = says("kind: Pod\napiVersion: v1\n---\n- 1\n");
        assert_eq!(second, "x.yaml, document 2 is no Kubernetes object: it is not a mapping");
    }
}
