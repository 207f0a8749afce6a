/* SPDX-License-Identifier: MIT */
/*
 * The ping-pong over MegaPipe, whole but for how a request is made and where
 * completions come from: libmegapipe in api_megapipe.c, ioctl()s by hand in
 * api_megapipe_raw.c. So the two differ in nothing else, and what the library
 * costs is the difference. Each of them defines before it includes this:
 *
 *	struct io, io_handle	a channel; a socket in it
 *	io_open(), io_shut()	the channel
 *	io_listen()		register the listener, or what is waited for
 *	io_name()		register what was accepted
 *	io_accept(), io_read(), io_write(), io_close(), io_wait(), io_flush()
 *	io_write_then_read()	write from the buffer, and then read into it
 *	io_write_more()		the FIN may go with it: the close comes next
 *	io_drop()		unregister
 *	io_tofd()		make a descriptor of what was accepted
 *	io_backlog()		connections that wait to be accepted, or -errno
 *	io_stats()		what the kernel has counted
 *
 * A reply and the wait for the next message are one request, which completes when
 * the message is there: so a connection has one buffer, and a transaction is one
 * command and one completion.
 *
 * What a thread has accepted is its own, so one that cannot keep up had better not
 * accept all that there are:
 *
 * --accept N	It accepts N at a time, and serves these before it looks for more.
 *		With --mask and a short --backlog, the kernel gives new ones to the
 *		other threads that serve the CPU once so many wait for this one.
 * --shed N	It accepts a quarter of N at a time, and asks after the last how
 *		many wait in its partition: if N do, it drops the listener, and
 *		the kernel gives those that wait to the other channels, and new
 *		ones too. When the thread has served the connections it has, it
 *		takes its partition again.
 * --hand-on N	It makes a descriptor of a connection that it has just accepted, if
 *		it would wait less for another thread although that had N more,
 *		and writes its number to that thread's inbox, a pipe that is in
 *		its channel as all else is.
 */
#ifndef PINGPONG_MEGAPIPE_SERVER_H
#define PINGPONG_MEGAPIPE_SERVER_H

#include <errno.h>
#include <fcntl.h>
#include <linux/megapipe.h>
#include <time.h>

#define CHUNK_BYTES	(1 << 20)	/* of connections allocated at a time */
#define RETRY_US	50000		/* when out of handles */
#define CACHE_LINE	64
#define INBOX		64		/* connections taken from it at a time */
#define COST_EVERY	16		/* looks at the thread's clock */

struct connection {
	struct connection *next;	/* while free */
	io_handle handle;
	uint64_t bytes;			/* of the current message, echoed */
	uint64_t left;			/* to be written before the server closes it */
	int writing;			/* bytes under way; written when the read completes */
	unsigned char buffer[];
};

struct chunk {
	_Alignas(CACHE_LINE) struct chunk *next;
	unsigned char connections[];
};

struct channel_state {
	struct io io;
	io_handle listener, stop;
	bool accepting;
	bool shedding;			/* the listener is left to the others */
	bool choosy;			/* a connection may be handed on, or be the last */
	atomic_uint open;		/* connections; others read it who hand on */
	atomic_uint cost_us;		/* of a transaction, in CPU time; they too */
	unsigned int chosen;		/* times that it was thought of handing on */
	uint64_t each;			/* bytes before the server closes one */
	unsigned int asked;		/* connections still to accept, 0: for ever */
	int64_t wait_us;		/* for completions; for ever if accepting */
	size_t buffer_bytes;
	struct connection *free;
	struct chunk *chunks;
	io_handle arrivals;		/* the inbox's end to read from */
	int inbox[2];

	/* Others write to it, on its way to the inbox or there */
	_Alignas(CACHE_LINE) atomic_uint handed;
};

