/* SPDX-License-Identifier: MIT */
/*
 * What megapipe_server.h asks of a channel, by libmegapipe: names for its functions,
 * so that the same server can be built upon the bare system calls.
 */
#ifndef PINGPONG_MEGAPIPE_IO_H
#define PINGPONG_MEGAPIPE_IO_H

#include <errno.h>
#include <fcntl.h>
#include <megapipe-inline.h>
#include <sched.h>
#include <sys/epoll.h>

typedef mp_handle io_handle;

struct io {
	struct mp_channel *channel;
};

static int io_open(struct io *io, unsigned int batch)
{
	int err = mp_create(&io->channel);

	return err || !batch ? err : mp_set_batch(io->channel, batch);
}

static void io_shut(struct io *io)
{
	mp_destroy(io->channel);
}

static int io_listen(struct io *io, int fd, void *cookie, const cpu_set_t *mask,
		     io_handle *handle)
{
	return mp_register(io->channel, fd, cookie, mask, handle);
}

static inline int io_name(struct io *io, int socket, void *cookie, io_handle *handle)
{
	return mp_register(io->channel, socket, cookie, NULL, handle);
}

static inline int io_accept(struct io *io, io_handle listener, unsigned int nr, bool lwsocket)
{
	(void)io;
	return mp_accept(listener, nr, lwsocket);	/* 0: MP_FOREVER */
}

static inline int io_read(struct io *io, io_handle handle, void *buf, size_t size)
{
	(void)io;
	return mp_read(handle, buf, size);
}

static inline int io_write(struct io *io, io_handle handle, const void *buf, size_t size)
{
	(void)io;
	return mp_write(handle, buf, size);
}

static inline int io_write_then_read(struct io *io, io_handle handle, void *buf, size_t size,
				     size_t room)
{
	(void)io;
	return mp_write_then_read(handle, buf, size, buf, room);
}

static inline int io_write_more(struct io *io, io_handle handle, const void *buf, size_t size)
{
	(void)io;
	return mp_write_more(handle, buf, size);
}

static inline int io_close(struct io *io, io_handle handle)
{
	(void)io;
	return mp_close(handle);
}

static int io_drop(struct io *io, io_handle handle)
{
	(void)io;
	return mp_unregister(handle);
}

/* It gets a name first, to be spoken of. */
static int io_tofd(struct io *io, int socket)
{
	mp_handle handle;
	int err = mp_register(io->channel, socket, NULL, NULL, &handle);

	return err ?: mp_tofd(handle, O_NONBLOCK | O_CLOEXEC);
}

static int io_backlog(struct io *io, io_handle listener)
{
	struct mp_listener l;
	int err = mp_listener(listener, &l);

	(void)io;
	return err ? err : (int)l.queued;
}

static int io_wait(struct io *io, io_handle handle)
{
	(void)io;
	return mp_poll(handle, EPOLLIN);
}

static int io_flush(struct io *io)
{
	return mp_flush(io->channel);
}

static int io_stats(struct io *io, uint64_t *foreign, uint64_t *dispatches)
{
	struct mp_stats stats;
	int err = mp_stats(io->channel, &stats);

	if (err)
		return err;
	*foreign = stats.accepts_foreign;
	*dispatches = stats.dispatches;
	return 0;
}

#endif
