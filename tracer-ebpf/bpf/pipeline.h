/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The pipeline that all hooks share: marked? → armed? → wanted? → ours? → fill the record → submit.
 * Every early exit is counted.
 */
#ifndef WAYMARK_PIPELINE_H
#define WAYMARK_PIPELINE_H

#include "live.h"
#include "metadata.h"
#include "skim.h"

/* The namespace of a device or a socket, whose member `at` is a possible_net_t. */
#define namespace_of(probed, p, at) \
	((probed) ? BPF_CORE_READ(p, at.net, ns.inum) : (p)->at.net->ns.inum)

/* What a hook knows beside the packet. */
struct hook {
	struct net_device *device; /* 0: the packet's own */
	__u64 location;
	__u32 reason;
	__s32 code;
	__u8 point;
	__u8 at_data; /* the network header is where skb->data points, not yet in skb->network_header */
	__u8 frees;   /* the buffer is given back */
	__u8 wide;    /* nothing to record for checks that look lightly */
	__u8 later;   /* no packet is met here first */
	__u8 probed;  /* of a kprobe */
	__u8 joined;  /* told of a packet by who does not have it: the device is not where it is */
	__u8 tells_conntrack; /* one of the hooks at which a packet has been through what may track or translate it */
	__u64 call;   /* the call of a function whose answer is awaited; 0 if none is */
	struct nf_hook_state *state; /* of a function that has one; else 0 */
	__u8 asks_direction;         /* whether the packet is on its way in or out is to be told */
};

static __always_inline void take_in_hand(struct sk_buff *skb)
{
	__u32 only = 0;
	struct wm_in_hand *hand = bpf_map_lookup_elem(&in_hand, &only);

	if (!hand)
		return;
	hand->skb = (__u64)skb;
	hand->jiffies = bpf_jiffies64();
}

/*
 * What later hooks want to know of a packet. With the light set nobody sees the end of most packets, and memory would be
 * taken for that of a packet that is long gone: who looks lightly goes by headers alone.
 */
static __always_inline void remember(struct sk_buff *skb, const struct hook *hook, __u64 head, const struct wm_record *r,
				     int awaits_driver)
{
	if (hook->frees) {
		unfollow(skb, hook->probed, head);
		return;
	}
	note_followed(number_of_buffer(skb, hook->probed));
	note_followed(number_of(skb, hook->probed));
	if (r->match != WM_MATCH_QUOTED)
		follow(skb, head, r);
	if (hook->point == WM_POINT_NETIF_RECEIVE_SKB)
		take_in_hand(skb);
	if (awaits_driver && hook->point == WM_POINT_NET_DEV_START_XMIT) {
		struct wm_flight flight = { .skb = (__u64)skb, .device = (__u64)hook->device };

		bpf_map_update_elem(&in_flight, &flight, r, BPF_ANY);
	}
}

/* Whoever looks lightly is to know later fragments, too. */
static __always_inline void expect_fragments(const struct wm_draft *draft)
{
	last_first_at = (__u32)bpf_jiffies64() | 1;
	if (bpf_map_update_elem(&fragments, &draft->first, &draft->record, BPF_ANY))
		count(WM_COUNT_FOLLOW_FULL);
}

/*
 * Where is the packet? The device says it, which is told then; a socket may still be the sender's in another
 * namespace, as behind a veth before ip_rcv orphans the packet. Only where there is no device, as in local output, or
 * where skb->dev holds something else, as in a UDP receive queue (udp_skb_scratch), the socket is asked.
 * Loads through a wrong pointer read as zero.
 */
static __always_inline __u32 netns_of(struct sk_buff *skb, const struct hook *hook, struct net_device **told)
{
	struct net_device *dev = hook->device ? hook->device : of(hook->probed, skb, dev);
	struct sock *sk = of(hook->probed, skb, sk);
	__u32 netns = 0;

	*told = 0;
	if (dev)
		netns = namespace_of(hook->probed, dev, nd_net);
	if (netns)
		*told = dev;
	else if (sk)
		netns = namespace_of(hook->probed, sk, __sk_common.skc_net);
	return netns;
}

