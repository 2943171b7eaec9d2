//! tracer-ebpf