static int grow(struct channel_state *s)
{
	const size_t bytes = sizeof(struct connection) + s->buffer_bytes;
	const size_t each = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	const size_t nr = CHUNK_BYTES / each ?: 1;
	struct chunk *chunk = aligned_alloc(CACHE_LINE, sizeof(*chunk) + nr * each);

	if (!chunk)
		return -ENOMEM;
	memset(chunk, 0, sizeof(*chunk) + nr * each);
	chunk->next = s->chunks;
	s->chunks = chunk;
	for (size_t i = 0; i < nr; i++) {
		struct connection *c = (struct connection *)(chunk->connections + i * each);

		c->next = s->free;
		s->free = c;
	}
	return 0;
}

static struct connection *connection_get(struct channel_state *s)
{
	struct connection *c = s->free;

	if (!c && grow(s))
		return NULL;
	c = s->free;
	s->free = c->next;
	c->bytes = 0;
	c->left = s->each;
	c->writing = 0;
	return c;
}

static void add_open(struct channel_state *s, int n)
{
	/* One writer: no need for a locked instruction. */
	atomic_store_explicit(&s->open, atomic_load_explicit(&s->open, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* For ever, or as many as are asked for at a time. */
static void accept_some(struct worker *w)
{
	struct channel_state *s = w->state;

	s->asked = w->options->accept ?: (w->options->shed + 3) / 4;
	s->accepting = !io_accept(&s->io, s->listener, s->asked, w->options->lwsocket);
	s->wait_us = s->accepting ? -1 : RETRY_US;
}

/* The kernel tells the channels' order of CPUs anew: rare, and this thread's alone. */
static COLD int listen_again(struct worker *w)
{
	struct channel_state *s = w->state;
	cpu_set_t mask;
	int err;

	partition_of(w, &mask);
	err = io_listen(&s->io, w->listener, w, w->options->partition ? &mask : NULL,
			&s->listener);
	if (err)
		return err;
	s->shedding = false;
	accept_some(w);
	return 0;
}

/* No accept is pending, and all that it took were told: nothing is lost. */
static COLD void leave_listener(struct worker *w)
{
	struct channel_state *s = w->state;

	s->accepting = false;
	s->shedding = true;
	s->wait_us = -1;
	if (io_drop(&s->io, s->listener) || io_flush(&s->io) ||
	    (!s->open && listen_again(w)))
		count(&w->counters.errors, 1);
}

/* A connection has ended, and no accept is pending. */
static COLD void room_again(struct worker *w)
{
	struct channel_state *s = w->state;

	if (!s->shedding)
		accept_some(w);
	else if (!s->open && listen_again(w))
		count(&w->counters.errors, 1);
}

/* The accept has ended: some were asked for. */
static COLD void accepted_all(struct worker *w)
{
	struct channel_state *s = w->state;
	const int most = w->options->shed;

	count(&w->counters.syscalls, most > 0);
	if (most && io_backlog(&s->io, s->listener) >= most)
		leave_listener(w);
	else
		accept_some(w);
}

/*
 * How long what a thread has will take it, and more connections; any thread may ask.
 * By number alone, a slow thread would keep as many as the others.
 */
static uint64_t load_of(struct channel_state *s, unsigned int more)
{
	uint64_t nr = atomic_load_explicit(&s->open, memory_order_relaxed) +
		      atomic_load_explicit(&s->handed, memory_order_relaxed) + more;

	return nr * atomic_load_explicit(&s->cost_us, memory_order_relaxed);
}

/* What a transaction costs this thread: on average so far, looked at now and then. */
static COLD void know_cost(struct worker *w)
{
	const uint64_t served = atomic_load(&w->counters.transactions);
	struct channel_state *s = w->state;
	struct timespec used;

	if (!served || s->chosen++ % COST_EVERY)
		return;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	count(&w->counters.syscalls, 1);
	atomic_store(&s->cost_us, (used.tv_sec * 1000000 + used.tv_nsec / 1000) / served + 1);
}

/*
 * Give a connection to the thread where it waits least, if that is far less than
 * here. Returns -1, or the connection, by its new name if it was made a descriptor
 * all the same.
 */
static COLD int hand_on(struct worker *w, int socket)
{
	struct channel_state *s = w->state, *heir = s;
	struct worker *first = w - w->index;
	int fd = socket;

	know_cost(w);
	for (unsigned int i = 0; i < w->options->threads; i++)
		if (load_of(first[i].state, 0) < load_of(heir, 0))
			heir = first[i].state;
	if (load_of(s, 0) <= load_of(heir, w->options->hand_on))
		return socket;
	if (fd & MEGAPIPE_HANDLE_LWSOCKET) {
		fd = io_tofd(&s->io, fd);
		count(&w->counters.syscalls, 1);
	}
	if (fd < 0)
		return socket;
	/* First: or a thread would hand all that it has to the same other one. */
	atomic_fetch_add(&heir->handed, 1);
	count(&w->counters.syscalls, 1);
	if (write(heir->inbox[1], &fd, sizeof(fd)) == sizeof(fd))
		return -1;
	atomic_fetch_sub(&heir->handed, 1);
	return fd;
}

/* A connection was just accepted. Returns what is left for this thread, or -1. */
static COLD int choose(struct worker *w, int socket)
{
	struct channel_state *s = w->state;

	if (s->asked && !--s->asked)
		accepted_all(w);
	return w->options->hand_on ? hand_on(w, socket) : socket;
}

/*
 * The memory may serve the next connection at once, even if the kernel still has
 * a read into it: requests run in order, and this close is before any of its.
 */
static void close_connection(struct worker *w, struct connection *c)
{
	struct channel_state *s = w->state;

	if (io_close(&s->io, c->handle))
		count(&w->counters.errors, 1);
	memset(&c->handle, 0, sizeof(c->handle));
	c->next = s->free;
	s->free = c;
	add_open(s, -1);
	if (!s->accepting)
		room_again(w);
}

static void fail_connection(struct worker *w, struct connection *c)
{
	count(&w->counters.errors, 1);
	close_connection(w, c);
}

/* Write the connection's last bytes; when they are written, it is closed. */
static void write_last(struct worker *w, struct connection *c, int n)
{
	struct channel_state *s = w->state;

	if (w->options->fin_with_data ? io_write_more(&s->io, c->handle, c->buffer, n) :
					io_write(&s->io, c->handle, c->buffer, n))
		fail_connection(w, c);
}

/* Write what was read, and read what comes next. */
static void turn(struct worker *w, struct connection *c, int n)
{
	struct channel_state *s = w->state;

	c->writing = n;
	if (__builtin_expect(c->left <= (uint64_t)n, 0)) {
		write_last(w, c, n);
		return;
	}
	c->left -= n;
	if (io_write_then_read(&s->io, c->handle, c->buffer, n, s->buffer_bytes))
		fail_connection(w, c);
}

/* Serve a connection that is counted among the thread's already; inlined: see COLD. */
static inline __attribute__((always_inline)) void begin(struct worker *w, int socket)
{
	struct channel_state *s = w->state;
	struct connection *c = connection_get(s);

	if (!c || io_name(&s->io, socket, c, &c->handle)) {
		count(&w->counters.errors, 1);
		add_open(s, -1);
		if (!(socket & MEGAPIPE_HANDLE_LWSOCKET))
			close(socket);
		return;
	}
	if (io_read(&s->io, c->handle, c->buffer, s->buffer_bytes))
		fail_connection(w, c);
}

static void accepted(struct worker *w, int socket)
{
	struct channel_state *s = w->state;

	if (socket < 0) {
		count(&w->counters.errors, 1);
		s->accepting = false;
		s->wait_us = RETRY_US;
		return;
	}
	count(&w->counters.connections, 1);
	/* An lwsocket is known to the channel: naming it is no system call. */
	count(&w->counters.syscalls, !w->options->lwsocket);
	add_open(s, 1);
	if (__builtin_expect(s->choosy, 0))
		socket = choose(w, socket);
	if (__builtin_expect(socket >= 0, 1))
		begin(w, socket);
	else
		add_open(s, -1);
}

/* The inbox has something. */
static COLD void take_in(struct worker *w)
{
	struct channel_state *s = w->state;
	int fds[INBOX];
	ssize_t bytes = read(s->inbox[0], fds, sizeof(fds));

	count(&w->counters.syscalls, 1);
	know_cost(w);
	for (ssize_t i = 0; i < bytes / (ssize_t)sizeof(fds[0]); i++) {
		add_open(s, 1);
		atomic_fetch_sub(&s->handed, 1);
		count(&w->counters.syscalls, 1);
		begin(w, fds[i]);
	}
	if (io_wait(&s->io, s->arrivals))
		count(&w->counters.errors, 1);
}

/* A poll has ended: returns false for that of stop_fd. */
static COLD bool polled(struct worker *w, const void *cookie)
{
	if (!cookie)
		return false;
	take_in(w);
	return true;
}

static void has_read(struct worker *w, struct connection *c, int n)
{
	if (c->writing) {
		count_bytes(w, &c->bytes, c->writing);
		c->writing = 0;
	}
	if (n < 0)
		fail_connection(w, c);
	else if (n == 0)
		close_connection(w, c);
	else
		turn(w, c, n);
}

/* The last bytes, or not all of those that a read was to follow. */
static void has_written(struct worker *w, struct connection *c, int n)
{
	if (n != c->writing) {
		fail_connection(w, c);
		return;
	}
	count_bytes(w, &c->bytes, n);
	close_connection(w, c);
}

static COLD int open_inbox(struct worker *w)
{
	struct channel_state *s = w->state;
	int err;

	if (pipe2(s->inbox, O_NONBLOCK | O_CLOEXEC) < 0)
		return -errno;
	err = io_listen(&s->io, s->inbox[0], w, NULL, &s->arrivals);
	return err ?: io_wait(&s->io, s->arrivals);
}

/* A channel that waits for stop_fd; state_bytes: channel_state, and what follows it. */
static int server_prepare(struct worker *w, size_t state_bytes)
{
	const struct options *o = w->options;
	struct channel_state *s = aligned_alloc(_Alignof(struct channel_state), state_bytes);
	int err;

	if (!s)
		return -ENOMEM;
	memset(s, 0, state_bytes);
	w->state = s;
	s->buffer_bytes = o->size < BUFFER_BYTES ? o->size : BUFFER_BYTES;
	s->each = bytes_of_connection(o);
	s->choosy = o->accept || o->shed || o->hand_on;
	s->cost_us = 1;
	err = io_open(&s->io, o->batch);
	if (!err)
		err = grow(s);
	if (!err)
		err = io_listen(&s->io, w->stop_fd, NULL, NULL, &s->stop);
	return err ?: io_wait(&s->io, s->stop);
}

static COLD int server_open(struct worker *w)
{
	const struct options *o = w->options;
	struct channel_state *s;
	cpu_set_t mask;
	int err = server_prepare(w, sizeof(*s));

	if (!err && o->hand_on)
		err = open_inbox(w);
	if (err)
		return err;
	s = w->state;
	partition_of(w, &mask);
	err = io_listen(&s->io, w->listener, w, o->partition ? &mask : NULL, &s->listener);
	if (err)
		return err;
	accept_some(w);
	/* Now, not when the thread first waits: the server says that it listens. */
	return s->accepting ? io_flush(&s->io) : -EIO;
}

/*
 * In main's thread: the one call of a channel that is not its owner's. It only
 * reads the kernel's counters.
 */
static void server_refresh(struct worker *w)
{
	struct channel_state *s = w->state;
	uint64_t foreign, dispatches;

	if (io_stats(&s->io, &foreign, &dispatches))
		return;
	atomic_store(&w->counters.foreign_accepts, foreign);
	atomic_store(&w->counters.dispatches, dispatches);
}

static void server_close(struct worker *w)
{
	struct channel_state *s = w->state;
	struct chunk *chunk;

	/* First: until then the kernel may write to the connections' buffers. */
	io_shut(&s->io);
	if (w->options->hand_on) {
		close(s->inbox[0]);
		close(s->inbox[1]);
	}
	while ((chunk = s->chunks)) {
		s->chunks = chunk->next;
		free(chunk);
	}
	free(s);
}

#endif
