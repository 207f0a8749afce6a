// SPDX-License-Identifier: GPL-2.0-only
/*
 * Partitions of a listening socket's accept queue.
 *
 * A partition is a listening socket of its own: sockets that share one struct
 * sock would share the cache lines that every handshake writes (its reference
 * count, the counters of the request queue, the lock).  Partitions are in no
 * lookup hash table.  A SYN finds the listener that the program bound, as ever,
 * and from there, by the CPU that it is processed on, a partition:
 *
 *	lookup -> listener -> group -> map -> cpu[] -> partition
 *
 * A handshake stays with the socket that its SYN was given to
 * (request_sock.rsk_listener), and children are made from that socket, so the
 * rest of TCP needs to know nothing.
 *
 * Partitions join the bind bucket of the listener with the same address and the
 * same SO_REUSEADDR and SO_REUSEPORT.  To bind() they are one more socket like
 * the listener, so they neither open the port to anybody nor close it.
 *
 * Lifetime.  Each partition's sock holds a reference to the group, because the
 * handshakes that it has begun look for a successor there after it is closed;
 * so does the listener while it has partitions.  The group holds the
 * listener's sock.  Maps and groups are read under RCU.
 */

#include <linux/cpumask.h>
#include <linux/hash.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/rcupdate.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <net/inet_hashtables.h>
#include <net/inet_common.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/megapipe.h>
#include <net/tcp.h>
#include <trace/events/megapipe.h>

#include "partition.h"

/* Partitions of one listener */
#define MP_MAX_PARTITIONS	1024

/**
 * struct mp_span - a run of entries of mp_map.socks
 * @first: first
 * @count: how many, at least 1
 */
struct mp_span {
	u32	first;
	u32	count;
};

/**
 * struct mp_map - which partition serves which CPU
 * @rcu: delays freeing
 * @nr_socks: entries of @socks
 * @socks: first all partitions once, then those of each CPU
 * @cpu: where in @socks are a CPU's partitions; all of them, if none has the
 *	CPU in its mask
 */
struct mp_map {
	struct rcu_head	rcu;
	u32		nr_socks;
	struct sock	**socks;
	struct mp_span	cpu[];
};

/**
 * struct mp_group - the partitions of one listener
 * @refs: the listener's, while it has partitions, and each partition's sock
 * @listener: the listener
 * @map: NULL when there is no partition any more
 * @partitions: list of struct mp_partition, under mp_partition_mutex
 * @nr: length of @partitions
 * @rcu: delays freeing
 */
struct mp_group {
	refcount_t		refs;
	struct sock		*listener;
	struct mp_map __rcu	*map;
	struct list_head	partitions;
	u32			nr;
	struct rcu_head		rcu;
};

/**
 * struct mp_partition - a partition, held by the handle that made it
 * @node: link in mp_group.partitions
 * @group: its group
 * @sock: the socket that holds the queue
 * @cpus: the CPUs whose handshakes it takes
 */
struct mp_partition {
	struct list_head	node;
	struct mp_group		*group;
	struct socket		*sock;
	cpumask_var_t		cpus;
};

/* On from the first partition until the machine is switched off */
DEFINE_STATIC_KEY_FALSE(megapipe_partitions_exist);

/* Which groups there are, and who is in them.  Taken inside channel.mutex. */
static DEFINE_MUTEX(mp_partition_mutex);

struct socket *mp_partition_sock(const struct mp_partition *partition)
{
	return partition->sock;
}

static struct mp_group __rcu **mp_group_slot(struct sock *sk)
{
	return &inet_csk(sk)->icsk_accept_queue.megapipe;
}

static void mp_group_put(struct mp_group *group)
{
	if (!refcount_dec_and_test(&group->refs))
		return;
	sock_put(group->listener);
	kfree_rcu(group, rcu);
}

/*
 * The end of a partition's sock, when no handshake refers to it any more.
 *
 * Connections inherit the destructor of their listener, but not its group:
 * inet_csk_clone_lock() clears the accept queue of a child.
 */
static void mp_partition_leave_group(struct sock *sk)
{
	struct mp_group *group;

	group = rcu_dereference_protected(*mp_group_slot(sk), true);
	if (group)
		mp_group_put(group);
}

static void mp_partition_destruct(struct sock *sk)
{
	mp_partition_leave_group(sk);
	inet_sock_destruct(sk);
}

/* IPv6 may be a module, so its destructor is known by the sockets only. */
static void (*mp_inet6_destruct)(struct sock *sk);

