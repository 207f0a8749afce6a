// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a partition inherits from its listener.
 *
 * A connection is made from the listening socket that took its SYN and copies
 * its options.  So a partition must have those of the listener that the program
 * knows: all are copied when it is made.  Options that are set later reach the
 * partitions, too, if they are in the list here; others are refused while there
 * are partitions, so that nothing is lost silently.
 */

#include <linux/filter.h>
#include <linux/net.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/tcp.h>

#include "inheritance.h"

/**
 * struct mp_option - an option that partitions take over later
 * @level: as for setsockopt()
 * @name: the option
 */
struct mp_option {
	int	level;
	int	name;
};

static const struct mp_option mp_options[] = {
	{ SOL_SOCKET, SO_BUSY_POLL },
	{ SOL_SOCKET, SO_BUSY_POLL_BUDGET },
	{ SOL_SOCKET, SO_DEBUG },
	{ SOL_SOCKET, SO_DONTROUTE },
	/* Chooses among SO_REUSEPORT listeners, which the listener alone is. */
	{ SOL_SOCKET, SO_INCOMING_CPU },
	{ SOL_SOCKET, SO_KEEPALIVE },
	{ SOL_SOCKET, SO_LINGER },
	{ SOL_SOCKET, SO_MARK },
	{ SOL_SOCKET, SO_MAX_PACING_RATE },
	{ SOL_SOCKET, SO_OOBINLINE },
	{ SOL_SOCKET, SO_PREFER_BUSY_POLL },
	{ SOL_SOCKET, SO_PRIORITY },
	{ SOL_SOCKET, SO_RCVBUF },
	{ SOL_SOCKET, SO_RCVBUFFORCE },
	{ SOL_SOCKET, SO_RCVLOWAT },
	{ SOL_SOCKET, SO_RCVTIMEO_NEW },
	{ SOL_SOCKET, SO_RCVTIMEO_OLD },
	{ SOL_SOCKET, SO_SNDBUF },
	{ SOL_SOCKET, SO_SNDBUFFORCE },
	{ SOL_SOCKET, SO_SNDTIMEO_NEW },
	{ SOL_SOCKET, SO_SNDTIMEO_OLD },
	{ SOL_SOCKET, SO_TXREHASH },
	{ SOL_SOCKET, SO_ZEROCOPY },
	{ IPPROTO_TCP, TCP_CONGESTION },
	{ IPPROTO_TCP, TCP_CORK },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT },
	{ IPPROTO_TCP, TCP_FASTOPEN },
	{ IPPROTO_TCP, TCP_FASTOPEN_KEY },
	{ IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE },
	{ IPPROTO_TCP, TCP_INQ },
	{ IPPROTO_TCP, TCP_KEEPCNT },
	{ IPPROTO_TCP, TCP_KEEPIDLE },
	{ IPPROTO_TCP, TCP_KEEPINTVL },
	{ IPPROTO_TCP, TCP_LINGER2 },
	{ IPPROTO_TCP, TCP_MAXSEG },
	{ IPPROTO_TCP, TCP_NODELAY },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT },
	{ IPPROTO_TCP, TCP_SAVE_SYN },
	{ IPPROTO_TCP, TCP_SYNCNT },
	{ IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS },
	{ IPPROTO_TCP, TCP_TX_DELAY },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT },
	{ IPPROTO_TCP, TCP_WINDOW_CLAMP },
	{ IPPROTO_IP, IP_FREEBIND },
	{ IPPROTO_IP, IP_MINTTL },
	{ IPPROTO_IP, IP_MTU_DISCOVER },
	{ IPPROTO_IP, IP_RECVERR },
	{ IPPROTO_IP, IP_RECVTOS },
	{ IPPROTO_IP, IP_TOS },
	{ IPPROTO_IP, IP_TRANSPARENT },
	{ IPPROTO_IP, IP_TTL },
	{ IPPROTO_IPV6, IPV6_ADDR_PREFERENCES },
	{ IPPROTO_IPV6, IPV6_AUTOFLOWLABEL },
	{ IPPROTO_IPV6, IPV6_DONTFRAG },
	{ IPPROTO_IPV6, IPV6_FREEBIND },
	{ IPPROTO_IPV6, IPV6_MINHOPCOUNT },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER },
	{ IPPROTO_IPV6, IPV6_RECVERR },
	{ IPPROTO_IPV6, IPV6_RECVTCLASS },
	{ IPPROTO_IPV6, IPV6_TCLASS },
	{ IPPROTO_IPV6, IPV6_TRANSPARENT },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS },
};

/* May the option be set on a listener that has partitions? */
bool mp_inheritance_allows(int level, int name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(mp_options); i++)
		if (mp_options[i].level == level && mp_options[i].name == name)
			return true;
	return false;
}

