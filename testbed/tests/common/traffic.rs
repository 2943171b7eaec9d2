//! Real sockets in the namespaces of a testbed.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use waymark_prober::netns::Netns;
use waymark_proto::{NetnsName, Protocol};
use waymark_testbed::{Cluster, Probe};

/// For what must work: long enough on a machine that does much else, and for a SYN to be sent again.
pub const PATIENT: Duration = Duration::from_secs(30);
/// For what must not.
pub const SHORT: Duration = Duration::from_millis(400);

/// Says something to `to` from inside a namespace and waits for the answer.
pub fn talk(netns: &str, protocol: Protocol, to: SocketAddr, limit: Duration) -> io::Result<()> {
    let netns = Netns::open(&NetnsName::from(netns)).unwrap();
    let talk = || match protocol {
        Protocol::Tcp => tcp(to, limit),
        Protocol::Udp => udp(to, limit),
        Protocol::Icmp => echo(to.ip(), 0, limit),
    };
    netns.run(talk).unwrap()
}

/// The same for what a fault's probe says in words.
pub fn ask(cluster: &Cluster, probe: &Probe, limit: Duration) -> io::Result<()> {
    let from = probe.from.strip_prefix("pod/").unwrap();
    let netns = &cluster.pods.iter().find(|pod| pod.full_name == from).unwrap().netns;
    let (name, port) = probe.to.split_once(':').unwrap_or((&probe.to, "0"));
    let pod = |name: &str| cluster.pods.iter().find(|pod| pod.full_name == name).unwrap().address(probe.ipv6);
    let service = |name: &str| {
        let mut services = cluster.services.iter();
        services.find(|s| format!("{}/{}", s.namespace, s.name) == name).unwrap().cluster_ip
    };
    let node = |name: &str| cluster.nodes.iter().find(|node| node.name == name).unwrap();
    let ip = match name.split_once('/').unwrap() {
        ("pod", name) => pod(name),
        ("node", name) if probe.ipv6 => node(name).ip6().into(),
        ("node", name) => node(name).ip().into(),
        (_, name) => service(name),
    };
    let to = SocketAddr::new(ip, port.parse().unwrap());
    // A fault of large packets shows on nothing less. Nodes listen on nothing.
    match probe.size {
        Some(size) if name.starts_with("node/") => {
            let netns = Netns::open(&NetnsName::from(netns.as_str())).unwrap();
            netns.run(|| echo(ip, size.into(), limit)).unwrap()
        }
        Some(_) => large(netns, to, limit),
        None => talk(netns, probe.protocol, to, limit),
    }
}

fn tcp(to: SocketAddr, limit: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting)?;
    assert!(greeting.starts_with("waymark testbed"), "{greeting:?}");
    Ok(())
}

fn any(to: IpAddr) -> IpAddr {
    if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn udp(to: SocketAddr, limit: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind((any(to.ip()), 0))?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(to)?;
    socket.send(b"hello")?;
    let mut buffer = [0; 16];
    let len = socket.recv(&mut buffer)?;
    assert_eq!(&buffer[..len], b"hello");
    Ok(())
}

/// A datagram of 1400 bytes that may not be fragmented, whatever the kernel learned about the way before.
fn large(netns: &str, to: SocketAddr, limit: Duration) -> io::Result<()> {
    const SIZE: usize = 1400;
    const PORT: u16 = 53;
    let netns = Netns::open(&NetnsName::from(netns)).unwrap();
    let talk = || {
        let socket = UdpSocket::bind((any(to.ip()), 0))?;
        never_fragment(&socket, to.is_ipv6())?;
        socket.set_read_timeout(Some(limit))?;
        socket.connect((to.ip(), PORT))?;
        let headers = if to.is_ipv6() { 48 } else { 28 };
        socket.send(&[0x77; SIZE][headers..])?;
        let mut buffer = [0; SIZE];
        socket.recv(&mut buffer).map(drop)
    };
    netns.run(talk).unwrap()
}

fn never_fragment(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    let (level, option, value) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    };
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the kernel reads `length` bytes of `value`, which lives until the call returns.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An echo request of some bytes by raw socket, and the reply with its identifier.
fn echo(to: IpAddr, size: usize, limit: Duration) -> io::Result<()> {
    const ID: [u8; 2] = [0x57, 0x4d];
    /// Of an echo request, its own header.
    const HEADER: usize = 8;
    let (domain, protocol, request, reply, header) = if to.is_ipv6() {
        (Domain::IPV6, socket2::Protocol::ICMPV6, 128, 129, 0)
    } else {
        (Domain::IPV4, socket2::Protocol::ICMPV4, 8, 0, 20)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // RFC 1071: the one's complement sum of type, identifier and sequence; the kernel does it for IPv6.
    let sum = !(u16::from_be_bytes([request, 0]) + u16::from_be_bytes(ID) + 1);
    let [high, low] = sum.to_be_bytes();
    let mut packet = vec![request, 0, high, low, ID[0], ID[1], 0, 1];
    // Zeros add nothing to the sum.
    let ip = if to.is_ipv6() { 40 } else { 20 };
    packet.resize(size.saturating_sub(ip).max(HEADER), 0);
    socket.send_to(&packet, &SocketAddr::new(to, 0).into())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [MaybeUninit::new(0); 2048];
        let (len, _) = socket.recv_from(&mut buffer)?;
        // SAFETY: the buffer was initialized when it was made.
        let bytes: Vec<_> = buffer[..len].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        if bytes.get(header) == Some(&reply) && bytes.get(header + 4..header + 6) == Some(&ID) {
            return Ok(());
        }
    }
}
