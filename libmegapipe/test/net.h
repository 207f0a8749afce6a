/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections for the tests that need the real kernel.  One thread plays both
 * ends, over the loopback device:
 *
 *	client (ordinary socket) <--- TCP ---> connection (handle) - channel
 *
 * Every wait has a deadline, generous enough for an emulated machine; an alarm
 * ends a test that hangs all the same.
 */
#ifndef NET_H
#define NET_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "megapipe.h"
#include "test.h"

#define SECOND		1000000
#define DEADLINE_US	(20 * SECOND)
#define QUIET_US	(SECOND / 5)	/* long enough to believe in silence */
#define WATCHDOG_S	240

struct server {
	struct mp_channel *channel;
	struct sockaddr_storage address;
	socklen_t address_len;
	int listener;
	mp_handle handle;
};

static inline struct mp_channel *new_channel(unsigned int batch)
{
	struct mp_channel *channel;
	int ret = mp_create(&channel);

	if (ret == -ENOENT) {
		printf("# skipped: this kernel has no MegaPipe\n");
		exit(TEST_SKIPPED);
	}
	ASSERT_EQ(ret, 0);
	ASSERT_EQ(mp_set_batch(channel, batch), 0);
	alarm(WATCHDOG_S);
	return channel;
}

/* A listening socket on a free port of the loopback address */
static inline void server_listen(struct server *s, int family, int backlog,
				 int sndbuf)
{
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&s->address;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&s->address;
	int one = 1;

	memset(&s->address, 0, sizeof(s->address));
	s->address.ss_family = (sa_family_t)family;
	if (family == AF_INET6) {
		v6->sin6_addr = in6addr_loopback;
		s->address_len = sizeof(*v6);
	} else {
		v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		s->address_len = sizeof(*v4);
	}
	s->listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT(s->listener >= 0);
	setsockopt(s->listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (sndbuf)
		setsockopt(s->listener, SOL_SOCKET, SO_SNDBUF, &sndbuf,
			   sizeof(sndbuf));
	ASSERT(!bind(s->listener, (struct sockaddr *)&s->address,
		     s->address_len));
	ASSERT(!listen(s->listener, backlog));
	ASSERT(!getsockname(s->listener, (struct sockaddr *)&s->address,
			    &s->address_len));
}

static inline void server_open(struct server *s, int family,
			       unsigned int batch)
{
	s->channel = new_channel(batch);
	server_listen(s, family, 128, 0);
	ASSERT_EQ(mp_register(s->channel, s->listener, s, NULL, &s->handle),
		  0);
}

static inline void server_close(struct server *s)
{
	mp_destroy(s->channel);
	close(s->listener);
}

static inline int client_connect_buf(const struct server *s, int rcvbuf)
{
	struct timeval deadline = { .tv_sec = DEADLINE_US / SECOND };
	int fd = socket(s->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	ASSERT(fd >= 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
	if (rcvbuf)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
	ASSERT(!connect(fd, (const struct sockaddr *)&s->address,
			s->address_len));
	return fd;
}

static inline int client_connect(const struct server *s)
{
	return client_connect_buf(s, 0);
}

/* Close so that the other end gets a reset. */
static inline void client_reset(int fd)
{
	struct linger now = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* Whether the client meets the end of file within the deadline */
static inline bool client_sees_end(int fd)
{
	char byte;

	return read(fd, &byte, 1) == 0;
}

/* The next completion, which must be of this command */
static inline struct mp_event next_event(struct mp_channel *channel,
					 enum mp_command cmd)
{
	struct mp_event event;

	ASSERT_EQ(mp_dispatch(channel, &event, DEADLINE_US), 1);
	ASSERT_EQ(event.cmd, cmd);
	return event;
}

static inline void expect_result(struct mp_channel *channel, mp_handle handle,
				 enum mp_command cmd, int result)
{
	struct mp_event event = next_event(channel, cmd);

	EXPECT_EQ(event.handle.id, handle.id);
	EXPECT_EQ(event.result, result);
}

static inline void expect_silence(struct mp_channel *channel)
{
	struct mp_event event;

	EXPECT_EQ(mp_dispatch(channel, &event, QUIET_US), 0);
}

/* Connect a client, accept it, register what was accepted. */
static inline int client_open(struct server *s, bool is_lwsocket,
			      void *cookie, mp_handle *handle)
{
	int fd = client_connect(s);
	struct mp_event event;

	ASSERT_EQ(mp_accept(s->handle, 1, is_lwsocket), 0);
	event = next_event(s->channel, MP_ACCEPT);
	ASSERT(event.result >= 0);
	EXPECT(event.cookie == s);
	EXPECT_EQ(event.handle.id, s->handle.id);
	ASSERT_EQ(mp_register(s->channel, event.result, cookie, NULL, handle),
		  0);
	return fd;
}

/*
 * A server with one connection of either kind, and its client:
 *
 *	client <--- TCP ---> handle (lwsocket, or descriptor fd)
 */
struct pair {
	struct server s;
	mp_handle h;
	int client;
};

static inline struct pair pair_open(bool is_lwsocket, void *cookie)
{
	struct pair p;

	server_open(&p.s, AF_INET, 64);
	p.client = client_open(&p.s, is_lwsocket, cookie, &p.h);
	return p;
}

/* The same, but accepted and registered by hand; *fd is the descriptor. */
static inline struct pair pair_open_registered(int *fd, void *cookie)
{
	struct pair p;

	server_open(&p.s, AF_INET, 64);
	p.client = client_connect(&p.s);
	*fd = accept(p.s.listener, NULL, NULL);
	ASSERT(*fd >= 0);
	ASSERT_EQ(mp_register(p.s.channel, *fd, cookie, NULL, &p.h), 0);
	return p;
}

static inline void pair_close(struct pair *p)
{
	close(p->client);
	server_close(&p->s);
}

static inline void both_kinds(void (*run)(bool is_lwsocket))
{
	run(true);
	run(false);
}

static inline struct mp_stats stats_of(struct mp_channel *channel)
{
	struct mp_stats stats;

	ASSERT_EQ(mp_stats(channel, &stats), 0);
	return stats;
}

#endif /* NET_H */
