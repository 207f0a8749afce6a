// SPDX-License-Identifier: MIT
/*
 * MegaPipe without its library: the same server, whose commands and completions
 * are written and read in place, as one would who knows the ABI by heart. It is
 * there to be compared with: the library may not cost much more.
 */
#include "api.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/megapipe.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BATCH_MAX	1024
#define BATCH_DEFAULT	64		/* the library's */
#define FETCH		256		/* the library's */

typedef int io_handle;

struct io {
	int fd;
	unsigned int batch;
	unsigned int nr_cmds;
	struct megapipe_cmd cmds[BATCH_MAX];
	struct megapipe_event events[FETCH];
};

/* Commands go in, completions come out; -errno. */
static int io_run(struct io *io, unsigned int room, unsigned int wait_for, int64_t timeout_ns)
{
	struct megapipe_dispatch run = {
		.cmds = (uintptr_t)io->cmds,
		.nr_cmds = io->nr_cmds,
		.events = (uintptr_t)io->events,
		.max_events = room,
		.min_events = wait_for,
		.timeout_ns = timeout_ns,
	};
	int n = ioctl(io->fd, MEGAPIPE_IOC_DISPATCH, &run);

	/* Left over is only what failed without room to say so: this server is wrong. */
	if (run.done_cmds != io->nr_cmds)
		return n < 0 ? -errno : -EPROTO;
	io->nr_cmds = 0;
	return n < 0 ? -errno : n;
}

static int io_flush(struct io *io)
{
	return io_run(io, 0, 0, 0);
}

static inline int io_push(struct io *io, struct megapipe_cmd cmd)
{
	io->cmds[io->nr_cmds++] = cmd;
	return __builtin_expect(io->nr_cmds >= io->batch, 0) ? io_flush(io) : 0;
}

static int io_open(struct io *io, unsigned int batch)
{
	io->batch = batch && batch < BATCH_MAX ? batch : BATCH_DEFAULT;
	io->fd = open("/dev/megapipe", O_RDWR | O_CLOEXEC);
	return io->fd < 0 ? -errno : 0;
}

static void io_shut(struct io *io)
{
	close(io->fd);
}

static int io_listen(struct io *io, int fd, void *cookie, const cpu_set_t *mask,
		     io_handle *handle)
{
	struct megapipe_register reg = {
		.fd = fd,
		.flags = mask ? MEGAPIPE_REG_PARTITION : 0,
		.cookie = (uintptr_t)cookie,
		.cpu_mask = (uintptr_t)mask,
		.cpu_mask_size = mask ? sizeof(*mask) : 0,
	};

	*handle = ioctl(io->fd, MEGAPIPE_IOC_REGISTER, &reg);
	return *handle < 0 ? -errno : 0;
}

static inline int io_name(struct io *io, int socket, void *cookie, io_handle *handle)
{
	if (!(socket & MEGAPIPE_HANDLE_LWSOCKET))
		return io_listen(io, socket, cookie, NULL, handle);
	*handle = socket;
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_COOKIE,
		.handle = socket,
		.arg = (uintptr_t)cookie,
	});
}

static inline int io_accept(struct io *io, io_handle listener, unsigned int nr, bool lwsocket)
{
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_ACCEPT,
		.handle = listener,
		.len = nr,
		.flags = lwsocket ? MEGAPIPE_CMD_LWSOCKET : 0,
	});
}

static inline int io_read(struct io *io, io_handle handle, void *buf, size_t size)
{
	struct megapipe_cmd *next = io->cmds + io->nr_cmds;

	/* It was just named: one command does both. */
	if (io->nr_cmds && next[-1].op == MEGAPIPE_OP_COOKIE && next[-1].handle == handle) {
		next[-1].op = MEGAPIPE_OP_READ;
		next[-1].flags = MEGAPIPE_CMD_COOKIE;
		next[-1].addr = (uintptr_t)buf;
		next[-1].len = size;
		return 0;
	}
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_READ,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.len = size,
	});
}

static inline int io_write(struct io *io, io_handle handle, const void *buf, size_t size)
{
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_WRITE,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.len = size,
	});
}

static inline int io_write_then_read(struct io *io, io_handle handle, void *buf, size_t size,
				     size_t room)
{
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_WRITE,
		.flags = MEGAPIPE_CMD_THEN_READ,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.len = size,
		.arg = (uintptr_t)buf,
		.aux = room,
	});
}

static inline int io_write_more(struct io *io, io_handle handle, const void *buf, size_t size)
{
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_WRITE,
		.flags = MEGAPIPE_CMD_MORE,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.len = size,
	});
}

static inline int io_close(struct io *io, io_handle handle)
{
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_CLOSE,
		.handle = handle,
	});
}

static int io_drop(struct io *io, io_handle handle)
{
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_UNREGISTER,
		.handle = handle,
	});
}

static int io_tofd(struct io *io, int socket)
{
	struct megapipe_tofd tofd = { .handle = socket, .flags = O_NONBLOCK | O_CLOEXEC };
	int fd = ioctl(io->fd, MEGAPIPE_IOC_TOFD, &tofd);

	return fd < 0 ? -errno : fd;
}

static int io_backlog(struct io *io, io_handle listener)
{
	struct megapipe_listener l = { .handle = listener };

	return ioctl(io->fd, MEGAPIPE_IOC_LISTENER, &l) < 0 ? -errno : (int)l.queued;
}

static int io_wait(struct io *io, io_handle handle)
{
	return io_push(io, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_POLL,
		.handle = handle,
		.aux = EPOLLIN,
	});
}

static int io_stats(struct io *io, uint64_t *foreign, uint64_t *dispatches)
{
	struct megapipe_stats stats;

	if (ioctl(io->fd, MEGAPIPE_IOC_STATS, &stats) < 0)
		return -errno;
	*foreign = stats.accepts_foreign;
	*dispatches = stats.dispatches;
	return 0;
}

#include "megapipe_server.h"

/* Returns false for the last one. */
static inline bool take(struct worker *w, const struct megapipe_event *event)
{
	struct connection *c = (void *)(uintptr_t)event->cookie;

	switch (event->op) {
	case MEGAPIPE_OP_ACCEPT:
		accepted(w, event->res);
		break;
	case MEGAPIPE_OP_READ:
		if (c->handle == event->handle)	/* or fetched before its close */
			has_read(w, c, event->res);
		break;
	case MEGAPIPE_OP_WRITE:
		if (c->handle == event->handle)
			has_written(w, c, event->res);
		break;
	case MEGAPIPE_OP_POLL:
		return polled(w, c);
	default:
		count(&w->counters.errors, 1);
		break;
	}
	return true;
}

static void raw_run(struct worker *w)
{
	struct channel_state *s = w->state;

	for (;;) {
		int n = io_run(&s->io, FETCH, 1, s->wait_us * 1000);

		if (n == 0) {
			if (!s->shedding)
				accept_some(w);
			continue;
		}
		if (n < 0) {
			if (n == -EINTR)
				continue;
			count(&w->counters.errors, 1);
			return;
		}
		for (int i = 0; i < n; i++)
			if (!take(w, &s->io.events[i]))
				return;
	}
}

const struct api api_megapipe_raw = {
	.name = "megapipe-raw",
	.has_channels = true,
	.knows_foreign = true,
	.open = server_open,
	.run = raw_run,
	.refresh = server_refresh,
	.close = server_close,
};
