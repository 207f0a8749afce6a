// SPDX-License-Identifier: MIT
/*
 * epoll, the paper's baseline: one listening socket in every thread's epoll
 * instance, level-triggered; a connection stays with the thread that accepted it.
 * reuseport is the same with a listening socket for each thread (SO_REUSEPORT),
 * among which the kernel chooses by the CPU that received the SYN: each has its
 * thread's as SO_INCOMING_CPU, made for this use (commit 70da268b569d, and
 * b261eda84ec1, since which it counts again among the listeners of one port). A
 * classic BPF program (SO_ATTACH_REUSEPORT_CBPF) could choose as well, by running
 * for every SYN.
 *
 * Level-triggered: a message is one recv(), and trying again until EAGAIN, as
 * edge-triggered use must (epoll(7)), would be one more for each message. recv(),
 * not read(), which reaches the socket through the layer of files.
 * EPOLLEXCLUSIVE is younger than the paper's baseline, and with a listener for
 * each thread there is nobody to exclude.
 *
 * One accept4() for each time the listener is reported: trying until EAGAIN would
 * make and throw away a socket every time, and cost this interface more.
 */
#include "api.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS		256
#define CHUNK		256		/* connections allocated at a time */
#define RETRY_MS	50		/* when out of descriptors */

struct connection {
	struct connection *next;	/* while free */
	int fd;
	uint64_t bytes;			/* of the current message, echoed */
	uint64_t left;			/* to be read before the server closes it */
	unsigned char *pending;		/* read, not yet written; or NULL */
	size_t pending_from, pending_to;
};

struct chunk {
	struct chunk *next;
	struct connection connections[CHUNK];
};

struct epoll_state {
	int epoll;
	bool accepting;			/* the listener is in the epoll instance */
	struct connection *free;
	struct chunk *chunks;
	unsigned char buffer[BUFFER_BYTES];
};

static int watch(struct worker *w, int op, int fd, uint32_t events, void *data)
{
	struct epoll_state *s = w->state;
	struct epoll_event event = { .events = events, .data.ptr = data };

	count(&w->counters.syscalls, 1);
	return epoll_ctl(s->epoll, op, fd, &event) < 0 ? -errno : 0;
}

static int grow(struct epoll_state *s)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));

	if (!chunk)
		return -ENOMEM;
	chunk->next = s->chunks;
	s->chunks = chunk;
	for (int i = 0; i < CHUNK; i++) {
		chunk->connections[i].next = s->free;
		s->free = &chunk->connections[i];
	}
	return 0;
}

static struct connection *connection_get(struct epoll_state *s)
{
	struct connection *c;

	if (!s->free && grow(s))
		return NULL;
	c = s->free;
	s->free = c->next;
	return c;
}

static void connection_put(struct epoll_state *s, struct connection *c)
{
	free(c->pending);
	c->pending = NULL;
	c->next = s->free;
	s->free = c;
}

static void resume_accepting(struct worker *w)
{
	struct epoll_state *s = w->state;

	if (!s->accepting)
		s->accepting = !watch(w, EPOLL_CTL_ADD, w->listener, EPOLLIN, w);
}

static void close_connection(struct worker *w, struct connection *c)
{
	close(c->fd);
	count(&w->counters.syscalls, 1);
	connection_put(w->state, c);
	resume_accepting(w);
}

static void fail_connection(struct worker *w, struct connection *c)
{
	count(&w->counters.errors, 1);
	close_connection(w, c);
}

static void count_if_foreign(struct worker *w, int fd)
{
	int cpu;
	socklen_t len = sizeof(cpu);

	count(&w->counters.syscalls, 1);
	if (getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len) == 0 && cpu != w->cpu)
		count(&w->counters.foreign_accepts, 1);
}

/*
 * Out of descriptors, and level-triggered: the listener would be reported for
 * ever. Leave it alone until a connection closes, or for a quiet while.
 */
static void stop_accepting(struct worker *w)
{
	struct epoll_state *s = w->state;

	count(&w->counters.errors, 1);
	if (!watch(w, EPOLL_CTL_DEL, w->listener, 0, NULL))
		s->accepting = false;
}

static void accept_one(struct worker *w)
{
	struct connection *c;
	int fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	count(&w->counters.syscalls, 1);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			stop_accepting(w);
		else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			count(&w->counters.errors, 1);
		return;
	}
	count(&w->counters.connections, 1);
	if (w->options->count_foreign)
		count_if_foreign(w, fd);
	c = connection_get(w->state);
	if (!c) {
		count(&w->counters.errors, 1);
		close(fd);
		return;
	}
	c->fd = fd;
	c->bytes = 0;
	c->left = bytes_of_connection(w->options);
	if (watch(w, EPOLL_CTL_ADD, fd, EPOLLIN, c))
		fail_connection(w, c);
}

