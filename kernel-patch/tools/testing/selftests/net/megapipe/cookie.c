// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cookie: what a completion carries for the program, and who changes it.
 *
 *	register ----.
 *	COOKIE ------+--> handle's cookie ---> each completion
 *	READ, with --'
 *	MEGAPIPE_CMD_COOKIE
 */
#include "megapipe_test.h"

#define OLD	0x1122334455667788ULL
#define NEW	0xfedcba9876543210ULL

FIXTURE(cookie)
{
	int channel;
	int fd;
	int listener;
	int peer;
	int handle;
	char buf[16];
};

FIXTURE_VARIANT(cookie)
{
	bool lwsocket;
};

FIXTURE_VARIANT_ADD(cookie, lwsocket)
{
	.lwsocket = true,
};

FIXTURE_VARIANT_ADD(cookie, descriptor)
{
	.lwsocket = false,
};

/* peer (blocking) ------ handle of channel, with the old cookie */
FIXTURE_SETUP(cookie)
{
	struct mp_addr addr;

	self->channel = mp_open();
	self->fd = mp_listen(AF_INET, 8, &addr);
	self->listener = mp_register(self->channel, self->fd, 1);
	ASSERT_GT(self->listener, 0);
	self->handle = mp_lwsocket(self->channel, self->listener, &addr,
				   &self->peer);
	if (variant->lwsocket) {
		mp_submit(self->channel, mp_cmd_cookie(self->handle, OLD));
		return;
	}
	self->handle = mp_register(self->channel,
				   mp_must(mp_tofd(self->channel, self->handle,
						   O_CLOEXEC)), OLD);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(cookie)
{
	close(self->peer);
	close(self->channel);
	close(self->fd);
}

/* What the next completion of the handle carries */
static uint64_t cookie_of(int channel, int handle)
{
	return mp_run(channel, mp_cmd_poll(handle, POLLOUT)).cookie;
}

TEST_F(cookie, accept__gives_an_lwsocket_none)
{
	struct megapipe_event event;
	struct mp_addr addr;
	int client, lw;

	mp_getsockname(self->fd, &addr);
	lw = mp_lwsocket(self->channel, self->listener, &addr, &client);
	event = mp_run(self->channel, mp_cmd_poll(lw, POLLOUT));
	EXPECT_EQ(event.res, POLLOUT);
	EXPECT_EQ(event.cookie, 0);
	close(client);
}

TEST_F(cookie, command__is_for_all_completions_that_follow)
{
	mp_submit(self->channel, mp_cmd_read(self->handle, self->buf, 16));
	mp_submit(self->channel, mp_cmd_cookie(self->handle, NEW));
	EXPECT_EQ(cookie_of(self->channel, self->handle), NEW);
	mp_write_all(self->peer, "x", 1);
	EXPECT_EQ(mp_wait(self->channel).cookie, NEW);
}

/* What a server of short connections does: no command more than the READ */
TEST_F(cookie, read__brings_it)
{
	struct megapipe_event event;

	mp_submit(self->channel,
		  mp_cmd_cookie_read(self->handle, self->buf, 16, NEW));
	mp_write_all(self->peer, "abc", 3);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 3);
	EXPECT_EQ(event.cookie, NEW);
	EXPECT_STREQ(self->buf, "abc");
	/* And it stays. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, "x", 1)).cookie, NEW);
	mp_write_all(self->peer, "def", 3);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, self->buf, 16)).cookie, NEW);
	/* Any number is one, 0 too. */
	mp_write_all(self->peer, "ghi", 3);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_cookie_read(self->handle, self->buf, 16,
					    0)).cookie, 0);
}

/* Those of commands that were pending before, too */
TEST_F(cookie, read__brings_it_for_what_is_pending)
{
	struct megapipe_event event;

	mp_submit(self->channel, mp_cmd_poll(self->handle, POLLIN));
	mp_submit(self->channel,
		  mp_cmd_cookie_read(self->handle, self->buf, 1, NEW));
	mp_write_all(self->peer, "xy", 2);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.cookie, NEW);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.cookie, NEW);
}

/*
 * It is a COOKIE command and a READ: as behind the former, the latter may fail,
 * and says so with the new cookie.
 */
static void expect_failure(struct __test_metadata *_metadata, int channel,
			   struct megapipe_cmd cmd, int err, uint64_t cookie)
{
	struct megapipe_event event = mp_run(channel, cmd);

