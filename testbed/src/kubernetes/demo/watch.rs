//! Continuous probing through an outage of two seconds.

use std::time::{Duration, Instant};

use waymark_controller::watching::{Outage, OutageCheck, TargetState, WatchList};

use super::story::Story;
use crate::script::{Script, Tool};
use crate::tell::chapter;
use crate::{Error, Result};

const NAME: &str = "shop";
/// How long the fabric is broken.
const OUTAGE: Duration = Duration::from_secs(2);

/// Shows the outage, its histogram and its fault point.
pub(super) fn outage(story: &Story<'_>) -> Result<()> {
    chapter("3. Continuous probing, ten times a second:");
    let ends = ["--from", "pod/shop/cart", "--to", "pod/shop/pay-1", "--to", "pod/shop/pay-1:80"];
    let often = ["--interval", "100ms", "--timeout", "200ms"];
    story.show(&[&["watch", "start", NAME][..], &ends, &often].concat(), 0)?;
    let up = |list: &WatchList| {
        list.watches.iter().flat_map(|watch| &watch.targets).all(|t| t.state == TargetState::Up)
    };
    wait(story, "every target is up", up)?;
    chapter("The fabric between node1 and node2 is dead for two seconds:");
    let fabric = |lines: &[&str]| Script::new(Tool::Nft, &story.cluster.fabric, lines.iter().copied()).run();
    fabric(&[
        "add table bridge demo",
        "add chain bridge demo drops { type filter hook forward priority 0; }",
        "add rule bridge demo drops iifname \"node1\" oifname \"node2\" ether type ip drop",
    ])?;
    let broken = Instant::now();
    wait(story, "an outage is looked at", |list| list.outages.iter().any(is_looked_at))?;
    match OUTAGE.checked_sub(broken.elapsed()) {
        Some(rest) if rest > OUTAGE / 4 => std::thread::sleep(rest),
        // This machine is so busy that the outage would be over before the check has sent its packets.
        _ => drop(wait(story, "an outage has a fault point", |list| list.outages.iter().any(is_located))?),
    }
    fabric(&["delete table bridge demo"])?;
    let over = |list: &WatchList| !list.outages.is_empty() && list.outages.iter().all(is_over) && up(list);
    let list = wait(story, "the outages are over and examined", over)?;
    story.show(&["watch", "top", NAME, "--once"], 0)?;
    if !list.outages.iter().any(is_located) {
        return Err(Error::Demo("no outage has a fault point".into()));
    }
    story.show(&["watch", "stop", NAME], 0)
}

/// Whether the check of an outage has its turn, or had it.
fn is_looked_at(outage: &Outage) -> bool {
    outage.check != OutageCheck::Waiting
}

/// Whether an outage was examined while it lasted.
fn is_located(outage: &Outage) -> bool {
    match &outage.check {
        OutageCheck::Done { result, .. } => result.fault_point.is_some(),
        _ => false,
    }
}

/// Whether an outage is known in full.
fn is_over(outage: &Outage) -> bool {
    let examined = !matches!(outage.check, OutageCheck::Waiting | OutageCheck::Running);
    outage.until_unix_ns.is_some() && examined
}

fn wait(story: &Story<'_>, what: &str, right: impl Fn(&WatchList) -> bool) -> Result<WatchList> {
    Story::until(what, || {
        let list: WatchList = story.ask(&["watch", "top", NAME, "--once"])?;
        Ok(right(&list).then_some(list))
    })
}
