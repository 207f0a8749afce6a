// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accepting, from every kind of listening socket.
 *
 *	clients ----> listening socket ----> channel(s): descriptors, lwsockets
 */
#include <linux/net_tstamp.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "megapipe_test.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP	262
#endif
#define CLIENTS		3

FIXTURE(acc)
{
	int channel;
	int fd;
	int listener;
	struct mp_addr addr;
	int clients[CLIENTS];
	struct rlimit limit;
};

FIXTURE_VARIANT(acc)
{
	int family;
	int type;
	int protocol;
	bool lwsockets;		/* that is what becomes of the connections */
	bool backlog;		/* is known */
};

FIXTURE_VARIANT_ADD(acc, tcp4)
{
	.family = AF_INET,
	.type = SOCK_STREAM,
	.lwsockets = true,
	.backlog = true,
};

FIXTURE_VARIANT_ADD(acc, tcp6)
{
	.family = AF_INET6,
	.type = SOCK_STREAM,
	.lwsockets = true,
	.backlog = true,
};

FIXTURE_VARIANT_ADD(acc, unix_stream)
{
	.family = AF_UNIX,
	.type = SOCK_STREAM,
	.backlog = true,
};

FIXTURE_VARIANT_ADD(acc, unix_seqpacket)
{
	.family = AF_UNIX,
	.type = SOCK_SEQPACKET,
	.backlog = true,
};

FIXTURE_VARIANT_ADD(acc, mptcp4)
{
	.family = AF_INET,
	.type = SOCK_STREAM,
	.protocol = IPPROTO_MPTCP,
};

FIXTURE_VARIANT_ADD(acc, mptcp6)
{
	.family = AF_INET6,
	.type = SOCK_STREAM,
	.protocol = IPPROTO_MPTCP,
};

FIXTURE_SETUP(acc)
{
	int i;

	for (i = 0; i < CLIENTS; i++)
		self->clients[i] = -1;
	self->channel = mp_open();
	self->fd = socket(variant->family, variant->type | SOCK_CLOEXEC,
			  variant->protocol);
	if (self->fd < 0)
		SKIP(return, "no such sockets in this kernel");
	self->addr = mp_loopback(variant->family);
	mp_must(bind(self->fd, &self->addr.sa, self->addr.len));
	mp_getsockname(self->fd, &self->addr);
	mp_must(listen(self->fd, 16));
	self->listener = mp_register(self->channel, self->fd, 7);
	ASSERT_GT(self->listener, 0);
	mp_must(getrlimit(RLIMIT_NOFILE, &self->limit));
}

FIXTURE_TEARDOWN(acc)
{
	int i;

	for (i = 0; i < CLIENTS; i++)
		close(self->clients[i]);
	close(self->fd);
	close(self->channel);
}

static int connect_to(int type, int protocol, const struct mp_addr *addr)
{
	int fd = mp_must(socket(addr->sa.sa_family, type | SOCK_CLOEXEC,
				protocol));
	struct timeval deadline = { .tv_sec = 60 };

	mp_must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline,
			   sizeof(deadline)));
	mp_must(connect(fd, &addr->sa, addr->len));
	return fd;
}

/* Client i connects, and sends its number. */
static void connect_all(FIXTURE_DATA(acc) * self,
			const FIXTURE_VARIANT(acc) * variant)
{
	char number;
	int i;

	for (i = 0; i < CLIENTS; i++) {
		self->clients[i] = connect_to(variant->type, variant->protocol,
					      &self->addr);
		number = i;
		mp_write_all(self->clients[i], &number, 1);
	}
}

/* Who is at the other end of an accepted connection? */
static int who(int channel, const struct megapipe_event *event)
{
	struct megapipe_event read;
	char number;
	int handle = event->res;

	if (event->flags & MEGAPIPE_EVENT_FD)
		handle = mp_register(channel, event->res, 0);
	if (handle < 0)
		mp_die("register %d: %d", event->res, handle);
	read = mp_run(channel, mp_cmd_read(handle, &number, 1));
	if (read.res != 1)
		mp_die("read: %d", read.res);
	mp_submit(channel, mp_cmd_close(handle));
	return number;
}

/* Accepted connections, in order: client i must be at the other end. */
static void expect_all(struct __test_metadata *_metadata, int channel, int first,
		       int nr)
{
	struct megapipe_event events[64];
	int i;

	for (i = 0; i < nr; i++) {
		events[i] = mp_wait(channel);
		ASSERT_EQ(events[i].op, MEGAPIPE_OP_ACCEPT);
		ASSERT_GE(events[i].res, 0);
	}
	for (i = 0; i < nr; i++)
		EXPECT_EQ(who(channel, &events[i]), first + i);
}

