// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The mp_read() right behind the mp_register() of an lwsocket shares its command:
 *
 *	mp_register(3, c)	COOKIE 3 c
 *	mp_read(3, buf)		READ 3 buf, with the cookie c
 *
 * and in no other case, for what a command is taken for must be what it does.
 */
#include <errno.h>

#include "fake.h"
#include "test.h"

#define LWSOCKET	(MEGAPIPE_HANDLE_LWSOCKET | 3)
#define ANOTHER		(MEGAPIPE_HANDLE_LWSOCKET | 4)

static char buf[64];
static int cookie;

static mp_handle registered(struct mp_channel *channel, int id)
{
	mp_handle h;

	ASSERT_EQ(mp_register(channel, id, &cookie, NULL, &h), 0);
	return h;
}

static void expect_joined(const struct megapipe_cmd *cmd, int id)
{
	EXPECT_EQ(cmd->op, MEGAPIPE_OP_READ);
	EXPECT_EQ(cmd->flags, MEGAPIPE_CMD_COOKIE);
	EXPECT_EQ(cmd->resv, 0);
	EXPECT_EQ(cmd->handle, id);
	EXPECT_EQ(cmd->addr, (uintptr_t)buf);
	EXPECT_EQ(cmd->len, sizeof(buf));
	EXPECT_EQ(cmd->arg, (uintptr_t)&cookie);
	EXPECT_EQ(cmd->aux, 0);
}

static void expect_read(const struct megapipe_cmd *cmd, int id)
{
	EXPECT_EQ(cmd->op, MEGAPIPE_OP_READ);
	EXPECT_EQ(cmd->flags, 0);
	EXPECT_EQ(cmd->handle, id);
	EXPECT_EQ(cmd->arg, 0);
}

static void expect_cookie(const struct megapipe_cmd *cmd, int id)
{
	EXPECT_EQ(cmd->op, MEGAPIPE_OP_COOKIE);
	EXPECT_EQ(cmd->flags, 0);
	EXPECT_EQ(cmd->handle, id);
	EXPECT_EQ(cmd->arg, (uintptr_t)&cookie);
}

static void read_on(mp_handle h)
{
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
}

/* The end of each test: so many commands have been run by now. */
static void end(struct mp_channel *channel, unsigned int nr_ran)
{
	mp_destroy(channel);
	EXPECT_EQ(fake.nr_ran, nr_ran);
	EXPECT(!fake.misuse);
}

static void read__right_behind(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h;

	read_on(registered(channel, LWSOCKET));
	read_on(registered(channel, ANOTHER));
	ASSERT_EQ(mp_register(channel, LWSOCKET, NULL, NULL, &h), 0);
	read_on(h);
	EXPECT_EQ(fake.nr_calls, 0);
	end(channel, 3);
	expect_joined(&fake.ran[0], LWSOCKET);
	expect_joined(&fake.ran[1], ANOTHER);
	EXPECT_EQ(fake.ran[2].flags, MEGAPIPE_CMD_COOKIE);
	EXPECT_EQ(fake.ran[2].arg, 0);
}

/* The command counts once: here it is the last but one that the batch takes. */
static void read__fills_no_batch(void)
{
	struct mp_channel *channel = fake_channel(3);

	read_on(handle(channel, 1));
	read_on(registered(channel, LWSOCKET));
	EXPECT_EQ(fake.nr_calls, 0);
	read_on(handle(channel, 1));
	EXPECT_EQ(fake.nr_calls, 1);
	end(channel, 3);
	expect_joined(&fake.ran[1], LWSOCKET);
	expect_read(&fake.ran[2], 1);
}

static void second_read__by_itself(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = registered(channel, LWSOCKET);

	read_on(h);
	read_on(h);
	end(channel, 2);
	expect_joined(&fake.ran[0], LWSOCKET);
	expect_read(&fake.ran[1], LWSOCKET);
}

/* The last cookie is the one that holds. */
static void registered_twice__last_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h;

	ASSERT_EQ(mp_register(channel, LWSOCKET, buf, NULL, &h), 0);
	read_on(registered(channel, LWSOCKET));
	end(channel, 2);
	EXPECT_EQ(fake.ran[0].op, MEGAPIPE_OP_COOKIE);
	EXPECT_EQ(fake.ran[0].arg, (uintptr_t)buf);
	expect_joined(&fake.ran[1], LWSOCKET);
}

static void request_between__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = registered(channel, LWSOCKET);

	ASSERT_EQ(mp_write(h, buf, 1), 0);
	read_on(h);
	h = registered(channel, LWSOCKET);
	read_on(handle(channel, ANOTHER));
	read_on(h);
	h = registered(channel, LWSOCKET);
	read_on(registered(channel, ANOTHER));
	read_on(h);
	end(channel, 9);
	expect_cookie(&fake.ran[0], LWSOCKET);
	expect_read(&fake.ran[2], LWSOCKET);
	expect_cookie(&fake.ran[3], LWSOCKET);
	expect_read(&fake.ran[4], ANOTHER);
	expect_read(&fake.ran[5], LWSOCKET);
	expect_cookie(&fake.ran[6], LWSOCKET);
	expect_joined(&fake.ran[7], ANOTHER);
	expect_read(&fake.ran[8], LWSOCKET);
}

