//! Makes a failing case small: one packet, and no part of the configuration that can be left out.

use super::grammar::{Case, State};

/// Leaves out whatever a case fails without. `fails` says how it fails, if it does.
pub(super) fn shrink<E>(
    case: &Case,
    mut fails: impl FnMut(&Case) -> Result<Option<String>, E>,
) -> Result<(Case, Option<String>), E> {
    let mut case = case.clone();
    let mut difference = None;
    for visit in [details as Visit, containers] {
        let mut kept: Vec<bool> = vec![true; count(&case.state, visit)];
        let mut size = kept.len();
        while size > 0 {
            let mut start = 0;
            while start < kept.len() {
                let chunk = start..(start + size).min(kept.len());
                start += size;
                if kept[chunk.clone()].iter().all(|kept| !kept) {
                    continue;
                }
                let mut fewer = kept.clone();
                fewer[chunk].fill(false);
                let smaller = Case { state: restrict(&case.state, &fewer, visit), ..case.clone() };
                if let Some(found) = fails(&smaller)? {
                    kept = fewer;
                    difference = Some(found);
                }
            }
            size /= 2;
        }
        case.state = restrict(&case.state, &kept, visit);
    }
    Ok((case, difference))
}

/// Walks through parts of a configuration in a fixed order, and leaves out those that `keep` does not want.
type Visit = fn(&mut State, &mut dyn FnMut() -> bool);

fn count(state: &State, visit: Visit) -> usize {
    let mut count = 0;
    visit(&mut state.clone(), &mut || {
        count += 1;
        true
    });
    count
}

fn restrict(state: &State, kept: &[bool], visit: Visit) -> State {
    let mut state = state.clone();
    let mut kept = kept.iter();
    visit(&mut state, &mut || kept.next().copied().unwrap_or(true));
    state
}

/// What stands in a line of its own.
fn details(state: &mut State, keep: &mut dyn FnMut() -> bool) {
    let State { routing, ipset, xtables, nft, .. } = state;
    for lines in [&mut routing.routes, &mut routing.rules, &mut routing.sysctls, ipset] {
        lines.retain(|_| keep());
    }
    for table in xtables.iter_mut().flat_map(|rules| &mut rules.tables) {
        table.rules.retain(|_| keep());
    }
    for chain in nft.iter_mut().flat_map(|table| &mut table.chains) {
        chain.rules.retain(|_| keep());
    }
}

/// What holds others.
fn containers(state: &mut State, keep: &mut dyn FnMut() -> bool) {
    for rules in &mut state.xtables {
        rules.tables.retain(|_| keep());
    }
    state.xtables.retain(|_| keep());
    if let Some(table) = &mut state.nft {
        table.sets.retain(|_| keep());
        table.chains.retain(|_| keep());
    }
    if state.nft.is_some() && !keep() {
        state.nft = None;
    }
}
