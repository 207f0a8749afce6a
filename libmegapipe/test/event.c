// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a completion says: the command, the result, the flags and the number that
 * comes with them.
 */
#include <errno.h>

#include "fake.h"
#include "test.h"

static const struct {
	uint16_t op;
	enum mp_command cmd;
} pairs[] = {
	{ MEGAPIPE_OP_ACCEPT, MP_ACCEPT },
	{ MEGAPIPE_OP_CONNECT, MP_CONNECT },
	{ MEGAPIPE_OP_READ, MP_READ },
	{ MEGAPIPE_OP_READV, MP_READ },
	{ MEGAPIPE_OP_RECVFROM, MP_RECVFROM },
	{ MEGAPIPE_OP_WRITE, MP_WRITE },
	{ MEGAPIPE_OP_WRITEV, MP_WRITE },
	{ MEGAPIPE_OP_SENDTO, MP_SENDTO },
	{ MEGAPIPE_OP_SENDFILE, MP_SENDFILE },
	{ MEGAPIPE_OP_POLL, MP_POLL },
	{ MEGAPIPE_OP_DISCONNECT, MP_DISCONNECT },
	{ MEGAPIPE_OP_CANCEL, MP_FAILED },
	{ MEGAPIPE_OP_COOKIE, MP_FAILED },
	{ MEGAPIPE_OP_UNREGISTER, MP_FAILED },
	{ MEGAPIPE_OP_CLOSE, MP_FAILED },
};

_Static_assert(sizeof(pairs) / sizeof(pairs[0]) == MEGAPIPE_OP_LAST,
	       "every op");

static void command__of_every_op(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;
	size_t i;

	for (i = 0; i < MEGAPIPE_OP_LAST; i++)
		fake_complete(1, pairs[i].op, (int)i);
	for (i = 0; i < MEGAPIPE_OP_LAST; i++) {
		ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
		EXPECT_EQ(event.cmd, pairs[i].cmd);
		EXPECT_EQ(event.result, i);
	}
	mp_destroy(channel);
}

static void accept__more_backlog_and_fallback(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	fake_post((struct megapipe_event) {
		.handle = 1, .op = MEGAPIPE_OP_ACCEPT, .res = 55, .aux = 12,
		.flags = MEGAPIPE_EVENT_MORE | MEGAPIPE_EVENT_FD,
	});
	fake_post((struct megapipe_event) {
		.handle = 1, .op = MEGAPIPE_OP_ACCEPT, .res = -EMFILE,
	});
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.flags, MP_MORE | MP_IS_FD);
	EXPECT_EQ(event.backlog, 12);
	EXPECT_EQ(event.result, 55);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.flags, 0);
	EXPECT_EQ(event.backlog, 0);
	EXPECT_EQ(event.result, -EMFILE);
	mp_destroy(channel);
}

static void recvfrom__address_and_truncation(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	fake_post((struct megapipe_event) {
		.handle = 1, .op = MEGAPIPE_OP_RECVFROM, .res = 0, .aux = 28,
		.flags = MEGAPIPE_EVENT_TRUNC,
	});
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.flags, MP_TRUNCATED);
	EXPECT_EQ(event.addrlen, 28);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(command__of_every_op),
	TEST(accept__more_backlog_and_fallback),
	TEST(recvfrom__address_and_truncation)
)
