/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Does this packet carry a marker? Header parsing from `head + offset`, because `skb->len` and
 * `skb->data` mean other things at other hooks.
 *
 * On a match the record's headers are filled in; before it nothing is written.
 */
#ifndef WAYMARK_MATCH_H
#define WAYMARK_MATCH_H

#include "pages.h"

#define MAGIC 0x5741594d /* marker::MAGIC of the vocabulary, as a test asserts */

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

enum {
	PROTO_ICMP = 1,
	PROTO_IPIP = 4,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_IPV6 = 41,
	PROTO_FRAGMENT = 44,
	PROTO_GRE = 47,
	PROTO_ESP = 50,
	PROTO_ICMPV6 = 58,
};
enum { TCP_SYN = 0x02, TCP_RST = 0x04, TCP_ACK = 0x10 };

/* An IP header, as far as it matters here. */
struct ip_view {
	__u8 src[16];
	__u8 dst[16];
	__u32 l4;   /* offset of the transport header, if this is no later fragment */
	__u32 id;   /* identification, of IPv6 that of a fragment */
	__u16 len;
	__u16 fragment; /* its offset in bytes, a multiple of eight, and MORE_FRAGMENTS; 0: it is whole */
	__u8 family;
	__u8 protocol;
	__u8 ttl;
} __attribute__((aligned(8)));

/* As in the fragment header of IPv6 (RFC 8200 4.5). */
#define MORE_FRAGMENTS 1

/* What was found, and in which transport header. */
struct match_view {
	struct wm_marker marker;
	__u64 hash;
	__u16 src_port;
	__u16 dst_port;
	__u8 match;
	__u8 tcp_flags;
};

static __always_inline int load(const struct window *w, __u32 offset, void *to, __u32 n)
{
	if (offset + n > w->end)
		return -1;
	return bpf_probe_read_kernel(to, n, w->head + offset);
}

static __always_inline int view_ip(const struct window *w, __u32 offset, struct ip_view *ip)
{
	__u8 h[40];

	if (load(w, offset, h, 20))
		return -1;
	__builtin_memset(ip, 0, sizeof(*ip));
	if (h[0] >> 4 == 4) {
		__u32 header = (h[0] & 15) * 4;

		if (header < 20)
			return -1;
		ip->family = 4;
		ip->l4 = offset + header;
		ip->len = h[2] << 8 | h[3];
		ip->id = h[4] << 8 | h[5];
		ip->fragment = (h[6] & 0x1f) << 11 | h[7] << 3 | (h[6] & 0x20 ? MORE_FRAGMENTS : 0);
		ip->ttl = h[8];
		ip->protocol = h[9];
		__builtin_memcpy(ip->src, h + 12, 4);
		__builtin_memcpy(ip->dst, h + 16, 4);
		return 0;
	}
	if (h[0] >> 4 == 6) {
		if (load(w, offset, h, 40))
			return -1;
		ip->family = 6;
		ip->l4 = offset + 40;
		ip->len = (h[4] << 8 | h[5]) + 40;
		ip->protocol = h[6];
		ip->ttl = h[7];
		__builtin_memcpy(ip->src, h + 8, 16);
		__builtin_memcpy(ip->dst, h + 24, 16);
		if (ip->protocol != PROTO_FRAGMENT)
			return 0;
		/* Other extension headers are not looked behind. */
		if (load(w, ip->l4, h, 8))
			return -1;
		ip->protocol = h[0];
		ip->fragment = (h[2] << 8 | h[3]) & ~6;
		ip->id = (__u32)h[4] << 24 | (__u32)h[5] << 16 | (__u32)h[6] << 8 | h[7];
		ip->l4 += 8;
		return 0;
	}
	return -1;
}

/* A later fragment has no transport header. */
static __always_inline int is_later(const struct ip_view *ip)
{
	return ip->fragment & ~MORE_FRAGMENTS;
}

static __always_inline __u32 be32(const __u8 *p)
{
	return (__u32)p[0] << 24 | (__u32)p[1] << 16 | (__u32)p[2] << 8 | p[3];
}

static __always_inline int match_tag(const __u8 *payload, struct wm_marker *marker)
{
	if (be32(payload) != MAGIC)
		return -1;
	marker->check = be32(payload + 4);
	marker->seq = be32(payload + 8);
	return 0;
}

/* The keyed hash behind the identity; user space knows the key and compares. */
static __always_inline __u64 load_hash(const struct window *w, __u32 payload)
{
	__u64 hash = 0;

	if (load(w, payload + 24, &hash, sizeof(hash)))
		return 0;
	return bpf_be64_to_cpu(hash);
}

static __always_inline int match_isn(__u32 isn, struct wm_marker *marker)
{
	struct wm_marker *known = bpf_map_lookup_elem(&isns, &isn);

	if (!known)
		return -1;
	*marker = *known;
	return 0;
}

