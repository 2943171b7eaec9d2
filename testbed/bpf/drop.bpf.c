// SPDX-License-Identifier: (Apache-2.0 OR MIT)
// Programs that drop, send back or change every IP packet and let the rest pass, so that neighbours still resolve: a
// foreign BPF program that somebody forgot, as a fault.

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

#define ETH_HLEN 14
#define ETH_P_IP 0x0008   /* in the order of the wire, on a little-endian machine */
#define ETH_P_IPV6 0xdd86

static inline __attribute__((always_inline)) int is_ip(const struct xdp_md *ctx)
{
	const unsigned char *data = (void *)(long)ctx->data;
	const unsigned char *end = (void *)(long)ctx->data_end;
	unsigned short type;

	if (data + ETH_HLEN > end)
		return 0;
	type = *(const unsigned short *)(data + ETH_HLEN - 2);
	return type == ETH_P_IP || type == ETH_P_IPV6;
}

SEC("xdp")
int wm_xdp_drop(struct xdp_md *ctx)
{
	return is_ip(ctx) ? XDP_DROP : XDP_PASS;
}

SEC("classifier")
int wm_tcx_drop(struct __sk_buff *skb)
{
	return skb->protocol == ETH_P_IP || skb->protocol == ETH_P_IPV6 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Back to where it came from. In a section of its own, by which its loaders find it. */
SEC("xdp.frags")
int wm_xdp_back(struct xdp_md *ctx)
{
	return is_ip(ctx) ? XDP_TX : XDP_PASS;
}

static long (*store_bytes)(struct __sk_buff *skb, __u32 at, const void *from, __u32 len, __u64 flags) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*load_bytes)(const struct __sk_buff *skb, __u32 at, void *to, __u32 len) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*replace_sum)(struct __sk_buff *skb, __u32 at, __u64 from, __u64 to, __u64 flags) =
	(void *)BPF_FUNC_l4_csum_replace;

#define TCP 6
#define IP_PROTOCOL (ETH_HLEN + 9)
#define TCP_DEST (ETH_HLEN + 20 + 2) /* behind a header of IPv4 without options */
#define TCP_SUM (ETH_HLEN + 20 + 16)

/* To port 9, where nobody listens. */
SEC("classifier/port")
int wm_tc_port(struct __sk_buff *skb)
{
	unsigned short nobodys = 0x0900, port;
	unsigned char protocol;

	if (skb->protocol != ETH_P_IP || load_bytes(skb, IP_PROTOCOL, &protocol, 1) || protocol != TCP)
		return TC_ACT_UNSPEC;
	if (load_bytes(skb, TCP_DEST, &port, sizeof(port)))
		return TC_ACT_UNSPEC;
	replace_sum(skb, TCP_SUM, port, nobodys, sizeof(port));
	store_bytes(skb, TCP_DEST, &nobodys, sizeof(nobodys), 0);
	return TC_ACT_UNSPEC;
}

/* 0 refuses, for a socket of the cgroup. */
SEC("cgroup_skb/ingress")
int wm_cgroup_drop(struct __sk_buff *skb)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
