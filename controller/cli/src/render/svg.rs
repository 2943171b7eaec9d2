//! The walks as a picture: a row for each way, in it a card for each node, in that a box for each namespace with
//! its steps from top to bottom. The way back runs from right to left, so that its nodes stand below those of the
//! way there.
//!
//! * `canvas`: shapes and text as SVG
//! * `card`: a node with its namespaces and steps
//!
//! Libraries that lay out graphs know nothing of nodes within nodes, or call Graphviz; a walk is a line and needs
//! none of what they do.

mod canvas;
mod card;

use waymark_proto::{Language, text};

use super::drawing::{Drawing, Tone, Way};
use super::rows::{Mark, Row, reached};
use canvas::{Canvas, Face, colour, real};
use card::{Card, Port};

/// Free space around everything.
const MARGIN: f64 = 24.0;
/// Space between two cards, for the arrow.
const GAP: f64 = 56.0;
/// Space between two ways.
const BETWEEN: f64 = 30.0;
/// Narrowest content: the sentences above need room.
const NARROWEST: f64 = 680.0;
/// Up to here cards grow with the titles of their ways; longer titles are cut.
const WIDEST_TITLE: f64 = 900.0;
/// By how much a card grows where there is room.
const MOST_SHARE: f64 = 120.0;
/// Height of a line of the sentences above.
const LINE: f64 = 19.0;

/// The picture.
pub(super) fn svg(drawing: &Drawing<'_>) -> String {
    let ways: Vec<Laid<'_>> = drawing.ways.iter().map(|way| Laid::of(way, drawing.language)).collect();
    let mut columns = widths(&ways);
    let gaps = real(columns.len().saturating_sub(1)) * GAP;
    let titles = ways.iter().map(|way| Face::Heading.width(way.title)).fold(NARROWEST, f64::max);
    let free = titles.min(WIDEST_TITLE) - columns.iter().sum::<f64>() - gaps;
    let share = (free / real(columns.len().max(1))).clamp(0.0, MOST_SHARE);
    for column in &mut columns {
        *column += share;
    }
    let width = (columns.iter().sum::<f64>() + gaps).max(NARROWEST) + 2.0 * MARGIN;
    let mut canvas = Canvas::default();
    let mut y = heading(&mut canvas, drawing, width);
    for way in &ways {
        y = way.draw(&mut canvas, y, &columns) + BETWEEN;
    }
    y = legend(&mut canvas, y, width, drawing.language);
    canvas.finish(width, y + MARGIN, &format!("{}: {}", drawing.answer, drawing.title))
}

/// The answer, and where and why it ends.
fn heading(canvas: &mut Canvas, drawing: &Drawing<'_>, width: f64) -> f64 {
    let (ink, paper) = match drawing.tone {
        Tone::Good => (colour::GREEN, colour::PALE_GREEN),
        Tone::Bad => (colour::RED, colour::PALE_RED),
        Tone::Odd => (colour::AMBER, colour::PALE_AMBER),
    };
    let mut y = MARGIN;
    let badge = Face::Badge.width(&drawing.answer) + 24.0;
    canvas.pill(MARGIN, y, badge, 28.0, ink);
    canvas.text(MARGIN + 12.0, y + 19.0, Face::Badge, colour::PAPER, &drawing.answer);
    let (left, room) = (MARGIN + badge + 12.0, width - 2.0 * MARGIN - badge - 12.0);
    for (index, line) in Face::Title.wrap(&drawing.title, room).iter().enumerate() {
        y += if index == 0 { 0.0 } else { 24.0 };
        canvas.text(left, y + 20.0, Face::Title, colour::INK, line);
    }
    y += 50.0;
    canvas.text(MARGIN, y, Face::Small, colour::GREY, &drawing.subtitle);
    y += 14.0;
    if drawing.fault.is_empty() {
        return y + 16.0;
    }
    let room = width - 2.0 * MARGIN - 32.0;
    let lines: Vec<(usize, String)> = (drawing.fault.iter().enumerate())
        .flat_map(|(index, sentence)| {
            Face::Sentence.wrap(sentence, room).into_iter().map(move |line| (index, line))
        })
        .collect();
    let height = real(lines.len()) * LINE + 16.0;
    canvas.panel(MARGIN, y, width - 2.0 * MARGIN, height, paper, ink);
    for (number, (index, line)) in lines.iter().enumerate() {
        let ink = if *index == 0 { ink } else { colour::INK };
        canvas.text(MARGIN + 16.0, y + 21.0 + real(number) * LINE, Face::Sentence, ink, line);
    }
    y + height + 26.0
}

