// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Completions: a system call fetches many, mp_dispatch() hands out one.
 *
 * A handle that is given up may have completions in the buffer, which are taken
 * out of it at once, or commands in the batch before the one that gives it up,
 * which may complete as they are run.  The program must not see the latter
 * either: so the id is noted, and completions that come with the batch are
 * looked up before any is handed out.  After that, none of that handle can come,
 * unless the kernel has left that part of the batch: see forget_left().
 *
 * Most handles that are given up have neither.  To know without looking through
 * the buffer and the batch each time, they are gone through once, at the first
 * such time, and seen[] remembers what was there.
 */
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define SAME(field)							\
	_Static_assert(offsetof(struct mp_hot_event, field) ==		\
		       offsetof(struct megapipe_event, field), "ABI")

SAME(cookie);
SAME(handle);
SAME(res);
SAME(op);
SAME(flags);
SAME(aux);
_Static_assert(sizeof(struct mp_hot_event) == sizeof(struct megapipe_event),
	       "ABI");
_Static_assert(sizeof(struct megapipe_dispatch) == 64, "ABI");
_Static_assert(MP_HOT_READ == MEGAPIPE_OP_READ, "ABI");
_Static_assert(MP_HOT_WRITE == MEGAPIPE_OP_WRITE, "ABI");
_Static_assert(MP_HOT_COOKIE == MEGAPIPE_OP_COOKIE, "ABI");
_Static_assert(MP_HOT_THEN_READ == MEGAPIPE_CMD_THEN_READ, "ABI");
_Static_assert(MP_HOT_WITH_COOKIE == MEGAPIPE_CMD_COOKIE, "ABI");
_Static_assert(MP_HOT_LWSOCKET << 30 == (int)MEGAPIPE_HANDLE_LWSOCKET, "ABI");
_Static_assert(MP_MORE == MEGAPIPE_EVENT_MORE, "passed on as they are");
_Static_assert(MP_IS_FD == MEGAPIPE_EVENT_FD, "passed on as they are");
_Static_assert(MP_TRUNCATED == MEGAPIPE_EVENT_TRUNC, "passed on as they are");

const uint8_t mp_command_of[256] = {
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
	[MEGAPIPE_OP_CANCEL ... 255] = MP_FAILED,
};

static inline unsigned int key_of(int id)
{
	return (unsigned int)id % MP_GONE_KEYS;
}

static void clear_notes(struct mp_channel *ch)
{
	struct mp_gone *gone = &ch->gone;

	for (; gone->nr; gone->nr--)
		gone->heads[key_of(gone->records[gone->nr].id)] = 0;
	if (!ch->shared)
		ch->hot_fd = ch->fd;
}

static bool is_noted(const struct mp_gone *gone, int id)
{
	unsigned int i = gone->heads[key_of(id)];

	for (; i; i = gone->records[i].next)
		if (gone->records[i].id == id)
			return true;
	return false;
}

/*
 * A completion that nobody will see.  If it has brought a connection, nobody
 * will close it either.
 */
