// SPDX-License-Identifier: GPL-2.0-only
/*
 * lwsockets: what a program does to them that it would do to a descriptor, and
 * how they become one.
 *
 *	client ---- TCP over loopback ----> lwsocket of a channel
 *	                                        | MEGAPIPE_IOC_TOFD
 *	                                        v
 *	                                    descriptor
 */
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <linux/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define _NETINET_TCP_H
#include "megapipe_test.h"

#ifndef IPV6_ADDRFORM
#define IPV6_ADDRFORM	1
#endif
#define ROUNDS		200

FIXTURE(lw)
{
	int channel;
	int fd;
	int listener;
	int client;
	int lw;
	struct mp_addr addr;
};

FIXTURE_VARIANT(lw)
{
	int family;
	int size;	/* of an address */
};

FIXTURE_VARIANT_ADD(lw, ipv4)
{
	.family = AF_INET,
	.size = sizeof(struct sockaddr_in),
};

FIXTURE_VARIANT_ADD(lw, ipv6)
{
	.family = AF_INET6,
	.size = sizeof(struct sockaddr_in6),
};

FIXTURE_SETUP(lw)
{
	self->channel = mp_open();
	self->fd = mp_listen(variant->family, 16, &self->addr);
	self->listener = mp_register(self->channel, self->fd, 7);
	ASSERT_GT(self->listener, 0);
	self->lw = mp_lwsocket(self->channel, self->listener, &self->addr,
			       &self->client);
}

FIXTURE_TEARDOWN(lw)
{
	close(self->client);
	close(self->channel);
	close(self->fd);
}

/*
 * Options
 */

TEST_F(lw, setsockopt__reaches_the_connection)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ SOL_SOCKET, SO_PRIORITY, 3 },
		{ SOL_SOCKET, SO_RCVLOWAT, 2 },
		{ SOL_SOCKET, SO_ZEROCOPY, 1 },
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ IPPROTO_TCP, TCP_CORK, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 77 },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, 12345 },
		{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096 },
	};
	socklen_t socklen;
	int i, fd, value;
	uint32_t len;

	for (i = 0; i < ARRAY_SIZE(options); i++) {
		ASSERT_EQ(mp_setsockopt(self->channel, self->lw,
					options[i].level, options[i].name,
					&options[i].value, sizeof(int)), 0)
			TH_LOG("level %d option %d", options[i].level,
			       options[i].name);
		value = -1;
		len = sizeof(value);
		ASSERT_EQ(mp_getsockopt(self->channel, self->lw,
					options[i].level, options[i].name,
					&value, &len), 0);
		EXPECT_EQ(value, options[i].value);
		EXPECT_EQ(len, sizeof(int));
	}

	/* It was the socket that was asked: the descriptor says the same. */
	fd = mp_tofd(self->channel, self->lw, 0);
	ASSERT_GE(fd, 0);
	for (i = 0; i < ARRAY_SIZE(options); i++) {
		value = -1;
		socklen = sizeof(value);
		EXPECT_EQ(getsockopt(fd, options[i].level, options[i].name,
				     &value, &socklen), 0);
		EXPECT_EQ(value, options[i].value);
	}
	close(fd);
}

TEST_F(lw, setsockopt__of_the_network_layer)
{
	bool v6 = variant->family == AF_INET6;
	int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
	int name = v6 ? IPV6_TCLASS : IP_TOS;
	int value = 0x20;
	uint32_t len = sizeof(value);

	EXPECT_EQ(mp_setsockopt(self->channel, self->lw, level, name, &value,
				sizeof(value)), 0);
	value = 0;
	EXPECT_EQ(mp_getsockopt(self->channel, self->lw, level, name, &value,
				&len), 0);
	EXPECT_EQ(value, 0x20);
}