/*
 * Congestion control: the program's choice, or the system's, which may yet
 * change
 */
static int mp_inheritance_copy_congestion(struct sock *sk,
					  const struct sock *from)
{
	int err;

	err = tcp_set_congestion_control(sk, inet_csk(from)->icsk_ca_ops->name,
					 false, true);
	if (!err)
		inet_csk(sk)->icsk_ca_setsockopt =
			inet_csk(from)->icsk_ca_setsockopt;
	return err;
}

/* The listener's own keys for Fast Open cookies, if it has any */
static int mp_inheritance_copy_fastopen_keys(struct sock *sk,
					     const struct sock *from)
{
	u64 keys[2 * TCP_FASTOPEN_KEY_MAX] = {}, old[ARRAY_SIZE(keys)] = {};
	int n;

	if (!rcu_access_pointer(inet_csk(from)->icsk_accept_queue.fastopenq.ctx))
		return 0;
	n = tcp_fastopen_get_cipher(sock_net(from),
				    (struct inet_connection_sock *)from, keys);
	if (tcp_fastopen_get_cipher(sock_net(sk), inet_csk(sk), old) == n &&
	    !memcmp(old, keys, sizeof(keys)))
		return 0;
	return tcp_fastopen_reset_cipher(sock_net(sk), sk, keys,
					 n > 1 ? keys + 2 : NULL);
}

/*
 * Options that are set later find the partition in use: SYNs read its fields
 * without its lock, and some of the listener's are set without one.  So all but
 * bit fields and addresses are read and written as setsockopt() does it.
 */
#define mp_inherit(to, from)	WRITE_ONCE(to, READ_ONCE(from))

/*
 * Give @sk, a partition, everything that a connection takes over from its
 * listener @from.  Both are locked.  Done when the partition is made, and again
 * after each option that is set on the listener later.
 */
int mp_inheritance_copy(struct sock *sk, const struct sock *from)
{
	/* What a partition has of its own */
	const unsigned long own = SK_FLAGS_TIMESTAMP | BIT(SOCK_RCU_FREE);
	const struct tcp_sock *from_tp = tcp_sk(from);
	struct tcp_sock *tp = tcp_sk(sk);
	int err;

	err = mp_inheritance_copy_congestion(sk, from) ?:
	      mp_inheritance_copy_fastopen_keys(sk, from);
	if (err)
		return err;

	mp_inherit(sk->sk_uid, from->sk_uid);
	sk->sk_reuse = from->sk_reuse;
	sk->sk_reuseport = from->sk_reuseport;
	mp_inherit(sk->sk_bound_dev_if, from->sk_bound_dev_if);
	mp_inherit(sk->sk_userlocks, from->sk_userlocks);
	/* Time stamps are counted: see sk_clone_lock(), net_enable_timestamp(). */
	WRITE_ONCE(sk->sk_flags,
		   (READ_ONCE(from->sk_flags) & ~own) | (sk->sk_flags & own));
	if (sock_flag(from, SOCK_TIMESTAMP))
		sock_enable_timestamp(sk, SOCK_TIMESTAMP);
	if (sock_flag(from, SOCK_TIMESTAMPING_RX_SOFTWARE))
		sock_enable_timestamp(sk, SOCK_TIMESTAMPING_RX_SOFTWARE);
	mp_inherit(sk->sk_lingertime, from->sk_lingertime);
	mp_inherit(sk->sk_sndbuf, from->sk_sndbuf);
	mp_inherit(sk->sk_rcvbuf, from->sk_rcvbuf);
	mp_inherit(sk->sk_rcvlowat, from->sk_rcvlowat);
	mp_inherit(sk->sk_rcvtimeo, from->sk_rcvtimeo);
	mp_inherit(sk->sk_sndtimeo, from->sk_sndtimeo);
	mp_inherit(sk->sk_mark, from->sk_mark);
	mp_inherit(sk->sk_priority, from->sk_priority);
	mp_inherit(sk->sk_max_pacing_rate, from->sk_max_pacing_rate);
	mp_inherit(sk->sk_pacing_status, from->sk_pacing_status);
	mp_inherit(sk->sk_txrehash, from->sk_txrehash);
	mp_inherit(sk->sk_tsflags, from->sk_tsflags);
#ifdef CONFIG_NET_RX_BUSY_POLL
	mp_inherit(sk->sk_ll_usec, from->sk_ll_usec);
	mp_inherit(sk->sk_prefer_busy_poll, from->sk_prefer_busy_poll);
	mp_inherit(sk->sk_busy_poll_budget, from->sk_busy_poll_budget);
#endif

	mp_inherit(inet_sk(sk)->inet_flags, inet_sk(from)->inet_flags);
	mp_inherit(inet_sk(sk)->inet_rcv_saddr, inet_sk(from)->inet_rcv_saddr);
	mp_inherit(inet_sk(sk)->inet_saddr, inet_sk(from)->inet_saddr);
	mp_inherit(inet_sk(sk)->uc_ttl, inet_sk(from)->uc_ttl);
	mp_inherit(inet_sk(sk)->min_ttl, inet_sk(from)->min_ttl);
	mp_inherit(inet_sk(sk)->tos, inet_sk(from)->tos);
	mp_inherit(inet_sk(sk)->pmtudisc, inet_sk(from)->pmtudisc);
	mp_inherit(inet_sk(sk)->local_port_range,
		   inet_sk(from)->local_port_range);
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		sk->sk_ipv6only = from->sk_ipv6only;
		sk->sk_v6_rcv_saddr = from->sk_v6_rcv_saddr;
		inet6_sk(sk)->saddr = inet6_sk(from)->saddr;
		mp_inherit(inet6_sk(sk)->hop_limit, inet6_sk(from)->hop_limit);
		mp_inherit(inet6_sk(sk)->pmtudisc, inet6_sk(from)->pmtudisc);
		mp_inherit(inet6_sk(sk)->tclass, inet6_sk(from)->tclass);
		mp_inherit(inet6_sk(sk)->rxopt.all, inet6_sk(from)->rxopt.all);
		mp_inherit(inet6_sk(sk)->srcprefs, inet6_sk(from)->srcprefs);
		mp_inherit(inet6_sk(sk)->min_hopcount,
			   inet6_sk(from)->min_hopcount);
		mp_inherit(inet6_sk(sk)->frag_size, inet6_sk(from)->frag_size);
	}
