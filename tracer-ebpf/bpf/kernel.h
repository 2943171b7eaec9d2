/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The kernel's types, as far as the programs read them. Offsets are relocated at load time (CO-RE), so
 * only names and kinds of members matter; these stand in for a vmlinux.h of several megabytes.
 */
#ifndef WAYMARK_KERNEL_H
#define WAYMARK_KERNEL_H

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define relocated __attribute__((preserve_access_index))

/*
 * A member of what `p` points at. Programs of tracepoints and of fentry know its type, and read it as C does. Those of kprobes
 * have a number for an address (`probed`), and must ask the helper. It is a constant for each program, so one way is left.
 */
#define of(probed, p, member) ((probed) ? BPF_CORE_READ(p, member) : (p)->member)

struct ns_common {
	unsigned int inum;
} relocated;

struct net {
	struct ns_common ns;
} relocated;

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	char name[16];
	int ifindex;
	possible_net_t nd_net;
} relocated;

struct sock_common {
	possible_net_t skc_net;
} relocated;

struct sock {
	struct sock_common __sk_common;
} relocated;

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	unsigned int data_len;
	__u32 mark;
	__be16 protocol;
	__u16 network_header;
	unsigned int tail;
	unsigned int end;
	unsigned char *head;
	unsigned char *data;
	unsigned long _skb_refdst;
	unsigned long _nfct;
	__u16 vlan_tci;
	__u16 vlan_proto;
	__u8 vlan_present : 1; /* before 6.2; since then the protocol tells */
	__u8 ip_summed : 2;
	__u8 tc_at_ingress : 1;
} relocated;

union nf_inet_addr {
	__u32 ip6[4];
} relocated;

/* Ports are in the order of the network. */
union nf_conntrack_man_proto {
	__u16 all;
} relocated;

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
	__u16 l3num;
} relocated;

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__u16 all;
		} u;
		__u8 protonum;
	} dst;
} relocated;

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} relocated;

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
} relocated;

struct dst_entry {
	int (*input)(struct sk_buff *);
	short error;
} relocated;

struct nf_hook_state {
	__u8 hook; /* of four bytes before 5.17, the first of which tells it on little-endian machines */
	__u8 pf;
} relocated;

typedef struct {
	int counter;
} atomic_t;

/* skb_frag_t: a page, or `netmem_ref` since 6.8, which is one unless its lowest bit says otherwise. */
struct fragment {
	__u64 page;
	__u32 length;
	__u32 offset;
};

struct skb_shared_info {
	__u8 nr_frags;
	atomic_t dataref;
	struct fragment frags[1];
} relocated;

struct page {
	unsigned long flags;
} relocated;

/* The members of the tracepoints' records tell which arguments this kernel's tracepoints have. */
enum skb_drop_reason { SKB_NOT_DROPPED_YET = 0 };

struct trace_event_raw_kfree_skb {
	enum skb_drop_reason reason;
} relocated;

struct trace_event_raw_consume_skb {
	void *location;
} relocated;

#endif
