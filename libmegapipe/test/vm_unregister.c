// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Taking back: unregister ends what is pending in silence, cancel says so,
 * close closes the descriptor that was registered.
 */
#include "net.h"

static char buf[1 << 16];

static void unregister__pending_read_ends_silently(void)
{
	int fd;
	struct pair p = pair_open_registered(&fd, buf);

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_unregister(p.h), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	ASSERT_EQ(write(p.client, "after", 5), 5);
	expect_silence(p.s.channel);

	/* The descriptor is an ordinary one again, and has the data. */
	EXPECT_EQ(read(fd, buf, sizeof(buf)), 5);
	ASSERT_EQ(mp_register(p.s.channel, fd, buf, NULL, &p.h), 0);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	ASSERT_EQ(write(p.client, "again", 5), 5);
	expect_result(p.s.channel, p.h, MP_READ, 5);
	close(fd);
	pair_close(&p);
}

static void unregister__closes_an_lwsocket(void)
{
	struct pair p = pair_open(true, NULL);

	ASSERT_EQ(mp_unregister(p.h), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	EXPECT(client_sees_end(p.client));
	pair_close(&p);
}

/* Unregistered while its completion waits in the library. */
static void unregister__drops_the_fetched(void)
{
	struct server s;
	struct mp_event event;
	mp_handle a, b;
	int client_a, client_b;
	char other[8];

	server_open(&s, AF_INET, 64);
	client_a = client_open(&s, true, NULL, &a);
	client_b = client_open(&s, true, NULL, &b);
	ASSERT_EQ(write(client_a, "a", 1), 1);
	ASSERT_EQ(write(client_b, "b", 1), 1);
	ASSERT_EQ(mp_read(a, buf, sizeof(buf)), 0);
	ASSERT_EQ(mp_read(b, other, sizeof(other)), 0);
	event = next_event(s.channel, MP_READ);
	ASSERT_EQ(mp_unregister(event.handle.id == a.id ? b : a), 0);
	expect_silence(s.channel);
	close(client_a);
	close(client_b);
	server_close(&s);
}

static void cancel__read(void)
{
	struct pair p = pair_open(true, NULL);

	ASSERT_EQ(mp_cancel(p.h), 0);	/* nothing is pending: nothing comes */
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_cancel(p.h), 0);
	expect_result(p.s.channel, p.h, MP_READ, -ECANCELED);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	ASSERT_EQ(write(p.client, "on", 2), 2);
	expect_result(p.s.channel, p.h, MP_READ, 2);
	pair_close(&p);
}

/* A write that has begun says how far it came, and the read is cancelled. */
static void cancel__write_and_read(void)
{
	static char big[8 << 20];
	struct mp_event event;
	bool read_seen = false, write_seen = false;
	struct pair p = pair_open(true, NULL);
	int i;

	ASSERT_EQ(mp_write(p.h, big, sizeof(big)), 0);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_cancel(p.h), 0);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(mp_dispatch(p.s.channel, &event, DEADLINE_US), 1);
		if (event.cmd == MP_READ) {
			EXPECT_EQ(event.result, -ECANCELED);
			read_seen = true;
		} else {
			EXPECT_EQ(event.cmd, MP_WRITE);
			EXPECT(event.result > 0 &&
			       event.result < (int)sizeof(big));
			write_seen = true;
		}
	}
	EXPECT(read_seen && write_seen);
	expect_silence(p.s.channel);
	pair_close(&p);
}

static void close__closes_the_descriptor(void)
{
	int fd;
	struct pair p = pair_open_registered(&fd, buf);

	ASSERT_EQ(mp_close(p.h), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	EXPECT_EQ(fcntl(fd, F_GETFD), -1);
	EXPECT(client_sees_end(p.client));
	pair_close(&p);
}

/* The program closed it and has something else under the number. */
static void close__spares_a_reused_number(void)
{
	int fd;
	struct pair p = pair_open_registered(&fd, buf);

	ASSERT_EQ(dup2(STDOUT_FILENO, fd), fd);
	ASSERT_EQ(mp_close(p.h), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	EXPECT(fcntl(fd, F_GETFD) >= 0);
	EXPECT(client_sees_end(p.client));
	close(fd);
	pair_close(&p);
}

TEST_MAIN(
	TEST(unregister__pending_read_ends_silently),
	TEST(unregister__closes_an_lwsocket),
	TEST(unregister__drops_the_fetched),
	TEST(cancel__read),
	TEST(cancel__write_and_read),
	TEST(close__closes_the_descriptor),
	TEST(close__spares_a_reused_number)
)
