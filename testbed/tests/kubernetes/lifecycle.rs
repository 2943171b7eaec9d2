//! Up and down of a testbed with a control plane, whatever happens between.

use std::process::Command;

use waymark_proto::Inventory;

use crate::common::{PROGRAM, Testbed};
use crate::{Kubernetes, able, turn};

#[test]
fn up_status_exec_and_a_down_that_leaves_nothing() {
    if !able("up and down") {
        return;
    }
    let _turn = turn();
    let cluster = Kubernetes::up(&[]);
    let testbed = &cluster.testbed;
    let status = testbed.succeed(&["status"]);
    for part in ["kube-apiserver ", "kube-proxy-node3 ", "serve-shop_cart ", "/kubeconfig", "10.244.1.10"] {
        assert!(status.contains(part), "no {part} in {status}");
    }
    assert!(!status.contains("dead"), "{status}");
    let inventory = Inventory::from_json(testbed.succeed(&["status", "-o", "json"]).as_bytes()).unwrap();
    assert_eq!((inventory.nodes.len(), inventory.pods.len()), (3, 6));
    let nodes = testbed.succeed(&["exec", "control", "--", "kubectl", "get", "nodes", "--no-headers"]);
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 3, "{nodes}");
    assert!(testbed.succeed(&["exec", "shop/cart", "--", "ip", "-br", "address"]).contains("10.244.1.10/24"));
    assert!(testbed.fail(3, &["exec", "shop/nobody", "--", "true"]).contains("control"));
    assert!(testbed.fail(3, &["up", "--kubernetes", "--no-agents"]).contains("already up"));
    let links = std::fs::read_dir(testbed.instance().dir().kubernetes().pods()).unwrap();
    assert_eq!(links.count(), 6);
    testbed.succeed(&["down"]);
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn down_after_kill_9_of_everything_that_makes_pods() {
    if !able("kill -9") {
        return;
    }
    let _turn = turn();
    let cluster = Kubernetes::up(&[]);
    let testbed = &cluster.testbed;
    let killed = ["kubelet", "kube-apiserver", "etcd", "relay"];
    for (role, pid) in testbed.instance().processes() {
        if killed.contains(&role.as_str()) {
            let status = Command::new("kill").args(["-9", &pid.unwrap().to_string()]).status().unwrap();
            assert!(status.success(), "{role}");
        }
    }
    testbed.succeed(&["down"]);
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn down_after_kill_9_of_up() {
    if !able("kill -9 of up") {
        return;
    }
    let _turn = turn();
    let testbed = Testbed::named();
    let mut up = Command::new(PROGRAM)
        .args(["up", "--name", &testbed.name, "--kubernetes", "--no-agents"])
        .spawn()
        .unwrap();
    // Killed in the middle: the API server is there, and whoever makes pods perhaps is.
    while !testbed.folder().join("pids/kube-controller-manager").exists() {
        assert!(up.try_wait().unwrap().is_none(), "up ended early");
        std::thread::yield_now();
    }
    up.kill().unwrap();
    up.wait().unwrap();
    assert!(testbed.succeed(&["status"]).contains("not complete"));
    assert!(testbed.fail(3, &["up", "--kubernetes"]).contains("is half made"));
    testbed.succeed(&["down"]);
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn what_kubernetes_cannot_have_is_refused_before_anything_is_made() {
    if !able("a topology for Kubernetes") {
        return;
    }
    let testbed = Testbed::named();
    let file = tempfile::NamedTempFile::new().unwrap();
    let pod =
        |namespace: &str| format!("[[pods]]\nnamespace = \"{namespace}\"\nname = \"p\"\nnode = \"n\"\n");
    let service = "[[services]]\nnamespace = \"a\"\nname = \"s\"\nclusterIP = \"10.96.0.9\"\nport = 80\nbackends = [{ pod = \"b/p\" }]\n";
    std::fs::write(file.path(), format!("[[nodes]]\nname = \"n\"\n{}{}{service}", pod("a"), pod("b")))
        .unwrap();
    let error = testbed.fail(3, &["up", "--kubernetes", "-f", file.path().to_str().unwrap()]);
    assert!(error.contains("backends in another namespace"), "{error}");
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}
