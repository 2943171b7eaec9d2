//! What cases are made of: a node's configuration, and packets. Every part is a strategy of `proptest`, so that a case that
//! fails is made smaller part by part.
//!
//! * [`pool`]: the addresses, ports and devices of which everything is made
//! * [`routes`], [`nft`], [`xtables`], [`ipset`]: a node's configuration
//! * [`packets`]: what is sent

mod ipset;
mod nft;
mod packets;
pub(super) mod pool;
mod routes;
mod xtables;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

pub use nft::Table;
pub use packets::{From, Sending};
pub use routes::Routing;
pub use xtables::Xtables;

/// How a node is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Routes, policy rules, settings.
    pub routing: Routing,
    /// Sets of ipset.
    pub ipset: Vec<String>,
    /// Rules of iptables, if there are any.
    pub xtables: Vec<Xtables>,
    /// Whether those are of the legacy back end.
    pub legacy: bool,
    /// A table of nftables.
    pub nft: Option<Table>,
}

/// A node and what is sent to it, through it and from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The node's configuration.
    pub state: State,
    /// The packets; each is a flow of its own.
    pub packets: Vec<Sending>,
}

/// All cases.
pub(super) fn case(packets: usize) -> impl Strategy<Value = Case> {
    let xtables = option::weighted(0.6, (xtables::xtables(false), xtables::xtables(true), any::<bool>()));
    let state = (
        option::weighted(0.6, routes::routing()),
        ipset::sets(),
        xtables,
        option::weighted(0.6, nft::table()),
    );
    let state = state.prop_map(|(routing, ipset, xtables, nft)| {
        let routing = routing.unwrap_or_default();
        match xtables {
            Some((four, six, legacy)) => State { routing, ipset, xtables: vec![four, six], legacy, nft },
            None => State { routing, nft, ..State::default() },
        }
    });
    (state, vec(packets::sending(), 1..=packets)).prop_map(|(state, packets)| Case { state, packets })
}
