/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libmegapipe: network I/O through MegaPipe channels.
 *
 * A thread creates a channel, registers sockets with it, asks for accepts,
 * reads and writes, and takes one completion after another from
 * mp_dispatch().  Requests are collected and handed to the kernel in batches;
 * the program never sees that (mp_set_batch() tunes it).
 *
 * Results.  Every function returns 0 or a count, or a negative error number
 * such as -EBADF; errno is left alone.  A request's 0 says only that it was
 * taken: how it ended is in its completion, errors too.
 *
 * Order.  The requests on a handle run in the order in which they were made
 * (so do all of a channel's).  Functions that act at once and look at a handle
 * (mp_tofd(), options, addresses, mp_listener()) act after its requests.
 *
 * Buffers.  What a request reads from or writes to belongs to the kernel until
 * the completion or, if the handle is given up before, until mp_flush().  Arrays
 * that only describe it (struct iovec, the address of mp_connect() and
 * mp_sendto()) are copied and may be reused at once.
 *
 * Threads.  A channel is used by one thread at a time, usually the one pinned
 * to the CPU that it stands for.  mp_set_shared() lets threads use it together.
 * [any] marks what any thread may call at any time all the same.  Nothing is for
 * signal handlers.
 */
#ifndef MEGAPIPE_H
#define MEGAPIPE_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Channels ---------------------------------------------------------- */

struct mp_channel;

/*
 * Open a channel.  [any]  It belongs to this address space: after fork() only
 * the parent may use it (-EPERM).
 * -ENOENT: this machine has no MegaPipe; -EACCES: no permission; -EPROTO:
 * kernel and library do not know each other; -EMFILE: no descriptor left.
 */
int mp_create(struct mp_channel **channel);

/*
 * Why mp_create() failed with that error and what to do about it, on this
 * machine, as a line of text: the kernel that runs, the one that is needed, its
 * configuration option, where the instructions are.  [any]  Returns text.
 */
#define MP_EXPLAIN_SIZE 512
const char *mp_explain(int error, char *text, size_t size);

/*
 * Close the channel, when no other thread uses it any more: hand over the
 * collected requests, then close the lwsockets and unregister the descriptors,
 * which stay open.  Its handles answer -EBADF from now on.
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

/*
 * Let several threads use the channel at the same time, or no longer; call it
 * while one does.  Each call then takes a lock, and waiting for completions is
 * a system call more.  The threads share one batch and one buffer of fetched
 * completions: a completion goes to one of them, whoever asks first; what one
 * has asked for may be handed over by another, and at the latest when a thread
 * that calls mp_dispatch() finds no completion.  So a thread whose requests are
 * not followed by a dispatch of its own calls mp_flush().
 */
int mp_set_shared(struct mp_channel *channel, bool shared);

/* ---- Handles ----------------------------------------------------------- */

/* A socket in a channel; copied by value.  { NULL, 0 } names nothing. */
typedef struct mp_handle {
	struct mp_channel *channel;
	int id;
} mp_handle;

/*
 * Make a handle for a descriptor (a socket, pipe, FIFO, terminal, eventfd,
 * signalfd or timerfd) or for an lwsocket, as reported by an accept.
 * Completions carry the cookie.  For a listening TCP socket, cpu_mask (may be
 * NULL) gives the channel its own partition of the accept queue: the
 * connections that arrive on those CPUs.  The same listening descriptor is
 * registered in every channel.  Anything else takes NULL, listening sockets that
 * are not TCP's (UNIX, MPTCP) too: their connections come as descriptors.
 *
 * The channel keeps what is registered open: end it with mp_close(), not
 * close().  -EPERM: a file on disk; -ELOOP: a channel, epoll or io_uring
 * descriptor; -EOPNOTSUPP: a FIFO or terminal without O_NONBLOCK; -EMFILE:
 * no handle left, see mp_info().
 */
int mp_register(struct mp_channel *channel, int fd, void *cookie,
		const cpu_set_t *cpu_mask, mp_handle *handle);

/*
 * Drop a handle: what is pending on it ends, and no completion of it is
 * dispatched any more, not even one already fetched.  A descriptor stays open;
 * an lwsocket, which has no other name, is closed.
 */
int mp_unregister(mp_handle handle);

/*
 * Unregister, and close the descriptor or lwsocket.  Wait for the completion
 * of a write, or mp_disconnect() first, if all of it is to arrive.
 */
int mp_close(mp_handle handle);

/*
 * Turn an lwsocket into a descriptor, for what an lwsocket cannot do.  flags:
 * O_CLOEXEC, O_NONBLOCK.  Returns the descriptor, which is not registered; the
 * handle has ended, but completions already fetched for it are dispatched.
 * -EBUSY: something is pending on it; cancel it first.
 */
int mp_tofd(mp_handle handle, int flags);

/* ---- Requests: each ends as one completion ----------------------------- */

/*
 * A handle can have pending at a time one accept or disconnect; one connect or
 * write of any kind; one read of any kind; one poll.  A second one completes
 * with -EBUSY.  NULL for a buffer, and sizes of 0 or more than INT_MAX, are
 * -EINVAL.
 */

/*
 * Accept count connections (MP_FOREVER: until cancelled), one completion
 * each, as lwsockets or as ordinary non-blocking descriptors; an error ends it.
 * The completion's result goes to mp_register().
 */
#define MP_FOREVER 0
int mp_accept(mp_handle handle, unsigned int count, bool is_lwsocket);

/* Connect a registered socket to the address. */
int mp_connect(mp_handle handle, const struct sockaddr *addr,
	       socklen_t addrlen);

/*
 * Read up to size bytes, or up to iovcnt (at most 1024) buffers full; completes
 * with the bytes read, 0 at end of file.
 */
int mp_read(mp_handle handle, void *buf, size_t size);
int mp_readv(mp_handle handle, const struct iovec *iov, int iovcnt);

/*
 * Read one message of a datagram socket, and its sender's address, for which
 * there are room bytes.  The completion has the address's length, which may be
 * more, and says whether the message was cut off (MP_TRUNCATED).
 */
int mp_recvfrom(mp_handle handle, void *buf, size_t size,
		struct sockaddr *addr, socklen_t room);

/*
 * Write all size bytes, or all iovcnt buffers (at most 1024); completes with
 * the bytes written, which are fewer only when the connection failed half-way.
 * There is no SIGPIPE: -EPIPE.
 */
int mp_write(mp_handle handle, const void *buf, size_t size);
int mp_writev(mp_handle handle, const struct iovec *iov, int iovcnt);

/*
 * A reply, then the next request: write all size bytes, and once they are written
 * read up to room bytes to in, which may be the same buffer.  One completion:
 * that of the read (MP_READ), or, if not all could be written, that of the write
 * (MP_WRITE), and nothing is read.  Pending it counts as both until all is written,
 * and as a read then.
 */
int mp_write_then_read(mp_handle handle, const void *buf, size_t size,
		       void *in, size_t room);

/* Send one message, of 0 bytes if need be, from a datagram socket to addr. */
int mp_sendto(mp_handle handle, const void *buf, size_t size,
	      const struct sockaddr *addr, socklen_t addrlen);

/*
 * Write size bytes of the file fd, from offset on, to a socket, without copying
 * them.  Completes as a write does, with fewer bytes also at the file's end.
 * The request keeps neither fd's position nor fd: leave it open until then.
 */
int mp_sendfile(mp_handle handle, int fd, int64_t offset, size_t size);

/*
 * The same, for a piece that another one follows at once, in the same batch: a
 * header before a file.  TCP may keep what does not fill a segment for it, so
 * that both leave in one packet; if nothing follows, for about 200 ms.
 */
int mp_write_more(mp_handle handle, const void *buf, size_t size);
int mp_writev_more(mp_handle handle, const struct iovec *iov, int iovcnt);
int mp_sendfile_more(mp_handle handle, int fd, int64_t offset, size_t size);

/*
 * Wait, once, until the handle is ready for one of the EPOLL* events of
 * <sys/epoll.h>, or has an error or was hung up; completes with what it is ready
 * for.  For what completions do not fit, a TLS library for instance.
 */
int mp_poll(mp_handle handle, uint32_t events);

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
	MP_CONNECT,
	MP_READ,	/* of mp_read(), mp_readv(), mp_write_then_read() */
	MP_RECVFROM,
	MP_WRITE,	/* of mp_write(), mp_writev(), mp_write_then_read() */
	MP_SENDTO,
	MP_SENDFILE,
	MP_POLL,
	MP_DISCONNECT,
	/* mp_unregister(), mp_close(), mp_cancel(), the mp_register() of an
	 * lwsocket unless an mp_read() of it comes right behind and says so:
	 * the handle is none.  They complete only so.
	 */
	MP_FAILED,
};

