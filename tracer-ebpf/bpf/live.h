/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Traffic that is there anyway: packets are picked by a filter when they are met first, and followed by their buffer from then
 * on. The object is then loaded a second time, for this alone, with the filter written into it.
 *
 * Much traffic ends where no tracepoint tells: TCP frees by `__kfree_skb` what was acknowledged. Its buffers hold other packets
 * at once, so a packet is the one that was followed only if it still has what packets keep on their way.
 */
#ifndef WAYMARK_LIVE_H
#define WAYMARK_LIVE_H

#include "follow.h"

/* Whether packets are picked by a filter, not by markers. */
const volatile __u8 live = 0;
/* What is armed then, and how many packets are picked at most. Processors that pick at once may exceed it. */
const volatile __u32 live_check = 0;
const volatile __u32 live_most = 0;
/* How many processors there may be. */
const volatile __u32 processors = 1;

static __u32 picked;

/* What is known of a packet that is looked at, which is too large for the stack. */
struct looking {
	struct wm_looked at; /* first: of the filter */
	struct ip_view ip;
	struct ip_view inner;
	struct match_view m;
	__u8 between[TUNNEL];
	__u32 picked; /* with this draft, by this processor */
};

/* By draft. There is one of them where nothing is live. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct looking);
} looked SEC(".maps");

/*
 * The filter: whether a packet is wanted of which these are the first `length` bytes of `all`. This one wants none; another
 * takes its room before the object is loaded. The compiler can tell neither what it does nor what it needs.
 */
static __attribute__((noinline)) __u32 wants(struct wm_looked *at, __u32 length, __u32 all)
{
	__u32 wanted;

	asm volatile("r1 = r1\n"
		     "r2 = r2\n"
		     "r3 = r3\n"
		     ".rept %[room]\n"
		     "r0 = 0\n"
		     ".endr\n"
		     "%[wanted] = r0\n"
		     : [wanted] "=r"(wanted)
		     : [room] "i"(WM_FILTER_ROOM), "r"(at), "r"(length), "r"(all)
		     : "r0", "r1", "r2", "r3", "r4", "r5", "memory");
	return wanted;
}

static __always_inline int filter(const struct window *w, __u32 offset, __u32 all, struct looking *at)
{
	__u32 length = offset < w->end ? w->end - offset : 0;

	barrier_var(length);
	if (length > WM_LOOK)
		length = WM_LOOK;
	if (bpf_probe_read_kernel(at->at.bytes, length, w->head + offset))
		return 0;
	return wants(&at->at, length, all);
}

/* Does the packet at `offset` have so many bytes behind its IP header? There may be others behind its end. */
static __always_inline int holds(const struct ip_view *ip, __u32 offset, __u32 n)
{
	return ip->l4 + n <= offset + ip->len;
}

/*
 * What a packet keeps on its way, whatever translates, forwards or wraps it up: sequence numbers of TCP, what it carries, and its
 * identification. And its protocol, in the last byte.
 */
static __always_inline __u64 kept(const struct window *w, __u32 offset, const struct ip_view *ip)
{
	__u64 first = 0, second = 0;
	/* Ports, identifiers and checksums are what translators change. */
	__u32 at = ip->protocol == PROTO_UDP ? 8 : ip->protocol == PROTO_ICMP || ip->protocol == PROTO_ICMPV6 ? 6 : 4;

	if (!is_later(ip)) {
		if (holds(ip, offset, at + 8))
			load(w, ip->l4 + at, &first, sizeof(first));
		if (ip->protocol != PROTO_TCP) {
			if (holds(ip, offset, 24))
				load(w, ip->l4 + 16, &second, sizeof(second));
			second ^= ip->len;
		}
	}
	first = (first ^ (__u64)ip->id << 32 ^ (__u64)ip->fragment << 48) * 0x9e3779b97f4a7c15ULL;
	first ^= second * 0xc2b2ae3d27d4eb4fULL;
	return (first & ~0xffULL) | ip->protocol;
}

static __always_inline void view_ports(const struct window *w, const struct ip_view *ip, struct match_view *m)
{
	__u8 h[14];

	if (is_later(ip))
		return;
	switch (ip->protocol) {
	case PROTO_TCP:
		if (load(w, ip->l4, h, 14))
			return;
		m->tcp_flags = h[13];
		break;
	case PROTO_UDP:
		if (load(w, ip->l4, h, 4))
			return;
		break;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		/* The identifier, of an echo. */
		if (load(w, ip->l4 + 4, h, 2))
			return;
		m->src_port = m->dst_port = h[0] << 8 | h[1];
		return;
	default:
		return;
	}
	m->src_port = h[0] << 8 | h[1];
	m->dst_port = h[2] << 8 | h[3];
}

/* The number of one more packet, which no other has: drafts are one user's at a time. */
static __always_inline __u32 pick(struct looking *at, __u32 draft)
{
	__sync_fetch_and_add(&picked, 1);
	at->picked += 1;
	return (at->picked * processors + bpf_get_smp_processor_id()) * WM_DRAFTS + draft;
}

/* How long a packet may take from one hook to the next where it is known by its buffer alone. */
#define WRAPPING_NS 10000000ULL

/*
 * Is the packet that is seen in a buffer the one that was followed there? One that is in another that cannot be read is taken to
 * be, if it is a short time ago that the packet was seen: then what is seen now is longer.
 */
static __always_inline int is_the_same(struct sk_buff *skb, const struct wm_followed *f, __u64 hash, const struct ip_view *ip,
				       int inside, __u64 now)
{
	__u64 packet = (__u64)skb;

	if (f->hash == hash)
		return 1;
	return !inside && may_hide(ip->protocol) && ip->protocol != (f->hash & 0xff) && ip->len >= f->len &&
	       now - f->time_ns <= WRAPPING_NS && bpf_map_lookup_elem(&buffers, &packet);
}

/* Is this a packet that was picked, or is picked now? */
static __always_inline enum found match_live(struct sk_buff *skb, __u64 head, const struct window *w, __u32 outer, int may_begin,
					     struct wm_draft *d, __u64 now)
{
	struct wm_followed *f = find_followed(skb, head, now);
	__u32 which = d->taken - 1;
	struct looking *at = bpf_map_lookup_elem(&looked, &which);
	struct wm_record *r = &d->record;
	struct ip_view *ip;
	struct match_view *m;
	__u32 offset = outer;
	int inside;

	d->first.family = 0;
	if (!at)
		return NOT_MARKED;
	ip = &at->ip;
	m = &at->m;
	if (view_ip(w, offset, ip))
		return NOT_MARKED;
	inside = !view_inside(w, ip, at->between, &at->inner);
	if (inside) {
		offset = ip->l4 + TUNNEL;
		ip = &at->inner;
	}
	__builtin_memset(m, 0, sizeof(*m));
	m->match = WM_MATCH_FILTER;
	m->hash = kept(w, offset, ip);
	if (f && is_the_same(skb, f, m->hash, ip, inside, now)) {
		m->hash = f->hash;
		m->marker.check = f->check;
		m->marker.seq = f->seq;
	} else {
		if (!may_begin || picked >= live_most ||
		    !(filter(w, offset, ip->len, at) || (inside && filter(w, outer, at->ip.len, at))))
			return NOT_MARKED;
		m->marker.check = live_check;
		m->marker.seq = pick(at, which);
	}
	view_ports(w, ip, m);
	fill_headers(r, ip, m);
	r->fragment = is_later(ip);
	if (inside)
		fill_outer(r, &at->ip, at->between);
	return MARKED;
}

#endif
