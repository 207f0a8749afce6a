// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Completions: a system call fetches many, mp_dispatch() hands out one.
 *
 * A handle that is given up may have completions in the buffer, which the
 * program must not see.  They are not searched for: the id is noted in gone[],
 * and every completion handed out is looked up there, which takes one load as
 * long as its key is not marked.  The notes end when the buffer is empty.
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

static void clear_gone(struct mp_channel *ch)
{
	for (; ch->nr_gone; ch->nr_gone--)
		ch->gone_head[mp_gone_key(ch->gone[ch->nr_gone].id)] = 0;
}

/*
 * Only completions that were in the buffer when the handle was given up: later
 * ones say that a stale handle was used, and that is for the program to know.
 */
static bool is_gone(const struct mp_channel *ch,
		    const struct megapipe_event *ev)
{
	unsigned int i = ch->gone_head[mp_gone_key(ev->handle)];

	for (; i; i = ch->gone[i].next)
		if (ch->gone[i].id == ev->handle && ev < ch->gone[i].end)
			return true;
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
	clear_gone(ch);
}

/* The buffer is empty: begin at its front again. */
void mp_rewind(struct mp_channel *ch)
{
	ch->ev_next = ch->ev_end = ch->events;
	ch->ev_limit = ch->events + ch->fetch;
	clear_gone(ch);
}

/*
 * Make room for what nr commands can come to without the program's asking for
 * completions: a failed one reports itself, a cancelled read and write report
 * both.
 */
int mp_make_room(struct mp_channel *ch, size_t nr)
{
	struct megapipe_event *events;
	size_t used, room = 4 * nr;

	if (room > ch->max_dispatch)
		room = ch->max_dispatch;
	sweep(ch);
	used = (size_t)(ch->ev_end - ch->events);
	if (used + room > ch->ev_capacity) {
		events = realloc(ch->events, (used + room) * sizeof(*events));
		if (!events)
			return -ENOMEM;
		ch->events = ch->ev_next = events;
		ch->ev_end = events + used;
		ch->ev_capacity = used + room;
	}
	ch->ev_limit = ch->ev_end + room;
	return 0;
}

/* The handle is given up: drop its completions up to the last one fetched. */
void mp_forget(mp_handle handle)
{
	struct mp_channel *ch = handle.channel;
	unsigned int key = mp_gone_key(handle.id);
	unsigned int i;

	if (ch->nr_gone == MP_GONE_MAX)
		sweep(ch);
	i = ++ch->nr_gone;
	ch->gone[i] = (struct mp_gone) {
		.id = handle.id,
		.next = ch->gone_head[key],
		.end = ch->ev_end,
	};
	ch->gone_head[key] = (uint8_t)i;
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
		if (likely(!channel->gone_head[mp_gone_key(ev->handle)]) ||
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
