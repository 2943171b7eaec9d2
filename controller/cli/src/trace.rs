//! `waymark trace`: packets that are there anyway, as they are seen.
//!
//! * `args`: its command line
//! * `lines`: what is told, as lines of text

mod args;
mod lines;

use std::sync::Arc;

use tokio::sync::mpsc;
use waymark_controller::Agents;
use waymark_controller::live::{Because, Question, Told, TraceError, trace};

use crate::args::Format;
use crate::ask::{document, local};
use crate::dial::Controller;
use crate::failure::{Exit, Failure};
use crate::local::LocalAgents;
use crate::{paint, write_out};
pub(crate) use args::TraceArguments;
use lines::Lines;

/// What is told that may wait to be written.
const QUEUED: usize = 16;

/// Traces, and writes each thing as it comes.
pub(crate) async fn run(arguments: &TraceArguments) -> Result<(), Failure> {
    let mut page = Page { format: arguments.output, lines: Lines::new(paint()) };
    let message = arguments.message();
    if let Some(inventory) = local(&arguments.answerer)? {
        let question = Question::try_from(message).map_err(TraceError::from)?;
        LocalAgents::may_trace()?;
        let agents: Arc<dyn Agents> = Arc::new(LocalAgents::new(inventory.clone()));
        let (events, mut told) = mpsc::channel(QUEUED);
        let tracing = async move { trace(&agents, &inventory, &question, &events).await };
        let writing = async move {
            while let Some(told) = told.recv().await {
                page.write(&told)?;
            }
            Ok::<_, Failure>(())
        };
        let (traced, written) = tokio::join!(tracing, writing);
        traced?;
        return written;
    }
    let controller = Controller::dial(&arguments.answerer.line).await?;
    let mut events = controller.ask(async |mut client| client.trace(message).await).await?;
    let mut because = None;
    while let Some(event) = events.message().await.map_err(|status| controller.failure(status, true))? {
        let told = document(&event.json)?;
        if let Told::Ended { because: why, .. } = &told {
            because = Some(*why);
        }
        page.write(&told)?;
    }
    match because {
        Some(Because::Time | Because::Packets) => Ok(()),
        Some(Because::Agents) => Err(Failure::new(Exit::Unavailable, "no agent was left that looked")),
        None => Err(Failure::new(Exit::Unavailable, "the controller ended the trace before its time")),
    }
}

/// Where it is written.
struct Page {
    format: Format,
    lines: Lines,
}

impl Page {
    fn write(&mut self, told: &Told) -> Result<(), Failure> {
        let text = match self.format {
            Format::Text => self.lines.of(told),
            Format::Json => serde_json::to_string(told).expect("what is told is plain data") + "\n",
        };
        write_out(text.as_bytes())
    }
}