/* Writes what it can; returns how much, or -errno. */
static ssize_t write_some(struct worker *w, struct connection *c, const unsigned char *bytes,
			  size_t len)
{
	const int more = c->left == 0 && w->options->fin_with_data ? MSG_MORE : 0;
	size_t done = 0;

	while (done < len) {
		ssize_t n = send(c->fd, bytes + done, len - done, MSG_NOSIGNAL | more);

		count(&w->counters.syscalls, 1);
		if (n >= 0)
			done += n;
		else if (errno == EAGAIN)
			break;
		else if (errno != EINTR)
			return -errno;
	}
	count_bytes(w, &c->bytes, done);
	return done;
}

/* The client does not take it: keep the rest, and read no more until it does. */
static void defer(struct worker *w, struct connection *c, const unsigned char *rest, size_t len)
{
	c->pending = malloc(len);
	if (!c->pending || watch(w, EPOLL_CTL_MOD, c->fd, EPOLLOUT, c)) {
		fail_connection(w, c);
		return;
	}
	memcpy(c->pending, rest, len);
	c->pending_from = 0;
	c->pending_to = len;
}

static void write_deferred(struct worker *w, struct connection *c)
{
	ssize_t n = write_some(w, c, c->pending + c->pending_from,
			       c->pending_to - c->pending_from);

	if (n < 0) {
		fail_connection(w, c);
		return;
	}
	c->pending_from += n;
	if (c->pending_from < c->pending_to)
		return;
	free(c->pending);
	c->pending = NULL;
	if (c->left == 0)
		close_connection(w, c);
	else if (watch(w, EPOLL_CTL_MOD, c->fd, EPOLLIN, c))
		fail_connection(w, c);
}

static void echo(struct worker *w, struct connection *c)
{
	struct epoll_state *s = w->state;
	ssize_t n = recv(c->fd, s->buffer, sizeof(s->buffer), 0), written;

	count(&w->counters.syscalls, 1);
	if (n == 0) {
		close_connection(w, c);
		return;
	}
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			fail_connection(w, c);
		return;
	}
	c->left -= (uint64_t)n < c->left ? (uint64_t)n : c->left;
	written = write_some(w, c, s->buffer, n);
	if (written < 0)
		fail_connection(w, c);
	else if (written < n)
		defer(w, c, s->buffer + written, n - written);
	else if (c->left == 0)
		close_connection(w, c);
}

static int epoll_open(struct worker *w)
{
	struct epoll_state *s = alloc_touched(sizeof(*s));

	if (!s)
		return -ENOMEM;
	w->state = s;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll < 0)
		return -errno;
	/* A connection is a pointer; these two are told apart from it. */
	s->accepting = true;
	return watch(w, EPOLL_CTL_ADD, w->listener, EPOLLIN, w) ?:
	       watch(w, EPOLL_CTL_ADD, w->stop_fd, EPOLLIN, NULL);
}

static void epoll_run(struct worker *w)
{
	struct epoll_state *s = w->state;
	struct epoll_event events[EVENTS];

	for (;;) {
		int n = epoll_wait(s->epoll, events, EVENTS, s->accepting ? -1 : RETRY_MS);

		count(&w->counters.syscalls, 1);
		for (int i = 0; i < n; i++) {
			struct connection *c = events[i].data.ptr;

			if (!c)
				return;
			if (events[i].data.ptr == w)
				accept_one(w);
			else if (c->pending)
				write_deferred(w, c);
			else
				echo(w, c);
		}
		if (n == 0)
			resume_accepting(w);
	}
}

static void epoll_close(struct worker *w)
{
	struct epoll_state *s = w->state;
	struct chunk *chunk;

	while ((chunk = s->chunks)) {
		s->chunks = chunk->next;
		for (int i = 0; i < CHUNK; i++)
			free(chunk->connections[i].pending);
		free(chunk);
	}
	close(s->epoll);
	free(s);
}

const struct api api_epoll = {
	.name = "epoll",
	.open = epoll_open,
	.run = epoll_run,
	.close = epoll_close,
};

const struct api api_reuseport = {
	.name = "reuseport",
	.own_listeners = true,
	.open = epoll_open,
	.run = epoll_run,
	.close = epoll_close,
};