TEST_F(lw, setsockopt__refuses_what_an_lwsocket_cannot_have)
{
	static const struct {
		int level, name;
	} options[] = {
		{ SOL_SOCKET, SO_TIMESTAMPING },
		{ SOL_SOCKET, SO_TIMESTAMP },
		{ SOL_SOCKET, SO_TIMESTAMPNS },
		{ SOL_SOCKET, SO_TXTIME },
		{ SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF },
		{ SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF },
		{ SOL_SOCKET, SO_DETACH_REUSEPORT_BPF },
		{ SOL_SOCKET, SO_PASSCRED },
		{ SOL_SOCKET, SO_SELECT_ERR_QUEUE },
		{ SOL_SOCKET, -1 },
		{ IPPROTO_TCP, TCP_ULP },
		{ IPPROTO_TCP, TCP_REPAIR },
		{ IPPROTO_TCP, TCP_REPAIR_QUEUE },
		{ IPPROTO_TCP, TCP_QUEUE_SEQ },
		{ IPPROTO_TCP, TCP_INQ },
		{ IPPROTO_TCP, TCP_FASTOPEN },
		{ IPPROTO_TCP, TCP_DEFER_ACCEPT },
		{ IPPROTO_TCP, TCP_MD5SIG },
		{ IPPROTO_IP, IP_ADD_MEMBERSHIP },
		{ IPPROTO_IP, IP_PKTINFO },
		{ IPPROTO_IP, 64 },		/* IPT_SO_SET_REPLACE */
		{ IPPROTO_IPV6, IPV6_ADDRFORM },
		{ IPPROTO_IPV6, IPV6_RECVPKTINFO },
		/* Levels that are not listed at all */
		{ IPPROTO_UDP, 1 },
		{ 282, 1 },			/* SOL_TLS */
		{ -1, 1 },
	};
	char value[64] = "tls";
	int i;

	for (i = 0; i < ARRAY_SIZE(options); i++) {
		EXPECT_EQ(mp_setsockopt(self->channel, self->lw,
					options[i].level, options[i].name,
					value, sizeof(value)), -EOPNOTSUPP)
			TH_LOG("level %d option %d", options[i].level,
			       options[i].name);
	}
}

TEST_F(lw, getsockopt__does_not_read_the_connection)
{
	char value[64] = {};
	uint32_t len = sizeof(value);

	EXPECT_EQ(mp_getsockopt(self->channel, self->lw, IPPROTO_TCP,
				TCP_ZEROCOPY_RECEIVE, value, &len),
		  -EOPNOTSUPP);
}

TEST_F(lw, getsockopt__tells_the_length)
{
	struct tcp_info info = {};
	uint32_t len = 8;
	char name[16] = {};

	/* Less than there is ... */
	ASSERT_EQ(mp_getsockopt(self->channel, self->lw, IPPROTO_TCP, TCP_INFO,
				&info, &len), 0);
	EXPECT_EQ(len, 8);
	EXPECT_EQ(info.tcpi_state, 1);	/* TCP_ESTABLISHED */
	/* ... and more. */
	len = sizeof(name);
	ASSERT_EQ(mp_getsockopt(self->channel, self->lw, SOL_SOCKET, SO_TYPE,
				name, &len), 0);
	EXPECT_EQ(len, sizeof(int));
	EXPECT_EQ(*(int *)name, SOCK_STREAM);
}

/* Segments with data that the connection has sent */
static uint32_t data_segments(int channel, int lw)
{
	struct tcp_info info = {};
	uint32_t len = sizeof(info);

	mp_must(mp_getsockopt(channel, lw, IPPROTO_TCP, TCP_INFO, &info, &len));
	return info.tcpi_data_segs_out;
}

TEST_F(lw, more__makes_one_segment_of_a_header_and_a_file)
{
	int file = mp_must(memfd_create("body", MFD_CLOEXEC)), one = 1;
	struct megapipe_cmd cmds[] = {
		mp_cmd_write(self->lw, "head", 4),
		mp_cmd_sendfile(self->lw, file, 0, 4),
	};
	struct megapipe_event events[4];
	char buf[16];

	mp_write_all(file, "body", 4);
	/* Otherwise the second might wait for the first one's ACK. */
	ASSERT_EQ(mp_setsockopt(self->channel, self->lw, IPPROTO_TCP,
				TCP_NODELAY, &one, sizeof(one)), 0);
	EXPECT_EQ(mp_dispatch(self->channel, cmds, 2, events, 4, 2,
			      MP_DEADLINE_NS, NULL), 2);
	EXPECT_EQ(data_segments(self->channel, self->lw), 2);

	cmds[0].flags = MEGAPIPE_CMD_MORE;
	EXPECT_EQ(mp_dispatch(self->channel, cmds, 2, events, 4, 2,
			      MP_DEADLINE_NS, NULL), 2);
	EXPECT_EQ(data_segments(self->channel, self->lw), 3);
	EXPECT_EQ(recv(self->client, buf, 16, MSG_WAITALL), 16);
	EXPECT_EQ(memcmp(buf, "headbodyheadbody", 16), 0);
	close(file);
}

