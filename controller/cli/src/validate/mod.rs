//! `waymark validate`: a change, before it is made and while it is.
//!
//! * `args`: its command line
//! * `probe`: checks by a controller
//! * `render`: the report as text

mod args;
mod probe;
mod render;

use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};
use waymark_controller::kubernetes::LiveCluster;
use waymark_controller::validate::{
    Bounds, Change, ClusterError, Document, Expectations, Folder, Intention, Namespaces, OfflineError, Plan,
    ProbeError, State, Stop, ValidateError, ValidationReport, compare_folders, junit, preview, read_manifest,
    validate,
};
use waymark_proto::translated_json;

use crate::dial::Controller;
use crate::failure::{Exit, Failure};
use crate::progress::Line;
use args::Output;
pub(crate) use args::ValidateArguments;
use probe::GrpcProbe;

/// Longest text that is read, in bytes: manifests of a whole large cluster, and no endless stream.
const LONGEST: u64 = 64 << 20;

/// Runs a validation, prints its report, and answers with the exit code.
pub(crate) async fn run(arguments: &ValidateArguments) -> Result<u8, Failure> {
    let report = match (&arguments.from, &arguments.to) {
        (Some(from), Some(to)) => offline(arguments, from, to)?,
        _ => online(arguments).await?,
    };
    let language = arguments.tongue.language;
    let text = match arguments.output {
        Output::Text => render::report(&report, crate::paint().in_language(language)),
        Output::Json => crate::pretty(&translated_json(&report, language)),
        Output::Junit => junit(&report, language)
            .map_err(|error| Failure::new(Exit::Software, format!("cannot write the report: {error}")))?,
    };
    crate::write_out(text.as_bytes())?;
    keep_what_is_left(&report)?;
    Ok(report.exit_code())
}

fn offline(arguments: &ValidateArguments, from: &Path, to: &Path) -> Result<ValidationReport, Failure> {
    let namespace = arguments.namespace.name.as_deref().unwrap_or("default");
    let (from, to) = (Folder::read(from, namespace)?, Folder::read(to, namespace)?);
    Ok(compare_folders(&from, &to, &expectations(arguments)?, bounds(arguments))?)
}

async fn online(arguments: &ValidateArguments) -> Result<ValidationReport, Failure> {
    // Files first: a mistake in them needs no cluster to be found.
    let documents = documents(&arguments.filename)?;
    let expectations = expectations(arguments)?;
    let connection = arguments.line.kube.connect().await?;
    let namespaces = match &arguments.namespace.name {
        Some(only) => Namespaces::Only(only.clone()),
        None => Namespaces::Default(connection.namespace.clone()),
    };
    let intention = if arguments.delete { Intention::Delete } else { Intention::Apply };
    let change = Change::new(documents, intention, &namespaces)
        .map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
    let plan = Plan {
        change,
        expectations,
        bounds: bounds(arguments),
        settle: arguments.settle,
        rollback: arguments.rollback.into(),
        cautious: arguments.cautious,
    };
    let cluster = LiveCluster::new(connection, &arguments.field_manager, arguments.force_conflicts);
    let line = Line::start();
    if arguments.static_only {
        line.say("comparing what the objects mean before and after".to_owned());
        return Ok(preview(&cluster, &plan).await?.report);
    }
    let controller = Controller::dial(&arguments.line).await?;
    let probe = GrpcProbe::new(controller);
    let (raise, stop) = Stop::new();
    let listening = tokio::spawn(interruption(raise));
    let report = validate(&cluster, &probe, &plan, &stop, &|words| line.say(words)).await;
    listening.abort();
    Ok(report?)
}

/// Raises the signal to stop when the user or the system asks for an end. Further requests change nothing:
/// what was applied is being taken back.
async fn interruption(raise: tokio::sync::watch::Sender<bool>) {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        if raise.send(true).is_err() {
            return;
        }
    }
}

fn bounds(arguments: &ValidateArguments) -> Bounds {
    Bounds { most: arguments.max_checks as usize, udp: arguments.udp }
}

