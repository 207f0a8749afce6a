// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening a channel where there is no MegaPipe, or another one; its limits and
 * counters.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "fake.h"
#include "test.h"

static int create(void)
{
	struct mp_channel *channel = (void *)&fake;
	int ret = mp_create(&channel);

	if (ret)
		EXPECT(!channel);
	else
		mp_destroy(channel);
	return ret;
}

static void device__missing_or_forbidden(void)
{
	fake_reset();
	fake.open_result = -ENOENT;
	EXPECT_EQ(create(), -ENOENT);
	fake.open_result = -ENXIO;	/* a device file without a driver */
	EXPECT_EQ(create(), -ENOENT);
	fake.open_result = -ENODEV;
	EXPECT_EQ(create(), -ENOENT);
	fake.open_result = -EACCES;
	EXPECT_EQ(create(), -EACCES);
	fake.open_result = -EMFILE;
	EXPECT_EQ(create(), -EMFILE);
	EXPECT_EQ(fake.nr_closed, 0);
}

static void abi__other_version(void)
{
	fake_reset();
	fake.info.abi_version = MEGAPIPE_ABI_VERSION - 1;
	EXPECT_EQ(create(), -EPROTO);
	fake.info.abi_version = MEGAPIPE_ABI_VERSION + 1;
	EXPECT_EQ(create(), -EPROTO);
	EXPECT_EQ(fake.nr_closed, 2);
}

static void abi__fewer_operations(void)
{
	fake_reset();
	fake.info.nr_ops = MEGAPIPE_OP_LAST - 1;
	EXPECT_EQ(create(), -EPROTO);
	fake.info.nr_ops = MEGAPIPE_OP_LAST + 1;
	EXPECT_EQ(create(), 0);
}

static void abi__another_device(void)
{
	fake_reset();
	fake.info_result = -ENOTTY;
	EXPECT_EQ(create(), -EPROTO);
	fake.info_result = -EPERM;
	EXPECT_EQ(create(), -EPERM);
	EXPECT_EQ(fake.nr_closed, 2);
}

static void channels__many(void)
{
	struct mp_channel *channels[20];
	unsigned int i, round;

	fake_reset();
	for (round = 0; round < 3; round++) {
		for (i = 0; i < 20; i++) {
			ASSERT_EQ(mp_create(&channels[i]), 0);
			EXPECT_EQ(mp_fd(channels[i]), FAKE_FD + round * 20 + i);
		}
		for (i = 0; i < 20; i++)
			mp_destroy(channels[i]);
	}
	EXPECT_EQ(fake.nr_closed, 60);
}

/* The channel itself, its batch, its buffer, its copies; the first only once. */
static void memory__none(void)
{
	unsigned int n, failed = 0;

	fake_reset();
	errno = EXDEV;
	for (n = 1; n < 10; n++) {
		fake.no_memory = n;
		if (!create())
			break;
		failed++;
		EXPECT_EQ(fake.nr_closed, failed);
		EXPECT_EQ(errno, EXDEV);
	}
	EXPECT_EQ(failed, 3);	/* its place was there already */
}

/* All at once: none is lost, and none is given to two. */
static void *create_and_destroy(void *unused)
{
	struct mp_channel *channels[3];
	int i, round;

	for (round = 0; round < 500; round++) {
		for (i = 0; i < 3; i++)
			ASSERT_EQ(mp_create(&channels[i]), 0);
		for (i = 0; i < 3; i++) {
			EXPECT(mp_fd(channels[i]) >= FAKE_FD);
			EXPECT_EQ(mp_set_batch(channels[i], 5), 0);
		}
		for (i = 0; i < 3; i++)
			mp_destroy(channels[i]);
	}
	return unused;
}

static void channels__of_many_threads(void)
{
	pthread_t threads[4];
	int i;

	fake_reset();
	for (i = 0; i < 4; i++)
		ASSERT(!pthread_create(&threads[i], NULL, create_and_destroy,
				       NULL));
	for (i = 0; i < 4; i++)
		ASSERT(!pthread_join(threads[i], NULL));
}

static void stats__all_of_them(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_stats stats;

	fake.stats = (struct megapipe_stats) {
		.dispatches = 1, .commands = 2, .events = 3, .sleeps = 4,
		.accepts = 5, .accepts_foreign = 6, .handles = 7,
		.lwsockets = 8, .migrated_in = 9,
	};
	memset(&stats, 0xff, sizeof(stats));
	EXPECT_EQ(mp_stats(channel, &stats), 0);
	EXPECT_EQ(stats.dispatches, 1);
	EXPECT_EQ(stats.commands, 2);
	EXPECT_EQ(stats.events, 3);
	EXPECT_EQ(stats.sleeps, 4);
	EXPECT_EQ(stats.accepts, 5);
	EXPECT_EQ(stats.accepts_foreign, 6);
	EXPECT_EQ(stats.handles, 7);
	EXPECT_EQ(stats.lwsockets, 8);
	EXPECT_EQ(stats.migrated_in, 9);
	mp_destroy(channel);
}

static void info__all_of_it(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_info info;

	fake.info.max_user_handles = 1ULL << 40;
	fake.info.user_handles = 5;
	memset(&info, 0xff, sizeof(info));
	EXPECT_EQ(mp_info(channel, &info), 0);
	EXPECT_EQ(info.abi_version, MEGAPIPE_ABI_VERSION);
	EXPECT_EQ(info.commands, MEGAPIPE_OP_LAST);
	EXPECT_EQ(info.max_handles, 1024);
	EXPECT_EQ(info.max_batch, 4096);
	EXPECT_EQ(info.max_user_handles, 1ULL << 40);
	EXPECT_EQ(info.user_handles, 5);
	fake.info_result = -EPERM;
	EXPECT_EQ(mp_info(channel, &info), -EPERM);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(device__missing_or_forbidden),
	TEST(abi__other_version),
	TEST(abi__fewer_operations),
	TEST(abi__another_device),
	TEST(channels__many),
	TEST(memory__none),
	TEST(channels__of_many_threads),
	TEST(stats__all_of_them),
	TEST(info__all_of_it)
)
