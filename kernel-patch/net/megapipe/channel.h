/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A channel: one open file of /dev/megapipe.
 */
#ifndef _MEGAPIPE_CHANNEL_H
#define _MEGAPIPE_CHANNEL_H

#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <uapi/linux/megapipe.h>

#include "handle.h"
#include "limit.h"

struct mm_struct;
struct mp_batch;

/* Commands and completions copied from and to user space at a time */
#define MP_CHUNK		32
/* Commands, or completions, of one MEGAPIPE_IOC_DISPATCH */
#define MP_MAX_DISPATCH		4096
/* Dispatches with 0, 1, 2-3, 4-7, ..., MP_MAX_DISPATCH completions */
#define MP_BATCH_SIZES		14
/* Closed lwsockets kept for the next accept */
#define MP_MAX_SPARE		64

/**
 * struct mp_channel - a channel
 * @ready: handles that something has happened to, newest first; callbacks on
 *	any CPU add to it, the owner takes all
 * @wait: the dispatcher that sleeps, and pollers of the channel
 * @mutex: serialises the channel's ioctls
 * @id: number of the channel since the system was started, for tracing
 * @mm: address space that opened the channel, and alone may use it
 * @run_first: handles taken from @ready and not yet looked at, oldest first
 * @run_last: last of @run_first
 * @batch: the dispatch that holds @mutex
 * @handles: the handle table
 * @limit: what it may have of its user's handles
 * @partitions: partitions that it has
 * @spare: closed lwsockets for reuse, linked through mp_handle.ready
 * @nr_spare: length of @spare
 * @stats: counters, as user space sees them; handles and lwsockets are not
 *	kept here
 * @batches: dispatches by fls() of the number of their completions
 * @node: link in the list of all channels
 * @end: ends the channel when its address space has ended
 * @release: frees the channel when callbacks can no longer see it
 * @cmds: commands copied in
 * @events: completions to be copied out
 *
 * @ready and @wait are written by other CPUs; everything else only under
 * @mutex or, when the last reference to the file is gone, by its release.
 * Counters are read without it, each for itself: an owner that is stopped, or
 * waits for a page, must not stop those who look at it.
 */
struct mp_channel {
	struct llist_head	ready;
	wait_queue_head_t	wait;

	struct mutex		mutex ____cacheline_aligned_in_smp;
	u64			id;
	struct mm_struct	*mm;
	struct llist_node	*run_first;
	struct llist_node	*run_last;
	struct mp_batch		*batch;
	struct mp_table		handles;
	struct mp_limit		limit;
	u32			partitions;
	struct llist_node	*spare;
	unsigned int		nr_spare;
	struct megapipe_stats	stats;
	u64			batches[MP_BATCH_SIZES];
	struct list_head	node;
	struct work_struct	end;
	struct rcu_work		release;
	struct megapipe_cmd	cmds[MP_CHUNK];
	struct megapipe_event	events[MP_CHUNK];
};

static_assert(MP_MAX_DISPATCH >> (MP_BATCH_SIZES - 2) == 1);

extern const struct file_operations megapipe_channel_fops;

#endif /* _MEGAPIPE_CHANNEL_H */
