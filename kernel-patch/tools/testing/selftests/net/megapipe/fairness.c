// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who always has something to do does not keep the others waiting.
 *
 * Counted in dispatches, which is deterministic: all that a test needs is in the
 * sockets before the first dispatch, and each dispatch has room for few
 * completions.
 */
#include "megapipe_test.h"

#define FLOODERS	16
#define OTHERS		24
#define ALL		(FLOODERS + OTHERS)
#define ROOM		8	/* completions of a dispatch */

FIXTURE(fair)
{
	int channel;
	int fd;
	int listener;
	struct mp_addr addr;
	int clients[ALL];
	int handles[ALL];
	char bytes[ALL];
};

/*
 *	16 clients: flood -------> handles 0-15 ---+
 *	24 clients: a byte each -> handles 16-39 --+--> one channel
 */
FIXTURE_SETUP(fair)
{
	int i;

	mp_new_netns();
	self->channel = mp_open();
	self->fd = mp_listen(AF_INET, 1024, &self->addr);
	self->listener = mp_register(self->channel, self->fd, 0);
	ASSERT_GT(self->listener, 0);
	for (i = 0; i < ALL; i++) {
		self->handles[i] = mp_lwsocket(self->channel, self->listener,
					       &self->addr, &self->clients[i]);
		mp_submit(self->channel, mp_cmd_cookie(self->handles[i], i));
	}
}

FIXTURE_TEARDOWN(fair)
{
	int i;

	for (i = 0; i < ALL; i++)
		close(self->clients[i]);
	close(self->channel);
	close(self->fd);
}

/* A read is pending on each of the others, then their bytes arrive. */
static void others_become_ready(FIXTURE_DATA(fair) * self)
{
	int i;

	for (i = FLOODERS; i < ALL; i++)
		mp_submit(self->channel, mp_cmd_read(self->handles[i],
						     &self->bytes[i], 1));
	for (i = FLOODERS; i < ALL; i++)
		mp_write_all(self->clients[i], "x", 1);
}

/*
 * The flooders' commands never wait, and each is followed by the next at once.
 * Half of the room of a dispatch is for those that do wait, first come first
 * served: all of them, 4 a dispatch, have had their turn within 10 of them.
 */
static void expect_others_served(struct __test_metadata *_metadata,
				 FIXTURE_DATA(fair) * self,
				 struct megapipe_cmd flood)
{
	int dispatches = 0, served = 0, flooders = 0, nr, ret, i;
	struct megapipe_cmd cmds[FLOODERS];
	struct megapipe_event events[ROOM];
	uint32_t done;

	for (nr = 0; nr < FLOODERS; nr++) {
		cmds[nr] = flood;
		cmds[nr].handle = self->handles[nr];
	}
	while (served < OTHERS) {
		ASSERT_LT(dispatches, ALL);
		ret = mp_dispatch(self->channel, cmds, nr, events, ROOM, 1,
				  MP_DEADLINE_NS, &done);
		ASSERT_GT(ret, 0);
		ASSERT_EQ(done, nr);
		dispatches++;
		nr = 0;
		for (i = 0; i < ret; i++) {
			EXPECT_EQ(events[i].res, 1);
			if (events[i].cookie >= FLOODERS) {
				served++;
				continue;
			}
			flooders++;
			cmds[nr] = flood;
			cmds[nr++].handle = events[i].handle;
		}
	}
	TH_LOG("%d dispatches served %d others, and flooders %d times",
	       dispatches, served, flooders);
	EXPECT_LE(dispatches, ALL / (ROOM / 2));
	/* Nor do the others starve the flooders. */
	EXPECT_GE(flooders, dispatches);
}

TEST_F(fair, connections__that_flood_do_not_starve_the_others)
{
	static char flood[1024];
	int i;

	for (i = 0; i < FLOODERS; i++)
		mp_write_all(self->clients[i], flood, sizeof(flood));
	others_become_ready(self);
	expect_others_served(_metadata, self,
			     mp_cmd_read(0, self->bytes, 1));
}

/* The same when they write: there is always space. */
TEST_F(fair, connections__that_write_do_not_starve_the_others)
{
	others_become_ready(self);
	expect_others_served(_metadata, self, mp_cmd_write(0, "y", 1));
}

/* And when they do both with one command: the next request is always there. */
TEST_F(fair, connections__that_answer_do_not_starve_the_others)
{
	static char flood[1024];
	int i;

	for (i = 0; i < FLOODERS; i++)
		mp_write_all(self->clients[i], flood, sizeof(flood));
	others_become_ready(self);
	expect_others_served(_metadata, self,
			     mp_cmd_then_read(0, "y", 1, self->bytes, 1));
}

