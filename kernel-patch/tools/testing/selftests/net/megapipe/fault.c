// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every allocation and every copy that a call makes fails once, the first, the
 * second and so on until none is left to fail (fail-nth).  Each time the call
 * must say so with a sensible error, what it worked on must still work, and
 * nothing may be left behind.
 *
 *	for n = 1, 2, ...
 *		make the object, and another one beside it
 *		fail-nth = n, the call, fail-nth = 0
 *		a clean error or none; both objects still move data
 *		drop everything; handles and sockets are as many as before
 *
 * Needs CONFIG_FAULT_INJECTION with failslab, fail_page_alloc, fail_usercopy.
 */
#include "megapipe_test.h"

#include <pty.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#define MOST_FAULTS	500	/* of one call; more would be a loop */
#define NR_VECTORS	20	/* more than fit into the command itself */
#define MANY		200	/* more than are copied at a time */

#define DEBUGFS		"/sys/kernel/debug/"

static int fail_nth = -1;

/* Let all allocations fail, not only those that may not wait. */
static void prepare_faults(void)
{
	static const char * const settings[][2] = {
		{ DEBUGFS "failslab/ignore-gfp-wait", "N" },
		{ DEBUGFS "failslab/verbose", "0" },
		{ DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N" },
		{ DEBUGFS "fail_page_alloc/ignore-gfp-highmem", "N" },
		{ DEBUGFS "fail_page_alloc/min-order", "0" },
		{ DEBUGFS "fail_page_alloc/verbose", "0" },
		{ DEBUGFS "fail_usercopy/verbose", "0" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(settings); i++)
		mp_write_text(settings[i][0], settings[i][1]);
	fail_nth = mp_must(open("/proc/thread-self/fail-nth",
				O_RDWR | O_CLOEXEC));
	/* No page fault of our own under fault injection */
	mp_must(mlockall(MCL_CURRENT | MCL_FUTURE));
}

/**
 * struct walk - through all faults of a call
 * @n: the fault that is to happen
 * @done: it did not: there are no more
 */
struct walk {
	int	n;
	bool	done;
};

static bool next_fault(struct walk *walk)
{
	return !walk->done && ++walk->n < MOST_FAULTS;
}

static void arm(const struct walk *walk)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", walk->n);

	mp_must(pwrite(fail_nth, text, len, 0));
}

/* No fault happens from here on.  The last one did if the number is used up. */
static void disarm(struct walk *walk)
{
	char text[16] = {};

	walk->done = pread(fail_nth, text, sizeof(text) - 1, 0) <= 0 ||
		     atoi(text);
	/* What was left may have hit the pread(), or hits this. */
	while (pwrite(fail_nth, "0", 1, 0) < 0)
		;
}

/* What a call may say when memory or a copy failed */
static bool clean(int err)
{
	switch (-err) {
	case ENOMEM:
	case ENOBUFS:
	case ENFILE:
	case EFAULT:
	case EINTR:
	case EAGAIN:
		return true;
	}
	return err >= 0;
}

static long sockets_used(void)
{
	FILE *file = fopen("/proc/net/sockstat", "r");
	long used = -1;

	if (!file || fscanf(file, "sockets: used %ld", &used) != 1)
		mp_die("/proc/net/sockstat");
	fclose(file);
	return used;
}

enum kind {
	LWSOCKET, TCP, UDP, UNIX_STREAM, UNIX_DGRAM, PIPE_IN, PIPE_OUT,
	EVENTFD, TIMERFD, SIGNALFD, TERMINAL, NR_KINDS
};

/**
 * struct object - something registered, and its other end
 * @fd: its descriptor, or -1 of an lwsocket
 * @peer: a descriptor at the other end, or -1
 * @addr: of datagram sockets, its own
 */
struct object {
	enum kind	kind;
	int		fd;
	int		peer;
	int		handle;
	struct mp_addr	addr;
};

static int listen_fd;
static struct mp_addr listen_addr;

/* Make what is to be registered; an lwsocket is not. */
static void open_object(struct object *o, enum kind kind)
{
	int family = kind == UDP ? AF_INET : AF_UNIX;
	sigset_t mask;
	int fds[2];

	*o = (struct object){ .kind = kind, .fd = -1, .peer = -1 };
	switch (kind) {
	case TCP:
		mp_tcp_pair(AF_INET, fds);
		o->fd = fds[0];
		o->peer = fds[1];
		break;
	case UDP:
	case UNIX_DGRAM:
		o->fd = mp_bound(family, SOCK_DGRAM, &o->addr);
		o->peer = mp_bound(family, SOCK_DGRAM, &(struct mp_addr){});
		mp_must(connect(o->peer, &o->addr.sa, o->addr.len));
		break;
	case UNIX_STREAM:
		mp_must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
		o->fd = fds[0];
		o->peer = fds[1];
		break;
	case PIPE_IN:
	case PIPE_OUT:
		mp_must(pipe2(fds, O_NONBLOCK));
		o->fd = fds[kind == PIPE_OUT];
		o->peer = fds[kind == PIPE_IN];
		break;
	case EVENTFD:
		o->fd = mp_must(eventfd(0, EFD_NONBLOCK));
		o->peer = mp_must(dup(o->fd));
		break;
	case TIMERFD:
		o->fd = mp_must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
		break;
	case SIGNALFD:
		sigemptyset(&mask);
		sigaddset(&mask, SIGUSR1);
		mp_must(sigprocmask(SIG_BLOCK, &mask, NULL));
		o->fd = mp_must(signalfd(-1, &mask, SFD_NONBLOCK));
		break;
	case TERMINAL:
		mp_must(openpty(&o->peer, &o->fd, NULL, NULL, NULL));
		mp_shell("stty raw -echo < /proc/%d/fd/%d", getpid(), o->fd);
		mp_nonblock(o->fd);
		break;
	default:
		break;
	}
	if (o->peer >= 0)
		mp_nonblock(o->peer);
}

static void make_object(struct object *o, int channel, int listener,
			enum kind kind)
{
	open_object(o, kind);
	if (kind == LWSOCKET) {
		o->handle = mp_lwsocket(channel, listener, &listen_addr,
					&o->peer);
		mp_nonblock(o->peer);
		return;
	}
	o->handle = mp_register(channel, o->fd, 0);
	if (o->handle <= 0)
		mp_die("register kind %u: %d", kind, o->handle);
}

static void close_object(struct object *o)
{
	if (o->fd >= 0)
		close(o->fd);
	if (o->peer >= 0)
		close(o->peer);
}

/* Something to read at the handle */
static void feed(struct object *o)
{
	struct itimerspec once = { .it_value.tv_nsec = 1 };
	uint64_t one = 1;

	switch (o->kind) {
	case EVENTFD:
		mp_must(write(o->peer, &one, sizeof(one)));
		break;
	case TIMERFD:
		mp_must(timerfd_settime(o->fd, 0, &once, NULL));
		break;
	case SIGNALFD:
		raise(SIGUSR1);
		break;
	case PIPE_OUT:
		break;
	default:
		mp_must(write(o->peer, "12345678", 8));
	}
}

/* Whatever was pending ends, and the handle does its work. */
static bool works(int channel, struct object *o)
{
	struct megapipe_event event;
	char buf[4096];
	int i;

	mp_submit(channel, mp_cmd_cancel(o->handle));
	while (mp_dispatch(channel, NULL, 0, &event, 1, 0, 0, NULL) == 1)
		;
	if (o->kind == PIPE_OUT) {
		event = mp_run(channel, mp_cmd_write(o->handle, "1", 1));
		return event.res == 1 && read(o->peer, buf, sizeof(buf)) >= 1;
	}
	/* What is left of before may come first. */
	feed(o);
	for (i = 0; i < 3; i++) {
		event = mp_run(channel, mp_cmd_read(o->handle, buf,
						    sizeof(buf)));
		if (event.res >= 8)
			return true;
	}
	return false;
}

/**
 * struct bench - what every test stands on
 * @channel: where it happens
 * @listener: handle of @listen_fd
 * @file: something to send
 * @sockets: how many there are, before anything else is made
 */
struct bench {
	int	channel;
	int	listener;
	int	file;
	long	sockets;
};

static bool can_inject(void)
{
	return !access("/proc/thread-self/fail-nth", W_OK) &&
	       !access(DEBUGFS "failslab", F_OK) &&
	       !access(DEBUGFS "fail_page_alloc", F_OK) &&
	       !access(DEBUGFS "fail_usercopy", F_OK);
}

static void set_up(struct bench *b)
{
	mp_new_netns();
	prepare_faults();
	listen_fd = mp_listen(AF_INET, 16, &listen_addr);
	b->file = mp_must(memfd_create("fault", 0));
	mp_must(ftruncate(b->file, 4096));
	b->channel = mp_open();
	b->listener = mp_register(b->channel, listen_fd, 0);
	if (b->listener <= 0)
		mp_die("register: %d", b->listener);
	b->sockets = sockets_used();
}

/* Is nothing left but the listener?  What is closed may take a moment. */
static bool all_back(const struct bench *b)
{
	long long deadline = mp_now_ns() + MP_DEADLINE_NS;
	struct megapipe_event event;

	while (mp_dispatch(b->channel, NULL, 0, &event, 1, 0, 0, NULL) == 1)
		;
	while (sockets_used() > b->sockets && mp_now_ns() < deadline)
		usleep(50000);
	if (sockets_used() > b->sockets)
		printf("# sockets: %ld, before %ld\n", sockets_used(), b->sockets);
	if (mp_stats(b->channel).handles != 1)
		printf("# handles: %llu\n",
		       (unsigned long long)mp_stats(b->channel).handles);
	return sockets_used() <= b->sockets &&
	       mp_stats(b->channel).handles == 1;
}

FIXTURE(fault)
{
	struct bench bench;
};

FIXTURE_SETUP(fault)
{
	if (!can_inject())
		SKIP(return, "no CONFIG_FAULT_INJECTION");
	set_up(&self->bench);
}

FIXTURE_TEARDOWN(fault)
{
	EXPECT_TRUE(all_back(&self->bench));
}

/* After disarm(): the call's result is a number, or an error that is clean. */
#define EXPECT_CLEAN(walk, ret)						\
do {									\
	EXPECT_TRUE(clean(ret))						\
		TH_LOG("fault %d: %d", (walk).n, ret);			\
	EXPECT_TRUE(!(walk).done || (ret) >= 0)				\
		TH_LOG("no fault, and yet %d", ret);			\
} while (0)

/* All were walked through; how many there were is for the log. */
#define ASSERT_WALKED(walk, what)					\
do {									\
	ASSERT_TRUE((walk).done);					\
	ASSERT_GT((walk).n, 1);						\
	TH_LOG("%s: %d faults", what, (walk).n - 1);			\
} while (0)

static int open_channel(void)
{
	int channel = open(MP_DEVICE, O_RDWR);

	return channel < 0 ? -errno : channel;
}

TEST_F(fault, open)
{
	struct walk walk = {};
	int ret;

	while (next_fault(&walk)) {
		arm(&walk);
		ret = open_channel();
		disarm(&walk);
		EXPECT_CLEAN(walk, ret);
		if (ret >= 0)
			close(ret);
	}
	ASSERT_WALKED(walk, "open");
}

TEST_F(fault, register_of_every_kind)
{
	static const char * const names[NR_KINDS] = {
		[TCP]		= "TCP",
		[UDP]		= "UDP",
		[UNIX_STREAM]	= "UNIX stream",
		[UNIX_DGRAM]	= "UNIX datagram",
		[PIPE_IN]	= "pipe, reading",
		[PIPE_OUT]	= "pipe, writing",
		[EVENTFD]	= "eventfd",
		[TIMERFD]	= "timerfd",
		[SIGNALFD]	= "signalfd",
		[TERMINAL]	= "terminal",
	};
	struct object object;
	enum kind kind;
	int ret;

	for (kind = TCP; kind < NR_KINDS; kind++) {
		struct walk walk = {};

		open_object(&object, kind);
		while (next_fault(&walk)) {
			arm(&walk);
			ret = mp_register(self->bench.channel, object.fd, 0);
			disarm(&walk);
			EXPECT_CLEAN(walk, ret);
			/* That it failed is not in the way of the next time. */
			if (ret < 0)
				ret = mp_register(self->bench.channel,
						  object.fd, 0);
			ASSERT_GT(ret, 0);
			object.handle = ret;
			if (kind != TIMERFD)
				EXPECT_TRUE(works(self->bench.channel, &object));
			mp_submit(self->bench.channel, mp_cmd_unregister(ret));
		}
		close_object(&object);
		ASSERT_WALKED(walk, names[kind]);
	}
}

/* Is there a connection to be accepted, or was its client told? */
static bool accepted_or_reset(int listener, int client, bool *reset)
{
	struct pollfd fds[2] = {
		{ .fd = listener, .events = POLLIN },
		{ .fd = client },	/* errors only */
	};
	int fd;

	*reset = false;
	if (poll(fds, 2, MP_DEADLINE_NS / 1000000) <= 0)
		return false;
	if (fds[0].revents & POLLIN) {
		fd = mp_must(accept(listener, NULL, NULL));
		close(fd);
		return true;
	}
	*reset = true;
	return fds[1].revents & POLLERR;
}

/* A partition, when there is none yet and when there are some */
TEST_F(fault, register_of_a_partition)
{
	int others, i, fd, client, ret, channels[2];
	struct mp_addr addr;
	bool reset;

	for (others = 0; others <= 2; others++) {
		struct walk walk = {};

		while (next_fault(&walk)) {
			fd = mp_listen(AF_INET, 16, &addr);
			for (i = 0; i < others; i++) {
				channels[i] = mp_open();
				ret = mp_register_cpu(channels[i], fd, 0,
						      i % mp_cpus());
				ASSERT_GT(ret, 0);
			}

			arm(&walk);
			ret = mp_register_cpu(self->bench.channel, fd, 0,
					      others % mp_cpus());
			disarm(&walk);
			EXPECT_CLEAN(walk, ret);

			/* The connection finds its way to the last heir. */
			client = mp_connect(&addr);
			if (ret > 0)
				mp_submit(self->bench.channel, mp_cmd_unregister(ret));
			for (i = 0; i < others; i++)
				close(channels[i]);
			EXPECT_TRUE(accepted_or_reset(fd, client, &reset));
			EXPECT_FALSE(reset);
			close(client);
			close(fd);
		}
		ASSERT_WALKED(walk, "partition");
	}
}

/*
 * Of two clients that all are to be found a place for: how many were accepted,
 * or, which goes for the first only, told of a reset
 */
static int settled(int listener, const int clients[2], bool *reset)
{
	struct pollfd fds[3] = {
		{ .fd = listener, .events = POLLIN },
		{ .fd = clients[0] },
		{ .fd = clients[1] },
	};
	int count;

	*reset = false;
	for (count = 0; count < 2; count++) {
		if (poll(fds, 3, MP_DEADLINE_NS / 1000000) <= 0 ||
		    fds[2].revents)
			break;
		if (fds[0].revents & POLLIN) {
			close(mp_must(accept(listener, NULL, NULL)));
		} else {
			*reset = true;
			fds[1].fd = -1;
		}
	}
	return count;
}

/*
 * A connection in the queue of a partition that goes moves to another, or to
 * the listener.  The kernel allocates a little for that, as it does for its own
 * migrations: if it cannot, the connection is reset, neither lost in silence nor
 * kept.  Without memory for a new map, another partition stands in for the one
 * that goes, also for the connections that come later.
 */
TEST_F(fault, unregister_of_a_partition)
{
	int others, i, fd, handle, clients[2], ret, walks, resets, channels[2];
	struct megapipe_cmd cmd;
	struct mp_addr addr;
	bool reset;

	mp_pin(0);
	for (others = 0, walks = 0; others <= 2;) {
		struct walk walk = {};

		resets = 0;
		while (next_fault(&walk)) {
			fd = mp_listen(AF_INET, 16, &addr);
			/* Of another CPU: without the fault they stay apart. */
			for (i = 0; i < others; i++) {
				channels[i] = mp_open();
				ret = mp_register_cpu(channels[i], fd, 0, 1);
				ASSERT_GT(ret, 0);
			}
			handle = mp_register_cpu(self->bench.channel, fd, 0, 0);
			ASSERT_GT(handle, 0);
			clients[0] = mp_connect(&addr);
			cmd = mp_cmd_unregister(handle);

			arm(&walk);
			ret = mp_dispatch(self->bench.channel, &cmd, 1, NULL, 0,
					  0, 0, NULL);
			disarm(&walk);
			EXPECT_CLEAN(walk, ret);

			if (mp_stats(self->bench.channel).handles > 1)
				mp_submit(self->bench.channel,
					  mp_cmd_unregister(handle));
			clients[1] = mp_connect(&addr);
			for (i = 0; i < others; i++)
				close(channels[i]);
			EXPECT_EQ(settled(fd, clients, &reset), 2);
			EXPECT_TRUE(!reset || !walk.done);
			resets += reset;
			close(clients[0]);
			close(clients[1]);
			close(fd);
		}
		ASSERT_WALKED(walk, "unregister");
		/*
		 * One allocation of all can reset the connection.  It may come
		 * up twice in a walk, when a slab was refilled before it; then
		 * another walk tells.
		 */
		if (resets > 1 && ++walks < 3)
			continue;
		EXPECT_LE(resets, 1);
		walks = 0;
		others++;
	}
}

/*
 * A connection that could not be accepted waits for the next accept.  Only a
 * completion that cannot be copied out is lost, with the connection in it: the
 * program gave a bad address.  A channel for each time, which takes it along.
 */
#define accept_with_faults(how)						\
do {									\
	struct megapipe_event event;					\
	struct megapipe_cmd cmd;					\
	struct walk walk = {};						\
	int channel, client, ret;					\
									\
	while (next_fault(&walk)) {					\
		channel = mp_open();					\
		cmd = mp_cmd_accept(mp_register(channel, listen_fd, 0),	\
				    1, how);				\
		ASSERT_GT(cmd.handle, 0);				\
		client = mp_connect(&listen_addr);			\
		event.res = 0;						\
		arm(&walk);						\
		ret = mp_dispatch(channel, &cmd, 1, &event, 1, 0, 0,	\
				  NULL);				\
		disarm(&walk);						\
		EXPECT_CLEAN(walk, ret);				\
		EXPECT_CLEAN(walk, event.res);				\
		if (!mp_stats(channel).accepts)				\
			EXPECT_TRUE(accept_again(channel, cmd));	\
		close(channel);						\
		/* What was accepted came last. */			\
		close_range(client, ~0U, 0);				\
	}								\
	ASSERT_WALKED(walk, "accept");					\
} while (0)

static bool accept_again(int channel, struct megapipe_cmd cmd)
{
	struct megapipe_event event;

	/* The command may be pending, or not have been read at all. */
	mp_submit(channel, mp_cmd_cancel(cmd.handle));
	event = mp_run(channel, cmd);
	if (event.res == -ECANCELED)
		event = mp_wait(channel);
	return event.res > 0;
}

TEST_F(fault, accept_as_a_descriptor)
{
	accept_with_faults(0);
}

TEST_F(fault, accept_as_an_lwsocket)
{
	accept_with_faults(MEGAPIPE_CMD_LWSOCKET);
}

/* Commands, on each kind of object */

FIXTURE(command)
{
	struct bench bench;
	struct object object;
	struct object other;
	struct iovec iov[NR_VECTORS];
	char buf[NR_VECTORS * 8];
	struct mp_addr addr;
};

FIXTURE_VARIANT(command)
{
	enum kind kind;
	bool socket;		/* has addresses */
	bool reads;
	bool writes;
};

FIXTURE_VARIANT_ADD(command, lwsocket) {
	.kind = LWSOCKET, .socket = true, .reads = true, .writes = true,
};

FIXTURE_VARIANT_ADD(command, tcp) {
	.kind = TCP, .socket = true, .reads = true, .writes = true,
};

FIXTURE_VARIANT_ADD(command, udp) {
	.kind = UDP, .socket = true, .reads = true,
};

FIXTURE_VARIANT_ADD(command, unix_stream) {
	.kind = UNIX_STREAM, .socket = true, .reads = true, .writes = true,
};

FIXTURE_VARIANT_ADD(command, unix_dgram) {
	.kind = UNIX_DGRAM, .socket = true, .reads = true,
};

FIXTURE_VARIANT_ADD(command, pipe_in) {
	.kind = PIPE_IN, .reads = true,
};

FIXTURE_VARIANT_ADD(command, pipe_out) {
	.kind = PIPE_OUT, .writes = true,
};

FIXTURE_VARIANT_ADD(command, eventfd) {
	.kind = EVENTFD, .reads = true,
};

FIXTURE_VARIANT_ADD(command, timerfd) {
	.kind = TIMERFD, .reads = true,
};

FIXTURE_VARIANT_ADD(command, signalfd) {
	.kind = SIGNALFD, .reads = true,
};

FIXTURE_VARIANT_ADD(command, terminal) {
	.kind = TERMINAL, .reads = true, .writes = true,
};

FIXTURE_SETUP(command)
{
	unsigned int i;

	if (!can_inject())
		SKIP(return, "no CONFIG_FAULT_INJECTION");
	set_up(&self->bench);
	make_object(&self->other, self->bench.channel, 0, EVENTFD);
	for (i = 0; i < NR_VECTORS; i++) {
		self->iov[i].iov_base = self->buf + 8 * i;
		self->iov[i].iov_len = 8;
	}
}

FIXTURE_TEARDOWN(command)
{
	mp_submit(self->bench.channel, mp_cmd_close(self->other.handle));
	close(self->other.peer);
	EXPECT_TRUE(all_back(&self->bench));
}

/* May it end the object, or one direction of it? */
static bool is_final(const struct megapipe_cmd *cmd)
{
	return cmd->op == MEGAPIPE_OP_UNREGISTER ||
	       cmd->op == MEGAPIPE_OP_CLOSE ||
	       cmd->op == MEGAPIPE_OP_CONNECT;
}

/*
 * A command whose handle is not yet filled in, with something to read or with
 * nothing.  @completes: it is one that comes to an end by itself.
 */
static void walk_command(struct __test_metadata *_metadata,
			 struct _test_data_command *self,
			 const struct _fixture_variant_command *variant,
			 struct megapipe_cmd cmd, bool fed, bool completes)
{
	int channel = self->bench.channel, ret, i;
	struct megapipe_event events[4];
	struct walk walk = {};
	char what[32];

	while (next_fault(&walk)) {
		struct object *o = &self->object;

		make_object(o, channel, self->bench.listener, variant->kind);
		if (fed)
			feed(o);
		cmd.handle = o->handle;

		arm(&walk);
		ret = mp_dispatch(channel, &cmd, 1, events, 4, 0, 0, NULL);
		disarm(&walk);
		EXPECT_CLEAN(walk, ret);
		for (i = 0; i < ret; i++)
			EXPECT_CLEAN(walk, events[i].res);
		/* What failed for lack of memory is tried again, not forgotten. */
		if (!ret && completes) {
			ret = mp_dispatch(channel, NULL, 0, events, 4, 1,
					  10 * 1000000000LL, NULL);
			EXPECT_EQ(ret, 1)
				TH_LOG("op %u, fault %d: no completion", cmd.op,
				       walk.n);
		}

		EXPECT_TRUE(works(channel, &self->other));
		if (!is_final(&cmd) && variant->kind != TIMERFD)
			EXPECT_TRUE(works(channel, o))
				TH_LOG("op %u, fault %d: broken", cmd.op,
				       walk.n);
		if (mp_stats(channel).handles > 2)
			mp_submit(channel, mp_cmd_unregister(o->handle));
		if (cmd.op == MEGAPIPE_OP_CLOSE && fcntl(o->fd, F_GETFD) < 0)
			o->fd = -1;
		close_object(o);
	}
	snprintf(what, sizeof(what), "op %u%s", cmd.op, fed ? ", ready" : "");
	ASSERT_WALKED(walk, what);
}

#define walk(cmd, fed, completes) \
	walk_command(_metadata, self, variant, cmd, fed, completes)

TEST_F(command, read)
{
	char from[128];

	if (!variant->reads)
		SKIP(return, "nothing to read");
	walk(mp_cmd_read(0, self->buf, sizeof(self->buf)), true, true);
	walk(mp_cmd_read(0, self->buf, sizeof(self->buf)), false, false);
	walk(mp_cmd_cookie_read(0, self->buf, sizeof(self->buf), 1), true,
	     true);
	walk(mp_cmd_readv(0, self->iov, NR_VECTORS), true, true);
	walk(mp_cmd_readv(0, self->iov, NR_VECTORS), false, false);
	if (!variant->socket)
		return;
	walk(mp_cmd_recvfrom(0, self->buf, sizeof(self->buf), from,
			     sizeof(from)), true, true);
	walk(mp_cmd_recvfrom(0, self->buf, sizeof(self->buf), from,
			     sizeof(from)), false, false);
}

TEST_F(command, write)
{
	if (!variant->writes)
		SKIP(return, "nothing to write to");
	walk(mp_cmd_write(0, self->buf, sizeof(self->buf)), false, true);
	walk(mp_cmd_writev(0, self->iov, NR_VECTORS), false, true);
	if (!variant->socket)
		return;
	walk(mp_cmd_sendto(0, self->buf, sizeof(self->buf), NULL, 0), false,
	     true);
	walk(mp_cmd_sendfile(0, self->bench.file, 0, 4096), false, true);
}

/* Whatever fails, there is one completion: of the WRITE or of the READ. */
TEST_F(command, write_then_read)
{
	if (!variant->writes || !variant->reads)
		SKIP(return, "has one direction");
	walk(mp_cmd_then_read(0, self->buf, sizeof(self->buf), self->buf,
			      sizeof(self->buf)), true, true);
	walk(mp_cmd_then_read(0, self->buf, sizeof(self->buf), self->buf,
			      sizeof(self->buf)), false, false);
}

TEST_F(command, sendto_an_address)
{
	struct mp_addr to;
	int fd;

	if (variant->kind != UDP && variant->kind != UNIX_DGRAM)
		SKIP(return, "has no datagrams");
	fd = mp_bound(variant->kind == UDP ? AF_INET : AF_UNIX, SOCK_DGRAM, &to);
	mp_nonblock(fd);
	/* Short ones all fit into the receiver's queue. */
	walk(mp_cmd_sendto(0, self->buf, 1, &to, to.len), false, false);
	walk(mp_cmd_connect(0, &to, to.len), false, true);
	close(fd);
}

TEST_F(command, poll_and_rest)
{
	walk(mp_cmd_poll(0, EPOLLIN | EPOLLOUT), false, false);
	walk(mp_cmd_poll(0, EPOLLIN), false, false);
	walk(mp_cmd_cancel(0), false, false);
	walk(mp_cmd_cookie(0, 1), false, false);
	walk(mp_cmd_unregister(0), true, false);
	walk(mp_cmd_close(0), true, false);
	if (variant->kind == UNIX_STREAM || variant->kind == TCP ||
	    variant->kind == LWSOCKET)
		walk(mp_cmd_disconnect(0), false, true);
}

/* A connection that could not be made can be made. */
TEST_F(fault, connect)
{
	struct megapipe_event event;
	struct megapipe_cmd cmd;
	struct walk walk = {};
	int fd, handle, ret;

	while (next_fault(&walk)) {
		fd = mp_must(socket(AF_INET, SOCK_STREAM, 0));
		handle = mp_register(self->bench.channel, fd, 0);
		ASSERT_GT(handle, 0);
		cmd = mp_cmd_connect(handle, &listen_addr, listen_addr.len);

		arm(&walk);
		ret = mp_dispatch(self->bench.channel, &cmd, 1, &event, 1, 0, 0,
				  NULL);
		disarm(&walk);
		EXPECT_CLEAN(walk, ret);
		if (ret == 1) {
			EXPECT_CLEAN(walk, event.res);
			ret = event.res ?: 1;
		}
		/* Not tried, tried in vain, or on its way */
		mp_submit(self->bench.channel, mp_cmd_cancel(handle));
		while (mp_dispatch(self->bench.channel, NULL, 0, &event, 1, 0, 0,
				   NULL) == 1)
			;
		event = mp_run(self->bench.channel, cmd);
		EXPECT_TRUE(!event.res || event.res == -EISCONN ||
			    event.res == -EALREADY)
			TH_LOG("after fault %d: %d", walk.n, event.res);
		event = mp_run(self->bench.channel,
			       mp_cmd_accept(self->bench.listener, 1, 0));
		EXPECT_GT(event.res, 0);
		close(event.res);
		mp_submit(self->bench.channel, mp_cmd_close(handle));
	}
	ASSERT_WALKED(walk, "connect");
}

/* Arrays that are copied in pieces: none of the completions is made twice. */
TEST_F(fault, dispatch_of_arrays)
{
	struct megapipe_cmd cmds[MANY];
	struct megapipe_event events[MANY];
	struct walk walk = {};
	uint32_t done;
	int ret, i;

	for (i = 0; i < MANY; i++)
		cmds[i] = mp_cmd_cookie(MANY + i, i);	/* -EBADF, each */
	while (next_fault(&walk)) {
		arm(&walk);
		ret = mp_dispatch(self->bench.channel, cmds, MANY, events, MANY,
				  0, 0, &done);
		disarm(&walk);
		EXPECT_CLEAN(walk, ret);
		EXPECT_LE(ret, MANY);
		for (i = 0; i < ret; i++)
			EXPECT_EQ(events[i].res, -EBADF);
		if (walk.done)
			EXPECT_EQ(ret, MANY);
	}
	ASSERT_WALKED(walk, "dispatch");
}

/* The ioctls beside DISPATCH and REGISTER */
#define walk_ioctl(what, call)						\
do {									\
	struct walk walk = {};						\
	int ret;							\
									\
	while (next_fault(&walk)) {					\
		arm(&walk);						\
		ret = (call);						\
		disarm(&walk);						\
		EXPECT_CLEAN(walk, ret);				\
	}								\
	ASSERT_WALKED(walk, what);					\
} while (0)

TEST_F(fault, info_stats_listener)
{
	struct megapipe_info info;
	struct megapipe_stats stats;
	struct megapipe_listener listener;

	walk_ioctl("info", mp_ioctl(self->bench.channel, MEGAPIPE_IOC_INFO,
				    &info));
	walk_ioctl("stats", mp_ioctl(self->bench.channel, MEGAPIPE_IOC_STATS,
				     &stats));
	walk_ioctl("listener", mp_listener(self->bench.channel,
					   self->bench.listener, &listener));
}

TEST_F(fault, sockopt_and_sockname)
{
	static const int options[][2] = {
		{ SOL_SOCKET, SO_RCVBUF }, { IPPROTO_TCP, TCP_NODELAY },
		{ IPPROTO_IP, IP_TOS },
	};
	int channel = self->bench.channel, value = 1;
	struct sockaddr_storage addr;
	uint32_t len = sizeof(value);
	struct object o;
	unsigned int i;

	make_object(&o, channel, self->bench.listener, LWSOCKET);
	for (i = 0; i < ARRAY_SIZE(options); i++) {
		walk_ioctl("setsockopt",
			   mp_setsockopt(channel, o.handle, options[i][0],
					 options[i][1], &value, sizeof(value)));
		walk_ioctl("getsockopt",
			   mp_getsockopt(channel, o.handle, options[i][0],
					 options[i][1], &value, &len));
		len = sizeof(value);
	}
	walk_ioctl("sockname", mp_sockname(channel, o.handle, true, &addr, &len));
	EXPECT_TRUE(works(channel, &o));
	mp_submit(channel, mp_cmd_close(o.handle));
	close_object(&o);
}

/* Converted or not, the connection is there and works. */
TEST_F(fault, tofd)
{
	int channel = self->bench.channel, ret;
	struct walk walk = {};
	struct object o;
	char byte;

	while (next_fault(&walk)) {
		make_object(&o, channel, self->bench.listener, LWSOCKET);
		arm(&walk);
		ret = mp_tofd(channel, o.handle, O_CLOEXEC);
		disarm(&walk);
		EXPECT_CLEAN(walk, ret);
		if (ret < 0) {
			EXPECT_TRUE(works(channel, &o));
			ret = mp_tofd(channel, o.handle, O_CLOEXEC);
			ASSERT_GE(ret, 0);
		}
		mp_write_all(o.peer, "x", 1);
		mp_read_all(ret, &byte, 1);
		EXPECT_EQ(byte, 'x');
		close(ret);
		close_object(&o);
	}
	ASSERT_WALKED(walk, "tofd");
}

TEST_HARNESS_MAIN
