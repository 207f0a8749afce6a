// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connecting: one completion, with the reason if it failed.
 */
#include "megapipe_test.h"

FIXTURE(connect)
{
	int channel;
	int listener;
	struct mp_addr addr;
	int fd;
	int handle;
};

FIXTURE_VARIANT(connect)
{
	int family;
};

FIXTURE_VARIANT_ADD(connect, tcp)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(connect, tcp6)
{
	.family = AF_INET6,
};

FIXTURE_VARIANT_ADD(connect, unix_stream)
{
	.family = AF_UNIX,
};

FIXTURE_SETUP(connect)
{
	self->channel = mp_open();
	self->listener = mp_listen(variant->family, 8, &self->addr);
	self->fd = mp_must(socket(variant->family, SOCK_STREAM, 0));
	self->handle = mp_register(self->channel, self->fd, 1);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(connect)
{
	close(self->channel);
	close(self->fd);
	close(self->listener);
}

TEST_F(connect, connects_and_then_carries_data)
{
	struct mp_addr copy = self->addr;
	struct megapipe_event event;
	char buf[4] = {};
	int fd;

	event = mp_run(self->channel, mp_cmd_connect(self->handle, &copy.sa,
						     copy.len));
	EXPECT_EQ(event.op, MEGAPIPE_OP_CONNECT);
	ASSERT_EQ(event.res, 0);
	fd = mp_must(accept(self->listener, NULL, NULL));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, "abc", 3)).res, 3);
	mp_read_all(fd, buf, 3);
	EXPECT_STREQ(buf, "abc");
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_connect(self->handle, &copy.sa,
					copy.len)).res, -EISCONN);
	close(fd);
}

TEST_F(connect, refused_is_the_connects_error_not_the_reads)
{
	char buf[4];
	struct megapipe_event event;

	close(self->listener);
	self->listener = dup(self->channel);
	event = mp_run(self->channel,
		       mp_cmd_connect(self->handle, &self->addr.sa,
				      self->addr.len));
	EXPECT_EQ(event.op, MEGAPIPE_OP_CONNECT);
	EXPECT_EQ(event.res, -ECONNREFUSED);
	EXPECT_LE(mp_run(self->channel,
			 mp_cmd_read(self->handle, buf, 4)).res, 0);
}

TEST_F(connect, wrong_addresses_are_refused)
{
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_connect(self->handle, (void *)8, 16)).res,
		  -EFAULT);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_connect(self->handle, &self->addr.sa, 0)).res,
		  -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_connect(self->handle, &self->addr.sa,
					sizeof(self->addr.storage) + 1)).res,
		  -EINVAL);
	EXPECT_LT(mp_run(self->channel,
			 mp_cmd_connect(self->handle, &self->addr.sa, 1)).res,
		  0);
}

/*
 * client ---SYN---> a listener whose queue is full: it drops the SYN, so the
 * handshake stays under way.
 */
FIXTURE(under_way)
{
	int channel;
	int fd;
	int handle;
	struct mp_addr addr;
};

FIXTURE_SETUP(under_way)
{
	self->channel = mp_open();
	mp_listen(AF_INET, 0, &self->addr);
	/* A backlog of 0 is one connection. */
	mp_connect(&self->addr);
	self->fd = mp_must(socket(AF_INET, SOCK_STREAM, 0));
	self->handle = mp_register(self->channel, self->fd, 1);
	ASSERT_GT(self->handle, 0);
	mp_submit(self->channel, mp_cmd_connect(self->handle, &self->addr.sa,
						self->addr.len));
	ASSERT_TRUE(mp_quiet(self->channel));
}

FIXTURE_TEARDOWN(under_way)
{
	close(self->channel);
	close(self->fd);
}

TEST_F(under_way, a_write_must_wait)
{
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, "x", 1)).res, -EBUSY);
}

TEST_F(under_way, can_be_cancelled)
{
	struct megapipe_event event;

	event = mp_run(self->channel, mp_cmd_cancel(self->handle));
	EXPECT_EQ(event.op, MEGAPIPE_OP_CONNECT);
	EXPECT_EQ(event.res, -ECANCELED);
}

TEST_F(under_way, can_be_unregistered)
{
	mp_submit(self->channel, mp_cmd_unregister(self->handle));
	EXPECT_TRUE(mp_quiet(self->channel));
}

TEST(connect__udp_sets_the_peer)
{
	int channel = mp_open(), fd, peer, handle;
	struct mp_addr addr, own;
	char buf[4];

	peer = mp_bound(AF_INET, SOCK_DGRAM, &addr);
	fd = mp_bound(AF_INET, SOCK_DGRAM, &own);
	handle = mp_register(channel, fd, 1);
	EXPECT_EQ(mp_run(channel, mp_cmd_connect(handle, &addr.sa,
						 addr.len)).res, 0);
	EXPECT_EQ(mp_run(channel, mp_cmd_write(handle, "a", 1)).res, 1);
	EXPECT_EQ(recv(peer, buf, 4, 0), 1);
	close(channel);
	close(fd);
	close(peer);
}

TEST(connect__not_for_lwsockets_and_pipes)
{
	int channel = mp_open(), fd, client, lw, fds[2], handle;
	struct mp_addr addr;

	fd = mp_listen(AF_INET, 4, &addr);
	lw = mp_lwsocket(channel, mp_register(channel, fd, 1), &addr, &client);
	EXPECT_EQ(mp_run(channel, mp_cmd_connect(lw, &addr.sa, addr.len)).res,
		  -EOPNOTSUPP);
	mp_must(pipe(fds));
	handle = mp_register(channel, fds[0], 1);
	EXPECT_EQ(mp_run(channel, mp_cmd_connect(handle, &addr.sa,
						 addr.len)).res, -ENOTSOCK);
	close(channel);
	close(fd);
	close(client);
}

TEST_HARNESS_MAIN
