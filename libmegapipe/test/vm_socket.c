// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What acts at once: options and addresses without a descriptor, and turning an
 * lwsocket into one.
 */
#define _GNU_SOURCE
#include "net.h"

static char buf[64];

static void options(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);
	int off = 0, value = -1;
	socklen_t len = sizeof(value);

	ASSERT_EQ(mp_getsockopt(p.h, IPPROTO_TCP, TCP_NODELAY, &value, &len), 0);
	EXPECT_EQ(len, sizeof(value));
	EXPECT_EQ(!!value, 1);
	ASSERT_EQ(mp_setsockopt(p.h, IPPROTO_TCP, TCP_NODELAY, &off,
				sizeof(off)), 0);
	ASSERT_EQ(mp_getsockopt(p.h, IPPROTO_TCP, TCP_NODELAY, &value, &len), 0);
	EXPECT_EQ(value, 0);
	EXPECT(mp_setsockopt(p.h, IPPROTO_TCP, 9999, &off, sizeof(off)) < 0);
	EXPECT_EQ(mp_setsockopt(p.h, IPPROTO_TCP, TCP_NODELAY, (void *)8, 4),
		  -EFAULT);
	pair_close(&p);
}

static void options__set_and_read(void)
{
	both_kinds(options);
}

static void names(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);
	struct sockaddr_in local, peer, name;
	socklen_t len = sizeof(local);

	ASSERT(!getsockname(p.client, (struct sockaddr *)&peer, &len));
	ASSERT(!getpeername(p.client, (struct sockaddr *)&local, &len));
	ASSERT_EQ(mp_getsockname(p.h, (struct sockaddr *)&name, &len), 0);
	EXPECT_EQ(len, sizeof(name));
	EXPECT(!memcmp(&name, &local, sizeof(name)));
	len = 4;
	memset(&name, 0, sizeof(name));
	ASSERT_EQ(mp_getpeername(p.h, (struct sockaddr *)&name, &len), 0);
	EXPECT_EQ(len, sizeof(name));	/* there was room for 4 */
	EXPECT_EQ(name.sin_port, peer.sin_port);
	EXPECT_EQ(name.sin_addr.s_addr, 0);
	pair_close(&p);
}

static void names__as_the_peer_sees_them(void)
{
	both_kinds(names);
}

static void tofd__goes_on_as_a_descriptor(void)
{
	struct pair p = pair_open(true, NULL);
	int fd;

	ASSERT_EQ(mp_write(p.h, "from lwsocket", 13), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, 13);
	fd = mp_tofd(p.h, O_CLOEXEC | O_NONBLOCK);
	ASSERT(fd >= 0);
	EXPECT(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	EXPECT(fcntl(fd, F_GETFL) & O_NONBLOCK);
	ASSERT_EQ(write(fd, " and descriptor", 15), 15);
	EXPECT_EQ(recv(p.client, buf, 28, MSG_WAITALL), 28);
	EXPECT(!memcmp(buf, "from lwsocket and descriptor", 28));
	ASSERT_EQ(mp_read(p.h, buf, 1), 0);
	expect_result(p.s.channel, p.h, MP_READ, -EBADF);
	close(fd);
	EXPECT(client_sees_end(p.client));
	pair_close(&p);
}

/* After the read before it, although that is only collected */
static void tofd__busy(void)
{
	struct pair p = pair_open(true, NULL);
	int fd;

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	EXPECT_EQ(mp_tofd(p.h, 0), -EBUSY);
	ASSERT_EQ(mp_cancel(p.h), 0);
	expect_result(p.s.channel, p.h, MP_READ, -ECANCELED);
	EXPECT_EQ(mp_tofd(p.h, 12345678), -EINVAL);
	fd = mp_tofd(p.h, 0);
	EXPECT(fd >= 0);
	close(fd);
	EXPECT_EQ(mp_tofd(p.h, 0), -EBADF);
	EXPECT(mp_tofd(p.s.handle, 0) < 0);	/* has one already */
	pair_close(&p);
}

TEST_MAIN(
	TEST(options__set_and_read),
	TEST(names__as_the_peer_sees_them),
	TEST(tofd__goes_on_as_a_descriptor),
	TEST(tofd__busy)
)
