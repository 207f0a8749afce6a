/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libmegapipe for programs that count instructions: include this instead of
 * megapipe.h, and mp_read(), mp_write(), mp_write_then_read(), mp_dispatch() and
 * the mp_register() of an lwsocket are inlined where nothing is to be waited for,
 * refused or handed over; for all else they call the library, as they do without
 * this header.  They do not look for pointers to channels, handles and events that
 * are NULL (a handle { NULL, 0 } is still -EBADF).  A channel that threads share
 * goes to the library.
 *
 * What stands here of the library's insides is part of its binary interface: it
 * changes only together with the number in its soname.
 */
#ifndef MEGAPIPE_INLINE_H
#define MEGAPIPE_INLINE_H

#include <errno.h>
#include <limits.h>

#include "megapipe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A command and a completion, as the kernel takes and gives them */
struct mp_hot_cmd {
	uint8_t op;
	uint8_t flags;
	uint16_t resv;
	int32_t handle;
	uint64_t addr;
	uint64_t arg;
	uint32_t len;
	uint32_t aux;
};

struct mp_hot_event {
	uint64_t cookie;
	int32_t handle;
	int32_t res;
	uint16_t op;
	uint16_t flags;
	uint32_t aux;
	uint64_t data;
};

#define MP_HOT_READ	2
#define MP_HOT_WRITE	5
#define MP_HOT_COOKIE	12
#define MP_HOT_THEN_READ	4		/* flags of commands */
#define MP_HOT_WITH_COOKIE	8
#define MP_HOT_LWSOCKET	1		/* bits 30 and 31 of such a socket */

/*
 * What a channel begins with: where the next command goes and the next completion
 * is; below the limits there is nothing else to look at.  For a channel that
 * threads share, and one that is destroyed, no limit is above.  Before cmd_next
 * there is a command at any time, be it one of no kind.
 */
struct mp_hot {
	struct mp_hot_cmd *cmd_next;
	struct mp_hot_cmd *cmd_limit;
	struct mp_hot_event *ev_next;
	struct mp_hot_event *ev_limit;
};

/* enum mp_command of each kind of command that the kernel knows */
extern const uint8_t mp_command_of[256];

/*
 * Nothing is fetched: do it.  Returns how many there are now, 0 or -errno as
 * mp_dispatch(), or MP_HOT_WAIT: call mp_dispatch().
 */
#define MP_HOT_WAIT	INT_MIN
int mp_hot_fetch(struct mp_channel *channel, int64_t timeout_us);

static inline struct mp_hot *mp_hot(struct mp_channel *channel)
{
	return (struct mp_hot *)(void *)channel;
}

/* Whether the fast path may take one; then it goes to cmd_next. */
static inline bool mp_hot_room(struct mp_channel *channel)
{
	return mp_hot(channel)->cmd_next < mp_hot(channel)->cmd_limit;
}

static inline bool mp_hot_valid(mp_handle handle, const void *buf, size_t size)
{
	return __builtin_expect(handle.id > 0 && buf && size - 1 < INT_MAX, 1);
}

static inline bool mp_hot_transfer(mp_handle handle, const void *buf,
				   size_t size)
{
	return mp_hot_valid(handle, buf, size) &&
	       __builtin_expect(mp_hot_room(handle.channel), 1);
}

static inline void mp_hot_push(mp_handle handle, uint8_t op, const void *buf,
			       const void *arg, size_t size)
{
	struct mp_hot *hot = mp_hot(handle.channel);
	struct mp_hot_cmd *cmd = hot->cmd_next;

	cmd->op = op;
	cmd->flags = 0;
	cmd->resv = 0;
	cmd->handle = handle.id;
	cmd->addr = (uintptr_t)buf;
	cmd->arg = (uintptr_t)arg;
	cmd->len = (uint32_t)size;
	cmd->aux = 0;
	hot->cmd_next = cmd + 1;
}

static inline void mp_hot_take(struct mp_channel *channel, struct mp_hot *hot,
			       struct mp_event *event)
{
	const struct mp_hot_event *ev = hot->ev_next++;

