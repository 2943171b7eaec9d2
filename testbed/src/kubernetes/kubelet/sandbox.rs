//! What a pod is on this machine: a network namespace, a device in it, a server.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rustix::process::Pid;

use super::cni::{Cni, address};
use super::decide::{host_network, port_mappings, ports};
use super::record::Record;
use crate::dataplane::EVERYWHERE;
use crate::kubernetes::Files;
use crate::plan::{self, Cluster, NodePlan};
use crate::process::{self, Daemon, Readiness};
use crate::programs::Programs;
use crate::script::{Script, Tool};
use crate::state::StateDir;
use crate::{Error, Result, namespace};

/// How long a server may take until it listens.
const READY: Duration = Duration::from_secs(120);
/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes and removes pods.
pub(crate) struct Sandboxes {
    dir: StateDir,
    files: Files,
    cluster: Cluster,
    programs: Programs,
    cni: Cni,
}

impl Sandboxes {
    pub(crate) fn new(dir: StateDir, cluster: Cluster, programs: &Programs) -> Result<Self> {
        let files = dir.kubernetes();
        let cni = Cni::find(files.cni())?;
        Ok(Self { dir, files, cluster, programs: programs.clone(), cni })
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn node_names(&self) -> Vec<String> {
        self.cluster.nodes.iter().map(|node| node.name.clone()).collect()
    }

    fn node(&self, name: &str) -> &NodePlan {
        let node = self.cluster.nodes.iter().find(|node| node.name == name);
        node.expect("pods are started on the testbed's nodes only")
    }

    /// A node's address.
    pub(crate) fn host_ip(&self, node: &str) -> Ipv4Addr {
        self.node(node).ip()
    }

    /// Makes a pod run. If that fails, nothing of it stays.
    pub(crate) fn start(&self, pod: &Pod, node: &str) -> Result<Ipv4Addr> {
        let node = self.node(node);
        let (namespace, name) = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        let own = format!("{}{namespace}-{name}", plan::prefix(self.dir.name()));
        let host_network = host_network(pod);
        let mut record = Record {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            netns: if host_network { node.netns.clone() } else { own },
            node: node.name.clone(),
            host_network,
            ip: None,
            port_mappings: port_mappings(pod),
            result: None,
            namespace,
            name,
        };
        let taken = || namespace::all().contains(&record.netns);
        if !host_network && taken() {
            let (name, netns) = (self.dir.name().to_owned(), record.netns);
            return Err(Error::Leftover { name, netns });
        }
        record.save(&self.files.records())?;
        let made = self.make(pod, node, &mut record);
        made.inspect_err(|_| {
            if let Err(second) = self.remove(&record) {
                eprintln!("kubelet: cleaning up after pod {}: {second}", record.full_name());
            }
        })
    }

    fn make(&self, pod: &Pod, node: &NodePlan, record: &mut Record) -> Result<Ipv4Addr> {
        let ip = if record.host_network { node.ip() } else { self.connect(node, record)? };
        record.ip = Some(ip);
        record.save(&self.files.records())?;
        let (tcp, udp) = ports(pod);
        let mut args = vec!["serve".to_owned()];
        args.extend(tcp.iter().flat_map(|port| ["--tcp".to_owned(), port.to_string()]));
        args.extend(udp.iter().flat_map(|port| ["--udp".to_owned(), port.to_string()]));
        let server = Daemon {
            role: record.role(),
            netns: Some(record.netns.clone()),
            program: self.programs.this().to_owned(),
            args,
            readiness: Readiness::File,
        };
        server.start(&self.dir, self.programs.this())?.wait(READY)?;
        Ok(ip)
    }

    fn connect(&self, node: &NodePlan, record: &mut Record) -> Result<Ipv4Addr> {
        namespace::create(std::slice::from_ref(&record.netns))?;
        Script::new(Tool::Sysctl, &record.netns, EVERYWHERE).run()?;
        let result = self.cni.add(&self.cluster, node, record)?;
        let ip = address(&result).ok_or_else(|| Error::NoAddress { pod: record.full_name() })?;
        record.result = Some(result);
        let link = self.files.pods().join(&record.netns);
        let target = namespace::path(&record.netns);
        symlink(&target, &link).map_err(Error::file("create", link))?;
        Ok(ip)
    }

    /// Removes a pod by its identity, if it is there.
    pub(crate) fn stop(&self, uid: &str) -> Result<()> {
        let records = Record::all(&self.files.records());
        records.iter().find(|record| record.uid == uid).map_or(Ok(()), |record| self.remove(record))
    }

    fn remove(&self, record: &Record) -> Result<()> {
        let running = process::recorded(&self.dir.pid(&record.role()));
        let name = self.dir.name().to_owned();
        let undead = |pid: Pid| Error::Undead { name, pid: pid.as_raw_pid() };
        running.map_or(Ok(()), |running| process::end(&[running], PATIENCE).map_err(undead))?;
        self.dir.forget(&record.role())?;
        if !record.host_network {
            self.cni.del(&self.cluster, self.node(&record.node), record)?;
            let link = self.files.pods().join(&record.netns);
            match std::fs::remove_file(&link) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file("remove", link)(error));
                }
                _ => {}
            }
            namespace::remove(&record.netns)?;
        }
        Ok(record.remove(&self.files.records())?)
    }
}
