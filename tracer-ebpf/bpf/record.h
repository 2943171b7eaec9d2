/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What kernel and user space share. The Rust side is generated from this file at build time.
 *
 * No implicit padding: every field is aligned by the order of declaration, and both sides assert the
 * size. Numbers are in host byte order unless they are addresses.
 */
#ifndef WAYMARK_RECORD_H
#define WAYMARK_RECORD_H

#include <linux/types.h>

/* Where in the datapath a record was made; one per BPF program. */
enum wm_point {
	WM_POINT_NETIF_RECEIVE_SKB = 2,
	WM_POINT_NET_DEV_QUEUE = 3,
	WM_POINT_NET_DEV_START_XMIT = 4,
	WM_POINT_NET_DEV_XMIT = 5,
	WM_POINT_KFREE_SKB = 6,
	WM_POINT_CONSUME_SKB = 7,
	/* What is told of a packet beside its way. */
	WM_POINT_GRO_ENTRY = 8,
	WM_POINT_QDISC_DEQUEUE = 9,
	WM_POINT_FIB_LOOKUP = 10,      /* the way on */
	WM_POINT_FIB_LOOKUP_BACK = 11, /* the way back: to judge the source by, or for an answer */
	WM_POINT_NEIGH_RESOLUTION = 12,
	/* Functions of the deep tier. */
	WM_POINT_DEEP = 32,
	WM_POINT_FIB_VALIDATE_SOURCE = 32,
	WM_POINT_IP_ROUTE_INPUT = 33,
	WM_POINT_IP6_ROUTE_INPUT = 34,
	WM_POINT_NF_HOOK_SLOW = 35,
	WM_POINT_NF_CONNTRACK_IN = 36,
	WM_POINT_NF_CONNTRACK_CONFIRM = 37,
	WM_POINT_XDP_GENERIC = 38,
	WM_POINT_TCF_CLASSIFY = 39,
	WM_POINT_TCF_CLASSIFY_INGRESS = 40,
	WM_POINT_BR_HANDLE_FRAME_FINISH = 41,
	WM_POINT_BR_FLOOD = 42,
	WM_POINT_IP_FINISH_OUTPUT2 = 43,
	WM_POINT_IP6_FINISH_OUTPUT2 = 44,
	WM_POINT_NEIGH_EVENT_SEND = 45,
	WM_POINT_IP_PROTOCOL_DELIVER = 46,
	WM_POINT_IP6_PROTOCOL_DELIVER = 47,
	WM_POINT_SK_FILTER = 48,
	WM_POINT_VXLAN_RCV = 49,
	WM_POINTS = 64,
	WM_DEEP_POINTS = 32, /* WM_POINTS - WM_POINT_DEEP */
};

/* How the marker was recognized. */
enum wm_match {
	WM_MATCH_TAG = 1,
	WM_MATCH_ECHO_REPLY = 2,
	WM_MATCH_TCP_SEQ = 3,
	WM_MATCH_TCP_ACK = 4,
	WM_MATCH_QUOTED = 5,
	WM_MATCH_BUFFER = 6,
	WM_MATCH_FILTER = 7,
};

/* Counters of the pipeline: every early exit has one. */
enum wm_counter {
	WM_COUNT_NOT_MARKED = 0,
	WM_COUNT_NOT_ARMED = 1,
	WM_COUNT_EXPIRED = 2,
	WM_COUNT_FOREIGN_NETNS = 3,
	WM_COUNT_RING_FULL = 4,
	WM_COUNT_FOLLOW_FULL = 5,
	WM_COUNT_RECORDED = 6,
	WM_COUNT_NOT_IN_FLIGHT = 7,
	WM_COUNT_NOT_WANTED = 8,
	WM_COUNT_OUT_OF_REACH = 9,
	WM_COUNTERS = 10,
};

/* One sighting. Addresses of IPv4 stand in the first four bytes. */
struct wm_record {
	__u64 time_ns;   /* bpf_ktime_get_ns */
	__u64 buffer;    /* skb->head */
	__u64 location;  /* caller, for kfree_skb and consume_skb; who is next, for routes; else 0 */
	__u64 hash;      /* keyed hash of a tag; 0 where there is none to be read. Of traffic that is there anyway: what a packet keeps on its way */
	__u32 check;
	__u32 seq;
	__u32 netns;     /* net->ns.inum */
	__u32 ifindex;
	__u32 reason;    /* drop reason; 0 if the kernel gives none. Of functions, by point: see deep.h, joined.h */
	__s32 code;      /* netdev_tx_t, for net_dev_xmit; what a function answered */
	__u32 mark;      /* skb->mark */
	__u32 vni;
	__u8 src[16];
	__u8 dst[16];
	__u8 outer_src[16];
	__u8 outer_dst[16];
	__u16 src_port;  /* echo identifier for ICMP */
	__u16 dst_port;
	__u16 len;       /* IP total length, header included */
	__u16 ip_id;     /* of the outermost IPv4 header */
	__u8 point;
	__u8 match;
	__u8 family;     /* 4, 6; 0 when followed by buffer alone */
	__u8 protocol;   /* IANA number */
	__u8 ttl;
	__u8 tcp_flags;
	__u8 outer_family; /* 4, 6; 0 when not encapsulated */
	__u8 outer_kind;   /* 1 VXLAN */
	__u16 outer_src_port;
	__u16 fragment;    /* where the packet that it is a later fragment of has its payload, in bytes; else 0 */
	__u16 vlan;        /* number of the VLAN beside the packet, and WM_VLAN_PRESENT; else 0 */
	__u8 checksum;     /* skb->ip_summed */
	__u8 reserved;
	char device[16];
};

