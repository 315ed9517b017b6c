// SPDX-License-Identifier: MIT OR Apache-2.0
/* The SMC option on TCP's handshake (RFC 7609 section 3.1; kind 254 with a four-byte experiment id, RFC 6994).
 *
 * A process asks for it with a private socket option, which the two cgroup programs below serve, and the sock_ops
 * program writes it: on a SYN, and on a SYN-ACK if the SYN had it. It is loaded by `smcctl tcp-option on`.
 *
 * Some stacks send back options they do not know. So a SYN carries a second option, the canary: a random experiment
 * id under kind 253. A peer that returns it returns everything, and is not capable of SMC.
 *
 * Linux 5.10 is enough: it is the first with header options in sock_ops programs.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include "tcp_option.h"

/* linux/tcp.h and linux/socket.h cannot be had together with linux/bpf.h for this target everywhere. */
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOL_TCP 6
#define TCP_SAVE_SYN 27
#define TCP_CLOSE 7
#define TCPHDR_SYN 0x02
#define TCPHDR_ACK 0x10

#define KIND_SMC 254
/* Not 254, where Linux itself looks for fast open under an id of two bytes. */
#define KIND_CANARY 253

/* An option as it goes over the wire. */
struct experiment {
	__u8 kind;
	__u8 length;
	__u8 id[4];
};

/* "SMCR" in EBCDIC. */
#define SMC_EXPERIMENT { KIND_SMC, sizeof(struct experiment), { 0xe2, 0xd4, 0xc3, 0xd9 } }
/* The id is random, see `connecting`. */
#define CANARY_EXPERIMENT { KIND_CANARY, sizeof(struct experiment), { 0 } }

/* Room for any option, to load one into. */
struct loaded {
	struct experiment option;
	__u8 rest[40 - sizeof(struct experiment)];
};

struct wish {
	__u32 wanted;
	__u32 peer; /* enum smc_option_peer */
	/* Of a connecting socket: the id in its SYN, the same in each retransmission. */
	__u8 canary[4];
};

/* BPF_F_CLONE: a socket that is accepted begins with a copy of the listener's. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct wish);
} smc_wishes SEC(".maps");

static struct wish *wish_of(struct bpf_sock *sk)
{
	struct wish *wish;

	if (!sk)
		return 0;
	wish = bpf_sk_storage_get(&smc_wishes, sk, 0, 0);
	return wish && wish->wanted ? wish : 0;
}

static void write_headers(struct bpf_sock_ops *ops, int on)
{
	int flags = ops->bpf_sock_ops_cb_flags;

	if (on)
		flags |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
	else
		flags &= ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
	bpf_sock_ops_cb_flags_set(ops, flags);
}

/* Whether the segment in hand, or with BPF_LOAD_HDR_OPT_TCP_SYN the SYN that it answers, has the SMC option. As in
 * Linux's own SMC it may be longer, by an even number of bytes. */
static int has_smc(struct bpf_sock_ops *ops, __u64 flags)
{
	struct loaded found = { SMC_EXPERIMENT, { 0 } };
	long length = bpf_load_hdr_opt(ops, &found, sizeof(found), flags);

	return length >= (long)sizeof(struct experiment) && length % 2 == 0;
}

