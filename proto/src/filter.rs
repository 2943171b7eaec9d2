//! Filters of packets, as programs of classic BPF.

/// One instruction of classic BPF (`McCanne` and Jacobson, "The BSD Packet Filter", 1993; `struct bpf_insn` of libpcap).
///
/// A filter is a program of them that looks at a packet from its IP header on (`LINKTYPE_RAW`), and returns 0 for a packet that
/// is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterInstruction {
    /// Class, size or operation, and mode or source.
    pub code: u16,
    /// How many instructions to skip if the condition of a jump holds.
    pub jt: u8,
    /// The same if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}
