//! An instance of a testbed: brought up, taken down, found again by its name.

use std::path::PathBuf;
use std::time::Duration;

use waymark_proto::Inventory;

use crate::fault::{Act, Helper};
use crate::kubernetes::{self, Record};
use crate::plan::{Cluster, Control, Dataplane, PodPlan, Proxy};
use crate::preflight::{self, need_root};
use crate::process::{self, Daemon, Readiness, Starting};
use crate::programs::Programs;
use crate::server::Manner;
use crate::state::{Lock, State, StateDir};
use crate::topology::Topology;
use crate::{Error, Result, cgroup, dataplane, interrupt, namespace, plan, proxy};

/// How long a process may take until it is ready. Programs load in milliseconds; a loaded machine that
/// also builds has been seen to take seconds.
const READY: Duration = Duration::from_secs(120);
/// How long a process may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often `down` looks for processes that were forked while it was ending others.
const ROUNDS: usize = 5;
/// Where each node's agent serves its metrics, in the node's namespace.
pub const AGENT_METRICS: &str = "127.0.0.1:9464";

/// How a testbed is to be.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// Nodes, pods and Services.
    pub topology: Topology,
    /// How pods reach one another.
    pub dataplane: Dataplane,
    /// Whose rules implement Services.
    pub proxy: Proxy,
    /// Who knows what is in it.
    pub control: Control,
    /// Whether to run controller and agents.
    pub agents: bool,
}

/// An instance by name, up or not.
#[derive(Clone, Debug)]
pub struct Instance {
    dir: StateDir,
    programs: Programs,
}

impl Instance {
    /// The instance of that name.
    pub fn new(name: &str, programs: Programs) -> Result<Self> {
        Ok(Self { dir: StateDir::new(name)?, programs })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.dir.name()
    }

    /// Its folder.
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// Where Waymark's programs are.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Its state.
    ///
    /// # Errors
    /// If it is not up, or the state is damaged.
    pub fn state(&self) -> Result<State> {
        self.dir.load()?.ok_or_else(|| Error::NotUp { name: self.name().to_owned() })
    }

    /// Its inventory. With a Kubernetes control plane: its nodes, and the pods that run with their network
    /// namespaces; Services and policies are for the control plane to tell.
    pub fn inventory(&self) -> Result<Inventory> {
        let cluster = self.state()?.cluster(self.name());
        let mut inventory = cluster.inventory();
        inventory.pods.extend(self.records().iter().filter_map(Record::pod));
        Ok(inventory)
    }

    /// The pods that a kubelet of the testbed runs.
    pub fn records(&self) -> Vec<Record> {
        Record::all(&self.dir.kubernetes().records())
    }

    /// Its processes by role, with the pid of those that live.
    pub fn processes(&self) -> Vec<(String, Option<i32>)> {
        let pid =
            |role: &String| process::recorded(&self.dir.pid(role)).map(|running| running.pid.as_raw_pid());
        self.dir.roles().into_iter().map(|role| (role.clone(), pid(&role))).collect()
    }

    /// Makes everything and returns when every process is ready and every agent attached. If that fails,
    /// nothing stays.
    pub fn up(&self, options: &UpOptions) -> Result<()> {
        need_root("up")?;
        if options.agents {
            self.programs.all_there()?;
        }
        let needs = match options.control {
            Control::Inventory => None,
            Control::Kubernetes => Some(kubernetes::Needs::find(&options.topology)?),
        };
        let mut state = State {
            dataplane: options.dataplane,
            proxy: options.proxy,
            control: options.control,
            agents: options.agents,
            complete: false,
            topology: options.topology.clone(),
            faults: Vec::new(),
        };
        let cluster = state.cluster(self.name());
        let lock = self.dir.lock()?;
        if let Some(state) = self.dir.load()? {
            let name = self.name().to_owned();
            // Whoever is still making it would hold the lock.
            return Err(if state.complete { Error::AlreadyUp { name } } else { Error::HalfMade { name } });
        }
        let there = namespace::all();
        if let Some(netns) = cluster.namespaces().into_iter().find(|netns| there.contains(netns)) {
            self.dir.remove(lock)?;
            return Err(Error::Leftover { name: self.name().to_owned(), netns });
        }
        self.dir.save(&lock, &state)?;
        state.complete = true;
        let made = self
            .make(&lock, &cluster, needs.as_ref(), options.agents)
            .and_then(|()| self.dir.save(&lock, &state));
        made.map_err(interrupt::rather).inspect_err(|_| {
            // The first error is the one to tell; what cannot be cleaned now, `down` can be asked for.
            if let Err(second) = self.tear_down(lock) {
                crate::note(format_args!("waymark-testbed: cleaning up: {second}"));
            }
        })
    }

