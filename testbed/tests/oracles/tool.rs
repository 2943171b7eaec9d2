//! A tool that runs beside a check, and is ended whatever happens.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use waymark_prober::netns::Netns;
use waymark_proto::NetnsName;

/// How long a tool may take for anything. Machines under load need some seconds.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A tool while it runs.
pub struct Tool {
    child: Child,
    name: String,
}

impl Tool {
    /// Starts it in a namespace.
    pub fn start(netns: &str, command: &mut Command) -> Self {
        let name = format!("{} in {netns}", command.get_program().display());
        command.stdin(Stdio::piped());
        let inside = Netns::open(&NetnsName::from(netns)).unwrap();
        let child = inside.run(|| command.spawn()).unwrap();
        Self { child: child.unwrap_or_else(|error| panic!("{name}: {error}")), name }
    }

    /// Its standard output.
    pub fn stdout(&mut self) -> impl Read + Send + 'static {
        self.child.stdout.take().expect("asked for a pipe")
    }

    /// Its standard error, line by line.
    pub fn errors(&mut self) -> Lines {
        Lines::of(self.child.stderr.take().expect("asked for a pipe"), &self.name)
    }

    /// Its standard output, line by line.
    pub fn lines(&mut self) -> Lines {
        Lines::of(self.child.stdout.take().expect("asked for a pipe"), &self.name)
    }

    /// Closes its input, at which it ends, and waits until it has.
    pub fn close(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub fn end(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a child has a number");
        // One that ended by itself is still there until it is waited for.
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // It may have been ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a tool prints, as it comes.
pub struct Lines {
    lines: Receiver<String>,
    from: String,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static, from: &str) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let all = BufReader::new(pipe).lines().map_while(Result::ok);
            // Nobody listens any more once the test is over.
            all.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        Self { lines, from: from.to_owned() }
    }

    /// All lines up to one that is wanted, which must come.
    pub fn up_to(&self, wanted: impl Fn(&str) -> bool, what: impl Display) -> Vec<String> {
        let (mut lines, found) = self.within(LIMIT, wanted);
        assert!(
            found,
            "{} does not say {what}, but {:?}",
            self.from,
            lines.split_off(lines.len().saturating_sub(9))
        );
        lines
    }

    /// All lines up to one that is wanted, or those that come within a time; and whether it came.
    pub fn within(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        let found = receive(&self.lines, limit, |line| {
            let found = wanted(&line);
            lines.push(line);
            found
        });
        (lines, found)
    }

    /// All lines until the tool has closed its end.
    pub fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }
}

/// Takes what comes until it is said that it is enough; `false` if that does not happen in time.
pub fn receive<T>(from: &Receiver<T>, limit: Duration, mut enough: impl FnMut(T) -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        match from.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(item) => {
                if enough(item) {
                    return true;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
    }
}
