//! The BPF programs of faults.

/// The compiled object, aligned as its reader wants it.
pub(crate) const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drop.bpf.o"));
