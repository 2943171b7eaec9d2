//! Shapes and text as SVG. All text that comes in is escaped here.

use std::fmt::Write;

use crate::render::line;
use crate::render::rows::Mark;
use crate::render::text::{fitting, width, wrapped};

/// The colours.
pub(super) mod colour {
    pub(in super::super) const PAPER: &str = "#ffffff";
    pub(in super::super) const INK: &str = "#1f2328";
    pub(in super::super) const GREY: &str = "#59636e";
    pub(in super::super) const FAINT: &str = "#afb8c1";
    pub(in super::super) const RULE: &str = "#d1d9e0";
    pub(in super::super) const CARD: &str = "#f6f8fa";
    pub(in super::super) const GREEN: &str = "#1a7f37";
    pub(in super::super) const PALE_GREEN: &str = "#dafbe1";
    pub(in super::super) const RED: &str = "#cf222e";
    pub(in super::super) const PALE_RED: &str = "#ffebe9";
    pub(in super::super) const AMBER: &str = "#9a6700";
    pub(in super::super) const PALE_AMBER: &str = "#fff8c5";
    pub(in super::super) const BLUE: &str = "#0969da";
}

/// How text looks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Face {
    Title,
    Badge,
    Heading,
    Sentence,
    /// A step's name.
    Step,
    Small,
    /// What a step did.
    Remark,
}

impl Face {
    /// Its class, and how wide a character is, about. Viewers have different fonts; widths are those of the
    /// widest of the usual ones.
    fn metrics(self) -> (&'static str, f64) {
        match self {
            Self::Title => ("t", 10.6),
            Self::Badge => ("b", 9.6),
            Self::Heading => ("h", 8.9),
            Self::Sentence => ("s", 7.6),
            Self::Step => ("m", 7.3),
            Self::Small => ("l", 6.6),
            Self::Remark => ("r", 6.1),
        }
    }

    /// How wide a text is, about.
    pub(super) fn width(self, text: &str) -> f64 {
        real(width(text)) * self.metrics().1
    }

    /// How many columns fit.
    #[expect(clippy::cast_sign_loss, reason = "no room at all is room for none")]
    fn fits(self, room: f64) -> usize {
        ((room / self.metrics().1) as usize).max(2)
    }

    /// A text, cut where it would not fit.
    pub(super) fn cut(self, text: &str, room: f64) -> String {
        let fits = self.fits(room);
        if width(text) <= fits { text.to_owned() } else { format!("{}…", fitting(text, fits - 1)) }
    }

    /// A text in lines; words that are too long are broken.
    pub(super) fn wrap(self, text: &str, room: f64) -> Vec<String> {
        wrapped(text, self.fits(room))
    }
}

/// A number of things as a factor of lengths.
#[expect(clippy::cast_precision_loss, reason = "nobody draws as many")]
pub(super) fn real(number: usize) -> f64 {
    number as f64
}

/// A line from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Packets came along here.
    Taken,
    /// Some of them.
    Partly,
    /// They end there.
    Fatal,
    /// None came.
    Untaken,
}

impl Line {
    fn style(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Taken => (colour::GREEN, "", "taken"),
            Self::Partly => (colour::AMBER, "", "partly"),
            Self::Fatal => (colour::RED, "", "fatal"),
            Self::Untaken => (colour::FAINT, " stroke-dasharray=\"3 4\"", "untaken"),
        }
    }
}

/// What is drawn so far.
#[derive(Default)]
pub(super) struct Canvas(String);

impl Canvas {
    /// A text whose base line begins here.
    pub(super) fn text(&mut self, x: f64, y: f64, face: Face, ink: &str, text: &str) {
        self.anchored(x, y, face, ink, "start", text);
    }

    /// A text whose base line ends here.
    pub(super) fn text_to(&mut self, x: f64, y: f64, face: Face, ink: &str, text: &str) {
        self.anchored(x, y, face, ink, "end", text);
    }

    fn anchored(&mut self, x: f64, y: f64, face: Face, ink: &str, anchor: &str, text: &str) {
        let (class, text) = (face.metrics().0, escaped(text));
        let anchor = if anchor == "end" { " text-anchor=\"end\"" } else { "" };
        line!(
            self.0,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{ink}\"{anchor}>{text}</text>"
        );
    }

