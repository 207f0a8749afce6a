// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Is a listener partitioned, and how does it fare?
 */
#define _GNU_SOURCE
#include "net.h"

static void listener__partitioned_or_not(void)
{
	struct mp_listener before, after;
	cpu_set_t mask;
	struct server s;
	mp_handle h;
	int client;

	server_open(&s, AF_INET, 64);
	ASSERT_EQ(mp_listener(s.handle, &before), 0);
	EXPECT_EQ(before.partitions, 0);
	EXPECT_EQ(before.cpus, 0);
	EXPECT_EQ(before.backlog, 128);
	ASSERT_EQ(mp_unregister(s.handle), 0);

	sched_getaffinity(0, sizeof(mask), &mask);
	ASSERT_EQ(mp_register(s.channel, s.listener, &s, &mask, &s.handle), 0);
	client = client_connect(&s);
	ASSERT_EQ(mp_listener(s.handle, &after), 0);
	EXPECT_EQ(after.partitions, 1);
	EXPECT(after.cpus >= 1);
	EXPECT_EQ(after.queued, 1);
	close(client);
	client = client_open(&s, true, NULL, &h);
	ASSERT_EQ(mp_listener(s.handle, &after), 0);
	EXPECT(after.accepts >= 1);
	EXPECT(mp_listener(h, &after) < 0);
	close(client);
	server_close(&s);
}

TEST_MAIN(
	TEST(listener__partitioned_or_not)
)
