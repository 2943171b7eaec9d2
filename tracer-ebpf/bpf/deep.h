/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Hook family: functions, for what no tracepoint tells. Each is a row here and one of `FUNCTIONS` in src/deep.rs, with four
 * programs of which two at most are loaded: fentry and fexit, or kprobe and kretprobe.
 *
 * When a function begins, its packet goes through the pipeline, and what is seen of it waits for the answer: when the function
 * has returned, the packet may be freed and its memory hold another one. The sighting has the time of the beginning.
 */
#ifndef WAYMARK_DEEP_H
#define WAYMARK_DEEP_H

#include "pipeline.h"

/*
 * How many arguments each function has in this kernel, of those that answer: behind them, in the context of fexit, stands the
 * answer. The helper that finds it came with 5.17. Written before the programs are loaded, from the kernel's BTF.
 */
const volatile __u8 arguments[WM_DEEP_POINTS] = {};

/* A load at a constant offset, which the compiler may not make one of many: the verifier allows no other of a context. */
#define nth_of_context(n)                                                                           \
	case n:                                                                                     \
		asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(value) : "r"(ctx), "i"((n) * 8));      \
		break

static __always_inline __s64 answer_of(__u64 *ctx, __u32 point)
{
	__s64 value = 0;

	switch (arguments[point - WM_POINT_DEEP]) {
	nth_of_context(1);
	nth_of_context(2);
	nth_of_context(3);
	nth_of_context(4);
	nth_of_context(5);
	nth_of_context(6);
	nth_of_context(7);
	nth_of_context(8);
	}
	return value;
}

/*
 * The route that a packet was given: who takes the packet next, and the route's error. That is no error of who looks for
 * routes: it is what routes of some types are for, and no route is one of them. Whoever looks for a route does not free the
 * packet.
 */
static __always_inline void tell_route(struct sk_buff *skb, struct wm_record *r)
{
	/* The lowest bit says who counts it. */
	struct dst_entry *dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~1UL);

	r->reason = dst ? BPF_CORE_READ(dst, error) : 0;
	r->location = dst ? (__u64)BPF_CORE_READ(dst, input) : 0;
}

/* Tells a call with its answer. */
static __always_inline int answered(__u64 number, __u32 point, __s64 value, int routes)
{
	struct wm_call call = { .number = number, .point = point };
	struct wm_record *seen;

	if (!is_lately(last_followed_at))
		return count(WM_COUNT_NOT_IN_FLIGHT);
	seen = bpf_map_lookup_elem(&calls, &call);
	if (!seen)
		return count(WM_COUNT_NOT_IN_FLIGHT);
	/* An end that was missed leaves an entry that is nobody's: no call takes that long. */
	if (bpf_ktime_get_ns() - seen->time_ns > FOLLOW_NS) {
		bpf_map_delete_elem(&calls, &call);
		return count(WM_COUNT_NOT_IN_FLIGHT);
	}
	seen->code = value;
	if (routes)
		tell_route((void *)seen->location, seen);
	else
		seen->location = 0;
	submit(seen);
	bpf_map_delete_elem(&calls, &call);
	return 0;
}

/*
 * The stack tells calls from one another: where a function's return address was, no other that is under way has its own. It is
 * popped when the kretprobe runs; where return addresses come in a register, nothing was pushed.
 */
#if defined(__TARGET_ARCH_x86)
#define POPPED 8
#else
#define POPPED 0
#endif

/*
 * The pipeline for all functions, once: as a function that is called it makes the object a tenth as large. It knows packets by
 * their address alone, as a kprobe does.
 */
static __noinline int look_at(struct sk_buff *skb, __u32 point, __u64 call, struct nf_hook_state *state, __u32 asks_direction)
{
	struct hook hook = {
		.point = point,
		.wide = 1,
		.probed = 1,
		.call = call,
		.state = state,
		.asks_direction = asks_direction,
	};

	return skb ? pipeline(skb, &hook) : 0;
}

/* An argument of fentry as a number: what the verifier knows of its type it would ask for wherever it is used. */
static __always_inline void *nth_argument(__u64 *ctx, int nth)
{
	void *argument = 0;

	bpf_probe_read_kernel(&argument, sizeof(argument), &ctx[nth - 1]);
	return argument;
}

