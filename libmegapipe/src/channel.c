// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Channels: opening and closing them, their settings and counters.
 *
 * Handles point at their channel, so a program that uses one after
 * mp_destroy() would follow a pointer to freed memory.  Therefore the memory
 * of a channel stays a channel's: it waits on a free list for the next
 * mp_create(), and until then answers every request with -EBADF.
 *
 * The list has no lock, which a child that is forked meanwhile would find taken
 * for ever.  Channels are taken off all at once, so that none can have come back
 * under another's feet.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static _Atomic(struct mp_channel *) free_channels;

/* The command before those of a batch: see mp_hot_join() */
static struct mp_hot_cmd guard = { .op = MP_HOT_NOTHING };

/* Nothing is to be collected without the lock, or at all. */
static void close_hot(struct mp_channel *ch)
{
	ch->hot = (struct mp_hot) { .cmd_next = &guard + 1 };
}

static void free_list_put(struct mp_channel *first, struct mp_channel *last)
{
	struct mp_channel *head = atomic_load(&free_channels);

	do
		last->next_free = head;
	while (!atomic_compare_exchange_weak(&free_channels, &head, first));
}

static struct mp_channel *free_list_get(void)
{
	struct mp_channel *ch = atomic_exchange(&free_channels, NULL), *last;

	if (ch && ch->next_free) {
		for (last = ch->next_free; last->next_free;)
			last = last->next_free;
		free_list_put(ch->next_free, last);
	}
	return ch;
}

static struct mp_channel *channel_get(void)
{
	struct mp_channel *ch = free_list_get();

	if (!ch)
		ch = aligned_alloc(_Alignof(struct mp_channel), sizeof(*ch));
	if (ch) {
		memset(ch, 0, sizeof(*ch));
		ch->at = &ch->hot;
		pthread_mutex_init(&ch->mutex, NULL);
	}
	return ch;
}

/* Leaves a channel that can be used, and does nothing but say -EBADF. */
static void channel_put(struct mp_channel *ch)
{
	free(ch->cmd_guard);
	free(ch->events);
	free(ch->aside);
	pthread_mutex_destroy(&ch->mutex);
	memset(ch, 0, sizeof(*ch));
	ch->fd = ch->hot_fd = -1;
	ch->at = &ch->hot;
	close_hot(ch);
	free_list_put(ch, ch);
}

/* A descriptor of the device, whoever made it; *info stays zero if it is mute. */
int mp_open_device(struct megapipe_info *info)
{
	int fd = mp_sys_open(MP_DEVICE);
	int ret;

	if (fd == -ENXIO || fd == -ENODEV)	/* a device file, no driver */
		return -ENOENT;
	if (fd < 0)
		return fd;
	ret = mp_sys_ioctl(fd, MEGAPIPE_IOC_INFO, info);
	if (!ret)
		return fd;
	mp_sys_close(fd);
	return ret == -ENOTTY ? -EPROTO : ret;
}

/* The requests that the library makes must all be known to the kernel. */
static bool is_known(const struct megapipe_info *info)
{
	return info->abi_version == MEGAPIPE_ABI_VERSION &&
	       info->nr_ops >= MEGAPIPE_OP_LAST && info->max_dispatch;
}

static void set_batch(struct mp_channel *ch, unsigned int threshold)
{
	if (threshold > ch->max_dispatch)
		threshold = ch->max_dispatch;
	ch->cmd_flush = ch->cmds + threshold;
	ch->fetch = threshold == 1 ? 1 : MP_FETCH_MAX;
	if (ch->fetch > ch->max_dispatch)
		ch->fetch = ch->max_dispatch;
	ch->hot_run.max_events = ch->fetch;
	ch->at->cmd_limit = ch->cmd_flush - 1;
}

