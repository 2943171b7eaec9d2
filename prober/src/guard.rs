//! A process that undoes something when the agent dies, however it dies. The only file that calls `fork`.
//!
//! It holds nothing but the end of a pipe, of which the agent has the other, and what it writes to: a setting's file, or a
//! socket of the kernel. Nor does it run any code of the agent's. That a pipe is closed is something that no signal can prevent.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, write};

/// Most that is written: a logger's name has less than 64 bytes, and the order to remove a table less than 200.
const LONGEST: usize = 256;

/// A guard on duty. It stands down when this is dropped: then its owner has undone it.
pub(crate) struct Guard {
    alive: OwnedFd,
    process: Pid,
}

impl Guard {
    /// Sets a guard that writes `words` to `what`, to the beginning if it is a file, should this process die.
    pub(crate) fn set(what: &impl AsRawFd, words: &[u8]) -> io::Result<Self> {
        let mut bytes = [0; LONGEST];
        let room = bytes.get_mut(..words.len()).ok_or(io::ErrorKind::InvalidInput)?;
        room.copy_from_slice(words);
        let (watched, alive) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: other threads may hold locks, so the new process makes system calls alone, and ends without running
        // anything of this one's.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => Ok(Self { alive, process: child }),
            Ok(ForkResult::Child) => {
                stand_guard(watched.as_raw_fd(), what.as_raw_fd(), &bytes[..words.len()])
            }
            Err(error) => Err(io::Error::other(format!("cannot start a process (fork): {error}"))),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It fails only if the guard is gone already, which waiting tells as well.
        let _ = write(&self.alive, &[0]);
        let _ = waitpid(self.process, None);
    }
}

/// Waits for a byte, which is leave to go, or for the end of the pipe, which is that of the agent.
fn stand_guard(watched: RawFd, what: RawFd, words: &[u8]) -> ! {
    // SAFETY: system calls with descriptors of this process and memory that lives to its end. What fails of the first
    // ones leaves a guard that is less inconspicuous.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"waymark-guard".as_ptr());
        // What is sent to the agent's terminal or service is not meant for it.
        libc::setsid();
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        let _ = libc::chdir(c"/".as_ptr());
        // The agent's tables, programs and sockets must not live on here.
        libc::dup2(watched, 0);
        libc::dup2(what, 1);
        libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0);
        let mut byte = 0_u8;
        let left = loop {
            let read = libc::read(0, (&raw mut byte).cast(), 1);
            if read >= 0 || *libc::__errno_location() != libc::EINTR {
                break read;
            }
        };
        if left == 0 {
            let written = libc::pwrite(1, words.as_ptr().cast(), words.len(), 0);
            if written < 0 && *libc::__errno_location() == libc::ESPIPE {
                libc::write(1, words.as_ptr().cast(), words.len());
            }
        }
        libc::_exit(0)
    }
}
