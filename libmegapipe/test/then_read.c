// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * mp_write_then_read(): one command that names both buffers.
 */
#include <errno.h>
#include <limits.h>

#include "fake.h"
#include "test.h"

static char out[64], in[64];

static void expect_command(const struct megapipe_cmd *cmd, int id)
{
	EXPECT_EQ(cmd->op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(cmd->flags, MEGAPIPE_CMD_THEN_READ);
	EXPECT_EQ(cmd->resv, 0);
	EXPECT_EQ(cmd->handle, id);
	EXPECT_EQ(cmd->addr, (uintptr_t)out);
	EXPECT_EQ(cmd->len, 3);
	EXPECT_EQ(cmd->arg, (uintptr_t)in);
	EXPECT_EQ(cmd->aux, sizeof(in));
}

/* Within a batch, as the one that fills it, and between others */
static void command__names_both_buffers(void)
{
	static const unsigned int thresholds[] = { 1, 2, 64 };
	unsigned int i;

	for (i = 0; i < 3; i++) {
		struct mp_channel *channel = fake_channel(thresholds[i]);

		mp_write(handle(channel, 1), out, 1);
		EXPECT_EQ(mp_write_then_read(handle(channel, 2), out, 3, in,
					     sizeof(in)), 0);
		mp_read(handle(channel, 3), in, 1);
		EXPECT_EQ(fake.nr_calls, i == 0 ? 3 : i == 1 ? 1 : 0);
		EXPECT_EQ(mp_flush(channel), 0);
		ASSERT_EQ(fake.nr_ran, 3);
		EXPECT_EQ(fake.ran[0].flags, 0);
		expect_command(&fake.ran[1], 2);
		EXPECT_EQ(fake.ran[2].op, MEGAPIPE_OP_READ);
		EXPECT_EQ(fake.ran[2].flags, 0);
		mp_destroy(channel);
		EXPECT(!fake.misuse);
	}
}

static void command__of_a_shared_channel(void)
{
	struct mp_channel *channel = fake_channel(64);

	ASSERT_EQ(mp_set_shared(channel, true), 0);
	EXPECT_EQ(mp_write_then_read(handle(channel, 2), out, 3, in,
				     sizeof(in)), 0);
	mp_destroy(channel);
	ASSERT_EQ(fake.nr_ran, 1);
	expect_command(&fake.ran[0], 2);
	EXPECT(!fake.misuse);
}

static void buffer__null_or_size_out_of_range(void)
{
	static const size_t bad[] = { 0, (size_t)INT_MAX + 1, SIZE_MAX };
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = handle(channel, 1);
	size_t i;

	for (i = 0; i < 3; i++) {
		EXPECT_EQ(mp_write_then_read(h, out, bad[i], in, 1), -EINVAL);
		EXPECT_EQ(mp_write_then_read(h, out, 1, in, bad[i]), -EINVAL);
	}
	EXPECT_EQ(mp_write_then_read(h, NULL, 1, in, 1), -EINVAL);
	EXPECT_EQ(mp_write_then_read(h, out, 1, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_flush(channel), 0);
	EXPECT_EQ(fake.nr_calls, 0);
	EXPECT_EQ(mp_write_then_read(h, out, INT_MAX, in, INT_MAX), 0);
	EXPECT_EQ(mp_write_then_read(h, out, 1, out, 1), 0);
	mp_destroy(channel);
	ASSERT_EQ(fake.nr_ran, 2);
	EXPECT_EQ(fake.ran[0].len, INT_MAX);
	EXPECT_EQ(fake.ran[0].aux, INT_MAX);
	EXPECT_EQ(fake.ran[1].addr, fake.ran[1].arg);
	EXPECT(!fake.misuse);
}

static int ask(struct mp_channel *channel, int id)
{
	return mp_write_then_read(handle(channel, id), out, 3, in, sizeof(in));
}

static void handle__names_nothing(void)
{
	struct mp_channel *channel = fake_channel(64);

	EXPECT_EQ(ask(NULL, 0), -EBADF);
	EXPECT_EQ(ask(channel, 0), -EBADF);
	EXPECT_EQ(ask(channel, -1), -EBADF);
	EXPECT_EQ(ask(channel, INT_MIN), -EBADF);
	EXPECT_EQ(mp_flush(channel), 0);
	EXPECT_EQ(fake.nr_calls, 0);
	mp_destroy(channel);
	EXPECT_EQ(ask(channel, 1), -EBADF);
	EXPECT_EQ(fake.nr_calls, 0);
}

/* The batch is full and cannot be handed over: the request is not taken. */
static void batch__refused(void)
{
	struct mp_channel *channel = fake_channel(2);

	mp_write(handle(channel, 1), out, 1);
	fake.dispatch_result = -EPERM;
	EXPECT_EQ(ask(channel, 2), -EPERM);
	fake.dispatch_result = 0;
	EXPECT_EQ(ask(channel, 3), 0);
	ASSERT_EQ(fake.nr_ran, 2);
	expect_command(&fake.ran[1], 3);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

/* One completion, which says how far it came */
static void completion__of_the_read_or_the_write(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	ask(channel, 1);
	ask(channel, 2);
	fake_complete(1, MEGAPIPE_OP_READ, 5);
	fake_complete(2, MEGAPIPE_OP_WRITE, 2);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.cmd, MP_READ);
	EXPECT_EQ(event.handle.id, 1);
	EXPECT_EQ(event.result, 5);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.cmd, MP_WRITE);
	EXPECT_EQ(event.handle.id, 2);
	EXPECT_EQ(event.result, 2);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

/* Completed by the batch that gives the handle up: nobody is told. */
static void given_up__dropped(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	fake.instant = true;
	ask(channel, 1);
	ask(channel, 2);
	mp_close(handle(channel, 1));
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, 2);
	EXPECT_EQ(event.cmd, MP_READ);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

TEST_MAIN(
	TEST(command__names_both_buffers),
	TEST(command__of_a_shared_channel),
	TEST(buffer__null_or_size_out_of_range),
	TEST(handle__names_nothing),
	TEST(batch__refused),
	TEST(completion__of_the_read_or_the_write),
	TEST(given_up__dropped)
)
