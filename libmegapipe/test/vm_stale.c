// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Handles used after they were closed, or never given out: every request is
 * answered with -EBADF, and nobody else's connection is touched.
 */
#include "net.h"

static char buf[64];

/* All the requests that there are, on a handle that is none */
static void expect_refused(struct mp_channel *channel, mp_handle h)
{
	static const enum mp_command answers[] = {
		MP_ACCEPT, MP_READ, MP_WRITE, MP_WRITE, MP_DISCONNECT,
		MP_FAILED, MP_FAILED, MP_FAILED,
	};
	struct iovec iov = { buf, 1 };
	size_t i;

	ASSERT_EQ(mp_accept(h, 1, true), 0);
	ASSERT_EQ(mp_read(h, buf, 1), 0);
	ASSERT_EQ(mp_write(h, buf, 1), 0);
	ASSERT_EQ(mp_writev(h, &iov, 1), 0);
	ASSERT_EQ(mp_disconnect(h), 0);
	ASSERT_EQ(mp_cancel(h), 0);
	ASSERT_EQ(mp_unregister(h), 0);
	ASSERT_EQ(mp_close(h), 0);
	for (i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
		expect_result(channel, h, answers[i], -EBADF);
	expect_silence(channel);
}

static void closed(unsigned int batch)
{
	struct server s;
	mp_handle h, next;
	int client, other;

	server_open(&s, AF_INET, batch);
	client = client_open(&s, true, NULL, &h);
	ASSERT_EQ(mp_close(h), 0);
	expect_silence(s.channel);
	expect_refused(s.channel, h);

	/* The slot has a new owner: it must not notice. */
	other = client_open(&s, true, NULL, &next);
	EXPECT(next.id != h.id);
	expect_refused(s.channel, h);
	ASSERT_EQ(mp_read(next, buf, sizeof(buf)), 0);
	ASSERT_EQ(write(other, "mine", 4), 4);
	expect_result(s.channel, next, MP_READ, 4);
	close(client);
	close(other);
	server_close(&s);
}

static void closed__refused(void)
{
	closed(64);
	closed(1);
}

static void never_given_out__refused(void)
{
	static const int ids[] = {
		1, 1 << 20, (1 << 20) - 1, 1 << 30, (1 << 30) | 1, 0x7fffffff,
	};
	struct server s;
	size_t i;

	server_open(&s, AF_INET, 64);
	for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
		if (ids[i] != s.handle.id)
			expect_refused(s.channel,
				       (mp_handle) { s.channel, ids[i] });
	server_close(&s);
}

static void register__lwsocket_that_is_none(void)
{
	struct server s;
	mp_handle h;

	server_open(&s, AF_INET, 64);
	ASSERT_EQ(mp_register(s.channel, 1 << 30 | 12345, NULL, NULL, &h), 0);
	expect_result(s.channel, h, MP_FAILED, -EBADF);
	server_close(&s);
}

TEST_MAIN(
	TEST(closed__refused),
	TEST(never_given_out__refused),
	TEST(register__lwsocket_that_is_none)
)
