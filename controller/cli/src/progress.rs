//! The line that moves while a check runs: on standard error, and only if that is a terminal.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::mpsc;

/// How often the line moves.
const TICK: Duration = Duration::from_millis(100);

/// The line. It is wiped when dropped.
pub(crate) struct Line(ProgressBar);

impl Line {
    /// Shows the line.
    pub(crate) fn start() -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Replaces its words.
    pub(crate) fn say(&self, words: String) {
        self.0.set_message(words);
    }

    /// Replaces its words by each that comes, until no more come.
    pub(crate) async fn follow(&self, mut lines: mpsc::Receiver<String>) {
        while let Some(words) = lines.recv().await {
            self.say(words);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
