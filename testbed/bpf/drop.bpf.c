// SPDX-License-Identifier: (Apache-2.0 OR MIT)
// Programs that drop every IP packet and let the rest pass, so that neighbours still resolve: a foreign
// BPF program that somebody forgot, as a fault.

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

#define ETH_HLEN 14
#define ETH_P_IP 0x0008   /* in the order of the wire, on a little-endian machine */
#define ETH_P_IPV6 0xdd86

SEC("xdp")
int wm_xdp_drop(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data;
	unsigned char *end = (void *)(long)ctx->data_end;
	unsigned short type;

	if (data + ETH_HLEN > end)
		return XDP_PASS;
	type = *(unsigned short *)(data + ETH_HLEN - 2);
	return type == ETH_P_IP || type == ETH_P_IPV6 ? XDP_DROP : XDP_PASS;
}

SEC("classifier")
int wm_tcx_drop(struct __sk_buff *skb)
{
	return skb->protocol == ETH_P_IP || skb->protocol == ETH_P_IPV6 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* 0 refuses, for a socket of the cgroup. */
SEC("cgroup_skb/ingress")
int wm_cgroup_drop(struct __sk_buff *skb)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
