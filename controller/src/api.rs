//! The gRPC service for clients. Errors carry one sentence (`refusals`).

mod refusals;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Call, Response, Status as Refusal};
use waymark_proto::rpc::{self, check_event, waymark_server};
use waymark_proto::{API_VERSION, CheckResult, Inventory, NodeName, Text, short};

use crate::agents::Agents;
use crate::armed::Progress;
use crate::documents::{NodeStatus, Status};
use crate::engine::{check, check_and_record};
use crate::gather::predict;
use crate::history::{Asker, History, MOST_LISTED};
use crate::hub::{Hub, MAX_MESSAGE};
use crate::live::{Question, TraceError, trace};
use crate::notices::Notices;
use crate::recording::Recording;
use crate::request::Request;
use crate::resolve::resolve;
use crate::source::Source;
use crate::target::MAX_NAME;
use crate::watching::{WatchSpec, Watches};
use refusals::words;

/// Events of a check that may wait for a slow client.
const QUEUED_EVENTS: usize = 16;
/// The service.
#[derive(Clone)]
pub struct Api {
    hub: Hub,
    agents: Arc<dyn Agents>,
    source: Arc<dyn Source>,
    notices: Notices,
    watches: Watches,
    history: Option<History>,
}

impl Api {
    /// A service that asks this hub's agents about this source's cluster, and keeps these watches.
    pub fn new(hub: Hub, source: Arc<dyn Source>, watches: Watches) -> Self {
        let agents = Arc::new(hub.clone());
        Self { hub, agents, source, notices: Notices::default(), watches, history: None }
    }

    /// The same service, which tells these notices in its status.
    #[must_use]
    pub fn with_notices(self, notices: Notices) -> Self {
        Self { notices, ..self }
    }

    /// The same service, which keeps its results in this history and shows what is in it.
    #[must_use]
    pub fn with_history(self, history: History) -> Self {
        Self { history: Some(history), ..self }
    }

    /// The gRPC service for a server.
    pub fn service(&self) -> waymark_server::WaymarkServer<Self> {
        waymark_server::WaymarkServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, Refusal> {
        Ok(self.source.inventory().await?)
    }

    fn history(&self) -> Result<&History, Refusal> {
        self.history.as_ref().ok_or_else(|| Refusal::unimplemented("this controller keeps no results"))
    }
}

#[async_trait]
impl waymark_server::Waymark for Api {
    type CheckStream = ReceiverStream<Result<rpc::CheckEvent, Refusal>>;
    type TraceStream = ReceiverStream<Result<rpc::TraceEvent, Refusal>>;

