/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints of MegaPipe.  A channel is named by the number that its fdinfo
 * shows; the task that runs its ioctl is the event's own.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM megapipe

#if !defined(_TRACE_MEGAPIPE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_MEGAPIPE_H

#include <linux/ipv6.h>
#include <linux/tracepoint.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/tcp_states.h>
#include <trace/events/net_probe_common.h>
#include <uapi/linux/megapipe.h>

/* So that tools which print the raw records know the numbers */
TRACE_DEFINE_ENUM(MEGAPIPE_OP_ACCEPT);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_CONNECT);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_READ);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_READV);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_RECVFROM);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_WRITE);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_WRITEV);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_SENDTO);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_SENDFILE);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_POLL);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_DISCONNECT);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_CANCEL);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_COOKIE);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_UNREGISTER);
TRACE_DEFINE_ENUM(MEGAPIPE_OP_CLOSE);

#define megapipe_show_op(op)					\
	__print_symbolic(op,					\
			 { MEGAPIPE_OP_ACCEPT, "accept" },	\
			 { MEGAPIPE_OP_CONNECT, "connect" },	\
			 { MEGAPIPE_OP_READ, "read" },		\
			 { MEGAPIPE_OP_READV, "readv" },	\
			 { MEGAPIPE_OP_RECVFROM, "recvfrom" },	\
			 { MEGAPIPE_OP_WRITE, "write" },	\
			 { MEGAPIPE_OP_WRITEV, "writev" },	\
			 { MEGAPIPE_OP_SENDTO, "sendto" },	\
			 { MEGAPIPE_OP_SENDFILE, "sendfile" },	\
			 { MEGAPIPE_OP_POLL, "poll" },		\
			 { MEGAPIPE_OP_DISCONNECT, "disconnect" },\
			 { MEGAPIPE_OP_CANCEL, "cancel" },	\
			 { MEGAPIPE_OP_COOKIE, "cookie" },	\
			 { MEGAPIPE_OP_UNREGISTER, "unregister" },\
			 { MEGAPIPE_OP_CLOSE, "close" })

#define megapipe_show_family(family)		\
	__print_symbolic(family,		\
			 { AF_INET, "inet" },	\
			 { AF_INET6, "inet6" })

/* What an unaccepted connection can have come to */
#define megapipe_show_state(state)				\
	__print_symbolic(state,					\
			 { TCP_NEW_SYN_RECV, "NEW_SYN_RECV" },	\
			 { TCP_SYN_RECV, "SYN_RECV" },		\
			 { TCP_ESTABLISHED, "ESTABLISHED" },	\
			 { TCP_CLOSE_WAIT, "CLOSE_WAIT" },	\
			 { TCP_CLOSE, "CLOSE" })

/*
 * A command is about to be tried, so that it comes before its completion.  One
 * that fails when there is no room to say so is not consumed: the program
 * sends it again, and it is traced again.
 */
TRACE_EVENT(megapipe_command,
	TP_PROTO(u64 channel, const struct megapipe_cmd *cmd),

	TP_ARGS(channel, cmd),

	TP_STRUCT__entry(
		__field(u64, channel)
		__field(s32, handle)
		__field(u32, len)
		__field(u32, aux)
		__field(u8, op)
		__field(u8, flags)
	),

	TP_fast_assign(
		__entry->channel = channel;
		__entry->handle = cmd->handle;
		__entry->len = cmd->len;
		__entry->aux = cmd->aux;
		__entry->op = cmd->op;
		__entry->flags = cmd->flags;
	),

	TP_printk("channel=%llu handle=%#x op=%s flags=%#x len=%u aux=%u",
		  __entry->channel, __entry->handle,
		  megapipe_show_op(__entry->op), __entry->flags,
		  __entry->len, __entry->aux)
);

/*
 * A completion was made for the dispatch that runs.  It is lost to the program
 * only if the array that it gave cannot be written, or if it is being killed.
 */
