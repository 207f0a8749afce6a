// SPDX-License-Identifier: GPL-2.0-only
/*
 * Partitions of a listening socket's accept queue.
 *
 * A partition is a listening socket of its own: sockets that share one struct
 * sock would share the cache lines that every handshake writes (its reference
 * count, the counters of the request queue, the lock).  Partitions are in no
 * lookup hash table.  A SYN finds the listener that the program bound, as ever
 * (with SO_REUSEPORT: the one of several that the kernel or the program's BPF
 * chooses), and from there, by the CPU that it is processed on, a partition:
 *
 *	lookup -> listener -> group -> map -> cpu[] -> partition
 *
 * A handshake stays with the socket that its SYN was given to
 * (request_sock.rsk_listener), and children are made from that socket, so the
 * rest of TCP needs to know nothing.  Only the time of the last SYN flood is
 * kept in the listener for all: the ACK that brings a SYN cookie back belongs
 * to no handshake and may come to another partition.
 *
 * Partitions join the bind bucket of the listener with the same address and the
 * same SO_REUSEADDR and SO_REUSEPORT.  To bind() they are one more socket like
 * the listener, so they neither open the port to anybody nor close it.
 *
 * Lifetime.  Each partition's sock holds a reference to the group, because the
 * handshakes that it has begun look for a successor there after it is closed;
 * so does the listener while it has partitions.  The group holds the
 * listener's sock.  Maps and groups are read under RCU.
 *
 * Locking.  The listener's lock_sock() protects who is in its group; a
 * partition's own nests inside.  So users can hold up nobody but those with
 * whom they share a listener.
 *
 * The end of a partition loses no connection that its owner has not accepted.
 * Packets are processed in RCU read-side sections, and a partition closes in
 * three steps with a grace period after each of the first two:
 *
 *   1. It leaves the map and is marked as leaving.  After the grace period no
 *	packet that found the listener can still be on its way to it, so no
 *	handshake begins in it and no SYN cookie or Fast Open request comes.
 *   2. Its state becomes TCP_CLOSE.  ACKs of its handshakes, and the timers of
 *	these, see that and go to another listener.  An ACK that has seen
 *	TCP_LISTEN still adds its connection to the queue although that is no
 *	listener's any more: megapipe_is_leaving().  After the grace period
 *	there is none left.
 *   3. The queue is moved: inet_csk_listen_stop().
 *
 * The connections go to the partition with the shortest queue, one of the CPU
 * that they arrived on if there is one with space; when all are full, to the
 * listener's own queue, from which all owners accept, beyond its backlog if
 * need be.  A handshake that finds all queues full waits in SYN_RECV and tries
 * again with each packet, as it does with any full listener.
 */

#include <linux/cpumask.h>
#include <linux/hash.h>
#include <linux/list.h>
#include <linux/net.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <net/bpf_sk_storage.h>
#include <net/inet_hashtables.h>
#include <net/inet_common.h>
#include <net/megapipe.h>
#include <net/tcp.h>
#include <trace/events/megapipe.h>

#include "inheritance.h"
#include "partition.h"

/* Full partitions that a packet looks at before it is dropped by one of them */
#define MP_MAX_LOOKS	8U
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
 * @nr: partitions
 * @nr_socks: entries of @socks
 * @socks: first all partitions once, then those of each CPU
 * @cpu: where in @socks are a CPU's partitions; all of them, if none has the
 *	CPU in its mask
 */
struct mp_map {
	struct rcu_head	rcu;
	u32		nr;
	u32		nr_socks;
	struct sock	**socks;
	struct mp_span	cpu[];
};

/**
 * struct mp_member - a listening socket's place in a group
 * @group: the group
 * @leaving: about to be closed; set before the grace period after which the
 *	socket's state becomes TCP_CLOSE, so that whoever sees the one sees the
 *	other
 * @migrated_in: connections and handshakes of others that came to it, written
 *	only when there are such
 */
struct mp_member {
	struct mp_group	*group;
	bool		leaving;
	atomic_long_t	migrated_in;
};

/**
 * struct mp_group - the partitions of one listener
 * @refs: the listener's, while it has partitions, and each partition's sock
 * @listener: the listener
 * @self: the listener as a member
 * @map: NULL when there is no partition any more
 * @partitions: list of struct mp_partition, under the listener's lock_sock()
 * @nr: length of @partitions; also read under RCU
 * @rcu: delays freeing
 */
