// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Completions: a system call fetches many, mp_dispatch() hands out one.
 *
 * A handle that is given up may have completions in the buffer, or commands in
 * the batch before the one that gives it up, which complete as they are run.
 * The program must not see them.  They are not searched for: the id is noted,
 * and every completion handed out is looked up, which takes one load as long as
 * its key is not marked.
 *
 * An epoch lasts from one empty buffer to the next.  The system call that
 * begins an epoch runs all that was collected in the one before, so completions
 * of a handle come in the epoch in which it was given up or in the next: two
 * sets of notes are kept, and the older is cleared for the new epoch.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const uint8_t command_of[16] = {
	[MEGAPIPE_OP_ACCEPT] = MP_ACCEPT,
	[MEGAPIPE_OP_CONNECT] = MP_CONNECT,
	[MEGAPIPE_OP_READ] = MP_READ,
	[MEGAPIPE_OP_READV] = MP_READ,
	[MEGAPIPE_OP_RECVFROM] = MP_RECVFROM,
	[MEGAPIPE_OP_WRITE] = MP_WRITE,
	[MEGAPIPE_OP_WRITEV] = MP_WRITE,
	[MEGAPIPE_OP_SENDTO] = MP_SENDTO,
	[MEGAPIPE_OP_SENDFILE] = MP_SENDFILE,
	[MEGAPIPE_OP_POLL] = MP_POLL,
	[MEGAPIPE_OP_DISCONNECT] = MP_DISCONNECT,
	/* The rest complete only by failing. */
	[MEGAPIPE_OP_CANCEL ... 15] = MP_FAILED,
};

_Static_assert(MP_MORE == MEGAPIPE_EVENT_MORE, "passed on as they are");
_Static_assert(MP_IS_FD == MEGAPIPE_EVENT_FD, "passed on as they are");
_Static_assert(MP_TRUNCATED == MEGAPIPE_EVENT_TRUNC, "passed on as they are");

static void clear_gone(struct mp_channel *ch, unsigned int set)
{
	struct mp_gone *gone = &ch->gone[set];

	for (; gone->nr; gone->nr--) {
		unsigned int key = mp_gone_key(gone->records[gone->nr].id);

		ch->gone_heads[key].of[set] = 0;
	}
}

/*
 * -EBADF is the answer to the use of a stale handle, which is for the program
 * to know; a handle that is one never completes with it.
 */
static bool is_gone(const struct mp_channel *ch,
		    const struct megapipe_event *ev)
{
	unsigned int set, i;

	if (ev->res == -EBADF)
		return false;
	for (set = 0; set < 2; set++) {
		i = ch->gone_heads[mp_gone_key(ev->handle)].of[set];
		for (; i; i = ch->gone[set].records[i].next)
			if (ch->gone[set].records[i].id == ev->handle)
				return true;
	}
	return false;
}

/*
 * A completion that nobody will see.  If it has brought a connection, nobody
 * will close it either.
 */
void mp_disown(struct mp_channel *ch, const struct megapipe_event *ev)
{
	struct megapipe_cmd close_it = {
		.op = MEGAPIPE_OP_CLOSE,
		.handle = ev->res,
	};
	struct megapipe_dispatch run = {
		.cmds = mp_address(&close_it),
		.nr_cmds = 1,
	};

	if (ev->op != MEGAPIPE_OP_ACCEPT || ev->res < 0)
		return;
	if (ev->res & MEGAPIPE_HANDLE_LWSOCKET)
		mp_sys_ioctl(ch->fd, MEGAPIPE_IOC_DISPATCH, &run);
	else
		mp_sys_close(ev->res);
}

/* Drop what is to be dropped now, and move the rest to the front. */
static void sweep(struct mp_channel *ch)
{
	struct megapipe_event *ev, *to = ch->events;

	for (ev = ch->ev_next; ev != ch->ev_end; ev++) {
		if (is_gone(ch, ev))
			mp_disown(ch, ev);
		else
			*to++ = *ev;
	}
	ch->ev_next = ch->events;
	ch->ev_end = ch->ev_limit = to;
}

/* The buffer is empty: a new epoch, unless commands of the last are left. */
void mp_rewind(struct mp_channel *ch)
{
	ch->ev_next = ch->ev_end = ch->events;
	ch->ev_limit = ch->events + ch->fetch;
	if (likely(!ch->lagging))
		clear_gone(ch, ++ch->epoch % 2);
}

/* Make room for nr more completions behind those in the buffer. */
int mp_make_room(struct mp_channel *ch, size_t nr)
{
	struct megapipe_event *events;
	size_t used;

	sweep(ch);
	used = (size_t)(ch->ev_end - ch->events);
	if (used + nr > ch->ev_capacity) {
		events = realloc(ch->events, (used + nr) * sizeof(*events));
		if (!events)
			return -ENOMEM;
		ch->events = ch->ev_next = events;
		ch->ev_end = events + used;
		ch->ev_capacity = used + nr;
	}
	ch->ev_limit = ch->ev_end + nr;
	return 0;
}

/* Every note is taken: settle what they are about, and begin anew. */
static int settle(struct mp_channel *ch)
{
	int ret = mp_drain(ch, ch->cmds + 1);

	if (ret)
		return ret;
	sweep(ch);
	clear_gone(ch, 0);
	clear_gone(ch, 1);
	return 0;
}