/* A handle used after it was given up: each request is to be answered. */
static void given_up_between__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = registered(channel, LWSOCKET);

	ASSERT_EQ(mp_close(h), 0);
	read_on(h);
	h = registered(channel, ANOTHER);
	ASSERT_EQ(mp_unregister(h), 0);
	read_on(h);
	end(channel, 6);
	expect_cookie(&fake.ran[0], LWSOCKET);
	EXPECT_EQ(fake.ran[1].op, MEGAPIPE_OP_CLOSE);
	expect_read(&fake.ran[2], LWSOCKET);
	expect_cookie(&fake.ran[3], ANOTHER);
	EXPECT_EQ(fake.ran[4].op, MEGAPIPE_OP_UNREGISTER);
	expect_read(&fake.ran[5], ANOTHER);
}

/* Where the batch begins there is no command before, whatever lay there. */
static void handed_over_between__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = registered(channel, LWSOCKET);
	struct mp_event event;
	int i;

	ASSERT_EQ(mp_flush(channel), 0);
	read_on(h);
	h = registered(channel, LWSOCKET);
	fake_complete(1, MEGAPIPE_OP_READ, 1);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	read_on(h);
	h = registered(channel, LWSOCKET);
	ASSERT_EQ(mp_dispatch_batch(channel, &event, 1, 0, NULL), 0);
	read_on(h);
	h = registered(channel, LWSOCKET);
	ASSERT_EQ(mp_set_batch(channel, 2), 0);
	read_on(h);
	h = registered(channel, LWSOCKET);	/* fills it */
	read_on(h);
	end(channel, 10);
	for (i = 0; i < 10; i += 2) {
		expect_cookie(&fake.ran[i], LWSOCKET);
		expect_read(&fake.ran[i + 1], LWSOCKET);
	}
}

static void without_batches__not_joined(void)
{
	struct mp_channel *channel = fake_channel(1);

	read_on(registered(channel, LWSOCKET));
	EXPECT_EQ(fake.nr_calls, 2);
	end(channel, 2);
	expect_cookie(&fake.ran[0], LWSOCKET);
	expect_read(&fake.ran[1], LWSOCKET);
}

/* Lwsockets of different channels may have the same number. */
static void another_channel__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64), *other;

	ASSERT_EQ(mp_create(&other), 0);
	registered(channel, LWSOCKET);
	read_on(handle(other, LWSOCKET));
	ASSERT_EQ(mp_flush(other), 0);
	ASSERT_EQ(fake.nr_ran, 1);
	expect_read(&fake.ran[0], LWSOCKET);
	mp_destroy(other);
	end(channel, 2);
	expect_cookie(&fake.ran[1], LWSOCKET);
}

static void other_requests__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct iovec iov = { buf, 1 };
	struct sockaddr addr;
	int i;

	ASSERT_EQ(mp_readv(registered(channel, LWSOCKET), &iov, 1), 0);
	ASSERT_EQ(mp_recvfrom(registered(channel, LWSOCKET), buf, 1, &addr,
			      sizeof(addr)), 0);
	ASSERT_EQ(mp_write(registered(channel, LWSOCKET), buf, 1), 0);
	ASSERT_EQ(mp_write_then_read(registered(channel, LWSOCKET), buf, 1,
				     buf, 1), 0);
	ASSERT_EQ(mp_poll(registered(channel, LWSOCKET), 1), 0);
	end(channel, 10);
	for (i = 0; i < 10; i += 2)
		expect_cookie(&fake.ran[i], LWSOCKET);
	EXPECT_EQ(fake.ran[1].op, MEGAPIPE_OP_READV);
	EXPECT_EQ(fake.ran[3].op, MEGAPIPE_OP_RECVFROM);
	EXPECT_EQ(fake.ran[5].op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(fake.ran[7].flags, MEGAPIPE_CMD_THEN_READ);
	EXPECT_EQ(fake.ran[9].op, MEGAPIPE_OP_POLL);
}

/* A descriptor has got its cookie when it was registered. */
static void descriptor__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = registered(channel, 5);

	read_on(h);
	EXPECT_EQ(fake.nr_registers, 1);
	end(channel, 1);
	expect_read(&fake.ran[0], h.id);
}

/* What is refused takes nothing along; the next one does. */
static void wrong_arguments__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = registered(channel, LWSOCKET);

	EXPECT_EQ(mp_read(h, NULL, 1), -EINVAL);
	EXPECT_EQ(mp_read(h, buf, 0), -EINVAL);
	EXPECT_EQ(mp_read(h, buf, SIZE_MAX), -EINVAL);
	EXPECT_EQ(mp_read(handle(channel, 0), buf, 1), -EBADF);
	ASSERT_EQ(mp_flush(channel), 0);
	expect_cookie(&fake.ran[0], LWSOCKET);
	h = registered(channel, LWSOCKET);
	EXPECT_EQ(mp_read(h, NULL, 1), -EINVAL);
	read_on(h);
	end(channel, 2);
	expect_joined(&fake.ran[1], LWSOCKET);
}