/* Room for @room more descriptors */
static void limit_files(const struct rlimit *limit, int room)
{
	struct rlimit lower = *limit;
	int fd = mp_must(open("/dev/null", O_RDONLY));

	close(fd);
	lower.rlim_cur = fd + room;
	mp_must(setrlimit(RLIMIT_NOFILE, &lower));
}

TEST_F(acc, count__ends_the_command)
{
	struct megapipe_event events[CLIENTS];
	int i;

	connect_all(self, variant);
	mp_submit(self->channel, mp_cmd_accept(self->listener, CLIENTS, 0));
	for (i = 0; i < CLIENTS; i++) {
		events[i] = mp_wait(self->channel);
		EXPECT_EQ(events[i].op, MEGAPIPE_OP_ACCEPT);
		EXPECT_EQ(events[i].handle, self->listener);
		EXPECT_EQ(events[i].cookie, 7);
		ASSERT_GE(events[i].res, 0);
		/* Another one to come, but not after the last */
		EXPECT_EQ(events[i].flags, MEGAPIPE_EVENT_FD |
			  (i < CLIENTS - 1 ? MEGAPIPE_EVENT_MORE : 0));
		EXPECT_EQ(events[i].aux,
			  variant->backlog ? CLIENTS - 1 - i : 0);
		EXPECT_TRUE(fcntl(events[i].res, F_GETFD) & FD_CLOEXEC);
		EXPECT_TRUE(fcntl(events[i].res, F_GETFL) & O_NONBLOCK);
	}
	for (i = 0; i < CLIENTS; i++)
		EXPECT_EQ(who(self->channel, &events[i]), i);
	EXPECT_EQ(mp_stats(self->channel).accepts, CLIENTS);
	EXPECT_TRUE(mp_quiet(self->channel));
}

TEST_F(acc, forever__until_cancelled)
{
	struct megapipe_event event;
	int i;

	mp_submit(self->channel, mp_cmd_accept(self->listener, 0, 0));
	EXPECT_TRUE(mp_quiet(self->channel));
	for (i = 0; i < CLIENTS; i++) {
		self->clients[i] = connect_to(variant->type, variant->protocol,
					      &self->addr);
		event = mp_wait(self->channel);
		ASSERT_GE(event.res, 0);
		EXPECT_EQ(event.flags, MEGAPIPE_EVENT_FD | MEGAPIPE_EVENT_MORE);
		close(event.res);
	}
	mp_submit(self->channel, mp_cmd_cancel(self->listener));
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_ACCEPT);
	EXPECT_EQ(event.res, -ECANCELED);
	EXPECT_EQ(event.flags, 0);
}

/* A descriptor where an lwsocket cannot be, and the completion says so */
TEST_F(acc, lwsocket__or_a_descriptor)
{
	struct megapipe_event events[CLIENTS];
	int i;

	connect_all(self, variant);
	mp_submit(self->channel, mp_cmd_accept(self->listener, CLIENTS,
					       MEGAPIPE_CMD_LWSOCKET));
	for (i = 0; i < CLIENTS; i++) {
		events[i] = mp_wait(self->channel);
		ASSERT_GE(events[i].res, 0);
		EXPECT_EQ(!(events[i].flags & MEGAPIPE_EVENT_FD),
			  variant->lwsockets);
		EXPECT_EQ(!!(events[i].res & MEGAPIPE_HANDLE_LWSOCKET),
			  variant->lwsockets);
		EXPECT_EQ(!!(events[i].flags & MEGAPIPE_EVENT_MORE),
			  i < CLIENTS - 1);
	}
	for (i = 0; i < CLIENTS; i++)
		EXPECT_EQ(who(self->channel, &events[i]), i);
	EXPECT_EQ(mp_stats(self->channel).lwsockets, 0);
}