void mp_disown(struct mp_channel *ch, const struct mp_hot_event *ev)
{
	struct mp_hot_cmd close_it = {
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

/*
 * The answer to the use of a stale handle is to be seen: -EBADF without a cookie.
 * With one, it is about the file of an mp_sendfile().
 */
static inline bool is_gone(const struct mp_channel *ch,
			   const struct mp_hot_event *ev, int id)
{
	return unlikely(id ? ev->handle == id :
			     is_noted(&ch->gone, ev->handle)) &&
	       (ev->res != -EBADF || ev->cookie);
}

/*
 * Take the completions of a handle (id), or of all that are noted (0), out of
 * the buffer from there on.  Mostly there is none.
 */
static inline void take_out(struct mp_channel *ch, struct mp_hot_event *ev,
			    int id)
{
	struct mp_hot_event *end = ch->at->ev_limit, *to;

	while (ev != end && !is_gone(ch, ev, id))
		ev++;
	if (likely(ev == end))
		return;
	for (to = ev; ev != end; ev++) {
		if (is_gone(ch, ev, id))
			mp_disown(ch, ev);
		else
			*to++ = *ev;
	}
	ch->at->ev_limit = to;
	if (ch->ev_seen > to)
		ch->ev_seen = to;
}

/* The kernel has run commands: forget them, keep those it has left, in order. */
static inline void consumed(struct mp_channel *ch,
			    const struct megapipe_dispatch *run)
{
	unsigned int left = run->nr_cmds - run->done_cmds;

	if (unlikely(left))
		memmove(ch->cmds, ch->cmds + run->done_cmds,
			left * sizeof(*ch->cmds));
	ch->at->cmd_next = ch->cmds + left;
	ch->cmd_seen = ch->cmds;
	ch->cmd_time++;
	if (likely(!left)) {
		ch->aside_used = 0;
		if (unlikely(ch->gone.nr))
			clear_notes(ch);
	}
}

/*
 * The batch has stopped early, and completions came all the same, from there on:
 * perhaps of handles which the rest of the batch gives up.
 */
static __attribute__((noinline)) void
forget_left(struct mp_channel *ch, struct mp_hot_event *ev)
{
	const struct mp_hot_cmd *cmd;

	for (cmd = ch->cmds; cmd != ch->at->cmd_next; cmd++)
		if (cmd->op == MEGAPIPE_OP_UNREGISTER ||
		    cmd->op == MEGAPIPE_OP_CLOSE)
			take_out(ch, ev, cmd->handle);
}

static inline void empty_buffer(struct mp_channel *ch)
{
	ch->at->ev_next = ch->at->ev_limit = ch->ev_seen = ch->events;
}

/*
 * One system call: the collected commands go in, completions come out, until
 * there are as many as "room" in the buffer.  Returns how many were fetched.
 * Commands that the kernel has not consumed stay collected, whatever is returned.
 */
static inline __attribute__((always_inline)) int
run(struct mp_channel *ch, size_t room)
{
	struct megapipe_dispatch *run = &ch->run;
	struct mp_hot_event *to;
	size_t used;
	int fetched;

	if (unlikely(ch->fd < 0))
		return -EBADF;
	if (ch->at->ev_next == ch->at->ev_limit)
		empty_buffer(ch);
	to = ch->at->ev_limit;
	used = (size_t)(to - ch->events);
	room = room > used ? room - used : 0;
	run->events = mp_address(to);
	run->max_events = (uint32_t)(room < ch->max_dispatch ?
				     room : ch->max_dispatch);
	run->nr_cmds = mp_collected(ch);
	run->done_cmds = 0;

	fetched = mp_sys_ioctl(ch->fd, MEGAPIPE_IOC_DISPATCH, run);
	if (fetched > 0) {
		ch->at->ev_limit = to + fetched;
		if (unlikely(ch->gone.nr))
			take_out(ch, to, 0);
	}
	consumed(ch, run);
	if (unlikely(run->done_cmds != run->nr_cmds && fetched > 0))
		forget_left(ch, to);
	return fetched;
}

/* Make room for nr more completions behind those in the buffer. */
static int make_room(struct mp_channel *ch, size_t nr)
{
	size_t used = (size_t)(ch->at->ev_limit - ch->at->ev_next);
	int saved_errno = errno;
	struct mp_hot_event *events;

	memmove(ch->events, ch->at->ev_next, used * sizeof(*ch->events));
	if (used + nr > ch->ev_capacity) {
		events = realloc(ch->events, (used + nr) * sizeof(*events));
		if (events) {
			ch->events = events;
			ch->ev_capacity = used + nr;
		}
		errno = saved_errno;
	}
	empty_buffer(ch);
	ch->at->ev_limit += used;
	ch->hot_run.events = mp_address(ch->events);
	return ch->ev_capacity < used + nr ? -ENOMEM : 0;
}

/*
 * Hand commands over until the last one collected is before 'below'.  A batch
 * stops early when a command failed and the buffer had no room for saying so:
 * then room is made, enough for all that are left to fail.
 */
int mp_drain(struct mp_channel *ch, const struct mp_hot_cmd *below)
{
	const struct mp_hot_cmd *before;
	bool roomy = false;
	int ret;

	while (ch->at->cmd_next >= below) {
		before = ch->at->cmd_next;
		ret = run(ch, roomy ? ch->ev_capacity : ch->fetch);
		if (ret < 0)
			return ret;
		if (likely(ch->at->cmd_next < below))
			break;
		if (roomy && ch->at->cmd_next == before)
			return -EPROTO;		/* consumes nothing */
		ret = make_room(ch, mp_collected(ch));
		if (ret)
			return ret;
		roomy = true;
	}
	return 0;
}

/* See what the buffer has, from the next completion on. */
static void see_fetched(struct mp_channel *ch)
{
	struct mp_hot_event *ev = ch->ev_seen, *end = ch->at->ev_limit;
	uint32_t time;

	if (ev == ch->events)		/* nothing since it was empty */
		ch->ev_bias = ch->ev_time - (uint32_t)(uintptr_t)ev;
	if (ev < ch->at->ev_next)
		ev = ch->at->ev_next;
	for (time = mp_ev_time(ch, ev); ev != end; time += sizeof(*ev))
		ch->seen[mp_seen_key(ev++->handle)].fetched = time;
	ch->ev_seen = end;
	ch->ev_time = time;
}

static void see_collected(struct mp_channel *ch)
{
	struct mp_hot_cmd *cmd = ch->cmd_seen, *end = ch->at->cmd_next;

	for (; cmd != end; cmd++)
		ch->seen[mp_seen_key(cmd->handle)].collected = ch->cmd_time;
	ch->cmd_seen = end;
}

void mp_see(struct mp_channel *ch)
{
	if (ch->at->ev_next != ch->at->ev_limit)
		see_fetched(ch);
	see_collected(ch);
}

/* The handle is given up: nothing more of it is to be handed out. */
int mp_forget(struct mp_channel *ch, int id)
{
	const struct mp_seen *seen = &ch->seen[mp_seen_key(id)];
	struct mp_gone *gone = &ch->gone;
	int ret;

	mp_see(ch);
	if (mp_is_fetched(ch, ch->at, seen))
		take_out(ch, ch->at->ev_next, id);
	if (!mp_is_collected(ch, seen))
		return 0;
	if (unlikely(gone->nr == MP_GONE_MAX)) {
		ret = mp_drain(ch, ch->cmds + 1);
		if (ret)
			return ret;
		take_out(ch, ch->at->ev_next, id);
		return 0;
	}
	ch->hot_fd = -1;		/* let mp_hot_fetch() know */
	gone->nr++;
	gone->records[gone->nr].id = id;
	gone->records[gone->nr].next = gone->heads[key_of(id)];
	gone->heads[key_of(id)] = (uint8_t)gone->nr;
	return 0;
}

/* As many as there are and the program has room for */
static unsigned int hand_out(struct mp_channel *ch, struct mp_event *events,
			     unsigned int max)
{
	size_t fetched = (size_t)(ch->at->ev_limit - ch->at->ev_next);
	unsigned int i;

	if (max > fetched)
		max = (unsigned int)fetched;
	for (i = 0; i < max; i++)
		mp_hot_take(ch, ch->at, &events[i]);
	return max;
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
		ret = (int)hand_out(ch, events, max);
		if (ret)
			break;
		ret = run(ch, ch->fetch);
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

/*
 * Wait for completions, until there is one to be handed out: a system call may
 * bring only what is taken out at once.
 */
static int fetch(struct mp_channel *ch, int64_t timeout_us,
		 const sigset_t *sigmask)
{
	int ret;

	ch->run.min_events = timeout_us != 0;
	ch->run.timeout_ns = wait_ns(timeout_us);
	ch->run.sigmask = mp_address(sigmask);
	ch->run.sigsetsize = sigmask ? (NSIG - 1) / 8 : 0;
	do
		ret = run(ch, ch->fetch);
	while (ret > 0 && ch->hot.ev_next == ch->hot.ev_limit);
	ch->run.min_events = 0;
	ch->run.sigmask = ch->run.sigsetsize = 0;
	return ret;
}

static __attribute__((noinline)) int fetch_slow(struct mp_channel *ch,
						int64_t timeout_us)
{
	if (ch->shared)
		return MP_HOT_WAIT;
	ch->hot_timeout_us = timeout_us;
	ch->hot_run.timeout_ns = wait_ns(timeout_us);
	ch->hot_run.min_events = timeout_us != 0;
	return fetch(ch, timeout_us, NULL);
}

/* The dispatch of mp_hot_fetch() was not all that simple. */
static __attribute__((noinline)) int settle(struct mp_channel *ch, int ret)
{
	empty_buffer(ch);
	if (ret > 0)
		ch->hot.ev_limit = ch->events + ret;
	consumed(ch, &ch->hot_run);
	if (ret <= 0)
		return ret;
	forget_left(ch, ch->events);
	if (ch->hot.ev_limit == ch->events)
		return fetch_slow(ch, ch->hot_timeout_us);
	return ret;
}

/*
 * Nothing is fetched: ask the kernel.  Mostly that is one system call whose
 * argument is the same as last time but for the number of commands.
 */
int mp_hot_fetch(struct mp_channel *ch, int64_t timeout_us)
{
	struct megapipe_dispatch *run = &ch->hot_run;
	int ret;

	if (unlikely(ch->hot_fd < 0 || timeout_us != ch->hot_timeout_us))
		return fetch_slow(ch, timeout_us);
	run->nr_cmds = (uint32_t)(ch->hot.cmd_next - ch->cmds);
	run->done_cmds = 0;
	ret = mp_sys_ioctl(ch->hot_fd, MEGAPIPE_IOC_DISPATCH, run);
	if (unlikely(ret <= 0 || run->done_cmds != run->nr_cmds))
		return settle(ch, ret);
	ch->hot.cmd_next = ch->cmd_seen = ch->cmds;
	ch->cmd_time++;
	ch->aside_used = 0;
	ch->hot.ev_next = ch->ev_seen = ch->events;
	ch->hot.ev_limit = ch->events + (unsigned int)ret;
	return ret;
}

static __attribute__((noinline)) int
dispatch_one(struct mp_channel *ch, struct mp_event *event, int64_t timeout_us)
{
	int ret = mp_hot_fetch(ch, timeout_us);

	if (unlikely(ret == MP_HOT_WAIT))
		return dispatch_shared(ch, event, 1, timeout_us, NULL);
	if (unlikely(ret <= 0))
		return ret;
	mp_hot_take(ch, &ch->hot, event);
	return 1;
}

int mp_dispatch(struct mp_channel *channel, struct mp_event *event,
		int64_t timeout_us)
{
	if (unlikely(!channel || !event))
		return -EINVAL;
	if (unlikely(channel->hot.ev_next >= channel->hot.ev_limit))
		return dispatch_one(channel, event, timeout_us);
	mp_hot_take(channel, &channel->hot, event);
	return 1;
}

int mp_dispatch_batch(struct mp_channel *channel, struct mp_event *events,
		      unsigned int max, int64_t timeout_us,
		      const sigset_t *sigmask)
{
	int ret;

	if (unlikely(!channel || !events || !max))
		return -EINVAL;
	if (max > INT_MAX)
		max = INT_MAX;
	if (unlikely(channel->shared))
		return dispatch_shared(channel, events, max, timeout_us,
				       sigmask);
	if (channel->hot.ev_next == channel->hot.ev_limit) {
		ret = fetch(channel, timeout_us, sigmask);
		if (ret <= 0)
			return ret;
	}
	return (int)hand_out(channel, events, max);
}
