//! The deep tier: functions of the kernel, each by fentry and fexit, else by kprobe and kretprobe, else not at all.
//!
//! Which it is, is tried function by function when the programs are loaded: what the kernel's BTF knows, what its trampolines
//! can call, what it allows. A refusal is one function's, and the floor's programs know nothing of it. A function of a module
//! can be there today and gone tomorrow, so kprobes look for theirs whenever they are attached. One of the kernel itself stays
//! where it is: the kernel is given its address, for to search its symbols for a name takes it longer than all else (on 5.10
//! name by name from the first).
//!
//! The programs stand in one object with the floor's. They share its maps that way, and the variables that a first look goes by;
//! loading a second object into the same maps would take a pinned file for each, which a killed agent leaves behind. What can
//! fail an object as a whole, its sections and relocations, is the same on all kernels or what the floor needs, too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use aya::programs::fentry::FEntryLink;
use aya::programs::fexit::FExitLink;
use aya::programs::kprobe::{KProbeLink, KProbeLinkId};
use aya::programs::{FEntry, FExit, KProbe, ProgramError};
use aya::{Btf, Ebpf};
use waymark_tracer_ebpf::{FUNCTIONS, Function};

use super::WatchedFunction;
use super::decode::is_absent;
use super::symbols::Symbols;
use super::types::{Signature, Types};
use crate::facts::{kernel_release, kernel_version};

/// Where the kernel tells that programs can be attached to kprobes.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe/type";

/// Before this version a program could be attached by a trampoline once, and never again.
const REATTACHES: (u32, u32) = (5, 13);

/// How many arguments trampolines could always pass on; newer kernels pass more, but nothing says whether this one does.
const MOST_ARGUMENTS: u8 = 6;

/// What is said of a function for which nobody can be found who calls it.
const NOT_THERE: &str = "this kernel has none of that name, or its module is not loaded";

/// How a function is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a trampoline (`fentry`, `fexit`).
    Trampoline,
    /// By a breakpoint, or the call that the compiler left for `ftrace` (`kprobe`, `kretprobe`).
    Probe,
}

/// A function with what has become of it.
#[derive(Debug)]
pub struct Row {
    /// The function.
    pub function: &'static Function,
    /// How it is watched, or why it is not.
    pub state: Result<Way, String>,
    /// Its name in this kernel.
    symbol: &'static str,
    /// The way that its programs were loaded for, if they were: what fails when they are attached may do so once.
    loaded: Option<Way>,
    links: Vec<Link>,
}

impl Row {
    /// Who watches it, as `fexit/NAME`, or why nobody does.
    pub fn report(&self) -> WatchedFunction {
        let provider = self.state.as_ref().map(|way| self.provider(*way)).map_err(Clone::clone);
        WatchedFunction { function: self.symbol, hook: self.function.hook, provider }
    }

    /// The same before anything was attached, which would show whether there is a function for a kprobe.
    pub fn foretell(&self) -> WatchedFunction {
        let report = self.report();
        let probes = self.state == Ok(Way::Probe);
        if probes && self.function.symbols.iter().all(|symbol| is_absent(symbol)) {
            return WatchedFunction { provider: Err(NOT_THERE.to_owned()), ..report };
        }
        report
    }

    fn provider(&self, way: Way) -> String {
        let way = match (way, self.function.answers()) {
            (Way::Trampoline, false) => "fentry",
            (Way::Trampoline, true) => "fexit",
            (Way::Probe, false) => "kprobe",
            (Way::Probe, true) => "kretprobe",
        };
        format!("{way}/{}", self.symbol)
    }

