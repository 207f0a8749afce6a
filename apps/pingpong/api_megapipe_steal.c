// SPDX-License-Identifier: MIT
/*
 * MegaPipe with accept queues that any thread may take from: what a program can do
 * with today's interface so that nobody waits for a thread that is busy.
 *
 * An accepted lwsocket belongs to the channel that accepted it, and a thread's own
 * channel is no other's. So each CPU's partition has a channel of its own, which
 * the threads share and do nothing with but accept descriptors, one with each
 * system call; whoever takes one registers it in the channel that it serves:
 *
 *	partition of CPU 0 -> queue 0 --.    .-- thread 0, its channel
 *	partition of CPU 1 -> queue 1 --- any --- thread 1, its channel
 *	...
 *
 * A thread serves what it has, takes a few connections (--accept, 1 if not given)
 * from its own queue or from one that is far longer, and serves again. With neither
 * it waits, for its own channel and queue only, or one connection would wake
 * everybody; and looks at the others' queues now and then.
 *
 * It costs what lwsockets save, a system call for each connection that would come
 * with others', and lines that all threads write. What it does not do is to move a
 * connection that is being served.
 */
#include "api.h"
#include "megapipe_io.h"
#include "megapipe_server.h"

#include <poll.h>

#define PATIENCE_MS	10	/* idle for so long, a thread looks at others' queues */
#define MARGIN		2	/* more than twice its own, and so many: far longer */

struct thief {
	struct channel_state s;		/* first: the server's functions know only this */
	struct mp_channel *queue;
	mp_handle listener;
	atomic_bool listening;
	/* In the queue, when somebody last looked */
	_Alignas(CACHE_LINE) atomic_uint waiting;
};

static struct thief *thief_of(struct worker *w)
{
	return w->state;
}

static int steal_open(struct worker *w)
{
	struct thief *own;
	cpu_set_t mask;
	int err = server_prepare(w, sizeof(struct thief));

	if (err)
		return err;
	own = thief_of(w);
	partition_of(w, &mask);
	err = mp_create(&own->queue);
	/* One connection with each system call: what is fetched, nobody sees waiting. */
	if (!err)
		err = mp_set_batch(own->queue, 1);
	if (!err)
		err = mp_set_shared(own->queue, true);
	if (!err)
		err = mp_register(own->queue, w->listener, w,
				  w->options->partition ? &mask : NULL, &own->listener);
	if (!err)
		err = mp_accept(own->listener, MP_FOREVER, false);
	own->listening = !err;
	/* The server's functions are not to accept. */
	own->s.accepting = true;
	return err ?: mp_flush(own->s.io.channel);
}

/* A connection out of a thread's queue, if there is one. */
static bool take(struct worker *w, struct thief *from)
{
	struct mp_event event = { 0 };

	count(&w->counters.syscalls, 1);
	if (mp_dispatch(from->queue, &event, 0) != 1) {
		atomic_store_explicit(&from->waiting, 0, memory_order_relaxed);
		return false;
	}
	if (event.result < 0) {
		count(&w->counters.errors, 1);
		/* Its owner asks again, when there may be descriptors once more. */
		from->listening = false;
		return false;
	}
	atomic_store_explicit(&from->waiting, event.backlog, memory_order_relaxed);
	accepted(w, event.result);
	return true;
}

/* The thread's own queue, or one that is far longer. */
static struct thief *fullest(struct worker *w)
{
	struct worker *first = w - w->index;
	struct thief *best = thief_of(w);
	unsigned int most = 2 * atomic_load_explicit(&best->waiting, memory_order_relaxed) +
			    MARGIN;

	for (unsigned int i = 0; i < w->options->threads; i++) {
		struct thief *other = thief_of(first + i);
		unsigned int waiting = atomic_load_explicit(&other->waiting,
							    memory_order_relaxed);

		if (waiting > most) {
			best = other;
			most = waiting;
		}
	}
	return best;
}

static bool take_some(struct worker *w)
{
	struct thief *own = thief_of(w), *from;
	unsigned int nr = w->options->accept ?: 1, taken = 0;

	while (taken < nr) {
		from = fullest(w);
		if (!take(w, from) && (from == own || !take(w, own)))
			break;
		taken++;
	}
	return taken;
}

/* Nothing to do: wait, and after a while help somebody. */
static void wait_or_steal(struct worker *w)
{
	struct worker *first = w - w->index;
	struct thief *own = thief_of(w);
	struct pollfd fds[] = {
		{ .fd = mp_fd(own->s.io.channel), .events = POLLIN },
		{ .fd = mp_fd(own->queue), .events = POLLIN },
	};

	count(&w->counters.syscalls, 1);
	if (poll(fds, 2, PATIENCE_MS))
		return;
	if (!own->listening)
		own->listening = !mp_accept(own->listener, MP_FOREVER, false);
	for (unsigned int i = 1; i < w->options->threads; i++)
		if (take(w, thief_of(first + (w->index + i) % w->options->threads)))
			return;
}

static void steal_run(struct worker *w)
{
	struct mp_channel *channel = thief_of(w)->s.io.channel;
	struct mp_event event = { 0 };

	for (;;) {
		int ret = mp_dispatch(channel, &event, 0);

		if (ret == 0) {
			if (!take_some(w))
				wait_or_steal(w);
			continue;
		}
		if (ret < 0) {
			if (ret == -EINTR)
				continue;
			count(&w->counters.errors, 1);
			return;
		}
		switch (event.cmd) {
		case MP_READ:
			has_read(w, event.cookie, event.result);
			break;
		case MP_WRITE:
			has_written(w, event.cookie, event.result);
			break;
		case MP_POLL:
			return;
		default:
			count(&w->counters.errors, 1);
			break;
		}
	}
}

static void steal_refresh(struct worker *w)
{
	struct mp_stats stats;
	uint64_t of_channel;

	server_refresh(w);
	if (mp_stats(thief_of(w)->queue, &stats))
		return;
	of_channel = atomic_load(&w->counters.foreign_accepts);
	atomic_store(&w->counters.foreign_accepts, of_channel + stats.accepts_foreign);
}

/* All threads have ended before the first queue is closed. */
static void steal_close(struct worker *w)
{
	mp_destroy(thief_of(w)->queue);
	server_close(w);
}

const struct api api_megapipe_steal = {
	.name = "megapipe-steal",
	.has_channels = true,
	.knows_foreign = true,
	.only_descriptors = true,
	.open = steal_open,
	.run = steal_run,
	.refresh = steal_refresh,
	.close = steal_close,
};