/*
 * Nor do commands that fail at once, such as those for handles that are closed.
 * What finds no room is not consumed, and sent again.
 */
TEST_F(fair, commands__that_fail_do_not_starve_the_connections)
{
	struct megapipe_event events[ROOM];
	struct megapipe_cmd storm[ROOM];
	int dispatches = 0, served = 0, failed = 0, ret, i;
	uint32_t done;

	for (i = 0; i < ROOM; i++)
		storm[i] = mp_cmd_read(0, self->bytes, 1);
	others_become_ready(self);
	while (served < OTHERS) {
		ASSERT_LT(dispatches, ALL);
		ret = mp_dispatch(self->channel, storm, ROOM, events, ROOM, 1,
				  MP_DEADLINE_NS, &done);
		ASSERT_GT(ret, 0);
		dispatches++;
		for (i = 0; i < ret; i++) {
			if (events[i].res == 1) {
				served++;
				continue;
			}
			EXPECT_EQ(events[i].res, -EBADF);
			failed++;
			done--;
		}
		EXPECT_EQ(done, 0);
	}
	TH_LOG("%d dispatches served %d others, and failed %d times",
	       dispatches, served, failed);
	EXPECT_EQ(dispatches, OTHERS / (ROOM / 2));
	EXPECT_EQ(failed, dispatches * ROOM / 2);

	/* With room for one, commands get on although connections wait. */
	others_become_ready(self);
	ret = mp_dispatch(self->channel, storm, 1, events, 1, 1,
			  MP_DEADLINE_NS, &done);
	ASSERT_EQ(ret, 1);
	EXPECT_EQ(done, 1);
	EXPECT_EQ(events[0].res, -EBADF);
}

/*
 * Far more connections wait than a dispatch has room for, and the accept is
 * older than the reads.  The listener takes its turn once, all the room of a
 * dispatch, and goes behind the others.
 */
TEST_F(fair, listener__that_floods_does_not_starve_the_connections)
{
	int dispatches = 0, served = 0, accepted = 0, ret, i;
	struct megapipe_event events[ROOM];
	int flood[200];

	mp_submit(self->channel, mp_cmd_accept(self->listener, 0,
					       MEGAPIPE_CMD_LWSOCKET));
	for (i = 0; i < ARRAY_SIZE(flood); i++)
		flood[i] = mp_connect(&self->addr);
	others_become_ready(self);
	while (served < OTHERS) {
		ASSERT_LT(dispatches, 4 * OTHERS);
		ret = mp_dispatch(self->channel, NULL, 0, events, ROOM, 1,
				  MP_DEADLINE_NS, NULL);
		ASSERT_GT(ret, 0);
		dispatches++;
		for (i = 0; i < ret; i++) {
			if (events[i].op == MEGAPIPE_OP_ACCEPT)
				accepted++;
			else
				served++;
		}
	}
	TH_LOG("%d dispatches served %d connections, and %d accepts",
	       dispatches, served, accepted);
	EXPECT_LE(dispatches, OTHERS / ROOM + 1);
	/* Its turn comes again. */
	ret = mp_dispatch(self->channel, NULL, 0, events, ROOM, ROOM,
			  MP_DEADLINE_NS, NULL);
	ASSERT_EQ(ret, ROOM);
	EXPECT_EQ(events[ROOM - 1].op, MEGAPIPE_OP_ACCEPT);
	for (i = 0; i < ARRAY_SIZE(flood); i++)
		close(flood[i]);
}

/*
 * Even when a dispatch has room for all: a turn of the listener is 64
 * connections, then those that were ready come before its next turn.
 */
TEST_F(fair, listener__has_turns)
{
	struct megapipe_event events[1024];
	int flood[200], ret, i, last = -1, accepts_before = 0;

	mp_submit(self->channel, mp_cmd_accept(self->listener, 0,
					       MEGAPIPE_CMD_LWSOCKET));
	for (i = 0; i < ARRAY_SIZE(flood); i++)
		flood[i] = mp_connect(&self->addr);
	others_become_ready(self);
	ret = mp_dispatch(self->channel, NULL, 0, events, ARRAY_SIZE(events),
			  ARRAY_SIZE(flood) + OTHERS, MP_DEADLINE_NS, NULL);
	ASSERT_EQ(ret, ARRAY_SIZE(flood) + OTHERS);
	for (i = 0; i < ret; i++)
		if (events[i].op == MEGAPIPE_OP_READ)
			last = i;
	for (i = 0; i < last; i++)
		accepts_before += events[i].op == MEGAPIPE_OP_ACCEPT;
	EXPECT_EQ(accepts_before, 64);
	for (i = 0; i < ARRAY_SIZE(flood); i++)
		close(flood[i]);
}

TEST_HARNESS_MAIN