    fn make(
        &self,
        lock: &Lock,
        cluster: &Cluster,
        needs: Option<&kubernetes::Needs>,
        agents: bool,
    ) -> Result<()> {
        preflight::kernel(cluster)?;
        if needs.is_none() {
            self.dir.save_inventory(lock, &cluster.inventory())?;
        }
        namespace::create(&cluster.namespaces())?;
        let rules = cluster.nodes.iter().flat_map(|node| proxy::scripts(cluster, node));
        for script in dataplane::scripts(cluster).into_iter().chain(rules) {
            interrupt::check()?;
            script.run()?;
        }
        let servers = cluster.pods.iter().map(|pod| self.start_server(pod, Manner::Ordinary));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        all_ready(servers)?;
        if let Some(needs) = needs {
            kubernetes::start(&self.dir, &self.programs, cluster, needs)?;
        }
        if agents { self.start_waymark(cluster) } else { Ok(()) }
    }

    fn start_server(&self, pod: &PodPlan, manner: Manner) -> Result<Starting> {
        let mut args = vec!["serve".to_owned(), "--manner".to_owned(), manner.to_string()];
        args.extend(pod.tcp.iter().flat_map(|port| ["--tcp".to_owned(), port.to_string()]));
        args.extend(pod.udp.iter().flat_map(|port| ["--udp".to_owned(), port.to_string()]));
        let program = self.programs.this().to_owned();
        let (role, netns) = (server_role(pod), Some(pod.netns.clone()));
        let daemon = Daemon { role, netns, program, args, readiness: Readiness::File };
        daemon.start(&self.dir, self.programs.this())
    }

    /// The controller first: agents dial it.
    fn start_waymark(&self, cluster: &Cluster) -> Result<()> {
        let files = self.dir.kubernetes();
        let address = self.dir.controller();
        // What the controller is told of the cluster, and what the agents are.
        let flag = |name: &str, path: PathBuf| [name.to_owned(), path.display().to_string()];
        let [known, found] = match cluster.control {
            None => [(); 2].map(|()| flag("--inventory", self.dir.inventory())),
            Some(_) => [flag("--kubeconfig", files.kubeconfig()), flag("--pod-netns", files.pods())],
        };
        let daemon = |role: String, netns, program, args: &[&str]| Daemon {
            role,
            netns,
            program,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            readiness: Readiness::File,
        };
        let args = ["run", &known[0], &known[1], "--listen", &address];
        let controller = daemon("controller".into(), None, self.programs.controller()?, &args);
        controller.start(&self.dir, self.programs.this())?.wait(READY)?;
        let agents = cluster.nodes.iter().map(|node| {
            let dial = ["--node", &node.name, "--controller", &address, "--metrics", AGENT_METRICS];
            let args = [&["run", &found[0], &found[1]][..], &dial].concat();
            let role = format!("agent-{}", node.name);
            daemon(role, Some(node.netns.clone()), self.programs.agent()?, &args)
                .start(&self.dir, self.programs.this())
        });
        all_ready(agents.collect::<Result<Vec<_>>>()?)
    }

    /// Takes everything away, whatever state it is in. Gives back whether there was anything.
    pub fn down(&self) -> Result<bool> {
        need_root("down")?;
        let there = self.dir.exists() || !self.namespaces().is_empty();
        if there {
            self.tear_down(self.dir.lock()?)?;
        }
        Ok(there)
    }

