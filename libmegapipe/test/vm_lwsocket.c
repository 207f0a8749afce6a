// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An lwsocket is a connection without a descriptor.
 */
#include <dirent.h>

#include "net.h"

#define CONNECTIONS 50

static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int nr = 0;

	ASSERT(dir);
	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

/* How many descriptors the process has more for so many accepted connections */
static int descriptors_for(bool is_lwsocket)
{
	struct server s;
	mp_handle h;
	int clients[CONNECTIONS];
	int i, before, more;

	server_open(&s, AF_INET, 64);
	before = count_descriptors();
	for (i = 0; i < CONNECTIONS; i++)
		clients[i] = client_open(&s, is_lwsocket, NULL, &h);
	more = count_descriptors() - before - CONNECTIONS;
	EXPECT_EQ(stats_of(s.channel).handles, CONNECTIONS + 1);
	EXPECT_EQ(stats_of(s.channel).lwsockets, is_lwsocket ? CONNECTIONS : 0);
	for (i = 0; i < CONNECTIONS; i++)
		close(clients[i]);
	server_close(&s);
	return more;
}

static void accept__no_descriptor(void)
{
	EXPECT_EQ(descriptors_for(true), 0);
	EXPECT_EQ(descriptors_for(false), CONNECTIONS);
}

static void close__channel_is_as_before(void)
{
	struct server s;
	mp_handle h;
	int i, client;
	char byte;

	server_open(&s, AF_INET, 64);
	for (i = 0; i < 1000; i++) {
		client = client_open(&s, true, NULL, &h);
		if (i % 3)
			ASSERT_EQ(mp_read(h, &byte, 1), 0);
		if (i % 2)
			client_reset(client);
		else
			close(client);
		ASSERT_EQ(i % 5 ? mp_close(h) : mp_unregister(h), 0);
	}
	ASSERT_EQ(mp_flush(s.channel), 0);
	EXPECT_EQ(stats_of(s.channel).handles, 1);
	EXPECT_EQ(stats_of(s.channel).lwsockets, 0);
	expect_silence(s.channel);
	server_close(&s);
}

static void another_channel__does_not_know_it(void)
{
	struct mp_channel *other = new_channel(1);
	struct server s;
	mp_handle h, foreign;
	char byte;
	int client;

	server_open(&s, AF_INET, 64);
	client = client_open(&s, true, NULL, &h);
	foreign = (mp_handle) { other, h.id };
	ASSERT_EQ(mp_read(foreign, &byte, 1), 0);
	expect_result(other, foreign, MP_READ, -EBADF);
	close(client);
	server_close(&s);
	mp_destroy(other);
}

TEST_MAIN(
	TEST(accept__no_descriptor),
	TEST(close__channel_is_as_before),
	TEST(another_channel__does_not_know_it)
)
