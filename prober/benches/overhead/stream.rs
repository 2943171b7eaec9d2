//! A stream of small datagrams, as fast as one processor sends and forwards them.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use waymark_prober::netns::Netns;

/// With headers of Ethernet, IP and UDP the frame has 64 bytes.
const PAYLOAD: [u8; 22] = [0x5a; 22];
/// Datagrams per system call.
const BATCH: usize = 64;
/// The receiver must not be what loses packets.
const RECEIVE_BUFFER: usize = 256 << 20;

/// Where a stream begins or ends.
#[derive(Clone)]
pub struct End {
    pub netns: Netns,
    pub address: SocketAddr,
}

/// A sender and a receiver on a processor each.
///
/// While packets are sent the receiver does not sleep: its sender would have to wake it, which costs several times what a
/// packet does, and the more often the slower the sender is.
pub struct Stream {
    sender: UdpSocket,
    received: Arc<AtomicU64>,
    sending: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    receiver: Option<JoinHandle<()>>,
}

/// Moves the calling thread to a processor, as long as there are two.
fn on_processor(number: usize) {
    let mut set = CpuSet::new();
    set.set(number).expect("a small number");
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &set) {
        eprintln!("not on processor {number}: {error}");
    }
}

/// What the calling thread has used.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}

impl Stream {
    pub fn open(from: &End, to: &End) -> Self {
        let bind = |end: &End| {
            let address = end.address;
            end.netns.run(|| UdpSocket::bind(address)).expect("root enters").expect("the port is free")
        };
        let (sender, sink) = (bind(from), bind(to));
        sender.connect(to.address).expect("there is a route");
        setsockopt(&sink, sockopt::RcvBufForce, &RECEIVE_BUFFER).expect("root may");
        sink.set_read_timeout(Some(Duration::from_millis(50))).expect("it is set");
        let (received, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let sending = Arc::<AtomicBool>::default();
        let (count, ended, hurry) = (Arc::clone(&received), Arc::clone(&stop), Arc::clone(&sending));
        let reading = std::thread::spawn(move || {
            on_processor(1);
            while !ended.load(Ordering::Relaxed) {
                let waits = !hurry.load(Ordering::Relaxed);
                count.fetch_add(receive(&sink, waits), Ordering::Relaxed);
            }
        });
        Self { sender, received, sending, stop, receiver: Some(reading) }
    }

    /// Sends for a while. Gives back packets that arrived for each second that the sender's processor worked.
    pub fn run(&self, time: Duration) -> f64 {
        let sender = self.sender.try_clone().expect("a descriptor is left");
        let before = self.received.load(Ordering::Relaxed);
        self.sending.store(true, Ordering::Relaxed);
        let sending = std::thread::spawn(move || {
            on_processor(0);
            let (started, used) = (Instant::now(), processor_time());
            let mut sent = 0;
            while started.elapsed() < time {
                sent += send(&sender);
            }
            (sent, processor_time().saturating_sub(used))
        });
        let (sent, took) = sending.join().expect("it sends");
        // What was sent is in the receiver's buffer already.
        let mut arrived = self.received.load(Ordering::Relaxed) - before;
        let patience = Instant::now();
        while arrived < sent && patience.elapsed() < Duration::from_secs(1) {
            std::thread::yield_now();
            arrived = self.received.load(Ordering::Relaxed) - before;
        }
        self.sending.store(false, Ordering::Relaxed);
        assert!(arrived * 100 >= sent * 99, "{arrived} of {sent} arrived: the receiver is too slow");
        f64::from(u32::try_from(arrived).unwrap_or(u32::MAX)) / took.as_secs_f64()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.take() {
            drop(receiver.join());
        }
    }
}

fn send(socket: &UdpSocket) -> u64 {
    let mut iovec = libc::iovec { iov_base: PAYLOAD.as_ptr().cast_mut().cast(), iov_len: PAYLOAD.len() };
    // SAFETY: all zeros are a valid `mmsghdr`.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_iov = &raw mut iovec;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the headers and the vector behind them live until the call returns; the kernel reads the payload only.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
    u64::try_from(sent).unwrap_or(0)
}

fn receive(socket: &UdpSocket, waits: bool) -> u64 {
    // SAFETY: all zeros are a valid `mmsghdr`; without a vector nothing is copied.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    let flags = if waits { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
    // SAFETY: the headers live until the call returns, which either flag ends with what is there.
    let received = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut())
    };
    u64::try_from(received).unwrap_or(0)
}
