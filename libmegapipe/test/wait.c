// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Waiting for a completion: timeouts, signals, errors of the kernel.
 */
#include <errno.h>
#include <limits.h>

#include "fake.h"
#include "test.h"

static char buf[64];

static void timeout__in_nanoseconds(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	EXPECT_EQ(mp_dispatch(channel, &event, 1500), 0);
	EXPECT_EQ(fake_last()->timeout_ns, 1500000);
	EXPECT_EQ(fake_last()->min_events, 1);
	mp_destroy(channel);
}

static void timeout__zero_does_not_wait(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	EXPECT_EQ(fake_last()->min_events, 0);
	mp_destroy(channel);
}

static void timeout__for_ever(void)
{
	static const int64_t timeouts[] = { -1, INT64_MIN, INT64_MAX };
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		mp_dispatch(channel, &event, timeouts[i]);
		EXPECT_EQ(fake_last()->timeout_ns, -1);
		EXPECT_EQ(fake_last()->min_events, 1);
	}
	mp_destroy(channel);
}

/* The requests were consumed: they must not be handed over twice. */
static void signal__requests_run_once(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = { channel, 1 };
	struct mp_event event;

	mp_read(h, buf, 1);
	fake.interrupted = true;
	EXPECT_EQ(mp_dispatch(channel, &event, -1), -EINTR);
	EXPECT_EQ(fake.nr_ran, 1);
	fake.interrupted = false;
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	EXPECT_EQ(fake.nr_ran, 1);
	mp_destroy(channel);
}

static void signal__before_the_requests(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = { channel, 1 };
	struct mp_event event;

	mp_read(h, buf, 1);
	fake.dispatch_result = -EINTR;
	EXPECT_EQ(mp_dispatch(channel, &event, -1), -EINTR);
	fake.dispatch_result = 0;
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	EXPECT_EQ(fake.nr_ran, 1);
	mp_destroy(channel);
}

/* After fork(), for one: the request is refused, those before it stay. */
static void refused__request_not_taken(void)
{
	struct mp_channel *channel = fake_channel(3);
	struct mp_event event;
	mp_handle h = { channel, 1 };

	mp_read(h, buf, 1);
	mp_read(h, buf, 2);
	fake.dispatch_result = -EPERM;
	EXPECT_EQ(mp_read(h, buf, 3), -EPERM);
	EXPECT_EQ(mp_read(h, buf, 4), -EPERM);
	EXPECT_EQ(mp_flush(channel), -EPERM);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), -EPERM);
	EXPECT_EQ(mp_set_batch(channel, 1), -EPERM);
	fake.dispatch_result = 0;
	EXPECT_EQ(mp_read(h, buf, 5), 0);
	ASSERT_EQ(fake.nr_ran, 3);
	EXPECT_EQ(fake.ran[0].len, 1);
	EXPECT_EQ(fake.ran[1].len, 2);
	EXPECT_EQ(fake.ran[2].len, 5);
	mp_destroy(channel);
}

static void errno__untouched(void)
{
	struct mp_channel *channel = fake_channel(1);
	mp_handle h = { channel, 1 };
	struct mp_event event;

	errno = EXDEV;
	fake.dispatch_result = -EPERM;
	mp_read(h, buf, 1);
	mp_dispatch(channel, &event, 0);
	mp_destroy(channel);
	EXPECT_EQ(errno, EXDEV);
}

TEST_MAIN(
	TEST(timeout__in_nanoseconds),
	TEST(timeout__zero_does_not_wait),
	TEST(timeout__for_ever),
	TEST(signal__requests_run_once),
	TEST(signal__before_the_requests),
	TEST(refused__request_not_taken),
	TEST(errno__untouched)
)