struct mp_group {
	refcount_t		refs;
	struct sock		*listener;
	struct mp_member	self;
	struct mp_map __rcu	*map;
	struct list_head	partitions;
	u32			nr;
	struct rcu_head		rcu;
};

/**
 * struct mp_partition - a partition, held by the handle that made it
 * @node: link in mp_group.partitions; empty when it has left
 * @member: its place in the group
 * @sock: the socket that holds the queue
 * @cpus: the CPUs whose handshakes it takes
 *
 * Its sock may outlive its release, by the handshakes that have not yet found
 * a successor, and needs @member: it is freed with the sock.
 */
struct mp_partition {
	struct list_head	node;
	struct mp_member	member;
	struct socket		*sock;
	cpumask_var_t		cpus;
};

/* On from the first partition until the machine is switched off */
DEFINE_STATIC_KEY_FALSE(megapipe_partitions_exist);
EXPORT_SYMBOL_GPL(megapipe_partitions_exist);

struct socket *mp_partition_sock(const struct mp_partition *partition)
{
	return partition->sock;
}

static struct mp_member __rcu **mp_member_slot(const struct sock *sk)
{
	return &inet_csk((struct sock *)sk)->icsk_accept_queue.megapipe;
}

/* The group of a listener, which is locked */
static struct mp_group *mp_group(const struct sock *listener)
{
	struct mp_member *member;

	member = rcu_dereference_protected(*mp_member_slot(listener),
					   lockdep_sock_is_held(listener));
	return member ? member->group : NULL;
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
static void mp_partition_free(struct sock *sk)
{
	struct mp_member *member;

	member = rcu_dereference_protected(*mp_member_slot(sk), true);
	if (!member)
		return;
	mp_group_put(member->group);
	kfree(container_of(member, struct mp_partition, member));
}

static void mp_partition_destruct(struct sock *sk)
{
	mp_partition_free(sk);
	inet_sock_destruct(sk);
}

/* IPv6 may be a module, so its destructor is known by the sockets only. */
static void (*mp_inet6_destruct)(struct sock *sk);

static void mp_partition_destruct6(struct sock *sk)
{
	mp_partition_free(sk);
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
	map->nr = group->nr;
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
		cond_resched();
	}
	map->nr_socks = n;
	return map;
}