TEST_F(lw, sockopt__checks_its_argument)
{
	static const unsigned long requests[] = {
		MEGAPIPE_IOC_SETSOCKOPT, MEGAPIPE_IOC_GETSOCKOPT,
	};
	int i, value = 1;
	struct megapipe_sockopt opt, good = {
		.handle = self->lw,
		.level = IPPROTO_TCP,
		.name = TCP_NODELAY,
		.len = sizeof(value),
		.value = (uintptr_t)&value,
	};

	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		opt = good;
		EXPECT_EQ(mp_ioctl(self->channel, requests[i], &opt), 0);
		opt = good;
		opt.resv = 1;
		EXPECT_EQ(mp_ioctl(self->channel, requests[i], &opt), -EINVAL);
		opt = good;
		opt.len = 0x80000000U;
		EXPECT_EQ(mp_ioctl(self->channel, requests[i], &opt), -EINVAL);
		opt = good;
		opt.value = 8;
		EXPECT_EQ(mp_ioctl(self->channel, requests[i], &opt), -EFAULT);
		opt = good;
		opt.handle = self->lw + 1;
		EXPECT_EQ(mp_ioctl(self->channel, requests[i], &opt), -EBADF);
		opt.handle = 0;
		EXPECT_EQ(mp_ioctl(self->channel, requests[i], &opt), -EBADF);
		EXPECT_EQ(mp_ioctl(self->channel, requests[i], (void *)8),
			  -EFAULT);
	}
	EXPECT_EQ(mp_setsockopt(self->channel, self->lw, IPPROTO_TCP,
				TCP_NODELAY, &value, 1), -EINVAL);
}

/* A registered descriptor has the same ioctls, without the lwsocket's list. */
TEST_F(lw, sockopt__of_a_descriptor)
{
	struct sockaddr_storage name;
	int fds[2], handle, value = 1;
	unsigned int flags = SOF_TIMESTAMPING_TX_SOFTWARE;
	struct mp_addr addr;
	socklen_t socklen = sizeof(value);
	uint32_t len;

	mp_tcp_pair(variant->family, fds);
	handle = mp_register(self->channel, fds[1], 0);
	ASSERT_GT(handle, 0);
	EXPECT_EQ(mp_setsockopt(self->channel, handle, IPPROTO_TCP,
				TCP_NODELAY, &value, sizeof(value)), 0);
	value = 0;
	ASSERT_EQ(getsockopt(fds[1], IPPROTO_TCP, TCP_NODELAY, &value,
			     &socklen), 0);
	EXPECT_EQ(value, 1);
	EXPECT_EQ(mp_setsockopt(self->channel, handle, SOL_SOCKET,
				SO_TIMESTAMPING, &flags, sizeof(flags)), 0);

	mp_getsockname(fds[1], &addr);
	ASSERT_EQ(mp_sockname(self->channel, handle, false, &name, &len), 0);
	EXPECT_EQ(len, addr.len);
	EXPECT_EQ(memcmp(&name, &addr, len), 0);

	/* The listening handle too */
	ASSERT_EQ(mp_sockname(self->channel, self->listener, false, &name,
			      &len), 0);
	EXPECT_EQ(memcmp(&name, &self->addr, len), 0);
	EXPECT_EQ(mp_sockname(self->channel, self->listener, true, &name,
			      &len), -ENOTCONN);
	close(fds[0]);
	close(fds[1]);
}

