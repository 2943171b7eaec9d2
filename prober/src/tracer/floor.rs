//! The floor tier: loading and attaching the tracepoint programs. The only file that loads BPF.
//!
//! Programs are loaded (and verified by the kernel) once and attached only while a check is armed, so an
//! idle agent costs nothing. Programs, maps and links are owned by file descriptors: they end with the
//! process, however it ends.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, ProgramError};
use aya::util::nr_cpus;
use aya::{Btf, Ebpf, EbpfLoader};
use waymark_proto::{CheckId, HookSet, Losses, NetnsInode};
use waymark_tracer_ebpf::{Counter, DRAFTS, FLOOR, MapArmed, MapMarker, PROGRAMS, Program, globals, maps};

use super::deep::{Deep, Row};
use super::symbols::Variables;
use super::types::Types;
use crate::live::{FilterError, Live, with_filter};
use crate::nftrace::Traced;

/// What went wrong with the tracer.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The kernel has no type information.
    #[error(
        "cannot read the kernel's BTF from /sys/kernel/btf/vmlinux: {0}; a kernel with CONFIG_DEBUG_INFO_BTF is needed"
    )]
    Btf(#[source] aya::BtfError),
    /// The object as a whole was refused.
    #[error("cannot load the tracer's BPF object: {0}; this needs root, or CAP_BPF and CAP_PERFMON")]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks something; it is built together with this program, so this is a bug.
    #[error("the tracer's BPF object has no {0:?}")]
    Incomplete(&'static str),
    /// A filter of packets is none.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Programs are not accepted with it, as they were without.
    #[error("the kernel accepts no program with this filter: {0}; try a simpler one")]
    Unfiltered(String),
    /// A map operation failed.
    #[error("BPF map {map:?}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        source: Box<MapError>,
    },
}

/// Why a program does not run on this kernel.
#[derive(Debug)]
struct Refused {
    tracepoint: &'static str,
    why: String,
}

/// How programs come to know packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// By markers, which they read as they read what the kernel keeps of a packet: half as dear as by a helper.
    Direct,
    /// By markers, which they read by a helper.
    Helper,
    /// By a filter, for this check, so many packets.
    Live { check: CheckId, packets: u32 },
}

/// The object in the kernel, with the programs that it accepted.
struct Object {
    ebpf: Ebpf,
    loaded: Vec<&'static Program>,
    refused: Vec<Refused>,
    /// The programs that were not tried yet.
    rest: std::slice::Iter<'static, Program>,
}

impl Object {
    /// Loads it, with as cheap programs as this kernel accepts.
    fn load(btf: &Btf) -> Result<Self, FloorError> {
        let mut cheap = Self::open(btf, FLOOR, Reading::Direct)?;
        // Verifying is what takes long, so the first that is refused is tried in the other way before the next ones.
        while cheap.refused.is_empty() && cheap.load_next(btf) {}
        let Some(first) = cheap.refused.first() else { return Ok(cheap) };
        let first = first.tracepoint;
        let mut dear = Self::open(btf, FLOOR, Reading::Helper)?;
        while dear.load_next(btf) {}
        if dear.loaded.iter().any(|program| program.tracepoint == first) {
            return Ok(dear);
        }
        // It was refused for another reason.
        while cheap.load_next(btf) {}
        Ok(if dear.refused.len() < cheap.refused.len() { dear } else { cheap })
    }

    /// Loads it for what a filter picks.
    fn load_live(btf: &Btf, check: CheckId, live: &Live) -> Result<Self, FloorError> {
        let object = with_filter(&live.filter)?;
        let mut loaded = Self::open(btf, &object, Reading::Live { check, packets: live.packets })?;
        while loaded.load_next(btf) {}
        // Every kernel takes it with a filter that is one. What the verifier says is long, and begins with the reason.
        match loaded.refused.iter().find(|refused| refused.tracepoint == PROGRAMS[0].tracepoint) {
            Some(Refused { why, .. }) => {
                Err(FloorError::Unfiltered(why.lines().next().unwrap_or_default().to_owned()))
            }
            None => Ok(loaded),
        }
    }