fn documents(files: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for file in files {
        let is_input = file == Path::new("-");
        let name = if is_input { "standard input".to_owned() } else { file.display().to_string() };
        let text = if is_input { read(&name, std::io::stdin())? } else { read(&name, open(file)?)? };
        let read =
            read_manifest(&name, &text).map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
        documents.extend(read);
    }
    Ok(documents)
}

fn expectations(arguments: &ValidateArguments) -> Result<Expectations, Failure> {
    let mut expectations = Expectations { list: Vec::new(), accept_lost: arguments.accept_lost };
    if let Some(file) = &arguments.expect {
        let name = file.display().to_string();
        let text = read(&name, open(file)?)?;
        expectations.list =
            Expectations::read(&name, &text).map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
    }
    Ok(expectations)
}

fn open(file: &Path) -> Result<std::fs::File, Failure> {
    std::fs::File::open(file)
        .map_err(|error| Failure::new(Exit::NoInput, format!("cannot read {}: {error}", file.display())))
}

fn read(name: &str, from: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(Exit::NoInput, format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Failure::new(Exit::Data, format!("{name} is larger than {} MiB", LONGEST >> 20)));
    }
    String::from_utf8(bytes)
        .map_err(|error| Failure::new(Exit::Data, format!("{name} is no text: {}", error.utf8_error())))
}

/// Writes the objects that could not be put back to files, and says how to put them back by hand.
fn keep_what_is_left(report: &ValidationReport) -> Result<(), Failure> {
    if report.state != State::PartlyRolledBack {
        return Ok(());
    }
    for left in report.rollback.iter().flat_map(|rollback| &rollback.objects).filter(|o| o.left.is_some()) {
        let object = &left.object;
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let kind = object.kind.to_lowercase();
        match &left.before {
            None => eprintln!(
                "waymark: {object} was not there before; once it may go: kubectl -n {namespace} delete {kind} {}",
                object.name
            ),
            Some(before) => {
                let mut manifest = before.clone();
                if let Some(metadata) = manifest["metadata"].as_object_mut() {
                    for key in ["resourceVersion", "managedFields", "uid", "creationTimestamp", "generation"]
                    {
                        metadata.remove(key);
                    }
                }
                let path = PathBuf::from(format!("{kind}-{namespace}-{}.before.json", object.name));
                std::fs::write(&path, crate::pretty(&manifest)).map_err(|error| {
                    let message = format!("cannot write {}, {object} as it was: {error}", path.display());
                    Failure::new(Exit::CannotCreate, message)
                })?;
                eprintln!(
                    "waymark: {object} as it was is in {}; to put it back: kubectl replace -f {}",
                    path.display(),
                    path.display()
                );
            }
        }
    }
    Ok(())
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        let exit = match &error {
            ClusterError::Unauthorized(_) | ClusterError::Forbidden(_) => Exit::NoPermission,
            ClusterError::Unavailable(_) => Exit::Unavailable,
            ClusterError::Conflict(_) | ClusterError::NotFound(_) | ClusterError::Refused(_) => Exit::Data,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ValidateError> for Failure {
    fn from(error: ValidateError) -> Self {
        let exit = match &error {
            ValidateError::Cluster(ClusterError::Unauthorized(_) | ClusterError::Forbidden(_)) => {
                Exit::NoPermission
            }
            ValidateError::Cluster(ClusterError::Unavailable(_))
            | ValidateError::Probe(ProbeError::Away(_) | ProbeError::Impossible(_)) => Exit::Unavailable,
            ValidateError::Cluster(_) | ValidateError::Missing(_) | ValidateError::Expectations(_) => {
                Exit::Data
            }
            ValidateError::Answer { .. } | ValidateError::Interrupted => Exit::Software,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<OfflineError> for Failure {
    fn from(error: OfflineError) -> Self {
        let exit = match &error {
            OfflineError::Read { .. } | OfflineError::Empty { .. } => Exit::NoInput,
            OfflineError::Manifest(_)
            | OfflineError::Object { .. }
            | OfflineError::Expectations(_)
            | OfflineError::Predict(_) => Exit::Data,
        };
        Self::new(exit, error.to_string())
    }
}
