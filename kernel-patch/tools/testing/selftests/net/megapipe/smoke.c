// SPDX-License-Identifier: GPL-2.0-only
/*
 * One echo over an lwsocket: if this fails, look no further.
 *
 *	client ---- TCP over loopback ----> lwsocket of a channel
 */
#include "megapipe_test.h"

TEST(open__tells_version_and_limits)
{
	int channel = mp_open();
	struct megapipe_info info = mp_info(channel);

	EXPECT_EQ(info.abi_version, MEGAPIPE_ABI_VERSION);
	EXPECT_EQ(info.nr_ops, MEGAPIPE_OP_LAST);
	EXPECT_GT(info.max_handles, 0);
	EXPECT_GT(info.max_dispatch, 0);
	close(channel);
}

TEST(lwsocket__echoes)
{
	int channel = mp_open();
	struct megapipe_event event;
	struct megapipe_stats stats;
	int fd, listener, client, lw;
	struct mp_addr addr;
	char buf[16] = {};

	fd = mp_listen(AF_INET, 16, &addr);
	listener = mp_register(channel, fd, 7);
	ASSERT_GT(listener, 0);
	lw = mp_lwsocket(channel, listener, &addr, &client);
	EXPECT_TRUE(lw & MEGAPIPE_HANDLE_LWSOCKET);
	mp_submit(channel, mp_cmd_cookie(lw, 8));

	/* Pending first, then the data comes. */
	mp_submit(channel, mp_cmd_read(lw, buf, sizeof(buf)));
	EXPECT_TRUE(mp_quiet(channel));
	mp_write_all(client, "hello", 5);
	event = mp_wait(channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.handle, lw);
	EXPECT_EQ(event.cookie, 8);
	ASSERT_EQ(event.res, 5);
	EXPECT_STREQ(buf, "hello");

	event = mp_run(channel, mp_cmd_write(lw, buf, 5));
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(event.res, 5);
	memset(buf, 0, sizeof(buf));
	mp_read_all(client, buf, 5);
	EXPECT_STREQ(buf, "hello");

	stats = mp_stats(channel);
	EXPECT_EQ(stats.accepts, 1);
	EXPECT_EQ(stats.handles, 2);

	mp_submit(channel, mp_cmd_close(lw));
	EXPECT_EQ(read(client, buf, sizeof(buf)), 0);
	EXPECT_EQ(mp_stats(channel).handles, 1);
	close(client);
	close(channel);
	close(fd);
}

TEST_HARNESS_MAIN
