//! Source validation of IPv4 (`fib_validate_source`): the reverse-path filter and its relatives.

use waymark_proto::{Cause, Hook, text};

use super::Here;
use crate::fib::{self, Found, Transport};
use crate::walk::Walk;

/// The ended walk of a packet whose source does not pass, or `None`. `output` is where it is to leave by, if it is passed on.
pub(super) fn validate(here: Here<'_>, walk: &Walk, device: u32, output: Option<u32>) -> Option<Walk> {
    let namespace = here.namespace;
    let name = namespace.name_of(device);
    let flow = walk.packet.flow;
    let on = Some(&*name);
    let mode = namespace.conf_max(&name, "rp_filter");
    let accepts_local = namespace.conf_max(&name, "accept_local") != 0;
    // Rules beyond the standard three make the kernel look the source up even with the filter off.
    let custom = namespace.rules(false).len() > 3;
    let own = || {
        let object = text!(object::OwnSource { src: flow.src, device: &name });
        Some(walk.clone().dropped(Hook::Route, on, Cause::MartianAddress, object))
    };
    if mode == 0 && !custom {
        return if namespace.is_local(flow.src) && !accepts_local { own() } else { None };
    }
    let marked = namespace.conf_max(&name, "src_valid_mark") != 0;
    let mark = if marked { walk.packet.mark } else { 0 };
    let transport = Transport::of(&flow.reversed());
    // The way back is looked up as that of a packet which comes from there.
    let from = output.map_or_else(|| "lo".into(), |output| namespace.name_of(output));
    let key = fib::Key {
        dst: flow.src,
        src: flow.dst,
        iif: &from,
        oif: None,
        mark,
        dscp: walk.packet.dscp,
        transport,
    };
    let fail = || {
        let object = text!(object::RpFilter { device: &name, mode: mode.to_string(), src: flow.src });
        (mode != 0).then(|| walk.clone().dropped(Hook::Route, on, Cause::SourceValidation, object))
    };
    match fib::lookup(namespace, &key) {
        Found::Local(_) if accepts_local => None,
        Found::Local(_) => own(),
        // As the kernel does, all next hops count, not only those in use (`fib_info_nh_uses_dev`).
        Found::Unicast(route, _) if route.next_hops.iter().any(|hop| hop.index == Some(device)) => None,
        Found::Unicast(..) if namespace.addresses_of(device, false).next().is_none() => fail(),
        Found::Unicast(..) if mode == 1 => fail(),
        // Loose: any route will do.
        Found::Unicast(..) => None,
        Found::Nothing | Found::Refused(..) => fail(),
        Found::Unknown(why) => Some(walk.clone().unknown(Hook::Route, on, why)),
    }
}