/* Flags of a completion */
#define MP_MORE		(1U << 0)	/* MP_ACCEPT: more will come */
#define MP_IS_FD	(1U << 1)	/* MP_ACCEPT: result is a descriptor, */
					/* for not all can be an lwsocket */
#define MP_TRUNCATED	(1U << 2)	/* MP_RECVFROM: the rest is lost */

struct mp_event {
	void *cookie;		/* as registered; NULL if there was no such */
				/* handle any more, which -EBADF says */
	mp_handle handle;
	enum mp_command cmd;	/* what has completed */
	int result;		/* bytes; MP_ACCEPT: the new socket; MP_POLL: */
				/* events; or -errno */
	unsigned int flags;

	__extension__ union {
		unsigned int backlog;	/* MP_ACCEPT: connections that wait */
		unsigned int addrlen;	/* MP_RECVFROM: bytes of the address */
	};
};

/*
 * Take the next completion.  Waits for one at most timeout_us microseconds
 * (negative: for ever).  Returns 1 with *event filled in, or 0 when the time
 * is over; -EINTR: a signal handler ran.
 */
int mp_dispatch(struct mp_channel *channel, struct mp_event *event,
		int64_t timeout_us);

/*
 * The same for up to max completions, as far as they are fetched already, or
 * with none left, as one system call brings them; returns how many.  They are
 * the program's then: mp_unregister() does not take them back.
 *
 * sigmask (may be NULL) replaces the thread's signal mask while this waits, as
 * in epoll_pwait().  Fetched completions are handed out without a look at it.
 */
