// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A channel that threads share: one batch, one buffer of completions; nobody
 * waits with the lock, and a completion goes to one of them.
 *
 *	thread --mp_read()-----\             /--- poll() (without the lock)
 *	thread --mp_dispatch()--> lock, batch <
 *	thread --mp_close()----/             \--- ioctl() (with it)
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "fake.h"
#include "test.h"

static char buf[64];
static struct mp_channel *shared;

static struct mp_channel *shared_channel(unsigned int threshold)
{
	shared = fake_channel(threshold);
	ASSERT_EQ(mp_set_shared(shared, true), 0);
	return shared;
}

static void off_and_on__no_difference_to_one_thread(void)
{
	struct mp_channel *channel = shared_channel(2);
	struct mp_event events[4];
	mp_handle h;

	EXPECT_EQ(mp_register(channel, 5, NULL, NULL, &h), 0);
	mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(fake.nr_calls, 0);
	mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(fake.nr_calls, 1);
	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
	fake_complete(3, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(mp_dispatch(channel, events, -1), 1);
	EXPECT_EQ(mp_unregister(handle(channel, 2)), 0);
	EXPECT_EQ(mp_set_shared(channel, false), 0);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 4, 0, NULL), 1);
	EXPECT_EQ(events[0].handle.id, 3);
	EXPECT_EQ(mp_set_shared(channel, true), 0);
	EXPECT_EQ(mp_dispatch_batch(channel, events, 4, 0, NULL), 0);
	EXPECT_EQ(fake.nr_polls, 0);
	EXPECT_EQ(mp_flush(channel), 0);
	EXPECT_EQ(mp_set_batch(channel, 1), 0);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

/* While one waits, another asks, and the answer wakes the first. */
static void another_asks(void)
{
	EXPECT_EQ(mp_read(handle(shared, 1), buf, 1), 0);
	EXPECT_EQ(mp_flush(shared), 0);
	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
}

static void wait__others_may_ask(void)
{
	struct mp_channel *channel = shared_channel(64);
	struct mp_event event;
	sigset_t mask;

	fake.asleep = another_asks;
	fake.poll_result = 1;
	EXPECT_EQ(mp_dispatch_batch(channel, &event, 1, -1, &mask), 1);
	EXPECT_EQ(event.handle.id, 1);
	EXPECT_EQ(fake.nr_polls, 1);
	EXPECT_EQ(fake.poll_timeout_ns, -1);
	EXPECT(fake.poll_sigmask == &mask);
	EXPECT_EQ(fake_last()->min_events, 0);
	EXPECT_EQ(mp_dispatch(channel, &event, -1), 1);
	EXPECT_EQ(event.handle.id, 2);
	EXPECT_EQ(fake.nr_polls, 1);
	mp_destroy(channel);
}

/* Synchronous, although another thread is about to fetch. */
static void another_unregisters(void)
{
	fake_complete(1, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(mp_unregister(handle(shared, 1)), 0);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
}

static void wait__unregistered_meanwhile(void)
{
	struct mp_channel *channel = shared_channel(64);
	struct mp_event event;

	fake.asleep = another_unregisters;
	fake.poll_result = 1;
	EXPECT_EQ(mp_dispatch(channel, &event, -1), 1);
	EXPECT_EQ(event.handle.id, 2);
	mp_destroy(channel);
}

/* Woken for nothing, as another thread was quicker: the rest of the time. */
static void time_passes(void)
{
	fake.now_ns += 300000;
}

static void wait__until_the_deadline(void)
{
	struct mp_channel *channel = shared_channel(64);
	struct mp_event event;

	fake.now_ns = 5;
	fake.asleep = time_passes;
	fake.poll_result = 1;
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	EXPECT_EQ(fake.nr_polls, 0);
	EXPECT_EQ(mp_dispatch(channel, &event, 1000), 0);
	EXPECT_EQ(fake.nr_polls, 4);
	EXPECT_EQ(fake.poll_timeout_ns, 100000);
	mp_destroy(channel);
}

static void wait__time_is_over(void)
{
	struct mp_channel *channel = shared_channel(64);
	struct mp_event event;

	EXPECT_EQ(mp_dispatch(channel, &event, 1000), 0);
	EXPECT_EQ(fake.nr_polls, 1);
	EXPECT_EQ(fake.nr_calls, 2);	/* one last look */
	EXPECT_EQ(fake.poll_timeout_ns, 1000000);
	fake.now_ns = 1000;
	EXPECT_EQ(mp_dispatch(channel, &event, INT64_MAX / 1000), 0);
	EXPECT(fake.poll_timeout_ns > INT64_MAX / 2);
	mp_destroy(channel);
}

static void wait__signal_and_errors(void)
{
	struct mp_channel *channel = shared_channel(64);
	struct mp_event event;

	fake.poll_result = -EINTR;
	EXPECT_EQ(mp_dispatch(channel, &event, -1), -EINTR);
	fake.dispatch_result = -EPERM;
	EXPECT_EQ(mp_dispatch(channel, &event, -1), -EPERM);
	EXPECT_EQ(mp_dispatch_batch(channel, &event, 1, -1, NULL), -EPERM);
	fake.dispatch_result = 0;
	mp_destroy(channel);
}

/*
 * Real threads: each asks so often, and takes as many completions as it asked
 * for, whoever's they are; then nothing is left.  ThreadSanitizer looks on.
 */
#define THREADS		4
#define REQUESTS	2000

static void *use(void *arg)
{
	const int id = (int)(intptr_t)arg;
	struct mp_event events[8];
	unsigned int seed = (unsigned int)id;
	int asked, taken = 0, n;

	for (asked = 0; asked < REQUESTS; asked++) {
		ASSERT_EQ(mp_read(handle(shared, id), buf, 1), 0);
		if (rand_r(&seed) % 4)
			continue;
		n = mp_dispatch_batch(shared, events, 8, 0, NULL);
		ASSERT(n >= 0);
		taken += n;
		if (rand_r(&seed) % 64 == 0)
			ASSERT_EQ(mp_unregister(handle(shared, id + 100)), 0);
	}
	ASSERT_EQ(mp_flush(shared), 0);
	return (void *)(intptr_t)taken;
}

static void let_others(void)
{
	sched_yield();
}

static void threads__nothing_lost_nothing_twice(void)
{
	struct mp_channel *channel = shared_channel(7);
	pthread_t threads[THREADS];
	struct mp_event event;
	int i, taken = 0;
	void *result;

	fake.instant = true;
	fake.asleep = let_others;
	for (i = 0; i < THREADS; i++)
		ASSERT(!pthread_create(&threads[i], NULL, use,
				       (void *)(intptr_t)(i + 1)));
	for (i = 0; i < THREADS; i++) {
		ASSERT(!pthread_join(threads[i], &result));
		taken += (int)(intptr_t)result;
	}
	while (mp_dispatch(channel, &event, 0) == 1)
		taken++;
	EXPECT_EQ(taken, THREADS * REQUESTS);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

TEST_MAIN(
	TEST(off_and_on__no_difference_to_one_thread),
	TEST(wait__others_may_ask),
	TEST(wait__unregistered_meanwhile),
	TEST(wait__until_the_deadline),
	TEST(wait__time_is_over),
	TEST(wait__signal_and_errors),
	TEST(threads__nothing_lost_nothing_twice)
)
