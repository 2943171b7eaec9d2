/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The maps, and the counters that every early exit goes through. */
#ifndef WAYMARK_MAPS_H
#define WAYMARK_MAPS_H

#include "kernel.h"
#include "record.h"

/* Armed checks: id → until when, and which hooks. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct wm_armed);
} armed SEC(".maps");

/* Initial sequence numbers of armed TCP markers → marker. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct wm_marker);
} isns SEC(".maps");

/* Namespaces of this agent's node: inode → 1. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} namespaces SEC(".maps");

/* Buffers that hold marked packets: skb->head → marker. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct wm_followed);
} followed SEC(".maps");

/* The buffer of each marked packet: struct sk_buff → skb->head. A packet may get another buffer. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} buffers SEC(".maps");

/* Packets between net_dev_start_xmit and net_dev_xmit → their record. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct wm_flight);
	__type(value, struct wm_record);
} in_flight SEC(".maps");

/* Calls of functions whose answers are awaited → what was seen of the packet when they began. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct wm_call);
	__type(value, struct wm_record);
} calls SEC(".maps");

/* The marked packet that this processor received last. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct wm_in_hand);
} in_hand SEC(".maps");

/* Records that are being filled in. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WM_DRAFTS);
	__type(key, __u32);
	__type(value, struct wm_draft);
} drafts SEC(".maps");

/* First fragments of marked packets → what was seen of them: later ones have neither marker nor ports. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct wm_fragments);
	__type(value, struct wm_record);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WM_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* A draft that nobody on this processor is at; 0 if there is none. */
static __always_inline struct wm_draft *take_draft(__u32 point)
{
	struct wm_draft *draft;

#pragma unroll
	for (int i = 0; i < WM_DRAFTS / WM_POINTS; i++, point += WM_POINTS) {
		draft = bpf_map_lookup_elem(&drafts, &point);
		if (draft && !draft->taken) {
			draft->taken = point + 1;
			return draft;
		}
	}
	return 0;
}

static __always_inline int count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		*counter += 1;
	return 0;
}

#endif