/* Of a shared channel the last command may be another thread's any time. */
static void shared__not_joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h;

	ASSERT_EQ(mp_set_shared(channel, true), 0);
	read_on(registered(channel, LWSOCKET));
	ASSERT_EQ(mp_flush(channel), 0);
	ASSERT_EQ(fake.nr_ran, 2);
	expect_cookie(&fake.ran[0], LWSOCKET);
	expect_read(&fake.ran[1], LWSOCKET);

	h = registered(channel, LWSOCKET);
	ASSERT_EQ(mp_set_shared(channel, false), 0);
	read_on(h);
	h = registered(channel, ANOTHER);
	ASSERT_EQ(mp_set_shared(channel, true), 0);
	read_on(h);
	read_on(handle(channel, LWSOCKET));
	end(channel, 6);
	expect_joined(&fake.ran[2], LWSOCKET);
	expect_cookie(&fake.ran[3], ANOTHER);
	expect_read(&fake.ran[4], ANOTHER);
	expect_read(&fake.ran[5], LWSOCKET);
}

static void destroyed__refused(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h = registered(channel, LWSOCKET);

	mp_destroy(channel);
	EXPECT_EQ(mp_read(h, buf, 1), -EBADF);
	EXPECT_EQ(fake.nr_ran, 1);
	channel = fake_channel(64);	/* in the memory of the last */
	read_on(handle(channel, LWSOCKET));
	end(channel, 1);
	expect_read(&fake.ran[0], LWSOCKET);
}

/* Registering filled a batch that could not be handed over: it was not taken. */
static void register_refused__not_joined(void)
{
	struct mp_channel *channel = fake_channel(2);
	mp_handle h;

	ASSERT_EQ(mp_write(handle(channel, 1), buf, 1), 0);
	fake.dispatch_result = -EPERM;
	EXPECT_EQ(mp_register(channel, LWSOCKET, &cookie, NULL, &h), -EPERM);
	fake.dispatch_result = 0;
	read_on(handle(channel, LWSOCKET));
	end(channel, 2);
	EXPECT_EQ(fake.ran[0].op, MEGAPIPE_OP_WRITE);
	expect_read(&fake.ran[1], LWSOCKET);
}

/* A handing over that failed has left it where it was. */
static void flush_refused__joined(void)
{
	struct mp_channel *channel = fake_channel(64);
	mp_handle h;

	ASSERT_EQ(mp_write(handle(channel, 1), buf, 1), 0);
	h = registered(channel, LWSOCKET);
	fake.dispatch_result = -EPERM;
	EXPECT_EQ(mp_flush(channel), -EPERM);
	fake.dispatch_result = 0;
	read_on(h);
	end(channel, 2);
	expect_joined(&fake.ran[1], LWSOCKET);
}

/* The batch has stopped early, and registering is in what is left of it. */
static void batch_stopped__joined(void)
{
	struct mp_channel *channel = fake_channel(1024);
	struct mp_event event;
	mp_handle h;
	int i;

	fake_mark_stale(1000);
	for (i = 0; i < 300; i++)
		read_on(handle(channel, 1000));
	h = registered(channel, LWSOCKET);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	ASSERT_EQ(fake.nr_ran, 256);
	read_on(h);
	read_on(h);
	for (i = 1; i < 300; i++) {
		ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
		EXPECT_EQ(event.handle.id, 1000);
	}
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	end(channel, 302);
	expect_joined(&fake.ran[300], LWSOCKET);
	expect_read(&fake.ran[301], LWSOCKET);
}

/* There is no such lwsocket any more: one answer, that of the read. */
static void stale__answered_once(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	fake_mark_stale(LWSOCKET);
	read_on(registered(channel, LWSOCKET));
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, LWSOCKET);
	EXPECT_EQ(event.cmd, MP_READ);
	EXPECT_EQ(event.result, -EBADF);
	EXPECT(!event.cookie);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	end(channel, 1);
}

/* Seen in the batch as a registration, completed as a read: dropped the same. */
static void given_up__dropped(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;
	mp_handle h;

	fake.instant = true;
	h = registered(channel, LWSOCKET);
	read_on(h);
	ASSERT_EQ(mp_close(h), 0);
	read_on(registered(channel, ANOTHER));
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, ANOTHER);
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
	end(channel, 3);
}

TEST_MAIN(
	TEST(read__right_behind),
	TEST(read__fills_no_batch),
	TEST(second_read__by_itself),
	TEST(registered_twice__last_joined),
	TEST(request_between__not_joined),
	TEST(given_up_between__not_joined),
	TEST(handed_over_between__not_joined),
	TEST(without_batches__not_joined),
	TEST(another_channel__not_joined),
	TEST(other_requests__not_joined),
	TEST(descriptor__not_joined),
	TEST(wrong_arguments__not_joined),
	TEST(shared__not_joined),
	TEST(destroyed__refused),
	TEST(register_refused__not_joined),
	TEST(flush_refused__joined),
	TEST(batch_stopped__joined),
	TEST(stale__answered_once),
	TEST(given_up__dropped)
)
