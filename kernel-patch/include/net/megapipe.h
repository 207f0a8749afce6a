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
bool megapipe_is_channel(const struct file *file);

/*
 * The listener that takes a handshake which arrived on this CPU: @sk, or the
 * partition of its accept queue that serves the CPU.  Called with
 * rcu_read_lock() held; takes no reference, as the lookup itself.
 */
static inline struct sock *megapipe_select_listener(struct sock *sk,
						    __be16 sport)
{
	if (static_branch_unlikely(&megapipe_partitions_exist) && sk)
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

#else

static inline struct sock *megapipe_select_listener(struct sock *sk,
						    __be16 sport)
{
	return sk;
}

static inline struct sock *
megapipe_migrate_listener(struct sock *sk, const struct sock *migrating_sk)
{
	return NULL;
}

static inline bool megapipe_is_channel(const struct file *file)
{
	return false;
}

#endif /* CONFIG_MEGAPIPE */

#endif /* _NET_MEGAPIPE_H */
