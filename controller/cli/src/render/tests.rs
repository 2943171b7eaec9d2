//! Golden texts.

use waymark_proto::CheckResult;

use super::*;

fn result(name: &str) -> CheckResult {
    let text = match name {
        "unreachable" => include_str!("../../tests/data/unreachable.json"),
        "wire" => include_str!("../../tests/data/wire.json"),
        "reachable" => include_str!("../../tests/data/reachable.json"),
        other => unreachable!("no such result: {other}"),
    };
    serde_json::from_str(text).unwrap()
}

pub(crate) fn unreachable() -> CheckResult {
    result("unreachable")
}

fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/data/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    // UPDATE_GOLDEN=1 writes what is now printed; look at the difference before committing it.
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
}

#[test]
fn checks_read_like_this() {
    for name in ["unreachable", "wire", "reachable"] {
        golden(name, &check(&result(name), Paint::new(false)));
    }
}

#[test]
fn colour_changes_no_words() {
    let painted = check(&result("wire"), Paint::new(true));
    assert!(painted.contains("\x1b["));
    let mut plain = String::new();
    let mut rest = painted.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_eq!(plain, check(&result("wire"), Paint::new(false)));
}
