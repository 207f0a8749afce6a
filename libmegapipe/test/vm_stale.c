// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Handles used after they were closed, or never given out: every request is
 * answered with -EBADF, and nobody else's connection is touched.
 */
#include "net.h"

static char buf[64];

static void expect_answer(mp_handle h, int taken, enum mp_command answer)
{
	ASSERT_EQ(taken, 0);
	expect_result(h.channel, h, answer, -EBADF);
}

/* All the requests that there are, on a handle that is none */
static void expect_refused(mp_handle h)
{
	struct iovec iov = { buf, 1 };

	expect_answer(h, mp_accept(h, 1, true), MP_ACCEPT);
	expect_answer(h, mp_read(h, buf, 1), MP_READ);
	expect_answer(h, mp_write(h, buf, 1), MP_WRITE);
	expect_answer(h, mp_writev(h, &iov, 1), MP_WRITE);
	expect_answer(h, mp_write_then_read(h, buf, 1, buf, 1), MP_WRITE);
	expect_answer(h, mp_disconnect(h), MP_DISCONNECT);
	expect_answer(h, mp_cancel(h), MP_FAILED);
	expect_answer(h, mp_unregister(h), MP_FAILED);
	expect_answer(h, mp_close(h), MP_FAILED);

	/* And together in a batch, in order */
	ASSERT_EQ(mp_close(h), 0);
	ASSERT_EQ(mp_read(h, buf, 1), 0);
	ASSERT_EQ(mp_disconnect(h), 0);
	expect_answer(h, 0, MP_FAILED);
	expect_answer(h, 0, MP_READ);
	expect_answer(h, 0, MP_DISCONNECT);
	expect_silence(h.channel);
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
	expect_refused(h);

	/* The slot has a new owner: it must not notice. */
	other = client_open(&s, true, NULL, &next);
	EXPECT(next.id != h.id);
	expect_refused(h);
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
			expect_refused((mp_handle) { s.channel, ids[i] });
	server_close(&s);
}

static void register__lwsocket_that_is_none(void)
{
	struct server s;
	mp_handle h;

	server_open(&s, AF_INET, 64);
	ASSERT_EQ(mp_register(s.channel, 1 << 30 | 12345, NULL, NULL, &h), 0);
	expect_result(s.channel, h, MP_FAILED, -EBADF);

	/* With the read that comes right behind it is one command. */
	ASSERT_EQ(mp_register(s.channel, 1 << 30 | 12345, NULL, NULL, &h), 0);
	ASSERT_EQ(mp_read(h, buf, 1), 0);
	expect_result(s.channel, h, MP_READ, -EBADF);
	expect_silence(s.channel);
	server_close(&s);
}

TEST_MAIN(
	TEST(closed__refused),
	TEST(never_given_out__refused),
	TEST(register__lwsocket_that_is_none)
)
