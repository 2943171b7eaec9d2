//! `waymark-testbed`: the command line.

mod cli;

use std::io;
use std::process::ExitCode;

use waymark_proto::command_line;
use waymark_testbed::kubernetes::{self, enforce, kubelet, relay};
use waymark_testbed::{
    AccuracyOptions, Choice, Cluster, Control, Dataplane, Error, FuzzFailure, FuzzOptions, Instance,
    Programs, Proxy, RecordOptions, Result, Topology, UpOptions, accuracy, demo, detach, exec, fault,
    fault_table, fuzz, fuzz_case, impair, interrupt, note, record, say, serve, status_table, tcx,
};

use cli::{Cli, Command, FaultCommand, Output};

fn main() -> ExitCode {
    let cli: Cli = match command_line::parse("waymark-testbed") {
        Ok(cli) => cli,
        Err(code) => return code.into(),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("waymark-testbed: error: {error}"));
            error.exit_code().into()
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let instance = |name: &str, folder| Instance::new(name, Programs::find(folder)?);
    let catch = || interrupt::catch().map_err(Error::Signals);
    let folder = cli.bin_dir;
    match cli.command {
        Command::Up { name, file, dataplane, proxy, kubernetes, no_agents } => {
            catch()?;
            let topology = read_topology(file)?;
            let instance = instance(&name.name, folder)?;
            let control = if kubernetes { Control::Kubernetes } else { Control::Inventory };
            instance.up(&UpOptions { topology, dataplane, proxy, control, agents: !no_agents })?;
            say(format_args!(
                "testbed {} is up: {dataplane}, {} namespaces",
                name.name,
                instance.state()?.cluster(&name.name).namespaces().len() + instance.records().len()
            ));
            if kubernetes {
                let kubeconfig = instance.dir().kubernetes().kubeconfig();
                say(format_args!("kubectl finds it by: export KUBECONFIG={}", kubeconfig.display()));
            }
        }
        Command::Down { name } => {
            let there = instance(&name.name, folder)?.down()?;
            say(format_args!("testbed {} {}", name.name, if there { "is down" } else { "was not up" }));
        }
        Command::Status { name, output } => {
            let instance = instance(&name.name, folder)?;
            match output {
                Output::Table => say(status_table(&instance)?),
                Output::Json => print_json(&instance.inventory()?),
            }
        }
        Command::Kubeconfig { name } => {
            let instance = instance(&name.name, folder)?;
            match instance.state()?.control {
                Control::Kubernetes => say(instance.dir().kubernetes().kubeconfig().display()),
                Control::Inventory => return Err(Error::NoControlPlane { name: name.name }),
            }
        }
        Command::Exec { name, target, command } => {
            let (program, args) = command.split_first().expect("clap asks for at least one word");
            exec(&instance(&name.name, folder)?, &target, program, args)?;
        }
        Command::Fault { command } => run_fault(command, |name| instance(name, folder.clone()))?,
        Command::Demo { name, kubernetes, dataplane } => {
            catch()?;
            let instance = instance(&name, folder)?;
            if kubernetes { kubernetes::demo(&instance, dataplane)? } else { demo(&instance, dataplane)? }
        }
        Command::Accuracy { name, dataplanes, proxy, healthy, faults, categories, subset, output } => {
            catch()?;
            let faults = faults.iter().map(|name| fault(name)).collect::<Result<_>>()?;
            let dataplanes = if dataplanes.is_empty() { Dataplane::ALL.into() } else { dataplanes };
            let options = AccuracyOptions {
                name,
                dataplanes,
                proxy,
                healthy,
                choice: Choice { faults, categories, subset },
            };
            let report = accuracy(&options, &Programs::find(folder)?, &mut |line| note(line))?;
            match output {
                Output::Table => say(report.table()),
                Output::Json => print_json(&report),
            }
            report.verdict()?;
        }
        Command::Fuzz { case: Some(file), fixture, .. } => {
            catch()?;
            let report = fuzz_case(&file, fixture.as_deref())?;
            say(report.to_string());
            report.verdict()?;
        }
        Command::Fuzz { seed, cases, packets, failures, fixtures, case: None, .. } => {
            catch()?;
            let options = FuzzOptions { seed, cases, packets, failures, fixtures };
            let mut told = 0;
            let mut failed = 0;
            let report = fuzz(&options, |report| {
                for FuzzFailure { seed, difference, .. } in &report.failures[failed..] {
                    note(format!("seed {seed}: {difference}"));
                }
                failed = report.failures.len();
                if report.packets / 1000 > told {
                    told = report.packets / 1000;
                    note(format!("{} packets, {} configurations", report.packets, report.states));
                }
            })?;
            say(report.to_string());
            report.verdict()?;
        }
        Command::Record { name, dataplane, proxy, faults, folder: out } => {
            catch()?;
            let faults = faults.iter().map(|name| fault(name)).collect::<Result<_>>()?;
            let options = RecordOptions { name, dataplane, proxy, faults, folder: out };
            record(&options, &Programs::find(folder)?, &mut |path| say(path.display()))?;
        }
        Command::Serve { tcp, udp, manner, ready_file } => serve(&tcp, &udp, manner, &ready_file)?,
        Command::Impair { device, impairment, ready_file } => impair(&device, impairment, &ready_file)?,
        Command::Tcx { device, side, ready_file } => tcx(&device, side, &ready_file)?,
        Command::Kubelet { name, ready_file } => kubelet(&name.name, &ready_file)?,
        Command::Enforcer { name, ready_file } => enforce(&name.name, &ready_file)?,
        Command::Relay { netns, to, ready_file } => relay(&netns, to, &ready_file)?,
        Command::Detach { pid_file, command } => {
            let (program, args) = command.split_first().expect("clap asks for at least one word");
            return Err(detach(&pid_file, program.as_ref(), args));
        }
    }
    Ok(())
}

