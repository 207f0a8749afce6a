// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Wrong use of every function: an error number, no crash, and no system call.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "fake.h"
#include "test.h"

static char buf[64];

/* What every request answers to this handle */
static void expect_all(mp_handle h, int wanted)
{
	struct iovec iov = { buf, 1 };

	EXPECT_EQ(mp_accept(h, 1, true), wanted);
	EXPECT_EQ(mp_read(h, buf, 1), wanted);
	EXPECT_EQ(mp_write(h, buf, 1), wanted);
	EXPECT_EQ(mp_writev(h, &iov, 1), wanted);
	EXPECT_EQ(mp_disconnect(h), wanted);
	EXPECT_EQ(mp_cancel(h), wanted);
	EXPECT_EQ(mp_unregister(h), wanted);
	EXPECT_EQ(mp_close(h), wanted);
}

static void handle__names_nothing(void)
{
	struct mp_channel *channel = fake_channel(1);

	expect_all((mp_handle) { NULL, 0 }, -EBADF);
	expect_all((mp_handle) { NULL, 5 }, -EBADF);
	expect_all((mp_handle) { channel, 0 }, -EBADF);
	expect_all((mp_handle) { channel, -1 }, -EBADF);
	EXPECT_EQ(fake.nr_calls, 0);
	mp_destroy(channel);
}

static void channel__null(void)
{
	struct mp_stats stats;
	struct mp_event event;
	mp_handle h;

	fake_reset();
	EXPECT_EQ(mp_create(NULL), -EINVAL);
	EXPECT_EQ(mp_set_batch(NULL, 1), -EINVAL);
	EXPECT_EQ(mp_register(NULL, 0, NULL, NULL, &h), -EINVAL);
	EXPECT_EQ(mp_dispatch(NULL, &event, 0), -EINVAL);
	EXPECT_EQ(mp_flush(NULL), -EINVAL);
	EXPECT_EQ(mp_stats(NULL, &stats), -EINVAL);
	EXPECT_EQ(mp_fd(NULL), -EINVAL);
	mp_destroy(NULL);
}

static void result__null(void)
{
	struct mp_channel *channel = fake_channel(64);

	EXPECT_EQ(mp_register(channel, 3, NULL, NULL, NULL), -EINVAL);
	EXPECT_EQ(mp_dispatch(channel, NULL, 0), -EINVAL);
	EXPECT_EQ(mp_stats(channel, NULL), -EINVAL);
	EXPECT_EQ(fake.nr_registers, 0);
	mp_destroy(channel);
}

static void buffer__null_or_size_out_of_range(void)
{
	struct mp_channel *channel = fake_channel(1);
	mp_handle h = { channel, 1 };
	struct iovec iov = { buf, 1 };

	EXPECT_EQ(mp_read(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_read(h, buf, 0), -EINVAL);
	EXPECT_EQ(mp_read(h, buf, (size_t)INT_MAX + 1), -EINVAL);
	EXPECT_EQ(mp_read(h, buf, SIZE_MAX), -EINVAL);
	EXPECT_EQ(mp_write(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_write(h, buf, 0), -EINVAL);
	EXPECT_EQ(mp_write(h, buf, (size_t)INT_MAX + 1), -EINVAL);
	EXPECT_EQ(mp_write(h, buf, SIZE_MAX), -EINVAL);
	EXPECT_EQ(mp_writev(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_writev(h, &iov, 0), -EINVAL);
	EXPECT_EQ(mp_writev(h, &iov, -1), -EINVAL);
	EXPECT_EQ(mp_writev(h, &iov, 1025), -EINVAL);
	EXPECT_EQ(mp_writev(h, &iov, INT_MAX), -EINVAL);
	EXPECT_EQ(fake.nr_calls, 0);
	EXPECT_EQ(mp_read(h, buf, INT_MAX), 0);
	EXPECT_EQ(fake.nr_calls, 1);
	mp_destroy(channel);
}

static void batch__out_of_range(void)
{
	struct mp_channel *channel = fake_channel(64);

	EXPECT_EQ(mp_set_batch(channel, 0), -EINVAL);
	EXPECT_EQ(mp_set_batch(channel, MP_BATCH_MAX + 1), -EINVAL);
	EXPECT_EQ(mp_set_batch(channel, UINT_MAX), -EINVAL);
	mp_destroy(channel);
}

static void destroyed__every_function(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = { channel, 1 };
	struct mp_stats stats;
	struct mp_event event;
	int i;

	mp_read(h, buf, 1);
	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(1, MEGAPIPE_OP_READ, 1);
	mp_dispatch(channel, &event, 0);
	mp_destroy(channel);
	fake.nr_calls = fake.nr_closed = 0;

	for (i = 0; i < 3; i++)
		expect_all(h, -EBADF);
	EXPECT_EQ(mp_dispatch(channel, &event, -1), -EBADF);
	EXPECT_EQ(mp_flush(channel), -EBADF);
	EXPECT_EQ(mp_set_batch(channel, 1), -EBADF);
	EXPECT_EQ(mp_register(channel, 3, NULL, NULL, &h), -EBADF);
	EXPECT_EQ(mp_register(channel, MEGAPIPE_HANDLE_LWSOCKET | 1, NULL,
			      NULL, &h), -EBADF);
	EXPECT_EQ(mp_stats(channel, &stats), -EBADF);
	EXPECT_EQ(mp_fd(channel), -EBADF);
	mp_destroy(channel);
	EXPECT_EQ(fake.nr_calls, 0);
	EXPECT_EQ(fake.nr_closed, 0);
}

/* The next channel lives in the memory of the last, and works. */
static void destroyed__then_created(void)
{
	struct mp_channel *channel = fake_channel(2);
	mp_handle h = { channel, 1 };

	mp_destroy(channel);
	mp_read(h, buf, 1);
	channel = fake_channel(2);
	h.channel = channel;
	EXPECT_EQ(mp_read(h, buf, 1), 0);
	EXPECT_EQ(mp_read(h, buf, 1), 0);
	EXPECT_EQ(fake.nr_ran, 2);
	EXPECT_EQ(mp_fd(channel), FAKE_FD);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(handle__names_nothing),
	TEST(channel__null),
	TEST(result__null),
	TEST(buffer__null_or_size_out_of_range),
	TEST(batch__out_of_range),
	TEST(destroyed__every_function),
	TEST(destroyed__then_created)
)
