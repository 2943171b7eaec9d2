// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The floor tier: tracepoints alone, by tp_btf, which hardened kernels without kprobes allow too. And the deep tier: functions,
 * which many kernels refuse, program by program, when one is loaded or attached.
 *
 * They are one object, and so share its maps and variables. A bad section or relocation fails an object as a whole: the deep
 * tier has no sections but those that aya knows by name, and relocates the types of the kernel itself alone.
 */
#include "device.h"
#include "free.h"
#include "joined.h"
#include "deep.h"

/* The kernel checks it: some helpers are for GPL-compatible programs only. */
char LICENSE[] SEC("license") = "GPL";
