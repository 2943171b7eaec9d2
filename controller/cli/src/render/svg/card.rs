//! A node of a way: its namespaces as boxes, their steps from top to bottom.

use waymark_proto::{Language, text};

use super::canvas::{Canvas, Face, Line, colour};
use crate::render::rows::{Mark, Row};

/// Height of a step, and of what it did below its name.
const STEP: f64 = 22.0;
const REMARK: f64 = 14.0;
/// Height of the name of the node, and of that of a namespace.
const NODE: f64 = 30.0;
const NETNS: f64 = 24.0;
/// Space around a namespace's box, and below its last step.
const EDGE: f64 = 8.0;
/// Where marks are, and where names begin, from the left of a box.
const MARK: f64 = 16.0;
const NAME: f64 = 32.0;
/// Narrowest and widest card.
const WIDTHS: (f64, f64) = (250.0, 400.0);

/// A card.
pub(super) struct Card<'a> {
    rows: &'a [Row<'a>],
    /// How many of its steps packets came to.
    reached: usize,
    language: Language,
}

/// Where a line comes in or goes out.
pub(super) struct Port {
    pub(super) y: f64,
    pub(super) line: Line,
}

impl<'a> Card<'a> {
    pub(super) fn of(rows: &'a [Row<'a>], reached: usize, language: Language) -> Self {
        Self { rows, reached, language }
    }

    /// How wide it should be.
    pub(super) fn width(&self) -> f64 {
        let name = |row: &Row<'_>| {
            let words = format!("{}  {}", row.hook, row.device);
            NAME + Face::Step.width(&words) + 3.0 * EDGE
        };
        let remark = |row: &Row<'_>| {
            NAME + Face::Remark.width(&row.remark(self.language).unwrap_or_default()) + 3.0 * EDGE
        };
        let widest = self.rows.iter().map(|row| name(row).max(remark(row))).fold(0.0, f64::max);
        widest.clamp(WIDTHS.0, WIDTHS.1)
    }

    /// Draws it; gives back where lines come in and go out, and where it ends.
    pub(super) fn draw(&self, canvas: &mut Canvas, x: f64, top: f64, width: f64) -> (Port, Port, f64) {
        let node = self.rows[0].place.node.as_str();
        let height = NODE + self.spaces().map(|rows| self.space_height(rows) + EDGE).sum::<f64>();
        canvas.panel(x, top, width, height, colour::CARD, colour::RULE);
        let name = Face::Heading.cut(node, width - 24.0);
        canvas.hinted(node, |canvas| canvas.text(x + 12.0, top + 20.0, Face::Heading, colour::INK, &name));
        let mut y = top + NODE;
        let mut heights: Vec<f64> = Vec::with_capacity(self.rows.len());
        for rows in self.spaces() {
            let netns = format!("netns {}", rows[0].place.netns);
            let (left, inner) = (x + EDGE, width - 2.0 * EDGE);
            canvas.panel(left, y, inner, self.space_height(rows), colour::PAPER, colour::RULE);
            let name = Face::Small.cut(&netns, inner - NAME - EDGE);
            canvas.hinted(&netns, |canvas| {
                canvas.text(left + NAME, y + 16.0, Face::Small, colour::GREY, &name);
            });
            let mut step_y = y + NETNS;
            for row in rows {
                heights.push(step_y + STEP / 2.0);
                if row.mark == Mark::Fault {
                    let high = self.row_height(row);
                    canvas.panel(left + 3.0, step_y, inner - 6.0, high, colour::PALE_RED, colour::PALE_RED);
                }
                step_y += self.row_height(row);
            }
            y += self.space_height(rows) + EDGE;
        }
        let across = x + EDGE + MARK;
        for (index, pair) in heights.windows(2).enumerate() {
            canvas.down(across, pair[0], pair[1], self.line_to(index + 1));
        }
        for (row, &middle) in self.rows.iter().zip(&heights) {
            self.step(canvas, row, x + EDGE, middle, width - 2.0 * EDGE);
        }
        let port = |index: usize| Port { y: heights[index], line: self.line_to(index) };
        (port(0), port(heights.len() - 1), top + height)
    }

    fn spaces(&self) -> impl Iterator<Item = &'a [Row<'a>]> {
        self.rows.chunk_by(|a, b| a.place.netns == b.place.netns)
    }

    fn line_to(&self, index: usize) -> Line {
        match self.rows[index].mark {
            _ if index >= self.reached => Line::Untaken,
            Mark::Fault => Line::Fatal,
            Mark::Partly => Line::Partly,
            // Who is seen further on was there too.
            Mark::Seen | Mark::Hidden | Mark::Unexpected | Mark::Missing => Line::Taken,
        }
    }

    fn row_height(&self, row: &Row<'_>) -> f64 {
        STEP + if row.remark(self.language).is_some() { REMARK } else { 0.0 }
    }

    fn space_height(&self, rows: &[Row<'_>]) -> f64 {
        NETNS + rows.iter().map(|row| self.row_height(row)).sum::<f64>() + EDGE
    }

    fn step(&self, canvas: &mut Canvas, row: &Row<'_>, left: f64, middle: f64, width: f64) {
        let (ink, faint) = match row.mark {
            Mark::Fault => (colour::RED, colour::RED),
            Mark::Hidden | Mark::Missing => (colour::GREY, colour::FAINT),
            Mark::Seen | Mark::Partly | Mark::Unexpected => (colour::INK, colour::GREY),
        };
        canvas.hinted(&self.hint(row), |canvas| {
            canvas.mark(left + MARK, middle, row.mark);
            let name = row.hook.name();
            canvas.text(left + NAME, middle + 4.0, Face::Step, ink, name);
            let room = width - NAME - Face::Step.width(name) - 2.0 * EDGE;
            let device = Face::Step.cut(row.device, room);
            canvas.text_to(left + width - EDGE, middle + 4.0, Face::Step, faint, &device);
            if let Some(remark) = row.remark(self.language) {
                let remark = Face::Remark.cut(&remark, width - NAME - EDGE);
                canvas.text(left + NAME, middle + 18.0, Face::Remark, ink, &remark);
            }
        });
    }

    /// What shows where the pointer rests on a step.
    fn hint(&self, row: &Row<'_>) -> String {
        if row.packets.is_none() && row.observed.is_none() {
            return row.predicted(self.language);
        }
        let observed = row.observed.clone().unwrap_or_else(|| text!(walk::NobodySees));
        text!(walk::Hint { predicted: row.predicted.as_ref(), observed }).say(self.language)
    }
}
