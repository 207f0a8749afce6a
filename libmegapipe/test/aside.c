// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What only describes a buffer (arrays of iovecs, addresses) is copied beside the
 * batch: the program may reuse it at once, although the kernel sees it later.
 */
#include <errno.h>
#include <string.h>

#include "fake.h"
#include "test.h"

static char buf[64];

static void vectors__copied(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct iovec iov[3] = { { buf, 1 }, { buf, 2 }, { buf, 3 } };
	mp_handle h = handle(channel, 1);
	unsigned int i;

	for (i = 0; i < 10; i++) {
		iov[0].iov_len = i + 1;
		EXPECT_EQ(i % 2 ? mp_readv(h, iov, 3) : mp_writev(h, iov, 3), 0);
	}
	memset(iov, 0, sizeof(iov));
	EXPECT_EQ(mp_flush(channel), 0);
	for (i = 0; i < 10; i++) {
		EXPECT_EQ(fake.ran[i].op, i % 2 ? MEGAPIPE_OP_READV :
						  MEGAPIPE_OP_WRITEV);
		EXPECT_EQ(fake.ran[i].len, 3);
		EXPECT_EQ(fake.vectors[i].iov_len, i + 1);
	}
	mp_destroy(channel);
}

/* Addresses of odd lengths, among vectors that want their alignment */
static void addresses__copied(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct sockaddr_storage addr;
	struct iovec iov = { buf, 77 };
	mp_handle h = handle(channel, 1);
	unsigned int i;

	for (i = 0; i < 10; i++) {
		socklen_t len = i * 7 + 3;

		memset(&addr, (int)i + 1, sizeof(addr));
		EXPECT_EQ(mp_connect(h, (struct sockaddr *)&addr, len), 0);
		EXPECT_EQ(mp_sendto(h, buf, 9, (struct sockaddr *)&addr, len),
			  0);
		EXPECT_EQ(mp_writev(h, &iov, 1), 0);
	}
	memset(&addr, 0, sizeof(addr));
	EXPECT_EQ(mp_flush(channel), 0);
	for (i = 0; i < 10; i++) {
		const unsigned int len = i * 7 + 3, at = 3 * i;

		memset(&addr, (int)i + 1, len);
		EXPECT_EQ(fake.ran[at].len, len);
		EXPECT(!memcmp(&fake.addresses[at], &addr, len));
		EXPECT_EQ(fake.ran[at + 1].aux, len);
		EXPECT_EQ(fake.ran[at + 1].len, 9);
		EXPECT(!memcmp(&fake.addresses[at + 1], &addr, len));
		EXPECT_EQ(fake.vectors[at + 2].iov_len, 77);
	}
	mp_destroy(channel);
}

static void too_many__the_batch_goes_first(void)
{
	static struct iovec iov[1024];
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = handle(channel, 1);
	unsigned int i;

	for (i = 0; i < 1024; i++)
		iov[i] = (struct iovec) { buf, 1 };
	EXPECT_EQ(mp_writev(h, iov, 1000), 0);
	EXPECT_EQ(fake.nr_calls, 0);
	EXPECT_EQ(mp_readv(h, iov, 1024), 0);
	EXPECT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(mp_writev(h, iov, 1), 0);
	EXPECT_EQ(fake.nr_calls, 2);
	EXPECT_EQ(mp_flush(channel), 0);
	ASSERT_EQ(fake.nr_ran, 3);
	EXPECT_EQ(fake.ran[1].len, 1024);
	mp_destroy(channel);
}

static void too_many__refused_with_the_batch(void)
{
	static struct iovec iov[1024];
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = handle(channel, 1);

	EXPECT_EQ(mp_writev(h, iov, 1024), 0);
	fake.dispatch_result = -EPERM;
	EXPECT_EQ(mp_writev(h, iov, 1), -EPERM);
	fake.dispatch_result = 0;
	EXPECT_EQ(mp_flush(channel), 0);
	EXPECT_EQ(fake.nr_ran, 1);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(vectors__copied),
	TEST(addresses__copied),
	TEST(too_many__the_batch_goes_first),
	TEST(too_many__refused_with_the_batch)
)
