// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The ends of a connection: end of file, reset, disconnect, close.
 */
#include "net.h"

static char buf[256];

static void eof(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, buf);

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_silence(p.s.channel);
	close(p.client);
	expect_result(p.s.channel, p.h, MP_READ, 0);
	/* And again, as often as one asks. */
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_result(p.s.channel, p.h, MP_READ, 0);
	server_close(&p.s);
}

static void read__end_of_file(void)
{
	both_kinds(eof);
}

static void reset(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, buf);

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_silence(p.s.channel);
	client_reset(p.client);
	expect_result(p.s.channel, p.h, MP_READ, -ECONNRESET);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_result(p.s.channel, p.h, MP_READ, 0);
	ASSERT_EQ(mp_close(p.h), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	EXPECT_EQ(stats_of(p.s.channel).handles, 1);
	server_close(&p.s);
}

static void read__reset(void)
{
	both_kinds(reset);
}

/* What the peer still sends is read, then comes the end of file. */
static void disconnect(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, buf);

	ASSERT_EQ(mp_write(p.h, "bye", 3), 0);
	ASSERT_EQ(mp_disconnect(p.h), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, 3);
	expect_result(p.s.channel, p.h, MP_DISCONNECT, 0);
	EXPECT_EQ(recv(p.client, buf, 3, MSG_WAITALL), 3);
	EXPECT(client_sees_end(p.client));
	close(p.client);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_result(p.s.channel, p.h, MP_READ, 0);
	ASSERT_EQ(mp_write(p.h, buf, 1), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, -EPIPE);
	EXPECT_EQ(stats_of(p.s.channel).handles, 2);
	ASSERT_EQ(mp_close(p.h), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	EXPECT_EQ(stats_of(p.s.channel).handles, 1);
	server_close(&p.s);
}

static void disconnect__after_the_write(void)
{
	both_kinds(disconnect);
}

static void close_it(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, buf);

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	ASSERT_EQ(mp_close(p.h), 0);
	expect_silence(p.s.channel);
	EXPECT(client_sees_end(p.client));
	close(p.client);
	EXPECT_EQ(stats_of(p.s.channel).handles, 1);
	server_close(&p.s);
}

static void close__peer_sees_end_of_file(void)
{
	both_kinds(close_it);
}

static void destroy__closes_lwsockets(void)
{
	struct pair p = pair_open(true, buf);

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	server_close(&p.s);
	EXPECT(client_sees_end(p.client));
	close(p.client);
}

/* The end of the program that holds the handle, with everything pending. */
static void destroy__accepted_but_not_asked_for(void)
{
	struct mp_event event;
	struct server s;
	int clients[3], i;

	server_open(&s, AF_INET, 64);
	for (i = 0; i < 3; i++)
		clients[i] = client_connect(&s);
	ASSERT_EQ(mp_accept(s.handle, MP_FOREVER, false), 0);
	event = next_event(s.channel, MP_ACCEPT);
	server_close(&s);
	close(event.result);
	for (i = 0; i < 3; i++) {
		EXPECT(client_sees_end(clients[i]));
		close(clients[i]);
	}
}

TEST_MAIN(
	TEST(read__end_of_file),
	TEST(read__reset),
	TEST(disconnect__after_the_write),
	TEST(close__peer_sees_end_of_file),
	TEST(destroy__closes_lwsockets),
	TEST(destroy__accepted_but_not_asked_for)
)
