//! A thread that probes or answers: one for all targets, whatever their number.
//!
//! It waits for the next time of any target, for packets, and for orders. Open loop: probes leave at their
//! times; what the thread was too slow for is counted as missed. What came is read before what waited too long
//! is given up, so that a thread that was held up for a while calls no answer late that was in time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::sync::oneshot;
use waymark_proto::{NetnsInode, Probe, ProbeId, Protocol, Refusal, Responder};

use super::connections::{ConnectError, Connected, Connections};
use super::datagrams::{Datagrams, Heard, Kind};
use super::metrics::ProbeMetrics;
use super::payload::{Nonce, Payload};
use super::responder::Echo;
use super::tally::Scale;
use super::target::{Arrival, Report, Target};
use crate::netns::Netns;
use crate::tracer::now_ns;

/// What there is to do, with the namespaces to do it in.
#[derive(Debug, Default)]
pub struct Work {
    /// Targets.
    pub probes: Vec<(Probe, Netns)>,
    /// Ports that answer.
    pub responders: Vec<(Responder, Netns)>,
}

/// An order to the thread.
#[derive(Debug)]
pub enum Command {
    /// Replaces its work, and tells what of it is not possible.
    Set(Work, oneshot::Sender<Vec<Refusal>>),
    /// Asks for what was counted since this was last asked.
    Report(oneshot::Sender<Vec<Report>>),
}

/// What epoll tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Wake,
    Timer,
    Datagrams(u32),
    Responder(u32),
    Connection(u32),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Wake => (0, 0),
            Self::Timer => (1, 0),
            Self::Datagrams(number) => (2, number),
            Self::Responder(number) => (3, number),
            Self::Connection(number) => (4, number),
        };
        kind << 32 | u64::from(number)
    }

    fn unpack(packed: u64) -> Self {
        let number = packed as u32;
        match packed >> 32 {
            0 => Self::Wake,
            1 => Self::Timer,
            2 => Self::Datagrams(number),
            3 => Self::Responder(number),
            _ => Self::Connection(number),
        }
    }
}

/// Events taken at a time.
const EVENTS: usize = 256;
/// Probes begun at a time before answers are read again.
const AT_ONCE: usize = 64;

/// All that the thread owns. Dropping it closes every socket.
pub struct Engine {
    epoll: Epoll,
    timer: TimerFd,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    nonce: Nonce,
    metrics: ProbeMetrics,
    scale: Scale,
    targets: Targets,
    /// One entry per target: when it has something to do.
    agenda: BinaryHeap<Reverse<(u64, ProbeId)>>,
    /// By the number that epoll tells.
    datagrams: Sockets,
    sockets: HashMap<(NetnsInode, Kind), u32>,
    echoes: HashMap<u32, ((NetnsInode, u16), Echo)>,
    connections: Connections,
    next: u32,
}

