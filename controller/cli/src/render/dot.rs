//! The walks as a graph in the language of Graphviz: a cluster for each node, in it one for each namespace.
//!
//! Ways of a prediction share their steps up to where they part.

use std::collections::BTreeMap;
use std::fmt::Write;

use waymark_proto::{Hook, Language, Place};

use super::drawing::Drawing;
use super::line;
use super::rows::{Mark, Row, reached};
use super::text::wrapped;

/// What tells steps of several ways apart: the step before, and where it is.
type Key<'a> = (Option<usize>, bool, &'a Place, Hook, &'a str, Mark);

/// One step with the edge that leads to it.
struct Vertex<'a> {
    row: &'a Row<'a>,
    before: Option<usize>,
    back: bool,
    reached: bool,
    /// How likely it is that a packet comes here.
    probability: f64,
    share: Option<String>,
}

/// The source of a graph.
pub(super) fn dot(drawing: &Drawing<'_>) -> String {
    let vertices = vertices(drawing);
    let mut out = String::from("digraph waymark {\n");
    let head = [format!("{}: {}", drawing.answer, drawing.title), drawing.subtitle.clone()];
    let label: Vec<String> =
        head.iter().chain(&drawing.fault).flat_map(|sentence| wrapped(sentence, WIDTH)).collect();
    let label = quoted(&label.join("\n"), "\\l");
    line!(out, "  graph [label={label}, labelloc=t, labeljust=l, fontname=\"Helvetica\"];");
    line!(
        out,
        "  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"Helvetica\", fontsize=10];"
    );
    line!(out, "  edge [fontname=\"Helvetica\", fontsize=9];");
    clusters(&mut out, &vertices, drawing.language);
    for (number, vertex) in vertices.iter().enumerate() {
        let Some(before) = vertex.before else { continue };
        let colour = match (vertex.reached, vertex.row.mark) {
            (false, _) => GREY,
            // Who is seen further on was there too.
            (true, Mark::Hidden) => colours(Mark::Seen).1,
            (true, mark) => colours(mark).1,
        };
        let mut attributes = vec![format!("color={colour}")];
        if vertex.back {
            attributes.push("style=dashed".to_owned());
        }
        let parts = vertices[before].probability - vertex.probability > ROUNDING;
        let percent = parts.then(|| format!("{:.0} %", vertex.probability * 100.0));
        if let Some(label) = vertex.share.clone().or(percent) {
            attributes.push(format!("label={}", quoted(&label, CENTRED)));
        }
        line!(out, "  s{before} -> s{number} [{}];", attributes.join(", "));
    }
    out.push_str("}\n");
    out
}

/// Characters of a line of the sentences above: a graph of two nodes is about as wide.
const WIDTH: usize = 80;
/// Sums of probabilities that differ by less are the same.
const ROUNDING: f64 = 1e-9;
/// A line break within a step.
const CENTRED: &str = "\\n";
/// What no packet came to.
const GREY: &str = "gray60";

fn vertices<'a>(drawing: &'a Drawing<'a>) -> Vec<Vertex<'a>> {
    let mut vertices: Vec<Vertex<'_>> = Vec::new();
    let mut known: BTreeMap<Key<'_>, usize> = BTreeMap::new();
    for way in &drawing.ways {
        let (mut before, reached) = (None, reached(&way.rows));
        for (index, row) in way.rows.iter().enumerate() {
            let key = (before, way.back, row.place, row.hook, row.device, row.mark);
            let number = *known.entry(key).or_insert(vertices.len());
            if number == vertices.len() {
                vertices.push(Vertex {
                    row,
                    before,
                    back: way.back,
                    reached: index < reached,
                    probability: 0.0,
                    share: way.share(index).map(|share| share.say(drawing.language)),
                });
            }
            vertices[number].probability += way.probability;
            before = Some(number);
        }
    }
    vertices
}

/// The steps of a node's namespaces.
type Spaces<'a> = Vec<(&'a str, Vec<usize>)>;

fn clusters(out: &mut String, vertices: &[Vertex<'_>], language: Language) {
    // In the order in which packets come to them first.
    let mut nodes: Vec<(&str, Spaces<'_>)> = Vec::new();
    for (number, vertex) in vertices.iter().enumerate() {
        let (node, netns) = (vertex.row.place.node.as_str(), vertex.row.place.netns.as_str());
        let spaces = entry(&mut nodes, node);
        entry(spaces, netns).push(number);
    }
    for (node_number, (node, spaces)) in nodes.iter().enumerate() {
        line!(out, "  subgraph cluster_{node_number} {{");
        line!(
            out,
            "    label={}; style=\"rounded,filled\"; fillcolor=gray97; color=gray70;",
            quoted(node, CENTRED)
        );
        for (space_number, (netns, steps)) in spaces.iter().enumerate() {
            line!(out, "    subgraph cluster_{node_number}_{space_number} {{");
            let label = quoted(&format!("netns {netns}"), CENTRED);
            line!(out, "      label={label}; style=\"rounded,filled\"; fillcolor=white; color=gray85;");
            for &number in steps {
                line!(out, "      s{number} [{}];", step(&vertices[number], language));
            }
            out.push_str("    }\n");
        }
        out.push_str("  }\n");
    }
}

/// The value of a key, which is added where it is not there.
fn entry<'a, 'b, T: Default>(list: &'b mut Vec<(&'a str, T)>, key: &'a str) -> &'b mut T {
    let index = list.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
        list.push((key, T::default()));
        list.len() - 1
    });
    &mut list[index].1
}

fn step(vertex: &Vertex<'_>, language: Language) -> String {
    let row = vertex.row;
    let mut label = format!("{} {}", row.hook, row.device).trim_end().to_owned();
    if let Some(remark) = row.remark(language) {
        let _infallible = write!(label, "\n{remark}");
    }
    let (fill, colour) = colours(row.mark);
    let dashed = if row.mark == Mark::Hidden { ", style=\"rounded,filled,dashed\"" } else { "" };
    let words = if matches!(row.mark, Mark::Hidden | Mark::Missing) { ", fontcolor=gray40" } else { "" };
    format!("label={}, color={colour}, fillcolor={fill}{dashed}{words}", quoted(&label, CENTRED))
}

/// The colours of a step: of its inside, and of its outline and the edge to it.
fn colours(mark: Mark) -> (&'static str, &'static str) {
    match mark {
        Mark::Seen => ("honeydew", "forestgreen"),
        Mark::Hidden => ("gray95", GREY),
        Mark::Missing => ("gray90", GREY),
        Mark::Fault => ("mistyrose", "red"),
        Mark::Partly => ("lemonchiffon", "goldenrod"),
        Mark::Unexpected => ("aliceblue", "dodgerblue"),
    }
}

/// A quoted string of which nothing but the line breaks means anything, which are written like this: `\n` centres the
/// line before it, `\l` puts it to the left.
fn quoted(text: &str, line_break: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str(line_break),
            // Graphviz reads entities in labels.
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            other => out.push(other),
        }
    }
    if line_break != CENTRED {
        out.push_str(line_break);
    }
    out.push('"');
    out
}
