// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Writes larger than what the socket takes: they complete when the last byte
 * is in, or with what was written when the connection fails.
 */
#include "net.h"

#define SIZE	(1 << 20)
#define SNDBUF	4608		/* tiny: hundreds of partial writes */

static char out[SIZE], in[SIZE];

static int open_narrow(struct server *s, bool is_lwsocket, mp_handle *h)
{
	struct mp_event event;
	int client, i;

	for (i = 0; i < SIZE; i++)
		out[i] = (char)(i * 7 + i / 251);
	memset(in, 0, sizeof(in));
	s->channel = new_channel(64);
	server_listen(s, AF_INET, 16, SNDBUF);
	ASSERT_EQ(mp_register(s->channel, s->listener, s, NULL, &s->handle),
		  0);
	client = client_connect_buf(s, 4096);
	ASSERT_EQ(mp_accept(s->handle, 1, is_lwsocket), 0);
	event = next_event(s->channel, MP_ACCEPT);
	ASSERT(event.result >= 0);
	ASSERT_EQ(mp_register(s->channel, event.result, NULL, NULL, h), 0);
	return client;
}

/* The client reads until the server's write completes, and to the end. */
static void drain(struct server *s, int client, mp_handle h)
{
	struct mp_event event;
	size_t got = 0;
	int done = 0;

	while (got < SIZE) {
		ssize_t n = recv(client, in + got, SIZE - got, MSG_DONTWAIT);

		if (n > 0)
			got += (size_t)n;
		if (done)
			continue;
		done = mp_dispatch(s->channel, &event, n > 0 ? 0 : SECOND / 50);
		ASSERT(done >= 0);
		if (done) {
			EXPECT_EQ(event.cmd, MP_WRITE);
			EXPECT_EQ(event.handle.id, h.id);
			EXPECT_EQ(event.result, SIZE);
		}
	}
	if (!done)
		expect_result(s->channel, h, MP_WRITE, SIZE);
	EXPECT(!memcmp(in, out, SIZE));
}

static void partial(bool is_lwsocket)
{
	struct server s;
	mp_handle h;
	int client = open_narrow(&s, is_lwsocket, &h);

	ASSERT_EQ(mp_write(h, out, SIZE), 0);
	expect_silence(s.channel);
	drain(&s, client, h);
	close(client);
	server_close(&s);
}

static void write__completes_when_all_is_in(void)
{
	partial(true);
	partial(false);
}

static void vector(bool is_lwsocket)
{
	struct iovec iov[] = {
		{ out, 1 }, { out + 1, 99999 }, { out + 100000, 0 },
		{ out + 100000, SIZE - 100000 },
	};
	struct server s;
	mp_handle h;
	int client = open_narrow(&s, is_lwsocket, &h);

	ASSERT_EQ(mp_writev(h, iov, 4), 0);
	memset(iov, 0xff, sizeof(iov));	/* the array may be reused at once */
	expect_silence(s.channel);
	drain(&s, client, h);
	close(client);
	server_close(&s);
}

static void writev__completes_when_all_is_in(void)
{
	vector(true);
	vector(false);
}

/* A read completes while the write beside it is stuck. */
static void write__does_not_hold_up_reading(void)
{
	struct server s;
	mp_handle h;
	int client = open_narrow(&s, true, &h);
	char buf[8];

	ASSERT_EQ(mp_write(h, out, SIZE), 0);
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	expect_silence(s.channel);
	ASSERT_EQ(write(client, "hello", 5), 5);
	expect_result(s.channel, h, MP_READ, 5);
	drain(&s, client, h);
	close(client);
	server_close(&s);
}

static void write__one_at_a_time(void)
{
	struct server s;
	mp_handle h;
	int client = open_narrow(&s, true, &h);

	ASSERT_EQ(mp_write(h, out, SIZE), 0);
	ASSERT_EQ(mp_write(h, out, 1), 0);
	expect_result(s.channel, h, MP_WRITE, -EBUSY);
	drain(&s, client, h);
	close(client);
	server_close(&s);
}

/* The peer dies half-way: what was written, then the error. */
static void half(bool is_lwsocket)
{
	struct mp_event event;
	struct server s;
	mp_handle h;
	int client = open_narrow(&s, is_lwsocket, &h);

	ASSERT_EQ(mp_write(h, out, SIZE), 0);
	expect_silence(s.channel);
	client_reset(client);
	event = next_event(s.channel, MP_WRITE);
	EXPECT(event.result > 0 && event.result < SIZE);
	ASSERT_EQ(mp_write(h, out, SIZE), 0);
	event = next_event(s.channel, MP_WRITE);
	EXPECT(event.result == -ECONNRESET || event.result == -EPIPE);
	/* No SIGPIPE either: the test is still here. */
	ASSERT_EQ(mp_write(h, out, SIZE), 0);
	expect_result(s.channel, h, MP_WRITE, -EPIPE);
	server_close(&s);
}

static void write__reset_half_way(void)
{
	half(true);
	half(false);
}

static void write__bad_address(void)
{
	struct server s;
	mp_handle h;
	int client = open_narrow(&s, true, &h);

	ASSERT_EQ(mp_write(h, (void *)8, 100), 0);
	expect_result(s.channel, h, MP_WRITE, -EFAULT);
	ASSERT_EQ(mp_write(h, out, 100), 0);
	expect_result(s.channel, h, MP_WRITE, 100);
	close(client);
	server_close(&s);
}

TEST_MAIN(
	TEST(write__completes_when_all_is_in),
	TEST(writev__completes_when_all_is_in),
	TEST(write__does_not_hold_up_reading),
	TEST(write__one_at_a_time),
	TEST(write__reset_half_way),
	TEST(write__bad_address)
)
