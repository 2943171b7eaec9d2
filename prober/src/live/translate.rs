//! From classic BPF, which filters are compiled to, to the instructions of the kernel's machine.
//!
//! The kernel does the same for filters of sockets (`bpf_convert_filter`), but lets no program of a tracepoint have one. What is
//! made here is checked by its verifier like all else, so a filter can at worst be refused.
//!
//! Of the packet's bytes only those are read that are at hand, its first [`LOOK`] at most; a filter that reads beyond does not
//! want the packet, as in the original one that reads beyond its end.

use waymark_proto::FilterInstruction;
use waymark_tracer_ebpf::LOOK;

/// One instruction of the kernel's machine, as it stands in an object (`struct bpf_insn`).
pub type Instruction = [u8; 8];

/// Why a filter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Too many instructions.
    #[error(
        "a filter of {length} instructions, for which the {room} of the kernel's machine that there may be do not suffice"
    )]
    Length {
        /// How many.
        length: usize,
        /// Instructions that there is room for.
        room: usize,
    },
    /// An instruction that is none, or that means something else to each kernel.
    #[error("instruction {at} of the filter, {code:#06x}, is of no known kind")]
    Unknown {
        /// Which, from 0 on.
        at: usize,
        /// Its code.
        code: u16,
    },
    /// It leads nowhere.
    #[error("instruction {at} of the filter leads out of it")]
    Astray {
        /// Which, from 0 on.
        at: usize,
    },
    /// It divides by zero, or uses a cell of its memory that it does not have.
    #[error("instruction {at} of the filter has the operand {k}, which cannot be")]
    Operand {
        /// Which, from 0 on.
        at: usize,
        /// The operand.
        k: u32,
    },
}

// Registers. The first three are the arguments.
const BYTES: u8 = 1;
const LENGTH: u8 = 2;
const WHOLE: u8 = 3;
/// The accumulator, which is what is returned in the end.
const A: u8 = 0;
/// The index register.
const X: u8 = 4;
const OFFSET: u8 = 5;
/// Saved by whoever calls a function, as far as it is needed (`BPF_REG_6` and up).
const ADDRESS: u8 = 6;

// Classes and sizes of both machines (`include/uapi/linux/bpf_common.h`, `bpf.h`).
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const W: u16 = 0x00;
const H: u16 = 0x08;
const B: u16 = 0x10;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
const BY_X: u16 = 0x08;

const ALU32: u8 = 0x04;
const ALU64: u8 = 0x07;
const JMP64: u8 = 0x05;
const JMP32: u8 = 0x06;
const MOV: u8 = 0xb0;
const ADD: u8 = 0x00;
const AND: u8 = 0x50;
const LSH: u8 = 0x60;
const DIV: u8 = 0x30;
const MOD: u8 = 0x90;
const NEG: u8 = 0x80;
const TO_BIG_ENDIAN: u8 = 0xdc;
const JEQ: u8 = 0x10;
const JGT: u8 = 0x20;
const JLT: u8 = 0xa0;
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const BY_REGISTER: u8 = 0x08;
const EXIT: u8 = 0x95;

/// Cells of memory that a filter has.
const CELLS: u32 = 16;

/// Where a jump leads.
#[derive(Clone, Copy)]
enum Target {
    /// To an instruction of the filter.
    Filter(usize),
    /// To where a packet is not wanted.
    Unwanted,
    /// To what fills the room.
    Rest,
}

#[derive(Default)]
struct Program {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Target)>,
}

impl Program {
    fn push(&mut self, code: u8, dst: u8, src: u8, offset: i16, imm: u32) {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = imm.to_le_bytes();
        self.instructions.push([code, dst | src << 4, low, high, a, b, c, d]);
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, imm: u32, to: Target) {
        self.jumps.push((self.instructions.len(), to));
        self.push(code, dst, src, 0, imm);
    }

