// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The floor tier: tracepoints alone, by tp_btf, which hardened kernels without kprobes allow too.
 * One object, because one bad program fails all programs of its object: what may be refused on some
 * kernels belongs into an object of its own.
 */
#include "device.h"
#include "free.h"
#include "joined.h"
#include "deep.h"

/* The kernel checks it: some helpers are for GPL-compatible programs only. */
char LICENSE[] SEC("license") = "GPL";