int mp_dispatch_batch(struct mp_channel *channel, struct mp_event *events,
		      unsigned int max, int64_t timeout_us,
		      const sigset_t *sigmask);

/* Hand the collected requests to the kernel now. */
int mp_flush(struct mp_channel *channel);

/* ---- Options and addresses, mostly of lwsockets: at once --------------- */

/* As the functions of these names without mp_; -EOPNOTSUPP: not for lwsockets */
int mp_setsockopt(mp_handle handle, int level, int name, const void *value,
		  socklen_t len);
int mp_getsockopt(mp_handle handle, int level, int name, void *value,
		  socklen_t *len);
int mp_getsockname(mp_handle handle, struct sockaddr *addr, socklen_t *len);
int mp_getpeername(mp_handle handle, struct sockaddr *addr, socklen_t *len);

/* ---- Looking inside ---------------------------------------------------- */

/* How a listening handle fares */
struct mp_listener {
	uint32_t partitions;	/* of the socket, in all channels; 0: none */
	uint32_t cpus;		/* served by this channel's; 0: it has none */
	uint32_t queued;	/* connections that wait, in this channel's */
	uint32_t backlog;	/* partition or else in the socket; at most */
	uint64_t accepts;	/* by this handle */
	uint64_t accepts_foreign; /* see struct mp_stats */
	uint64_t migrated_in;	/* taken over from closed partitions */
};

int mp_listener(mp_handle handle, struct mp_listener *listener);

/* What the kernel offers, and how much of it; [any] */
struct mp_info {
	uint32_t abi_version;
	uint32_t commands;	/* kinds of commands that the kernel knows */
	uint32_t max_handles;	/* of this channel */
	uint32_t max_batch;	/* commands, and completions, of a system call */
	uint64_t max_user_handles; /* of all channels of the user */
	uint64_t user_handles;	/* of these, in use or set aside */
};

int mp_info(struct mp_channel *channel, struct mp_info *info);

/* Counters since mp_create(); [any] */
struct mp_stats {
	uint64_t dispatches;	  /* system calls that ran a batch */
	uint64_t commands;	  /* requests handed over */
	uint64_t events;	  /* completions fetched */
	uint64_t sleeps;	  /* of the dispatches, those that slept */
	uint64_t accepts;
	uint64_t accepts_foreign; /* accepted on another CPU than their packets */
	uint64_t handles;	  /* now */
	uint64_t lwsockets;	  /* of these */
	uint64_t migrated_in;	  /* connections of closed partitions */
};

int mp_stats(struct mp_channel *channel, struct mp_stats *stats);

/*
 * The channel's descriptor, for mixing with other event loops: readable in
 * poll() and epoll when the kernel has completions.  [any]  It knows nothing of
 * those already fetched nor of collected requests: before waiting for it, call
 * mp_dispatch() with timeout 0 until it returns 0.
 */
int mp_fd(struct mp_channel *channel);

#ifdef __cplusplus
}
#endif

#endif /* MEGAPIPE_H */
