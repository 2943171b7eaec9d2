//! Services by the thousand, as rules of kube-proxy.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use waymark_proto::{
    FACTS_API_VERSION, Facts, IptablesBackend, IptablesDump, NetfilterFacts, NetnsFacts, Service,
};
use waymark_testbed::iptables_of_services;

/// The port of all of them.
pub const PORT: u16 = 53;

/// The virtual address of a Service, by its number.
pub fn virtual_ip(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number + 1).expect("there are not so many").to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// The rules, as `iptables-restore` reads them.
pub fn iptables(count: usize, backends: fn(usize) -> Vec<Ipv4Addr>) -> String {
    let service = |number: usize| -> Service {
        let backends: Vec<_> =
            backends(number).into_iter().map(|ip| serde_json::json!({ "ip": ip, "port": PORT })).collect();
        let service = serde_json::json!({
            "namespace": "bench", "name": format!("service-{number}"), "clusterIP": virtual_ip(number),
            "port": PORT, "protocol": "udp", "backends": backends,
        });
        serde_json::from_value(service).expect("the Service is right")
    };
    let services: Vec<Service> = (0..count).map(service).collect();
    let mut text = iptables_of_services(false, &services).join("\n");
    text.push('\n');
    text
}

/// Facts of a node that has these rules, and nothing else.
pub fn facts_of(text: &str) -> Facts {
    let dump = IptablesDump { ipv6: false, backend: IptablesBackend::Legacy, text: text.to_owned() };
    let netfilter = NetfilterFacts { iptables: vec![dump], ..NetfilterFacts::default() };
    Facts {
        api_version: FACTS_API_VERSION.into(),
        node: "bench".into(),
        kernel: String::new(),
        namespaces: vec![NetnsFacts { name: "host".into(), netfilter, ..NetnsFacts::default() }],
    }
}

/// Has a program read the rules without loading them.
pub fn test(program: &str, text: &str) {
    let mut child = Command::new(program)
        .args(["--test", "--noflush"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}: run deploy/setup.sh"));
    child.stdin.take().expect("asked for a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{program} does not take the rules");
}
