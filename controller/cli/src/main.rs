//! `waymark`: where exactly does this packet die, and why?
//!
//! * `args`, `values`: the command line
//! * `ask`: who answers: a controller, this process (`--local`), or facts files
//! * `cluster`: which Kubernetes cluster is meant
//! * `validate`: a change, before it is made and while it is
//! * `dial`: a controller on the other side of a connection
//! * `local`: agents within this process
//! * `names`: names as kubectl's users write them
//! * `failure`: errors and exit codes
//! * `progress`: the line that moves while a check runs
//! * `recording`: checks that are kept, and answered again
//! * `render`: results as text
//! * `show`: results of the past
//! * `snapshot`: the facts of a cluster in a folder
//! * `trace`: traffic that is there anyway
//! * `watch`: continuous probing

mod args;
mod ask;
mod cluster;
mod dial;
mod failure;
mod local;
mod names;
mod progress;
mod recording;
mod render;
mod show;
mod snapshot;
mod trace;
mod validate;
mod values;
mod watch;

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use waymark_proto::{Disposition, Facts, Verdict, command_line};

use args::{Arguments, Command, Expect, Format};
use failure::{Exit, Failure};
use render::Paint;
use waymark_controller::{MissingNode, Prediction};

/// The exit code of answers that are not certain.
const UNDETERMINED: u8 = 2;

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse(program()) {
        Ok(arguments) => arguments,
        Err(code) => return code.into(),
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Software, format!("cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(run(arguments.command)));
    match outcome {
        Ok(code) => code,
        Err(failure) => tell(&failure),
    }
}

/// How the program was called: kubectl runs `kubectl-waymark` for `kubectl waymark`.
fn program() -> &'static str {
    let called = std::env::args_os().next().map(PathBuf::from);
    match called.as_deref().and_then(Path::file_stem).and_then(OsStr::to_str) {
        Some("kubectl-waymark") => "kubectl waymark",
        _ => "waymark",
    }
}