static void mp_partition_destruct6(struct sock *sk)
{
	mp_partition_leave_group(sk);
	READ_ONCE(mp_inet6_destruct)(sk);
}

static void mp_partition_set_destruct(struct sock *sk)
{
	if (sk->sk_family == AF_INET6) {
		WRITE_ONCE(mp_inet6_destruct, sk->sk_destruct);
		sk->sk_destruct = mp_partition_destruct6;
	} else {
		sk->sk_destruct = mp_partition_destruct;
	}
}

static void mp_map_free(struct mp_map *map)
{
	kvfree(map);
}

static void mp_map_free_rcu(struct rcu_head *rcu)
{
	mp_map_free(container_of(rcu, struct mp_map, rcu));
}

static struct mp_map *mp_map_build(const struct mp_group *group)
{
	struct mp_partition *partition;
	struct mp_map *map;
	size_t total = group->nr;
	u32 n = 0;
	int cpu;

	list_for_each_entry(partition, &group->partitions, node)
		total += cpumask_weight(partition->cpus);
	map = kvzalloc(struct_size(map, cpu, nr_cpu_ids) +
		       array_size(total, sizeof(*map->socks)),
		       GFP_KERNEL_ACCOUNT);
	if (!map)
		return NULL;
	map->socks = (struct sock **)&map->cpu[nr_cpu_ids];

	list_for_each_entry(partition, &group->partitions, node)
		map->socks[n++] = partition->sock->sk;
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		map->cpu[cpu].first = n;
		list_for_each_entry(partition, &group->partitions, node)
			if (cpumask_test_cpu(cpu, partition->cpus))
				map->socks[n++] = partition->sock->sk;
		map->cpu[cpu].count = n - map->cpu[cpu].first;
		if (!map->cpu[cpu].count)
			map->cpu[cpu] = (struct mp_span){ 0, group->nr };
	}
	map->nr_socks = n;
	return map;
}

static void mp_group_publish(struct mp_group *group, struct mp_map *map)
{
	struct mp_map *old;

	old = rcu_replace_pointer(group->map, map,
				  lockdep_is_held(&mp_partition_mutex));
	if (old)
		call_rcu(&old->rcu, mp_map_free_rcu);
}

/*
 * Without memory for a new map, let a partition that stays stand in for the one
 * that goes.
 */
static void mp_map_replace(struct mp_map *map, const struct sock *from,
			   struct sock *to)
{
	u32 i;

	for (i = 0; i < map->nr_socks; i++)
		if (map->socks[i] == from)
			WRITE_ONCE(map->socks[i], to);
}

/* The group of a listener, made if need be; for the caller's use a reference */
static struct mp_group *mp_group_get(struct sock *listener)
{
	struct mp_group *group;

	lockdep_assert_held(&mp_partition_mutex);

	group = rcu_dereference_protected(*mp_group_slot(listener),
					  lockdep_is_held(&mp_partition_mutex));
	if (group) {
		refcount_inc(&group->refs);
		return group;
	}

	group = kzalloc(sizeof(*group), GFP_KERNEL_ACCOUNT);
	if (!group)
		return NULL;
	refcount_set(&group->refs, 1);
	INIT_LIST_HEAD(&group->partitions);
	sock_hold(listener);
	group->listener = listener;
	return group;
}