    async fn check(&self, call: Call<rpc::CheckRequest>) -> Result<Response<Self::CheckStream>, Refusal> {
        let message = call.into_inner();
        let record = message.record;
        let request = Request::try_from(message)?;
        let inventory = self.inventory().await?;
        request.check_size(&resolve(&inventory, &request)?.flow)?;
        let (events, stream) = mpsc::channel(QUEUED_EVENTS);
        let agents = Arc::clone(&self.agents);
        let doubt = self.source.doubt();
        let history = self.history.clone();
        // A task of its own: when the client goes away, the check still disarms.
        tokio::spawn(async move {
            let (progress, lines) = Progress::channel();
            let run = async {
                let result = if record {
                    let recorded = check_and_record(&agents, &inventory, &request, &progress).await;
                    recorded.map(|(result, recording)| (result, Some(recording)))
                } else {
                    check(&agents, &inventory, &request, &progress).await.map(|result| (result, None))
                };
                drop(progress);
                result
            };
            let (result, ()) = tokio::join!(run, pass_on(lines, &events, line));
            let event =
                result.map(|(result, recording)| last_event(result, recording, doubt, history.as_ref()));
            drop(events.send(event.map_err(Refusal::from)).await);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn predict(&self, call: Call<rpc::CheckRequest>) -> Result<Response<rpc::Document>, Refusal> {
        let request = Request::try_from(call.into_inner())?;
        let inventory = self.inventory().await?;
        let (progress, _unread) = Progress::channel();
        let mut prediction = predict(self.agents.as_ref(), &inventory, &request, &progress).await?;
        prediction.notes.extend(self.source.doubt());
        Ok(Response::new(rpc::Document { json: json(&prediction) }))
    }

    async fn collect_facts(&self, call: Call<rpc::FactsRequest>) -> Result<Response<rpc::Document>, Refusal> {
        let node = call.into_inner().node;
        if node.chars().count() > MAX_NAME {
            let message =
                format!("{:?} is not a node: a name has at most {MAX_NAME} characters", short(&node));
            return Err(Refusal::invalid_argument(message));
        }
        let node = NodeName::from(node);
        let inventory = self.inventory().await?;
        if inventory.node(&node).is_none() {
            let known: Vec<&str> = inventory.nodes.iter().map(|node| node.name.as_str()).collect();
            let message =
                format!("there is no node {}: the inventory has {}", short(node.as_str()), known.join(", "));
            return Err(Refusal::not_found(words(&message)));
        }
        let facts = self.agents.facts(&node).await?;
        Ok(Response::new(rpc::Document { json: json(facts.told()) }))
    }

    async fn read_inventory(
        &self,
        _call: Call<rpc::InventoryRequest>,
    ) -> Result<Response<rpc::Document>, Refusal> {
        Ok(Response::new(rpc::Document { json: json(&*self.inventory().await?) }))
    }

    async fn status(&self, _call: Call<rpc::StatusRequest>) -> Result<Response<rpc::Document>, Refusal> {
        let inventory = self.inventory().await?;
        let mut status = status(&inventory, &self.hub);
        status.notices.extend(self.source.doubt().map(|doubt| doubt.to_string()));
        status.notices.extend(self.notices.all());
        Ok(Response::new(rpc::Document { json: json(&status) }))
    }

    async fn start_watch(
        &self,
        call: Call<rpc::StartWatchRequest>,
    ) -> Result<Response<rpc::Document>, Refusal> {
        let spec: WatchSpec = serde_json::from_slice(&call.into_inner().spec_json)
            .map_err(|error| Refusal::invalid_argument(words(&format!("not a watch: {error}"))))?;
        let name = spec.name.clone();
        self.watches.start(spec).await?;
        Ok(Response::new(rpc::Document { json: json(&self.watches.list(Some(&name))?) }))
    }

    async fn stop_watch(
        &self,
        call: Call<rpc::StopWatchRequest>,
    ) -> Result<Response<rpc::Document>, Refusal> {
        let name = call.into_inner().name;
        let stopped = self.watches.stop(named(&name))?;
        Ok(Response::new(rpc::Document { json: json(&stopped) }))
    }

    async fn list_watches(
        &self,
        call: Call<rpc::ListWatchesRequest>,
    ) -> Result<Response<rpc::Document>, Refusal> {
        let name = call.into_inner().name;
        Ok(Response::new(rpc::Document { json: json(&self.watches.list(named(&name))?) }))
    }

    async fn trace(&self, call: Call<rpc::TraceRequest>) -> Result<Response<Self::TraceStream>, Refusal> {
        // To compile a long filter takes a while.
        let question = tokio::task::spawn_blocking(|| Question::try_from(call.into_inner())).await;
        let question =
            question.map_err(|error| Refusal::internal(words(&error)))?.map_err(TraceError::from)?;
        let inventory = self.inventory().await?;
        let (events, stream) = mpsc::channel(QUEUED_EVENTS);
        let agents = Arc::clone(&self.agents);
        // A task of its own: when the client goes away, the trace still disarms.
        tokio::spawn(async move {
            let (told, telling) = mpsc::channel(QUEUED_EVENTS);
            let run = async {
                let outcome = trace(&agents, &inventory, &question, &told).await;
                drop(told);
                outcome
            };
            let pass_on = pass_on(telling, &events, |told| rpc::TraceEvent { json: json(&told) });
            let (outcome, ()) = tokio::join!(run, pass_on);
            if let Err(error) = outcome {
                drop(events.send(Err(error.into())).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_results(
        &self,
        call: Call<rpc::ListResultsRequest>,
    ) -> Result<Response<rpc::Document>, Refusal> {
        let most = match call.into_inner().most {
            0 => MOST_LISTED,
            most => most,
        };
        Ok(Response::new(rpc::Document { json: json(&self.history()?.list(most).await?) }))
    }

    async fn show_result(
        &self,
        call: Call<rpc::ShowResultRequest>,
    ) -> Result<Response<rpc::Document>, Refusal> {
        let kept = self.history()?.show(&call.into_inner().id).await?;
        Ok(Response::new(rpc::Document { json: json(&kept) }))
    }
}

/// Passes on what is told until there is no more or the client is gone; the latter drops the other end, which cancels what
/// is being done.
async fn pass_on<T, Event>(
    mut told: mpsc::Receiver<T>,
    events: &mpsc::Sender<Result<Event, Refusal>>,
    event: impl Fn(T) -> Event,
) {
    loop {
        let next = tokio::select! {
            next = told.recv() => next,
            () = events.closed() => None,
        };
        let Some(next) = next else { return };
        if events.send(Ok(event(next))).await.is_err() {
            return;
        }
    }
}

/// One line of how far a check is.
fn line(line: String) -> rpc::CheckEvent {
    rpc::CheckEvent { body: Some(check_event::Body::Progress(line)), ..Default::default() }
}

/// The result of a check with its recording, if there is one, and with why the inventory may be out of date.
fn last_event(
    mut result: CheckResult,
    recording: Option<Recording>,
    doubt: Option<Text>,
    history: Option<&History>,
) -> rpc::CheckEvent {
    result.notes.extend(doubt.clone());
    let document = match history {
        Some(history) => history.keep(Asker::Client, &result).into_bytes(),
        None => json(&result),
    };
    let mut event =
        rpc::CheckEvent { body: Some(check_event::Body::ResultJson(document)), ..Default::default() };
    match recording.map(|recording| recording.doubted(doubt).to_json()) {
        None => {}
        Some(Ok(json)) => event.recording_json = Some(json),
        Some(Err(error)) => event.recording_failure = Some(words(&error)),
    }
    event
}

fn status(inventory: &Inventory, hub: &Hub) -> Status {
    let attached = hub.attached();
    let refused = hub.refused();
    let stray: BTreeSet<&NodeName> = (attached.iter().map(|agent| &agent.node))
        .chain(refused.iter().map(|agent| &agent.node))
        .filter(|name| inventory.node(name).is_none())
        .collect();
    let names = inventory.nodes.iter().map(|node| &node.name).chain(stray);
    let one = |name: &NodeName| {
        let agent = attached.iter().find(|agent| agent.node == *name);
        NodeStatus {
            name: name.clone(),
            known: inventory.node(name).is_some(),
            attached: agent.is_some(),
            version: agent.map(|agent| agent.version.clone()),
            seconds: agent.map(|agent| agent.seconds),
            refused: refused.iter().find(|agent| agent.node == *name).map(|agent| agent.why.clone()),
        }
    };
    Status {
        api_version: API_VERSION.to_owned(),
        kind: "Status".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: names.map(one).collect(),
        notices: Vec::new(),
    }
}

/// An empty name stands for all.
fn named(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}

fn json(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents are plain data with text keys")
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use waymark_proto::CheckResult;
    use waymark_proto::rpc::waymark_server::Waymark;

    use super::*;
    use crate::engine::fakes::Fakes;
    use crate::fixture::inventory;
    use crate::hub::Patience;
    use crate::hub::puppet::Changing;

    #[tokio::test]
    async fn what_a_client_was_told_is_kept_before_it_is_told() {
        let (hub, source) = (Hub::new(Patience::default()), Changing::default());
        source.set(inventory());
        let source: Arc<dyn Source> = Arc::new(source);
        let (watches, _incoming) = Watches::new(hub.clone(), Arc::clone(&source), None).unwrap();
        let history = History::open(None, &Notices::default()).unwrap();
        let api = Api {
            agents: Arc::new(Fakes::default()),
            ..Api::new(hub, source, watches).with_history(history.clone())
        };
        let request = rpc::CheckRequest {
            source: "pod/shop/cart".to_owned(),
            destination: "pod/shop/pay:80".to_owned(),
            ..Default::default()
        };
        let mut events = api.check(Call::new(request)).await.unwrap().into_inner();
        let mut told: Option<CheckResult> = None;
        while let Some(event) = events.next().await {
            if let Some(check_event::Body::ResultJson(json)) = event.unwrap().body {
                told = Some(serde_json::from_slice(&json).unwrap());
            }
        }
        let told = told.unwrap();
        let kept = history.show(&told.check.to_string()).await.unwrap();
        assert_eq!((kept.result, kept.asker), (told, Asker::Client));
    }
}
