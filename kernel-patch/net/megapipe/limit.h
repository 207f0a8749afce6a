/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How many handles a channel and a user may have.
 */
#ifndef _MEGAPIPE_LIMIT_H
#define _MEGAPIPE_LIMIT_H

#include <linux/types.h>

struct mp_user;

/* Handles that a channel takes from its user, or gives back, at a time */
#define MP_LIMIT_CHUNK	64U

/**
 * struct mp_limit - a channel's share of what its user may have
 * @user: the user who opened the channel
 * @reserved: handles taken from the user; those in use, and at most two chunks
 *	more
 *
 * Protected by the channel's mutex.
 */
struct mp_limit {
	struct mp_user	*user;
	u32		reserved;
};

/* limit.c APIs */
void mp_limit_init(void);
u32 mp_limit_channel_handles(void);
int mp_limit_open(struct mp_limit *limit);
void mp_limit_close(struct mp_limit *limit);
int mp_limit_refill(struct mp_limit *limit);
void mp_limit_shrink(struct mp_limit *limit);
u64 mp_limit_user_max(void);
u64 mp_limit_user_handles(const struct mp_limit *limit);

/* Before a handle is added to @count others: 0, or -ENOBUFS */
static inline int mp_limit_take(struct mp_limit *limit, u32 count)
{
	return likely(count < limit->reserved) ? 0 : mp_limit_refill(limit);
}

/* After a handle has gone and @count are left */
static inline void mp_limit_give(struct mp_limit *limit, u32 count)
{
	if (unlikely(limit->reserved - count >= 2 * MP_LIMIT_CHUNK))
		mp_limit_shrink(limit);
}

#endif /* _MEGAPIPE_LIMIT_H */
