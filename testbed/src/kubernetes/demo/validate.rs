//! Two NetworkPolicies tried before they are relied on: one as meant, one with a slip.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::Api;
use serde_json::{Value, json};
use waymark_proto::Verdict;

use super::story::Story;
use crate::tell::{chapter, say};
use crate::{Error, Result};

/// A policy that lets only pods with this label reach Service pay.
fn policy(name: &str, client: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "pay" } },
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "app": client } } }],
                "ports": [{ "port": 80, "protocol": "TCP" }],
            }],
        },
    })
}

/// The good one stays, the harmful one does not.
pub(super) fn changes(story: &Story<'_>) -> Result<()> {
    chapter("4. Changes, validated. Only cart may reach pay, and that others lose it is meant:");
    validate(story, &policy("pay-from-cart", "cart"), &["--accept-lost"], 1)?;
    expect(story, "pay-from-cart", true)?;
    chapter("The same for another label, with a slip in it; nobody meant cart to lose pay:");
    delete(story, "pay-from-cart")?;
    validate(story, &policy("pay-from-crat", "crat"), &[], 2)?;
    expect(story, "pay-from-crat", false)?;
    story.check("svc/shop/pay:80", Verdict::Reachable, |_| true).map(drop)
}

fn validate(story: &Story<'_>, change: &Value, more: &[&str], expected: i32) -> Result<()> {
    let name = change["metadata"]["name"].as_str().expect("the policies of this demonstration have names");
    let path = story.files.kubeconfig().with_file_name(format!("{name}.json"));
    let text = serde_json::to_string_pretty(change).expect("documents are plain data");
    std::fs::write(&path, &text).map_err(Error::file("write", &path))?;
    say(format_args!("{text}"));
    let file = path.display().to_string();
    story.show(&[&["validate", "-f", &file][..], more].concat(), expected)
}

/// Whether a policy is there.
fn expect(story: &Story<'_>, name: &str, there: bool) -> Result<()> {
    let found = story.api(&format!("look for NetworkPolicy {name}"), async |client| {
        Api::<NetworkPolicy>::namespaced(client, "shop").get_opt(name).await
    })?;
    if found.is_some() == there {
        return Ok(());
    }
    Err(Error::Demo(format!("NetworkPolicy {name} is {}there", if there { "not " } else { "" })))
}

fn delete(story: &Story<'_>, name: &str) -> Result<()> {
    story.api(&format!("delete NetworkPolicy {name}"), async |client| {
        let policies: Api<NetworkPolicy> = Api::namespaced(client, "shop");
        policies.delete(name, &kube::api::DeleteParams::default()).await.map(drop)
    })
}