/* Looks for a marker in the transport header at `ip->l4` and right behind it. */
static __always_inline int match_transport(const struct window *w, const struct ip_view *ip, struct match_view *m)
{
	__u8 h[20];

	/* All that is of interest fits into the first 20 bytes: UDP and ICMP header are 8 bytes, a tag's
	 * identity 12; of TCP, ports, sequence, acknowledgement and flags lie within the first 14.
	 */
	if (load(w, ip->l4, h, 20))
		return -1;
	m->src_port = h[0] << 8 | h[1];
	m->dst_port = h[2] << 8 | h[3];
	m->tcp_flags = 0;

	switch (ip->protocol) {
	case PROTO_UDP:
		m->match = WM_MATCH_TAG;
		if (match_tag(h + 8, &m->marker))
			return -1;
		m->hash = load_hash(w, ip->l4 + 8);
		return 0;
	case PROTO_TCP:
		m->tcp_flags = h[13];
		if ((h[13] & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN) {
			m->match = WM_MATCH_TCP_SEQ;
			return match_isn(be32(h + 4), &m->marker);
		}
		if ((h[13] & TCP_ACK) && (h[13] & (TCP_SYN | TCP_RST))) {
			m->match = WM_MATCH_TCP_ACK;
			return match_isn(be32(h + 8) - 1, &m->marker);
		}
		return -1;
	case PROTO_ICMP:
	case PROTO_ICMPV6: {
		__u8 request = ip->protocol == PROTO_ICMP ? 8 : 128;
		__u8 reply = ip->protocol == PROTO_ICMP ? 0 : 129;

		if (h[0] != request && h[0] != reply)
			return -1;
		m->match = h[0] == request ? WM_MATCH_TAG : WM_MATCH_ECHO_REPLY;
		m->src_port = m->dst_port = h[4] << 8 | h[5];
		if (match_tag(h + 8, &m->marker))
			return -1;
		m->hash = load_hash(w, ip->l4 + 8);
		return 0;
	}
	}
	return -1;
}

/* An ICMP error quotes the packet that caused it (RFC 792, RFC 4443). */
static __always_inline int match_quoted(const struct window *w, const struct ip_view *ip, struct match_view *m)
{
	struct ip_view quoted;
	__u8 type;

	if (load(w, ip->l4, &type, 1))
		return -1;
	if (ip->protocol == PROTO_ICMP) {
		/* A redirect (5) says nothing against the packet. */
		if (type != 3 && type != 11 && type != 12)
			return -1;
	} else if (ip->protocol != PROTO_ICMPV6 || type < 1 || type > 4) {
		return -1;
	}
	if (view_ip(w, ip->l4 + 8, &quoted) || is_later(&quoted))
		return -1;
	m->match = WM_MATCH_QUOTED;
	if (quoted.protocol == PROTO_TCP) {
		/* At least eight bytes are quoted: ports and sequence number. */
		__u8 h[8];

		if (load(w, quoted.l4, h, sizeof(h)))
			return -1;
		m->src_port = h[0] << 8 | h[1];
		m->dst_port = h[2] << 8 | h[3];
		return match_isn(be32(h + 4), &m->marker);
	}
	if (match_transport(w, &quoted, m))
		return -1;
	m->match = WM_MATCH_QUOTED;
	/* What is quoted may be cut short. */
	m->hash = 0;
	return 0;
}

static __always_inline void fill_headers(struct wm_record *r, const struct ip_view *ip, const struct match_view *m)
{
	__builtin_memset(r, 0, sizeof(*r));
	r->check = m->marker.check;
	r->seq = m->marker.seq;
	r->hash = m->hash;
	r->match = m->match;
	r->tcp_flags = m->tcp_flags;
	r->src_port = m->src_port;
	r->dst_port = m->dst_port;
	r->family = ip->family;
	r->protocol = ip->protocol;
	r->ttl = ip->ttl;
	r->len = ip->len;
	r->ip_id = ip->family == 4 ? ip->id : 0;
	__builtin_memcpy(r->src, ip->src, 16);
	__builtin_memcpy(r->dst, ip->dst, 16);
}

enum found { MARKED, PERHAPS_INSIDE, NOT_MARKED };

/* Could the payload be another packet that cannot be read here: a tunnel, or encryption? */
static __always_inline int may_hide(__u8 protocol)
{
	switch (protocol) {
	case PROTO_IPIP:
	case PROTO_IPV6:
	case PROTO_GRE:
	case PROTO_ESP:
	case PROTO_UDP:
		return 1;
	}
	return 0;
}

/*
 * Fragments
 *
 * A first fragment has the marker, later ones are known by what all of a packet have in common. What was seen of the first
 * stands for what they have not: ports, and the packet inside if a tunnel's was fragmented. Whoever fragments a packet sends
 * the first one first; what comes before it is not known, and neither is what comes later than all of a packet should.
 */
#define FRAGMENTS_NS 10000000000ULL

static __always_inline void fill_fragments(struct wm_fragments *f, const struct ip_view *ip)
{
	__builtin_memcpy(f->src, ip->src, 16);
	__builtin_memcpy(f->dst, ip->dst, 16);
	f->id = ip->id;
	f->protocol = ip->protocol;
	f->family = ip->family;
	f->reserved = 0;
}

/* Whether this is the first fragment of a packet, whose later ones are then to be known. */
static __always_inline void note_first(struct wm_draft *d, const struct ip_view *ip)
{
	if (ip->fragment == MORE_FRAGMENTS)
		fill_fragments(&d->first, ip);
}

static __always_inline int is_address(const __u8 *one, const __u8 *other)
{
	const __u64 *a = (const __u64 *)one, *b = (const __u64 *)other;

	return a[0] == b[0] && a[1] == b[1];
}

/* Is this one a later fragment of a marked packet? */
static __always_inline enum found match_later(const struct ip_view *ip, struct wm_draft *d, __u64 now)
{
	struct wm_record *r = &d->record;
	struct wm_record *first;

	fill_fragments(&d->first, ip);
	first = bpf_map_lookup_elem(&fragments, &d->first);
	d->first.family = 0;
	if (!first || now - first->time_ns > FRAGMENTS_NS)
		return NOT_MARKED;
	*r = *first;
	r->fragment = is_later(ip);
	r->len = ip->len;
	r->ip_id = ip->family == 4 ? ip->id : 0;
	/* The first may have been in a tunnel when it was seen; in this packet is a fragment of one only if it is the tunnel's. */
	if (!is_address(ip->src, r->outer_src)) {
		r->ttl = ip->ttl;
		r->outer_kind = r->outer_family = 0;
	}
	/* Not where the first was. */
	r->netns = r->ifindex = 0;
	__builtin_memset(r->device, 0, sizeof(r->device));
	return MARKED;
}

/* Does the packet at `offset` say that it has a transport header, of which not all is there? A damaged length cuts it off. */
static __always_inline int is_cut(const struct window *w, const struct ip_view *ip, __u32 offset)
{
	return ip->l4 + 20 > w->end && offset + ip->len >= ip->l4 + 20;
}

/* UDP 8, VXLAN 8, Ethernet 14. */
#define TUNNEL 30

/* The packet in a VXLAN packet (RFC 7348) whose UDP header is at `outer->l4`. All between the two IP headers goes to `h`. */
static __always_inline int view_inside(const struct window *w, const struct ip_view *outer, __u8 h[TUNNEL], struct ip_view *inner)
{
	__u16 ethertype;

	if (outer->protocol != PROTO_UDP || load(w, outer->l4, h, TUNNEL))
		return -1;
	/* Only the I flag is set, and what is reserved is zero. */
	if (h[8] != 0x08 || h[9] || h[10] || h[11])
		return -1;
	ethertype = h[28] << 8 | h[29];
	if (ethertype != ETH_P_IP && ethertype != ETH_P_IPV6)
		return -1;
	return view_ip(w, outer->l4 + TUNNEL, inner);
}

static __always_inline void fill_outer(struct wm_record *r, const struct ip_view *outer, const __u8 h[TUNNEL])
{
	r->outer_kind = 1;
	r->outer_src_port = h[0] << 8 | h[1];
	r->outer_family = outer->family;
	r->ip_id = outer->family == 4 ? outer->id : 0;
	r->vni = (__u32)h[12] << 16 | (__u32)h[13] << 8 | h[14];
	__builtin_memcpy(r->outer_src, outer->src, 16);
	__builtin_memcpy(r->outer_dst, outer->dst, 16);
}

/*
 * Looks into a VXLAN packet. What is inside and can be read has a marker or has none: its buffer, which may have been another
 * packet's, is not asked then.
 */
static __always_inline enum found match_vxlan(const struct window *w, const struct ip_view *outer, struct wm_draft *d,
					       __u64 now)
{
	struct wm_record *r = &d->record;
	struct match_view m = {};
	struct ip_view inner;
	__u8 h[TUNNEL];

	if (view_inside(w, outer, h, &inner))
		return PERHAPS_INSIDE;
	if (is_later(&inner)) {
		if (match_later(&inner, d, now) == NOT_MARKED)
			return NOT_MARKED;
	} else if (match_transport(w, &inner, &m) && match_quoted(w, &inner, &m)) {
		return may_hide(inner.protocol) || is_cut(w, &inner, outer->l4 + TUNNEL) ? PERHAPS_INSIDE : NOT_MARKED;
	} else {
		fill_headers(r, &inner, &m);
		note_first(d, &inner);
	}
	/* The packet that comes first is the one around it. */
	note_first(d, outer);
	fill_outer(r, outer, h);
	return MARKED;
}

/* Is there a marked IP packet at this offset of the buffer? */
static __always_inline enum found match_at(const struct window *w, __u32 offset, struct wm_draft *d, __u64 now)
{
	struct match_view m = {};
	struct ip_view ip;

	d->first.family = 0;
	if (view_ip(w, offset, &ip))
		return NOT_MARKED;
	if (is_later(&ip))
		return match_later(&ip, d, now);
	if (!match_transport(w, &ip, &m) || !match_quoted(w, &ip, &m)) {
		fill_headers(&d->record, &ip, &m);
		note_first(d, &ip);
		return MARKED;
	}
	return may_hide(ip.protocol) ? match_vxlan(w, &ip, d, now) : NOT_MARKED;
}

#endif
