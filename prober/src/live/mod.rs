//! Traffic that is there anyway: which of it is traced.
//!
//! A filter is compiled by the controller, with libpcap, to classic BPF, which is all that agents take: what parses the text runs
//! without privileges. Here it becomes a function of the tracer's own object.
//!
//! * `translate`: classic BPF → instructions of the kernel's machine
//! * `object`: the object that has them

mod object;
mod translate;

pub(crate) use object::with_filter;
pub use translate::FilterError;

/// What is traced, instead of markers.
#[derive(Clone, Debug)]
pub struct Live {
    /// Which packets.
    pub filter: Vec<waymark_proto::FilterInstruction>,
    /// How many of them are picked at most.
    pub packets: u32,
}
