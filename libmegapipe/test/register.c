// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Registering: a descriptor takes a system call at once, an lwsocket one more
 * command of the batch.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "fake.h"
#include "test.h"

static char buf[64];

static void descriptor__at_once(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = { NULL, 0 };

	mp_read((mp_handle) { channel, 1 }, buf, 1);
	EXPECT_EQ(mp_register(channel, 5, buf, NULL, &h), 0);
	EXPECT_EQ(fake.nr_registers, 1);
	EXPECT_EQ(fake.registered.fd, 5);
	EXPECT_EQ(fake.registered.cookie, (uintptr_t)buf);
	EXPECT_EQ(fake.registered.flags, 0);
	EXPECT_EQ(fake.registered.cpu_mask_size, 0);
	EXPECT(h.channel == channel);
	EXPECT_EQ(h.id, (1 << 20) + 5);
	EXPECT_EQ(fake.nr_calls, 0);	/* the batch waits */
	mp_destroy(channel);
}

static void descriptor__with_partition(void)
{
	struct mp_channel *channel = fake_channel(64);
	cpu_set_t mask;
	mp_handle h;

	CPU_ZERO(&mask);
	CPU_SET(3, &mask);
	EXPECT_EQ(mp_register(channel, 5, NULL, &mask, &h), 0);
	EXPECT_EQ(fake.registered.flags, MEGAPIPE_REG_PARTITION);
	EXPECT_EQ(fake.registered.cpu_mask, (uintptr_t)&mask);
	EXPECT_EQ(fake.registered.cpu_mask_size, sizeof(mask));
	mp_destroy(channel);
}

static void descriptor__refused(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = { channel, 42 };

	fake.register_result[0] = -EOPNOTSUPP;
	EXPECT_EQ(mp_register(channel, 5, NULL, NULL, &h), -EOPNOTSUPP);
	EXPECT_EQ(fake.nr_registers, 1);
	EXPECT_EQ(h.id, 42);
	EXPECT_EQ(mp_register(channel, -1, NULL, NULL, &h), -EBADF);
	EXPECT_EQ(fake.nr_registers, 1);
	mp_destroy(channel);
}

/* The mp_unregister() before it is still in the batch. */
static void descriptor__refused_until_the_batch_has_run(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h;

	mp_unregister((mp_handle) { channel, 1 });
	fake.register_result[0] = -EMFILE;
	EXPECT_EQ(mp_register(channel, 5, NULL, NULL, &h), 0);
	EXPECT_EQ(fake.nr_registers, 2);
	ASSERT_EQ(fake.nr_ran, 1);
	EXPECT_EQ(fake.ran[0].op, MEGAPIPE_OP_UNREGISTER);
	mp_destroy(channel);
}

static void lwsocket__without_a_call(void)
{
	struct mp_channel *channel = fake_channel(64);
	int id = MEGAPIPE_HANDLE_LWSOCKET | 3;
	cpu_set_t mask;
	mp_handle h;

	EXPECT_EQ(mp_register(channel, id, buf, NULL, &h), 0);
	EXPECT_EQ(h.id, id);
	EXPECT(h.channel == channel);
	EXPECT_EQ(fake.nr_registers + fake.nr_calls, 0);
	memset(&mask, 0, sizeof(mask));
	EXPECT_EQ(mp_register(channel, id, buf, &mask, &h), -EINVAL);
	mp_destroy(channel);
	ASSERT_EQ(fake.nr_ran, 1);
	EXPECT_EQ(fake.ran[0].op, MEGAPIPE_OP_COOKIE);
}

TEST_MAIN(
	TEST(descriptor__at_once),
	TEST(descriptor__with_partition),
	TEST(descriptor__refused),
	TEST(descriptor__refused_until_the_batch_has_run),
	TEST(lwsocket__without_a_call)
)