/* A program may set a filter on a connection; it works as on a descriptor. */
TEST_F(lw, setsockopt__filter_drops_segments)
{
	struct sock_filter drop = { BPF_RET | BPF_K, 0, 0, 0 };
	struct sock_fprog program = { .len = 1, .filter = &drop };
	struct megapipe_event event;
	char buf[8];

	ASSERT_EQ(mp_setsockopt(self->channel, self->lw, SOL_SOCKET,
				SO_ATTACH_FILTER, &program, sizeof(program)),
		  0);
	mp_submit(self->channel, mp_cmd_read(self->lw, buf, sizeof(buf)));
	mp_write_all(self->client, "x", 1);
	EXPECT_TRUE(mp_quiet(self->channel));
	/* Without the filter the retransmission arrives. */
	ASSERT_EQ(mp_setsockopt(self->channel, self->lw, SOL_SOCKET,
				SO_DETACH_FILTER, &program, sizeof(program)),
		  0);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.res, 1);
}

/*
 * SO_LINGER
 */

/* Fill the connection, so that closing it properly would take for ever. */
static void fill_up(int channel, int lw)
{
	static char data[1 << 20];
	int i;

	for (i = 0; i < 64; i++) {
		mp_submit(channel, mp_cmd_write(lw, data, sizeof(data)));
		if (mp_quiet(channel))
			return;
	}
	mp_die("64 MiB is too little for a connection");
}

TEST_F(lw, linger__close_does_not_wait)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 100000 }, now = {};
	uint32_t len = sizeof(now);

	ASSERT_EQ(mp_setsockopt(self->channel, self->lw, SOL_SOCKET, SO_LINGER,
				&linger, sizeof(linger)), 0);
	ASSERT_EQ(mp_getsockopt(self->channel, self->lw, SOL_SOCKET, SO_LINGER,
				&now, &len), 0);
	EXPECT_EQ(now.l_linger, linger.l_linger);
	fill_up(self->channel, self->lw);
	/* The test ends after 300 s if this waits. */
	mp_submit(self->channel, mp_cmd_close(self->lw));
	EXPECT_EQ(mp_stats(self->channel).lwsockets, 0);
}

TEST_F(lw, linger__without_time_resets)
{
	struct linger linger = { .l_onoff = 1 };
	char buf[1];

	ASSERT_EQ(mp_setsockopt(self->channel, self->lw, SOL_SOCKET, SO_LINGER,
				&linger, sizeof(linger)), 0);
	mp_submit(self->channel, mp_cmd_close(self->lw));
	EXPECT_EQ(read(self->client, buf, 1), -1);
	EXPECT_EQ(errno, ECONNRESET);
}

TEST_F(lw, linger__of_the_listener_is_inherited)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 100000 }, now = {};
	uint32_t len = sizeof(now);
	int lw, client;

	ASSERT_EQ(setsockopt(self->fd, SOL_SOCKET, SO_LINGER, &linger,
			     sizeof(linger)), 0);
	lw = mp_lwsocket(self->channel, self->listener, &self->addr, &client);
	EXPECT_EQ(mp_getsockopt(self->channel, lw, SOL_SOCKET, SO_LINGER, &now,
				&len), 0);
	EXPECT_EQ(now.l_onoff, 1);
	EXPECT_EQ(now.l_linger, linger.l_linger);
	fill_up(self->channel, lw);
	mp_submit(self->channel, mp_cmd_close(lw));
	close(client);
}

/*
 * Names
 */

TEST_F(lw, sockname__is_what_the_peer_sees)
{
	struct sockaddr_storage name;
	struct mp_addr addr;
	uint32_t len;

	ASSERT_EQ(mp_sockname(self->channel, self->lw, true, &name, &len), 0);
	mp_getsockname(self->client, &addr);
	EXPECT_EQ(len, variant->size);
	EXPECT_EQ(memcmp(&name, &addr, len), 0);

	ASSERT_EQ(mp_sockname(self->channel, self->lw, false, &name, &len), 0);
	EXPECT_EQ(len, variant->size);
	EXPECT_EQ(memcmp(&name, &self->addr, len), 0);
}

