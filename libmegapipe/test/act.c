// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What acts at once (options, addresses, mp_tofd(), mp_listener()): after the
 * requests made on that handle, and without a system call more if there is none.
 */
#include <errno.h>
#include <string.h>

#include "fake.h"
#include "test.h"

static char buf[64];

static void order__after_the_requests_of_the_handle(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_listener listener;

	mp_read(handle(channel, 1), buf, 1);
	mp_write(handle(channel, 2), buf, 1);
	mp_write(handle(channel, 3), buf, 1);
	EXPECT_EQ(mp_setsockopt(handle(channel, 4), 1, 2, buf, 4), 0);
	EXPECT_EQ(fake.nr_calls, 0);	/* others' requests wait on */
	EXPECT_EQ(mp_setsockopt(handle(channel, 2), 1, 2, buf, 4), 0);
	EXPECT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(fake.act_after, 3);	/* the whole batch has run, in order */
	EXPECT_EQ(fake.ran[0].handle, 1);
	EXPECT_EQ(fake.ran[2].handle, 3);

	mp_accept(handle(channel, 5), 1, true);
	EXPECT_EQ(mp_listener(handle(channel, 5), &listener), 0);
	EXPECT_EQ(fake.act_after, 4);
	mp_close(handle(channel, 6));
	EXPECT_EQ(mp_tofd(handle(channel, 6), 0), 0);
	EXPECT_EQ(fake.act_after, 5);
	mp_destroy(channel);
	EXPECT(!fake.misuse);
}

static void order__batch_refused(void)
{
	struct mp_channel *channel = fake_channel(64);

	mp_read(handle(channel, 1), buf, 1);
	fake.dispatch_result = -EPERM;
	EXPECT_EQ(mp_tofd(handle(channel, 1), 0), -EPERM);
	EXPECT_EQ(fake.nr_acts, 0);
	fake.dispatch_result = 0;
	mp_destroy(channel);
}

static void setsockopt__passed_on(void)
{
	struct mp_channel *channel = fake_channel(64);

	EXPECT_EQ(mp_setsockopt(handle(channel, 9), 6, 1, buf, 4), 0);
	EXPECT_EQ(fake.act, MEGAPIPE_IOC_SETSOCKOPT);
	EXPECT_EQ(fake.sockopt.handle, 9);
	EXPECT_EQ(fake.sockopt.level, 6);
	EXPECT_EQ(fake.sockopt.name, 1);
	EXPECT_EQ(fake.sockopt.len, 4);
	EXPECT_EQ(fake.sockopt.value, (uintptr_t)buf);
	EXPECT_EQ(fake.sockopt.resv, 0);
	fake.act_result = -EOPNOTSUPP;
	EXPECT_EQ(mp_setsockopt(handle(channel, 9), 6, 1, buf, 4),
		  -EOPNOTSUPP);
	mp_destroy(channel);
}

static void getsockopt__length(void)
{
	struct mp_channel *channel = fake_channel(64);
	socklen_t len = 64;

	fake.act_len = 4;
	EXPECT_EQ(mp_getsockopt(handle(channel, 9), 6, 1, buf, &len), 0);
	EXPECT_EQ(fake.act, MEGAPIPE_IOC_GETSOCKOPT);
	EXPECT_EQ(fake.sockopt.len, 64);
	EXPECT_EQ(len, 4);
	fake.act_result = -ENOPROTOOPT;
	fake.act_len = 0;
	EXPECT_EQ(mp_getsockopt(handle(channel, 9), 6, 1, buf, &len),
		  -ENOPROTOOPT);
	EXPECT_EQ(len, 4);
	mp_destroy(channel);
}

static void names__length_may_be_more(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct sockaddr addr;
	socklen_t len = 16;

	fake.act_len = 28;
	EXPECT_EQ(mp_getsockname(handle(channel, 9), &addr, &len), 0);
	EXPECT_EQ(fake.act, MEGAPIPE_IOC_SOCKNAME);
	EXPECT_EQ(fake.sockname.handle, 9);
	EXPECT_EQ(fake.sockname.peer, 0);
	EXPECT_EQ(fake.sockname.len, 16);
	EXPECT_EQ(fake.sockname.addr, (uintptr_t)&addr);
	EXPECT_EQ(len, 28);
	EXPECT_EQ(mp_getpeername(handle(channel, 9), &addr, &len), 0);
	EXPECT_EQ(fake.sockname.peer, 1);
	EXPECT_EQ(fake.sockname.len, 28);
	fake.act_result = -ENOTCONN;
	fake.act_len = 0;
	EXPECT_EQ(mp_getpeername(handle(channel, 9), &addr, &len), -ENOTCONN);
	EXPECT_EQ(len, 28);
	mp_destroy(channel);
}

static void tofd__descriptor(void)
{
	struct mp_channel *channel = fake_channel(64);
	int id = MEGAPIPE_HANDLE_LWSOCKET | 3;

	fake.act_result = 42;
	EXPECT_EQ(mp_tofd(handle(channel, id), 04000), 42);
	EXPECT_EQ(fake.act, MEGAPIPE_IOC_TOFD);
	EXPECT_EQ(fake.tofd.handle, id);
	EXPECT_EQ(fake.tofd.flags, 04000);
	fake.act_result = -EBUSY;
	EXPECT_EQ(mp_tofd(handle(channel, id), 0), -EBUSY);
	mp_destroy(channel);
}

/* Data that were read are in the program's buffer: it must hear of them. */
static void tofd__keeps_the_fetched(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 7);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(mp_tofd(handle(channel, 2), 0), 0);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, 2);
	EXPECT_EQ(event.result, 7);
	mp_destroy(channel);
}

static void listener__all_of_it(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_listener listener;

	fake.listener_result = (struct megapipe_listener) {
		.partitions = 1, .cpus = 2, .queued = 3, .backlog = 4,
		.accepts = 5, .accepts_foreign = 6, .migrated_in = 7,
	};
	memset(&listener, 0xff, sizeof(listener));
	EXPECT_EQ(mp_listener(handle(channel, 9), &listener), 0);
	EXPECT_EQ(fake.listener.handle, 9);
	EXPECT_EQ(listener.partitions, 1);
	EXPECT_EQ(listener.cpus, 2);
	EXPECT_EQ(listener.queued, 3);
	EXPECT_EQ(listener.backlog, 4);
	EXPECT_EQ(listener.accepts, 5);
	EXPECT_EQ(listener.accepts_foreign, 6);
	EXPECT_EQ(listener.migrated_in, 7);
	fake.act_result = -EINVAL;
	EXPECT_EQ(mp_listener(handle(channel, 9), &listener), -EINVAL);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(order__after_the_requests_of_the_handle),
	TEST(order__batch_refused),
	TEST(setsockopt__passed_on),
	TEST(getsockopt__length),
	TEST(names__length_may_be_more),
	TEST(tofd__descriptor),
	TEST(tofd__keeps_the_fetched),
	TEST(listener__all_of_it)
)
