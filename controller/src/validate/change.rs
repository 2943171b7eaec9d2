//! A change: NetworkPolicies and Services to be applied or deleted.

use std::collections::BTreeSet;

use serde_json::Value;
use waymark_proto::{ObjectRef, short};

use super::manifest::Document;

/// A kind of object that can be validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `v1` Service.
    Service,
}

/// What is to become of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intention {
    /// They are created, or changed to be like this.
    Apply,
    /// They are deleted.
    Delete,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Kind.
    pub kind: Kind,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An object of a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Which one.
    pub key: Key,
    /// The whole object as it was written, its namespace filled in.
    pub manifest: Value,
}

/// What is to be validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What is to become of them.
    pub intention: Intention,
    /// The objects, each once, in their order.
    pub items: Vec<Item>,
}

/// Why documents are no change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A kind that is none of these.
    #[error(
        "{origin} is of kind {found}: only NetworkPolicy (networking.k8s.io/v1) and Service (v1) can be validated; leave it out"
    )]
    Kind {
        /// Which document.
        origin: String,
        /// Its kind and version.
        found: String,
    },
    /// No name.
    #[error("{origin}: the {kind} has no metadata.name")]
    NoName {
        /// Which document.
        origin: String,
        /// Its kind.
        kind: Kind,
    },
    /// One object twice.
    #[error("{origin}: {object} is there twice")]
    Twice {
        /// The second document.
        origin: String,
        /// The object.
        object: ObjectRef,
    },
    /// It is in another namespace than the command line demands.
    #[error("{origin}: {object} is not of namespace {wanted}, which -n names")]
    Namespace {
        /// Which document.
        origin: String,
        /// The object.
        object: ObjectRef,
        /// The namespace of the command line.
        wanted: String,
    },
}

/// Namespaces of objects that name none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// The user's current one.
    Default(String),
    /// One that was asked for; objects of other ones are refused, as kubectl does.
    Only(String),
}

impl Kind {
    /// As the API server calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
        }
    }

    /// Its `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::Service => "v1",
        }
    }

    /// As in URLs and in roles.
    pub fn plural(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networkpolicies",
            Self::Service => "services",
        }
    }

    fn of(version: &str, kind: &str) -> Option<Self> {
        [Self::NetworkPolicy, Self::Service]
            .into_iter()
            .find(|known| (known.api_version(), known.name()) == (version, kind))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl Key {
    /// The object, to be named.
    pub fn object(&self) -> ObjectRef {
        ObjectRef::namespaced(self.kind.name(), &self.namespace, &self.name)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.object().fmt(f)
    }
}

impl Change {
    /// The change that documents describe.
    ///
    /// # Errors
    /// A kind that cannot be validated, an object without a name, twice, or of another namespace than asked.
    pub fn new(
        documents: Vec<Document>,
        intention: Intention,
        namespaces: &Namespaces,
    ) -> Result<Self, ChangeError> {
        let mut items = Vec::new();
        let mut seen = BTreeSet::new();
        for document in documents {
            let origin = document.origin.clone();
            let item = item(document, namespaces)?;
            if !seen.insert(item.key.clone()) {
                return Err(ChangeError::Twice { origin, object: item.key.object() });
            }
            items.push(item);
        }
        Ok(Self { intention, items })
    }

    /// The namespaces of its objects.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.items.iter().map(|item| item.key.namespace.clone()).collect()
    }
}

fn item(document: Document, namespaces: &Namespaces) -> Result<Item, ChangeError> {
    let Document { origin, mut value } = document;
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    let Some(kind) = Kind::of(&version, &kind) else {
        return Err(ChangeError::Kind { origin, found: format!("{} ({})", short(&kind), short(&version)) });
    };
    let metadata = &mut value["metadata"];
    let name = text(metadata, "name");
    if name.is_empty() {
        return Err(ChangeError::NoName { origin, kind });
    }
    let own = metadata["namespace"].as_str().filter(|own| !own.is_empty()).map(str::to_owned);
    let namespace = match (own, namespaces) {
        (Some(own), Namespaces::Only(wanted)) if own != *wanted => {
            let object = ObjectRef::namespaced(kind.name(), &own, &name);
            return Err(ChangeError::Namespace { origin, object, wanted: wanted.clone() });
        }
        (Some(own), _) => own,
        (None, Namespaces::Default(namespace) | Namespaces::Only(namespace)) => namespace.clone(),
    };
    metadata["namespace"] = namespace.clone().into();
    // What the API server writes has no place in what is asked of it; exports have it.
    if let Some(metadata) = metadata.as_object_mut() {
        for key in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"]
        {
            metadata.remove(key);
        }
    }
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    if kind == Kind::Service {
        fill_protocols(&mut value);
    }
    Ok(Item { key: Key { kind, namespace, name }, manifest: value })
}