fn run_fault(command: FaultCommand, instance: impl Fn(&str) -> Result<Instance>) -> Result<()> {
    match command {
        FaultCommand::List { name } => {
            let instance = instance(&name.name)?;
            let (cluster, active) = match instance.state() {
                Ok(state) => {
                    let active = state.faults.iter().map(|fault| fault.name.clone()).collect();
                    (state.cluster(&name.name), active)
                }
                // Without an instance: as it would be in the default one with most of the faults.
                Err(Error::NotUp { .. }) => {
                    let topology = Topology::default();
                    let cluster =
                        Cluster::plan(&name.name, &topology, Dataplane::BridgeVxlan, Proxy::Iptables);
                    (cluster, Vec::new())
                }
                Err(error) => return Err(error),
            };
            say(fault_table(&cluster, &active));
        }
        FaultCommand::Inject { name, fault: which } => {
            let instance = instance(&name.name)?;
            let which = fault(&which)?;
            instance.inject(which)?.keep();
            let cluster = instance.state()?.cluster(&name.name);
            let probe = which.probe(&cluster)?;
            say(format_args!("injected {}: {}", which.name, which.about()));
            say(format_args!(
                "it shows on: waymark check {} {} --proto {}{}{}",
                probe.from,
                probe.to,
                probe.protocol,
                if probe.ipv6 { " --ipv6" } else { "" },
                probe.size.map(|size| format!(" --size {size}")).unwrap_or_default()
            ));
            say(format_args!("expected: {}", which.expected(&cluster)?));
        }
        FaultCommand::Clear { name, fault } => {
            let cleared = instance(&name.name)?.clear(fault.as_deref())?;
            say(format_args!(
                "cleared: {}",
                if cleared.is_empty() { "nothing was injected".into() } else { cleared.join(", ") }
            ));
        }
    }
    Ok(())
}

fn read_topology(file: Option<std::path::PathBuf>) -> Result<Topology> {
    let Some(path) = file else { return Ok(Topology::default()) };
    let text = std::fs::read_to_string(&path).map_err(|source: io::Error| Error::File {
        what: "read topology",
        path: path.clone(),
        source,
    })?;
    Topology::parse(&text).map_err(|source| Error::Topology { origin: path.display().to_string(), source })
}

fn print_json(document: &impl serde::Serialize) {
    say(serde_json::to_string_pretty(document).expect("names and numbers are always JSON"));
}