    fn set(&mut self, register: u8, imm: u32) {
        self.push(ALU32 | MOV, register, 0, 0, imm);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.push(ALU32 | MOV | BY_REGISTER, to, from, 0, 0);
    }

    /// Loads a number of the packet into a register, if all of it is there.
    fn load(&mut self, into: u8, size: u16, k: u32, indexed: bool) {
        let (bytes, load, bits) = match size {
            W => (4, LOAD, 32),
            H => (2, LOAD | 0x08, 16),
            _ => (1, LOAD | 0x10, 0),
        };
        let last = (LOOK as u32) - bytes;
        if indexed {
            // As 32 bits, in which what is added may be negative.
            self.copy(OFFSET, X);
            self.push(ALU32 | ADD, OFFSET, 0, 0, k);
            self.jump(JMP64 | JGT, OFFSET, 0, last, Target::Unwanted);
            self.push(ALU64 | MOV | BY_REGISTER, ADDRESS, OFFSET, 0, 0);
            self.push(ALU64 | ADD, ADDRESS, 0, 0, bytes);
            self.jump(JMP64 | JGT | BY_REGISTER, ADDRESS, LENGTH, 0, Target::Unwanted);
            self.push(ALU64 | MOV | BY_REGISTER, ADDRESS, BYTES, 0, 0);
            self.push(ALU64 | ADD | BY_REGISTER, ADDRESS, OFFSET, 0, 0);
            self.push(load, into, ADDRESS, 0, 0);
        } else if let Some(offset) = i16::try_from(k).ok().filter(|_| k <= last) {
            self.jump(JMP64 | JLT, LENGTH, 0, k + bytes, Target::Unwanted);
            self.push(load, into, BYTES, offset, 0);
        } else {
            // No length is more than what may be looked at. As a condition, so that what follows is within reach.
            self.jump(JMP64 | JLT, LENGTH, 0, LOOK as u32 + 1, Target::Unwanted);
            return;
        }
        if bits != 0 {
            self.push(TO_BIG_ENDIAN, into, 0, 0, bits);
        }
    }
}

/// Translates a filter. What is returned fills the room: so many instructions of the kernel's machine.
pub fn translate(filter: &[FilterInstruction], room: usize) -> Result<Vec<Instruction>, FilterError> {
    let too_long = || FilterError::Length { length: filter.len(), room };
    let mut program = Program::default();
    // What is behind the filter must be within reach of something, or the verifier refuses it; nobody gets there.
    program.jump(JMP64 | JEQ, BYTES, 0, 0, Target::Rest);
    program.jump(JMP64 | JEQ, BYTES, 0, 0, Target::Unwanted);
    program.set(A, 0);
    program.set(X, 0);
    let mut starts = Vec::with_capacity(filter.len());
    for (at, instruction) in filter.iter().enumerate() {
        starts.push(program.instructions.len());
        one(&mut program, filter.len(), at, *instruction)?;
    }
    if filter.last().is_none_or(|last| last.code & 0x07 != RET) {
        return Err(FilterError::Astray { at: filter.len().saturating_sub(1) });
    }
    let unwanted = program.instructions.len();
    program.set(A, 0);
    program.push(EXIT, 0, 0, 0, 0);
    let rest = program.instructions.len();
    if rest >= room {
        return Err(too_long());
    }
    while program.instructions.len() + 1 < room {
        program.set(A, 0);
    }
    program.push(EXIT, 0, 0, 0, 0);
    for (from, target) in program.jumps {
        let to = match target {
            Target::Filter(at) => starts[at],
            Target::Unwanted => unwanted,
            Target::Rest => rest,
        };
        // Both are within the room, which is smaller than what a jump can skip.
        let offset = i16::try_from(to - from - 1).map_err(|_| too_long())?;
        program.instructions[from][2..4].copy_from_slice(&offset.to_le_bytes());
    }
    Ok(program.instructions)
}

