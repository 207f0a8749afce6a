// SPDX-License-Identifier: GPL-2.0-only
/*
 * Limits, so that anybody may be allowed to use the device.
 *
 * A handle costs kernel memory for as long as the program likes, and lwsockets
 * escape the limits on open files.  So there are two of their own: one for a
 * channel and one for all channels of a user.
 *
 * A user is the real user id of whoever opened the channel, as it is outside of
 * all user namespaces.  A namespace that maps only its creator adds nothing,
 * and one that maps a range of subordinate ids has as much more as the
 * administrator has given ids, which is what epoll's max_user_watches does.
 * (Counting in the namespace would mean a new kind of ucount, for a limit that
 * the control group of the memory enforces anyway.)
 *
 * A count that all channels of a user write for every connection would be what
 * partitions are there to avoid.  So a channel takes handles from its user in
 * chunks of MP_LIMIT_CHUNK and keeps what it does not use: at most one write to
 * the user's count for 64 connections more than ever before, and none at all
 * while the number of connections goes up and down by less than two chunks.
 * The price is that each channel of a user may have up to two chunks set aside
 * when another one gets -ENOBUFS.
 *
 * The first chunk is taken when the channel is opened.  So the number of
 * channels of a user is limited, too, to max_user_handles / MP_LIMIT_CHUNK.
 */

#include <linux/cred.h>
#include <linux/hashtable.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include <linux/sysctl.h>
#include <linux/uidgid.h>
#include <uapi/linux/megapipe.h>

#include "limit.h"

/**
 * struct mp_user - a user who has channels open
 * @node: link in mp_users
 * @uid: who
 * @refs: channels; under mp_users_mutex
 * @handles: set aside for channels, in use or not
 */
struct mp_user {
	struct hlist_node	node;
	kuid_t			uid;
	unsigned int		refs;
	/* Written by channels on other CPUs, seldom */
	atomic_long_t		handles ____cacheline_aligned_in_smp;
};

static DEFINE_HASHTABLE(mp_users, 6);
/* Taken when a channel is opened or freed, inside no other lock */
static DEFINE_MUTEX(mp_users_mutex);

static unsigned int mp_max_channel_handles __read_mostly = MEGAPIPE_MAX_HANDLES;
static unsigned long mp_max_user_handles __read_mostly;

#ifdef CONFIG_SYSCTL
static const unsigned int mp_channel_handles_max = MEGAPIPE_MAX_HANDLES;
static const unsigned long mp_user_handles_max = LONG_MAX;

static struct ctl_table mp_sysctls[] = {
	{
		.procname	= "max_channel_handles",
		.data		= &mp_max_channel_handles,
		.maxlen		= sizeof(mp_max_channel_handles),
		.mode		= 0644,
		.proc_handler	= proc_douintvec_minmax,
		.extra1		= SYSCTL_ONE,
		.extra2		= (void *)&mp_channel_handles_max,
	},
	{
		.procname	= "max_user_handles",
		.data		= &mp_max_user_handles,
		.maxlen		= sizeof(mp_max_user_handles),
		.mode		= 0644,
		.proc_handler	= proc_doulongvec_minmax,
		.extra1		= SYSCTL_LONG_ZERO,
		.extra2		= (void *)&mp_user_handles_max,
	},
};
#endif

/*
 * As many handles as fs.file-max was always set to allow files: one for 10 KiB
 * of memory.  The device is one for all network namespaces, and so are these.
 */
void __init mp_limit_init(void)
{
	mp_max_user_handles = max(totalram_pages() / 10 * (PAGE_SIZE / 1024),
				  8192UL);
#ifdef CONFIG_SYSCTL
	register_sysctl_init("net/megapipe", mp_sysctls);
#endif
}

u32 mp_limit_channel_handles(void)
{
	return READ_ONCE(mp_max_channel_handles);
}

u64 mp_limit_user_max(void)
{
	return READ_ONCE(mp_max_user_handles);
}

u64 mp_limit_user_handles(const struct mp_limit *limit)
{
	return atomic_long_read(&limit->user->handles);
}

/* Take up to a chunk of handles from @user.  Returns how many there were. */
static u32 mp_user_take(struct mp_user *user)
{
	unsigned long max = READ_ONCE(mp_max_user_handles);
	unsigned long had = atomic_long_read(&user->handles);
	u32 n;

	do {
		if (had >= max)
			return 0;
		n = min_t(unsigned long, max - had, MP_LIMIT_CHUNK);
	} while (!atomic_long_try_cmpxchg_relaxed(&user->handles, &had,
						  had + n));
	return n;
}

static struct mp_user *mp_user_find(kuid_t uid)
{
	struct mp_user *user;

	hash_for_each_possible(mp_users, user, node, __kuid_val(uid))
		if (uid_eq(user->uid, uid))
			return user;
	return NULL;
}

static struct mp_user *mp_user_get(kuid_t uid)
{
	struct mp_user *user;

	mutex_lock(&mp_users_mutex);
	user = mp_user_find(uid);
	if (!user) {
		user = kzalloc(sizeof(*user), GFP_KERNEL_ACCOUNT);
		if (!user)
			goto out_unlock;
		user->uid = uid;
		hash_add(mp_users, &user->node, __kuid_val(uid));
	}
	user->refs++;
out_unlock:
	mutex_unlock(&mp_users_mutex);
	return user;
}

static void mp_user_put(struct mp_user *user)
{
	mutex_lock(&mp_users_mutex);
	if (!--user->refs) {
		WARN_ON_ONCE(atomic_long_read(&user->handles));
		hash_del(&user->node);
		kfree(user);
	}
	mutex_unlock(&mp_users_mutex);
}

/* A new channel's share: -ENOBUFS if its user has nothing left. */
int mp_limit_open(struct mp_limit *limit)
{
	limit->user = mp_user_get(current_uid());
	if (!limit->user)
		return -ENOMEM;
	limit->reserved = mp_user_take(limit->user);
	if (!limit->reserved) {
		mp_user_put(limit->user);
		return -ENOBUFS;
	}
	return 0;
}

void mp_limit_close(struct mp_limit *limit)
{
	atomic_long_sub(limit->reserved, &limit->user->handles);
	mp_user_put(limit->user);
}

/* All of the channel's share is in use: take more. */
int mp_limit_refill(struct mp_limit *limit)
{
	u32 n = mp_user_take(limit->user);

	WRITE_ONCE(limit->reserved, limit->reserved + n);
	return n ? 0 : -ENOBUFS;
}

/* Two chunks are unused: give one back. */
void mp_limit_shrink(struct mp_limit *limit)
{
	WRITE_ONCE(limit->reserved, limit->reserved - MP_LIMIT_CHUNK);
	atomic_long_sub(MP_LIMIT_CHUNK, &limit->user->handles);
}