    /// Loads it without its programs.
    fn open(btf: &Btf, object: &[u8], reading: Reading) -> Result<Self, FloorError> {
        let variables = Variables::of_running_kernel();
        let arguments = Types::of_running_kernel().arguments();
        let processors = u32::try_from(nr_cpus().unwrap_or(1)).unwrap_or(u32::MAX);
        let direct_reads = u8::from(reading == Reading::Direct);
        let (live, check, packets) = match reading {
            Reading::Live { check, packets } => (1u8, check.get(), packets),
            Reading::Direct | Reading::Helper => (0, 0, 0),
        };
        let ebpf = EbpfLoader::new()
            .btf(Some(btf))
            .map_max_entries(maps::LOOKED, if live == 1 { DRAFTS } else { 1 })
            .override_global(globals::LIVE, &live, true)
            .override_global(globals::LIVE_CHECK, &check, true)
            .override_global(globals::LIVE_MOST, &packets, true)
            .override_global(globals::PROCESSORS, &processors, true)
            .override_global(globals::DIRECT_READS, &direct_reads, true)
            .override_global(globals::VMEMMAP_BASE_AT, &variables.vmemmap_base, true)
            .override_global(globals::PAGE_OFFSET_BASE_AT, &variables.page_offset_base, true)
            .override_global(globals::ARGUMENTS, &arguments, true)
            .load(object)
            .map_err(|error| FloorError::Object(Box::new(error)))?;
        Ok(Self { ebpf, loaded: Vec::new(), refused: Vec::new(), rest: PROGRAMS.iter() })
    }

    /// Loads one more program, if there is one.
    fn load_next(&mut self, btf: &Btf) -> bool {
        let Some(program) = self.rest.next() else { return false };
        match load_program(&mut self.ebpf, program, btf) {
            Ok(()) => self.loaded.push(program),
            Err(error) => {
                self.refused.push(Refused { tracepoint: program.tracepoint, why: error.to_string() });
            }
        }
        true
    }
}

/// The loaded programs and their maps.
pub struct Floor {
    ebpf: Ebpf,
    loaded: Vec<&'static Program>,
    refused: Vec<Refused>,
    links: Vec<(&'static Program, BtfTracePointLinkId)>,
    /// The functions that are watched with the wide set.
    deep: Deep,
    /// The checks that are armed: the programs of a set are attached while one of them wants it.
    checks: BTreeMap<CheckId, HookSet>,
    armed: HashMap<MapData, u32, MapArmed>,
    isns: HashMap<MapData, u32, MapMarker>,
    namespaces: HashMap<MapData, u32, u8>,
    counters: PerCpuArray<MapData, u64>,
    followed: Array<MapData, u32>,
}

impl Floor {
    /// Loads the object and every program that this kernel accepts, as cheap ones as it accepts. Attaches nothing.
    pub fn load() -> Result<(Self, RingBuf<MapData>), FloorError> {
        let btf = Btf::from_sys_fs().map_err(FloorError::Btf)?;
        Self::of(Object::load(&btf)?, &btf)
    }

    /// The same for what a filter picks, instead of markers.
    pub fn load_live(check: CheckId, live: &Live) -> Result<(Self, RingBuf<MapData>), FloorError> {
        let btf = Btf::from_sys_fs().map_err(FloorError::Btf)?;
        Self::of(Object::load_live(&btf, check, live)?, &btf)
    }

    fn of(object: Object, btf: &Btf) -> Result<(Self, RingBuf<MapData>), FloorError> {
        let Object { mut ebpf, loaded, refused, .. } = object;
        let records = take(&mut ebpf, maps::RECORDS)?;
        let deep = Deep::load(&mut ebpf, btf);
        let floor = Self {
            armed: take(&mut ebpf, maps::ARMED)?,
            isns: take(&mut ebpf, maps::ISNS)?,
            namespaces: take(&mut ebpf, maps::NAMESPACES)?,
            counters: take(&mut ebpf, maps::COUNTERS)?,
            followed: take(&mut ebpf, maps::FOLLOWED)?,
            ebpf,
            loaded,
            refused,
            links: Vec::new(),
            deep,
            checks: BTreeMap::new(),
        };
        Ok((floor, records))
    }

    /// The tracepoints that this kernel accepts, and why the others are not served.
    pub fn served(&self) -> (Vec<&'static Program>, Vec<(&'static str, &str)>) {
        let refused: Vec<_> =
            self.refused.iter().map(|refused| (refused.tracepoint, refused.why.as_str())).collect();
        let is_served = |program: &&&Program| refused.iter().all(|(name, _)| *name != program.tracepoint);
        (self.loaded.iter().filter(is_served).copied().collect(), refused)
    }