fn tell(failure: &Failure) -> ExitCode {
    eprintln!("{}: error: {}", program(), failure.message);
    failure.exit.into()
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Check(mut arguments) => {
            arguments.question.complete(&arguments.answerer.line.kube).await?;
            let (result, recording) = ask::check(&arguments).await?;
            let manner = arguments.look.manner(arguments.question.expect);
            write_out(render::result(&result, manner, paint())?.as_bytes())?;
            // What can be kept is, whatever becomes of the other file.
            let kept = arguments.record.as_ref().map_or(Ok(()), |path| recording::keep(path, &recording));
            if let Some(path) = &arguments.pcapng {
                recording::keep_packets(path, &recording)?;
            }
            kept?;
            Ok(ExitCode::from(verdict_code(result.verdict, arguments.question.expect)))
        }
        Command::Replay(arguments) => {
            let recording = recording::open(&arguments.file)?;
            let result = recording::replay(&arguments.file, &recording)?;
            let manner = arguments.look.manner(arguments.expect);
            write_out(render::result(&result, manner, paint())?.as_bytes())?;
            if let Some(path) = &arguments.pcapng {
                recording::export(path, &recording)?;
            }
            Ok(ExitCode::from(verdict_code(result.verdict, arguments.expect)))
        }
        Command::Predict(mut arguments) => {
            arguments.question.complete(&arguments.answerer.line.kube).await?;
            let prediction = ask::predict(&arguments).await?;
            let text = render::foresight(&prediction, arguments.output, arguments.tongue.language, paint());
            write_out(text.as_bytes())?;
            Ok(ExitCode::from(verdict_code(foreseen(&prediction), arguments.question.expect)))
        }
        Command::Facts(arguments) => {
            let collector = ask::Collector::new(&arguments.answerer).await?;
            let (Some(node), out) = (&arguments.node, &arguments.out) else {
                let folder =
                    arguments.out.as_deref().ok_or_else(|| Failure::new(Exit::Usage, "--out is needed"))?;
                let missing = snapshot::take(&collector, folder).await?;
                for MissingNode { node, why } in &missing {
                    eprintln!("waymark: without node {node}: {why}");
                }
                return Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNDETERMINED) });
            };
            keep(out.as_deref(), &collector.facts(node).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch { command } => watch::run(command).await,
        Command::Trace(mut arguments) => {
            arguments.complete().await?;
            trace::run(&arguments).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show(arguments) => {
            show::run(&arguments).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(arguments) => {
            let status = ask::status(&arguments.line).await?;
            print(arguments.output, &status, render::status)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Validate(arguments) => Ok(ExitCode::from(validate::run(&arguments).await?)),
    }
}

/// 0 as expected, 1 not as expected, 2 undetermined.
fn verdict_code(verdict: Verdict, expect: Expect) -> u8 {
    match (verdict, expect) {
        (Verdict::Reachable, Expect::Reachable) | (Verdict::Unreachable, Expect::Unreachable) => 0,
        (Verdict::Undetermined, _) => UNDETERMINED,
        (Verdict::Reachable | Verdict::Unreachable | Verdict::Inconsistent, _) => 1,
    }
}

/// What a prediction says about connectivity.
fn foreseen(prediction: &Prediction) -> Verdict {
    let delivered = |branch: &waymark_proto::Branch| {
        let answered = branch.answer.is_empty()
            || branch.answer.iter().any(|answer| answer.path.disposition() == Disposition::Delivered);
        branch.path.disposition() == Disposition::Delivered && answered
    };
    let unknown = |branch: &waymark_proto::Branch| {
        matches!(branch.path.disposition(), Disposition::InsufficientInfo | Disposition::ExitsCluster)
    };
    let branches = &prediction.paths.branches;
    if branches.is_empty() || branches.iter().any(unknown) {
        Verdict::Undetermined
    } else if branches.iter().all(delivered) {
        Verdict::Reachable
    } else if branches.iter().any(delivered) {
        Verdict::Inconsistent
    } else {
        Verdict::Unreachable
    }
}

fn print<T: serde::Serialize>(
    format: Format,
    document: &T,
    render: impl Fn(&T, Paint) -> String,
) -> Result<(), Failure> {
    let text = match format {
        Format::Text => render(document, paint()),
        Format::Json => pretty(document),
    };
    write_out(text.as_bytes())
}

/// Colours, if standard output takes them.
fn paint() -> Paint {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    Paint::new(wanted && std::io::stdout().is_terminal())
}

fn pretty(document: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("documents are plain data with text keys");
    text.push('\n');
    text
}

fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(bytes) {
        // Whoever reads may have seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::new(Exit::Software, format!("cannot write: {error}"))),
    }
}

fn keep(out: Option<&Path>, facts: &Facts) -> Result<(), Failure> {
    let text = pretty(facts);
    match out {
        None => write_out(text.as_bytes()),
        Some(path) => std::fs::write(path, text).map_err(|error| {
            Failure::new(Exit::CannotCreate, format!("cannot write {}: {error}", path.display()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use waymark_proto::CheckResult;

    use super::*;

    #[test]
    fn exit_codes_follow_the_expectation() {
        let code = verdict_code;
        assert_eq!(code(Verdict::Reachable, Expect::Reachable), 0);
        assert_eq!(code(Verdict::Inconsistent, Expect::Reachable), 1);
        assert_eq!(code(Verdict::Unreachable, Expect::Reachable), 1);
        assert_eq!(code(Verdict::Reachable, Expect::Unreachable), 1);
        assert_eq!(code(Verdict::Inconsistent, Expect::Unreachable), 1);
        assert_eq!(code(Verdict::Unreachable, Expect::Unreachable), 0);
        assert_eq!(code(Verdict::Undetermined, Expect::Reachable), 2);
        assert_eq!(code(Verdict::Undetermined, Expect::Unreachable), 2);
    }

    #[test]
    fn json_is_exactly_the_result() {
        let result = render::tests::unreachable();
        assert_eq!(serde_json::from_str::<CheckResult>(&pretty(&result)).unwrap(), result);
    }
}
