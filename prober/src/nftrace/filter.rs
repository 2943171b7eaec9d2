//! Which trace events are taken, decided in the kernel before they cost memory, a wake-up and a system call.
//!
//! A traced packet reports every rule that matches. Most of those lead from chain to chain, above all where a kube-proxy
//! has written them, and say nothing that the rule which decides does not say too. So of others' chains only the events
//! that decide are taken; of the trace table's own, all, since they carry the packet's headers. Of legacy tables'
//! reports all are taken, since none says what it decides; but what rules of others log by the same way is not.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::Socket;
use socket2::{SockFilter, SockRef};

use super::event::{
    NFGEN_HEADER, NLMSG_HEADER, TABLE, TYPE, TYPE_POLICY, TYPE_RETURN, VERDICT, VERDICT_CODE,
};
use super::table::TABLE_PREFIX;

/// Length of `struct nlattr`, in front of an attribute's value.
const ATTRIBUTE_HEADER: u32 = 4;
/// Verdicts from here on are negative: `NFT_CONTINUE`, `NFT_BREAK`, `NFT_JUMP`, `NFT_GOTO` and `NFT_RETURN`.
const NEGATIVE: u32 = 1 << 31;

const PREFIX: u16 = libc::NFULA_PREFIX as u16;

/// Takes no more than the trace events of nftables that matter from now on.
pub fn attach(socket: &Socket) -> io::Result<()> {
    attach_program(socket, &nftables())
}

/// Takes all trace events of nftables again.
pub fn detach(socket: &Socket) -> io::Result<()> {
    // SAFETY: the socket is open while it is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    SockRef::from(&socket).detach_filter()
}

/// Takes no more than what is logged with a prefix that begins so from now on.
pub fn attach_to_log(socket: &Socket, prefix: [u8; 4]) -> io::Result<()> {
    use Step::{LeaveUnless, Load, Seek};

    attach_program(socket, &program(&[Seek(PREFIX), Load, LeaveUnless(u32::from_be_bytes(prefix))]))
}

fn attach_program(socket: &Socket, program: &[SockFilter]) -> io::Result<()> {
    // SAFETY: the socket is open while it is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    SockRef::from(&socket).attach_filter(program)
}

/// A step of the filter, of which a comparison leads to one of the two ends or to the next step.
enum Step {
    /// Seek this attribute of the message, and keep the message if it has none.
    Seek(u16),
    /// The same, within the attribute that was found.
    SeekWithin(u16),
    /// Load the first word of the attribute's value.
    Load,
    KeepIf(u32),
    LeaveIf(u32),
    LeaveFrom(u32),
    LeaveUnless(u32),
}

fn nftables() -> Vec<SockFilter> {
    use Step::{KeepIf, LeaveFrom, LeaveIf, Load, Seek, SeekWithin};

    let own = TABLE_PREFIX.as_bytes().first_chunk().map(|word| u32::from_be_bytes(*word));
    let own = own.expect("the prefix is longer than a word");
    program(&[
        Seek(TABLE),
        Load,
        KeepIf(own),
        Seek(TYPE),
        Load,
        KeepIf(TYPE_POLICY),
        LeaveIf(TYPE_RETURN),
        Seek(VERDICT),
        SeekWithin(VERDICT_CODE),
        Load,
        LeaveFrom(NEGATIVE),
    ])
}

/// A filter, in classic BPF with its extensions for netlink (`Documentation/networking/filter.rst`).
fn program(steps: &[Step]) -> Vec<SockFilter> {
    let length: usize = steps.iter().map(Step::length).sum();
    let mut program = Vec::with_capacity(length + 2);
    for step in steps {
        // A jump counts from the instruction behind it, which is the step's last.
        let to_keep = length - (program.len() + step.length());
        step.compile(u8::try_from(to_keep).expect("the filter is short"), &mut program);
    }
    let ret = |bytes| SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, bytes);
    program.extend([ret(u32::MAX), ret(0)]);
    program
}

impl Step {
    fn length(&self) -> usize {
        match self {
            Self::Seek(_) => 4,
            Self::SeekWithin(_) => 3,
            Self::Load => 2,
            Self::KeepIf(_) | Self::LeaveIf(_) | Self::LeaveFrom(_) | Self::LeaveUnless(_) => 1,
        }
    }

    /// Appends the step, behind which it is `to_keep` instructions to the end that keeps the message. The one that
    /// leaves it out comes next.
    fn compile(&self, to_keep: u8, program: &mut Vec<SockFilter>) {
        let op = |code: u32, k: u32| SockFilter::new(code as u16, 0, 0, k);
        let branch = |how: u32, yes: u8, no: u8, k: u32| {
            SockFilter::new((libc::BPF_JMP | libc::BPF_K | how) as u16, yes, no, k)
        };
        let jump = |how: u32, yes: u8, k: u32| branch(how, yes, 0, k);
        let set_x = |k: u16| op(libc::BPF_LDX | libc::BPF_IMM, k.into());
        // The accumulator says where to seek, the index register what; the accumulator then says where it is, or 0.
        let seek = |how: i32| {
            let extension = (libc::SKF_AD_OFF + how).cast_unsigned();
            [op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, extension), jump(libc::BPF_JEQ, to_keep, 0)]
        };
        match *self {
            Self::Seek(attribute) => {
                let from = op(libc::BPF_LD | libc::BPF_IMM, (NLMSG_HEADER + NFGEN_HEADER) as u32);
                program.extend([from, set_x(attribute)]);
                program.extend(seek(libc::SKF_AD_NLATTR));
            }
            Self::SeekWithin(attribute) => {
                program.push(set_x(attribute));
                program.extend(seek(libc::SKF_AD_NLATTR_NEST));
            }
            Self::Load => program.extend([
                op(libc::BPF_MISC | libc::BPF_TAX, 0),
                op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, ATTRIBUTE_HEADER),
            ]),
            Self::KeepIf(value) => program.push(jump(libc::BPF_JEQ, to_keep, value)),
            Self::LeaveIf(value) => program.push(jump(libc::BPF_JEQ, to_keep + 1, value)),
            Self::LeaveFrom(value) => program.push(jump(libc::BPF_JGE, to_keep + 1, value)),
            Self::LeaveUnless(value) => program.push(branch(libc::BPF_JEQ, 0, to_keep + 1, value)),
        }
    }
}
