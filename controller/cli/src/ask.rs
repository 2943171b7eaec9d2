//! Who answers: a controller, this process, or facts files.

use std::path::Path;
use std::sync::Arc;

use waymark_controller::{
    Agents, Prediction, Progress, Request, Snapshot, Status, check_and_record, predict_offline, resolve,
};
use waymark_proto::rpc::{self, check_event};
use waymark_proto::{CheckResult, Facts, Inventory, NodeName, short};

use crate::args::{Answerer, CheckArguments, Line, PredictArguments};
use crate::dial::Controller;
use crate::failure::{Exit, Failure};
use crate::local::LocalAgents;
use crate::progress;
use crate::recording::Recorded;

/// Runs a check, and records it if that was asked for.
pub(crate) async fn check(arguments: &CheckArguments) -> Result<(CheckResult, Recorded), Failure> {
    let message = arguments.message();
    let request = Request::try_from(message.clone())?;
    if let Some(inventory) = local(&arguments.answerer)? {
        LocalAgents::may_trace()?;
        request.check_size(&resolve(&inventory, &request)?.flow)?;
        let line = progress::Line::start();
        let agents: Arc<dyn Agents> = Arc::new(LocalAgents::new(inventory.clone()));
        let (progress, lines) = Progress::channel();
        let run = async {
            let result = if message.record {
                let recorded = check_and_record(&agents, &inventory, &request, &progress).await;
                recorded.map(|(result, recording)| (result, Recorded::from(recording.to_json())))
            } else {
                let result = waymark_controller::check(&agents, &inventory, &request, &progress).await;
                result.map(|result| (result, Recorded::Nothing))
            };
            drop(progress);
            result
        };
        let (answer, ()) = tokio::join!(run, line.follow(lines));
        return Ok(answer?);
    }
    let line = progress::Line::start();
    let controller = Controller::dial(&arguments.answerer.line).await?;
    let mut events = controller.ask(async |mut client| client.check(message).await).await?;
    let mut begun = false;
    while let Some(event) = events.message().await.map_err(|status| controller.failure(status, begun))? {
        begun = true;
        match event.body {
            Some(check_event::Body::Progress(words)) => line.say(words),
            Some(check_event::Body::ResultJson(json)) => {
                let recorded = Recorded::received(event.recording_json, event.recording_failure);
                return Ok((document(&json)?, recorded));
            }
            None => {}
        }
    }
    Err(Failure::new(Exit::Software, "the controller ended the check without a result"))
}

/// Predicts.
pub(crate) async fn predict(arguments: &PredictArguments) -> Result<Prediction, Failure> {
    let request = arguments.question.request()?;
    if !arguments.facts.is_empty() {
        let (inventory, facts) = saved(arguments)?;
        return Ok(predict_offline(&inventory, facts, &request)?);
    }
    if let Some(inventory) = local(&arguments.answerer)? {
        LocalAgents::may_look()?;
        let agents = LocalAgents::new(inventory.clone());
        let (progress, _unread) = Progress::channel();
        return Ok(waymark_controller::predict(&agents, &inventory, &request, &progress).await?);
    }
    let message = arguments.question.message();
    let controller = Controller::dial(&arguments.answerer.line).await?;
    document(&controller.ask(async |mut client| client.predict(message).await).await?.json)
}

/// Who collects facts.
pub(crate) enum Collector {
    Here(LocalAgents, Inventory),
    Controller(Controller),
}

impl Collector {
    pub(crate) async fn new(answerer: &Answerer) -> Result<Self, Failure> {
        if let Some(inventory) = local(answerer)? {
            LocalAgents::may_look()?;
            return Ok(Self::Here(LocalAgents::new(inventory.clone()), inventory));
        }
        Ok(Self::Controller(Controller::dial(&answerer.line).await?))
    }

    /// What there is.
    pub(crate) async fn inventory(&self) -> Result<Inventory, Failure> {
        match self {
            Self::Here(_, inventory) => Ok(inventory.clone()),
            Self::Controller(controller) => {
                let request = rpc::InventoryRequest {};
                document(&controller.ask(async |mut client| client.read_inventory(request).await).await?.json)
            }
        }
    }

    /// The facts of a node.
    pub(crate) async fn facts(&self, node: &NodeName) -> Result<Facts, Failure> {
        match self {
            Self::Here(agents, inventory) => {
                if inventory.node(node).is_none() {
                    let known: Vec<&str> = inventory.nodes.iter().map(|node| node.name.as_str()).collect();
                    let node = short(node.as_str());
                    let message = format!("there is no node {node}: the inventory has {}", known.join(", "));
                    return Err(Failure::new(Exit::Usage, message));
                }
                Ok(agents.facts(node).await?.told().clone())
            }
            Self::Controller(controller) => {
                let request = rpc::FactsRequest { node: node.to_string() };
                document(&controller.ask(async |mut client| client.collect_facts(request).await).await?.json)
            }
        }
    }
}

/// Asks for the controller's status.
pub(crate) async fn status(line: &Line) -> Result<Status, Failure> {
    let controller = Controller::dial(line).await?;
    document(&controller.ask(async |mut client| client.status(rpc::StatusRequest {}).await).await?.json)
}

/// An answer of the controller, from its JSON.
pub(crate) fn document<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(json).map_err(|error| {
        let message =
            format!("the controller's answer was not understood (is it of another version?): {error}");
        Failure::new(Exit::Software, message)
    })
}

/// The inventory, if this process is to answer.
pub(crate) fn local(answerer: &Answerer) -> Result<Option<Inventory>, Failure> {
    if answerer.inventory.is_some() && !answerer.local {
        let message = "--inventory is of no use without --local: a controller reads an inventory of its own";
        return Err(Failure::new(Exit::Usage, message));
    }
    answerer.local.then(|| inventory(answerer)).transpose()
}

fn inventory(answerer: &Answerer) -> Result<Inventory, Failure> {
    let path = answerer
        .inventory
        .as_deref()
        .ok_or_else(|| Failure::new(Exit::Usage, "--inventory FILE is needed"))?;
    Inventory::from_json(&read(path)?)
        .map_err(|error| Failure::new(Exit::Data, format!("{}: {error}", path.display())))
}

/// Facts that were saved, with their inventory: all of a cluster in a folder, or file by file.
fn saved(arguments: &PredictArguments) -> Result<(Inventory, Vec<Facts>), Failure> {
    // What is not there is told as such, whatever it was meant to be.
    if let [folder] = arguments.facts.as_slice()
        && (folder.is_dir() || !folder.exists() && arguments.answerer.inventory.is_none())
    {
        let snapshot = Snapshot::read(folder)?;
        return Ok(match arguments.answerer.inventory {
            Some(_) => (inventory(&arguments.answerer)?, snapshot.facts),
            None => (snapshot.inventory, snapshot.facts),
        });
    }
    let inventory = inventory(&arguments.answerer)?;
    let facts = arguments.facts.iter().map(|path| saved_facts(path)).collect::<Result<_, _>>()?;
    Ok((inventory, facts))
}

fn saved_facts(path: &Path) -> Result<Facts, Failure> {
    Facts::from_json(&read(path)?)
        .map_err(|error| Failure::new(Exit::Data, format!("{}: {error}", path.display())))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .map_err(|error| Failure::new(Exit::NoInput, format!("cannot read {}: {error}", path.display())))
}