/* Note that the handle is given up. */
int mp_forget(mp_handle handle)
{
	struct mp_channel *ch = handle.channel;
	unsigned int key = mp_gone_key(handle.id);
	unsigned int set = ch->epoch % 2;
	struct mp_gone *gone = &ch->gone[set];
	int ret;

	if (unlikely(gone->nr == MP_GONE_MAX)) {
		ret = settle(ch);
		if (ret)
			return ret;
		return mp_forget(handle);
	}
	gone->nr++;
	gone->records[gone->nr].id = handle.id;
	gone->records[gone->nr].next = ch->gone_heads[key].of[set];
	ch->gone_heads[key].of[set] = (uint8_t)gone->nr;
	return 0;
}

/* Whether the next completion in the buffer is one to hand out */
static inline bool is_next(const struct mp_channel *ch)
{
	return ch->ev_next != ch->ev_end &&
	       !ch->gone_heads[mp_gone_key(ch->ev_next->handle)].any;
}

static inline void hand_out(struct mp_channel *ch, struct mp_event *event)
{
	const struct megapipe_event *ev = ch->ev_next++;

	event->cookie = (void *)(uintptr_t)ev->cookie;
	event->handle.channel = ch;
	event->handle.id = ev->handle;
	event->cmd = command_of[ev->op % 16];
	event->result = ev->res;
	event->flags = ev->flags;
	event->backlog = ev->aux;
}

/* As many as there are and the program has room for */
static unsigned int hand_out_many(struct mp_channel *ch,
				  struct mp_event *events, unsigned int max)
{
	unsigned int n = 0;

	while (n < max && ch->ev_next != ch->ev_end) {
		if (unlikely(!is_next(ch)) && is_gone(ch, ch->ev_next))
			mp_disown(ch, ch->ev_next++);
		else
			hand_out(ch, &events[n++]);
	}
	return n;
}

/* In nanoseconds; negative: for ever */
static int64_t wait_ns(int64_t timeout_us)
{
	return timeout_us < 0 || timeout_us > INT64_MAX / 1000 ?
		-1 : timeout_us * 1000;
}

/*
 * Wait without the lock, and without fetching: see dispatch_shared().  Returns 0
 * when the time is over.
 */
static int wait_shared(struct mp_channel *ch, int64_t *deadline_ns,
		       int64_t timeout_us, const sigset_t *sigmask)
{
	int64_t left_ns = wait_ns(timeout_us);
	int fd = ch->fd;
	int ret;

	if (left_ns >= 0) {
		int64_t now_ns = mp_sys_now_ns();

		if (!*deadline_ns)
			*deadline_ns = left_ns < INT64_MAX - now_ns ?
				now_ns + left_ns : INT64_MAX;
		left_ns = *deadline_ns - now_ns;
		if (left_ns <= 0)
			return 0;
	}
	pthread_mutex_unlock(&ch->mutex);
	ret = mp_sys_poll(fd, left_ns, sigmask);
	pthread_mutex_lock(&ch->mutex);
	return ret;
}

/*
 * A thread that waited in the dispatch itself would do so with completions on
 * the way that the others do not know of, and with the lock or a batch of its
 * own.  So here every dispatch is made under the lock and does not wait; the
 * waiting is a poll() of the channel.
 */
static __attribute__((noinline)) int
dispatch_shared(struct mp_channel *ch, struct mp_event *events,
		unsigned int max, int64_t timeout_us, const sigset_t *sigmask)
{
	int64_t deadline_ns = 0;
	int ret;

	pthread_mutex_lock(&ch->mutex);
	for (;;) {
		ret = (int)hand_out_many(ch, events, max);
		if (ret)
			break;
		ret = mp_run(ch, 0, 0, NULL);
		if (ret > 0)
			continue;
		if (ret < 0 || !timeout_us)
			break;
		ret = wait_shared(ch, &deadline_ns, timeout_us, sigmask);
		if (ret < 0)
			break;
		if (!ret)
			timeout_us = 0;	/* one last look */
	}
	pthread_mutex_unlock(&ch->mutex);
	return ret;
}

static __attribute__((noinline)) int
dispatch(struct mp_channel *ch, struct mp_event *events, unsigned int max,
	 int64_t timeout_us, const sigset_t *sigmask)
{
	int ret;

	if (!events || !max)
		return -EINVAL;
	if (max > INT_MAX)
		max = INT_MAX;
	if (unlikely(ch->shared))
		return dispatch_shared(ch, events, max, timeout_us, sigmask);
	while (!(ret = (int)hand_out_many(ch, events, max))) {
		ret = mp_run(ch, timeout_us != 0, wait_ns(timeout_us),
			     sigmask);
		if (ret <= 0)
			break;
	}
	return ret;
}

int mp_dispatch(struct mp_channel *channel, struct mp_event *event,
		int64_t timeout_us)
{
	if (unlikely(!channel))
		return -EINVAL;
	if (unlikely(!event || channel->shared || !is_next(channel)))
		return dispatch(channel, event, 1, timeout_us, NULL);
	hand_out(channel, event);
	return 1;
}

int mp_dispatch_batch(struct mp_channel *channel, struct mp_event *events,
		      unsigned int max, int64_t timeout_us,
		      const sigset_t *sigmask)
{
	if (unlikely(!channel))
		return -EINVAL;
	return dispatch(channel, events, max, timeout_us, sigmask);
}