/* Everything that a connection takes over from its listener */
static void mp_partition_copy_options(struct sock *sk, const struct sock *from)
{
	const struct tcp_sock *from_tp = tcp_sk(from);
	struct tcp_sock *tp = tcp_sk(sk);

	sk->sk_uid = from->sk_uid;
	sk->sk_reuse = from->sk_reuse;
	sk->sk_reuseport = from->sk_reuseport;
	sk->sk_bound_dev_if = from->sk_bound_dev_if;
	sk->sk_userlocks = from->sk_userlocks;
	/* Time stamps are counted: see sk_clone_lock(), net_enable_timestamp(). */
	sk->sk_flags = from->sk_flags & ~SK_FLAGS_TIMESTAMP;
	if (sock_flag(from, SOCK_TIMESTAMP))
		sock_enable_timestamp(sk, SOCK_TIMESTAMP);
	if (sock_flag(from, SOCK_TIMESTAMPING_RX_SOFTWARE))
		sock_enable_timestamp(sk, SOCK_TIMESTAMPING_RX_SOFTWARE);
	sk->sk_lingertime = from->sk_lingertime;
	sk->sk_sndbuf = from->sk_sndbuf;
	sk->sk_rcvbuf = from->sk_rcvbuf;
	sk->sk_rcvlowat = from->sk_rcvlowat;
	sk->sk_rcvtimeo = from->sk_rcvtimeo;
	sk->sk_sndtimeo = from->sk_sndtimeo;
	sk->sk_mark = from->sk_mark;
	sk->sk_priority = from->sk_priority;
	sk->sk_max_pacing_rate = from->sk_max_pacing_rate;
	sk->sk_pacing_status = from->sk_pacing_status;
	sk->sk_txrehash = from->sk_txrehash;
	sk->sk_tsflags = from->sk_tsflags;
#ifdef CONFIG_NET_RX_BUSY_POLL
	sk->sk_ll_usec = from->sk_ll_usec;
	sk->sk_prefer_busy_poll = from->sk_prefer_busy_poll;
	sk->sk_busy_poll_budget = from->sk_busy_poll_budget;
#endif

	inet_sk(sk)->inet_flags = inet_sk(from)->inet_flags;
	inet_sk(sk)->inet_rcv_saddr = inet_sk(from)->inet_rcv_saddr;
	inet_sk(sk)->inet_saddr = inet_sk(from)->inet_saddr;
	inet_sk(sk)->uc_ttl = inet_sk(from)->uc_ttl;
	inet_sk(sk)->min_ttl = inet_sk(from)->min_ttl;
	inet_sk(sk)->tos = inet_sk(from)->tos;
	inet_sk(sk)->pmtudisc = inet_sk(from)->pmtudisc;
	inet_sk(sk)->local_port_range = inet_sk(from)->local_port_range;
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		sk->sk_ipv6only = from->sk_ipv6only;
		sk->sk_v6_rcv_saddr = from->sk_v6_rcv_saddr;
		inet6_sk(sk)->saddr = inet6_sk(from)->saddr;
		inet6_sk(sk)->hop_limit = inet6_sk(from)->hop_limit;
		inet6_sk(sk)->pmtudisc = inet6_sk(from)->pmtudisc;
		inet6_sk(sk)->tclass = inet6_sk(from)->tclass;
		inet6_sk(sk)->rxopt.all = inet6_sk(from)->rxopt.all;
		inet6_sk(sk)->srcprefs = inet6_sk(from)->srcprefs;
		inet6_sk(sk)->min_hopcount = inet6_sk(from)->min_hopcount;
		inet6_sk(sk)->frag_size = inet6_sk(from)->frag_size;
	}
#endif

	inet_csk(sk)->icsk_user_timeout = inet_csk(from)->icsk_user_timeout;
	inet_csk(sk)->icsk_syn_retries = inet_csk(from)->icsk_syn_retries;
	inet_csk(sk)->icsk_accept_queue.rskq_defer_accept =
		inet_csk(from)->icsk_accept_queue.rskq_defer_accept;
	inet_csk(sk)->icsk_accept_queue.fastopenq.max_qlen =
		inet_csk(from)->icsk_accept_queue.fastopenq.max_qlen;

	tp->nonagle = from_tp->nonagle;
	tp->keepalive_time = from_tp->keepalive_time;
	tp->keepalive_intvl = from_tp->keepalive_intvl;
	tp->keepalive_probes = from_tp->keepalive_probes;
	tp->linger2 = from_tp->linger2;
	tp->notsent_lowat = from_tp->notsent_lowat;
	tp->window_clamp = from_tp->window_clamp;
	tp->rx_opt.user_mss = from_tp->rx_opt.user_mss;
	tp->save_syn = from_tp->save_syn;
	tp->thin_lto = from_tp->thin_lto;
	tp->recvmsg_inq = from_tp->recvmsg_inq;
	tp->fastopen_no_cookie = from_tp->fastopen_no_cookie;
}

