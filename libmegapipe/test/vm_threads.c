// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Threads that share one channel: all of them ask and wait, each completion goes
 * to one of them, and a thread that waits does not keep the others out.
 *
 *	clients --- 8 connections --- one channel --- 4 threads
 */
#include <pthread.h>

#include "net.h"

#define THREADS		4
#define CONNECTIONS	8
#define ROUNDS		50
#define SIZE		64

struct connection {
	mp_handle h;
	int client;
	char buf[SIZE];
};

static struct connection connections[CONNECTIONS];
static struct mp_channel *channel;
static int left;		/* replies to write */

/* Echoes until all are echoed; whoever comes last wakes the others. */
static void *serve(void *arg)
{
	struct mp_event events[4];
	int i, n;

	(void)arg;
	while (__atomic_load_n(&left, __ATOMIC_SEQ_CST) > 0) {
		n = mp_dispatch_batch(channel, events, 4, SECOND / 10, NULL);
		ASSERT(n >= 0);
		for (i = 0; i < n; i++) {
			struct connection *c = events[i].cookie;

			ASSERT_EQ(events[i].result, SIZE);
			if (events[i].cmd == MP_READ) {
				ASSERT_EQ(mp_write(c->h, c->buf, SIZE), 0);
			} else {
				__atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST);
				ASSERT_EQ(mp_read(c->h, c->buf, SIZE), 0);
			}
		}
		ASSERT_EQ(mp_flush(channel), 0);
	}
	return NULL;
}

static void shared__echo(void)
{
	pthread_t threads[THREADS];
	struct server s;
	char in[SIZE] = "", out[SIZE];
	int i, round;

	server_open(&s, AF_INET, 16);
	for (i = 0; i < CONNECTIONS; i++) {
		struct connection *c = &connections[i];

		c->client = client_open(&s, i % 2, c, &c->h);
		ASSERT_EQ(mp_read(c->h, c->buf, SIZE), 0);
	}
	channel = s.channel;
	left = CONNECTIONS * ROUNDS;
	ASSERT_EQ(mp_set_shared(channel, true), 0);
	for (i = 0; i < THREADS; i++)
		ASSERT(!pthread_create(&threads[i], NULL, serve, NULL));
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < CONNECTIONS; i++) {
			memset(out, round + i, SIZE);
			ASSERT_EQ(write(connections[i].client, out, SIZE),
				  SIZE);
		}
		for (i = 0; i < CONNECTIONS; i++) {
			memset(out, round + i, SIZE);
			ASSERT_EQ(recv(connections[i].client, in, SIZE,
				       MSG_WAITALL), SIZE);
			EXPECT(!memcmp(in, out, SIZE));
		}
	}
	for (i = 0; i < THREADS; i++)
		ASSERT(!pthread_join(threads[i], NULL));
	for (i = 0; i < CONNECTIONS; i++)
		close(connections[i].client);
	server_close(&s);
}

static void *wait_for_read(void *arg)
{
	struct pair *p = arg;

	expect_result(p->s.channel, p->h, MP_READ, 2);
	return NULL;
}

/* A thread sleeps in mp_dispatch() for ever; another asks, and it gets it. */
static void shared__asked_for_by_another(void)
{
	struct pair p = pair_open(true, NULL);
	struct timespec while_it_sleeps = { .tv_nsec = 100000000 };
	pthread_t thread;
	char buf[8];

	ASSERT_EQ(mp_flush(p.s.channel), 0);
	ASSERT_EQ(mp_set_shared(p.s.channel, true), 0);
	ASSERT(!pthread_create(&thread, NULL, wait_for_read, &p));
	nanosleep(&while_it_sleeps, NULL);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	ASSERT_EQ(write(p.client, "hi", 2), 2);
	ASSERT(!pthread_join(thread, NULL));
	pair_close(&p);
}

TEST_MAIN(
	TEST(shared__echo),
	TEST(shared__asked_for_by_another)
)
