// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Wrong use that only the kernel can see: bad addresses, handles of another
 * channel, commands that a handle cannot do, more than there can be.  An error,
 * and the channel goes on.
 */
#include <limits.h>

#include "net.h"

#define BAD	((void *)8)

static char buf[64];

static void expect_error(mp_handle h, int taken, enum mp_command cmd, int error)
{
	ASSERT_EQ(taken, 0);
	expect_result(h.channel, h, cmd, error);
}

static void expect_alive(struct pair *p)
{
	ASSERT_EQ(mp_read(p->h, buf, sizeof(buf)), 0);
	ASSERT_EQ(write(p->client, "ok", 2), 2);
	expect_result(p->s.channel, p->h, MP_READ, 2);
}

static void addresses__bad(void)
{
	struct pair p = pair_open(true, NULL);
	struct iovec iov = { BAD, 10 };
	socklen_t len = 16;

	ASSERT_EQ(write(p.client, "data", 4), 4);
	expect_error(p.h, mp_read(p.h, BAD, 10), MP_READ, -EFAULT);
	expect_error(p.h, mp_readv(p.h, &iov, 1), MP_READ, -EFAULT);
	expect_error(p.h, mp_write(p.h, BAD, 10), MP_WRITE, -EFAULT);
	expect_error(p.h, mp_writev(p.h, &iov, 1), MP_WRITE, -EFAULT);
	EXPECT_EQ(mp_getsockname(p.h, BAD, &len), -EFAULT);
	EXPECT_EQ(mp_getsockopt(p.h, IPPROTO_TCP, TCP_NODELAY, BAD, &len),
		  -EFAULT);
	EXPECT_EQ(mp_register(p.s.channel, p.s.listener, NULL, BAD, &p.h),
		  -EFAULT);
	EXPECT_EQ(read(p.client, buf, 0), 0);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_result(p.s.channel, p.h, MP_READ, 4);
	expect_alive(&p);
	pair_close(&p);
}

/* The same number may name something in this channel too; here it does not. */
static void channel__another(void)
{
	struct pair p = pair_open(true, NULL);
	struct mp_channel *other;
	mp_handle h;

	ASSERT_EQ(mp_create(&other), 0);
	ASSERT_EQ(mp_register(other, p.h.id, NULL, NULL, &h), 0);
	expect_result(other, h, MP_FAILED, -EBADF);
	expect_error(h, mp_read(h, buf, 1), MP_READ, -EBADF);
	EXPECT_EQ(mp_tofd(h, 0), -EBADF);
	ASSERT_EQ(mp_close(h), 0);
	expect_result(other, h, MP_FAILED, -EBADF);
	expect_silence(other);
	mp_destroy(other);
	expect_alive(&p);
	pair_close(&p);
}

static void commands__of_another_kind(void)
{
	struct pair p = pair_open(true, NULL);
	struct mp_event event;

	expect_error(p.h, mp_accept(p.h, 1, true), MP_ACCEPT, -EOPNOTSUPP);
	expect_error(p.s.handle, mp_read(p.s.handle, buf, 1), MP_READ,
		     -EOPNOTSUPP);
	ASSERT_EQ(mp_connect(p.h, (struct sockaddr *)&p.s.address,
			     p.s.address_len), 0);
	event = next_event(p.s.channel, MP_CONNECT);
	EXPECT(event.result < 0);
	expect_alive(&p);
	pair_close(&p);
}

static void counts__huge(void)
{
	static struct iovec iov[1024];
	struct pair p = pair_open(true, NULL);
	struct mp_event event;
	int i;

	ASSERT_EQ(mp_accept(p.s.handle, UINT_MAX, true), 0);
	ASSERT_EQ(mp_cancel(p.s.handle), 0);
	expect_result(p.s.channel, p.s.handle, MP_ACCEPT, -ECANCELED);
	for (i = 0; i < 1024; i++)
		iov[i] = (struct iovec) { buf, sizeof(buf) };
	ASSERT_EQ(write(p.client, "x", 1), 1);
	expect_error(p.h, mp_readv(p.h, iov, 1024), MP_READ, 1);
	iov[0].iov_len = SIZE_MAX;
	ASSERT_EQ(mp_writev(p.h, iov, 1024), 0);
	event = next_event(p.s.channel, MP_WRITE);
	EXPECT(event.result < 0);
	ASSERT_EQ(write(p.client, "y", 1), 1);
	expect_error(p.h, mp_read(p.h, buf, INT_MAX), MP_READ, 1);
	EXPECT_EQ(mp_dispatch_batch(p.s.channel, &event, UINT_MAX, 0, NULL), 0);
	expect_alive(&p);
	pair_close(&p);
}

static void destroyed__with_everything_pending(void)
{
	struct pair p = pair_open(true, NULL);
	struct mp_event event;
	socklen_t len = 4;

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	ASSERT_EQ(mp_poll(p.h, 1), 0);
	ASSERT_EQ(mp_accept(p.s.handle, 1, true), 0);
	mp_destroy(p.s.channel);
	EXPECT_EQ(mp_read(p.h, buf, 1), -EBADF);
	EXPECT_EQ(mp_getsockopt(p.h, 1, 1, buf, &len), -EBADF);
	EXPECT_EQ(mp_dispatch(p.s.channel, &event, 0), -EBADF);
	EXPECT(client_sees_end(p.client));
	close(p.client);
	close(p.s.listener);
}

static void limits__told(void)
{
	struct pair p = pair_open(true, NULL);
	struct mp_info info;

	ASSERT_EQ(mp_info(p.s.channel, &info), 0);
	EXPECT_EQ(info.abi_version, 2);
	EXPECT(info.commands >= 15);
	EXPECT(info.max_handles > 0);
	EXPECT(info.max_batch >= MP_BATCH_MAX);
	EXPECT(info.user_handles <= info.max_user_handles);
	pair_close(&p);
}

TEST_MAIN(
	TEST(addresses__bad),
	TEST(channel__another),
	TEST(commands__of_another_kind),
	TEST(counts__huge),
	TEST(destroyed__with_everything_pending),
	TEST(limits__told)
)