	event->cookie = (void *)(uintptr_t)ev->cookie;
	event->handle.channel = channel;
	event->handle.id = ev->handle;
	event->cmd = (enum mp_command)mp_command_of[(uint8_t)ev->op];
	event->result = ev->res;
	event->flags = ev->flags;
	event->backlog = ev->aux;
}

/*
 * A READ of the lwsocket whose registration is the last command collected: it takes
 * the cookie along, and is no command more.  Registering would have been run right
 * before it in any case.
 */
static inline bool mp_hot_join(mp_handle handle, uint64_t addr, uint32_t len)
{
	struct mp_hot_cmd *cmd = mp_hot(handle.channel)->cmd_next - 1;

	if (cmd->op != MP_HOT_COOKIE || cmd->handle != handle.id)
		return false;
	cmd->op = MP_HOT_READ;
	cmd->flags = MP_HOT_WITH_COOKIE;
	cmd->addr = addr;
	cmd->len = len;
	return true;
}

static inline int mp_inline_read(mp_handle handle, void *buf, size_t size)
{
	if (!mp_hot_valid(handle, buf, size))
		return mp_read(handle, buf, size);
	if (mp_hot_join(handle, (uintptr_t)buf, (uint32_t)size))
		return 0;
	if (!__builtin_expect(mp_hot_room(handle.channel), 1))
		return mp_read(handle, buf, size);
	mp_hot_push(handle, MP_HOT_READ, buf, NULL, size);
	return 0;
}

static inline int mp_inline_write(mp_handle handle, const void *buf,
				  size_t size)
{
	if (!mp_hot_transfer(handle, buf, size))
		return mp_write(handle, buf, size);
	mp_hot_push(handle, MP_HOT_WRITE, buf, NULL, size);
	return 0;
}

static inline int mp_inline_write_then_read(mp_handle handle, const void *buf,
					    size_t size, void *in, size_t room)
{
	struct mp_hot_cmd *cmd;

	if (!mp_hot_transfer(handle, buf, size) || !in || room - 1 >= INT_MAX)
		return mp_write_then_read(handle, buf, size, in, room);
	cmd = mp_hot(handle.channel)->cmd_next;
	mp_hot_push(handle, MP_HOT_WRITE, buf, in, size);
	cmd->flags = MP_HOT_THEN_READ;
	cmd->aux = (uint32_t)room;
	return 0;
}

static inline int mp_inline_register(struct mp_channel *channel, int fd,
				     void *cookie, const cpu_set_t *cpu_mask,
				     mp_handle *handle)
{
	if (!__builtin_expect(fd >> 30 == MP_HOT_LWSOCKET && !cpu_mask &&
			      mp_hot_room(channel), 1))
		return mp_register(channel, fd, cookie, cpu_mask, handle);
	handle->channel = channel;
	handle->id = fd;
	mp_hot_push(*handle, MP_HOT_COOKIE, NULL, cookie, 0);
	return 0;
}

/* By way of a copy, so that *event itself need not be in memory. */
static inline int mp_hot_wait(struct mp_channel *channel,
			      struct mp_event *event, int64_t timeout_us)
{
	struct mp_event fetched;
	int ret;

	__builtin_memset(&fetched, 0, sizeof(fetched));
	ret = mp_dispatch(channel, &fetched, timeout_us);
	*event = fetched;
	return ret;
}

static inline int mp_inline_dispatch(struct mp_channel *channel,
				     struct mp_event *event, int64_t timeout_us)
{
	int ret;

	if (__builtin_expect(mp_hot(channel)->ev_next >=
			     mp_hot(channel)->ev_limit, 0)) {
		ret = mp_hot_fetch(channel, timeout_us);
		if (__builtin_expect(ret <= 0, 0)) {
			if (ret == MP_HOT_WAIT)
				return mp_hot_wait(channel, event, timeout_us);
			return ret;
		}
	}
	mp_hot_take(channel, mp_hot(channel), event);
	return 1;
}

#ifdef __cplusplus
}
#endif

#ifndef MP_HOT_NO_MACROS
#define mp_register	mp_inline_register
#define mp_read		mp_inline_read
#define mp_write	mp_inline_write
#define mp_write_then_read	mp_inline_write_then_read
#define mp_dispatch	mp_inline_dispatch
#endif

#endif /* MEGAPIPE_INLINE_H */
