//! The live view: targets, the round-trip times of the selected one, outages.

use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Bar, BarChart, Block, Paragraph, Row, Table, TableState, Wrap};
use ratatui::{DefaultTerminal, Frame};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use waymark_controller::watching::{TargetState, TargetStatus, WatchList};

use super::{poll, table, words};
use crate::dial::Controller;
use crate::failure::{Exit, Failure};

/// How often the controller is asked.
const REFRESH: Duration = Duration::from_secs(1);
/// How often the keyboard's thread looks whether it should end.
const GLANCE: Duration = Duration::from_millis(100);

/// What is on the screen.
struct View {
    list: WatchList,
    /// Why the list is not of now.
    stale: Option<String>,
    selected: TableState,
}

/// Shows the view until q, Ctrl-C or a signal; gives the terminal back in any case.
pub(super) async fn run(
    controller: &Controller,
    name: Option<&str>,
    first: WatchList,
) -> Result<(), Failure> {
    let broken =
        |what: &str, error: std::io::Error| Failure::new(Exit::Software, format!("cannot {what}: {error}"));
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| broken("catch SIGTERM", error))?;
    let mut terminal = ratatui::try_init().map_err(|error| broken("take the terminal", error))?;
    let mut keys = keyboard();
    let mut view = View { list: first, stale: None, selected: TableState::default().with_selected(0) };
    let mut refresh = tokio::time::interval(REFRESH);
    let outcome = loop {
        if let Err(error) = draw(&mut terminal, &mut view) {
            break Err(broken("draw", error));
        }
        tokio::select! {
            _ = refresh.tick() => match poll(controller, name).await {
                Ok(list) => (view.list, view.stale) = (list, None),
                Err(failure) => view.stale = Some(failure.message),
            },
            key = keys.recv() => match key {
                Some(event) => if view.leaves(&event) { break Ok(()) },
                None => break Err(Failure::new(Exit::Software, "the keyboard cannot be read any more")),
            },
            _ = terminated.recv() => break Ok(()),
        }
    };
    ratatui::restore();
    outcome
}

/// Events of the terminal. The thread ends when nobody receives them any more.
fn keyboard() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let event = match event::poll(GLANCE) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            match event {
                Ok(event) => drop(sender.blocking_send(event)),
                Err(_) => return,
            }
        }
    });
    receiver
}

impl View {
    fn targets(&self) -> Vec<&TargetStatus> {
        self.list.watches.iter().flat_map(|watch| &watch.targets).collect()
    }

    /// Takes an event in; whether it asks to leave.
    fn leaves(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return false };
        if key.kind != KeyEventKind::Press {
            return false;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Down | KeyCode::Char('j') => self.selected.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.selected.select_previous(),
            KeyCode::Home => self.selected.select_first(),
            KeyCode::End => self.selected.select_last(),
            KeyCode::PageDown => self.selected.scroll_down_by(10),
            KeyCode::PageUp => self.selected.scroll_up_by(10),
            _ => {}
        }
        false
    }
}

fn draw(terminal: &mut DefaultTerminal, view: &mut View) -> std::io::Result<()> {
    terminal.draw(|frame| paint(frame, view)).map(drop)
}

fn paint(frame: &mut Frame<'_>, view: &mut View) {
    let outages = view.list.outages.len().min(6) as u16;
    let [head, targets, histogram, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(4),
        Constraint::Length(10),
        Constraint::Length(if outages == 0 { 0 } else { 2 * outages + 2 }),
        Constraint::Length(1),
    ])
    .areas(frame.area());

    let names: Vec<&str> = view.list.watches.iter().map(|watch| watch.spec.name.as_str()).collect();
    let title = if names.is_empty() { "no watches".to_owned() } else { names.join(", ") };
    frame.render_widget(Line::from(format!("waymark watch: {title}")).bold(), head);

    let all = view.targets();
    let rows: Vec<Row<'_>> =
        all.iter().map(|target| Row::new(table::cells(target)).style(colour(&target.state))).collect();
    let chosen = view.selected.selected().map(|index| index.min(all.len().saturating_sub(1)));
    let chart = chosen.and_then(|index| all.get(index)).map(|target| histogram_of(target));
    let widths = [24, 28, 5, 8, 8, 8, 9, 9, 9, 9].map(Constraint::Min);
    let grid = Table::new(rows, widths)
        .header(Row::new(table::HEAD).bold())
        .row_highlight_style(Style::new().reversed())
        .block(Block::bordered().title(" Targets, the last minute "));
    frame.render_stateful_widget(grid, targets, &mut view.selected);
    if let Some(chart) = chart {
        frame.render_widget(chart, histogram);
    }
    if outages > 0 {
        let newest = view.list.outages.iter().rev().take(outages.into());
        let lines: Vec<Line<'_>> =
            newest.map(|outage| Line::from(words::outage(outage, view.list.at_unix_ns))).collect();
        let text = Paragraph::new(lines)
            .wrap(Wrap { trim: true })
            .block(Block::bordered().title(" Outages, the newest first ").red());
        frame.render_widget(text, below);
    }
    let foot_line = match &view.stale {
        Some(why) => Line::from(format!("not of now: {why}")).yellow(),
        None => Line::from("↑ ↓ select   q quit").dim(),
    };
    frame.render_widget(foot_line, foot);
}

