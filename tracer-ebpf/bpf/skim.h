/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * A first look: does a packet deserve a second one? Every packet of the machine is looked at, at every hook, so this
 * reads its first bytes once, keeps to what costs a few nanoseconds, and lets go of all but those that might be marked.
 * It never lets go of one that is.
 */
#ifndef WAYMARK_SKIM_H
#define WAYMARK_SKIM_H

#include "live.h"

/* An IPv6 header, one of UDP, ICMP or the like, and the first bytes behind it. */
#define SKIMMED 56

/*
 * Whether this kernel lets programs read packets through skb->head as they read the packet's own members: half as dear as
 * the helper. Written before the programs are loaded, so that the verifier does not see the other way.
 */
const volatile __u8 direct_reads = 0;

/*
 * Which buffers and packets were followed lately, by a hash of their address: when, in jiffies. Two may share a slot, and
 * then the maps tell. Ten thousand jiffies are at least ten seconds, however long one is: so long a packet may wait for
 * its reader.
 */
#define SLOT_BITS 14
#define LATELY 10000
static __u32 followed_at[1 << SLOT_BITS];
/* The same of any. While nothing is under way nobody needs to be asked about. Taken back once nobody follows any more. */
static __u32 last_followed_at SEC(".data.followed");

/* And of the first fragments of marked packets. While there was none, no later one is anybody's. */
static __u32 last_first_at;

/* Newer verifiers know what skb->head points at, and then calculate with it as with a pointer only. */
static __always_inline __u64 buffer_of(struct sk_buff *skb)
{
	__u64 head = 0;

	bpf_probe_read_kernel(&head, sizeof(head), &skb->head);
	return head;
}

static __always_inline __u64 address_of_slots(void)
{
	void *slots = followed_at;
	__u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &slots);
	return address;
}

/* A number for a packet: the difference of two pointers is one. From a number no pointer may be taken. */
static __always_inline __u64 number_of(struct sk_buff *skb, int probed)
{
	return (__u64)skb - (probed ? address_of_slots() : (__u64)followed_at);
}

/* One for its buffer. Where it is a pointer for the verifier it is read as one, which needs no helper. */
static __always_inline __u64 number_of_buffer(struct sk_buff *skb, int probed)
{
	if (direct_reads && !probed)
		return (__u64)skb->head - (__u64)followed_at;
	return buffer_of(skb) - address_of_slots();
}

static __always_inline __u32 *slot(__u64 number)
{
	return &followed_at[(number * 0x9e3779b97f4a7c15ULL) >> (64 - SLOT_BITS)];
}

static __always_inline void note_followed(__u64 number)
{
	/* 0 stands for never. */
	*slot(number) = last_followed_at = (__u32)bpf_jiffies64() | 1;
}

static __always_inline int is_lately(__u32 at)
{
	return at && (__u32)bpf_jiffies64() - at + 1 <= LATELY;
}

static __always_inline int followed_lately(__u64 number)
{
	return is_lately(*slot(number));
}

/* May the packet, or one that shares its buffer, have been followed? */
static __always_inline int may_be_followed(struct sk_buff *skb, int probed)
{
	return is_lately(last_followed_at) &&
	       (followed_lately(number_of(skb, probed)) || followed_lately(number_of_buffer(skb, probed)));
}

enum skimmed { LET_GO, LOOK_CLOSER, LOOK_INSIDE };