    /// The tracepoints at which every packet of the machine is looked at now.
    pub fn attached(&self) -> impl Iterator<Item = &'static str> {
        self.links.iter().map(|(program, _)| program.tracepoint)
    }

    /// The functions of the deep tier, and how each is watched or why it is not.
    pub fn functions(&self) -> &[Row] {
        self.deep.rows()
    }

    /// Says which namespaces are this node's.
    pub fn watch_namespaces(&mut self, inodes: &BTreeSet<NetnsInode>) -> Result<(), FloorError> {
        let known: Vec<u32> = self.namespaces.keys().filter_map(Result::ok).collect();
        for gone in known.into_iter().filter(|inode| !inodes.contains(&NetnsInode(*inode))) {
            // It may have been removed by nobody else: this object is the map's only writer.
            self.namespaces.remove(&gone).map_err(on(maps::NAMESPACES))?;
        }
        for inode in inodes {
            self.namespaces.insert(inode.0, 1, 0).map_err(on(maps::NAMESPACES))?;
        }
        Ok(())
    }

    /// Watches for the markers of a check until the given monotonic time, attaching the programs of a set if this
    /// is the first check that wants it.
    pub fn arm(&mut self, traced: &Traced, until_ns: u64) -> Result<(), FloorError> {
        let &Traced { check, key, count, set, capture, .. } = traced;
        for (seq, isn) in key.isns(check, count) {
            self.isns.insert(isn, MapMarker::new(check.get(), seq.0), 0).map_err(on(maps::ISNS))?;
        }
        let armed = MapArmed::new(until_ns, set, capture);
        self.armed.insert(check.get(), armed, 0).map_err(on(maps::ARMED))?;
        self.checks.insert(check, set);
        self.attach();
        Ok(())
    }

    /// Stops watching for the markers of a check, and detaches the programs that no other wants. What is not there
    /// need not be removed.
    pub fn disarm(&mut self, &Traced { check, key, count, .. }: &Traced) {
        // Removal fails only for keys that are not there.
        let _ = self.armed.remove(&check.get());
        for (_, isn) in key.isns(check, count) {
            let _ = self.isns.remove(&isn);
        }
        self.checks.remove(&check);
        self.detach();
        if !self.follows()
            && let Err(error) = self.followed.set(0, 0, 0)
        {
            // Then others pay a little more, for as long as something may have been followed.
            tracing::debug!(%error, "what was followed is not forgotten");
        }
    }

    /// Whether a check wants more than the light set: then packets are followed, and functions watched.
    fn follows(&self) -> bool {
        self.checks.values().any(|set| *set >= HookSet::Wide)
    }

    /// Whether a check wants a program.
    fn is_wanted(&self, program: &Program) -> bool {
        self.checks.values().any(|set| program.set <= *set)
    }

    /// Attaches what is wanted and not attached; what was refused before is tried again.
    fn attach(&mut self) {
        for program in self.loaded.clone() {
            if !self.is_wanted(program)
                || self.links.iter().any(|(row, _)| row.tracepoint == program.tracepoint)
            {
                continue;
            }
            self.refused.retain(|refused| refused.tracepoint != program.tracepoint);
            match attach_program(&mut self.ebpf, program) {
                Ok(link) => self.links.push((program, link)),
                Err(error) => {
                    self.refused.push(Refused { tracepoint: program.tracepoint, why: error.to_string() });
                }
            }
        }
        if self.follows() {
            self.deep.attach(&mut self.ebpf);
        }
    }

    /// Detaches what is attached and not wanted.
    fn detach(&mut self) {
        for (row, link) in std::mem::take(&mut self.links) {
            if self.is_wanted(row) {
                self.links.push((row, link));
            } else if let Ok(program) = program(&mut self.ebpf, row.tracepoint) {
                // A link that is not there is what is wanted.
                let _ = program.detach(link);
            }
        }
        // Who disarms waits for the above, which would take longer beside what this sets going.
        if !self.follows() {
            self.deep.detach();
        }
    }

    /// What the kernel side has lost since it was loaded.
    pub fn losses(&self) -> Losses {
        let sum = |counter: Counter| -> u64 {
            self.counters.get(&(counter as u32), 0).map_or(0, |values| values.iter().sum())
        };
        Losses {
            ring_full: sum(Counter::RingFull),
            trace_overruns: 0,
            follow_full: sum(Counter::FollowFull),
            out_of_reach: sum(Counter::OutOfReach),
        }
    }
}

fn on(map: &'static str) -> impl Fn(MapError) -> FloorError {
    move |source| FloorError::Map { map, source: Box::new(source) }
}

fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, FloorError> {
    ebpf.take_map(name).ok_or(FloorError::Incomplete(name))?.try_into().map_err(on(name))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn load_program(ebpf: &mut Ebpf, row: &Program, btf: &Btf) -> Result<(), ProgramError> {
    program(ebpf, row.tracepoint)?.load(row.tracepoint, btf)
}

fn attach_program(ebpf: &mut Ebpf, row: &Program) -> Result<BtfTracePointLinkId, ProgramError> {
    program(ebpf, row.tracepoint)?.attach()
}
