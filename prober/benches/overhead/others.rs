//! Others that watch for the same packets: a bpftrace script at the same tracepoints, and tcpdump on the same devices.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use waymark_proto::HookSet;
use waymark_tracer_ebpf::PROGRAMS;

/// Programs that watch. They end when this is dropped.
pub struct Others(Vec<Child>);

impl Drop for Others {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself, which its reader would have said.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT);
            let _ = child.wait();
        }
    }
}

/// Whether a program is there.
pub fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The script: counts packets of one flow, wherever the programs of a set are attached.
fn script(set: HookSet, [src, dst]: [[u8; 4]; 2]) -> String {
    let bytes = |field: &str, ip: [u8; 4]| {
        let byte = |(index, byte)| format!("args->{field}[{index}] == {byte}");
        ip.iter().enumerate().map(byte).collect::<Vec<_>>().join(" && ")
    };
    let [source, destination] = [src, dst].map(u32::from_le_bytes);
    let mut script = String::from("BEGIN { printf(\"ready\\n\"); }\n");
    for program in PROGRAMS.iter().filter(|program| program.set <= set) {
        let name = program.tracepoint;
        let family = match name {
            "kfree_skb" | "consume_skb" => "skb",
            "qdisc_dequeue" => "qdisc",
            "fib_table_lookup" => "fib",
            "fib6_table_lookup" => "fib6",
            "neigh_event_send_done" => "neigh",
            _ => "net",
        };
        // The network header is set only behind the reception.
        let header = match name {
            "netif_receive_skb" | "napi_gro_receive_entry" => "$skb->data",
            _ => "($skb->head + $skb->network_header)",
        };
        let (prepare, condition) = match name {
            "fib_table_lookup" => (String::new(), format!("{} && {}", bytes("src", src), bytes("dst", dst))),
            // Of IPv6 there is none.
            "fib6_table_lookup" => (String::new(), bytes("dst", dst)),
            "neigh_event_send_done" => (String::new(), bytes("primary_key4", dst)),
            _ => (
                format!("$skb = (struct sk_buff *)args->skbaddr; $ip = (struct iphdr *){header};"),
                format!("$ip->saddr == {source} && $ip->daddr == {destination} && $ip->protocol == 1"),
            ),
        };
        writeln!(
            script,
            "tracepoint:{family}:{name} {{ {prepare} if ({condition}) {{ @{name} = count(); }} }}"
        )
        .expect("a string takes all");
    }
    script
}

/// bpftrace, which is ready when this returns.
pub fn bpftrace(set: HookSet, flow: [[u8; 4]; 2]) -> Others {
    let mut file = tempfile::NamedTempFile::new().expect("a file for the script");
    file.write_all(script(set, flow).as_bytes()).expect("the script is written");
    let child =
        Command::new("bpftrace").arg(file.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("bpftrace starts");
    let output = child.stdout.take().expect("its output is read");
    let others = Others(vec![child]);
    // BEGIN comes last: behind it everything is attached.
    let mut lines = BufReader::new(output).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "bpftrace ended before it was ready");
    std::thread::spawn(move || lines.for_each(drop));
    others
}

/// One tcpdump on each of these devices of namespaces, all of them ready when this returns.
pub fn tcpdump<'a>(devices: impl Iterator<Item = (&'a str, &'a str)>, [src, dst]: [[u8; 4]; 2]) -> Others {
    let address = |ip: [u8; 4]| std::net::Ipv4Addr::from(ip).to_string();
    let filter = format!("icmp and src host {} and dst host {}", address(src), address(dst));
    let mut others = Others(Vec::new());
    for (netns, device) in devices {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns, "tcpdump", "-n", "-i", device, "-w", "/dev/null", &filter]);
        let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.expect("tcpdump starts");
        let said = child.stderr.take().expect("its messages are read");
        others.0.push(child);
        let mut lines = BufReader::new(said).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(ready, "tcpdump on {device} of {netns} ended");
        std::thread::spawn(move || lines.for_each(drop));
    }
    others
}