/* Headers behind an IP header that starts at `b`. */
static __always_inline enum skimmed skim_transport(const __u8 *b, __u32 l4, __u8 protocol)
{
	switch (protocol) {
	case PROTO_UDP:
	case PROTO_ICMP:
	case PROTO_ICMPV6: {
		__u32 payload = *(__u32 *)(b + l4 + 8);

		if (payload == bpf_htonl(MAGIC))
			return LOOK_CLOSER;
		if (protocol == PROTO_UDP)
			/* RFC 7348: of the flags only I is set, and what is reserved is zero. */
			return payload == bpf_htonl(0x08000000) ? LOOK_INSIDE : LET_GO;
		/* Neither question nor answer: an error, which quotes somebody. */
		if (protocol == PROTO_ICMP)
			return b[l4] != 0 && b[l4] != 8 ? LOOK_CLOSER : LET_GO;
		return b[l4] < 128 ? LOOK_CLOSER : LET_GO;
	}
	case PROTO_FRAGMENT:
		return LOOK_CLOSER;
	case PROTO_TCP:
		return b[l4 + 13] & (TCP_SYN | TCP_RST) ? LOOK_CLOSER : LET_GO;
	}
	return LET_GO;
}

/* The IP header that starts at `b`. Tells where the next header starts, and which. */
static __always_inline enum skimmed skim_ip(const __u8 *b, __u32 *l4, __u8 *protocol)
{
	if (b[0] == 0x45) {
		*l4 = 20;
		*protocol = b[9];
		/* A later fragment. */
		if (*(__u16 *)(b + 6) & bpf_htons(0x1fff))
			return is_lately(last_first_at) ? LOOK_CLOSER : LET_GO;
		return skim_transport(b, 20, b[9]);
	}
	if (b[0] >> 4 == 6) {
		*l4 = 40;
		*protocol = b[6];
		return skim_transport(b, 40, b[6]);
	}
	/* IPv4 with options is rare. */
	return b[0] >> 4 == 4 ? LOOK_CLOSER : LET_GO;
}

/* The packet whose IP header starts at `ip`; tells its protocol. Bytes behind its end at worst earn it a second look. */
static __always_inline enum skimmed skim(const unsigned char *ip, __u8 *protocol, int direct)
{
	__u8 b[SKIMMED] __attribute__((aligned(8)));
	enum skimmed skimmed;
	__u32 l4 = 0, ignored;
	__u8 inner;

	if (direct) {
		skimmed = skim_ip(ip, &l4, protocol);
		return skimmed == LOOK_INSIDE ? skim_ip(ip + l4 + TUNNEL, &ignored, &inner) : skimmed;
	}
	if (bpf_probe_read_kernel(b, sizeof(b), ip))
		return LOOK_CLOSER;
	skimmed = skim_ip(b, &l4, protocol);
	if (skimmed != LOOK_INSIDE)
		return skimmed;
	if (bpf_probe_read_kernel(b, sizeof(b), ip + l4 + TUNNEL))
		return LOOK_CLOSER;
	return skim_ip(b, &ignored, &inner);
}

/* An outer IPv6 header, UDP, VXLAN, Ethernet, an inner IPv6 header, and the first bytes behind it. */
#define ALL_HEADERS 124
/* An IPv4 header, and ports: without those next to no filter can be answered. */
#define LEAST_HEADERS 28

/*
 * Are headers that matter still in a page? Of TCP, whose payload mostly is in pages, the first 14 bytes do.
 */
static __always_inline int is_in_pages(struct sk_buff *skb, int probed, const struct window *w, __u32 offset)
{
	__u32 linear = offset < w->end ? w->end - offset : 0;
	__u8 b[10];

	if (!of(probed, skb, data_len) || linear >= (live ? WM_SNAP : ALL_HEADERS))
		return 0;
	/* A filter may ask for what TCP carries. */
	if (live)
		return 1;
	if (linear < 34 || bpf_probe_read_kernel(b, sizeof(b), w->head + offset))
		return 1;
	if (b[0] == 0x45)
		return b[9] != PROTO_TCP;
	return linear < 54 || b[0] >> 4 != 6 || b[6] != PROTO_TCP;
}

/* Could the packet whose IP header starts at `ip` be marked? Whoever reads it directly has the pointer from its packet. */
static __always_inline int deserves_more(struct sk_buff *skb, int probed, const unsigned char *ip, int direct)
{
	__u8 protocol = 0;

	return skim(ip, &protocol, direct) != LET_GO || (may_hide(protocol) && may_be_followed(skb, probed));
}

#endif
