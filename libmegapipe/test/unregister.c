// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A handle given up: what was fetched for it and not handed out is dropped,
 * and nothing else is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"
#include "test.h"

static char buf[64];

static int next_id(struct mp_channel *channel)
{
	struct mp_event event;
	int ret = mp_dispatch(channel, &event, 0);

	return ret == 1 ? event.handle.id : ret;
}

static void unregister__drops_the_fetched(void)
{
	struct mp_channel *channel = fake_channel(64);

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
	fake_complete(3, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_WRITE, 1);
	EXPECT_EQ(next_id(channel), 1);
	EXPECT_EQ(mp_unregister(handle(channel, 2)), 0);
	EXPECT_EQ(next_id(channel), 3);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

static void close__drops_the_fetched(void)
{
	struct mp_channel *channel = fake_channel(64);

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 1);
	EXPECT_EQ(mp_close(handle(channel, 2)), 0);
	EXPECT_EQ(next_id(channel), 0);
	EXPECT_EQ(fake.ran[0].op, MEGAPIPE_OP_CLOSE);
	mp_destroy(channel);
}

/* Handles that share the low bits of their ids with the one given up */
static void same_key__only_its_own(void)
{
	struct mp_channel *channel = fake_channel(64);
	int id;

	fake_complete(9999, MEGAPIPE_OP_READ, 1);
	for (id = 1; id <= 1000; id += 111)
		fake_complete(id << 8 | 5, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 9999);
	for (id = 1; id <= 1000; id += 222)
		mp_unregister(handle(channel, id << 8 | 5));
	for (id = 112; id <= 1000; id += 222)
		EXPECT_EQ(next_id(channel), id << 8 | 5);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

/* The same, with so many fetched that the library remembers what it saw */
static void same_key__of_many(void)
{
	struct mp_channel *channel = fake_channel(64);
	int id;

	fake_complete(9999, MEGAPIPE_OP_READ, 1);
	for (id = 1; id <= 20; id++)
		fake_complete(id << 20 | 5, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 9999);
	for (id = 20; id >= 1; id -= 2)
		mp_close(handle(channel, id << 20 | 5));
	for (id = 1; id <= 20; id += 2)
		EXPECT_EQ(next_id(channel), id << 20 | 5);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

/* Completions that come, behind those fetched, after a handle was given up */
static void fetched_later__dropped(void)
{
	struct mp_channel *channel = fake_channel(8);
	int id;

	for (id = 1; id <= 10; id++)
		fake_complete(id, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 1);
	mp_close(handle(channel, 1));
	fake_complete(1000, MEGAPIPE_OP_READ, 1);
	fake_complete(3, MEGAPIPE_OP_WRITE, 1);
	for (id = 2001; id <= 2007; id++)
		mp_read(handle(channel, id), buf, 1);
	EXPECT_EQ(fake.nr_calls, 2);
	mp_close(handle(channel, 3));
	mp_close(handle(channel, 10));
	for (id = 2; id <= 9; id++)
		if (id != 3)
			EXPECT_EQ(next_id(channel), id);
	EXPECT_EQ(next_id(channel), 1000);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

/*
 * What was seen of one fetch says nothing about the next: closing what the
 * first one completed leaves the batch and the buffer of the second alone.
 */
static void seen_before__not_now(void)
{
	struct mp_channel *channel = fake_channel(64);
	int turn, id;

	for (turn = 0; turn < 300; turn++) {
		for (id = 1; id <= 16; id++)
			fake_complete((turn % 7) << 20 | id, MEGAPIPE_OP_READ, 1);
		for (id = 1; id <= 16; id++) {
			EXPECT_EQ(next_id(channel), (turn % 7) << 20 | id);
			mp_close(handle(channel, (turn % 7) << 20 | id));
		}
		EXPECT_EQ(next_id(channel), 0);
	}
	EXPECT_EQ(fake.nr_ran, 300 * 16);
	mp_destroy(channel);
}

/*
 * Using a handle after giving it up is answered, whether completions were
 * waiting at that time or not.
 */
static void stale_use__answered(void)
{
	struct mp_channel *channel = fake_channel(64);
	struct mp_event event;

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
	fake_complete(3, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 1);
	fake_mark_stale(2);
	mp_close(handle(channel, 2));
	mp_read(handle(channel, 2), buf, 1);
	EXPECT_EQ(mp_flush(channel), 0);
	EXPECT_EQ(next_id(channel), 3);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, 2);
	EXPECT_EQ(event.cmd, MP_FAILED);
	EXPECT_EQ(event.result, -9);
	ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
	EXPECT_EQ(event.handle.id, 2);
	EXPECT_EQ(event.cmd, MP_READ);
	EXPECT_EQ(event.result, -9);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

/* -EBADF also says that there is no such file to be sent; that goes. */
static void no_such_file__dropped(void)
{
	struct mp_channel *channel = fake_channel(64);

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_SENDFILE, -EBADF);
	EXPECT_EQ(next_id(channel), 1);
	mp_close(handle(channel, 2));
	EXPECT_EQ(next_id(channel), 0);

	fake.keep = true;
	mp_sendfile(handle(channel, 3), 99, 0, 1);
	mp_close(handle(channel, 3));
	fake_complete(3, MEGAPIPE_OP_SENDFILE, -EBADF);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

/*
 * Requests that fail leave half of the room to completions that wait, and the
 * rest of the batch for later: with it what gives up a handle, while a completion
 * of that is among those that wait.
 */
static void expect_only_failures(struct mp_channel *channel, int stale, int nr)
{
	struct mp_event event;

	for (; nr; nr--) {
		ASSERT_EQ(mp_dispatch(channel, &event, 0), 1);
		EXPECT_EQ(event.handle.id, stale);
		EXPECT_EQ(event.result, -EBADF);
	}
	EXPECT_EQ(mp_dispatch(channel, &event, 0), 0);
}

static void batch_stops__dropped_by_flush(void)
{
	struct mp_channel *channel = fake_channel(64);
	int id;

	for (id = 1; id <= 252; id++)
		fake_complete(id, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 1);
	fake_mark_stale(1000);
	for (id = 0; id < 3; id++)
		mp_read(handle(channel, 1000), buf, 1);
	mp_close(handle(channel, 2000));
	fake_complete(2000, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(mp_flush(channel), 0);
	EXPECT_EQ(fake.calls[1].done_cmds, 2);
	EXPECT_EQ(fake.calls[1].ret, 3);
	for (id = 2; id <= 252; id++)
		EXPECT_EQ(next_id(channel), id);
	expect_only_failures(channel, 1000, 3);
	mp_destroy(channel);
}

static void batch_stops__dropped_by_dispatch(void)
{
	struct mp_channel *channel = fake_channel(1024);
	int i;

	fake_mark_stale(1000);
	for (i = 0; i < 200; i++)
		mp_read(handle(channel, 1000), buf, 1);
	mp_unregister(handle(channel, 2000));
	fake_complete(2000, MEGAPIPE_OP_READ, 1);
	expect_only_failures(channel, 1000, 200);
	EXPECT_EQ(fake.calls[0].done_cmds, 128);
	EXPECT_EQ(fake.calls[0].ret, 129);
	mp_destroy(channel);
}

/* The note ends with the buffer: a new handle may have the number. */
static void number_reused__not_dropped(void)
{
	struct mp_channel *channel = fake_channel(64);

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 1);
	mp_unregister(handle(channel, 2));
	EXPECT_EQ(next_id(channel), 0);
	fake_complete(2, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 2);
	mp_destroy(channel);
}

/* Asked for before the handle is given up, completed by the same call */
static void same_batch__dropped(void)
{
	struct mp_channel *channel = fake_channel(64);

	fake.instant = true;
	mp_read(handle(channel, 1), buf, 1);
	mp_read(handle(channel, 2), buf, 1);
	mp_write(handle(channel, 1), buf, 1);
	mp_close(handle(channel, 1));
	mp_read(handle(channel, 3), buf, 1);
	EXPECT_EQ(next_id(channel), 2);
	EXPECT_EQ(fake.nr_calls, 1);
	EXPECT_EQ(next_id(channel), 3);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

/* The batch stops before the close, for want of room, and is run in two. */
static void same_batch__in_two_parts(void)
{
	struct mp_channel *channel = fake_channel(1024);
	int i;

	fake.instant = true;
	fake_mark_stale(9);
	for (i = 0; i < 300; i++)
		mp_read(handle(channel, 9), buf, 1);
	mp_read(handle(channel, 1), buf, 1);
	mp_close(handle(channel, 1));
	for (i = 0; i < 300; i++)
		EXPECT_EQ(next_id(channel), 9);
	EXPECT_EQ(fake.nr_calls, 2);
	EXPECT_EQ(next_id(channel), 0);
	EXPECT_EQ(fake.nr_ran, 302);
	mp_destroy(channel);
}

/* More handles given up than the library takes notes of */
static void many__all_dropped(void)
{
	struct mp_channel *channel = fake_channel(1024);
	int id, n = 0;

	fake_complete(9999, MEGAPIPE_OP_READ, 1);
	for (id = 1; id <= 255; id++)
		fake_complete(id, MEGAPIPE_OP_READ, 1);
	EXPECT_EQ(next_id(channel), 9999);
	for (id = 2000; id < 2700; id++)
		mp_unregister(handle(channel, id));
	for (id = 2; id <= 255; id += 2)
		mp_unregister(handle(channel, id));
	for (id = 2000; id < 2190; id++)
		mp_unregister(handle(channel, id));
	for (id = 1; id <= 255; id += 2, n++)
		EXPECT_EQ(next_id(channel), id);
	EXPECT_EQ(n, 128);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

/* A connection that nobody will hear of must not stay open. */
static void accepted__closed(void)
{
	struct mp_channel *channel = fake_channel(64);
	int lwsocket = MEGAPIPE_HANDLE_LWSOCKET | 77;

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_ACCEPT, lwsocket);
	fake_complete(2, MEGAPIPE_OP_ACCEPT, 55);
	fake_complete(2, MEGAPIPE_OP_ACCEPT, -24);
	EXPECT_EQ(next_id(channel), 1);
	mp_unregister(handle(channel, 2));
	EXPECT_EQ(next_id(channel), 0);
	ASSERT_EQ(fake.nr_closed, 1);
	EXPECT_EQ(fake.closed[0], 55);
	ASSERT_EQ(fake.nr_ran, 2);
	EXPECT_EQ(fake.ran[0].op, MEGAPIPE_OP_CLOSE);
	EXPECT_EQ(fake.ran[0].handle, lwsocket);
	EXPECT_EQ(fake.ran[1].op, MEGAPIPE_OP_UNREGISTER);
	mp_destroy(channel);
}

/* The same, of an accept that the batch before the unregistration completes */
static void accepted__closed_when_the_batch_has_run(void)
{
	struct mp_channel *channel = fake_channel(64);

	mp_accept(handle(channel, 300), 1, false);
	mp_unregister(handle(channel, 300));
	fake_complete(300, MEGAPIPE_OP_ACCEPT, 55);
	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake.keep = true;	/* as if the accept had completed at once */
	EXPECT_EQ(next_id(channel), 1);
	ASSERT_EQ(fake.nr_closed, 1);
	EXPECT_EQ(fake.closed[0], 55);
	EXPECT_EQ(next_id(channel), 0);
	mp_destroy(channel);
}

static void destroy__closes_the_accepted(void)
{
	struct mp_channel *channel = fake_channel(64);

	fake_complete(1, MEGAPIPE_OP_READ, 1);
	fake_complete(2, MEGAPIPE_OP_ACCEPT, 55);
	fake_complete(3, MEGAPIPE_OP_READ, 66);
	EXPECT_EQ(next_id(channel), 1);
	mp_destroy(channel);
	ASSERT_EQ(fake.nr_closed, 2);
	EXPECT_EQ(fake.closed[0], 55);
	EXPECT_EQ(fake.closed[1], FAKE_FD);
}

/*
 * Against a model: random completions, requests, registrations and
 * unregistrations of 40 lwsockets, whose successors have the same slot in their
 * numbers.  The program must see the completions of handles that it has not given
 * up, in order, and no others.
 */
#define MODEL_HANDLES	40
#define MODEL_STEPS	1000

struct model {
	struct mp_channel *channel;
	int ids[MODEL_HANDLES];
	int queue[MODEL_STEPS];	/* completions to come; 0: dropped */
	int head, tail;
};

static void model_drop(struct model *m, int *id)
{
	int i;

	ASSERT_EQ(mp_unregister(handle(m->channel, *id)), 0);
	for (i = m->head; i < m->tail; i++)
		if (m->queue[i] == *id)
			m->queue[i] = 0;
	*id += 1 << 20;
}

static int model_next(struct model *m)
{
	while (m->head < m->tail && !m->queue[m->head])
		m->head++;
	return m->head < m->tail ? m->queue[m->head++] : 0;
}

static bool model_knows(const struct model *m, int id)
{
	return !id || m->ids[id % (1 << 20) / 64] == id;
}

/* The read after it shares its command, or does not. */
static void model_register(struct mp_channel *channel, int id)
{
	mp_handle h;

	ASSERT_EQ(mp_register(channel, id, buf, NULL, &h), 0);
	ASSERT_EQ(h.id, id);
	if (random() % 4)
		ASSERT_EQ(mp_read(h, buf, 1), 0);
}

static void run_model(struct mp_channel *channel)
{
	struct model m = { .channel = channel };
	int step, id, seen;

	for (id = 0; id < MODEL_HANDLES; id++)
		m.ids[id] = MEGAPIPE_HANDLE_LWSOCKET + (1 << 20) +
			    id * 64;
	for (step = 0; step < MODEL_STEPS; step++) {
		int *of = &m.ids[random() % MODEL_HANDLES];

		switch (random() % 9) {
		case 0: case 1:
			if (!fake.instant) {
				fake_complete(*of, MEGAPIPE_OP_READ, 1);
				m.queue[m.tail++] = *of;
			}
			break;
		case 2:
			model_drop(&m, of);
			break;
		case 3: case 4:
			ASSERT_EQ(mp_write(handle(channel, *of), buf, 1), 0);
			break;
		case 5:
			model_register(channel, *of);
			break;
		default:
			seen = next_id(channel);
			if (fake.instant)
				ASSERT(model_knows(&m, seen));
			else
				ASSERT_EQ(seen, model_next(&m));
		}
	}
}

static void random__as_the_model_says(void)
{
	static const unsigned int thresholds[] = { 1, 2, 7, 64 };
	unsigned int seed;

	for (seed = 1; seed <= 200; seed++) {
		struct mp_channel *channel = fake_channel(thresholds[seed % 4]);

		srandom(seed);
		fake.instant = seed / 4 % 2;
		run_model(channel);
		mp_destroy(channel);
		EXPECT(!fake.misuse);
	}
}

TEST_MAIN(
	TEST(unregister__drops_the_fetched),
	TEST(close__drops_the_fetched),
	TEST(same_key__only_its_own),
	TEST(same_key__of_many),
	TEST(fetched_later__dropped),
	TEST(seen_before__not_now),
	TEST(stale_use__answered),
	TEST(no_such_file__dropped),
	TEST(batch_stops__dropped_by_flush),
	TEST(batch_stops__dropped_by_dispatch),
	TEST(number_reused__not_dropped),
	TEST(same_batch__dropped),
	TEST(same_batch__in_two_parts),
	TEST(many__all_dropped),
	TEST(accepted__closed),
	TEST(accepted__closed_when_the_batch_has_run),
	TEST(destroy__closes_the_accepted),
	TEST(random__as_the_model_says)
)