#endif

	mp_inherit(inet_csk(sk)->icsk_user_timeout,
		   inet_csk(from)->icsk_user_timeout);
	mp_inherit(inet_csk(sk)->icsk_syn_retries,
		   inet_csk(from)->icsk_syn_retries);
	mp_inherit(inet_csk(sk)->icsk_accept_queue.rskq_defer_accept,
		   inet_csk(from)->icsk_accept_queue.rskq_defer_accept);
	mp_inherit(inet_csk(sk)->icsk_accept_queue.fastopenq.max_qlen,
		   inet_csk(from)->icsk_accept_queue.fastopenq.max_qlen);

	tp->nonagle = from_tp->nonagle;
	mp_inherit(tp->keepalive_time, from_tp->keepalive_time);
	mp_inherit(tp->keepalive_intvl, from_tp->keepalive_intvl);
	mp_inherit(tp->keepalive_probes, from_tp->keepalive_probes);
	mp_inherit(tp->linger2, from_tp->linger2);
	mp_inherit(tp->notsent_lowat, from_tp->notsent_lowat);
	mp_inherit(tp->window_clamp, from_tp->window_clamp);
	mp_inherit(tp->rx_opt.user_mss, from_tp->rx_opt.user_mss);
	tp->save_syn = from_tp->save_syn;
	tp->thin_lto = from_tp->thin_lto;
	tp->recvmsg_inq = from_tp->recvmsg_inq;
	tp->fastopen_no_cookie = from_tp->fastopen_no_cookie;
	mp_inherit(tp->tcp_tx_delay, from_tp->tcp_tx_delay);
#ifdef CONFIG_BPF
	mp_inherit(tp->bpf_sock_ops_cb_flags, from_tp->bpf_sock_ops_cb_flags);
#endif
	return 0;
}

/* What cannot be copied is refused, so that nothing is lost silently. */
bool mp_inheritance_possible(const struct sock *listener)
{
	const struct inet_connection_sock *icsk = inet_csk(listener);
	const struct tcp_sock *tp = tcp_sk(listener);

	if (icsk->icsk_ulp_ops || tp->repair ||
	    READ_ONCE(listener->sk_user_data) ||
	    rcu_access_pointer(listener->sk_filter) ||
	    rcu_access_pointer(inet_sk(listener)->inet_opt))
		return false;
#ifdef CONFIG_XFRM
	if (rcu_access_pointer(listener->sk_policy[0]) ||
	    rcu_access_pointer(listener->sk_policy[1]))
		return false;
#endif
#if IS_ENABLED(CONFIG_IPV6)
	if (listener->sk_family == AF_INET6 &&
	    rcu_access_pointer(inet6_sk(listener)->opt))
		return false;
#endif
#ifdef CONFIG_TCP_MD5SIG
	if (rcu_access_pointer(tp->md5sig_info))
		return false;
#endif
#ifdef CONFIG_TCP_AO
	if (rcu_access_pointer(tp->ao_info))
		return false;
#endif
	return true;
}
