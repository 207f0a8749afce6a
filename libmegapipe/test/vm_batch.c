// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Batching divides the system calls: counted by the kernel while the same
 * transactions are run at several thresholds.
 */
#include "net.h"

#define CONNECTIONS	64
#define ROUNDS		4
#define TRANSACTIONS	(CONNECTIONS * ROUNDS)

struct connection {
	mp_handle handle;
	char buf[64];
	int client;
};

static struct connection connections[CONNECTIONS];

static void open_all(struct server *s)
{
	int i;

	for (i = 0; i < CONNECTIONS; i++) {
		struct connection *c = &connections[i];

		c->client = client_open(s, true, c, &c->handle);
		mp_read(c->handle, c->buf, sizeof(c->buf));
	}
	ASSERT_EQ(mp_flush(s->channel), 0);
}

/* All clients ask, the server answers, all clients hear. */
static void round_trip(struct server *s)
{
	struct mp_event event;
	struct connection *c;
	int i, answered = 0;
	char reply[64];

	for (i = 0; i < CONNECTIONS; i++)
		ASSERT_EQ(write(connections[i].client, reply, 64), 64);
	while (answered < CONNECTIONS) {
		ASSERT_EQ(mp_dispatch(s->channel, &event, DEADLINE_US), 1);
		c = event.cookie;
		ASSERT_EQ(event.result, 64);
		if (event.cmd == MP_READ) {
			mp_write(c->handle, c->buf, 64);
		} else {
			mp_read(c->handle, c->buf, sizeof(c->buf));
			answered++;
		}
	}
	ASSERT_EQ(mp_flush(s->channel), 0);
	for (i = 0; i < CONNECTIONS; i++)
		ASSERT_EQ(recv(connections[i].client, reply, 64, MSG_WAITALL),
			  64);
}

/* System calls for the transactions at a threshold */
static unsigned int calls_at(unsigned int threshold)
{
	struct mp_stats before, after;
	struct server s;
	int i;

	server_open(&s, AF_INET, threshold);
	open_all(&s);
	before = stats_of(s.channel);
	for (i = 0; i < ROUNDS; i++)
		round_trip(&s);
	after = stats_of(s.channel);

	EXPECT_EQ(after.commands - before.commands, 2 * TRANSACTIONS);
	EXPECT_EQ(after.events - before.events, 2 * TRANSACTIONS);
	printf("# threshold %u: %.3f system calls per transaction\n", threshold,
	       (double)(after.dispatches - before.dispatches) / TRANSACTIONS);
	for (i = 0; i < CONNECTIONS; i++)
		close(connections[i].client);
	server_close(&s);
	return (unsigned int)(after.dispatches - before.dispatches);
}

static void threshold__divides_the_calls(void)
{
	static const unsigned int thresholds[] = { 1, 2, 8, 64 };
	unsigned int calls, before = 0;
	size_t i;

	for (i = 0; i < 4; i++) {
		calls = calls_at(thresholds[i]);
		/* At least one for every full batch. */
		EXPECT(calls >= 2 * TRANSACTIONS / thresholds[i]);
		if (before)
			EXPECT(calls < before);
		before = calls;
	}
	EXPECT(before * 8 <= TRANSACTIONS);
}

TEST_MAIN(
	TEST(threshold__divides_the_calls)
)
