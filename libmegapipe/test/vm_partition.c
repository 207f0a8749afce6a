// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Partitions of the accept queue.  Over the loopback device a handshake is
 * handled on the CPU of the client, so pinning the client chooses the channel:
 *
 *	client on CPU 0 --> listener --> partition {0} - channel 0
 *	client on CPU 1 -->     "    --> partition {1} - channel 1
 */
#define _GNU_SOURCE
#include <sched.h>

#include "net.h"

#define CONNECTIONS 20

struct halves {
	struct server s[2];	/* one listener, two channels */
};

static cpu_set_t only(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return set;
}

static void run_on(unsigned int cpu)
{
	cpu_set_t set = only(cpu);

	if (sched_setaffinity(0, sizeof(set), &set)) {
		printf("# skipped: there is no CPU %u\n", cpu);
		exit(TEST_SKIPPED);
	}
}

static void halves_open(struct halves *h)
{
	unsigned int cpu;
	cpu_set_t set;

	run_on(1);
	run_on(0);
	h->s[0].channel = new_channel(64);
	server_listen(&h->s[0], AF_INET, 128, 0);
	h->s[1] = h->s[0];
	h->s[1].channel = new_channel(64);
	for (cpu = 0; cpu < 2; cpu++) {
		struct server *s = &h->s[cpu];

		set = only(cpu);
		ASSERT_EQ(mp_register(s->channel, s->listener, s, &set,
				      &s->handle), 0);
		ASSERT_EQ(mp_accept(s->handle, MP_FOREVER, true), 0);
		ASSERT_EQ(mp_flush(s->channel), 0);
	}
}

static void halves_close(struct halves *h)
{
	mp_destroy(h->s[0].channel);
	server_close(&h->s[1]);
}

static void accept__on_the_cpu_of_the_handshake(void)
{
	int clients[2][CONNECTIONS];
	struct halves h;
	unsigned int cpu;
	int i;

	halves_open(&h);
	for (cpu = 0; cpu < 2; cpu++) {
		run_on(cpu);
		for (i = 0; i < CONNECTIONS; i++)
			clients[cpu][i] = client_connect(&h.s[cpu]);
	}
	for (cpu = 0; cpu < 2; cpu++) {
		struct mp_channel *channel = h.s[cpu].channel;

		run_on(cpu);
		for (i = 0; i < CONNECTIONS; i++) {
			EXPECT(next_event(channel, MP_ACCEPT).result >= 0);
			close(clients[cpu][i]);
		}
		expect_silence(channel);
		EXPECT_EQ(stats_of(channel).accepts, CONNECTIONS);
		EXPECT_EQ(stats_of(channel).accepts_foreign, 0);
	}
	halves_close(&h);
}

/* A channel leaves: what waited in its partition goes to the other. */
static void unregister__loses_no_connection(void)
{
	mp_handle accepted[CONNECTIONS];
	int clients[CONNECTIONS];
	struct mp_event event;
	struct halves h;
	char byte;
	int i;

	halves_open(&h);
	ASSERT_EQ(mp_cancel(h.s[0].handle), 0);
	expect_result(h.s[0].channel, h.s[0].handle, MP_ACCEPT, -ECANCELED);
	run_on(0);
	for (i = 0; i < CONNECTIONS; i++)
		clients[i] = client_connect(&h.s[0]);
	mp_destroy(h.s[0].channel);
	for (i = 0; i < CONNECTIONS; i++) {
		event = next_event(h.s[1].channel, MP_ACCEPT);
		ASSERT(event.result >= 0);
		ASSERT_EQ(mp_register(h.s[1].channel, event.result, NULL, NULL,
				      &accepted[i]), 0);
	}
	for (i = 0; i < CONNECTIONS; i++) {
		ASSERT_EQ(mp_write(accepted[i], "x", 1), 0);
		expect_result(h.s[1].channel, accepted[i], MP_WRITE, 1);
	}
	for (i = 0; i < CONNECTIONS; i++) {
		EXPECT_EQ(read(clients[i], &byte, 1), 1);
		close(clients[i]);
	}
	server_close(&h.s[1]);
}

/* CPUs that no partition covers are served all the same. */
static void cpu_not_covered__served(void)
{
	struct server s;
	cpu_set_t set = only(1);
	int client;

	run_on(1);
	run_on(0);
	s.channel = new_channel(64);
	server_listen(&s, AF_INET6, 128, 0);
	ASSERT_EQ(mp_register(s.channel, s.listener, &s, &set, &s.handle), 0);
	ASSERT_EQ(mp_accept(s.handle, MP_FOREVER, true), 0);
	ASSERT_EQ(mp_flush(s.channel), 0);
	client = client_connect(&s);
	EXPECT(next_event(s.channel, MP_ACCEPT).result >= 0);
	close(client);
	server_close(&s);
}

/* After the last partition the listener is an ordinary one again. */
static void all_gone__plain_accept_works(void)
{
	struct halves h;
	int client, fd;

	halves_open(&h);
	mp_destroy(h.s[0].channel);
	mp_destroy(h.s[1].channel);
	client = client_connect(&h.s[0]);
	fd = accept(h.s[0].listener, NULL, NULL);
	EXPECT(fd >= 0);
	close(fd);
	close(client);
	close(h.s[0].listener);
}

static void mask__bad(void)
{
	struct server s;
	mp_handle h;
	cpu_set_t none;
	int client, fd;

	s.channel = new_channel(64);
	server_listen(&s, AF_INET, 128, 0);
	CPU_ZERO(&none);
	EXPECT_EQ(mp_register(s.channel, s.listener, NULL, &none, &h),
		  -EINVAL);
	client = client_connect(&s);
	fd = accept(s.listener, NULL, NULL);
	none = only(0);
	EXPECT_EQ(mp_register(s.channel, fd, NULL, &none, &h), -EINVAL);
	close(fd);
	close(client);
	server_close(&s);
}

TEST_MAIN(
	TEST(accept__on_the_cpu_of_the_handshake),
	TEST(unregister__loses_no_connection),
	TEST(cpu_not_covered__served),
	TEST(all_gone__plain_accept_works),
	TEST(mask__bad)
)
