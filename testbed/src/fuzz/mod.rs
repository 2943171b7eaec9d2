//! The kernel as the predictor's judge: random configurations of a node, random packets, and everything that the kernel does
//! with them beside what was predicted.
//!
//! * [`grammar`]: what cases are made of
//! * [`world`]: the node and its neighbours, as namespaces
//! * [`play`]: a case on the kernel
//! * [`shrink`]: the part of a case that matters
//! * [`compare`]: what was predicted beside what was seen
//! * [`tell`]: which steps say the same
//! * [`fixture`]: what the kernel did, kept

mod compare;
mod fixture;
mod grammar;
mod play;
mod shrink;
mod tell;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use compare::{Comparison, compare};
use fixture::Evidence;
pub use fixture::check_fixture;
pub use grammar::Case;
use play::{Outcome, Stage};

use crate::{Error, Result, interrupt};

/// So many configurations may be refused before most are.
const SOME_REFUSED: u64 = 20;

/// What to play.
#[derive(Clone, Debug)]
pub struct FuzzOptions {
    /// Where the random numbers begin. The same seed gives the same cases.
    pub seed: u64,
    /// How many packets are compared, at least.
    pub cases: u64,
    /// Packets of one configuration, at most.
    pub packets: usize,
    /// Configurations that fail, after which it ends.
    pub failures: usize,
    /// A folder for fixtures of what the kernel did with cases that fail.
    pub fixtures: Option<PathBuf>,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct FuzzReport {
    /// Configurations that were loaded.
    pub states: u64,
    /// Configurations that the kernel or its tools did not take.
    pub refused: u64,
    /// Packets that were compared.
    pub packets: u64,
    /// Of those, of which the prediction did not know to the end, by what it does not know.
    pub unknown: BTreeMap<String, u64>,
    /// Of those, which differ where routing heeds what a raw socket does not tell it ([`waymark_proto::PathSet::detour`]).
    pub detours: u64,
    /// Cases, as small as they could be made, in which kernel and prediction differ.
    pub failures: Vec<FuzzFailure>,
}

/// A case in which kernel and prediction differ.
#[derive(Clone, Debug)]
pub struct FuzzFailure {
    /// The seed of its configuration.
    pub seed: u64,
    /// The case.
    pub case: Case,
    /// How they differ.
    pub difference: String,
}

/// Plays cases until there are enough, or enough failures.
///
/// # Errors
/// If namespaces cannot be made, or records were lost.
pub fn fuzz(options: &FuzzOptions, mut progress: impl FnMut(&FuzzReport)) -> Result<FuzzReport> {
    let mut stage = Stage::new(0)?;
    let mut report = FuzzReport::default();
    let strategy = grammar::case(options.packets);
    for seed in options.seed.. {
        if report.packets >= options.cases || report.failures.len() >= options.failures {
            break;
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let tree = strategy.new_tree(&mut runner).map_err(|reason| Error::Fuzz(reason.to_string()))?;
        let case = tree.current();
        if let Some((packet, difference)) = examine(&mut stage, &case, &mut report)? {
            let failure = FuzzFailure { seed, ..narrow(&mut stage, case, packet, difference)? };
            if let Some(folder) = &options.fixtures {
                keep(
                    &mut stage,
                    &failure.case,
                    &failure.difference,
                    &folder.join(format!("seed-{seed}.json")),
                )?;
            }
            report.failures.push(failure);
        }
        progress(&report);
    }
    Ok(report)
}

/// Plays one case, which a file holds as a failure is told. What the kernel does with its last packet is kept in `fixture`, if
/// that is given.
///
/// # Errors
/// If the file is none, or as [`fuzz`].
pub fn fuzz_case(file: &Path, fixture: Option<&Path>) -> Result<FuzzReport> {
    let text = fs::read(file).map_err(Error::file("read", file))?;
    let case: Case = serde_json::from_slice(&text)
        .map_err(|error| Error::Fuzz(format!("{} is no case: {error}", file.display())))?;
    let mut report = FuzzReport::default();
    let mut stage = Stage::new(0)?;
    let examined = examine(&mut stage, &case, &mut report)?;
    if report.refused > 0 {
        // Whoever names a case wants to know why it cannot be played.
        stage.play(&case)?;
    }
    if let Some(fixture) = fixture {
        let about = fixture.file_stem().unwrap_or_default().to_string_lossy().replace('-', " ");
        keep(&mut stage, &case, &about, fixture)?;
    }
    if let Some((_, difference)) = examined {
        report.failures.push(FuzzFailure { seed: 0, case, difference });
    }
    Ok(report)
}

/// Keeps what the kernel does with the last packet of a case.
fn keep(stage: &mut Stage, case: &Case, about: &str, file: &Path) -> Result<()> {
    let played = stage.play(case)?;
    let last = played.outcomes.last().ok_or_else(|| Error::Fuzz("the case has no packet".to_owned()))?;
    let site = &stage.site;
    fixture::save(file, about, &site.inventory, &played.facts, &last.evidence, site.prefix())
}

/// Makes a case small that fails for one of its packets.
fn narrow(stage: &mut Stage, case: Case, packet: usize, difference: String) -> Result<FuzzFailure> {
    let mut uncounted = FuzzReport::default();
    let alone = Case { packets: vec![case.packets[packet].clone()], ..case.clone() };
    // What comes before it may have a part in it.
    let first = examine(stage, &alone, &mut uncounted)?;
    let (case, difference) = match first {
        Some((_, found)) => (alone, found),
        None => (case, difference),
    };
    let fails = |case: &Case| match examine(stage, case, &mut uncounted) {
        // What is left of it may lack what the rest names.
        Err(Error::Command { .. }) => Ok(None),
        examined => Ok::<_, Error>(examined?.map(|(_, found)| found)),
    };
    let (case, found) = shrink::shrink(&case, fails)?;
    Ok(FuzzFailure { seed: 0, case, difference: found.unwrap_or(difference) })
}

/// Plays a case, and says for which packet and how kernel and prediction differ, if they do.
fn examine(stage: &mut Stage, case: &Case, report: &mut FuzzReport) -> Result<Option<(usize, String)>> {
    interrupt::check()?;
    let played = match stage.play(case) {
        Ok(played) => played,
        Err(error @ Error::Command { .. }) => {
            report.refused += 1;
            // Now and then a configuration contradicts itself. If most do, something is wrong.
            let most = report.refused > SOME_REFUSED + report.states;
            return if most { Err(error) } else { Ok(None) };
        }
        Err(error) => return Err(error),
    };
    report.states += 1;
    let mut difference = None;
    for (index, outcome) in played.outcomes.iter().enumerate() {
        report.packets += 1;
        let Outcome { predicted, evidence } = outcome;
        match compare(predicted, evidence) {
            Comparison::Agrees => {}
            Comparison::Unknown(why) => *report.unknown.entry(why).or_default() += 1,
            // What a raw socket's own packets are routed by, the prediction does not say of them.
            Comparison::Differs(_) if predicted.detour.is_some() => report.detours += 1,
            Comparison::Differs(why) => {
                let Evidence { flow, start, .. } = evidence;
                difference.get_or_insert_with(|| (index, format!("{flow} from {start}: {why}")));
            }
        }
    }
    Ok(difference)
}

impl FuzzReport {
    /// An error if kernel and prediction differed.
    ///
    /// # Errors
    /// If they did.
    pub fn verdict(&self) -> Result<()> {
        match self.failures.len() {
            0 => Ok(()),
            failures => Err(Error::Fuzz(format!("they differ for {failures} configurations"))),
        }
    }
}

impl fmt::Display for FuzzReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, refused, packets, unknown, detours, failures } = self;
        let in_part: u64 = unknown.values().sum();
        writeln!(
            f,
            "{packets} packets, {states} configurations ({refused} more were not taken by the kernel)"
        )?;
        writeln!(f, "{detours} packets that raw sockets send by another way than others")?;
        writeln!(f, "{in_part} packets of which the prediction did not know to the end:")?;
        for (why, count) in unknown {
            writeln!(f, "  {count:>6} {why}")?;
        }
        for FuzzFailure { seed, case, difference } in failures {
            let case = serde_json::to_string_pretty(case).map_err(|_| fmt::Error)?;
            writeln!(f, "seed {seed}: {difference}\n{case}")?;
        }
        Ok(())
    }
}
