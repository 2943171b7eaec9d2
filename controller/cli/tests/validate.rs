//! `waymark validate` without a cluster: two folders compared, and mistakes told in one sentence.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const WORKLOADS: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec: {template: {metadata: {labels: {app: cart}}, spec: {containers: [{name: c, image: x}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: pay, namespace: shop}
spec:
  template:
    metadata: {labels: {app: pay}}
    spec: {containers: [{name: c, image: x, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: test, namespace: dev}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {selector: {app: pay}, ports: [{port: 80, targetPort: http}]}
";

const POLICY: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: pay, namespace: shop}
spec:
  podSelector: {matchLabels: {app: pay}}
  ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}]}]
";

struct Stage(tempfile::TempDir);

impl Stage {
    /// Two folders of which the second has the policy, too.
    fn new() -> Self {
        let stage = Self(tempfile::tempdir().unwrap());
        for folder in ["from", "to"] {
            std::fs::create_dir(stage.path(folder)).unwrap();
            stage.write(&format!("{folder}/workloads.yaml"), WORKLOADS);
        }
        stage.write("to/policy.yaml", POLICY);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn compare(&self, from: &str, to: &str, more: &[&str]) -> Output {
        let [from, to] = [from, to].map(|name| self.path(name).display().to_string());
        validate(self.0.path(), ["--from", &from, "--to", &to].iter().chain(more))
    }
}

fn validate<I: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waymark"))
        .arg("validate")
        .args(arguments)
        .current_dir(folder)
        .env_remove("WAYMARK_CONTROLLER")
        .env("KUBECONFIG", folder.join("no-kubeconfig"))
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn folders_are_compared_with_the_exit_codes_of_kubectl_diff() {
    let stage = Stage::new();
    let same = stage.compare("from", "from", &[]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    let changed = stage.compare("from", "to", &[]);
    assert_eq!(changed.status.code(), Some(1), "{}", text(&changed));
    let words = text(&changed);
    for part in [
        "Reachability changes; nothing was applied",
        "NetworkPolicy shop/pay created",
        "2 lost, 0 gained",
        "- dev/test → shop/pay 8080/tcp, svc/shop/pay 80/tcp: allowed → denied",
        "denied by NetworkPolicy shop/pay (ingress of shop/pay)",
        "203.0.113.1 → shop/pay 8080/tcp: allowed → denied",
    ] {
        assert!(words.contains(part), "{part:?} is not in\n{words}");
    }
    let back = stage.compare("to", "from", &[]);
    assert_eq!(back.status.code(), Some(1));
    assert!(text(&back).contains("0 lost, 2 gained"), "{}", text(&back));
}

#[test]
fn reports_are_said_in_chinese_too() {
    let stage = Stage::new();
    let words = text(&stage.compare("from", "to", &["--lang", "zh"]));
    for part in [
        "可达性发生变化；没有应用任何改动",
        "NetworkPolicy shop/pay 新建",
        "个连接中，中断 2 个，新增 0 个",
        "- dev/test → shop/pay 8080/tcp、svc/shop/pay 80/tcp：允许 → 拒绝",
        "被 NetworkPolicy shop/pay（shop/pay 的 ingress） 拒绝",
        "203.0.113.1 → shop/pay 8080/tcp：允许 → 拒绝",
    ] {
        assert!(words.contains(part), "{part:?} is not in\n{words}");
    }
    let json = stage.compare("from", "to", &["--lang", "zh", "-o", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let because = &json["reachability"]["groups"][0]["because"];
    assert_eq!(because["id"], "validation.denied", "{json:#}");
    assert!(because["text"].as_str().unwrap().starts_with("被 NetworkPolicy"), "{because}");
    let junit = text(&stage.compare("from", "to", &["--lang", "zh", "-o", "junit"]));
    assert!(junit.contains("改动与预测一致"), "{junit}");
}

#[test]
fn documents_are_printed_for_programs() {
    let stage = Stage::new();
    let json: Value = serde_json::from_slice(&stage.compare("from", "to", &["-o", "json"]).stdout).unwrap();
    assert_eq!(
        (json["apiVersion"].as_str(), json["kind"].as_str()),
        (Some("waymark.io/v1alpha1"), Some("ValidationReport"))
    );
    assert_eq!((&json["outcome"], &json["state"]), (&"AsPredicted".into(), &"NotApplied".into()));
    assert_eq!(json["reachability"]["connections"].as_array().unwrap().len(), 2);
    let junit = text(&stage.compare("from", "to", &["-o", "junit"]));
    assert!(junit.starts_with("<?xml") && junit.contains("failures=\"0\""), "{junit}");
}

#[test]
fn expectations_decide() {
    let stage = Stage::new();
    let expect = |destination: &str, expect: &str| {
        let text = format!("- {{source: pod/dev/*, destination: {destination}, expect: {expect}}}\n");
        stage.write("expect.yaml", &text);
        stage.compare("from", "to", &["--expect", "expect.yaml"])
    };
    assert_eq!(expect("pod/shop/pay", "Unreachable").status.code(), Some(1));
    let unmet = expect("pod/shop/pay", "Reachable");
    assert_eq!(unmet.status.code(), Some(2));
    assert!(
        text(&unmet)
            .contains("pod/dev/test → pod/shop/pay 8080/tcp is expected to be Reachable and will be denied")
    );
    assert_eq!(expect("pod/shop/pya", "Reachable").status.code(), Some(65), "it fits nothing");
}

#[test]
fn saved_facts_are_simulated() {
    let stage = Stage::new();
    // Two pods on one node whose namespaces have no routes: nothing gets through, whatever the objects say.
    let pod = |name: &str, last: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: facts}}\nspec: {{nodeName: node1, containers: \
             [{{name: c, image: x, ports: [{{containerPort: 80}}]}}]}}\nstatus: {{phase: Running, podIP: 10.244.1.{last}}}\n"
        )
    };
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node1}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n";
    let facts = r#"{"apiVersion":"waymark.io/facts/v1alpha1","node":"node1","kernel":"6","namespaces":[
        {"name":"host","inode":1},{"name":"pod:facts/a","inode":2},{"name":"pod:facts/b","inode":3}]}"#;
    for folder in ["from", "to"] {
        stage.write(&format!("{folder}/facts.yaml"), &format!("{}{}{node}", pod("a", 1), pod("b", 2)));
    }
    stage.write("to/facts.json", facts);
    stage.write("to/policy.yaml", &POLICY.replace("namespace: shop", "namespace: facts"));
    let output = stage.compare("from", "to", &["-o", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["outcome"]), (Some(2), &"Failed".into()), "{json:#}");
    let prediction = &json["predictions"][0];
    assert_eq!(
        (&prediction["intended"], &prediction["after"]),
        (&"allowed".into(), &"Fails".into()),
        "{prediction}"
    );
    assert!(prediction["before"].is_null(), "there were no facts");
}

