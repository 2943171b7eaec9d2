use super::*;

/// Whether tests can load programs into the kernel. Without root they are left out, aloud; under CI that is a
/// failure.
fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "tests of the agent need root");
    eprintln!("skipped: the tests of the agent need root");
    false
}

#[tokio::test]
async fn a_lease_that_ended_keeps_no_other_check_armed() {
    if !privileged() {
        return;
    }
    let agent = Agent::unassigned("node".into(), Pods::default(), Limits::default()).unwrap();
    let checks = [1, 2, 3].map(|id| CheckId::new(id).expect("not zero"));
    for check in checks {
        agent.start_lease(check, Duration::from_secs(3600), (MarkerKey([9; 16]), 1), None).unwrap();
    }
    // Their leases ended while the agent was about to disarm them: whichever comes first, another is behind it.
    agent.0.expired.lock().unwrap().extend(&checks[1..]);
    let error = agent.disarm_all().await.unwrap_err();
    assert!(matches!(error, AgentError::LeaseEnded(check) if checks[1..].contains(&check)), "{error}");
    assert!(agent.0.leases().is_empty());
    assert!(agent.0.expired.lock().unwrap().is_empty());
    agent.disarm_all().await.unwrap();
}