_Static_assert(sizeof(struct wm_record) == 168, "no padding");

#define WM_VLAN_PRESENT 0x8000

/* One direction of a connection. Addresses of IPv4 stand in the first four bytes, ports are host order; of ICMP there is one, the
 * echo identifier, as the source. */
struct wm_tuple {
	__u8 src[16];
	__u8 dst[16];
	__u16 src_port;
	__u16 dst_port;
};

/* The entry of connection tracking that a packet carries. */
struct wm_conntrack {
	struct wm_tuple original;
	struct wm_tuple reply;
	__u32 status;  /* enum ip_conntrack_status */
	__u8 info;     /* enum ip_conntrack_info */
	__u8 family;   /* 4, 6; 0: it carries none */
	__u8 protocol; /* IANA number */
	__u8 reserved;
};

/* A sighting of a packet that carries one, at hooks that tell it. */
struct wm_tracked {
	struct wm_record record;
	struct wm_conntrack conntrack;
};

_Static_assert(sizeof(struct wm_tracked) == 248, "no padding");

/* Room for an outer IPv6 header with UDP, VXLAN and Ethernet, and what a marker needs inside. */
#define WM_SNAP 192

/* A sighting with the packet's first bytes, from its outermost IP header on. */
struct wm_captured {
	struct wm_record record;
	struct wm_conntrack conntrack;
	__u32 length;
	__u32 reserved;
	__u8 bytes[WM_SNAP];
};

_Static_assert(sizeof(struct wm_captured) == 448, "no padding");

/* A marker, as the maps hold it. */
struct wm_marker {
	__u32 check;
	__u32 seq;
};

/* The hooks that a check wants. */
enum wm_hooks { WM_HOOKS_LIGHT, WM_HOOKS_WIDE, WM_HOOKS_ALL };

/* What is armed of a check. */
struct wm_armed {
	__u64 until_ns; /* end of the lease, of bpf_ktime_get_ns */
	__u32 hooks;    /* enum wm_hooks */
	__u32 capture;  /* whether the packets' first bytes are wanted */
};

/* A buffer that held a marked packet. */
struct wm_followed {
	__u32 check;
	__u32 seq;
	__u32 netns;
	__u16 fragment; /* as in wm_record */
	__u16 len;      /* the same */
	__u64 time_ns;
	__u64 hash;     /* as in wm_record */
};

/* What the fragments of one packet have in common (RFC 791, RFC 8200 4.5). */
struct wm_fragments {
	__u8 src[16];
	__u8 dst[16];
	__u32 id;      /* identification */
	__u8 protocol;
	__u8 family;   /* 0: no fragment */
	__u16 reserved;
};

_Static_assert(sizeof(struct wm_fragments) == 40, "no padding");

/* A record that is being filled in. */
struct wm_draft {
	struct wm_record record;
	struct wm_fragments first; /* of whose fragments this is the first */
	__u64 taken;               /* 0 unless somebody is at it: then its number, from 1 on */
};

/* How many bytes of a packet a filter may look at, from its IP header on. */
#define WM_LOOK 256

/* What a filter works with. */
struct wm_looked {
	__u8 bytes[WM_LOOK];
	__u32 memory[16]; /* of classic BPF */
};

/* Instructions that a filter may have; they are written into the object before it is loaded. */
#define WM_FILTER_ROOM 4096

/*
 * The records that programs fill, which are too large for their stacks. Since 6.1 a program does not run a second time on a
 * processor while it runs there (`__bpf_trace_run`); before, an interrupt may have it run inside of itself. So by processor and
 * point there are as many as that may be, one for each WM_POINTS.
 */
#define WM_DRAFTS 192

/* A packet that a driver has been given and did not answer for yet. */
struct wm_flight {
	__u64 skb;
	__u64 device;
};

/* A packet that a processor works at. */
struct wm_in_hand {
	__u64 skb;     /* 0: none */
	__u64 jiffies; /* since when */
};

/* A call of a function that has not returned yet. */
struct wm_call {
	__u64 number; /* no other call of this function that is under way has it */
	__u32 point;
	__u32 reserved;
};

#endif