TEST_F(acc, start__checks_its_arguments)
{
	struct megapipe_event event;
	struct megapipe_cmd cmd;

	cmd = mp_cmd_accept(self->listener, 1, 0);
	cmd.addr = 1;
	event = mp_run(self->channel, cmd);
	EXPECT_EQ(event.res, -EINVAL);
	cmd = mp_cmd_accept(self->listener, 1, 0);
	cmd.arg = 1;
	event = mp_run(self->channel, cmd);
	EXPECT_EQ(event.res, -EINVAL);
	cmd = mp_cmd_accept(self->listener, 1, 0);
	cmd.aux = 1;
	event = mp_run(self->channel, cmd);
	EXPECT_EQ(event.res, -EINVAL);
	cmd = mp_cmd_accept(self->listener, 1, 1 << 7);
	event = mp_run(self->channel, cmd);
	EXPECT_EQ(event.res, -EINVAL);

	mp_submit(self->channel, mp_cmd_accept(self->listener, 1, 0));
	event = mp_run(self->channel, mp_cmd_accept(self->listener, 1, 0));
	EXPECT_EQ(event.res, -EBUSY);
	/* An accept queue has nothing to read. */
	event = mp_run(self->channel, mp_cmd_read(self->listener, &cmd, 1));
	EXPECT_EQ(event.res, -EOPNOTSUPP);
}

/*
 * No descriptor left: one completion, and no connection is lost.
 */
TEST_F(acc, limit__leaves_connections_in_the_queue)
{
	struct megapipe_listener look;
	struct megapipe_event event;

	connect_all(self, variant);
	/* As the completions say, each protocol where it counts them */
	ASSERT_EQ(mp_listener(self->channel, self->listener, &look), 0);
	EXPECT_EQ(look.queued, variant->backlog ? CLIENTS : 0);
	limit_files(&self->limit, 0);
	event = mp_run(self->channel, mp_cmd_accept(self->listener, 0, 0));
	EXPECT_EQ(event.op, MEGAPIPE_OP_ACCEPT);
	EXPECT_EQ(event.res, -EMFILE);
	EXPECT_EQ(event.flags, 0);
	EXPECT_EQ(event.aux, variant->backlog ? CLIENTS : 0);
	EXPECT_TRUE(mp_quiet(self->channel));
	/* The command has ended: a new one is not "busy", but fails too. */
	event = mp_run(self->channel, mp_cmd_accept(self->listener, 0, 0));
	EXPECT_EQ(event.res, -EMFILE);

	mp_must(setrlimit(RLIMIT_NOFILE, &self->limit));
	mp_submit(self->channel, mp_cmd_accept(self->listener, CLIENTS, 0));
	expect_all(_metadata, self->channel, 0, CLIENTS);
}

TEST_F(acc, shutdown__ends_the_command)
{
	struct megapipe_event event;

	mp_submit(self->channel, mp_cmd_accept(self->listener, 0, 0));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_must(shutdown(self->fd, SHUT_RDWR));
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_ACCEPT);
	EXPECT_EQ(event.res, -EINVAL);
	EXPECT_EQ(event.flags, 0);
	event = mp_run(self->channel, mp_cmd_accept(self->listener, 0, 0));
	EXPECT_EQ(event.res, -EINVAL);
}

/*
 * Several channels at one queue
 *
 *	client ----> listening socket --+--> channel
 *	                                +--> other
 */

TEST_F(acc, shared__one_connection_is_one_completion)
{
	int other = mp_open(), handle;
	struct pollfd ready[2] = {
		{ .fd = self->channel, .events = POLLIN },
		{ .fd = other, .events = POLLIN },
	};
	struct megapipe_event event;

	handle = mp_register(other, self->fd, 8);
	ASSERT_GT(handle, 0);
	mp_submit(self->channel, mp_cmd_accept(self->listener, 0, 0));
	mp_submit(other, mp_cmd_accept(handle, 0, 0));

	self->clients[0] = connect_to(variant->type, variant->protocol,
				      &self->addr);
	/* Only one of them has been woken. */
	EXPECT_EQ(poll(ready, 2, 0), 1);
	event = mp_wait(ready[0].revents ? self->channel : other);
	EXPECT_GE(event.res, 0);
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_TRUE(mp_quiet(other));
	close(event.res);
	close(other);
}

TEST_F(acc, shared__who_does_not_accept_is_not_woken)
{
	int other = mp_open(), handle;

	handle = mp_register(other, self->fd, 8);
	ASSERT_GT(handle, 0);
	mp_submit(other, mp_cmd_accept(handle, 0, 0));
	connect_all(self, variant);
	expect_all(_metadata, other, 0, CLIENTS);
	EXPECT_TRUE(mp_quiet(self->channel));
	close(other);
}