TEST_F(lw, sockname__cuts_and_tells)
{
	struct sockaddr_storage name;
	struct megapipe_sockname arg = {
		.handle = self->lw,
		.addr = (uintptr_t)&name,
		.len = 4,
	};

	memset(&name, 0xff, sizeof(name));
	ASSERT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg), 0);
	EXPECT_EQ(arg.len, variant->size);
	EXPECT_EQ(memcmp(&name, &self->addr, 4), 0);
	EXPECT_EQ(((unsigned char *)&name)[4], 0xff);
}

TEST_F(lw, sockname__checks_its_argument)
{
	struct sockaddr_storage name;
	struct megapipe_sockname arg, good = {
		.handle = self->lw,
		.addr = (uintptr_t)&name,
		.len = sizeof(name),
	};

	arg = good;
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg), 0);
	arg = good;
	arg.peer = 2;
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg),
		  -EINVAL);
	arg = good;
	arg.resv = 1;
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg),
		  -EINVAL);
	arg = good;
	arg.len = 0x80000000U;
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg),
		  -EINVAL);
	arg = good;
	arg.addr = 8;
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg),
		  -EFAULT);
	arg = good;
	arg.handle = -1;
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg), -EBADF);
	arg = good;
	arg.len = 0;
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &arg), 0);
}

/*
 * Becoming a descriptor
 */

TEST_F(lw, tofd__ends_the_handle_and_keeps_the_connection)
{
	struct megapipe_event event;
	struct stat status;
	char buf[16] = {};
	int fd;

	mp_write_all(self->client, "hello", 5);
	fd = mp_tofd(self->channel, self->lw, O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(mp_stats(self->channel).lwsockets, 0);
	event = mp_run(self->channel, mp_cmd_write(self->lw, buf, 1));
	EXPECT_EQ(event.res, -EBADF);
	EXPECT_EQ(mp_tofd(self->channel, self->lw, 0), -EBADF);

	/* A file like any socket's */
	ASSERT_EQ(fstat(fd, &status), 0);
	EXPECT_TRUE(S_ISSOCK(status.st_mode));
	EXPECT_NE(status.st_ino, 0);

	/* It outlives the channel. */
	close(self->channel);
	self->channel = -1;
	mp_read_all(fd, buf, 5);
	EXPECT_STREQ(buf, "hello");
	mp_write_all(fd, "there", 5);
	mp_read_all(self->client, buf, 5);
	EXPECT_STREQ(buf, "there");
	close(fd);
	EXPECT_EQ(read(self->client, buf, 1), 0);
}

TEST_F(lw, tofd__obeys_its_flags)
{
	int fd, client, lw;

	fd = mp_tofd(self->channel, self->lw, O_CLOEXEC | O_NONBLOCK);
	ASSERT_GE(fd, 0);
	EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	EXPECT_TRUE(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);

	lw = mp_lwsocket(self->channel, self->listener, &self->addr, &client);
	fd = mp_tofd(self->channel, lw, 0);
	ASSERT_GE(fd, 0);
	EXPECT_FALSE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	EXPECT_FALSE(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
	close(client);
}

TEST_F(lw, tofd__checks_its_argument)
{
	struct megapipe_tofd arg = { .handle = self->lw, .resv = 1 };
	int fds[2], handle;

	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_TOFD, &arg), -EINVAL);
	EXPECT_EQ(mp_tofd(self->channel, self->lw, O_APPEND), -EINVAL);
	EXPECT_EQ(mp_tofd(self->channel, 0, 0), -EBADF);
	/* What has a descriptor needs none. */
	EXPECT_EQ(mp_tofd(self->channel, self->listener, 0), -EOPNOTSUPP);
	mp_tcp_pair(variant->family, fds);
	handle = mp_register(self->channel, fds[0], 0);
	EXPECT_EQ(mp_tofd(self->channel, handle, 0), -EOPNOTSUPP);
	close(fds[0]);
	close(fds[1]);
}

TEST_F(lw, tofd__waits_for_no_command)
{
	struct megapipe_event event;
	char buf[1];
	int fd;

	mp_submit(self->channel, mp_cmd_read(self->lw, buf, 1));
	EXPECT_EQ(mp_tofd(self->channel, self->lw, 0), -EBUSY);
	mp_submit(self->channel, mp_cmd_cancel(self->lw));
	/* Cancelled, but that has not been reported yet */
	EXPECT_EQ(mp_tofd(self->channel, self->lw, 0), -EBUSY);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.res, -ECANCELED);
	fd = mp_tofd(self->channel, self->lw, 0);
	EXPECT_GE(fd, 0);
	close(fd);
}

