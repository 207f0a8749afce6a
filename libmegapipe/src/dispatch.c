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
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static const uint8_t command_of[16] = {
	[MEGAPIPE_OP_ACCEPT] = MP_ACCEPT,
	[MEGAPIPE_OP_READ] = MP_READ,
	[MEGAPIPE_OP_WRITE] = MP_WRITE,
	[MEGAPIPE_OP_WRITEV] = MP_WRITE,
	[MEGAPIPE_OP_DISCONNECT] = MP_DISCONNECT,
	/* The rest complete only by failing. */
	[MEGAPIPE_OP_UNREGISTER ... 15] = MP_FAILED,
};

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

static __attribute__((noinline)) int fetch(struct mp_channel *ch,
					   int64_t timeout_us)
{
	if (!timeout_us)
		return mp_run(ch, 0, 0);
	if (timeout_us < 0 || timeout_us > INT64_MAX / 1000)
		return mp_run(ch, 1, -1);
	return mp_run(ch, 1, timeout_us * 1000);
}

int mp_dispatch(struct mp_channel *channel, struct mp_event *event,
		int64_t timeout_us)
{
	const struct megapipe_event *ev;
	int ret;

	if (unlikely(!channel || !event))
		return -EINVAL;
	for (;;) {
		if (unlikely(channel->ev_next == channel->ev_end)) {
			ret = fetch(channel, timeout_us);
			if (unlikely(ret <= 0))
				return ret;
		}
		ev = channel->ev_next++;
		if (likely(!channel->gone_heads[mp_gone_key(ev->handle)].any) ||
		    !is_gone(channel, ev))
			break;
		mp_disown(channel, ev);
	}
	event->cookie = (void *)(uintptr_t)ev->cookie;
	event->handle.channel = channel;
	event->handle.id = ev->handle;
	event->cmd = command_of[ev->op % 16];
	event->result = ev->res;
	event->backlog = ev->aux;
	return 1;
}