static __always_inline void fill_place(struct sk_buff *skb, const struct hook *hook, struct wm_record *r)
{
	struct net_device *dev;
	__u32 netns = netns_of(skb, hook, &dev);

	if (netns) {
		r->netns = netns;
	} else {
		/* tcp_v4_rcv takes the device away before a listener sees a SYN: it is where it was last. */
		__u64 head = (__u64)of(hook->probed, skb, head);
		struct wm_followed *f = bpf_map_lookup_elem(&followed, &head);

		if (f)
			r->netns = f->netns;
	}
	if (dev) {
		r->ifindex = of(hook->probed, dev, ifindex);
		bpf_probe_read_kernel_str(r->device, sizeof(r->device), &dev->name);
	}
}

/* Is the packet in a namespace of this agent's node? On a device of it, if that matters. */
static __always_inline int is_of_this_node(struct sk_buff *skb, const struct hook *hook, int on_device)
{
	struct net_device *dev;
	__u32 netns = netns_of(skb, hook, &dev);

	return (dev || !on_device) && bpf_map_lookup_elem(&namespaces, &netns);
}

/* May a packet that nobody marked be met here first? */
static __always_inline int may_begin(struct sk_buff *skb, const struct hook *hook)
{
	__be16 protocol = of(hook->probed, skb, protocol);

	/* Messages of netlink and of unix sockets are in packets, too. */
	return !hook->later && !hook->joined && (protocol == bpf_htons(ETH_P_IP) || protocol == bpf_htons(ETH_P_IPV6)) &&
	       is_of_this_node(skb, hook, 0);
}

static __always_inline int submit(struct wm_record *r)
{
	if (bpf_ringbuf_output(&records, r, sizeof(*r), 0))
		return count(WM_COUNT_RING_FULL);
	return count(WM_COUNT_RECORDED);
}

/* With the connection that the packet carries. */
static __always_inline int submit_tracked(struct sk_buff *skb, int probed, const struct wm_record *r, struct nf_conn *connection)
{
	struct wm_tracked *tracked = bpf_ringbuf_reserve(&records, sizeof(*tracked), 0);

	if (!tracked)
		return count(WM_COUNT_RING_FULL);
	tracked->record = *r;
	fill_conntrack(skb, probed, connection, &tracked->conntrack);
	bpf_ringbuf_submit(tracked, 0);
	return count(WM_COUNT_RECORDED);
}

/* With the packet's first bytes, which may be fewer than it has: only the linear part is read. */
static __always_inline int submit_captured(struct sk_buff *skb, int probed, const struct wm_record *r, struct nf_conn *connection,
					   const struct window *w, __u32 offset)
{
	struct wm_captured *captured = bpf_ringbuf_reserve(&records, sizeof(*captured), 0);
	__u32 length;

	if (!captured)
		return count(WM_COUNT_RING_FULL);
	captured->record = *r;
	if (connection)
		fill_conntrack(skb, probed, connection, &captured->conntrack);
	else
		__builtin_memset(&captured->conntrack, 0, sizeof(captured->conntrack));
	captured->reserved = 0;
	/* Last: the verifier of 5.10 forgets the bounds of what has to be put aside. */
	length = offset < w->end ? w->end - offset : 0;
	barrier_var(length);
	if (length > WM_SNAP)
		length = WM_SNAP;
	captured->length = bpf_probe_read_kernel(captured->bytes, length, w->head + offset) ? 0 : length;
	bpf_ringbuf_submit(captured, 0);
	return count(WM_COUNT_RECORDED);
}

/* A call is known by its own number, and by the hook. */
static __always_inline int await(struct sk_buff *skb, const struct hook *hook, struct wm_record *r)
{
	struct wm_call call = { .number = hook->call, .point = hook->point };
	struct nf_hook_state *state = hook->state;

	r->location = (__u64)skb;
	if (state)
		r->reason = BPF_CORE_READ(state, hook) | BPF_CORE_READ(state, pf) << 8;
	if (hook->asks_direction)
		r->reason = BPF_CORE_READ_BITFIELD_PROBED(skb, tc_at_ingress);
	if (bpf_map_update_elem(&calls, &call, r, BPF_ANY))
		return count(WM_COUNT_FOLLOW_FULL);
	return 0;
}