    fn load(function: &'static Function, ebpf: &mut Ebpf, btf: &Btf, types: &Types) -> Self {
        let known = types.first(function.symbols);
        let symbol = known.map_or(function.symbols[0], |(symbol, _)| symbol);
        let trampoline = match known {
            None => Err("fentry: the kernel's BTF does not have it".to_owned()),
            Some(_) if !can_reattach() => {
                Err("fentry: before kernel 5.13 it can be attached only once".to_owned())
            }
            Some((_, Signature { arguments, .. })) if arguments > MOST_ARGUMENTS && has_kprobes() => {
                Err(format!("fentry: {arguments} arguments are too many"))
            }
            Some(_) => load_trampoline(ebpf, function, symbol, btf)
                .map_err(|error| format!("fentry: {}", told(&error))),
        };
        let state = trampoline.map(|()| Way::Trampoline).or_else(|no_trampoline| {
            let probe = if has_kprobes() {
                load_probe(ebpf, function).map_err(|error| told(&error))
            } else {
                Err("the kernel has none".to_owned())
            };
            probe.map(|()| Way::Probe).map_err(|no_probe| format!("{no_trampoline}; kprobe: {no_probe}"))
        });
        let loaded = state.as_ref().ok().copied();
        Self { function, state, symbol, loaded, links: Vec::new() }
    }

    /// Attaches what is loaded, the end first: a call that is awaited must be seen to return.
    fn attach(&mut self, ebpf: &mut Ebpf) {
        let Some(way) = self.loaded.filter(|_| self.links.is_empty()) else { return };
        let attached = match way {
            Way::Trampoline => self.attach_trampoline(ebpf),
            Way::Probe => self.attach_probe(ebpf),
        };
        if attached.is_err() {
            self.links.clear();
        }
        self.state = attached.map(|()| way).map_err(|error| told(&error));
    }

    fn attach_trampoline(&mut self, ebpf: &mut Ebpf) -> Result<(), ProgramError> {
        if self.function.answers() {
            let program = fexit(ebpf, self.function)?;
            let link = program.attach()?;
            self.links.push(Link::Fexit(program.take_link(link)?));
        }
        let program = fentry(ebpf, self.function)?;
        let link = program.attach()?;
        self.links.push(Link::Fentry(program.take_link(link)?));
        Ok(())
    }

    fn attach_probe(&mut self, ebpf: &mut Ebpf) -> Result<(), ProgramError> {
        let kinds: &[_] = if self.function.answers() { &["kretprobe", "kprobe"] } else { &["kprobe"] };
        for kind in kinds {
            let program = kprobe(ebpf, kind, self.function)?;
            let (symbol, link) = attach_to_any(program, self.function.symbols)?;
            self.symbol = symbol;
            self.links.push(Link::Probe(program.take_link(link)?));
        }
        Ok(())
    }
}

