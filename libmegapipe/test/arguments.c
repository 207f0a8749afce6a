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
static struct sockaddr_storage storage;
static struct sockaddr *const addr = (struct sockaddr *)&storage;

/* What every request and act answers to this handle */
static void expect_all(mp_handle h, int wanted)
{
	struct iovec iov = { buf, 1 };
	struct mp_listener listener;
	socklen_t len = 16;

	EXPECT_EQ(mp_accept(h, 1, true), wanted);
	EXPECT_EQ(mp_connect(h, addr, 16), wanted);
	EXPECT_EQ(mp_read(h, buf, 1), wanted);
	EXPECT_EQ(mp_readv(h, &iov, 1), wanted);
	EXPECT_EQ(mp_recvfrom(h, buf, 1, addr, 16), wanted);
	EXPECT_EQ(mp_write(h, buf, 1), wanted);
	EXPECT_EQ(mp_writev(h, &iov, 1), wanted);
	EXPECT_EQ(mp_write_then_read(h, buf, 1, buf, 1), wanted);
	EXPECT_EQ(mp_sendto(h, buf, 1, addr, 16), wanted);
	EXPECT_EQ(mp_sendfile(h, 0, 0, 1), wanted);
	EXPECT_EQ(mp_write_more(h, buf, 1), wanted);
	EXPECT_EQ(mp_writev_more(h, &iov, 1), wanted);
	EXPECT_EQ(mp_sendfile_more(h, 0, 0, 1), wanted);
	EXPECT_EQ(mp_poll(h, 1), wanted);
	EXPECT_EQ(mp_disconnect(h), wanted);
	EXPECT_EQ(mp_cancel(h), wanted);
	EXPECT_EQ(mp_unregister(h), wanted);
	EXPECT_EQ(mp_close(h), wanted);
	EXPECT_EQ(mp_tofd(h, 0), wanted);
	EXPECT_EQ(mp_setsockopt(h, 1, 1, buf, 4), wanted);
	EXPECT_EQ(mp_getsockopt(h, 1, 1, buf, &len), wanted);
	EXPECT_EQ(mp_getsockname(h, addr, &len), wanted);
	EXPECT_EQ(mp_getpeername(h, addr, &len), wanted);
	EXPECT_EQ(mp_listener(h, &listener), wanted);
	EXPECT_EQ(len, 16);
}

static void handle__names_nothing(void)
{
	struct mp_channel *channel = fake_channel(1);

	expect_all((mp_handle) { NULL, 0 }, -EBADF);
	expect_all((mp_handle) { NULL, 5 }, -EBADF);
	expect_all((mp_handle) { channel, 0 }, -EBADF);
	expect_all((mp_handle) { channel, -1 }, -EBADF);
	expect_all((mp_handle) { channel, INT_MIN }, -EBADF);
	EXPECT_EQ(fake.nr_calls + fake.nr_acts, 0);
	mp_destroy(channel);
}

static void channel__null(void)
{
	struct mp_stats stats;
	struct mp_event event;
	struct mp_info info;
	mp_handle h;

	fake_reset();
	EXPECT_EQ(mp_create(NULL), -EINVAL);
	EXPECT_EQ(mp_set_batch(NULL, 1), -EINVAL);
	EXPECT_EQ(mp_set_shared(NULL, true), -EINVAL);
	EXPECT_EQ(mp_register(NULL, 0, NULL, NULL, &h), -EINVAL);
	EXPECT_EQ(mp_dispatch(NULL, &event, 0), -EINVAL);
	EXPECT_EQ(mp_dispatch_batch(NULL, &event, 1, 0, NULL), -EINVAL);
	EXPECT_EQ(mp_flush(NULL), -EINVAL);
	EXPECT_EQ(mp_stats(NULL, &stats), -EINVAL);
	EXPECT_EQ(mp_info(NULL, &info), -EINVAL);
	EXPECT_EQ(mp_fd(NULL), -EINVAL);
	mp_destroy(NULL);
}

static void result__null(void)
{
	struct mp_channel *channel = fake_channel(64);

	EXPECT_EQ(mp_register(channel, 3, NULL, NULL, NULL), -EINVAL);
	EXPECT_EQ(mp_dispatch(channel, NULL, 0), -EINVAL);
	EXPECT_EQ(mp_dispatch_batch(channel, NULL, 1, 0, NULL), -EINVAL);
	EXPECT_EQ(mp_dispatch_batch(channel, NULL, 0, 0, NULL), -EINVAL);
	EXPECT_EQ(mp_stats(channel, NULL), -EINVAL);
	EXPECT_EQ(mp_info(channel, NULL), -EINVAL);
	EXPECT_EQ(mp_listener(handle(channel, 1), NULL), -EINVAL);
	EXPECT_EQ(fake.nr_registers + fake.nr_calls + fake.nr_acts, 0);
	mp_destroy(channel);
}