static __always_inline int is_worth_it(struct sk_buff *skb, const struct window *w, __u32 offset, const struct hook *hook)
{
	if (w->gathered || !direct_reads || hook->probed)
		return deserves_more(skb, hook->probed, w->head + offset, 0);
	return deserves_more(skb, 0, hook->at_data ? skb->data : skb->head + skb->network_header, 1);
}

/* A packet that is worth it, whose readable bytes are known. */
static __always_inline int look_closely(struct sk_buff *skb, const struct hook *hook, const struct window *w, __u32 offset,
					struct wm_draft *draft)
{
	const int probed = hook->probed;
	__u64 head = (__u64)of(probed, skb, head);
	struct wm_record *r = &draft->record;
	__u64 now = bpf_ktime_get_ns();
	struct nf_conn *connection;
	enum found found;
	struct wm_armed *a;

	found = live ? match_live(skb, head, w, offset, may_begin(skb, hook), draft, now) : match_at(w, offset, draft, now);
	if (found == NOT_MARKED)
		return count(WM_COUNT_NOT_MARKED);
	if (found == PERHAPS_INSIDE) {
		struct wm_followed *f = find_followed(skb, head, now);

		if (!f)
			return count(WM_COUNT_NOT_MARKED);
		fill_followed(r, f);
	}

	a = bpf_map_lookup_elem(&armed, &r->check);
	if (!a)
		return count(WM_COUNT_NOT_ARMED);
	if (a->until_ns < now)
		return count(WM_COUNT_EXPIRED);

	fill_place(skb, hook, r);
	if (!bpf_map_lookup_elem(&namespaces, &r->netns)) {
		/* It has left this node; whoever gives the buffer back does it out of sight. */
		if (!hook->joined)
			unfollow(skb, probed, head);
		return count(WM_COUNT_FOREIGN_NETNS);
	}

	r->time_ns = now;
	r->buffer = head;
	fill_metadata(skb, probed, r);
	r->location = hook->location;
	r->reason = hook->reason;
	r->code = hook->code;
	r->point = hook->point;
	if (draft->first.family)
		expect_fragments(draft);
	if (a->hooks >= WM_HOOKS_WIDE)
		remember(skb, hook, head, r, a->hooks >= WM_HOOKS_ALL);
	if (hook->wide && a->hooks < WM_HOOKS_WIDE)
		return count(WM_COUNT_NOT_WANTED);
	if (hook->call)
		return await(skb, hook, r);
	connection = hook->tells_conntrack && a->hooks >= WM_HOOKS_WIDE ? connection_of(skb, probed) : 0;
	if (a->capture)
		return submit_captured(skb, probed, r, connection, w, offset);
	return connection ? submit_tracked(skb, probed, r, connection) : submit(r);
}

static __always_inline int pipeline(struct sk_buff *skb, const struct hook *hook)
{
	const int probed = hook->probed;
	struct wm_draft *draft;
	struct window w;
	__u32 offset;

	if (hook->later && !may_be_followed(skb, probed))
		return count(WM_COUNT_NOT_MARKED);
	w = (struct window){ .head = of(probed, skb, head), .end = of(probed, skb, tail) };
	offset = hook->at_data ? of(probed, skb, data) - of(probed, skb, head) : of(probed, skb, network_header);
	if (is_in_pages(skb, probed, &w, offset) && gather(skb, probed, &w, offset, hook->point) &&
	    !(live && offset + LEAST_HEADERS <= w.end) && is_of_this_node(skb, hook, 1))
		count(WM_COUNT_OUT_OF_REACH);
	if (!live && !hook->later && !is_worth_it(skb, &w, offset, hook))
		return count(WM_COUNT_NOT_MARKED);
	draft = take_draft(hook->point);
	if (!draft)
		return count(WM_COUNT_FOLLOW_FULL);
	look_closely(skb, hook, &w, offset, draft);
	draft->taken = 0;
	return 0;
}

#endif