static void mp_group_publish(struct mp_group *group, struct mp_map *map)
{
	struct mp_map *old;

	old = rcu_replace_pointer(group->map, map,
				  lockdep_sock_is_held(group->listener));
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
	struct mp_group *group = mp_group(listener);

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
	group->self.group = group;
	return group;
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

/* Both sockets are locked. */
static int mp_partition_begin(struct mp_partition *partition,
			      struct sock *listener)
{
	struct sock *sk = partition->sock->sk;
	int err;

	if (listener->sk_state != TCP_LISTEN)
		return -EINVAL;
	if (!mp_inheritance_possible(listener))
		return -EOPNOTSUPP;
	err = mp_inheritance_copy(sk, listener) ?:
	      bpf_sk_storage_clone(listener, sk);
	if (err)
		return err;
	security_sk_clone(listener, sk);
	return mp_partition_listen(sk, listener);
}

/* The listener is locked. */
static int mp_partition_join(struct mp_partition *partition,
			     struct sock *listener)
{
	struct sock *sk = partition->sock->sk;
	struct mp_group *group;
	struct mp_map *map;
	int err;

	/*
	 * Partitions that end leave their connections, so making them again and
	 * again, with nobody who accepts, could fill the listener's queue
	 * without end.
	 */
	if (READ_ONCE(listener->sk_ack_backlog) / MP_MAX_PARTITIONS >
	    READ_ONCE(listener->sk_max_ack_backlog))
		return -ENOBUFS;

	group = mp_group_get(listener);
	if (!group)
		return -ENOMEM;
	err = -ENOSPC;
	if (group->nr == MP_MAX_PARTITIONS)
		goto out_put;

	list_add_tail(&partition->node, &group->partitions);
	WRITE_ONCE(group->nr, group->nr + 1);
	err = -ENOMEM;
	map = mp_map_build(group);
	if (!map)
		goto out_leave;

	/* The reference of mp_group_get() becomes the sock's. */
	partition->member.group = group;
	mp_partition_set_destruct(sk);
	rcu_assign_pointer(*mp_member_slot(sk), &partition->member);
	mp_group_publish(group, map);
	if (group->nr == 1) {
		refcount_inc(&group->refs);
		rcu_assign_pointer(*mp_member_slot(listener), &group->self);
	}
	return 0;

out_leave:
	list_del_init(&partition->node);
	WRITE_ONCE(group->nr, group->nr - 1);
out_put:
	mp_group_put(group);
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
	int err = -ENOMEM;

	static_branch_enable(&megapipe_partitions_exist);

	partition = kzalloc(sizeof(*partition), GFP_KERNEL_ACCOUNT);
	if (!partition)
		return ERR_PTR(-ENOMEM);
	INIT_LIST_HEAD(&partition->node);
	if (!alloc_cpumask_var(&partition->cpus, GFP_KERNEL_ACCOUNT))
		goto out_free;
	cpumask_copy(partition->cpus, cpus);

	/* kern = 0: its children are ordinary and hold the namespace. */
	err = __sock_create(sock_net(listener->sk), listener->sk->sk_family,
			    SOCK_STREAM, IPPROTO_TCP, &partition->sock, 0);
	if (err)
		goto out_free_cpus;
	SOCK_INODE(partition->sock)->i_uid = listener->sk->sk_uid;

	lock_sock(listener->sk);
	lock_sock_nested(partition->sock->sk, SINGLE_DEPTH_NESTING);
	err = mp_partition_begin(partition, listener->sk) ?:
	      mp_partition_join(partition, listener->sk);
	release_sock(partition->sock->sk);
	release_sock(listener->sk);
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

/* No handshake is given to any partition of the group any more. */
static void mp_group_dissolve(struct mp_group *group)
{
	mp_group_publish(group, NULL);
	RCU_INIT_POINTER(*mp_member_slot(group->listener), NULL);
	mp_group_put(group);
}

/* Step 1, see the top of the file */
static void mp_partition_leave(struct mp_partition *partition)
{
	struct mp_group *group = partition->member.group;
	struct mp_partition *heir;
	struct mp_map *map;

	WRITE_ONCE(partition->member.leaving, true);
	list_del_init(&partition->node);
	WRITE_ONCE(group->nr, group->nr - 1);
	if (!group->nr) {
		mp_group_dissolve(group);
		return;
	}

	map = mp_map_build(group);
	if (map) {
		mp_group_publish(group, map);
		return;
	}
	heir = list_first_entry(&group->partitions, struct mp_partition, node);
	map = rcu_dereference_protected(group->map,
					lockdep_sock_is_held(group->listener));
	mp_map_replace(map, partition->sock->sk, heir->sock->sk);
}

/* Step 2 */
static void mp_partition_stop(struct mp_partition *partition)
{
	struct sock *sk = partition->sock->sk;

	lock_sock(sk);
	inet_sk_state_store(sk, TCP_CLOSE);
	release_sock(sk);
}

/* Step 3 */
static void mp_partition_move(struct mp_partition *partition)
{
	struct sock *sk = partition->sock->sk;

	lock_sock(sk);
	inet_csk_listen_stop(sk);
	release_sock(sk);
}

/*
 * An expedited grace period interrupts all CPUs that run something.  A user who
 * makes and ends partitions in a loop must not do that to the whole machine
 * more often than a timer would.
 */
static void mp_partition_synchronize(void)
{
	static DEFINE_RATELIMIT_STATE(expedited, HZ, 1000);

	ratelimit_set_flags(&expedited, RATELIMIT_MSG_ON_RELEASE);
	if (__ratelimit(&expedited))
		synchronize_rcu_expedited();
	else
		synchronize_rcu();
}

/*
 * inet_csk_listen_stop() wakes those who got its connections since 6.12.95 only.
 * The listener is locked, which keeps the partitions where they are.
 */
static void mp_group_wake(const struct mp_group *group)
{
	struct mp_partition *partition;
	struct sock *sk = group->listener;

	if (!reqsk_queue_empty(&inet_csk(sk)->icsk_accept_queue))
		sk->sk_data_ready(sk);
	list_for_each_entry(partition, &group->partitions, node) {
		sk = partition->sock->sk;
		if (!reqsk_queue_empty(&inet_csk(sk)->icsk_accept_queue))
			sk->sk_data_ready(sk);
	}
}

/*
 * Close a partition.  What is in its queue, or half-open, moves to another
 * partition or to the listener (__megapipe_migrate_listener()).
 */
void mp_partition_release(struct mp_partition *partition)
{
	struct sock *listener = partition->member.group->listener;
	struct socket *sock = partition->sock;

	lock_sock(listener);
	/* If the listener was shut down, that is done: see megapipe_listen(). */
	if (!list_empty(&partition->node)) {
		mp_partition_leave(partition);
		release_sock(listener);
		mp_partition_synchronize();
		mp_partition_stop(partition);
		mp_partition_synchronize();
		mp_partition_move(partition);
		lock_sock(listener);
		mp_group_wake(partition->member.group);
	}
	release_sock(listener);
	free_cpumask_var(partition->cpus);
	/* The sock's destructor frees the partition. */
	sock_release(sock);
}

u32 mp_partition_count(const struct socket *listener)
{
	const struct mp_member *member;
	u32 count = 0;

	if (!sk_is_tcp(listener->sk))
		return 0;
	rcu_read_lock();
	member = rcu_dereference(*mp_member_slot(listener->sk));
	if (member)
		count = READ_ONCE(member->group->nr);
	rcu_read_unlock();
	return count;
}

/* CPUs that it serves; 0 after the listener was shut down and listens again */
u32 mp_partition_cpus(const struct mp_partition *partition)
{
	if (inet_sk_state_load(partition->sock->sk) != TCP_LISTEN)
		return 0;
	return cpumask_weight(partition->cpus);
}

u64 mp_partition_migrated_in(const struct mp_partition *partition)
{
	return atomic_long_read(&partition->member.migrated_in);
}

static bool mp_listening(const struct sock *sk)
{
	return inet_sk_state_load(sk) == TCP_LISTEN;
}

struct sock *__megapipe_select_listener(struct sock *sk, __be16 sport)
{
	const struct mp_member *member = rcu_dereference(*mp_member_slot(sk));
	const struct mp_group *group;
	const struct mp_map *map;
	const struct mp_span *span;
	struct sock *partition;
	u32 i, n;

	if (!member)
		return sk;
	group = member->group;
	/* An ACK of a handshake of a partition's, which it rejects */
	if (member != &group->self)
		return sk;
	map = rcu_dereference(group->map);
	if (!map)
		return sk;

	span = &map->cpu[raw_smp_processor_id()];
	i = 0;
	if (span->count > 1)
		i = reciprocal_scale(hash_32((__force u32)sport, 32),
				     span->count);
	/* Of several that share the CPU, one with space; not at any price */
	for (n = 0; n < min(span->count, MP_MAX_LOOKS); n++) {
		partition = READ_ONCE(map->socks[span->first + i]);
		if (likely(!sk_acceptq_is_full(partition)))
			break;
		if (++i == span->count)
			i = 0;
	}
	/* It may have been closed with the listener, see megapipe_listen(). */
	return likely(mp_listening(partition)) ? partition : sk;
}
EXPORT_SYMBOL_GPL(__megapipe_select_listener);

/* The sock that keeps what partitions have in common: SYN floods */
const struct sock *__megapipe_common_listener(const struct sock *sk)
{
	const struct mp_member *member = rcu_dereference(*mp_member_slot(sk));

	return member ? member->group->listener : sk;
}
EXPORT_SYMBOL_GPL(__megapipe_common_listener);

/*
 * Called when @sk is seen not to listen.  The packet that is being processed
 * has seen it listen, or the caller would have found another listener.
 *
 * @leaving was set before a grace period and the state changed after it: a
 * read-side section that sees the latter sees the former.
 */
bool __megapipe_is_leaving(const struct sock *sk)
{
	const struct mp_member *member = rcu_dereference(*mp_member_slot(sk));

	return member && READ_ONCE(member->leaving);
}

/* Of the partitions @socks, those that listen, the one with the shortest queue */
static struct sock *mp_map_shortest(struct sock **socks, u32 count)
{
	struct sock *shortest = NULL;
	u32 i;

	for (i = 0; i < count; i++) {
		struct sock *sk = READ_ONCE(socks[i]);

		if (mp_listening(sk) &&
		    (!shortest || READ_ONCE(sk->sk_ack_backlog) <
				  READ_ONCE(shortest->sk_ack_backlog)))
			shortest = sk;
	}
	return shortest;
}

/* Who takes a connection that arrived on @cpu */
static struct sock *mp_group_heir(const struct mp_group *group,
				  unsigned int cpu)
{
	const struct mp_map *map = rcu_dereference(group->map);
	const struct mp_span *span;
	struct sock *sk;

	if (!map)
		return group->listener;
	span = &map->cpu[cpu];
	sk = mp_map_shortest(map->socks + span->first, span->count);
	if (!sk || sk_acceptq_is_full(sk))
		sk = mp_map_shortest(map->socks, map->nr);
	if (!sk || sk_acceptq_is_full(sk))
		sk = group->listener;
	return sk;
}

struct sock *__megapipe_migrate_listener(struct sock *sk,
					 const struct sock *migrating_sk)
{
	bool handshake = migrating_sk->sk_state == TCP_NEW_SYN_RECV;
	unsigned int cpu = raw_smp_processor_id();
	const struct mp_group *group;
	struct sock *heir = NULL;
	struct mp_member *member;

	rcu_read_lock();
	member = rcu_dereference(*mp_member_slot(sk));
	if (!member)
		goto out;
	group = member->group;
	if (member == &group->self)
		goto out;

	/* A request sock, with its handshake under way, has no such field. */
	if (!handshake &&
	    (u32)READ_ONCE(migrating_sk->sk_incoming_cpu) < nr_cpu_ids)
		cpu = READ_ONCE(migrating_sk->sk_incoming_cpu);
	heir = mp_group_heir(group, cpu);
	if (!mp_listening(heir) || !refcount_inc_not_zero(&heir->sk_refcnt)) {
		NET_INC_STATS(sock_net(sk), LINUX_MIB_TCPMIGRATEREQFAILURE);
		heir = NULL;
	}
	trace_megapipe_migrate(sk, heir, migrating_sk, cpu);

	/* A handshake that finds no space is going to ask again. */
	if (heir && !(handshake && sk_acceptq_is_full(heir))) {
		member = rcu_dereference(*mp_member_slot(heir));
		if (member)
			atomic_long_inc(&member->migrated_in);
	}
out:
	rcu_read_unlock();
	return heir;
}

/*
 * A listener that was shut down begins to listen again.  Shutting it down was
 * the end of all that it had not accepted; let its partitions follow and give
 * back the port, which they would not share with a new listener.  Their owners
 * learned of the shutdown and have to register again.
 */
static void mp_group_end(struct mp_group *group)
{
	struct mp_partition *partition, *next;

	list_for_each_entry_safe(partition, next, &group->partitions, node) {
		struct sock *sk = partition->sock->sk;

		list_del_init(&partition->node);
		lock_sock_nested(sk, SINGLE_DEPTH_NESTING);
		inet_sk_state_store(sk, TCP_CLOSE);
		inet_csk_listen_stop(sk);
		if (inet_csk(sk)->icsk_bind_hash)
			inet_put_port(sk);
		release_sock(sk);
	}
	WRITE_ONCE(group->nr, 0);
	mp_group_dissolve(group);
}

/* listen() with a backlog that is already in @listener, which is locked */
void __megapipe_listen(struct sock *listener)
{
	struct mp_partition *partition;
	struct mp_group *group;

	if (!sk_is_tcp(listener))
		return;
	group = mp_group(listener);
	if (!group)
		return;
	if (listener->sk_state != TCP_LISTEN) {
		mp_group_end(group);
		return;
	}
	list_for_each_entry(partition, &group->partitions, node)
		WRITE_ONCE(partition->sock->sk->sk_max_ack_backlog,
			   READ_ONCE(listener->sk_max_ack_backlog));
}

static bool mp_partitioned(const struct sock *sk)
{
	return sk && sk_is_tcp(sk) && rcu_access_pointer(*mp_member_slot(sk));
}

/*
 * setsockopt() is about to begin.  A program that registers the listener from
 * another thread at the very moment gets one or the other.
 */
int __megapipe_setsockopt_begin(const struct sock *sk, int level, int name)
{
	if (!mp_partitioned(sk) || mp_inheritance_allows(level, name))
		return 0;
	return -EBUSY;
}

/* setsockopt() was successful.  A partition made meanwhile may have missed it. */
int __megapipe_setsockopt_end(struct sock *listener)
{
	struct mp_partition *partition;
	struct mp_group *group;
	int err = 0;

	if (!mp_partitioned(listener))
		return 0;

	lock_sock(listener);
	group = mp_group(listener);
	if (!group)
		goto out;
	list_for_each_entry(partition, &group->partitions, node) {
		struct sock *sk = partition->sock->sk;

		lock_sock_nested(sk, SINGLE_DEPTH_NESTING);
		err = mp_inheritance_copy(sk, listener) ?: err;
		release_sock(sk);
	}
out:
	release_sock(listener);
	return err;
}

#ifdef CONFIG_MEGAPIPE_KUNIT_TEST
#include "partition_kunit.c"
#endif
