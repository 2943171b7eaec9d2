//! What the sender's own kernel makes of a packet by whoever sends it.

use waymark_proto::{Detour, Flow};

use crate::fib::{self, Found, Key, Transport};
use crate::namespace::Namespace;

/// Whether the prober's packets are routed otherwise than an application's, whose ports and protocol rules can see.
pub(crate) fn detour(namespace: &Namespace, flow: &Flow) -> Option<Detour> {
    let found = |transport| lookup(namespace, flow, transport);
    let (application, prober) = (found(Transport::of(flow)), found(Transport::RAW));
    let words = |found: &Found<'_>| found.words(namespace, flow.dst);
    (!application.leads_like(&prober))
        .then(|| Detour { application: words(&application), prober: words(&prober) })
}

fn lookup<'a>(namespace: &'a Namespace, flow: &Flow, transport: Transport) -> Found<'a> {
    let Flow { dst, src, .. } = *flow;
    fib::lookup(namespace, &Key { dst, src, iif: "lo", oif: None, mark: 0, transport })
}
