//! `waymark show`: results of the past.

use clap::Args;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use waymark_controller::history::{KeptResult, ResultList};
use waymark_proto::{Text, rpc, text};

use crate::args::{Expect, Line, Look};
use crate::ask::document;
use crate::dial::Controller;
use crate::failure::{Exit, Failure};
use crate::render::{self, Paint, ResultFormat, fault_in_words, tame};
use crate::values::number;
use crate::{paint, pretty, write_out};

/// Most results that are listed at once, as the controller has it.
const MOST: u32 = waymark_controller::history::MOST_LISTED;

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// The check, or the beginning of its id. Without it the latest results are listed.
    id: Option<String>,
    /// How many results are listed.
    #[arg(
        long, value_name = "COUNT", allow_negative_numbers = true, conflicts_with = "id",
        value_parser = number(1..=MOST), default_value_t = 20
    )]
    limit: u32,
    #[command(flatten)]
    look: Look,
    #[command(flatten)]
    line: Line,
}

/// Lists results, or shows one.
pub(crate) async fn run(arguments: &ShowArguments) -> Result<(), Failure> {
    let text = match &arguments.id {
        Some(id) => one(arguments, id).await?,
        None => list(arguments).await?,
    };
    write_out(text.as_bytes())
}

async fn one(arguments: &ShowArguments, id: &str) -> Result<String, Failure> {
    let controller = Controller::dial(&arguments.line).await?;
    let request = rpc::ShowResultRequest { id: id.to_owned() };
    let answer = controller.ask(async |mut client| client.show_result(request).await).await?;
    let kept: KeptResult = document(&answer.json)?;
    let shown = render::result(&kept.result, arguments.look.manner(Expect::Reachable), paint())?;
    Ok(match arguments.look.output {
        ResultFormat::Text => {
            let language = arguments.look.tongue.language;
            format!("{}\n{shown}", paint().faint(&heading(&kept).say(language)))
        }
        _ => shown,
    })
}

/// When and for whom it was.
fn heading(kept: &KeptResult) -> Text {
    let KeptResult { at_unix_ns, asker, result } = tame(kept);
    text!(history::Heading { check: result.check, time: when(at_unix_ns), asker: asker.words() })
}

async fn list(arguments: &ShowArguments) -> Result<String, Failure> {
    let whole = match arguments.look.output {
        ResultFormat::Text => None,
        ResultFormat::Json => Some(pretty as fn(&ResultList) -> String),
        ResultFormat::Yaml => Some(render::yaml as fn(&ResultList) -> String),
        ResultFormat::Dot | ResultFormat::Svg | ResultFormat::Junit | ResultFormat::Markdown => {
            let message = "this format is for one result: give its ID, which `waymark show` lists";
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    let controller = Controller::dial(&arguments.line).await?;
    let request = rpc::ListResultsRequest { most: arguments.limit };
    let answer = controller.ask(async |mut client| client.list_results(request).await).await?;
    let list: ResultList = document(&answer.json)?;
    let language = arguments.look.tongue.language;
    Ok(whole.map_or_else(
        || table(&tame(&list), paint().in_language(language)),
        |write| write(&render::in_language(&list, language)),
    ))
}

/// One line per result.
fn table(list: &ResultList, paint: Paint) -> String {
    if list.results.is_empty() {
        return format!("{}\n", paint.say(&text!(history::None)));
    }
    let mut table = Table::new();
    let head = [
        text!(history::Id),
        text!(history::When),
        text!(history::Source),
        text!(history::Destination),
        text!(history::Protocol),
        text!(history::Verdict),
        text!(history::Fault),
    ];
    table.load_style(presets::NOTHING).set_header(head.map(|text| paint.say(&text)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for result in &list.results {
        table.add_row([
            result.check.to_string(),
            when(result.at_unix_ns),
            result.source.clone(),
            result.destination.clone(),
            result.protocol.to_string(),
            paint.say(&result.verdict.words()),
            result.fault_point.as_ref().map(|fault| paint.say(&fault_in_words(fault))).unwrap_or_default(),
        ]);
    }
    let text = table.trim_fmt();
    // Painted afterwards: colours have no width.
    let (head, rows) = text.split_once('\n').unwrap_or((&text, ""));
    format!("{}\n{rows}\n", paint.strong(head))
}

/// A time as a person and a script read it: `2026-11-26T18:40:00Z`.
fn when(unix_ns: u64) -> String {
    let seconds = i64::try_from(unix_ns / 1_000_000_000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use waymark_controller::history::{Asker, ResultSummary};

    use super::*;
    use crate::render::tests::unreachable;

    #[test]
    fn a_list_has_a_line_for_each_result() {
        let result = unreachable();
        let summary = ResultSummary {
            check: result.check,
            at_unix_ns: 1_800_000_000_000_000_000,
            asker: Asker::Client,
            source: result.source,
            destination: result.destination,
            protocol: result.flow.protocol,
            verdict: result.verdict,
            fault_point: result.fault_point,
        };
        let well = ResultSummary { fault_point: None, ..summary.clone() };
        let list =
            ResultList { api_version: String::new(), kind: String::new(), results: vec![summary, well] };
        let text = table(&list, Paint::new(false));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("ID        WHEN                  SOURCE"), "{text}");
        assert!(
            lines[1].contains("2027-01-15T08:00:00Z  pod/shop/cart  pod/shop/pay-1:80  tcp    Unreachable"),
            "{text}"
        );
        assert!(lines[1].contains("dropped on node2"), "{text}");
        assert!(lines[2].ends_with("Unreachable"), "{text}");
    }
}