fn one(
    program: &mut Program,
    length: usize,
    at: usize,
    FilterInstruction { code, jt, jf, k }: FilterInstruction,
) -> Result<(), FilterError> {
    let unknown = FilterError::Unknown { at, code };
    let operand = FilterError::Operand { at, k };
    let cell = || {
        let offset = u32::try_from(LOOK).ok().filter(|_| k < CELLS).map(|look| look + 4 * k);
        offset.and_then(|offset| i16::try_from(offset).ok()).ok_or(FilterError::Operand { at, k })
    };
    let ahead = |skipped: usize| {
        let target = at.checked_add(1).and_then(|next| next.checked_add(skipped)).filter(|&at| at < length);
        target.map(Target::Filter).ok_or(FilterError::Astray { at })
    };
    let (class, size, mode) = (code & 0x07, code & 0x18, code & 0xe0);
    let into = if class == LDX { X } else { A };
    match (class, mode) {
        (LD, ABS) if size != 0x18 && i32::try_from(k).is_ok() => program.load(A, size, k, false),
        (LD, IND) if size != 0x18 => program.load(A, size, k, true),
        // The length of an IPv4 header, from the byte in which it is told in words.
        (LDX, MSH) if size == B => {
            program.load(X, B, k, false);
            program.push(ALU32 | AND, X, 0, 0, 0x0f);
            program.push(ALU32 | LSH, X, 0, 0, 2);
        }
        (LD | LDX, IMM) if size == W => program.set(into, k),
        (LD | LDX, MEM) if size == W => program.push(LOAD, into, BYTES, cell()?, 0),
        (LD | LDX, LEN) if size == W => program.copy(into, WHOLE),
        (ST, IMM) if size == W => program.push(STORE, BYTES, A, cell()?, 0),
        (STX, IMM) if size == W => program.push(STORE, BYTES, X, cell()?, 0),
        (ALU, _) => {
            let operation = u8::try_from(code & 0xf0).map_err(|_| unknown.clone())?;
            let divides = operation == DIV || operation == MOD;
            match operation {
                NEG if code & BY_X == 0 => program.push(ALU32 | NEG, A, 0, 0, 0),
                _ if operation > 0xa0 || operation == NEG => return Err(unknown),
                _ if code & BY_X != 0 => {
                    if divides {
                        program.jump(JMP32 | JEQ, X, 0, 0, Target::Unwanted);
                    }
                    program.push(ALU32 | operation | BY_REGISTER, A, X, 0, 0);
                }
                _ if divides && k == 0 => return Err(operand),
                LSH | 0x70 if k > 31 => return Err(operand),
                _ => program.push(ALU32 | operation, A, 0, 0, k),
            }
        }
        (JMP, _) => {
            let condition = u8::try_from(code & 0xf0).map_err(|_| unknown.clone())?;
            match condition {
                0 => program.jump(JMP64, 0, 0, 0, ahead(usize::try_from(k).unwrap_or(usize::MAX))?),
                // Equal, greater, not less, has a bit of.
                0x10..=0x40 => {
                    let by_x = code & BY_X != 0;
                    let (other, imm) = if by_x { (X, 0) } else { (0, k) };
                    let source = if by_x { BY_REGISTER } else { 0 };
                    program.jump(JMP32 | condition | source, A, other, imm, ahead(jt.into())?);
                    program.jump(JMP64, 0, 0, 0, ahead(jf.into())?);
                }
                _ => return Err(unknown),
            }
        }
        (RET, _) => {
            match code & 0x18 {
                0x00 => program.set(A, k),
                0x10 => {}
                _ => return Err(unknown),
            }
            program.push(EXIT, 0, 0, 0, 0);
        }
        (MISC, _) if code & 0xf8 == 0x00 => program.copy(X, A),
        (MISC, _) if code & 0xf8 == 0x80 => program.copy(A, X),
        _ => return Err(unknown),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
