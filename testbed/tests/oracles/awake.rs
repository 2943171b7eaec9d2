//! Keeps processors from idling.
//!
//! On some kernels (seen on 6.18 as a guest) perf records nothing of what happens while the idle task of a processor is
//! interrupted, of one processor and not of another: no tracepoint, of no kind, with no word of it. A timer of the neighbour
//! table that ends there drops packets that raw tracepoints tell of and perf does not. So while perf records, each processor
//! has something to do, for which it leaves nothing else waiting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Threads that do nothing, one for each processor, while it lives.
pub struct Awake {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// Returns once all processors are busy.
    pub fn start() -> Self {
        let mine = sched_getaffinity(None).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let processors: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&processor| mine.is_set(processor)).collect();
        let started = Arc::new(Barrier::new(processors.len() + 1));
        let spin = |processor: usize| {
            let (ended, started) = (ended.clone(), started.clone());
            std::thread::spawn(move || {
                let mut only = CpuSet::new();
                only.set(processor);
                sched_setaffinity(None, &only).unwrap();
                yield_to_all();
                started.wait();
                while !ended.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = processors.into_iter().map(spin).collect();
        started.wait();
        Self { ended, threads }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Gives the calling thread `SCHED_IDLE`: whoever wakes up goes first.
fn yield_to_all() {
    let nothing = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads the structure, which lives until it returns.
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const nothing) };
    assert_eq!(failed, 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
}