    /// Processes first, so that the kernel can let the namespaces go; the state last, so that a `down`
    /// that was itself killed can be repeated.
    fn tear_down(&self, lock: Lock) -> Result<()> {
        for _ in 0..ROUNDS {
            // Anew each time: a kubelet makes more of both until it has ended itself.
            let inodes: Vec<_> = self.namespaces().iter().filter_map(|name| namespace::inode(name)).collect();
            let roles = self.dir.roles();
            let mut processes: Vec<_> =
                roles.iter().filter_map(|role| process::recorded(&self.dir.pid(role))).collect();
            processes.extend(process::inside(&inodes));
            if processes.is_empty() {
                break;
            }
            let undead = |pid: rustix::process::Pid| Error::Undead {
                name: self.name().to_owned(),
                pid: pid.as_raw_pid(),
            };
            process::end(&processes, PATIENCE).map_err(undead)?;
            for ended in &processes {
                cgroup::remove(ended.pid.as_raw_pid().unsigned_abs());
            }
        }
        self.namespaces().iter().try_for_each(|name| namespace::remove(name))?;
        if self.dir.load().ok().flatten().is_some_and(|state| state.agents) {
            self.dir.remove_socket()?;
        }
        self.dir.remove(lock)
    }

    /// The namespaces that are there and belong to this instance: by the state's plan, and without a
    /// readable state by their prefix, less those of instances whose names begin alike.
    fn namespaces(&self) -> Vec<String> {
        let there = namespace::all();
        if let Ok(Some(state)) = self.dir.load() {
            let pods = self.records().into_iter().filter(|pod| !pod.host_network).map(|pod| pod.netns);
            let names = state.cluster(self.name()).namespaces().into_iter().chain(pods);
            return names.filter(|name| there.contains(name)).collect();
        }
        let own = plan::prefix(self.name());
        let others = StateDir::all().into_iter().map(|name| plan::prefix(&name));
        let longer: Vec<_> = others.filter(|prefix| prefix.len() > own.len()).collect();
        let mine =
            |name: &String| name.starts_with(&own) && !longer.iter().any(|prefix| name.starts_with(prefix));
        there.into_iter().filter(mine).collect()
    }

    /// Does what a fault, or its undoing, consists of.
    pub(crate) fn act(&self, cluster: &Cluster, act: &Act) -> Result<()> {
        let pod = |name: &str| cluster.pods.iter().find(|pod| pod.full_name == *name);
        match act {
            Act::Script(script) => script.run(),
            Act::StopServer(name) => pod(name).map_or(Ok(()), |pod| self.stop_server(pod)),
            Act::ReplaceServer { pod: name, manner } => {
                let Some(pod) = pod(name) else { return Ok(()) };
                self.stop_server(pod)?;
                self.start_server(pod, *manner)?.wait(READY)
            }
            Act::Start(helper) => self.start_helper(helper)?.wait(READY),
            Act::Stop(role) => {
                self.stop(role)?;
                self.dir.forget(role)
            }
        }
    }

    fn start_helper(&self, helper: &Helper) -> Result<Starting> {
        let daemon = Daemon {
            role: helper.role.clone(),
            netns: Some(helper.netns.clone()),
            program: self.programs.this().to_owned(),
            args: helper.args.clone(),
            readiness: Readiness::File,
        };
        daemon.start(&self.dir, self.programs.this())
    }

    fn stop_server(&self, pod: &PodPlan) -> Result<()> {
        self.stop(&server_role(pod))
    }

    /// Ends the process of a role, if it lives.
    fn stop(&self, role: &str) -> Result<()> {
        let undead =
            |pid: rustix::process::Pid| Error::Undead { name: self.name().to_owned(), pid: pid.as_raw_pid() };
        let Some(running) = process::recorded(&self.dir.pid(role)) else { return Ok(()) };
        let pid = running.pid.as_raw_pid().unsigned_abs();
        process::end(&[running], PATIENCE).map_err(undead)?;
        cgroup::remove(pid);
        Ok(())
    }
}

fn server_role(pod: &PodPlan) -> String {
    format!("serve-{}", pod.full_name.replace('/', "-"))
}

fn all_ready(processes: Vec<Starting>) -> Result<()> {
    processes.into_iter().try_for_each(|process| process.wait(READY))
}
