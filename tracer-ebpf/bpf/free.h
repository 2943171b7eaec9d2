/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Hook family: the end of a buffer. */
#ifndef WAYMARK_FREE_H
#define WAYMARK_FREE_H

#include "pipeline.h"

/* A packet is dropped. Arguments: skb, location; the reason since 5.17. */
SEC("tp_btf/kfree_skb")
int kfree_skb(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct hook hook = { .point = WM_POINT_KFREE_SKB, .location = ctx[1], .frees = 1, .tells_conntrack = 1 };

	if (bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->reason))
		hook.reason = ctx[2];
	return pipeline(skb, &hook);
}

/*
 * A packet was used up. Arguments: skb; the location since 6.4. Whoever reads packets, often on another processor, does
 * not wait for the first bytes of each to be fetched there: a marked one was met before.
 */
SEC("tp_btf/consume_skb")
int consume_skb(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct hook hook = { .point = WM_POINT_CONSUME_SKB, .frees = 1, .wide = 1, .later = 1 };

	if (bpf_core_field_exists(((struct trace_event_raw_consume_skb *)0)->location))
		hook.location = ctx[1];
	return pipeline(skb, &hook);
}

#endif