fn colour(state: &TargetState) -> Style {
    match state {
        TargetState::Up => Style::new(),
        TargetState::Down { .. } => Style::new().fg(Color::Red),
        TargetState::Starting => Style::new().dim(),
        TargetState::Silent { .. } | TargetState::Refused { .. } => Style::new().fg(Color::Yellow),
    }
}

/// The round-trip times of a target as bars, from the first that holds any to the last.
fn histogram_of(target: &TargetStatus) -> BarChart<'static> {
    let counts = &target.recent_buckets;
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let bars: Vec<Bar<'static>> = (first..=last)
        .map(|index| {
            Bar::default()
                .label(Line::from(words::bucket(index)))
                .value(counts.get(index).copied().unwrap_or(0))
        })
        .collect();
    let title = format!(" {} → {}: round trips, the last minute ", target.source, target.destination);
    BarChart::vertical(bars).bar_width(9).bar_gap(1).block(Block::bordered().title(title))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use waymark_controller::watching::{Summary, WatchSpec, WatchStatus};
    use waymark_proto::{Clock, Protocol, RTT_BUCKET_BOUNDS_NS};

    use super::*;

    fn view() -> View {
        let mut recent = Summary::default();
        (recent.counts.sent, recent.counts.received, recent.counts.lost) = (8, 6, 2);
        let mut recent_buckets = vec![0; RTT_BUCKET_BOUNDS_NS.len() + 1];
        (recent_buckets[0], recent_buckets[2]) = (5, 1);
        let target = TargetStatus {
            source: "node/a".into(),
            destination: "node/b".into(),
            protocol: Protocol::Icmp,
            node: "a".into(),
            address: "10.0.0.2".parse().unwrap(),
            port: None,
            state: TargetState::Down { outage: 1, since_unix_ns: 0 },
            clock: Clock::Kernel,
            total: recent.clone(),
            recent,
            recent_buckets,
        };
        let spec = WatchSpec {
            name: "mesh".into(),
            from: vec!["nodes".into()],
            to: vec!["nodes".into()],
            protocol: None,
            interval_us: 1_000_000,
            timeout_us: 1_000_000,
            ipv6: false,
        };
        let watch = WatchStatus { spec, since_unix_ns: 0, targets: vec![target], problems: Vec::new() };
        let list = WatchList {
            api_version: String::new(),
            kind: String::new(),
            at_unix_ns: 0,
            watches: vec![watch],
            outages: Vec::new(),
        };
        View { list, stale: None, selected: TableState::default().with_selected(0) }
    }

    fn screen(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| paint(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_target_loss_and_histogram() {
        let shown = screen(&mut view(), 140, 30);
        for words in ["mesh", "node/a", "down", "25 %", "≤ 50.0 µs", "≤ 200 µs", "q quit"] {
            assert!(shown.contains(words), "{words} is missing:\n{shown}");
        }
        let mut stale = view();
        stale.stale = Some("no controller answers".into());
        assert!(screen(&mut stale, 140, 30).contains("not of now: no controller answers"));
    }

    #[test]
    fn small_screens_and_empty_lists_do_no_harm() {
        for (width, height) in [(1, 1), (20, 5), (80, 10)] {
            screen(&mut view(), width, height);
            let mut empty = view();
            empty.list.watches.clear();
            screen(&mut empty, width, height);
        }
    }
}