/// Attaches to the first of these functions that is there. Those of the kernel itself come first.
fn attach_to_any(
    program: &mut KProbe,
    symbols: &[&'static str],
) -> Result<(&'static str, KProbeLinkId), ProgramError> {
    let known = Symbols::of_running_kernel().ok();
    let entries = symbols.iter().filter_map(|symbol| Some((*symbol, known?.entry(symbol)?)));
    for (symbol, entry) in entries {
        // A function without a name is the one at the offset.
        if let Ok(link) = program.attach("", entry) {
            return Ok((symbol, link));
        }
    }
    let mut refused = ProgramError::NotLoaded;
    for symbol in symbols {
        match program.attach(symbol, 0) {
            Ok(link) => return Ok((symbol, link)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// What holds a program where it is attached, until it is dropped.
#[allow(dead_code, reason = "they are kept for what dropping them does")]
#[derive(Debug)]
enum Link {
    Fentry(FEntryLink),
    Fexit(FExitLink),
    Probe(KProbeLink),
}

/// The functions of the deep tier, and how each is watched.
pub struct Deep {
    rows: Vec<Row>,
    leaving: Arc<Leaving>,
    /// What detaches: for each link the kernel waits until nobody is in its program, and who disarms need not.
    detaching: Option<JoinHandle<()>>,
}

/// The links that are to be detached and still are not, function by function.
#[derive(Debug, Default)]
struct Leaving(Mutex<BTreeMap<&'static str, Vec<Link>>>);

impl Leaving {
    fn links(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<Link>>> {
        // It is whole whenever a holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Detaches one function after the other, until there is none left.
    fn detach(&self) {
        loop {
            let next = self.links().pop_first();
            let Some((_, links)) = next else { return };
            // The beginning first: a call that is awaited must be seen to return.
            links.into_iter().rev().for_each(drop);
        }
    }
}

impl Deep {
    /// Loads for each function the programs that this kernel takes. Attaches nothing.
    pub fn load(ebpf: &mut Ebpf, btf: &Btf) -> Self {
        let types = Types::of_running_kernel();
        let rows = FUNCTIONS.iter().map(|function| Row::load(function, ebpf, btf, types)).collect();
        Self { rows, leaving: Arc::default(), detaching: None }
    }

    /// The functions.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Attaches what is not attached; what was refused before is tried again. What was to be detached and is not yet stays.
    pub fn attach(&mut self, ebpf: &mut Ebpf) {
        let mut staying = std::mem::take(&mut *self.leaving.links());
        for row in &mut self.rows {
            row.links.extend(staying.remove(row.function.name).into_iter().flatten());
        }
        // One function may be about to be detached: a program cannot be attached by a trampoline twice.
        self.detaching.take().into_iter().for_each(finished);
        self.rows.iter_mut().for_each(|row| row.attach(ebpf));
    }

    /// Detaches all, soon. Until then the programs run, and find that nothing is armed.
    pub fn detach(&mut self) {
        let attached = self.rows.iter_mut().filter(|row| !row.links.is_empty());
        let links: Vec<_> = attached.map(|row| (row.function.name, std::mem::take(&mut row.links))).collect();
        if links.is_empty() {
            return;
        }
        // What is attached was so after the last that detached had ended.
        self.leaving.links().extend(links);
        let leaving = Arc::clone(&self.leaving);
        self.detaching =
            thread::Builder::new().name("detach".to_owned()).spawn(move || leaving.detach()).ok();
        if self.detaching.is_none() {
            self.leaving.detach();
        }
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        self.detach();
        self.detaching.take().into_iter().for_each(finished);
    }
}

fn finished(thread: JoinHandle<()>) {
    // It drops, which does not panic.
    let _ = thread.join();
}

fn has_kprobes() -> bool {
    Path::new(KPROBES).exists()
}

fn can_reattach() -> bool {
    kernel_version(&kernel_release()).is_none_or(|version| version >= REATTACHES)
}

/// What the kernel said, without the verifier's log, which fills pages.
fn told(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            NOT_THERE.to_owned()
        }
        ProgramError::SyscallError(error) => error.io_error.to_string(),
        error => error.to_string(),
    }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, kind: &str, function: &Function) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(&format!("{kind}_{}", function.name)).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn fentry<'a>(ebpf: &'a mut Ebpf, function: &Function) -> Result<&'a mut FEntry, ProgramError> {
    program(ebpf, "fentry", function)
}

fn fexit<'a>(ebpf: &'a mut Ebpf, function: &Function) -> Result<&'a mut FExit, ProgramError> {
    program(ebpf, "fexit", function)
}

fn kprobe<'a>(ebpf: &'a mut Ebpf, kind: &str, function: &Function) -> Result<&'a mut KProbe, ProgramError> {
    program(ebpf, kind, function)
}

fn load_trampoline(
    ebpf: &mut Ebpf,
    function: &Function,
    symbol: &str,
    btf: &Btf,
) -> Result<(), ProgramError> {
    fentry(ebpf, function)?.load(symbol, btf)?;
    if function.answers() {
        fexit(ebpf, function)?.load(symbol, btf)?;
    }
    Ok(())
}

fn load_probe(ebpf: &mut Ebpf, function: &Function) -> Result<(), ProgramError> {
    kprobe(ebpf, "kprobe", function)?.load()?;
    if function.answers() {
        kprobe(ebpf, "kretprobe", function)?.load()?;
    }
    Ok(())
}