/* A WRITE that goes on as a READ is one in either stage. */
TEST_F(lw, tofd__waits_for_the_read_of_a_write)
{
	struct megapipe_event event;
	char buf[1], c;
	int fd;

	mp_submit(self->channel, mp_cmd_then_read(self->lw, "x", 1, buf, 1));
	/* Not tried yet: that dispatch had no room. */
	EXPECT_EQ(mp_tofd(self->channel, self->lw, 0), -EBUSY);
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_read_all(self->client, &c, 1);
	EXPECT_EQ(mp_tofd(self->channel, self->lw, 0), -EBUSY);
	mp_write_all(self->client, "y", 1);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 1);
	fd = mp_tofd(self->channel, self->lw, 0);
	EXPECT_GE(fd, 0);
	close(fd);
}

/* What fails leaves the lwsocket as it was: it still echoes. */
TEST_F(lw, tofd__without_room_changes_nothing)
{
	struct rlimit limit, none = {};
	struct megapipe_event event;
	char buf[1];
	int fd;

	mp_must(getrlimit(RLIMIT_NOFILE, &limit));
	none.rlim_max = limit.rlim_max;
	mp_must(setrlimit(RLIMIT_NOFILE, &none));
	EXPECT_EQ(mp_tofd(self->channel, self->lw, 0), -EMFILE);
	mp_must(setrlimit(RLIMIT_NOFILE, &limit));

	mp_submit(self->channel, mp_cmd_read(self->lw, buf, 1));
	mp_write_all(self->client, "x", 1);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.res, 1);
	EXPECT_EQ(mp_stats(self->channel).lwsockets, 1);
	fd = mp_tofd(self->channel, self->lw, 0);
	EXPECT_GE(fd, 0);
	close(fd);
}

static void *write_late(void *arg)
{
	int fd = *(int *)arg;

	/* Long enough for the other thread to sleep; it need not. */
	usleep(200000);
	mp_write_all(fd, "late", 4);
	return NULL;
}

/* The callbacks are a socket's again: they wake who sleeps in read(). */
TEST_F(lw, tofd__wakes_a_sleeping_reader)
{
	pthread_t thread;
	char buf[5] = {};
	int fd;

	fd = mp_tofd(self->channel, self->lw, 0);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pthread_create(&thread, NULL, write_late, &self->client), 0);
	mp_read_all(fd, buf, 4);
	EXPECT_STREQ(buf, "late");
	pthread_join(thread, NULL);
	close(fd);
}

static void *read_everything(void *arg)
{
	static char buf[1 << 16];
	long total = 0;
	ssize_t n;

	usleep(200000);
	while ((n = read(*(int *)arg, buf, sizeof(buf))) > 0)
		total += n;
	return (void *)total;
}

/* ... and who sleeps in write(), for space */
TEST_F(lw, tofd__wakes_a_sleeping_writer)
{
	const size_t size = 16 << 20;
	void *total = NULL;
	pthread_t thread;
	char *data;
	int fd;

	data = calloc(1, size);
	ASSERT_NE(data, NULL);
	fd = mp_tofd(self->channel, self->lw, 0);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pthread_create(&thread, NULL, read_everything,
				 &self->client), 0);
	mp_write_all(fd, data, size);
	close(fd);
	pthread_join(thread, &total);
	EXPECT_EQ((long)total, size);
	free(data);
}

/* An error and a hang-up wake too; that is the other two callbacks. */
TEST_F(lw, tofd__poll_sees_the_reset)
{
	struct linger linger = { .l_onoff = 1 };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int fd, epoll;

	fd = mp_tofd(self->channel, self->lw, O_NONBLOCK);
	ASSERT_GE(fd, 0);
	epoll = mp_must(epoll_create1(EPOLL_CLOEXEC));
	mp_must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
	mp_must(setsockopt(self->client, SOL_SOCKET, SO_LINGER, &linger,
			   sizeof(linger)));
	close(self->client);
	self->client = -1;
	ASSERT_EQ(epoll_wait(epoll, &event, 1, 60000), 1);
	EXPECT_TRUE(event.events & EPOLLERR);
	EXPECT_TRUE(event.events & EPOLLHUP);
	close(epoll);
	close(fd);
}

