// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Commands that fail when the buffer of completions has no room to say so: the
 * batch stops there.  Nothing is lost, and the order stays.
 */
#include <errno.h>

#include "fake.h"
#include "test.h"

static char buf[64];

/* All of the completions, in order, then nothing more */
static void expect_all(struct mp_channel *channel, int first, int last)
{
	struct mp_event event;
	int id;

	for (id = first; id <= last; id++) {
		ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
		ASSERT_EQ(event.handle.id, id);
	}
}

/*
 *	buffer:	1 .. 256, full; the program has taken 1
 *	batch:	ok, stale 1000, ok, stale 1001
 */
static void threshold__failures_find_room(void)
{
	struct mp_channel *channel = fake_channel(4);
	struct mp_event event;
	unsigned int i;
	int id;

	for (id = 1; id <= 300; id++)
		fake_complete(id, MEGAPIPE_OP_READ, 1);
	fake_mark_stale(1000);
	fake_mark_stale(1001);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(fake_last()->ret, 256);

	mp_read(handle(channel, 1), buf, 1);
	mp_read(handle(channel, 1000), buf, 1);
	mp_read(handle(channel, 2), buf, 1);
	/* Taken, although the kernel consumed one and then had no room: */
	EXPECT_EQ(mp_read(handle(channel, 1001), buf, 1), 0);
	EXPECT_EQ(fake.nr_calls, 2);
	EXPECT_EQ(fake_last()->max_events, 0);
	EXPECT_EQ(fake_last()->done_cmds, 1);

	/* The rest goes first with the next. */
	EXPECT_EQ(mp_read(handle(channel, 3), buf, 1), 0);
	EXPECT_EQ(fake.nr_calls, 4);
	EXPECT(fake_last()->max_events > 0);
	EXPECT_EQ(fake_last()->done_cmds, 4);
	ASSERT_EQ(fake.nr_ran, 5);
	EXPECT_EQ(fake.ran[0].handle, 1);
	EXPECT_EQ(fake.ran[1].handle, 1000);
	EXPECT_EQ(fake.ran[2].handle, 2);
	EXPECT_EQ(fake.ran[3].handle, 1001);
	EXPECT_EQ(fake.ran[4].handle, 3);

	expect_all(channel, 2, 256);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(mp_dispatch(channel, &event, 0), 1);
		EXPECT_EQ(event.handle.id, 1000 + i);
		EXPECT_EQ(event.result, -9);
	}
	expect_all(channel, 257, 300);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

/* A program that uses stale handles and never asks for completions. */
static void many_failures__all_reported(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;
	int i, n = 0;

	fake_mark_stale(9);
	for (i = 0; i < 5000; i++)
		ASSERT_EQ(mp_read(handle(channel, 9), buf, 1), 0);
	while (mp_dispatch(channel, &event, 0) == 1)
		n++;
	EXPECT_EQ(n, 5000);
	EXPECT_EQ(fake.nr_ran, 5000);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

static void off__failures_find_room(void)
{
	struct mp_channel *channel = fake_channel(1);
	struct mp_event event;
	int i;

	for (i = 1; i <= 10; i++) {
		fake_mark_stale(i);
		ASSERT_EQ(mp_read(handle(channel, i), buf, 1), 0);
		EXPECT_EQ(fake.nr_ran, i);
	}
	expect_all(channel, 1, 10);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	EXPECT_EQ(fake_last()->max_events, 1);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

static void flush__hands_over_all(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;
	int id;

	for (id = 1; id <= 256; id++)
		fake_complete(id, MEGAPIPE_OP_READ, 1);
	mp_dispatch(channel, &event, 0);
	for (id = 1001; id <= 1020; id++) {
		fake_mark_stale(id);
		mp_write(handle(channel, id), buf, 1);
		mp_write(handle(channel, 1), buf, 1);
	}
	EXPECT_EQ(mp_flush(channel), 0);
	EXPECT_EQ(fake.nr_ran, 40);
	expect_all(channel, 2, 256);
	expect_all(channel, 1001, 1020);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	mp_destroy(channel);
}

/* Nothing is lost: what was fetched, what was taken, and the error. */
static void no_memory__refused(void)
{
	struct mp_channel *channel = fake_channel(4);
	struct mp_event event;
	int id;

	for (id = 1; id <= 256; id++)
		fake_complete(id, MEGAPIPE_OP_READ, 1);
	mp_dispatch(channel, &event, 0);
	for (id = 1001; id <= 1004; id++)
		fake_mark_stale(id);
	for (id = 1001; id <= 1003; id++)
		ASSERT_EQ(mp_read(handle(channel, id), buf, 1), 0);
	errno = EXDEV;
	fake.no_memory = 1;
	EXPECT_EQ(mp_flush(channel), -ENOMEM);
	EXPECT_EQ(errno, EXDEV);
	EXPECT_EQ(mp_flush(channel), 0);
	expect_all(channel, 2, 256);
	expect_all(channel, 1001, 1003);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

/* The kernel's half of the bargain broken: an error, not an endless loop. */
static void stuck_kernel__error(void)
{
	struct mp_channel *channel = fake_channel(2);

	fake.stuck = true;
	EXPECT_EQ(mp_read(handle(channel, 1), buf, 1), 0);
	EXPECT_EQ(mp_read(handle(channel, 2), buf, 1), -71);
	fake.stuck = false;
	EXPECT_EQ(mp_flush(channel), 0);
	ASSERT_EQ(fake.nr_ran, 1);	/* the refused one was not taken */
	EXPECT_EQ(fake.ran[0].handle, 1);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(threshold__failures_find_room),
	TEST(many_failures__all_reported),
	TEST(off__failures_find_room),
	TEST(flush__hands_over_all),
	TEST(no_memory__refused),
	TEST(stuck_kernel__error)
)