TRACE_EVENT(megapipe_completion,
	TP_PROTO(u64 channel, const struct megapipe_event *event),

	TP_ARGS(channel, event),

	TP_STRUCT__entry(
		__field(u64, channel)
		__field(s32, handle)
		__field(s32, result)
		__field(u32, aux)
		__field(u16, op)
		__field(u16, flags)
	),

	TP_fast_assign(
		__entry->channel = channel;
		__entry->handle = event->handle;
		__entry->result = event->res;
		__entry->aux = event->aux;
		__entry->op = event->op;
		__entry->flags = event->flags;
	),

	TP_printk("channel=%llu handle=%#x op=%s flags=%#x result=%d aux=%u",
		  __entry->channel, __entry->handle,
		  megapipe_show_op(__entry->op), __entry->flags,
		  __entry->result, __entry->aux)
);

/*
 * A connection left the accept queue and belongs to a channel's process from
 * now on.  @listener is the listening handle, @result the descriptor or the
 * lwsocket's handle; @foreign: its last packet was handled on another CPU.
 */
TRACE_EVENT(megapipe_accept,
	TP_PROTO(u64 channel, s32 listener, s32 result, bool foreign,
		 const struct sock *sk),

	TP_ARGS(channel, listener, result, foreign, sk),

	TP_STRUCT__entry(
		__field(u64, channel)
		__field(s32, listener)
		__field(s32, result)
		__field(int, cpu)
		__field(u16, family)
		__field(u16, sport)
		__field(u16, dport)
		__field(bool, foreign)
		__array(u8, saddr_v6, 16)
		__array(u8, daddr_v6, 16)
	),

	TP_fast_assign(
		__entry->channel = channel;
		__entry->listener = listener;
		__entry->result = result;
		__entry->cpu = raw_smp_processor_id();
		__entry->family = sk->sk_family;
		__entry->sport = sk->sk_num;
		__entry->dport = ntohs(sk->sk_dport);
		__entry->foreign = foreign;
		TP_STORE_ADDRS(__entry, sk->sk_rcv_saddr, sk->sk_daddr,
			       sk->sk_v6_rcv_saddr, sk->sk_v6_daddr);
	),

	TP_printk("channel=%llu listener=%#x result=%#x cpu=%d foreign=%d family=%s sport=%u dport=%u saddr=%pI6c daddr=%pI6c",
		  __entry->channel, __entry->listener, __entry->result,
		  __entry->cpu, __entry->foreign,
		  megapipe_show_family(__entry->family), __entry->sport,
		  __entry->dport, __entry->saddr_v6, __entry->daddr_v6)
);

/*
 * An unaccepted connection, or one in its handshake, looks for a successor of
 * the closed partition that it belonged to.
 *
 * @from: the closed partition
 * @to: the partition or listener that takes it over; NULL: none can, and it is
 *	reset
 * @sk: the connection; in its handshake, a request
 * @cpu: the CPU by which the successor was chosen
 *
 * Its result is tentative: another CPU may be migrating the same handshake.
 */
TRACE_EVENT(megapipe_migrate,
	TP_PROTO(const struct sock *from, const struct sock *to,
		 const struct sock *sk, unsigned int cpu),

	TP_ARGS(from, to, sk, cpu),

	TP_STRUCT__entry(
		__field(const void *, from)
		__field(const void *, to)
		__field(int, cpu)
		__field(int, state)
		__field(u16, family)
		__field(u16, sport)
		__field(u16, dport)
		__array(u8, saddr_v6, 16)
		__array(u8, daddr_v6, 16)
	),

	TP_fast_assign(
		/* Fields of struct sock_common: requests have them, too. */
		__entry->from = from;
		__entry->to = to;
		__entry->cpu = cpu;
		__entry->state = sk->sk_state;
		__entry->family = sk->sk_family;
		__entry->sport = sk->sk_num;
		__entry->dport = ntohs(sk->sk_dport);
		TP_STORE_ADDRS(__entry, sk->sk_rcv_saddr, sk->sk_daddr,
			       sk->sk_v6_rcv_saddr, sk->sk_v6_daddr);
	),

	TP_printk("from=%p to=%p cpu=%d state=%s family=%s sport=%u dport=%u saddr=%pI6c daddr=%pI6c",
		  __entry->from, __entry->to, __entry->cpu,
		  megapipe_show_state(__entry->state),
		  megapipe_show_family(__entry->family), __entry->sport,
		  __entry->dport, __entry->saddr_v6, __entry->daddr_v6)
);

#endif /* _TRACE_MEGAPIPE_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