/// Gives a Service's ports the protocol that they have by default: it is part of the key that server-side apply
/// knows them by, and API servers up to 1.20 do not fill it in
/// ([kubernetes/kubernetes#98576](https://github.com/kubernetes/kubernetes/pull/98576)).
fn fill_protocols(service: &mut Value) {
    let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        port.entry("protocol").or_insert_with(|| "TCP".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::manifest::read;

    fn change(text: &str, namespaces: &Namespaces) -> Result<Change, String> {
        let documents = read("x", text).unwrap();
        Change::new(documents, Intention::Apply, namespaces).map_err(|error| error.to_string())
    }

    fn here() -> Namespaces {
        Namespaces::Default("here".into())
    }

    const POLICY: &str = "{kind: NetworkPolicy, apiVersion: networking.k8s.io/v1, metadata: {name: a}}";

    #[test]
    fn objects_without_a_namespace_are_of_the_current_one() {
        let change = change(POLICY, &here()).unwrap();
        assert_eq!(change.items[0].key.to_string(), "NetworkPolicy here/a");
        assert_eq!(change.items[0].manifest["metadata"]["namespace"], "here");
    }

    #[test]
    fn ports_without_a_protocol_are_tcp() {
        let text = "{apiVersion: v1, kind: Service, metadata: {name: pay}, spec: {ports: [{port: 80}, {port: 53, protocol: UDP}, 7]}}";
        let manifest = change(text, &here()).unwrap().items.remove(0).manifest;
        assert_eq!(manifest["spec"]["ports"][0]["protocol"], "TCP");
        assert_eq!(manifest["spec"]["ports"][1]["protocol"], "UDP");
        assert_eq!(manifest["spec"]["ports"][2], 7);
    }

    #[test]
    fn what_the_server_wrote_is_left_out() {
        let text = "{kind: Service, apiVersion: v1, status: {loadBalancer: {}}, \
                    metadata: {name: a, namespace: b, uid: u, resourceVersion: '7', managedFields: []}}";
        let change = change(text, &here()).unwrap();
        let manifest = &change.items[0].manifest;
        assert_eq!(manifest["metadata"], serde_json::json!({"name": "a", "namespace": "b"}));
        assert!(manifest.get("status").is_none());
    }

    #[test]
    fn what_cannot_be_validated_is_named() {
        let says = |text: &str, namespaces: &Namespaces| change(text, namespaces).unwrap_err();
        assert_eq!(
            says(&format!("{POLICY}\n---\nkind: Deployment\napiVersion: apps/v1\n"), &here()),
            "x, document 2 is of kind Deployment (apps/v1): only NetworkPolicy (networking.k8s.io/v1) and Service \
             (v1) can be validated; leave it out"
        );
        assert!(
            says("{kind: NetworkPolicy, apiVersion: crd.projectcalico.org/v1}", &here()).contains("calico")
        );
        assert_eq!(says("{kind: Service, apiVersion: v1}", &here()), "x: the Service has no metadata.name");
        assert_eq!(
            says(&format!("{POLICY}\n---\n{POLICY}"), &here()),
            "x, document 2: NetworkPolicy here/a is there twice"
        );
        assert_eq!(
            says(
                "{kind: Service, apiVersion: v1, metadata: {name: a, namespace: b}}",
                &Namespaces::Only("c".into())
            ),
            "x: Service b/a is not of namespace c, which -n names"
        );
    }

    #[test]
    fn odd_metadata_is_no_panic() {
        for metadata in
            ["metadata: []", "metadata: 5", "metadata: text", "metadata: {name: 5}", "metadata: null"]
        {
            let text = format!("kind: Service\napiVersion: v1\n{metadata}\n");
            assert!(change(&text, &here()).unwrap_err().contains("metadata.name"), "{metadata}");
        }
    }
}
