// SPDX-License-Identifier: GPL-2.0-only
/*
 * POLL: readiness, once, for what completions do not fit.
 */
#include <sys/epoll.h>

#include "megapipe_test.h"

FIXTURE(poll)
{
	int channel;
	int peer;
	int fd;
	int handle;
};

FIXTURE_VARIANT(poll)
{
	bool lwsocket;
};

FIXTURE_VARIANT_ADD(poll, descriptor)
{
	.lwsocket = false,
};

FIXTURE_VARIANT_ADD(poll, lwsocket)
{
	.lwsocket = true,
};

FIXTURE_SETUP(poll)
{
	self->channel = mp_open();
	self->handle = mp_stream(self->channel, AF_INET, variant->lwsocket,
				 0, &self->peer, &self->fd);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(poll)
{
	close(self->peer);
	close(self->channel);
	close(self->fd);
}

TEST_F(poll, in__when_data_comes_and_only_once)
{
	struct megapipe_event event;
	char buf[4];

	mp_submit(self->channel, mp_cmd_poll(self->handle, EPOLLIN));
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_poll(self->handle, EPOLLIN)).res, -EBUSY);
	mp_write_all(self->peer, "abc", 3);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_POLL);
	EXPECT_EQ(event.res, EPOLLIN);
	mp_write_all(self->peer, "d", 1);
	EXPECT_TRUE(mp_quiet(self->channel));
	/* It took nothing. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, buf, 4)).res, 4);
}

TEST_F(poll, out__at_once_while_there_is_space)
{
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_poll(self->handle,
				     EPOLLOUT | EPOLLIN)).res, EPOLLOUT);
}

/* The buffers are full, so POLL has to arm the write space callback itself. */
TEST_F(poll, out__when_there_is_space_again)
{
	long long deadline = mp_now_ns() + MP_DEADLINE_NS;
	static char buf[1 << 20];
	struct megapipe_event event;
	int ret;

	/* Full they are when they stay so: acknowledgements come late. */
	do {
		do {
			mp_submit(self->channel,
				  mp_cmd_write(self->handle, buf, sizeof(buf)));
		} while (mp_dispatch(self->channel, NULL, 0, &event, 1, 1,
				     100000000, NULL));
		event = mp_run(self->channel, mp_cmd_cancel(self->handle));
		EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
		mp_submit(self->channel, mp_cmd_poll(self->handle, EPOLLOUT));
		ret = mp_dispatch(self->channel, NULL, 0, &event, 1, 1,
				  100000000, NULL);
	} while (ret == 1 && mp_now_ns() < deadline);
	ASSERT_EQ(ret, 0);
	do {
		recv(self->peer, buf, sizeof(buf), MSG_DONTWAIT);
		ret = mp_dispatch(self->channel, NULL, 0, &event, 1, 1, 1000000,
				  NULL);
	} while (!ret && mp_now_ns() < deadline);
	ASSERT_EQ(ret, 1);
	EXPECT_EQ(event.op, MEGAPIPE_OP_POLL);
	EXPECT_EQ(event.res, EPOLLOUT);
}

TEST_F(poll, hup__is_always_told)
{
	mp_submit(self->channel, mp_cmd_poll(self->handle, 0));
	mp_submit(self->channel, mp_cmd_disconnect(self->handle));
	EXPECT_EQ(mp_wait(self->channel).op, MEGAPIPE_OP_DISCONNECT);
	EXPECT_TRUE(mp_quiet(self->channel));
	close(self->peer);
	self->peer = dup(self->channel);
	EXPECT_TRUE(mp_wait(self->channel).res & EPOLLHUP);
}

TEST_F(poll, rdhup__when_the_peer_ends_its_direction)
{
	mp_submit(self->channel, mp_cmd_poll(self->handle, EPOLLRDHUP));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_must(shutdown(self->peer, SHUT_WR));
	EXPECT_EQ(mp_wait(self->channel).res, EPOLLRDHUP);
}

TEST_F(poll, together_with_a_read)
{
	struct megapipe_event events[2];
	char buf[4];

	mp_submit(self->channel, mp_cmd_poll(self->handle, EPOLLRDHUP));
	mp_submit(self->channel, mp_cmd_read(self->handle, buf, 4));
	mp_must(shutdown(self->peer, SHUT_WR));
	ASSERT_EQ(mp_dispatch(self->channel, NULL, 0, events, 2, 2,
			      MP_DEADLINE_NS, NULL), 2);
	EXPECT_EQ(events[0].op + events[1].op,
		  MEGAPIPE_OP_READ + MEGAPIPE_OP_POLL);
}

TEST_F(poll, without_room_waits_for_the_next_dispatch)
{
	mp_write_all(self->peer, "abc", 3);
	mp_submit(self->channel, mp_cmd_poll(self->handle, EPOLLIN));
	EXPECT_EQ(mp_wait(self->channel).res, EPOLLIN);
}

TEST_HARNESS_MAIN