/// What the marks mean.
fn legend(canvas: &mut Canvas, mut y: f64, width: f64, language: Language) -> f64 {
    let mut x = MARGIN;
    for (mark, words) in [
        (Mark::Seen, text!(legend::Seen)),
        (Mark::Hidden, text!(legend::Hidden)),
        (Mark::Partly, text!(legend::Partly)),
        (Mark::Unexpected, text!(legend::Unexpected)),
        (Mark::Missing, text!(legend::Missing)),
        (Mark::Fault, text!(legend::Fault)),
    ] {
        let words = words.say(language);
        let needed = 19.0 + Face::Small.width(&words);
        if x + needed > width - MARGIN {
            (x, y) = (MARGIN, y + LINE);
        }
        canvas.mark(x + 7.0, y, mark);
        canvas.text(x + 19.0, y + 4.0, Face::Small, colour::GREY, &words);
        x += needed + 14.0;
    }
    y + 8.0
}

/// A way, cut into cards.
struct Laid<'a> {
    title: &'a str,
    back: bool,
    cards: Vec<Card<'a>>,
}

impl<'a> Laid<'a> {
    fn of(way: &'a Way<'a>, language: Language) -> Self {
        let reached = reached(&way.rows);
        let mut begun = 0;
        let cards = way.rows.chunk_by(|a, b| a.place.node == b.place.node).map(|rows: &[Row<'_>]| {
            let card = Card::of(rows, reached.saturating_sub(begun), language);
            begun += rows.len();
            card
        });
        Self { title: &way.title, back: way.back, cards: cards.collect() }
    }

    /// The column of a card, of so many.
    fn column(&self, index: usize, columns: usize) -> usize {
        if self.back { columns - 1 - index } else { index }
    }

    /// Draws it from here on; gives back where it ends.
    fn draw(&self, canvas: &mut Canvas, y: f64, columns: &[f64]) -> f64 {
        let gaps = real(columns.len().saturating_sub(1)) * GAP;
        let room = (columns.iter().sum::<f64>() + gaps).max(NARROWEST);
        let title = Face::Heading.cut(self.title, room);
        canvas.hinted(self.title, |canvas| canvas.text(MARGIN, y + 4.0, Face::Heading, colour::INK, &title));
        let top = y + 18.0;
        let left = |column: usize| MARGIN + columns[..column].iter().sum::<f64>() + real(column) * GAP;
        let place = |index: usize| {
            let column = self.column(index, columns.len());
            (left(column), columns[column])
        };
        let mut bottom = top;
        let mut ports: Vec<(Port, Port)> = Vec::new();
        for (index, card) in self.cards.iter().enumerate() {
            let (x, width) = place(index);
            let (first, last, end) = card.draw(canvas, x, top, width);
            ports.push((first, last));
            bottom = bottom.max(end);
        }
        for (index, pair) in ports.windows(2).enumerate() {
            let ((_, from), (to, _)) = (&pair[0], &pair[1]);
            let ((from_x, from_width), (to_x, to_width)) = (place(index), place(index + 1));
            let (start, end) =
                if self.back { (from_x, to_x + to_width) } else { (from_x + from_width, to_x) };
            canvas.arrow((start, from.y), (end, to.y), to.line);
        }
        bottom
    }
}

/// The width of each column: that of its widest card.
fn widths(ways: &[Laid<'_>]) -> Vec<f64> {
    let columns = ways.iter().map(|way| way.cards.len()).max().unwrap_or(0);
    let mut widths = vec![0.0_f64; columns];
    for way in ways {
        for (index, card) in way.cards.iter().enumerate() {
            let width = &mut widths[way.column(index, columns)];
            *width = width.max(card.width());
        }
    }
    widths
}