impl Engine {
    /// An engine without work.
    pub fn new(
        commands: Receiver<Command>,
        wake: Arc<EventFd>,
        nonce: Nonce,
        metrics: ProbeMetrics,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Wake.pack()))?;
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Timer.pack()))?;
        Ok(Self {
            epoll,
            timer,
            wake,
            commands,
            nonce,
            metrics,
            scale: Scale::default(),
            targets: HashMap::new(),
            agenda: BinaryHeap::new(),
            datagrams: HashMap::new(),
            sockets: HashMap::new(),
            echoes: HashMap::new(),
            connections: Connections::default(),
            next: 0,
        })
    }

    /// Works until nobody can give orders any more.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            // All that came before this time, or before the timer if that is what ended the wait, is read below
            // before anything is given up that waited until then.
            let mut reached = now_ns();
            let timeout = self.sleep_until_due(reached)?;
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                count => count?,
            };
            let mut all_read = count < EVENTS;
            for event in &events[..count] {
                match Token::unpack(event.data()) {
                    Token::Wake => {
                        // Only that it was written matters.
                        let _ = self.wake.read();
                        if !self.obey() {
                            return Ok(());
                        }
                    }
                    Token::Timer => {
                        let _ = self.timer.wait();
                        reached = reached.max(self.agenda.peek().map_or(0, |Reverse((at_ns, _))| *at_ns));
                    }
                    Token::Datagrams(number) => all_read &= self.hear(number),
                    Token::Responder(number) => {
                        if let Some((_, echo)) = self.echoes.get_mut(&number) {
                            echo.serve();
                        }
                    }
                    Token::Connection(number) => self.connected(number),
                }
            }
            self.act(reached, all_read);
        }
    }

    /// Sets the timer for what is due next.
    fn sleep_until_due(&self, now: u64) -> io::Result<EpollTimeout> {
        match self.agenda.peek() {
            Some(&Reverse((at_ns, _))) if at_ns <= now => return Ok(EpollTimeout::ZERO),
            Some(&Reverse((at_ns, _))) => {
                let at = TimeSpec::from(Duration::from_nanos(at_ns));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        Ok(EpollTimeout::NONE)
    }

    /// Does what was due until a time, some at once.
    fn act(&mut self, reached: u64, may_expire: bool) {
        for _ in 0..AT_ONCE {
            let Some(&Reverse((at_ns, id))) = self.agenda.peek() else { return };
            if at_ns > reached {
                return;
            }
            self.agenda.pop();
            let Some((target, netns)) = self.targets.get_mut(&id) else { continue };
            if may_expire {
                for number in target.expire(reached) {
                    self.connections.abandon(Payload { id, number });
                }
            }
            let now = now_ns();
            if let Some(number) = target.begin(now, unix_ns()) {
                let probe = Payload { id, number };
                let sent = send(
                    (&target.probe, netns, probe),
                    (&self.sockets, &self.datagrams),
                    (&mut self.connections, &self.epoll),
                );
                if let Err(reason) = sent {
                    target.failed(number, Some(&reason));
                }
            }
            self.agenda.push(Reverse((target.next_ns().max(at_ns + 1), id)));
        }
    }

    /// Reads a socket; whether nothing is left in it.
    fn hear(&mut self, number: u32) -> bool {
        let Some((_, socket)) = self.datagrams.get_mut(&number) else { return true };
        let (targets, scale) = (&mut self.targets, &self.scale);
        // Departures first: an answer is timed from its probe's.
        socket.read_errors(|probe, heard| tell(targets, scale, probe, heard));
        let mut undated = Vec::new();
        let all_read = socket.read_answers(|probe, heard| {
            let departed = |target: &mut Target| !target.lacks_departure(probe.number);
            if targets.get_mut(&probe.id).is_some_and(|(target, _)| departed(target)) {
                tell(targets, scale, probe, heard);
            } else {
                undated.push((probe, heard, now_ns()));
            }
        });
        if !undated.is_empty() {
            // Their probes left after the first look: by now the stamps are there, if devices on the way make any.
            socket.read_errors(|probe, heard| tell(targets, scale, probe, heard));
        }
        for (probe, heard, read_ns) in undated {
            tell_at(targets, scale, probe, heard, read_ns);
        }
        all_read
    }

    fn connected(&mut self, number: u32) {
        let Some((probe, outcome)) = self.connections.finish(number) else { return };
        let Some((target, _)) = self.targets.get_mut(&probe.id) else { return };
        match outcome {
            Connected::Measured { rtt_ns } => {
                target.answered(probe.number, Arrival::Measured { rtt_ns }, &self.scale);
            }
            Connected::Retried => {
                target.answered(probe.number, Arrival::Read { read_ns: now_ns() }, &self.scale);
            }
            Connected::Refused(error) => target.failed(probe.number, Some(&reason(&error))),
        }
    }

    /// Carries out the orders that are there; whether there may be more.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Set(work, answer)) => {
                    let refusals = self.set(work);
                    // Who asked may be gone; the work is done all the same.
                    let _ = answer.send(refusals);
                }
                Ok(Command::Report(answer)) => {
                    // What was due before is sent or counted as missed first: a report is of all until its time.
                    self.act(now_ns(), false);
                    let at_unix_ns = unix_ns();
                    let targets = self.targets.values_mut();
                    let reports = targets.map(|(target, _)| target.report(at_unix_ns)).collect();
                    let _ = answer.send(reports);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Replaces the work. What stays the same goes on undisturbed.
    fn set(&mut self, work: Work) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        self.close_unused(&work);
        for (responder, netns) in &work.responders {
            if let Err(why) = self.open_responder(responder, netns) {
                refusals.push(Refusal { probe: None, why });
            }
        }
        let mut before = std::mem::take(&mut self.targets);
        self.metrics.retain(work.probes.iter().map(|(probe, _)| probe));
        for (probe, netns) in work.probes {
            let id = probe.id;
            if let Err(why) = self.open_socket(&probe, &netns) {
                refusals.push(Refusal { probe: Some(id), why });
                continue;
            }
            let target = match before.remove(&id) {
                Some((target, old)) if target.probe == probe && old.inode() == netns.inode() => target,
                other => {
                    let series = self.metrics.series(&probe);
                    let first = now_ns() + self.jitter_ns(&probe);
                    let target = Target::new(probe, first, series);
                    match other {
                        Some((old, _)) => target.succeeding(old),
                        None => target,
                    }
                }
            };
            self.targets.insert(id, (target, netns));
        }
        let targets = self.targets.iter();
        self.agenda = targets.map(|(id, (target, _))| Reverse((target.next_ns(), *id))).collect();
        let targets = &self.targets;
        self.connections.abandon_unless(|probe| {
            targets.get(&probe.id).is_some_and(|(target, _)| target.awaits(probe.number))
        });
        refusals
    }

    /// Where within its interval a target is probed: spread over it, the same in each plan of a run.
    fn jitter_ns(&self, probe: &Probe) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (self.nonce.0, probe.id).hash(&mut hasher);
        hasher.finish() % probe.interval_us.saturating_mul(1000).max(1)
    }

    fn close_unused(&mut self, work: &Work) {
        let sockets: HashSet<_> =
            work.probes.iter().map(|(probe, netns)| (netns.inode(), kind(probe))).collect();
        let ports: HashSet<_> =
            work.responders.iter().map(|(responder, netns)| (netns.inode(), responder.port)).collect();
        self.datagrams.retain(|_, (key, _)| sockets.contains(key));
        self.sockets.retain(|key, _| sockets.contains(key));
        self.echoes.retain(|_, (key, _)| ports.contains(key));
        self.connections.retain(|pool| sockets.contains(&pool));
    }

    fn open_socket(&mut self, probe: &Probe, netns: &Netns) -> Result<(), String> {
        let key = (netns.inode(), kind(probe));
        if probe.protocol == Protocol::Tcp || self.sockets.contains_key(&key) {
            return Ok(());
        }
        let opened = Datagrams::open(netns, key.1, self.nonce).map_err(|error| error.to_string())?;
        let socket = opened.map_err(|error| {
            format!(
                "cannot open a socket for {} in network namespace {}: {error}; raw sockets need CAP_NET_RAW",
                probe.protocol,
                netns.name()
            )
        })?;
        let number = self.number();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Datagrams(number).pack());
        self.epoll.add(&socket, event).map_err(|errno| format!("cannot wait for answers: {errno}"))?;
        self.datagrams.insert(number, (key, socket));
        self.sockets.insert(key, number);
        Ok(())
    }

    fn open_responder(&mut self, responder: &Responder, netns: &Netns) -> Result<(), String> {
        let key = (netns.inode(), responder.port);
        if self.echoes.values().any(|(open, _)| *open == key) {
            return Ok(());
        }
        let port = responder.port;
        let opened = Echo::open(netns, port).map_err(|error| error.to_string())?;
        let echoes = opened.map_err(|error| {
            format!("cannot answer at UDP port {port} in network namespace {}: {error}", netns.name())
        })?;
        for echo in echoes {
            let number = self.number();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Responder(number).pack());
            self.epoll.add(&echo, event).map_err(|errno| format!("cannot wait for probes: {errno}"))?;
            self.echoes.insert(number, (key, echo));
        }
        Ok(())
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }
}

