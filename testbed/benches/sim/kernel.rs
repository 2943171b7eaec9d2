//! A node between a client and its backends, each a network namespace, and packets that it passes on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use waymark_prober::facts;
use waymark_prober::netns::Netns;
use waymark_proto::{Facts, Flow, Inventory, NetnsName, Place, Protocol};
use waymark_testbed::{Script, Tool};

use crate::services::{PORT, virtual_ip};

/// Backends of each Service.
pub const BACKENDS: usize = 2;
/// Addresses of backends in all.
const ADDRESSES: usize = 100;
/// Packets per system call.
const BATCH: usize = 64;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

/// The backends of a Service.
pub fn backends(number: usize) -> Vec<Ipv4Addr> {
    let address = |index: usize| Ipv4Addr::new(10, 244, 2, 2 + (index % ADDRESSES) as u8);
    (0..BACKENDS).map(|backend| address(number * BACKENDS + backend)).collect()
}

/// A flow from the client to a Service.
pub fn flow(service: usize, src_port: u16) -> Flow {
    let (src, dst) = (IpAddr::V4(CLIENT), IpAddr::V4(virtual_ip(service)));
    Flow { src, dst, protocol: Protocol::Udp, src_port, dst_port: PORT }
}

/// The namespaces, which are removed when this is dropped.
pub struct World {
    prefix: String,
    pub inventory: Inventory,
    /// Who listens at the backends, and reads nothing.
    listener: UdpSocket,
}

impl World {
    pub fn new() -> Self {
        let prefix = format!("wmb-{}", std::process::id());
        let pod = |name: &str, ip: &str| {
            format!(
                r#"{{"namespace":"bench","name":"{name}","node":"n","netns":"{prefix}-{name}","ip":"{ip}"}}"#
            )
        };
        let json = format!(
            r#"{{"nodes":[{{"name":"n","netns":"{prefix}-n","ip":"10.244.1.1"}}],"pods":[{},{}]}}"#,
            pod("a", "10.244.1.2"),
            pod("b", "10.244.2.2")
        );
        let inventory = Inventory::from_json(json.as_bytes()).expect("the inventory is right");
        let [n, a, b] = ["n", "a", "b"].map(|part| format!("{prefix}-{part}"));
        run(Tool::Ip, "host", [&n, &a, &b].map(|netns| format!("netns add {netns}")));
        let mac = |number: usize| format!("02:00:00:00:00:{number:02x}");
        let mut node = vec!["link set lo up".to_owned()];
        for (number, part, netns) in [(1, "a", &a), (2, "b", &b)] {
            node.push(format!(
                "link add p{part} address {} type veth peer name eth0 address {} netns {netns}",
                mac(number),
                mac(number + 0x10)
            ));
            node.push(format!("address add 10.244.{number}.1/24 dev p{part}"));
            node.push(format!("link set p{part} up"));
            node.push(format!(
                "neighbour replace 10.244.{number}.2 lladdr {} nud permanent dev p{part}",
                mac(number + 0x10)
            ));
        }
        let others = (1..ADDRESSES).map(|index| {
            let ip = Ipv4Addr::new(10, 244, 2, 2 + index as u8);
            format!("neighbour replace {ip} lladdr {} nud permanent dev pb", mac(0x12))
        });
        node.extend(others);
        run(Tool::Ip, &n, node);
        run(Tool::Sysctl, &n, ["ipv4/ip_forward=1"]);
        for (number, netns) in [(1, &a), (2, &b)] {
            let mut host = vec!["link set lo up".to_owned()];
            let addresses = if number == 1 { 1 } else { ADDRESSES };
            host.extend(
                (0..addresses).map(|index| format!("address add 10.244.{number}.{}/24 dev eth0", 2 + index)),
            );
            host.push("link set eth0 up".into());
            host.push(format!("route add default via 10.244.{number}.1"));
            host.push(format!(
                "neighbour replace 10.244.{number}.1 lladdr {} nud permanent dev eth0",
                mac(number)
            ));
            run(Tool::Ip, netns, host);
        }
        let listener = enter(&b, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("nobody is there"));
        Self { prefix, inventory, listener }
    }

