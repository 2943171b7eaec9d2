/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the kernel keeps of a packet beside its bytes. */
#ifndef WAYMARK_METADATA_H
#define WAYMARK_METADATA_H

#include "maps.h"

#define VLAN_NUMBER 0x0fff
/* Of skb->_nfct, the bits that tell the packet's part in the connection (NFCT_INFOMASK). */
#define NFCT_INFO 7UL
#define AF_INET 2
#define AF_INET6 10

/* skb_vlan_tag_present */
static __always_inline int has_vlan(struct sk_buff *skb, int probed)
{
	if (bpf_core_field_exists(skb->vlan_present))
		return BPF_CORE_READ_BITFIELD_PROBED(skb, vlan_present);
	return of(probed, skb, vlan_proto) != 0;
}

static __always_inline void fill_metadata(struct sk_buff *skb, int probed, struct wm_record *r)
{
	r->mark = of(probed, skb, mark);
	r->checksum = BPF_CORE_READ_BITFIELD_PROBED(skb, ip_summed);
	r->vlan = has_vlan(skb, probed) ? (of(probed, skb, vlan_tci) & VLAN_NUMBER) | WM_VLAN_PRESENT : 0;
}

static __always_inline void fill_tuple(struct nf_conntrack_tuple *tuple, struct wm_tuple *to)
{
	bpf_core_read(to->src, sizeof(to->src), &tuple->src.u3);
	bpf_core_read(to->dst, sizeof(to->dst), &tuple->dst.u3);
	to->src_port = bpf_ntohs(BPF_CORE_READ(tuple, src.u.all));
	to->dst_port = bpf_ntohs(BPF_CORE_READ(tuple, dst.u.all));
}

/* The connection of a packet, if it carries one. */
static __always_inline struct nf_conn *connection_of(struct sk_buff *skb, int probed)
{
	if (!bpf_core_type_exists(struct nf_conn) || !bpf_core_field_exists(skb->_nfct))
		return 0;
	return (void *)(of(probed, skb, _nfct) & ~NFCT_INFO);
}

static __always_inline void fill_conntrack(struct sk_buff *skb, int probed, struct nf_conn *connection, struct wm_conntrack *to)
{
	struct nf_conntrack_tuple *original = &connection->tuplehash[0].tuple;

	__builtin_memset(to, 0, sizeof(*to));
	to->info = of(probed, skb, _nfct) & NFCT_INFO;
	switch (BPF_CORE_READ(original, src.l3num)) {
	case AF_INET:
		to->family = 4;
		break;
	case AF_INET6:
		to->family = 6;
		break;
	}
	to->protocol = BPF_CORE_READ(original, dst.protonum);
	to->status = BPF_CORE_READ(connection, status);
	fill_tuple(original, &to->original);
	fill_tuple(&connection->tuplehash[1].tuple, &to->reply);
}

#endif
