/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Hook family: devices. */
#ifndef WAYMARK_DEVICE_H
#define WAYMARK_DEVICE_H

#include "pipeline.h"

/* Every packet that enters the stack (__netif_receive_skb_core), before taps, tc and bridge. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(netif_receive_skb, struct sk_buff *skb)
{
	struct hook hook = { .point = WM_POINT_NETIF_RECEIVE_SKB, .at_data = 1 };

	return pipeline(skb, &hook);
}

/* A driver hands a packet to GRO, which may put it together with others, or pass it on at once. */
SEC("tp_btf/napi_gro_receive_entry")
int BPF_PROG(napi_gro_receive_entry, struct sk_buff *skb)
{
	struct hook hook = { .point = WM_POINT_GRO_ENTRY, .at_data = 1, .wide = 1 };

	return pipeline(skb, &hook);
}

/* Entry of the device's queueing discipline (__dev_queue_xmit). */
SEC("tp_btf/net_dev_queue")
int BPF_PROG(net_dev_queue, struct sk_buff *skb)
{
	struct hook hook = { .point = WM_POINT_NET_DEV_QUEUE, .wide = 1, .tells_conntrack = 1 };

	return pipeline(skb, &hook);
}

/* A packet leaves a queueing discipline that keeps packets. There may be none to leave. */
SEC("tp_btf/qdisc_dequeue")
int qdisc_dequeue(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[3];
	struct hook hook = { .point = WM_POINT_QDISC_DEQUEUE, .wide = 1, .later = 1 };

	return skb ? pipeline(skb, &hook) : 0;
}

/*
 * The driver is about to be called (xmit_one). Whoever sends by way of a queue was met there, or at an earlier hook, and others
 * send nothing that is marked. What is made between the two is new: segments, which marked packets are too small for, and the
 * copy that netem makes of a clone to damage it, which is not seen here.
 */
SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(net_dev_start_xmit, struct sk_buff *skb, struct net_device *dev)
{
	struct hook hook = { .point = WM_POINT_NET_DEV_START_XMIT, .device = dev, .wide = 1, .later = !live };

	return pipeline(skb, &hook);
}

/*
 * The driver has answered. By now the packet may be freed and its memory hold another one, so nothing
 * of it is read: what net_dev_start_xmit saw is repeated with the answer. That all is well, which is what most
 * answers say, adds nothing to it.
 */
SEC("tp_btf/net_dev_xmit")
int BPF_PROG(net_dev_xmit, struct sk_buff *skb, int code, struct net_device *dev)
{
	struct wm_flight flight = { .skb = (__u64)skb, .device = (__u64)dev };
	struct wm_record *seen;
	struct wm_record r;

	if (!is_lately(last_followed_at) || !followed_lately(number_of(skb, 0)))
		return count(WM_COUNT_NOT_IN_FLIGHT);
	seen = bpf_map_lookup_elem(&in_flight, &flight);
	if (!seen)
		return count(WM_COUNT_NOT_IN_FLIGHT);
	r = *seen;
	bpf_map_delete_elem(&in_flight, &flight);
	if (code == 0) /* NETDEV_TX_OK */
		return 0;
	r.time_ns = bpf_ktime_get_ns();
	r.point = WM_POINT_NET_DEV_XMIT;
	r.code = code;
	return submit(&r);
}

#endif
