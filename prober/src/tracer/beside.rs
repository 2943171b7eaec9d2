//! What tracepoints tell of a packet beside its way: the routes that were looked up for it, and what it waited for.

use std::net::Ipv4Addr;

use waymark_proto::{Event, Hook};
use waymark_tracer_ebpf::{Point, Record};

use super::answer::errno;

/// Hook and event of a record of this kind; `None` of the others.
pub fn told(point: Point, record: &Record) -> Option<(Hook, Event)> {
    let (hook, function, answer) = match point {
        Point::GroEntry => (Hook::DriverRx, "napi_gro_receive", None),
        Point::QdiscDequeue => (Hook::Qdisc, "qdisc_dequeue", None),
        Point::FibLookup => (Hook::Route, "fib_table_lookup", Some(route(record))),
        Point::FibLookupBack => (Hook::Route, "fib_table_lookup reversed", Some(route(record))),
        Point::NeighResolution => (Hook::Neighbour, "neigh_event_send", Some(record.code().to_string())),
        _ => return None,
    };
    Some((hook, Event::Called { function: function.to_owned(), answer }))
}

/// A route as `ip route get` has it.
fn route(record: &Record) -> String {
    let table = match record.reason() {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        number => number.to_string(),
    };
    if record.code() != 0 {
        return format!("table {table}: {}", errno(record.code()));
    }
    // The address stands there as the network has it.
    let gateway = match record.location() as u32 {
        0 => String::new(),
        bytes => format!("via {} ", Ipv4Addr::from(bytes.to_ne_bytes())),
    };
    format!("{gateway}dev {} table {table}", record.device().unwrap_or_default())
}