/* One takes what it wants; the wake-up for the rest goes to the other. */
TEST_F(acc, shared__wake_ups_are_passed_on)
{
	int other = mp_open(), handle;
	struct pollfd ready = { .fd = other, .events = POLLIN };
	struct megapipe_event event;

	handle = mp_register(other, self->fd, 8);
	ASSERT_GT(handle, 0);
	connect_all(self, variant);
	/* These find the queue not empty, so nobody will wake them. */
	event = mp_run(self->channel, mp_cmd_accept(self->listener, 1, 0));
	EXPECT_EQ(who(self->channel, &event), 0);
	event = mp_run(other, mp_cmd_accept(handle, 1, 0));
	EXPECT_EQ(who(other, &event), 1);
	event = mp_run(self->channel, mp_cmd_accept(self->listener, 1, 0));
	EXPECT_EQ(who(self->channel, &event), 2);

	/* Both wait; the first is woken, and leaves without looking. */
	mp_submit(self->channel, mp_cmd_accept(self->listener, 0, 0));
	mp_submit(other, mp_cmd_accept(handle, 0, 0));
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_TRUE(mp_quiet(other));
	close(self->clients[0]);
	self->clients[0] = connect_to(variant->type, variant->protocol,
				      &self->addr);
	if (!poll(&ready, 1, 0)) {
		close(self->channel);
		self->channel = -1;
		EXPECT_EQ(poll(&ready, 1, 60000), 1);
		event = mp_wait(other);
	} else {
		close(other);
		other = -1;
		event = mp_wait(self->channel);
	}
	EXPECT_GE(event.res, 0);
	close(event.res);
	close(other);
}

/*
 * A descriptor is made in the table of the thread that dispatches.
 */
static void *dispatch_apart(void *arg)
{
	FIXTURE_DATA(acc) * self = arg;
	struct megapipe_event event;

	mp_must(unshare(CLONE_FILES));
	event = mp_wait(self->channel);
	if (event.res < 0 || fcntl(event.res, F_GETFD) < 0)
		mp_die("accepted %d", event.res);
	return (void *)(long)event.res;
}

TEST_F(acc, descriptor__is_the_callers)
{
	pthread_t thread;
	void *fd;

	self->clients[0] = connect_to(variant->type, variant->protocol,
				      &self->addr);
	mp_submit(self->channel, mp_cmd_accept(self->listener, 1, 0));
	/* From here on the tables differ, and this thread opens nothing. */
	ASSERT_EQ(pthread_create(&thread, NULL, dispatch_apart, self), 0);
	pthread_join(thread, &fd);
	EXPECT_EQ(fcntl((long)fd, F_GETFD), -1);
	EXPECT_EQ(errno, EBADF);
}

TEST_F(acc, partition__is_for_tcp)
{
	int channel = mp_open(), handle;

	handle = mp_register_cpu(channel, self->fd, 0, 0);
	EXPECT_EQ(handle > 0 ? 0 : handle,
		  variant->lwsockets ? 0 : -EOPNOTSUPP);
	close(channel);
}

/*
 * lwsockets
 */

/* As many handles as the opener may have files, and the listener is one. */
TEST(lwsocket__limit_leaves_connections_in_the_queue)
{
	struct rlimit limit, few = { .rlim_cur = 32 };
	int fd, channel, listener, i, n = 40;
	int clients[40], handles[40];
	struct megapipe_event event;
	struct mp_addr addr;
	char number;

	fd = mp_listen(AF_INET, 64, &addr);
	mp_must(getrlimit(RLIMIT_NOFILE, &limit));
	few.rlim_max = limit.rlim_max;
	mp_must(setrlimit(RLIMIT_NOFILE, &few));
	channel = mp_open();
	mp_must(setrlimit(RLIMIT_NOFILE, &limit));
	ASSERT_EQ(mp_info(channel).max_handles, 32);
	listener = mp_register(channel, fd, 0);
	ASSERT_GT(listener, 0);
	for (i = 0; i < n; i++) {
		clients[i] = mp_connect(&addr);
		number = i;
		mp_write_all(clients[i], &number, 1);
	}

	mp_submit(channel, mp_cmd_accept(listener, 0, MEGAPIPE_CMD_LWSOCKET));
	for (i = 0; i < 31; i++) {
		event = mp_wait(channel);
		ASSERT_GE(event.res, 0);
		EXPECT_TRUE(event.flags & MEGAPIPE_EVENT_MORE);
		EXPECT_EQ(event.aux, n - 1 - i);
		handles[i] = event.res;
	}
	event = mp_wait(channel);
	EXPECT_EQ(event.res, -EMFILE);
	EXPECT_EQ(event.flags, 0);
	EXPECT_EQ(event.aux, n - 31);
	EXPECT_TRUE(mp_quiet(channel));

	/* Those that waited are the first when there is room again. */
	for (i = 0; i < 31; i++)
		mp_submit(channel, mp_cmd_close(handles[i]));
	mp_submit(channel, mp_cmd_accept(listener, n - 31,
					 MEGAPIPE_CMD_LWSOCKET));
	expect_all(_metadata, channel, 31, n - 31);
	for (i = 0; i < n; i++)
		close(clients[i]);
	close(channel);
	close(fd);
}

