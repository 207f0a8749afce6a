// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * When the collected requests are handed over: at the threshold, when no
 * fetched completion is left, when the program says so; and never otherwise.
 */
#include "fake.h"
#include "test.h"

static char buf[64];

static void threshold__runs_when_reached(void)
{
	struct mp_channel *channel = fake_channel(4);
	int i;

	for (i = 1; i <= 3; i++)
		EXPECT_EQ(mp_read(handle(channel, i), buf, sizeof(buf)), 0);
	EXPECT_EQ(fake.nr_calls, 0);
	EXPECT_EQ(mp_read(handle(channel, 4), buf, sizeof(buf)), 0);
	ASSERT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(fake_last()->nr_cmds, 4);
	EXPECT_EQ(fake_last()->min_events, 0);
	EXPECT_EQ(fake_last()->max_events, 256);
	EXPECT_EQ(mp_read(handle(channel, 5), buf, sizeof(buf)), 0);
	EXPECT_EQ(fake.nr_calls, 1);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

/* One of each, in order of their ops but for what only registering sends */
static void request_all(struct mp_channel *channel, struct sockaddr *addr)
{
	mp_handle h = handle(channel, 1), registered;
	struct iovec iov = { buf, 1 };
	int lwsocket = MEGAPIPE_HANDLE_LWSOCKET | 5;

	mp_accept(h, 3, true);
	mp_connect(h, addr, 4);
	mp_read(h, buf, 2);
	mp_readv(h, &iov, 1);
	mp_recvfrom(h, buf, 6, addr, 8);
	mp_write(h, buf, 3);
	mp_writev(h, &iov, 1);
	mp_sendto(h, buf, 0, addr, 4);
	mp_sendfile(h, 17, 1LL << 40, 5);
	mp_poll(h, 0x2001);
	mp_disconnect(h);
	mp_cancel(h);
	mp_register(channel, lwsocket, buf, NULL, &registered);
	mp_unregister(h);
	EXPECT_EQ(fake.nr_calls, 0);
	mp_close(h);
}

static const struct megapipe_cmd wanted[MEGAPIPE_OP_LAST] = {
	[MEGAPIPE_OP_ACCEPT] = { .len = 3, .flags = MEGAPIPE_CMD_LWSOCKET },
	[MEGAPIPE_OP_CONNECT] = { .addr = 1, .len = 4 },
	[MEGAPIPE_OP_READ] = { .addr = 1, .len = 2 },
	[MEGAPIPE_OP_READV] = { .addr = 1, .len = 1 },
	[MEGAPIPE_OP_RECVFROM] = { .addr = 1, .len = 6, .arg = 1, .aux = 8 },
	[MEGAPIPE_OP_WRITE] = { .addr = 1, .len = 3 },
	[MEGAPIPE_OP_WRITEV] = { .addr = 1, .len = 1 },
	[MEGAPIPE_OP_SENDTO] = { .addr = 1, .arg = 1, .aux = 4 },
	[MEGAPIPE_OP_SENDFILE] = { .arg = 1, .len = 5, .aux = 17 },
	[MEGAPIPE_OP_POLL] = { .aux = 0x2001 },
	[MEGAPIPE_OP_COOKIE] = { .arg = 1 },
};

static void threshold__every_kind_of_request_counts(void)
{
	struct mp_channel *channel = fake_channel(MEGAPIPE_OP_LAST);
	struct sockaddr addr = { 0 };
	uint16_t op;

	request_all(channel, &addr);
	ASSERT_EQ(fake.nr_calls, 1);
	ASSERT_EQ(fake.nr_ran, MEGAPIPE_OP_LAST);
	for (op = 0; op < MEGAPIPE_OP_LAST; op++) {
		const struct megapipe_cmd *cmd = &fake.ran[op];

		EXPECT_EQ(cmd->op, op);
		EXPECT_EQ(cmd->flags, wanted[op].flags);
		EXPECT_EQ(cmd->resv, 0);
		EXPECT_EQ(cmd->handle, op == MEGAPIPE_OP_COOKIE ?
			  MEGAPIPE_HANDLE_LWSOCKET | 5 : 1);
		EXPECT_EQ(!!cmd->addr, wanted[op].addr);
		EXPECT_EQ(!!cmd->arg, wanted[op].arg);
		EXPECT_EQ(cmd->len, wanted[op].len);
		EXPECT_EQ(cmd->aux, wanted[op].aux);
	}
	EXPECT_EQ(fake.ran[MEGAPIPE_OP_READ].addr, (uintptr_t)buf);
	EXPECT_EQ(fake.ran[MEGAPIPE_OP_RECVFROM].arg, (uintptr_t)&addr);
	EXPECT_EQ(fake.ran[MEGAPIPE_OP_SENDFILE].arg, 1LL << 40);
	EXPECT_EQ(fake.ran[MEGAPIPE_OP_COOKIE].arg, (uintptr_t)buf);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

static void more__is_said_to_the_kernel(void)
{
	static const uint16_t ops[] = {
		MEGAPIPE_OP_WRITE, MEGAPIPE_OP_WRITEV, MEGAPIPE_OP_SENDFILE,
	};
	struct mp_channel *channel = fake_channel(3);
	mp_handle h = handle(channel, 1);
	struct iovec iov = { buf, 1 };
	int i;

	mp_write_more(h, buf, 3);
	mp_writev_more(h, &iov, 1);
	mp_sendfile_more(h, 17, 1LL << 40, 5);
	ASSERT_EQ(fake.nr_ran, 3);
	for (i = 0; i < 3; i++) {
		const struct megapipe_cmd *cmd = &fake.ran[i];

		EXPECT_EQ(cmd->op, ops[i]);
		EXPECT_EQ(cmd->flags, MEGAPIPE_CMD_MORE);
		EXPECT_EQ(cmd->len, wanted[ops[i]].len);
		EXPECT_EQ(cmd->aux, wanted[ops[i]].aux);
	}
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

static void dispatch__runs_batch_when_nothing_is_fetched(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	mp_read(handle(channel, 1), buf, sizeof(buf));
	mp_read(handle(channel, 2), buf, sizeof(buf));
	fake_complete(1, MEGAPIPE_OP_READ, 10);
	ASSERT_EQ(mp_dispatch(channel, &event, -1), 1);
	ASSERT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(fake_last()->nr_cmds, 2);
	EXPECT_EQ(fake_last()->min_events, 1);
	EXPECT_EQ(fake_last()->max_events, 256);
	mp_destroy(channel);
}

static void dispatch__hands_out_the_fetched_without_a_call(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;
	int i;

	for (i = 1; i <= 3; i++)
		fake_complete(i, MEGAPIPE_OP_READ, i * 10);
	for (i = 1; i <= 3; i++) {
		ASSERT_EQ(mp_dispatch(channel, &event, -1), 1);
		EXPECT_EQ(event.handle.id, i);
		EXPECT(event.handle.channel == channel);
		EXPECT_EQ(event.result, i * 10);
		EXPECT_EQ(event.cmd, MP_READ);
		EXPECT_EQ((uintptr_t)event.cookie, i + 100);
		mp_write(event.handle, buf, 1);
		EXPECT_EQ(fake.nr_calls, 1);
	}
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	EXPECT_EQ(fake.nr_calls, 2);
	EXPECT_EQ(fake_last()->nr_cmds, 3);
	mp_destroy(channel);
}

static void threshold__fetches_into_the_room_left(void)
{
	struct mp_channel *channel = fake_channel(4);
	struct mp_event event;
	int i, id = 0;

	for (i = 1; i <= 10; i++)
		fake_complete(i, MEGAPIPE_OP_READ, i);
	ASSERT_EQ(mp_dispatch(channel, &event, -1), 1);
	for (i = 11; i <= 20; i++)
		fake_complete(i, MEGAPIPE_OP_READ, i);
	for (i = 0; i < 4; i++)
		mp_write(event.handle, buf, 1);
	EXPECT_EQ(fake.nr_calls, 2);
	EXPECT_EQ(fake_last()->max_events, 246);
	EXPECT_EQ(fake_last()->ret, 10);
	for (id = 2; id <= 20; id++) {
		ASSERT_EQ(mp_dispatch(channel, &event, -1), 1);
		EXPECT_EQ(event.handle.id, id);
	}
	EXPECT_EQ(fake.nr_calls, 2);
	mp_destroy(channel);
}

static void flush__runs_batch(void)
{
	struct mp_channel *channel = fake_channel(64);

	mp_read(handle(channel, 1), buf, sizeof(buf));
	EXPECT_EQ(mp_flush(channel), 0);
	ASSERT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(fake_last()->nr_cmds, 1);
	EXPECT_EQ(fake_last()->min_events, 0);
	EXPECT_EQ(mp_flush(channel), 0);	/* nothing to hand over */
	EXPECT_EQ(fake.nr_calls, 1);
	mp_destroy(channel);
}

static void destroy__runs_batch(void)
{
	struct mp_channel *channel = fake_channel(64);

	mp_close(handle(channel, 1));
	mp_destroy(channel);
	ASSERT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(fake.ran[0].op, MEGAPIPE_OP_CLOSE);
	EXPECT_EQ(fake.closed[0], FAKE_FD);
}

static void off__every_request_is_a_call(void)
{
	struct mp_channel *channel = fake_channel(1);
	struct mp_event event;
	unsigned int i;

	for (i = 1; i <= 5; i++) {
		mp_read(handle(channel, (int)i), buf, sizeof(buf));
		ASSERT_EQ(fake.nr_calls, i);
		EXPECT_EQ(fake_last()->nr_cmds, 1);
		EXPECT_EQ(fake_last()->max_events, 1);
	}
	for (i = 1; i <= 3; i++)
		fake_complete((int)i, MEGAPIPE_OP_READ, 1);
	for (i = 1; i <= 3; i++) {
		ASSERT_EQ(mp_dispatch(channel, &event, -1), 1);
		EXPECT_EQ(event.handle.id, i);
		EXPECT_EQ(fake.nr_calls, 5 + i);
		EXPECT_EQ(fake_last()->max_events, 1);
	}
	mp_destroy(channel);
}

/* A request may bring a completion, but only one waits at a time. */
static void off__fetches_at_most_one(void)
{
	struct mp_channel *channel = fake_channel(1);
	struct mp_event event;

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
	mp_read(handle(channel, 3), buf, sizeof(buf));
	EXPECT_EQ(fake_last()->ret, 1);
	mp_read(handle(channel, 4), buf, sizeof(buf));
	EXPECT_EQ(fake_last()->max_events, 0);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, 1);
	EXPECT_EQ(fake.nr_calls, 2);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, 2);
	EXPECT_EQ(fake.nr_calls, 3);
	mp_destroy(channel);
}

static void set_batch__hands_over_the_collected(void)
{
	struct mp_channel *channel = fake_channel(64);
	int i;

	for (i = 0; i < 10; i++)
		mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(mp_set_batch(channel, 2), 0);
	EXPECT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(fake_last()->nr_cmds, 10);
	mp_read(handle(channel, 1), buf, 1);
	mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(fake.nr_calls, 2);
	mp_destroy(channel);
}

static void set_batch__with_completions_waiting(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;
	int i;

	for (i = 1; i <= 3; i++)
		fake_complete(i, MEGAPIPE_OP_READ, 1);
	mp_dispatch(channel, &event, 0);
	EXPECT_EQ(mp_set_batch(channel, 1), 0);
	mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(fake_last()->max_events, 0);
	for (i = 2; i <= 3; i++) {
		ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
		EXPECT_EQ(event.handle.id, i);
	}
	mp_dispatch(channel, &event, 0);
	EXPECT_EQ(fake_last()->max_events, 1);
	mp_destroy(channel);
}

/* A kernel may take less at once than the program has in mind. */
static void set_batch__not_beyond_what_the_kernel_takes(void)
{
	struct mp_channel *channel;
	int i;

	fake_reset();
	fake.info.max_dispatch = 8;
	ASSERT_EQ(mp_create(&channel), 0);
	for (i = 0; i < 8; i++)
		mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(fake_last()->nr_cmds, 8);
	EXPECT_EQ(fake_last()->max_events, 8);
	EXPECT_EQ(mp_set_batch(channel, MP_BATCH_MAX), 0);
	for (i = 0; i < 20; i++)
		mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(fake.nr_calls, 3);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

static void set_batch__most(void)
{
	struct mp_channel *channel = fake_channel(MP_BATCH_MAX);
	int i;

	for (i = 0; i < 3 * MP_BATCH_MAX; i++)
		mp_read(handle(channel, 1), buf, 1);
	EXPECT_EQ(fake.nr_calls, 3);
	EXPECT_EQ(fake_last()->nr_cmds, MP_BATCH_MAX);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(threshold__runs_when_reached),
	TEST(threshold__every_kind_of_request_counts),
	TEST(more__is_said_to_the_kernel),
	TEST(threshold__fetches_into_the_room_left),
	TEST(dispatch__runs_batch_when_nothing_is_fetched),
	TEST(dispatch__hands_out_the_fetched_without_a_call),
	TEST(flush__runs_batch),
	TEST(destroy__runs_batch),
	TEST(off__every_request_is_a_call),
	TEST(off__fetches_at_most_one),
	TEST(set_batch__hands_over_the_collected),
	TEST(set_batch__with_completions_waiting),
	TEST(set_batch__not_beyond_what_the_kernel_takes),
	TEST(set_batch__most)
)
