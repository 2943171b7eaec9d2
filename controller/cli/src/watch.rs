//! `waymark watch`: continuous probing.
//!
//! * `args`: its command line
//! * `words`: times, shares and outages as people read them
//! * `table`: watches and targets as plain text
//! * `top`: the live view

mod args;
mod table;
mod top;
mod words;

use std::io::IsTerminal;
use std::process::ExitCode;

use waymark_controller::watching::{WatchList, WatchSpec};
use waymark_proto::rpc;

use crate::args::{Format, Line};
use crate::ask::document;
use crate::dial::Controller;
use crate::failure::{Exit, Failure};
use crate::{print, write_out};
pub(crate) use args::WatchCommand;
use args::{StartArguments, StopArguments, TopArguments};

/// Carries out one of the commands.
pub(crate) async fn run(command: WatchCommand) -> Result<ExitCode, Failure> {
    match command {
        WatchCommand::Start(mut arguments) => {
            arguments.complete().await?;
            start(&arguments).await?;
        }
        WatchCommand::Stop(arguments) => stop(&arguments).await?,
        WatchCommand::List(arguments) => {
            let list = list(&arguments.line, arguments.name.as_deref()).await?;
            print(arguments.output, &list, table::watches)?;
        }
        WatchCommand::Top(arguments) => show(arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(arguments: &StartArguments) -> Result<(), Failure> {
    let spec = arguments.spec();
    spec.check().map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let spec_json = serde_json::to_vec(&spec).expect("a spec is plain data");
    let controller = Controller::dial(&arguments.line).await?;
    let request = rpc::StartWatchRequest { spec_json };
    let answer = controller.ask(async |mut client| client.start_watch(request).await).await?;
    let list: WatchList = document(&answer.json)?;
    print(arguments.output, &list, |list, paint| table::started(&spec, list, paint))
}

async fn stop(arguments: &StopArguments) -> Result<(), Failure> {
    let name = arguments.name.clone().unwrap_or_default();
    let controller = Controller::dial(&arguments.line).await?;
    let request = rpc::StopWatchRequest { name };
    let answer = controller.ask(async |mut client| client.stop_watch(request).await).await?;
    let stopped: Vec<String> = document(&answer.json)?;
    let words = if stopped.is_empty() { "there was none".to_owned() } else { stopped.join(", ") };
    write_out(format!("stopped: {words}\n").as_bytes())
}

/// Asks for one watch or all.
async fn list(line: &Line, name: Option<&str>) -> Result<WatchList, Failure> {
    poll(&Controller::dial(line).await?, name).await
}

async fn poll(controller: &Controller, name: Option<&str>) -> Result<WatchList, Failure> {
    let request = rpc::ListWatchesRequest { name: name.unwrap_or_default().to_owned() };
    let answer = controller.ask(async |mut client| client.list_watches(request).await).await?;
    document(&answer.json)
}

async fn show(arguments: TopArguments) -> Result<(), Failure> {
    if arguments.once {
        let list = list(&arguments.line, arguments.name.as_deref()).await?;
        return print(arguments.output, &list, table::targets);
    }
    if arguments.output == Format::Json {
        return Err(Failure::new(Exit::Usage, "the live view has no JSON: say --once -o json"));
    }
    if !std::io::stdout().is_terminal() {
        let message = "the live view needs a terminal: say --once for a table, or --once -o json";
        return Err(Failure::new(Exit::Usage, message));
    }
    let controller = Controller::dial(&arguments.line).await?;
    // An unknown name is told before the screen is taken.
    let first = poll(&controller, arguments.name.as_deref()).await?;
    top::run(&controller, arguments.name.as_deref(), first).await
}

/// The specs of a list, which the command line and tables share.
fn every(spec: &WatchSpec) -> String {
    words::span(spec.interval())
}