	EXPECT_EQ(event.op, cmd.op);
	EXPECT_EQ(event.res, err);
	EXPECT_EQ(event.cookie, cookie);
	EXPECT_EQ(cookie_of(channel, cmd.handle), cookie);
	mp_submit(channel, mp_cmd_cookie(cmd.handle, OLD));
}

TEST_F(cookie, read__that_fails_has_brought_it)
{
	const struct megapipe_cmd good =
		mp_cmd_cookie_read(self->handle, self->buf, 16, NEW);
	struct megapipe_cmd bad = good;

	bad.len = 0;
	expect_failure(_metadata, self->channel, bad, -EINVAL, NEW);
	bad = good;
	bad.aux = 1;
	expect_failure(_metadata, self->channel, bad, -EINVAL, NEW);

	mp_submit(self->channel, mp_cmd_read(self->handle, self->buf, 16));
	expect_failure(_metadata, self->channel, good, -EBUSY, NEW);
	/* The READ that is pending goes on. */
	mp_write_all(self->peer, "x", 1);
	EXPECT_EQ(mp_wait(self->channel).cookie, OLD);
	EXPECT_TRUE(mp_quiet(self->channel));
}

/* ... also while a WRITE keeps the place of its READ */
TEST_F(cookie, read__behind_a_write_that_goes_on_as_one)
{
	struct megapipe_event event;

	mp_submit(self->channel,
		  mp_cmd_then_read(self->handle, "reply", 5, self->buf, 16));
	event = mp_run(self->channel,
		       mp_cmd_cookie_read(self->handle, self->buf, 16, NEW));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, -EBUSY);
	EXPECT_EQ(event.cookie, NEW);
	mp_write_all(self->peer, "next", 4);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.res, 4);
	EXPECT_EQ(event.cookie, NEW);
}

/* What is no command at all, or has a cookie without the flag, changes nothing. */
TEST_F(cookie, read__that_is_malformed_brings_none)
{
	const struct megapipe_cmd good =
		mp_cmd_cookie_read(self->handle, self->buf, 16, NEW);
	struct megapipe_cmd bad = good;

	bad.resv = 1;
	expect_failure(_metadata, self->channel, bad, -EINVAL, OLD);
	bad = good;
	bad.flags |= MEGAPIPE_CMD_MORE;
	expect_failure(_metadata, self->channel, bad, -EINVAL, OLD);
	bad = good;
	bad.flags |= MEGAPIPE_CMD_THEN_READ;
	expect_failure(_metadata, self->channel, bad, -EINVAL, OLD);
	bad = good;
	bad.flags = 0;
	expect_failure(_metadata, self->channel, bad, -EINVAL, OLD);
}

TEST_F(cookie, read__to_a_bad_address_brings_it)
{
	struct megapipe_event event;

	mp_write_all(self->peer, "abc", 3);
	event = mp_run(self->channel,
		       mp_cmd_cookie_read(self->handle, (void *)-8L, 4, NEW));
	EXPECT_EQ(event.res, -EFAULT);
	EXPECT_EQ(event.cookie, NEW);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, self->buf, 16)).res, 3);
}

TEST_F(cookie, flag__is_for_READ_alone)
{
	struct iovec iov = { self->buf, sizeof(self->buf) };
	struct megapipe_cmd cmds[] = {
		mp_cmd_readv(self->handle, &iov, 1),
		mp_cmd_recvfrom(self->handle, self->buf, 16, NULL, 0),
		mp_cmd_write(self->handle, "x", 1),
		mp_cmd_then_read(self->handle, "x", 1, self->buf, 16),
		mp_cmd_disconnect(self->handle),
		mp_cmd_cookie(self->handle, NEW),
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		cmds[i].flags |= MEGAPIPE_CMD_COOKIE;
		expect_failure(_metadata, self->channel, cmds[i], -EINVAL,
			       OLD);
	}
}

/* What cannot be read keeps its cookie as well; what is not there has none. */
TEST_F(cookie, read__of_a_listener_or_of_nothing)
{
	struct megapipe_event event;

	event = mp_run(self->channel,
		       mp_cmd_cookie_read(self->listener, self->buf, 16, NEW));
	EXPECT_EQ(event.res, -EOPNOTSUPP);
	EXPECT_EQ(event.cookie, 1);
	event = mp_run(self->channel,
		       mp_cmd_cookie_read(0x7fffffff, self->buf, 16, NEW));
	EXPECT_EQ(event.res, -EBADF);
	EXPECT_EQ(event.cookie, 0);
}

TEST_HARNESS_MAIN
