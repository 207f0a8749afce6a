/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libmegapipe: network I/O through MegaPipe channels.
 *
 * A thread creates a channel, registers sockets with it, asks for accepts,
 * reads and writes, and takes one completion after another from
 * mp_dispatch().  Buffers belong to the kernel from the request until its
 * completion.  Requests are collected and handed to the kernel in batches;
 * the program never sees that (mp_set_batch() tunes it).
 *
 * Every function returns 0 or a count, or a negative error number such as
 * -EBADF; errno is left alone.  A channel is used by one thread at a time,
 * usually the one pinned to the CPU that the channel stands for.
 *
 * Requests run in the order in which they were made.  The functions say only
 * that a request was taken; how it ended is in its completion, errors too.
 */
#ifndef MEGAPIPE_H
#define MEGAPIPE_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Channels ---------------------------------------------------------- */

struct mp_channel;

/*
 * Open a channel.  It belongs to this address space: after fork() only the
 * parent may use it.  -ENOENT: the kernel has no MegaPipe (no /dev/megapipe);
 * -EACCES: no permission; -EPROTO: kernel and library do not know each other.
 */
int mp_create(struct mp_channel **channel);

/*
 * Close it: hand over the collected requests, then close the lwsockets and
 * unregister the descriptors, which stay open.
 */
void mp_destroy(struct mp_channel *channel);

/*
 * Requests collected before they are handed over, 1 to MP_BATCH_MAX.  They go
 * sooner when no fetched completion is left, or by mp_flush().  1 turns batching
 * off: every request is a system call, which brings one completion at most.
 */
#define MP_BATCH_DEFAULT 64
#define MP_BATCH_MAX     1024
int mp_set_batch(struct mp_channel *channel, unsigned int threshold);

/* ---- Handles ----------------------------------------------------------- */

/* A socket in a channel; copied by value.  { NULL, 0 } names nothing. */
typedef struct mp_handle {
	struct mp_channel *channel;
	int id;
} mp_handle;

/*
 * Make a handle for a socket: a descriptor, or an lwsocket as reported by an
 * accept.  Completions carry the cookie.  For a listening socket, cpu_mask
 * (may be NULL) gives the channel its own partition of the accept queue: the
 * connections that arrive on those CPUs.  The same listening descriptor is
 * registered in every channel.  Any other socket takes NULL.
 *
 * The channel keeps a registered descriptor's connection open: end it with
 * mp_close(), not close().
 */
int mp_register(struct mp_channel *channel, int fd, void *cookie,
		const cpu_set_t *cpu_mask, mp_handle *handle);

/*
 * Drop a handle: what is pending on it ends, and no completion of it is
 * dispatched any more.  A descriptor stays open; an lwsocket, which has no
 * other name, is closed.
 */
int mp_unregister(mp_handle handle);

/*
 * Unregister, and close the descriptor or lwsocket.  Wait for the completion
 * of a write, or mp_disconnect() first, if all of it is to arrive.
 */
int mp_close(mp_handle handle);

/* ---- Requests: each ends as one completion ----------------------------- */

/*
 * One read and one write may be pending on a handle (-EBUSY); a buffer is the
 * kernel's until the completion.  NULL and sizes that are 0 or more than
 * INT_MAX are -EINVAL.
 */

/*
 * Accept count connections (MP_FOREVER: until cancelled), one completion
 * each, as lwsockets or as ordinary non-blocking descriptors.  The
 * completion's result goes to mp_register().
 */
#define MP_FOREVER 0
int mp_accept(mp_handle handle, unsigned int count, bool is_lwsocket);

/* Read up to size bytes; completes with the bytes read, 0 at end of file. */
int mp_read(mp_handle handle, void *buf, size_t size);

/*
 * Write all size bytes; completes with the bytes written, which are fewer only
 * when the connection failed half-way.  There is no SIGPIPE.
 */
int mp_write(mp_handle handle, const void *buf, size_t size);

/* The same from iovcnt buffers; the array itself may be reused at once. */
int mp_writev(mp_handle handle, const struct iovec *iov, int iovcnt);

/*
 * End the connection as shutdown() does, once the pending write is done.  The
 * handle lives on: read until end of file, then mp_close().
 */
int mp_disconnect(mp_handle handle);

/*
 * End what is pending on the handle: it completes with -ECANCELED, a write that
 * has begun with the bytes written.
 */
int mp_cancel(mp_handle handle);

/* ---- Completions ------------------------------------------------------- */

enum mp_command {
	MP_ACCEPT,
	MP_READ,
	MP_WRITE,	/* of mp_write() and mp_writev() */
	MP_DISCONNECT,
	/* mp_unregister(), mp_close(), mp_cancel(), the mp_register() of an
	 * lwsocket: the handle is none.  They complete only so.
	 */
	MP_FAILED,
};

struct mp_event {
	void *cookie;		/* as registered */
	mp_handle handle;
	enum mp_command cmd;	/* what has completed */
	int result;		/* bytes; MP_ACCEPT: the new socket; or -errno */
	unsigned int backlog;	/* MP_ACCEPT: connections still waiting */
};

/*
 * Take the next completion.  Waits for one at most timeout_us microseconds
 * (negative: for ever).  Returns 1 with *event filled in, or 0 when the time
 * is over; -EINTR: a signal handler ran.
 */
int mp_dispatch(struct mp_channel *channel, struct mp_event *event,
		int64_t timeout_us);

/* Hand the collected requests to the kernel now. */
int mp_flush(struct mp_channel *channel);

/* ---- Looking inside ---------------------------------------------------- */

struct mp_stats {
	uint64_t dispatches;	  /* system calls that ran a batch */
	uint64_t commands;	  /* requests handed over */
	uint64_t events;	  /* completions fetched */
	uint64_t sleeps;	  /* of the dispatches, those that slept */
	uint64_t accepts;
	uint64_t accepts_foreign; /* accepted on another CPU than their packets */
	uint64_t handles;	  /* now */
	uint64_t lwsockets;	  /* of these */
};

int mp_stats(struct mp_channel *channel, struct mp_stats *stats);

/*
 * The channel's descriptor, for mixing with other event loops: readable in
 * poll() and epoll when the kernel has completions.  It knows nothing of those
 * already fetched nor of collected requests: before waiting for it, call
 * mp_dispatch() with timeout 0 until it returns 0.
 */
int mp_fd(struct mp_channel *channel);

#ifdef __cplusplus
}
#endif

#endif /* MEGAPIPE_H */