/*
 * Connections that report sent packets in the error queue are not eligible, and
 * what is not eligible is a descriptor, or waits for one.
 */
TEST(lwsocket__not_eligible_and_no_descriptor)
{
	int flags = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
	int fd, channel = mp_open(), listener, client, i;
	struct megapipe_event event;
	struct rlimit limit;
	struct mp_addr addr;
	char number = 5;

	fd = mp_listen(AF_INET, 16, &addr);
	mp_must(setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags,
			   sizeof(flags)));
	listener = mp_register(channel, fd, 0);
	client = mp_connect(&addr);
	mp_write_all(client, &number, 1);

	mp_must(getrlimit(RLIMIT_NOFILE, &limit));
	limit_files(&limit, 0);
	for (i = 0; i < 3; i++) {
		event = mp_run(channel, mp_cmd_accept(listener, 0,
						      MEGAPIPE_CMD_LWSOCKET));
		EXPECT_EQ(event.res, -EMFILE);
		EXPECT_EQ(event.flags, 0);
		EXPECT_EQ(event.aux, 1);
	}
	mp_must(setrlimit(RLIMIT_NOFILE, &limit));
	event = mp_run(channel, mp_cmd_accept(listener, 1,
					      MEGAPIPE_CMD_LWSOCKET));
	EXPECT_EQ(event.flags, MEGAPIPE_EVENT_FD);
	EXPECT_EQ(who(channel, &event), 5);
	EXPECT_EQ(mp_stats(channel).lwsockets, 0);
	close(client);
	close(channel);
	close(fd);
}

/* Data, an end and a reset that came before the accept */
TEST(lwsocket__of_what_has_happened_before)
{
	struct linger linger = { .l_onoff = 1 };
	int fd, channel = mp_open(), listener, client, lw[3], i;
	struct megapipe_event event;
	struct mp_addr addr;
	char buf[8];

	fd = mp_listen(AF_INET, 16, &addr);
	listener = mp_register(channel, fd, 0);
	client = mp_connect(&addr);
	mp_write_all(client, "data", 4);
	close(client);
	client = mp_connect(&addr);
	close(client);
	client = mp_connect(&addr);
	mp_must(setsockopt(client, SOL_SOCKET, SO_LINGER, &linger,
			   sizeof(linger)));
	close(client);
	for (i = 0; i < 3; i++) {
		event = mp_run(channel, mp_cmd_accept(listener, 1,
						      MEGAPIPE_CMD_LWSOCKET));
		lw[i] = event.res;
		ASSERT_GT(lw[i], 0);
	}
	event = mp_run(channel, mp_cmd_read(lw[0], buf, sizeof(buf)));
	EXPECT_EQ(event.res, 4);
	event = mp_run(channel, mp_cmd_read(lw[0], buf, sizeof(buf)));
	EXPECT_EQ(event.res, 0);
	event = mp_run(channel, mp_cmd_read(lw[1], buf, sizeof(buf)));
	EXPECT_EQ(event.res, 0);
	event = mp_run(channel, mp_cmd_read(lw[2], buf, sizeof(buf)));
	EXPECT_EQ(event.res, -ECONNRESET);
	close(channel);
	close(fd);
}

/* An MPTCP listener also gets clients without MPTCP: descriptors too. */
TEST(mptcp__falls_back)
{
	int fd, channel = mp_open(), listener, client;
	struct mp_addr addr = mp_loopback(AF_INET);
	struct megapipe_event event;
	char number = 9;

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);
	if (fd < 0)
		SKIP(return, "no MPTCP in this kernel");
	mp_must(bind(fd, &addr.sa, addr.len));
	mp_getsockname(fd, &addr);
	mp_must(listen(fd, 16));
	listener = mp_register(channel, fd, 0);
	ASSERT_GT(listener, 0);
	client = connect_to(SOCK_STREAM, 0, &addr);
	mp_write_all(client, &number, 1);
	event = mp_run(channel, mp_cmd_accept(listener, 1,
					      MEGAPIPE_CMD_LWSOCKET));
	EXPECT_EQ(event.flags, MEGAPIPE_EVENT_FD);
	EXPECT_EQ(who(channel, &event), 9);
	close(client);
	close(channel);
	close(fd);
}

TEST_HARNESS_MAIN