static int create(struct mp_channel **channel)
{
	struct megapipe_info info = { 0 };
	struct mp_channel *ch;
	int fd, ret;

	fd = mp_open_device(&info);
	if (fd < 0)
		return fd;
	ret = -EPROTO;
	if (!is_known(&info))
		goto out_close;

	ret = -ENOMEM;
	ch = channel_get();
	if (!ch)
		goto out_close;
	/* Of the most that mp_set_batch() can ask for; unused pages are free. */
	ch->cmd_guard = malloc((1 + MP_BATCH_MAX) * sizeof(*ch->cmd_guard));
	ch->events = malloc(MP_FETCH_MAX * sizeof(*ch->events));
	ch->aside = malloc(MP_ASIDE_BYTES);
	if (!ch->cmd_guard || !ch->events || !ch->aside)
		goto out_put;

	*ch->cmd_guard = guard;
	ch->cmds = ch->cmd_guard + 1;
	ch->fd = ch->hot_fd = fd;
	ch->max_dispatch = info.max_dispatch;
	ch->at->cmd_next = ch->cmd_seen = ch->cmds;
	ch->cmd_time = ch->ev_time = 1;	/* seen[] is 0: before all */
	ch->ev_capacity = MP_FETCH_MAX;
	ch->at->ev_next = ch->at->ev_limit = ch->ev_seen = ch->events;
	ch->run.cmds = ch->hot_run.cmds = mp_address(ch->cmds);
	ch->hot_run.events = mp_address(ch->events);
	set_batch(ch, MP_BATCH_DEFAULT);
	*channel = ch;
	return 0;

out_put:
	channel_put(ch);
out_close:
	mp_sys_close(fd);
	return ret;
}

int mp_create(struct mp_channel **channel)
{
	int saved_errno = errno;
	int ret;

	if (!channel)
		return -EINVAL;
	*channel = NULL;
	ret = create(channel);
	errno = saved_errno;		/* malloc() has set it */
	return ret;
}

void mp_destroy(struct mp_channel *channel)
{
	int fd;

	if (!channel || channel->fd < 0)
		return;
	/* What was asked for is done, an mp_close() of a descriptor above all. */
	mp_drain(channel, channel->cmds + 1);
	while (channel->at->ev_next < channel->at->ev_limit)
		mp_disown(channel, channel->at->ev_next++);
	fd = channel->fd;
	channel_put(channel);
	mp_sys_close(fd);
}

int mp_set_batch(struct mp_channel *channel, unsigned int threshold)
{
	int ret;

	if (!channel || !threshold || threshold > MP_BATCH_MAX)
		return -EINVAL;
	if (channel->fd < 0)
		return -EBADF;
	mp_lock(channel);
	ret = mp_drain(channel, channel->cmds + 1);
	if (!ret)
		set_batch(channel, threshold);
	mp_unlock(channel);
	return ret;
}

int mp_set_shared(struct mp_channel *channel, bool shared)
{
	if (!channel)
		return -EINVAL;
	if (channel->fd < 0)
		return -EBADF;
	if (shared == channel->shared)
		return 0;
	if (shared) {
		channel->apart = channel->hot;
		channel->at = &channel->apart;
		close_hot(channel);
	} else {
		channel->hot = channel->apart;
		channel->at = &channel->hot;
	}
	channel->shared = shared;
	channel->hot_fd = shared || channel->gone.nr ? -1 : channel->fd;
	return 0;
}

int mp_info(struct mp_channel *channel, struct mp_info *info)
{
	struct megapipe_info kernel = { 0 };
	int ret;

	if (!channel || !info)
		return -EINVAL;
	if (channel->fd < 0)
		return -EBADF;
	ret = mp_sys_ioctl(channel->fd, MEGAPIPE_IOC_INFO, &kernel);
	if (ret < 0)
		return ret;
	*info = (struct mp_info) {
		.abi_version = kernel.abi_version,
		.commands = kernel.nr_ops,
		.max_handles = kernel.max_handles,
		.max_batch = kernel.max_dispatch,
		.max_user_handles = kernel.max_user_handles,
		.user_handles = kernel.user_handles,
	};
	return 0;
}

int mp_stats(struct mp_channel *channel, struct mp_stats *stats)
{
	struct megapipe_stats kernel = { 0 };
	int ret;

	if (!channel || !stats)
		return -EINVAL;
	if (channel->fd < 0)
		return -EBADF;
	ret = mp_sys_ioctl(channel->fd, MEGAPIPE_IOC_STATS, &kernel);
	if (ret < 0)
		return ret;
	*stats = (struct mp_stats) {
		.dispatches = kernel.dispatches,
		.commands = kernel.commands,
		.events = kernel.events,
		.sleeps = kernel.sleeps,
		.accepts = kernel.accepts,
		.accepts_foreign = kernel.accepts_foreign,
		.handles = kernel.handles,
		.lwsockets = kernel.lwsockets,
		.migrated_in = kernel.migrated_in,
	};
	return 0;
}

int mp_fd(struct mp_channel *channel)
{
	if (!channel)
		return -EINVAL;
	return channel->fd < 0 ? -EBADF : channel->fd;
}
