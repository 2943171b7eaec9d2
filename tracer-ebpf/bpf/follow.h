/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Following a packet by its buffer
 *
 * A tunnel or encryption may hide a marker that was seen before on the same host. The buffer is then still
 * the same, so a packet whose headers say that something may be inside is looked up by skb->head.
 *
 * Buffers are re-used at once, so entries must not go stale. They end when a packet is freed, when a packet
 * that was followed turns up with another buffer (pskb_expand_head), and after a second. What is left is a
 * buffer that was freed without a tracepoint and within a second holds a tunnelled packet of somebody else.
 */
#ifndef WAYMARK_FOLLOW_H
#define WAYMARK_FOLLOW_H

#include "match.h"

#define FOLLOW_NS 1000000000ULL

/* What is known of a packet's buffer; 0 if it is not followed. */
static __always_inline struct wm_followed *find_followed(struct sk_buff *skb, __u64 head, __u64 now)
{
	struct wm_followed *f = bpf_map_lookup_elem(&followed, &head);

	if (!f) {
		/* The tunnel may have needed more room in front (skb_cow_head): the packet remembers. */
		__u64 packet = (__u64)skb;
		__u64 *before = bpf_map_lookup_elem(&buffers, &packet);
		__u64 old;

		if (!before)
			return 0;
		old = *before;
		f = bpf_map_lookup_elem(&followed, &old);
	}
	return f && now - f->time_ns <= FOLLOW_NS ? f : 0;
}

static __always_inline void fill_followed(struct wm_record *r, const struct wm_followed *f)
{
	__builtin_memset(r, 0, sizeof(*r));
	r->check = f->check;
	r->seq = f->seq;
	r->netns = f->netns;
	r->match = WM_MATCH_BUFFER;
	r->fragment = f->fragment;
}

/* Clones share a buffer: a tap's copy that is freed must not end the following of the packet itself. */
static __always_inline int shared(struct sk_buff *skb, int probed)
{
	struct skb_shared_info *info = (void *)(of(probed, skb, head) + of(probed, skb, end));

	return (BPF_CORE_READ(info, dataref.counter) & 0xffff) > 1;
}

static __always_inline void unfollow(struct sk_buff *skb, int probed, __u64 head)
{
	__u64 packet = (__u64)skb;

	bpf_map_delete_elem(&buffers, &packet);
	if (!shared(skb, probed))
		bpf_map_delete_elem(&followed, &head);
}

static __always_inline void follow(struct sk_buff *skb, __u64 head, const struct wm_record *r)
{
	struct wm_followed f = {
		.check = r->check,
		.seq = r->seq,
		.netns = r->netns,
		.fragment = r->fragment,
		.len = r->len,
		.time_ns = r->time_ns,
		.hash = r->hash,
	};
	__u64 packet = (__u64)skb;
	__u64 *before = bpf_map_lookup_elem(&buffers, &packet);
	struct wm_followed *known = bpf_map_lookup_elem(&followed, &head);

	if (before && *before != head) {
		__u64 stale = *before;

		bpf_map_delete_elem(&followed, &stale);
		before = 0;
	}
	/* What is followed already, which most packets are after the first hook, needs no new entries. */
	if (known)
		*known = f;
	else if (bpf_map_update_elem(&followed, &head, &f, BPF_ANY))
		count(WM_COUNT_FOLLOW_FULL);
	if (!before && bpf_map_update_elem(&buffers, &packet, &head, BPF_ANY))
		count(WM_COUNT_FOLLOW_FULL);
}

#endif
