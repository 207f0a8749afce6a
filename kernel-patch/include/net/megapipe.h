/* SPDX-License-Identifier: GPL-2.0 */
/*
 * MegaPipe: what the rest of the kernel calls.
 *
 * The hooks cost a static branch while no listener is partitioned, and are
 * compiled away without CONFIG_MEGAPIPE.
 */
#ifndef _NET_MEGAPIPE_H
#define _NET_MEGAPIPE_H

#include <linux/jump_label.h>
#include <linux/types.h>

struct file;
struct sock;

#if IS_ENABLED(CONFIG_MEGAPIPE)

DECLARE_STATIC_KEY_FALSE(megapipe_partitions_exist);

struct sock *__megapipe_select_listener(struct sock *sk, __be16 sport);
struct sock *__megapipe_migrate_listener(struct sock *sk,
					 const struct sock *migrating_sk);
const struct sock *__megapipe_common_listener(const struct sock *sk);
bool __megapipe_is_leaving(const struct sock *sk);
void __megapipe_listen(struct sock *listener);
int __megapipe_setsockopt_begin(const struct sock *sk, int level, int name);
int __megapipe_setsockopt_end(struct sock *sk);
bool megapipe_is_channel(const struct file *file);

/*
 * The listener that takes a packet which arrived on this CPU: @sk, which was
 * looked up, or the partition of its accept queue that serves the CPU.  Called
 * with rcu_read_lock() held; takes no reference, as the lookup itself.
 */
static inline struct sock *megapipe_select_listener(struct sock *sk,
						    __be16 sport)
{
	if (static_branch_unlikely(&megapipe_partitions_exist))
		return __megapipe_select_listener(sk, sport);
	return sk;
}

/*
 * The listener that takes over @migrating_sk, an unaccepted connection of the
 * closed partition @sk, with a reference; NULL if @sk is no partition.
 */
static inline struct sock *
megapipe_migrate_listener(struct sock *sk, const struct sock *migrating_sk)
{
	if (static_branch_unlikely(&megapipe_partitions_exist))
		return __megapipe_migrate_listener(sk, migrating_sk);
	return NULL;
}

/*
 * May a connection still be added to the queue of @sk, which does not listen?
 * A partition that closes takes those that are on their way.
 */
static inline bool megapipe_is_leaving(const struct sock *sk)
{
	return static_branch_unlikely(&megapipe_partitions_exist) &&
	       __megapipe_is_leaving(sk);
}

/* The socket that remembers SYN floods: for a partition, its listener */
static inline const struct sock *
megapipe_common_listener(const struct sock *sk)
{
	if (static_branch_unlikely(&megapipe_partitions_exist))
		return __megapipe_common_listener(sk);
	return sk;
}

/* listen() of @sk, which is locked and has its new backlog, begins. */
static inline void megapipe_listen(struct sock *sk)
{
	if (static_branch_unlikely(&megapipe_partitions_exist))
		__megapipe_listen(sk);
}

/* May the option be set?  -EBUSY: partitions could not take it over. */
static inline int megapipe_setsockopt_begin(const struct sock *sk, int level,
					    int name)
{
	if (static_branch_unlikely(&megapipe_partitions_exist))
		return __megapipe_setsockopt_begin(sk, level, name);
	return 0;
}

/*
 * setsockopt() returns @err; if that is success, let the partitions of @sk take
 * the option over.
 */
static inline int megapipe_setsockopt_end(struct sock *sk, int err)
{
	if (static_branch_unlikely(&megapipe_partitions_exist) && !err)
		return __megapipe_setsockopt_end(sk);
	return err;
}

#else

/*
 * Macros, so that the compiler makes the same code as without them, down to the
 * choice of registers: with inline functions it does not.
 */
#define megapipe_select_listener(sk, sport)	({ (void)(sport); (sk); })
#define megapipe_setsockopt_begin(sk, level, name) \
	({ (void)(sk); (void)(level); (void)(name); 0; })
#define megapipe_setsockopt_end(sk, err)	({ (void)(sk); (err); })

static inline struct sock *
megapipe_migrate_listener(struct sock *sk, const struct sock *migrating_sk)
{
	return NULL;
}

static inline bool megapipe_is_leaving(const struct sock *sk)
{
	return false;
}

static inline const struct sock *
megapipe_common_listener(const struct sock *sk)
{
	return sk;
}

static inline void megapipe_listen(struct sock *sk)
{
}

static inline bool megapipe_is_channel(const struct file *file)
{
	return false;
}

#endif /* CONFIG_MEGAPIPE */

#endif /* _NET_MEGAPIPE_H */
