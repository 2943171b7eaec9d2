//! From a fault's file and a cluster to acts, a probe and an expectation.

use minijinja::{Environment, Value};
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use waymark_proto::AnomalyKind;

use super::definition::{Deeds, Definition, Step, Tcx};
use super::leg::impaired;
use super::site::{Place, Site};
use super::{Act, Expected, Helper, Symptom, context};
use crate::check::Probe;
use crate::script::Script;
use crate::tcx;

/// What breaks and what undoes it.
#[derive(Debug)]
pub(super) struct Breakage {
    pub(super) inject: Vec<Act>,
    pub(super) undo: Vec<Act>,
}

/// Renders one case for one cluster.
pub(super) struct Renderer<'a> {
    definition: &'a Definition,
    site: Site<'a>,
    name: String,
    environment: Environment<'static>,
    context: Value,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(definition: &'a Definition, site: Site<'a>, name: &str, object: String) -> Self {
        let (environment, context) = context::environment(&site, name, object);
        Self { definition, site, name: name.to_owned(), environment, context }
    }

    pub(super) fn probe(&self) -> Probe {
        let traffic = &self.definition.traffic;
        Probe {
            from: format!("pod/{}", self.site.source.full_name),
            to: self.site.destination(traffic),
            protocol: traffic.protocol,
            ipv6: self.site.ipv6(),
            size: traffic.size,
            count: traffic.count,
        }
    }

    pub(super) fn expected(&self) -> Result<Expected, String> {
        let expected = &self.definition.expected;
        let place: Place = self.word(&expected.at)?;
        let (node, netns) = self.site.at(place)?;
        let cause = match (&expected.cause, expected.anomaly) {
            (Some(cause), None) => Symptom::Death(self.word(cause)?),
            (None, Some(kind)) => Symptom::Anomaly(kind),
            _ => return Err("it expects either a cause or an anomaly".to_owned()),
        };
        if expected.least_delay_ms.is_some() != (expected.anomaly == Some(AnomalyKind::Delay)) {
            return Err("a delay, and nothing else, is expected to be of some length".to_owned());
        }
        Ok(Expected {
            node: node.name.clone(),
            netns: netns.to_owned(),
            hook: self.word(&expected.hook)?,
            cause,
            direction: expected.direction,
            delay_ns: expected.least_delay_ms.map(|ms| ms * 1_000_000),
        })
    }

    /// What the answer must mention.
    pub(super) fn says(&self) -> Result<Vec<String>, String> {
        self.definition.expected.says.iter().map(|text| self.text(text)).collect()
    }

    pub(super) fn breakage(&self) -> Result<Breakage, String> {
        let mut breakage = Breakage { inject: Vec::new(), undo: Vec::new() };
        for step in &self.definition.inject {
            let acts = match step {
                Step::Leg(leg) => impaired(&self.site, leg, &self.name)?,
                Step::Tcx(step) => self.program(step)?,
                Step::Lines(_) | Step::Deed(_) => {
                    breakage.inject.extend(self.act(step)?);
                    continue;
                }
            };
            breakage.inject.extend(acts.inject);
            breakage.undo.extend(acts.undo);
        }
        for step in &self.definition.undo {
            breakage.undo.extend(self.act(step)?);
        }
        Ok(breakage)
    }

    fn program(&self, step: &Tcx) -> Result<Breakage, String> {
        let (_, netns) = self.site.at(step.place)?;
        let role = format!("fault-{}", self.name);
        let args = tcx::command(&self.text(&step.device)?, step.side);
        let helper = Helper { role: role.clone(), netns: netns.to_owned(), args };
        Ok(Breakage { inject: vec![Act::Start(helper)], undo: vec![Act::Stop(role)] })
    }

    /// What a step does by itself; nothing, if none of its lines is for this cluster.
    fn act(&self, step: &Step) -> Result<Option<Act>, String> {
        let (place, act) = match step {
            Step::Leg(_) | Step::Tcx(_) => return Err("this step is undone without being told".to_owned()),
            Step::Lines(step) => {
                let (_, netns) = self.site.at(step.place)?;
                let text = self.text(&step.text)?;
                let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                let tool = step.tool.tool(self.site.family, self.site.cluster.proxy);
                return Ok((!lines.is_empty()).then(|| Act::Script(Script::new(tool, netns, lines))));
            }
            Step::Deed(deed) => (deed.place, deed),
        };
        let pod = self.site.pod(place).ok_or_else(|| format!("{place:?} has no server"))?.full_name.clone();
        Ok(Some(match act.act {
            Deeds::StopServer => Act::StopServer(pod),
            Deeds::ReplaceServer => Act::ReplaceServer { pod, manner: act.manner },
        }))
    }

    fn text(&self, template: &str) -> Result<String, String> {
        self.environment.render_str(template, &self.context).map_err(|error| format!("{error:#}: {template}"))
    }

    /// A template that renders to a value's name.
    fn word<T: DeserializeOwned>(&self, template: &str) -> Result<T, String> {
        let text = self.text(template)?;
        let word: StrDeserializer<'_, ValueError> = text.trim().into_deserializer();
        T::deserialize(word).map_err(|error| error.to_string())
    }
}
