/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Hook family: what tells of a packet without having it. Routes are looked up, and neighbours asked for, by the processor that
 * has the packet in hand: the marked packet that it received last, if its headers now are those that are asked about. Its marker
 * is looked at again, so a buffer that was given back and taken by somebody else is not believed.
 *
 * Of packets that a network card hands over in bunches the last is joined alone: such a lookup not being seen means nothing.
 */
#ifndef WAYMARK_JOINED_H
#define WAYMARK_JOINED_H

#include "pipeline.h"

struct flowi4 {
	__be32 saddr;
	__be32 daddr;
} relocated;

struct in6_addr {
	__u8 bytes[16];
};

struct flowi6 {
	struct in6_addr daddr;
	struct in6_addr saddr;
} relocated;

union fib_gateway {
	__be32 ipv4;
} relocated;

struct fib_nh_common {
	struct net_device *nhc_dev;
	__u8 nhc_gw_family;
	union fib_gateway nhc_gw;
} relocated;

struct fib6_nh {
	struct fib_nh_common nh_common;
} relocated;

struct fib6_result {
	struct fib6_nh *nh;
	__u32 fib6_flags;
} relocated;

struct fib6_table {
	__u32 tb6_id;
} relocated;

struct neighbour {
	struct net_device *dev;
} relocated;

#define IS_IPV4 2       /* AF_INET */
#define RTF_REJECT 0x0200 /* linux/ipv6_route.h: no route, and routes of types that say no */
#define EAGAIN 11       /* fib_table_lookup: this table has no route */

/* The packet that this processor has in hand; 0 if that was a while ago, or the packet was given back since. */
static __always_inline struct sk_buff *packet_in_hand(void)
{
	__u32 only = 0;
	struct wm_in_hand *hand;
	__u64 packet;

	if (!is_lately(last_followed_at))
		return 0;
	hand = bpf_map_lookup_elem(&in_hand, &only);
	if (!hand || !hand->skb || bpf_jiffies64() - hand->jiffies > 1)
		return 0;
	packet = hand->skb;
	return bpf_map_lookup_elem(&buffers, &packet) ? (void *)packet : 0;
}

/* Is a lookup about a packet? For the way that it goes, or for the way back. */
enum asked { OF_OTHERS, THERE, BACK };

static __always_inline int header_of(struct sk_buff *skb, void *bytes, __u32 size)
{
	return bpf_probe_read_kernel(bytes, size, BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header));
}

/* Functions of their own: what they read would take room on the stack that the pipeline needs. */
static __noinline int is_asked(struct sk_buff *skb, __be32 saddr, __be32 daddr)
{
	__be32 header[5];

	if (header_of(skb, header, sizeof(header)) || *(__u8 *)header >> 4 != 4)
		return OF_OTHERS;
	if (header[3] == saddr && header[4] == daddr)
		return THERE;
	return header[3] == daddr && header[4] == saddr ? BACK : OF_OTHERS;
}

static __noinline int is_asked6(struct sk_buff *skb, struct flowi6 *flow)
{
	__u64 header[5], asked[4]; /* a flow has the destination first */

	if (header_of(skb, header, sizeof(header)) || *(__u8 *)header >> 4 != 6 ||
	    bpf_probe_read_kernel(asked, sizeof(struct in6_addr), &flow->daddr) ||
	    bpf_probe_read_kernel(asked + 2, sizeof(struct in6_addr), &flow->saddr))
		return OF_OTHERS;
	return header[1] == asked[2] && header[2] == asked[3] && header[3] == asked[0] && header[4] == asked[1] ?
		       THERE : OF_OTHERS;
}

/* The pipeline for all of them, once. `answer` has a reason in its upper half, and a code. */
static __noinline int join(struct sk_buff *skb, __u32 point, __u64 answer, __u64 location, struct net_device *device)
{
	struct hook hook = {
		.point = point,
		.wide = 1,
		.probed = 1,
		.joined = 1,
		.reason = answer >> 32,
		.code = (__s32)answer,
		.location = location,
		.device = device,
	};

	return skb ? pipeline(skb, &hook) : 0;
}

static __always_inline int join_route(struct sk_buff *skb, __u32 point, __u32 table, int error,
				      struct fib_nh_common *next)
{
	struct net_device *device = 0;
	__u32 gateway = 0;

	if (!error && next) {
		device = BPF_CORE_READ(next, nhc_dev);
		if (BPF_CORE_READ(next, nhc_gw_family) == IS_IPV4)
			gateway = BPF_CORE_READ(next, nhc_gw.ipv4);
	}
	return join(skb, point, (__u64)table << 32 | (__u32)error, gateway, device);
}

/* A table was asked for a route. Those that have none are passed over: the next is asked. */
SEC("tp_btf/fib_table_lookup")
int BPF_PROG(fib_table_lookup, __u32 table, struct flowi4 *flow, struct fib_nh_common *next, int error)
{
	struct sk_buff *skb = packet_in_hand();

	if (!skb || error == -EAGAIN)
		return count(WM_COUNT_NOT_IN_FLIGHT);
	switch (is_asked(skb, flow->saddr, flow->daddr)) {
	case THERE:
		return join_route(skb, WM_POINT_FIB_LOOKUP, table, error, next);
	case BACK:
		return join_route(skb, WM_POINT_FIB_LOOKUP_BACK, table, error, next);
	}
	return count(WM_COUNT_NOT_IN_FLIGHT);
}

SEC("tp_btf/fib6_table_lookup")
int BPF_PROG(fib6_table_lookup, struct net *net, struct fib6_result *result, struct fib6_table *table, struct flowi6 *flow)
{
	struct sk_buff *skb = packet_in_hand();

	if (!skb || result->fib6_flags & RTF_REJECT || is_asked6(skb, flow) != THERE)
		return count(WM_COUNT_NOT_IN_FLIGHT);
	return join_route(skb, WM_POINT_FIB_LOOKUP, table->tb6_id, 0, (void *)&result->nh->nh_common);
}

/* The address of a packet's next hop is not known: 1 if the packet waits for it, or for what comes in its stead. */
SEC("tp_btf/neigh_event_send_done")
int BPF_PROG(neigh_event_send_done, struct neighbour *neighbour, int waits)
{
	struct sk_buff *skb = packet_in_hand();

	if (!skb || BPF_CORE_READ(skb, dev) != neighbour->dev)
		return count(WM_COUNT_NOT_IN_FLIGHT);
	return join(skb, WM_POINT_NEIGH_RESOLUTION, (__u32)waits, 0, neighbour->dev);
}

#endif
