/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Packets whose headers are not, or not all, in the linear part of their buffer. Real network cards leave larger packets in
 * pages, and the stack pulls headers to the front one by one as it needs them (pskb_may_pull). No helper of tracepoints
 * reads pages, but the kernel has all memory mapped in one piece.
 */
#ifndef WAYMARK_PAGES_H
#define WAYMARK_PAGES_H

#include "maps.h"

/* Where the kernel keeps the addresses of all `struct page` and of all memory; 0 if it has no such variables. */
const volatile __u64 vmemmap_base_at = 0;
const volatile __u64 page_offset_base_at = 0;

#define PAGE_SHIFT 12

/* The readable bytes of a packet, by offsets from the start of its buffer. */
struct window {
	unsigned char *head;
	__u32 end;
	__u8 gathered; /* `head` is not that of the buffer */
};

/* A packet's first bytes in one piece, for each program that may be at work on a processor. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WM_POINTS);
	__type(key, __u32);
	__type(value, __u8[WM_SNAP + WM_SNAP]);
} gathered SEC(".maps");

/* The address at which a page's memory is mapped (page_address). */
static __always_inline __u64 address_of(__u64 page)
{
	__u64 pages = 0, memory = 0;

	if (!vmemmap_base_at || !page_offset_base_at || (page & 1))
		return 0;
	if (bpf_probe_read_kernel(&pages, sizeof(pages), (void *)vmemmap_base_at) ||
	    bpf_probe_read_kernel(&memory, sizeof(memory), (void *)page_offset_base_at))
		return 0;
	return memory + (((page - pages) / bpf_core_type_size(struct page)) << PAGE_SHIFT);
}

/*
 * Puts the bytes from an offset of the buffer on together: what is left of the linear part, and what follows it in the first
 * page. Offsets stay what they are.
 */
static __always_inline int gather(struct sk_buff *skb, int probed, struct window *w, __u32 offset, __u32 point)
{
	struct skb_shared_info *info = (void *)(of(probed, skb, head) + of(probed, skb, end));
	struct fragment fragment = {};
	__u32 linear = offset < w->end ? w->end - offset : 0;
	__u32 skipped = offset < w->end ? 0 : offset - w->end;
	__u32 rest;
	__u8 *bytes;
	__u64 page, address = 0;

	bytes = bpf_map_lookup_elem(&gathered, &point);
	if (!bytes || linear >= WM_SNAP)
		return -1;
	if (bpf_probe_read_kernel(&fragment, sizeof(fragment), &info->frags[0]) || skipped >= fragment.length)
		return -1;
	page = address_of(fragment.page);
	if (!page)
		return -1;
	if (linear && bpf_probe_read_kernel(bytes, linear, w->head + offset))
		return -1;
	rest = fragment.length - skipped;
	if (rest > WM_SNAP)
		rest = WM_SNAP;
	if (bpf_probe_read_kernel(bytes + linear, rest, (void *)(page + fragment.offset + skipped)))
		return -1;
	/* The verifier would not let a map's value be left with an offset: read back, its address is a number. */
	bpf_probe_read_kernel(&address, sizeof(address), &bytes);
	w->head = (void *)(address - offset);
	w->end = offset + linear + rest;
	w->gathered = 1;
	return 0;
}

#endif
