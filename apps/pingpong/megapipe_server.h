/* SPDX-License-Identifier: MIT */
/*
 * The ping-pong over MegaPipe, whole but for how a request is made and where
 * completions come from: libmegapipe in api_megapipe.c, ioctl()s by hand in
 * api_megapipe_raw.c. So the two differ in nothing else, and what the library
 * costs is the difference. Each of them defines before it includes this:
 *
 *	struct io, io_handle	a channel; a socket in it
 *	io_open(), io_shut()	the channel
 *	io_listen()		register the listener, or stop_fd
 *	io_name()		register what was accepted
 *	io_accept(), io_read(), io_write(), io_close(), io_wait(), io_flush()
 *	io_write_more()		the FIN may go with it: the close comes next
 *	io_drop()		unregister
 *	io_backlog()		connections that wait to be accepted, or -errno
 *	io_stats()		what the kernel has counted
 *
 * A connection has two buffers, so that the next read goes out together with the
 * write of what was read before:
 *
 *	read completes (A)  -> write A, read into B
 *	read completes (B)  -> write B, read into A
 *
 * and if a read completes before the write of the other buffer did, it is held
 * until then: at most one write is under way, and the order is the client's.
 *
 * With --shed N a thread that cannot keep up does not let connections wait for it.
 * It accepts a quarter of N at a time, so that others may still have the rest, and
 * asks after the last how many wait in its partition: if N do, it drops the
 * listener, and the kernel gives those that wait to the other channels, and new
 * ones too. When the thread has served the connections it has, it takes its
 * partition again.
 */
#ifndef PINGPONG_MEGAPIPE_SERVER_H
#define PINGPONG_MEGAPIPE_SERVER_H

#define CHUNK_BYTES	(1 << 20)	/* of connections allocated at a time */
#define RETRY_US	50000		/* when out of handles */
#define CACHE_LINE	64

struct connection {
	struct connection *next;	/* while free */
	io_handle handle;
	uint64_t bytes;			/* of the current message, echoed */
	uint64_t left;			/* to be written before the server closes it */
	unsigned int reading;		/* buffer 0 or 1 that is read into */
	int writing;			/* bytes under way; 0 = no write is */
	int held;			/* bytes read, to be written next */
	bool ended;			/* to be closed when the write under way is done */
	unsigned char buffers[];	/* two */
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
	unsigned int open;		/* connections */
	uint64_t each;			/* bytes before the server closes one */
	unsigned int asked;		/* connections still to accept, 0: for ever */
	int64_t wait_us;		/* for completions; for ever if accepting */
	size_t buffer_bytes;
	struct connection *free;
	struct chunk *chunks;
};

static unsigned char *buffer(const struct channel_state *s, struct connection *c,
			     unsigned int which)
{
	return c->buffers + which * s->buffer_bytes;
}

static int grow(struct channel_state *s)
{
	const size_t bytes = sizeof(struct connection) + 2 * s->buffer_bytes;
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
	c->reading = 0;
	c->writing = 0;
	c->held = 0;
	c->ended = false;
	return c;
}

/* For ever, or as many at a time as may wait. */
static void accept_some(struct worker *w)
{
	struct channel_state *s = w->state;

	s->asked = (w->options->shed + 3) / 4;
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
	int waiting = io_backlog(&s->io, s->listener);

	count(&w->counters.syscalls, 1);
	if (waiting >= (int)w->options->shed)
		leave_listener(w);
	else
		accept_some(w);
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
	s->open--;
	if (!s->accepting)
		room_again(w);
}

static void fail_connection(struct worker *w, struct connection *c)
{
	count(&w->counters.errors, 1);
	close_connection(w, c);
}

/* Write the connection's last bytes; when they are written, it is closed. */
static void write_last(struct worker *w, struct connection *c, const unsigned char *full, int n)
{
	struct channel_state *s = w->state;

	c->ended = true;
	if (w->options->fin_with_data ? io_write_more(&s->io, c->handle, full, n) :
					io_write(&s->io, c->handle, full, n))
		fail_connection(w, c);
}

/* Write the buffer that was read into, and read into the other. */
static void turn(struct worker *w, struct connection *c, int n)
{
	struct channel_state *s = w->state;
	const unsigned char *full = buffer(s, c, c->reading);
	const io_handle handle = c->handle;

	c->writing = n;
	c->held = 0;
	c->reading = !c->reading;
	if (__builtin_expect(c->left <= (uint64_t)n, 0)) {
		write_last(w, c, full, n);
		return;
	}
	c->left -= n;
	if (io_write(&s->io, handle, full, n) ||
	    io_read(&s->io, handle, buffer(s, c, c->reading), s->buffer_bytes))
		fail_connection(w, c);
}

static void accepted(struct worker *w, int socket)
{
	struct channel_state *s = w->state;
	struct connection *c;

	if (socket < 0) {
		count(&w->counters.errors, 1);
		s->accepting = false;
		s->wait_us = RETRY_US;
		return;
	}
	count(&w->counters.connections, 1);
	/* An lwsocket is known to the channel: naming it is no system call. */
	count(&w->counters.syscalls, !w->options->lwsocket);
	s->open++;
	if (s->asked && !--s->asked)
		accepted_all(w);
	c = connection_get(s);
	if (!c || io_name(&s->io, socket, c, &c->handle)) {
		count(&w->counters.errors, 1);
		s->open--;
		if (!w->options->lwsocket)
			close(socket);
		return;
	}
	if (io_read(&s->io, c->handle, buffer(s, c, c->reading), s->buffer_bytes))
		fail_connection(w, c);
}

static void has_read(struct worker *w, struct connection *c, int n)
{
	if (n < 0)
		fail_connection(w, c);
	else if (n == 0 && c->writing)
		c->ended = true;
	else if (n == 0)
		close_connection(w, c);
	else if (c->writing)
		c->held = n;
	else
		turn(w, c, n);
}

static void has_written(struct worker *w, struct connection *c, int n)
{
	if (n != c->writing) {
		fail_connection(w, c);
		return;
	}
	count_bytes(w, &c->bytes, n);
	c->writing = 0;
	if (c->ended)
		close_connection(w, c);
	else if (c->held)
		turn(w, c, c->held);
}

static int server_open(struct worker *w)
{
	const struct options *o = w->options;
	struct channel_state *s = calloc(1, sizeof(*s));
	cpu_set_t mask;
	int err;

	if (!s)
		return -ENOMEM;
	w->state = s;
	s->buffer_bytes = o->size < BUFFER_BYTES ? o->size : BUFFER_BYTES;
	s->each = bytes_of_connection(o);
	partition_of(w, &mask);
	err = io_open(&s->io, o->batch);
	if (!err)
		err = grow(s);
	if (!err)
		err = io_listen(&s->io, w->listener, w, o->partition ? &mask : NULL,
				&s->listener);
	if (!err)
		err = io_listen(&s->io, w->stop_fd, NULL, NULL, &s->stop);
	if (!err)
		err = io_wait(&s->io, s->stop);
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
	while ((chunk = s->chunks)) {
		s->chunks = chunk->next;
		free(chunk);
	}
	free(s);
}

#endif