#define FENTRY(name, number, nth, waits, state, asks_direction)                                     \
	SEC("fentry/" #name)                                                                        \
	int fentry_##name(__u64 *ctx)                                                               \
	{                                                                                           \
		struct sk_buff *skb = nth_argument(ctx, nth);                                       \
                                                                                                    \
		return look_at(skb, WM_POINT_##number, (waits) ? (__u64)skb : 0,                    \
			       (state) ? nth_argument(ctx, 2) : 0, asks_direction);                 \
	}

#define KPROBE(name, number, nth, waits, state, asks_direction)                                     \
	SEC("kprobe/" #name)                                                                        \
	int kprobe_##name(struct pt_regs *ctx)                                                      \
	{                                                                                           \
		return look_at((void *)PT_REGS_PARM##nth(ctx), WM_POINT_##number,                   \
			       (waits) ? PT_REGS_SP(ctx) : 0,                                       \
			       (state) ? (void *)PT_REGS_PARM2(ctx) : 0, asks_direction);           \
	}

#define FEXIT(name, number, nth, routes)                                                            \
	SEC("fexit/" #name)                                                                         \
	int fexit_##name(__u64 *ctx)                                                                \
	{                                                                                           \
		__u64 call = (__u64)nth_argument(ctx, nth);                                         \
                                                                                                    \
		return answered(call, WM_POINT_##number, answer_of(ctx, WM_POINT_##number), routes); \
	}

#define KRETPROBE(name, number, routes)                                                             \
	SEC("kretprobe/" #name)                                                                     \
	int kretprobe_##name(struct pt_regs *ctx)                                                   \
	{                                                                                           \
		return answered(PT_REGS_SP(ctx) - POPPED, WM_POINT_##number, PT_REGS_RC(ctx), routes); \
	}

/* What is told is that the function was called with a packet, which is its argument `nth`. */
#define CALLED(name, number, nth)                                                                   \
	FENTRY(name, number, nth, 0, 0, 0)                                                                \
	KPROBE(name, number, nth, 0, 0, 0)

/* Its answer is told, too. */
#define ANSWERS(name, number, nth)                                                                  \
	FENTRY(name, number, nth, 1, 0, 0)                                                                \
	FEXIT(name, number, nth, 0)                                                                 \
	KPROBE(name, number, nth, 1, 0, 0)                                                                \
	KRETPROBE(name, number, 0)

/* It gives the packet a route: the record's `reason` is the route's error, its `location` the function that comes next. */
#define ROUTES(name, number, nth)                                                                   \
	FENTRY(name, number, nth, 1, 0, 0)                                                                \
	FEXIT(name, number, nth, 1)                                                                 \
	KPROBE(name, number, nth, 1, 0, 0)                                                                \
	KRETPROBE(name, number, 1)

/* Its second argument is netfilter's state: the record's `reason` has its hook, and from the ninth bit on its family. */
#define FILTERS(name, number)                                                                       \
	FENTRY(name, number, 1, 1, 1, 0)                                                            \
	FEXIT(name, number, 1, 0)                                                                   \
	KPROBE(name, number, 1, 1, 1, 0)                                                            \
	KRETPROBE(name, number, 0)

/* It is called for packets that come in and for such that go out: the record's `reason` is 1 for those that come in. */
#define BOTH_WAYS(name, number)                                                                     \
	FENTRY(name, number, 1, 1, 0, 1)                                                            \
	FEXIT(name, number, 1, 0)                                                                   \
	KPROBE(name, number, 1, 1, 0, 1)                                                            \
	KRETPROBE(name, number, 0)

ANSWERS(fib_validate_source, FIB_VALIDATE_SOURCE, 1)
ROUTES(ip_route_input_noref, IP_ROUTE_INPUT, 1)
ROUTES(ip6_route_input, IP6_ROUTE_INPUT, 1)

FILTERS(nf_hook_slow, NF_HOOK_SLOW)
FILTERS(nf_conntrack_in, NF_CONNTRACK_IN)
ANSWERS(__nf_conntrack_confirm, NF_CONNTRACK_CONFIRM, 1)

ANSWERS(netif_receive_generic_xdp, XDP_GENERIC, 1)
BOTH_WAYS(tcf_classify, TCF_CLASSIFY)
ANSWERS(tcf_classify_ingress, TCF_CLASSIFY_INGRESS, 1)

CALLED(br_handle_frame_finish, BR_HANDLE_FRAME_FINISH, 3)
CALLED(br_flood, BR_FLOOD, 2)

CALLED(ip_finish_output2, IP_FINISH_OUTPUT2, 3)
CALLED(ip6_finish_output2, IP6_FINISH_OUTPUT2, 3)
ANSWERS(__neigh_event_send, NEIGH_EVENT_SEND, 2)

CALLED(ip_protocol_deliver_rcu, IP_PROTOCOL_DELIVER, 2)
CALLED(ip6_protocol_deliver_rcu, IP6_PROTOCOL_DELIVER, 2)
ANSWERS(sk_filter_trim_cap, SK_FILTER, 2)

CALLED(vxlan_rcv, VXLAN_RCV, 2)

#endif