/* What cannot be copied is refused, so that nothing is lost silently. */
static bool mp_partition_possible(const struct sock *listener)
{
	const struct inet_connection_sock *icsk = inet_csk(listener);
	const struct tcp_sock *tp = tcp_sk(listener);

	if (icsk->icsk_ulp_ops || tp->repair ||
	    READ_ONCE(listener->sk_user_data) ||
	    rcu_access_pointer(listener->sk_filter) ||
	    rcu_access_pointer(inet_sk(listener)->inet_opt) ||
	    rcu_access_pointer(icsk->icsk_accept_queue.fastopenq.ctx))
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

/* What inet_csk_listen_start() does, without a port or a hash table */
static int mp_partition_listen(struct sock *sk, struct sock *listener)
{
	struct inet_connection_sock *icsk = inet_csk(sk);
	int err;

	reqsk_queue_alloc(&icsk->icsk_accept_queue);
	sk->sk_ack_backlog = 0;
	WRITE_ONCE(sk->sk_max_ack_backlog,
		   READ_ONCE(listener->sk_max_ack_backlog));
	inet_csk_delack_init(sk);
	/* Freed as the lookup, which takes no reference, expects it */
	sock_set_flag(sk, SOCK_RCU_FREE);
	sk_dst_reset(sk);

	inet_sk(sk)->inet_num = inet_sk(listener)->inet_num;
	inet_sk(sk)->inet_sport = inet_sk(listener)->inet_sport;
	local_bh_disable();
	err = __inet_inherit_port(listener, sk);
	local_bh_enable();
	if (err) {
		inet_sk(sk)->inet_num = 0;
		return err;
	}
	inet_sk_state_store(sk, TCP_LISTEN);
	return 0;
}

/* The socket of a partition, listening, in no group yet */
static struct socket *mp_partition_sock_create(struct sock *listener)
{
	struct socket *sock;
	int err;

	/* kern = 0: its children are ordinary and hold the namespace. */
	err = __sock_create(sock_net(listener), listener->sk_family,
			    SOCK_STREAM, IPPROTO_TCP, &sock, 0);
	if (err)
		return ERR_PTR(err);
	SOCK_INODE(sock)->i_uid = listener->sk_uid;

	lock_sock(listener);
	lock_sock_nested(sock->sk, SINGLE_DEPTH_NESTING);
	err = -EINVAL;
	if (listener->sk_state != TCP_LISTEN)
		goto out_unlock;
	err = -EOPNOTSUPP;
	if (!mp_partition_possible(listener))
		goto out_unlock;
	mp_partition_copy_options(sock->sk, listener);
	security_sk_clone(listener, sock->sk);
	err = tcp_set_congestion_control(sock->sk,
					 inet_csk(listener)->icsk_ca_ops->name,
					 false, true);
	if (err)
		goto out_unlock;
	/* Chosen by the program, or the system's, which may yet change? */
	inet_csk(sock->sk)->icsk_ca_setsockopt =
		inet_csk(listener)->icsk_ca_setsockopt;
	err = mp_partition_listen(sock->sk, listener);
out_unlock:
	release_sock(sock->sk);
	release_sock(listener);
	if (err) {
		sock_release(sock);
		return ERR_PTR(err);
	}
	return sock;
}

static int mp_partition_join(struct mp_partition *partition,
			     struct sock *listener)
{
	struct sock *sk = partition->sock->sk;
	struct mp_group *group;
	struct mp_map *map;
	int err = -ENOMEM;

	mutex_lock(&mp_partition_mutex);
	group = mp_group_get(listener);
	if (!group)
		goto out_unlock;
	err = -ENOSPC;
	if (group->nr == MP_MAX_PARTITIONS)
		goto out_put;

	list_add_tail(&partition->node, &group->partitions);
	group->nr++;
	err = -ENOMEM;
	map = mp_map_build(group);
	if (!map) {
		list_del(&partition->node);
		group->nr--;
		goto out_put;
	}

	/* The reference of mp_group_get() becomes the sock's. */
	partition->group = group;
	mp_partition_set_destruct(sk);
	rcu_assign_pointer(*mp_group_slot(sk), group);
	mp_group_publish(group, map);
	if (group->nr == 1) {
		refcount_inc(&group->refs);
		rcu_assign_pointer(*mp_group_slot(listener), group);
		static_branch_enable(&megapipe_partitions_exist);
	}
	mutex_unlock(&mp_partition_mutex);
	return 0;

out_put:
	mp_group_put(group);
out_unlock:
	mutex_unlock(&mp_partition_mutex);
	return err;
}

/*
 * A new partition of @listener, which takes the handshakes that arrive on
 * @cpus.  The caller keeps the listener's file open until it releases the
 * partition.
 */
struct mp_partition *mp_partition_create(struct socket *listener,
					 const struct cpumask *cpus)
{
	struct mp_partition *partition;
	int err;

	partition = kzalloc(sizeof(*partition), GFP_KERNEL_ACCOUNT);
	if (!partition)
		return ERR_PTR(-ENOMEM);
	err = -ENOMEM;
	if (!alloc_cpumask_var(&partition->cpus, GFP_KERNEL_ACCOUNT))
		goto out_free;
	cpumask_copy(partition->cpus, cpus);

	partition->sock = mp_partition_sock_create(listener->sk);
	if (IS_ERR(partition->sock)) {
		err = PTR_ERR(partition->sock);
		goto out_free_cpus;
	}
	err = mp_partition_join(partition, listener->sk);
	if (err)
		goto out_release;
	return partition;

out_release:
	sock_release(partition->sock);
out_free_cpus:
	free_cpumask_var(partition->cpus);
out_free:
	kfree(partition);
	return ERR_PTR(err);
}

static void mp_partition_leave(struct mp_partition *partition)
{
	struct mp_group *group = partition->group;
	struct mp_partition *heir;
	struct mp_map *map;

	mutex_lock(&mp_partition_mutex);
	list_del(&partition->node);
	if (!--group->nr) {
		mp_group_publish(group, NULL);
		RCU_INIT_POINTER(*mp_group_slot(group->listener), NULL);
		mp_group_put(group);
		goto out_unlock;
	}

	map = mp_map_build(group);
	if (map) {
		mp_group_publish(group, map);
		goto out_unlock;
	}
	heir = list_first_entry(&group->partitions, struct mp_partition, node);
	map = rcu_dereference_protected(group->map,
					lockdep_is_held(&mp_partition_mutex));
	mp_map_replace(map, partition->sock->sk, heir->sock->sk);
out_unlock:
	mutex_unlock(&mp_partition_mutex);
}

/*
 * Close a partition.  What is in its queue, or half-open, moves to another
 * partition or to the listener (__megapipe_migrate_listener()).
 */
void mp_partition_release(struct mp_partition *partition)
{
	mp_partition_leave(partition);
	/* After this no new handshake is given to it. */
	synchronize_rcu_expedited();
	sock_release(partition->sock);
	free_cpumask_var(partition->cpus);
	kfree(partition);
}

struct sock *__megapipe_select_listener(struct sock *sk, __be16 sport)
{
	const struct mp_group *group = rcu_dereference(*mp_group_slot(sk));
	const struct mp_map *map;
	const struct mp_span *span;
	struct sock *partition;
	u32 i;

	if (!group)
		return sk;
	map = rcu_dereference(group->map);
	if (!map)
		return sk;
	span = &map->cpu[raw_smp_processor_id()];
	i = span->first;
	if (span->count > 1)
		i += reciprocal_scale(hash_32((__force u32)sport, 32),
				      span->count);
	partition = READ_ONCE(map->socks[i]);
	/* SOCK_DESTROY can close a partition under its owner. */
	return likely(inet_sk_state_load(partition) == TCP_LISTEN) ?
	       partition : sk;
}

static bool mp_partition_has_space(const struct sock *sk)
{
	return inet_sk_state_load(sk) == TCP_LISTEN && !sk_acceptq_is_full(sk);
}

/* A partition for a connection that arrived on @cpu, one with space if any */
static struct sock *mp_map_select(const struct mp_map *map, unsigned int cpu)
{
	struct sock *sk = READ_ONCE(map->socks[map->cpu[cpu].first]);
	u32 i;

	for (i = 0; !mp_partition_has_space(sk) && i < map->nr_socks; i++)
		if (mp_partition_has_space(READ_ONCE(map->socks[i])))
			sk = READ_ONCE(map->socks[i]);
	return sk;
}

struct sock *__megapipe_migrate_listener(struct sock *sk,
					 const struct sock *migrating_sk)
{
	unsigned int cpu = raw_smp_processor_id();
	const struct mp_group *group;
	const struct mp_map *map;
	struct sock *heir = NULL;

	rcu_read_lock();
	group = rcu_dereference(*mp_group_slot(sk));
	if (!group || group->listener == sk)
		goto out;

	/* A request sock, with its handshake under way, has no such field. */
	if (migrating_sk->sk_state != TCP_NEW_SYN_RECV &&
	    (u32)READ_ONCE(migrating_sk->sk_incoming_cpu) < nr_cpu_ids)
		cpu = READ_ONCE(migrating_sk->sk_incoming_cpu);
	map = rcu_dereference(group->map);
	heir = map ? mp_map_select(map, cpu) : group->listener;
	if (inet_sk_state_load(heir) != TCP_LISTEN ||
	    !refcount_inc_not_zero(&heir->sk_refcnt)) {
		NET_INC_STATS(sock_net(sk), LINUX_MIB_TCPMIGRATEREQFAILURE);
		heir = NULL;
	}
	trace_megapipe_migrate(sk, heir, migrating_sk, cpu);
out:
	rcu_read_unlock();
	return heir;
}

#ifdef CONFIG_MEGAPIPE_KUNIT_TEST
#include "partition_kunit.c"
#endif
