/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Commands in, completions out.
 */
#ifndef _MEGAPIPE_QUEUE_H
#define _MEGAPIPE_QUEUE_H

#include <linux/compiler.h>
#include <linux/types.h>

#include "channel.h"

/**
 * struct mp_batch - one MEGAPIPE_IOC_DISPATCH, on its stack
 * @events: where completions go
 * @max: room there
 * @nr: completions posted
 * @copied: of these, copied out; the rest is in mp_channel.events
 * @error: -EFAULT if @events cannot be written
 * @locked: the dispatch holds mp_channel.mutex
 */
struct mp_batch {
	struct megapipe_event __user	*events;
	u32				max;
	u32				nr;
	u32				copied;
	int				error;
	bool				locked;
};

/* Completions that may still be posted in this dispatch */
static inline u32 mp_queue_room(const struct mp_channel *channel)
{
	return channel->batch->max - channel->batch->nr;
}

/* queue.c APIs */
long mp_queue_dispatch(struct mp_channel *channel,
		       struct megapipe_dispatch __user *arg, size_t size);
void mp_queue_post(struct mp_channel *channel, s32 id, u64 cookie, u16 op,
		   u16 flags, s32 res, u32 aux);
void mp_queue_again(struct mp_handle *handle, int events);
bool mp_queue_pending(const struct mp_channel *channel);
void mp_queue_drain(struct mp_channel *channel);

/*
 * Room for a command to complete at once?  Half of the room is for those that
 * have waited, or commands that never wait would starve them.
 */
static inline bool mp_queue_room_now(const struct mp_channel *channel)
{
	const struct mp_batch *batch = channel->batch;

	return batch->nr < batch->max / 2 ||
	       (batch->nr < batch->max && !mp_queue_pending(channel));
}

static inline void mp_queue_complete(struct mp_handle *handle, u16 op, s32 res)
{
	mp_queue_post(handle->channel, handle->id, handle->cookie, op, 0, res, 0);
}

#endif /* _MEGAPIPE_QUEUE_H */