/* It can be registered like any descriptor, in the channel it came from. */
TEST_F(lw, tofd__can_be_registered)
{
	struct megapipe_event event;
	int fd, handle;
	char buf[1];

	fd = mp_tofd(self->channel, self->lw, O_NONBLOCK);
	ASSERT_GE(fd, 0);
	handle = mp_register(self->channel, fd, 9);
	ASSERT_GT(handle, 0);
	EXPECT_FALSE(handle & MEGAPIPE_HANDLE_LWSOCKET);
	mp_submit(self->channel, mp_cmd_read(handle, buf, 1));
	mp_write_all(self->client, "x", 1);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.cookie, 9);
	EXPECT_EQ(event.res, 1);
	close(fd);
}

/* It can be given away: another process writes to the connection. */
TEST_F(lw, tofd__can_be_passed)
{
	char control[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd, pair[2], status;
	char buf[4] = {};
	pid_t pid;

	mp_must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	pid = mp_must(fork());
	if (!pid) {
		if (recvmsg(pair[1], &msg, 0) != 1)
			_exit(1);
		cmsg = CMSG_FIRSTHDR(&msg);
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
		_exit(write(fd, "abc", 3) != 3);
	}
	fd = mp_tofd(self->channel, self->lw, 0);
	ASSERT_GE(fd, 0);
	cmsg = CMSG_FIRSTHDR(&msg);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	ASSERT_EQ(sendmsg(pair[0], &msg, 0), 1);
	close(fd);
	mp_read_all(self->client, buf, 3);
	EXPECT_STREQ(buf, "abc");
	mp_must(waitpid(pid, &status, 0));
	EXPECT_EQ(status, 0);
	close(pair[0]);
	close(pair[1]);
}

/* A connection that is over becomes a descriptor that says so. */
TEST_F(lw, tofd__of_a_closed_connection)
{
	char buf[1];
	int fd;

	close(self->client);
	self->client = -1;
	fd = mp_tofd(self->channel, self->lw, 0);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(read(fd, buf, 1), 0);
	close(fd);
}

static void *write_ones(void *arg)
{
	char ones[257];
	int i, fd = *(int *)arg;

	memset(ones, 1, sizeof(ones));
	for (i = 0; i < 64; i++)
		mp_write_all(fd, ones, 1 + i % sizeof(ones));
	shutdown(fd, SHUT_WR);
	return NULL;
}

/*
 * The connection changes hands while segments arrive: no byte is lost and
 * nobody sleeps for ever.
 */
TEST_F(lw, tofd__under_traffic_loses_nothing)
{
	unsigned long i, rounds = mp_scaled(ROUNDS / 4);
	struct megapipe_event event;
	char buf[4096];
	pthread_t thread;
	int fd, lw, client;
	long total;
	ssize_t n;

	for (i = 0; i < rounds; i++) {
		lw = mp_lwsocket(self->channel, self->listener, &self->addr,
				 &client);
		ASSERT_EQ(pthread_create(&thread, NULL, write_ones, &client),
			  0);
		/* At different moments of the stream */
		for (total = 0; total < i % 7 * 60; total += event.res) {
			event = mp_run(self->channel,
				       mp_cmd_read(lw, buf, sizeof(buf)));
			ASSERT_GT(event.res, 0);
		}
		fd = mp_tofd(self->channel, lw, 0);
		ASSERT_GE(fd, 0);
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			total += n;
		EXPECT_EQ(n, 0);
		EXPECT_EQ(total, 64 * 65 / 2);
		pthread_join(thread, NULL);
		close(fd);
		close(client);
	}
}

/*
 * Reuse
 */

/*
 * A closed lwsocket's memory serves the next connection at once, while
 * callbacks of the old one may be on their way: what the old peer sends after
 * the close must not reach the new connection, nor its handle the old one's.
 */
TEST_F(lw, reuse__is_not_seen)
{
	unsigned long i, rounds = mp_scaled(ROUNDS);
	struct megapipe_event event;
	int lw, client, old;
	char buf[16];

	for (i = 0; i < rounds; i++) {
		old = self->client;
		mp_submit(self->channel,
			  mp_cmd_read(self->lw, buf, sizeof(buf)));
		mp_submit(self->channel, mp_cmd_close(self->lw));
		lw = mp_lwsocket(self->channel, self->listener, &self->addr,
				 &client);
		EXPECT_NE(lw, self->lw);
		mp_submit(self->channel, mp_cmd_read(lw, buf, sizeof(buf)));
		/* To a closed connection: may be answered by a reset. */
		send(old, "old", 3, MSG_NOSIGNAL);
		EXPECT_TRUE(mp_quiet(self->channel));
		mp_write_all(client, "n", 1);
		event = mp_wait(self->channel);
		ASSERT_EQ(event.handle, lw);
		ASSERT_EQ(event.res, 1);
		ASSERT_EQ(buf[0], 'n');
		close(old);
		self->lw = lw;
		self->client = client;
	}
}

/*
 * An IPv4 client of a listener for both families, with a partition and without
 */
TEST(dual_stack__of_an_ipv4_client)
{
	struct mp_addr addr = mp_loopback(AF_INET6), to, name;
	int channel = mp_open(), fd, listener, client, lw, value, i, off = 0;
	uint32_t len;
	char buf[8] = {};

	for (i = 0; i <= 1; i++) {
		fd = mp_must(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
		mp_must(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off,
				   sizeof(off)));
		addr.in6.sin6_addr = in6addr_any;
		addr.in6.sin6_port = 0;
		mp_must(bind(fd, &addr.sa, addr.len));
		mp_must(listen(fd, 8));
		mp_getsockname(fd, &name);
		listener = i ? mp_register_cpu(channel, fd, 0, 0) :
			       mp_register(channel, fd, 0);
		ASSERT_GT(listener, 0);
		to = mp_loopback(AF_INET);
		to.in.sin_port = name.in6.sin6_port;
		lw = mp_lwsocket(channel, listener, &to, &client);

		/* It is an IPv6 socket, with addresses that say IPv4. */
		ASSERT_EQ(mp_sockname(channel, lw, true, &name.storage, &len),
			  0);
		EXPECT_EQ(len, sizeof(name.in6));
		EXPECT_EQ(name.sa.sa_family, AF_INET6);
		EXPECT_TRUE(IN6_IS_ADDR_V4MAPPED(&name.in6.sin6_addr));
		mp_getsockname(client, &to);
		EXPECT_EQ(name.in6.sin6_port, to.in.sin_port);

		/* Options of both: it sends IPv4. */
		value = 0x10;
		EXPECT_EQ(mp_setsockopt(channel, lw, IPPROTO_IP, IP_TOS, &value,
					sizeof(value)), 0);
		EXPECT_EQ(mp_setsockopt(channel, lw, IPPROTO_IPV6, IPV6_TCLASS,
					&value, sizeof(value)), 0);
		value = 0;
		len = sizeof(value);
		EXPECT_EQ(mp_getsockopt(channel, lw, IPPROTO_IP, IP_TOS, &value,
					&len), 0);
		EXPECT_EQ(value, 0x10);

		mp_write_all(client, "to", 2);
		EXPECT_EQ(mp_run(channel, mp_cmd_read(lw, buf,
						      sizeof(buf))).res, 2);
		EXPECT_STREQ(buf, "to");
		EXPECT_EQ(mp_run(channel, mp_cmd_write(lw, "fro", 3)).res, 3);
		mp_read_all(client, buf, 3);
		EXPECT_STREQ(buf, "fro");

		lw = mp_tofd(channel, lw, 0);
		ASSERT_GE(lw, 0);
		mp_write_all(lw, "fd", 2);
		mp_read_all(client, buf, 2);
		close(lw);
		close(client);
		mp_submit(channel, mp_cmd_unregister(listener));
		close(fd);
		memset(buf, 0, sizeof(buf));
	}
	close(channel);
}

TEST_HARNESS_MAIN
