// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * mp_dispatch_batch(): the fetched completions at once, and a signal mask for
 * the wait.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>

#include "fake.h"
#include "test.h"

static char buf[64];
static struct mp_event events[512];

static void complete_range(int first, int last)
{
	int id;

	for (id = first; id <= last; id++)
		fake_complete(id, MEGAPIPE_OP_READ, 1);
}

/* What mp_dispatch() began, it goes on with; it never fetches to fill up. */
static void fetched__handed_out_first(void)
{
	struct mp_channel *channel = fake_channel(64);
	int i;

	complete_range(1, 300);
	EXPECT_EQ(mp_dispatch(channel, events, 0), 1);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 100, -1, NULL), 100);
	for (i = 0; i < 100; i++)
		EXPECT_EQ(events[i].handle.id, i + 2);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 512, -1, NULL), 155);
	EXPECT_EQ(events[154].handle.id, 256);
	EXPECT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 512, -1, NULL), 44);
	EXPECT_EQ(fake.nr_calls, 2);
	EXPECT_EQ(fake_last()->min_events, 1);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 512, 0, NULL), 0);
	EXPECT_EQ(fake_last()->min_events, 0);
	mp_destroy(channel);
}

static void count__any_number(void)
{
	struct mp_channel *channel = fake_channel(64);

	complete_range(1, 3);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 1, 0, NULL), 1);
	EXPECT_EQ(mp_dispatch_batch(channel, events, UINT_MAX, 0, NULL), 2);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 0, 0, NULL), -EINVAL);
	mp_destroy(channel);
}

static void given_up__left_out(void)
{
	struct mp_channel *channel = fake_channel(64);

	complete_range(1, 5);
	EXPECT_EQ(mp_dispatch(channel, events, 0), 1);
	mp_unregister(handle(channel, 3));
	mp_close(handle(channel, 5));
	EXPECT_EQ(mp_dispatch_batch(channel, events, 512, 0, NULL), 2);
	EXPECT_EQ(events[0].handle.id, 2);
	EXPECT_EQ(events[1].handle.id, 4);
	mp_destroy(channel);
}

/* Nothing but what was given up: then it fetches, as mp_dispatch() does. */
static void all_given_up__fetches(void)
{
	struct mp_channel *channel = fake_channel(64);

	complete_range(1, 256);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 254, 0, NULL), 254);
	mp_unregister(handle(channel, 255));
	mp_unregister(handle(channel, 256));
	complete_range(300, 301);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 512, 0, NULL), 2);
	EXPECT_EQ(events[0].handle.id, 300);
	mp_destroy(channel);
}

static void requests__handed_over_when_nothing_is_fetched(void)
{
	struct mp_channel *channel = fake_channel(64);

	mp_read(handle(channel, 1), buf, 1);
	complete_range(1, 2);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 1, 0, NULL), 1);
	EXPECT_EQ(fake.nr_ran, 1);
	mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 1, 0, NULL), 1);
	EXPECT_EQ(fake.nr_ran, 1);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 1, 0, NULL), 0);
	EXPECT_EQ(fake.nr_ran, 2);
	mp_destroy(channel);
}

static void sigmask__goes_with_the_wait(void)
{
	struct mp_channel *channel = fake_channel(64);
	sigset_t mask;

	sigemptyset(&mask);
	fake.interrupted = true;
	EXPECT_EQ(mp_dispatch_batch(channel, events, 1, 2000, &mask), -EINTR);
	EXPECT_EQ(fake.sigmask, (uintptr_t)&mask);
	EXPECT_EQ(fake.sigsetsize, 8);
	EXPECT_EQ(fake_last()->timeout_ns, 2000000);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 1, 2000, NULL), -EINTR);
	EXPECT_EQ(fake.sigmask, 0);
	EXPECT_EQ(fake.sigsetsize, 0);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(fetched__handed_out_first),
	TEST(count__any_number),
	TEST(given_up__left_out),
	TEST(all_given_up__fetches),
	TEST(requests__handed_over_when_nothing_is_fetched),
	TEST(sigmask__goes_with_the_wait)
)
