/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Commands in, completions out.
 */
#ifndef _MEGAPIPE_QUEUE_H
#define _MEGAPIPE_QUEUE_H

#include <linux/compiler.h>
#include <linux/types.h>
#include <trace/events/megapipe.h>

#include "channel.h"

/**
 * struct mp_batch - one MEGAPIPE_IOC_DISPATCH, on its stack
 * @events: where completions go
 * @next: of mp_channel.events: the next completion; those before it are not yet
 *	copied out
 * @max: room in @events
 * @nr: completions posted
 * @error: -EFAULT if @events cannot be written
 * @locked: the dispatch holds mp_channel.mutex
 */
struct mp_batch {
	struct megapipe_event __user	*events;
	struct megapipe_event		*next;
	u32				max;
	u32				nr;
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
void mp_queue_flush(struct mp_channel *channel);
void mp_queue_complete(struct mp_handle *handle, u16 op, s32 res);
void mp_queue_again(struct mp_handle *handle, int events);
bool mp_queue_pending(const struct mp_channel *channel);
void mp_queue_drain(struct mp_channel *channel);

/* Report a completion.  The caller has checked mp_queue_room(). */
static inline void mp_queue_post(struct mp_channel *channel, s32 id, u64 cookie,
				 u16 op, u16 flags, s32 res, u32 aux)
{
	struct mp_batch *batch = channel->batch;
	struct megapipe_event *event = batch->next++;

	*event = (struct megapipe_event) {
		.cookie = cookie,
		.handle = id,
		.res = res,
		.op = op,
		.flags = flags,
		.aux = aux,
	};
	trace_megapipe_completion(channel->id, event);
	batch->nr++;
	if (unlikely(batch->next == &channel->events[MP_CHUNK]))
		mp_queue_flush(channel);
}

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

#endif /* _MEGAPIPE_QUEUE_H */
