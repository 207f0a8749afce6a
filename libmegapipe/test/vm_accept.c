// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Accepting: as many as were asked for, and how many still wait.
 */
#include "net.h"

#define CLIENTS 5

static int clients[CLIENTS];

static void connect_all(const struct server *s)
{
	int i;

	for (i = 0; i < CLIENTS; i++)
		clients[i] = client_connect(s);
}

static void close_all(void)
{
	int i;

	for (i = 0; i < CLIENTS; i++)
		close(clients[i]);
}

static void count(bool is_lwsocket)
{
	struct mp_event event;
	struct server s;
	int i;

	server_open(&s, AF_INET, 64);
	connect_all(&s);
	ASSERT_EQ(mp_accept(s.handle, 3, is_lwsocket), 0);
	for (i = 0; i < 3; i++) {
		event = next_event(s.channel, MP_ACCEPT);
		ASSERT(event.result >= 0);
		EXPECT_EQ(event.backlog, CLIENTS - 1 - i);
		if (!is_lwsocket)
			close(event.result);
	}
	expect_silence(s.channel);
	ASSERT_EQ(mp_accept(s.handle, 2, is_lwsocket), 0);
	for (i = 3; i < CLIENTS; i++) {
		event = next_event(s.channel, MP_ACCEPT);
		EXPECT_EQ(event.backlog, CLIENTS - 1 - i);
		if (!is_lwsocket)
			close(event.result);
	}
	expect_silence(s.channel);
	EXPECT_EQ(stats_of(s.channel).accepts, CLIENTS);
	close_all();
	server_close(&s);
}

static void accept__count_and_backlog(void)
{
	count(true);
	count(false);
}

static void accept__for_ever_until_cancelled(void)
{
	struct mp_event event;
	struct server s;
	int i;

	server_open(&s, AF_INET6, 64);
	ASSERT_EQ(mp_accept(s.handle, MP_FOREVER, true), 0);
	expect_silence(s.channel);
	connect_all(&s);
	for (i = 0; i < CLIENTS; i++) {
		event = next_event(s.channel, MP_ACCEPT);
		EXPECT(event.result >= 0);
	}
	ASSERT_EQ(mp_cancel(s.handle), 0);
	expect_result(s.channel, s.handle, MP_ACCEPT, -ECANCELED);
	close_all();
	connect_all(&s);
	expect_silence(s.channel);
	ASSERT_EQ(mp_accept(s.handle, 1, true), 0);
	event = next_event(s.channel, MP_ACCEPT);
	EXPECT(event.result >= 0);
	close_all();
	server_close(&s);
}

static void accept__one_at_a_time(void)
{
	struct server s;

	server_open(&s, AF_INET, 64);
	ASSERT_EQ(mp_accept(s.handle, 1, true), 0);
	ASSERT_EQ(mp_accept(s.handle, 1, true), 0);
	expect_result(s.channel, s.handle, MP_ACCEPT, -EBUSY);
	server_close(&s);
}

/* What comes out of accept as a descriptor */
static void descriptor__non_blocking_and_cloexec(void)
{
	struct mp_event event;
	struct server s;
	int client;

	server_open(&s, AF_INET, 64);
	client = client_connect(&s);
	ASSERT_EQ(mp_accept(s.handle, 1, false), 0);
	event = next_event(s.channel, MP_ACCEPT);
	EXPECT(fcntl(event.result, F_GETFL) & O_NONBLOCK);
	EXPECT(fcntl(event.result, F_GETFD) & FD_CLOEXEC);
	EXPECT_EQ(write(event.result, "x", 1), 1);
	EXPECT_EQ(read(client, &event, 1), 1);
	close(event.result);
	close(client);
	server_close(&s);
}

static void wrong_kind__not_supported(void)
{
	struct server s;
	mp_handle h;
	char byte;
	int client;

	server_open(&s, AF_INET, 64);
	client = client_open(&s, true, NULL, &h);
	ASSERT_EQ(mp_accept(h, 1, true), 0);
	expect_result(s.channel, h, MP_ACCEPT, -EOPNOTSUPP);
	ASSERT_EQ(mp_read(s.handle, &byte, 1), 0);
	expect_result(s.channel, s.handle, MP_READ, -EOPNOTSUPP);
	ASSERT_EQ(mp_write(s.handle, &byte, 1), 0);
	expect_result(s.channel, s.handle, MP_WRITE, -EOPNOTSUPP);
	close(client);
	server_close(&s);
}

TEST_MAIN(
	TEST(accept__count_and_backlog),
	TEST(accept__for_ever_until_cancelled),
	TEST(accept__one_at_a_time),
	TEST(descriptor__non_blocking_and_cloexec),
	TEST(wrong_kind__not_supported)
)