#[test]
fn credentials_that_are_not_accepted_are_77() {
    let stage = Stage::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    // An API server to which every token has expired.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;
            let length = body.len();
            // The client may have gone: the first answer is enough for it.
            let _ = write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
        }
    });
    let kubeconfig = format!(
        r#"{{"apiVersion":"v1","kind":"Config","current-context":"dev",
            "clusters":[{{"name":"c","cluster":{{"server":"{server}"}}}}],
            "users":[{{"name":"u","user":{{"token":"expired"}}}}],
            "contexts":[{{"name":"dev","context":{{"cluster":"c","user":"u"}}}}]}}"#
    );
    stage.write("kubeconfig", &kubeconfig);
    let output = validate(stage.0.path(), ["-f", "to/policy.yaml", "--static", "--kubeconfig", "kubeconfig"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{message}");
    assert!(message.contains("does not accept the credentials (401 Unauthorized)"), "{message}");
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let stage = Stage::new();
    stage.write("broken.yaml", "kind: Service\nspec: [\n");
    stage.write("empty.yaml", "# nothing\n");
    stage.write("binary.yaml", "a\u{0}b");
    std::fs::write(stage.path("latin.yaml"), b"kind: \xff\xfe").unwrap();
    stage.write("expect.yaml", "source: x\n");
    std::fs::create_dir(stage.path("nothing")).unwrap();
    let long = "a".repeat(100_000);
    let [from, nothing, policy] =
        ["from", "nothing", "to/policy.yaml"].map(|name| stage.path(name).display().to_string());
    for (arguments, code, words) in [
        (&[][..], 64, "--filename <FILE>"),
        (&["-f", "none.yaml"], 66, "cannot read none.yaml: No such file"),
        (&["-f", &from], 66, "Is a directory"),
        (&["-f", "broken.yaml"], 65, "broken.yaml is neither YAML nor JSON: line "),
        (&["-f", "empty.yaml"], 65, "empty.yaml has no objects in it"),
        (&["-f", "latin.yaml"], 65, "latin.yaml is no text"),
        (&["-f", &long], 64, "a path has at most"),
        (&["-f", &policy], 65, "no-kubeconfig"),
        (&["-f", &policy, "--expect", "expect.yaml"], 65, "expect.yaml holds no expectations"),
        (&["-f", &policy, "--expect", "none"], 66, "cannot read none"),
        (&["-f", &policy, "--max-checks", "0"], 64, "must be 1 to 500"),
        (&["-f", &policy, "--settle", "soon"], 64, "is not a length of time"),
        (&["-f", &policy, "--field-manager", ""], 64, "must have 1 to 128 characters"),
        (&["-f", &policy, "--from", "a", "--to", "b"], 64, "cannot be used with"),
        (&["--from", "a"], 64, "--to <DIR>"),
        (&["--from", "a", "--to", "b"], 66, "cannot read a"),
        (&["--from", &from, "--to", &nothing], 66, "has no manifests"),
    ] {
        let output = validate(stage.0.path(), arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        let is_one = message.starts_with("waymark: error: ") && message.trim_end().lines().count() == 1;
        assert!(is_one && message.contains(words), "{words:?}: {message}");
        assert!(message.chars().count() < 500, "{message}");
    }
    let binary = validate(stage.0.path(), ["-f", "binary.yaml"]);
    assert_eq!(binary.status.code(), Some(65));
}