    /// A filled rectangle with an outline and a title that shows when it is pointed at.
    pub(super) fn panel(&mut self, x: f64, y: f64, width: f64, height: f64, paper: &str, outline: &str) {
        line!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"8\" fill=\"{paper}\" stroke=\"{outline}\"/>"
        );
    }

    /// A filled rectangle with round ends.
    pub(super) fn pill(&mut self, x: f64, y: f64, width: f64, height: f64, paper: &str) {
        let radius = height / 2.0;
        line!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius:.1}\" fill=\"{paper}\"/>"
        );
    }

    /// Words that show where the pointer rests, for all that is drawn by `inside`.
    pub(super) fn hinted(&mut self, hint: &str, inside: impl FnOnce(&mut Self)) {
        line!(self.0, "<g><title>{}</title>", escaped(hint));
        inside(self);
        self.0.push_str("</g>\n");
    }

    /// A straight line downwards.
    pub(super) fn down(&mut self, x: f64, from: f64, to: f64, style: Line) {
        let (ink, dashes, _) = style.style();
        line!(
            self.0,
            "<path d=\"M{x:.1} {from:.1}V{to:.1}\" stroke=\"{ink}\" stroke-width=\"2\"{dashes} fill=\"none\"/>"
        );
    }

    /// An arrow from one card to another, half way between which it climbs.
    pub(super) fn arrow(&mut self, from: (f64, f64), to: (f64, f64), style: Line) {
        let (ink, dashes, head) = style.style();
        let sign = (to.0 - from.0).signum();
        // The head is beyond the end of the line.
        let end = to.0 - 8.0 * sign;
        let middle = f64::midpoint(from.0, to.0);
        let bend = 10.0_f64.min((to.1 - from.1).abs() / 2.0);
        let climb = (to.1 - from.1).signum();
        let (x, y) = from;
        line!(
            self.0,
            "<path d=\"M{x:.1} {y:.1}H{:.1}Q{middle:.1} {y:.1} {middle:.1} {:.1}V{:.1}Q{middle:.1} {:.1} {:.1} {:.1}H{end:.1}\" stroke=\"{ink}\" stroke-width=\"2\"{dashes} fill=\"none\" marker-end=\"url(#{head})\"/>",
            middle - bend * sign,
            y + bend * climb,
            to.1 - bend * climb,
            to.1,
            middle + bend * sign,
            to.1
        );
    }

    /// The sign of a step, around this point. Drawn, for not every font has the characters.
    pub(super) fn mark(&mut self, x: f64, y: f64, mark: Mark) {
        let (ink, glyph) = match mark {
            Mark::Seen => (colour::GREEN, "M-3 0L-1 2.6L3.2 -2.6"),
            Mark::Hidden => (colour::FAINT, ""),
            Mark::Partly => (colour::AMBER, "M-3.2 0.6Q-1.6 -2.4 0 0T3.2 -0.6"),
            Mark::Unexpected => (colour::BLUE, "M-3 0H3M0 -3V3"),
            Mark::Missing => (colour::FAINT, "M-2.6 -2.6L2.6 2.6M2.6 -2.6L-2.6 2.6"),
            Mark::Fault => (colour::RED, "M-2.6 -2.6L2.6 2.6M2.6 -2.6L-2.6 2.6"),
        };
        if mark == Mark::Hidden {
            line!(
                self.0,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{}\" stroke=\"{ink}\" stroke-width=\"1.5\"/>",
                colour::PAPER
            );
            return;
        }
        line!(self.0, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"7\" fill=\"{ink}\"/>");
        line!(
            self.0,
            "<path d=\"{glyph}\" transform=\"translate({x:.1} {y:.1})\" stroke=\"{}\" stroke-width=\"1.6\" stroke-linecap=\"round\" stroke-linejoin=\"round\" fill=\"none\"/>",
            colour::PAPER
        );
    }

    /// The whole document.
    pub(super) fn finish(self, width: f64, height: f64, title: &str) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        line!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">"
        );
        line!(out, "<title>{}</title>", escaped(title));
        out.push_str(STYLE);
        out.push_str("<defs>\n");
        for style in [Line::Taken, Line::Partly, Line::Fatal, Line::Untaken] {
            let (ink, _, name) = style.style();
            line!(
                out,
                "<marker id=\"{name}\" viewBox=\"0 0 8 10\" refX=\"0\" refY=\"5\" markerWidth=\"8\" markerHeight=\"10\" markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0L8 5L0 10Z\" fill=\"{ink}\"/></marker>"
            );
        }
        line!(out, "</defs>");
        line!(out, "<rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"{}\"/>", colour::PAPER);
        out.push_str(&self.0);
        out.push_str("</svg>\n");
        out
    }
}

const STYLE: &str = r#"<style>
text { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 12px; white-space: pre; }
.t { font-size: 17px; font-weight: 600; }
.b { font-size: 14px; font-weight: 600; }
.h { font-size: 13px; font-weight: 600; }
.s { font-size: 13px; }
.l { font-size: 11.5px; }
.m, .r { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.r { font-size: 10px; }
</style>
"#;

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            other => out.push(other),
        }
    }
    out
}