    fn netns(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// Loads rules in the node.
    pub fn load(&self, tool: Tool, text: &str) {
        run(tool, &self.netns("n"), [text]);
    }

    pub fn facts(&self) -> Facts {
        facts::collect(&self.inventory, &self.inventory.nodes[0].name).expect("facts are there")
    }

    /// Where the client is.
    pub fn start(&self) -> Place {
        Place::new("n", &*self.netns("a"))
    }

    /// So many connections to so many Services, all of them new.
    pub fn stream(&self, services: usize, packets: usize) -> Stream<'_> {
        let bind = || UdpSocket::bind((CLIENT, 0)).expect("a port is free");
        let sockets = packets.div_ceil(services);
        let sockets = enter(&self.netns("a"), || (0..sockets).map(|_| bind()).collect());
        // What came before is not in the way.
        let mut buffer = [0; 1];
        self.listener.set_nonblocking(true).expect("it is set");
        while self.listener.recv(&mut buffer).is_ok() {}
        Stream { world: self, sockets, services: services.min(packets) }
    }

    /// Packets that came to the backends.
    fn arrived(&self) -> u64 {
        let devices = enter(&self.netns("b"), || std::fs::read_to_string("/proc/thread-self/net/dev"));
        let devices = devices.expect("the kernel tells");
        let line = devices.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
        let packets = line.and_then(|counters| counters.split_whitespace().nth(1)?.parse().ok());
        packets.expect("the device counts")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for part in ["n", "a", "b"] {
            let _ = Command::new("ip").args(["netns", "delete", &self.netns(part)]).status();
        }
    }
}

/// Packets, one of each connection.
pub struct Stream<'a> {
    world: &'a World,
    sockets: Vec<UdpSocket>,
    services: usize,
}

impl Stream<'_> {
    /// Their flows.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        let port = |socket: &UdpSocket| socket.local_addr().expect("it is bound").port();
        self.sockets
            .iter()
            .map(port)
            .flat_map(|port| (0..self.services).map(move |service| flow(service, port)))
    }

    /// Sends them from one processor, which passes them on, too. Gives those that arrived each second.
    pub fn run(&self) -> f64 {
        let before = self.world.arrived();
        let took = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut first = CpuSet::new();
                first.set(0).expect("a small number");
                sched_setaffinity(Pid::from_raw(0), &first).expect("there is a processor");
                let started = Instant::now();
                for socket in &self.sockets {
                    send(socket, self.services);
                }
                started.elapsed()
            });
            sending.join().expect("it sends")
        });
        let sent = (self.sockets.len() * self.services) as u64;
        let arrived = self.world.arrived() - before;
        assert!(arrived * 100 >= sent * 99, "{arrived} of {sent} packets arrived");
        crate::rate(arrived, took)
    }
}

/// A packet to each Service.
fn send(socket: &UdpSocket, services: usize) {
    let address = |service: usize| {
        let to = SocketAddrV4::new(virtual_ip(service), PORT);
        socket2::SockAddr::from(SocketAddr::V4(to))
    };
    let mut payload = [0x5a_u8; 22];
    for first in (0..services).step_by(BATCH) {
        let addresses: Vec<_> = (first..services.min(first + BATCH)).map(address).collect();
        let mut iovec = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all zeros are a valid `mmsghdr`.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (message, address) in messages.iter_mut().zip(&addresses) {
            message.msg_hdr.msg_iov = &raw mut iovec;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = address.len();
        }
        let count = addresses.len() as u32;
        // SAFETY: headers, vector and addresses live until the call returns; the kernel reads them only.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        assert_eq!(sent, count.cast_signed(), "{}", std::io::Error::last_os_error());
    }
}

fn enter<T: Send>(netns: &str, run: impl FnOnce() -> T + Send) -> T {
    Netns::open(&NetnsName::from(netns)).and_then(|netns| netns.run(run)).expect("root enters")
}

fn run<L: Into<String>>(tool: Tool, netns: &str, lines: impl IntoIterator<Item = L>) {
    Script::new(tool, netns, lines).run().unwrap_or_else(|error| panic!("{error}"));
}
