// SPDX-License-Identifier: MIT
/*
 * MegaPipe: a channel per thread. The paper's three ideas have a switch each:
 * with partitions every channel has its own accept queue, of the connections that
 * its CPU receives; with lwsockets they are no descriptors; with batching requests
 * and completions share system calls.
 */
#include "api.h"

#include <errno.h>
#include <megapipe-inline.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

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

#include "megapipe_server.h"

static void megapipe_run(struct worker *w)
{
	struct channel_state *s = w->state;
	struct mp_channel *channel = s->io.channel;
	struct mp_event event = { 0 };
	int64_t wait_us = s->wait_us;

	for (;;) {
		int ret = mp_dispatch(channel, &event, wait_us);

		if (ret == 0) {
			if (!s->accepting && !s->shedding)
				accept_some(w);
			wait_us = s->wait_us;
			continue;
		}
		if (ret < 0) {
			if (ret == -EINTR)
				continue;
			count(&w->counters.errors, 1);
			return;
		}
		switch (event.cmd) {
		case MP_ACCEPT:
			accepted(w, event.result);
			wait_us = s->wait_us;
			break;
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

const struct api api_megapipe = {
	.name = "megapipe",
	.has_channels = true,
	.knows_foreign = true,
	.open = server_open,
	.run = megapipe_run,
	.refresh = server_refresh,
	.close = server_close,
};