static int is_syn(struct bpf_sock_ops *ops)
{
	return (ops->skb_tcp_flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN;
}

/* Whether the segment in hand is a SYN-ACK that answers a SYN with the option. One with a cookie is left alone: the
 * SYN is not remembered, so the accepted socket would not know. */
static int is_answer(struct bpf_sock_ops *ops)
{
	if ((ops->skb_tcp_flags & (TCPHDR_SYN | TCPHDR_ACK)) != (TCPHDR_SYN | TCPHDR_ACK))
		return 0;
	if (ops->args[0] == BPF_WRITE_HDR_TCP_SYNACK_COOKIE)
		return 0;
	return has_smc(ops, BPF_LOAD_HDR_OPT_TCP_SYN);
}

/* Room on a SYN is taken for both options or none: without the canary an answer would prove nothing. */
static void reserve(struct bpf_sock_ops *ops)
{
	if (is_syn(ops)) {
		if (wish_of(ops->sk))
			bpf_reserve_hdr_opt(ops, 2 * sizeof(struct experiment), 0);
	} else if (is_answer(ops)) {
		bpf_reserve_hdr_opt(ops, sizeof(struct experiment), 0);
	}
}

static void write(struct bpf_sock_ops *ops)
{
	struct experiment smc = SMC_EXPERIMENT;

	if (is_syn(ops)) {
		struct experiment canary = CANARY_EXPERIMENT;
		struct wish *wish = wish_of(ops->sk);

		if (!wish)
			return;
		__builtin_memcpy(canary.id, wish->canary, sizeof(canary.id));
		if (bpf_store_hdr_opt(ops, &canary, sizeof(canary), 0))
			return;
		bpf_store_hdr_opt(ops, &smc, sizeof(smc), 0);
	} else if (is_answer(ops)) {
		bpf_store_hdr_opt(ops, &smc, sizeof(smc), 0);
	}
}

static void connecting(struct bpf_sock_ops *ops)
{
	struct wish *wish = wish_of(ops->sk);
	__u32 random;

	if (!wish)
		return;
	random = bpf_get_prandom_u32();
	__builtin_memcpy(wish->canary, &random, sizeof(random));
	wish->peer = SMC_PEER_UNKNOWN;
	write_headers(ops, 1);
}

/* The SYN of each connection is kept, as TCP_SAVE_SYN does, until `accepted` has looked at it. */
static void listening(struct bpf_sock_ops *ops)
{
	int on = 1;

	if (!wish_of(ops->sk))
		return;
	if (bpf_setsockopt(ops, SOL_TCP, TCP_SAVE_SYN, &on, sizeof(on)))
		return;
	write_headers(ops, 1);
}

static void connected(struct bpf_sock_ops *ops)
{
	struct experiment canary = CANARY_EXPERIMENT;
	struct wish *wish = wish_of(ops->sk);

	if (!wish)
		return;
	write_headers(ops, 0);
	__builtin_memcpy(canary.id, wish->canary, sizeof(canary.id));
	if (bpf_load_hdr_opt(ops, &canary, sizeof(canary), 0) == sizeof(canary))
		wish->peer = SMC_PEER_ECHOES;
	else if (has_smc(ops, 0))
		wish->peer = SMC_PEER_CAPABLE;
	else
		wish->peer = SMC_PEER_ABSENT;
}

static void accepted(struct bpf_sock_ops *ops)
{
	struct wish *wish = wish_of(ops->sk);

	if (!wish)
		return;
	write_headers(ops, 0);
	if (has_smc(ops, BPF_LOAD_HDR_OPT_TCP_SYN))
		wish->peer = SMC_PEER_CAPABLE;
	else
		wish->peer = SMC_PEER_ABSENT;
}

SEC("sockops")
int smc_sock_ops(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connecting(ops);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listening(ops);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		reserve(ops);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		write(ops);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		connected(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accepted(ops);
		break;
	}
	return 1;
}

/* The value of somebody else's option: left as it is. One larger than a page is shown in part only, and would be
 * refused unless the program says that it has not touched it. */
static int not_ours(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > 4096)
		ctx->optlen = 0;
	return 1;
}

/* The context's fields are written one by one: the verifier takes no store to two of them at once. */
#define SET(field, value) (*(volatile __s32 *)&(field) = (value))

static int is_tcp(struct bpf_sock *sk)
{
	return sk && (sk->family == AF_INET || sk->family == AF_INET6) && sk->type == SOCK_STREAM &&
	       sk->protocol == IPPROTO_TCP;
}

/* Only before connect and listen: the SYN-ACKs of a listener cannot be asked what it wants, and what they say must be
 * what its accepted sockets know. Returning 0 makes the call fail with EPERM. */
SEC("cgroup/setsockopt")
int smc_setsockopt(struct bpf_sockopt *ctx)
{
	__u32 *value = ctx->optval;
	struct wish *wish;

	if (ctx->level != SMC_OPTION_LEVEL)
		return not_ours(ctx);
	/* Done by another copy of this program, attached to a cgroup further in: its notes are the ones that count. */
	if (ctx->optlen == -1)
		return 1;
	if (ctx->optname != SMC_OPTION_WANTED || ctx->optlen != sizeof(*value) ||
	    (void *)(value + 1) > ctx->optval_end || !is_tcp(ctx->sk) || ctx->sk->state != TCP_CLOSE)
		return 0;
	wish = bpf_sk_storage_get(&smc_wishes, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!wish)
		return 0;
	wish->wanted = *value != 0;
	/* Done here: the kernel is not to look for the option. */
	ctx->optlen = -1;
	return 1;
}

SEC("cgroup/getsockopt")
int smc_getsockopt(struct bpf_sockopt *ctx)
{
	__u32 *value = ctx->optval;
	struct wish *wish;
	__u32 answer = 0;

	if (ctx->level != SMC_OPTION_LEVEL)
		return not_ours(ctx);
	/* Answered by another copy; the kernel itself knows no such option. */
	if (ctx->retval == 0)
		return 1;
	if ((void *)(value + 1) > ctx->optval_end || !is_tcp(ctx->sk))
		return 0;
	wish = bpf_sk_storage_get(&smc_wishes, ctx->sk, 0, 0);
	switch (ctx->optname) {
	case SMC_OPTION_WANTED:
		answer = wish ? wish->wanted : 0;
		break;
	case SMC_OPTION_PEER:
		answer = wish ? wish->peer : SMC_PEER_UNKNOWN;
		break;
	default:
		return 0;
	}
	*value = answer;
	SET(ctx->optlen, sizeof(*value));
	SET(ctx->retval, 0);
	return 1;
}

/* None of the helpers used is reserved for GPL programs. */
char _license[] SEC("license") = "MIT OR Apache-2.0";