static void buffer__null_or_size_out_of_range(void)
{
	static const size_t bad[] = { 0, (size_t)INT_MAX + 1, SIZE_MAX };
	struct mp_channel *channel = fake_channel(1);
	mp_handle h = handle(channel, 1);
	size_t i;

	for (i = 0; i < 3; i++) {
		EXPECT_EQ(mp_read(h, buf, bad[i]), -EINVAL);
		EXPECT_EQ(mp_write(h, buf, bad[i]), -EINVAL);
		EXPECT_EQ(mp_recvfrom(h, buf, bad[i], addr, 16), -EINVAL);
		EXPECT_EQ(mp_sendfile(h, 0, 0, bad[i]), -EINVAL);
		if (bad[i])
			EXPECT_EQ(mp_sendto(h, buf, bad[i], addr, 16), -EINVAL);
	}
	EXPECT_EQ(mp_read(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_write(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_recvfrom(h, NULL, 1, addr, 16), -EINVAL);
	EXPECT_EQ(mp_sendto(h, NULL, 1, addr, 16), -EINVAL);
	EXPECT_EQ(mp_sendfile(h, 0, -1, 1), -EINVAL);
	EXPECT_EQ(mp_sendfile(h, 0, INT64_MIN, 1), -EINVAL);
	EXPECT_EQ(mp_sendfile(h, -1, 0, 1), -EBADF);
	EXPECT_EQ(mp_write_more(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_sendfile_more(h, 0, -1, 1), -EINVAL);
	EXPECT_EQ(fake.nr_calls, 0);
	EXPECT_EQ(mp_read(h, buf, INT_MAX), 0);
	EXPECT_EQ(mp_sendfile(h, 0, INT64_MAX, INT_MAX), 0);
	EXPECT_EQ(mp_sendto(h, buf, 0, addr, 16), 0);
	EXPECT_EQ(fake.nr_calls, 3);
	mp_destroy(channel);
}

static void vector__null_or_count_out_of_range(void)
{
	static const int bad[] = { 0, -1, INT_MIN, 1025, INT_MAX };
	struct mp_channel *channel = fake_channel(1);
	mp_handle h = handle(channel, 1);
	struct iovec iov = { buf, 1 };
	size_t i;

	EXPECT_EQ(mp_readv(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_writev(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_writev_more(h, NULL, 1), -EINVAL);
	for (i = 0; i < 5; i++) {
		EXPECT_EQ(mp_readv(h, &iov, bad[i]), -EINVAL);
		EXPECT_EQ(mp_writev(h, &iov, bad[i]), -EINVAL);
	}
	EXPECT_EQ(fake.nr_calls, 0);
	mp_destroy(channel);
}

static void address__null_or_length_out_of_range(void)
{
	static const socklen_t bad[] = { 0, sizeof(storage) + 1, UINT_MAX };
	struct mp_channel *channel = fake_channel(1);
	mp_handle h = handle(channel, 1);
	socklen_t len = 16;
	size_t i;

	EXPECT_EQ(mp_connect(h, NULL, 16), -EINVAL);
	EXPECT_EQ(mp_sendto(h, buf, 1, NULL, 16), -EINVAL);
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(mp_connect(h, addr, bad[i]), -EINVAL);
		EXPECT_EQ(mp_sendto(h, buf, 1, addr, bad[i]), -EINVAL);
	}
	EXPECT_EQ(mp_recvfrom(h, buf, 1, NULL, 16), -EINVAL);
	EXPECT_EQ(mp_recvfrom(h, buf, 1, addr, 0), -EINVAL);
	EXPECT_EQ(mp_getsockname(h, NULL, &len), -EINVAL);
	EXPECT_EQ(mp_getsockname(h, addr, NULL), -EINVAL);
	EXPECT_EQ(mp_getpeername(h, NULL, &len), -EINVAL);
	EXPECT_EQ(mp_getpeername(h, addr, NULL), -EINVAL);
	EXPECT_EQ(mp_setsockopt(h, 1, 1, NULL, 4), -EINVAL);
	EXPECT_EQ(mp_getsockopt(h, 1, 1, NULL, &len), -EINVAL);
	EXPECT_EQ(mp_getsockopt(h, 1, 1, buf, NULL), -EINVAL);
	EXPECT_EQ(fake.nr_calls + fake.nr_acts, 0);
	EXPECT_EQ(mp_connect(h, addr, sizeof(storage)), 0);
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
	struct mp_info info;
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
	EXPECT_EQ(mp_dispatch_batch(channel, &event, 1, -1, NULL), -EBADF);
	EXPECT_EQ(mp_set_shared(channel, true), -EBADF);
	EXPECT_EQ(mp_flush(channel), -EBADF);
	EXPECT_EQ(mp_set_batch(channel, 1), -EBADF);
	EXPECT_EQ(mp_register(channel, 3, NULL, NULL, &h), -EBADF);
	EXPECT_EQ(mp_register(channel, MEGAPIPE_HANDLE_LWSOCKET | 1, NULL,
			      NULL, &h), -EBADF);
	EXPECT_EQ(mp_stats(channel, &stats), -EBADF);
	EXPECT_EQ(mp_info(channel, &info), -EBADF);
	EXPECT_EQ(mp_fd(channel), -EBADF);
	mp_destroy(channel);
	EXPECT_EQ(fake.nr_calls + fake.nr_acts, 0);
	EXPECT_EQ(fake.nr_closed, 0);
}

/* Sharing ends with the channel. */
static void destroyed__shared(void)
{
	struct mp_channel *channel = fake_channel(64);

	EXPECT_EQ(mp_set_shared(channel, true), 0);
	mp_read(handle(channel, 1), buf, 1);
	mp_destroy(channel);
	EXPECT_EQ(fake.nr_ran, 1);
	expect_all(handle(channel, 1), -EBADF);
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
	TEST(vector__null_or_count_out_of_range),
	TEST(address__null_or_length_out_of_range),
	TEST(batch__out_of_range),
	TEST(destroyed__every_function),
	TEST(destroyed__shared),
	TEST(destroyed__then_created)
)