fn kind(probe: &Probe) -> Kind {
    Kind { protocol: probe.protocol, ipv6: probe.address.is_ipv6() }
}

type Targets = HashMap<ProbeId, (Target, Netns)>;
type Sockets = HashMap<u32, ((NetnsInode, Kind), Datagrams)>;

/// Sends a probe, or says why it cannot be sent.
fn send(
    (target, netns, probe): (&Probe, &Netns, Payload),
    (numbers, sockets): (&HashMap<(NetnsInode, Kind), u32>, &Sockets),
    (connections, epoll): (&mut Connections, &Epoll),
) -> Result<(), String> {
    if target.protocol == Protocol::Tcp {
        let address = SocketAddr::new(target.address, target.port.unwrap_or_default());
        let token = |number| Token::Connection(number).pack();
        return connections.begin(netns, address, probe, epoll, token).map_err(|error| match error {
            ConnectError::Netns(error) => error.to_string(),
            ConnectError::Io(error) => reason(&error),
        });
    }
    let number = numbers.get(&(netns.inode(), kind(target)));
    let socket = number.and_then(|number| sockets.get(number)).map(|(_, socket)| socket);
    let socket = socket.expect("a target is kept only with its socket");
    socket.send(probe, target.address, target.port).map_err(|error| reason(&error))
}

fn tell(targets: &mut Targets, scale: &Scale, probe: Payload, heard: Heard) {
    tell_at(targets, scale, probe, heard, now_ns());
}

fn tell_at(targets: &mut Targets, scale: &Scale, probe: Payload, heard: Heard, read_ns: u64) {
    let Some((target, _)) = targets.get_mut(&probe.id) else { return };
    match heard {
        Heard::Departed { unix_ns } => target.departed(probe.number, unix_ns),
        Heard::Answered { came_unix_ns } => {
            target.answered(probe.number, Arrival::Packet { read_ns, came_unix_ns }, scale);
        }
        Heard::Refused(errno) => target.failed(probe.number, Some(&words(errno))),
    }
}

/// An error in the words of reports: those of the C library, of which there are few.
fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| words(Errno::from_raw(number)))
}

fn words(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

/// The wall clock, in nanoseconds since the Unix epoch.
fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_epoll() {
        for token in
            [Token::Wake, Token::Timer, Token::Datagrams(u32::MAX), Token::Responder(0), Token::Connection(7)]
        {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    #[test]
    fn errors_are_told_in_words() {
        assert_eq!(reason(&Errno::ECONNREFUSED.into()), "connection refused");
        assert_eq!(words(Errno::EHOSTUNREACH), "no route to host");
    }
}
