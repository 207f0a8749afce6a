// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An lwsocket that is registered and read from with one command: it has its
 * cookie before anything completes, and one that is none is answered once.
 */
#include "net.h"

#define CONNECTIONS 200

static char buf[64];

struct connection {
	mp_handle handle;
	int client;
	unsigned char byte;
};

/* Accepted, and not registered yet */
static int accept_one(struct server *s)
{
	struct mp_event event;

	ASSERT_EQ(mp_accept(s->handle, 1, true), 0);
	event = next_event(s->channel, MP_ACCEPT);
	ASSERT(event.result >= 0);
	return event.result;
}

static void expect_from(struct mp_channel *channel, const void *cookie,
			int result)
{
	struct mp_event event = next_event(channel, MP_READ);

	EXPECT(event.cookie == cookie);
	EXPECT_EQ(event.result, result);
}

/* So many commands make the first message known by its cookie. */
static void first_message(unsigned int batch, bool shared, bool early,
			  unsigned int commands)
{
	struct mp_stats before;
	struct server s;
	int client, socket;
	mp_handle h;

	server_open(&s, AF_INET, batch);
	ASSERT_EQ(mp_set_shared(s.channel, shared), 0);
	client = client_connect(&s);
	if (early)
		ASSERT_EQ(write(client, "hello", 5), 5);
	socket = accept_one(&s);
	ASSERT_EQ(mp_flush(s.channel), 0);
	before = stats_of(s.channel);
	ASSERT_EQ(mp_register(s.channel, socket, &client, NULL, &h), 0);
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	ASSERT_EQ(mp_flush(s.channel), 0);
	EXPECT_EQ(stats_of(s.channel).commands - before.commands, commands);
	if (!early)
		ASSERT_EQ(write(client, "hello", 5), 5);
	expect_from(s.channel, &client, 5);
	expect_silence(s.channel);
	close(client);
	server_close(&s);
}

static void first_message__has_the_cookie(void)
{
	first_message(64, false, false, 1);
	first_message(64, false, true, 1);
	first_message(2, false, true, 1);
	first_message(1, false, true, 2);
	first_message(64, true, true, 2);
}

/* Accepted, registered and read from in batches: everyone's own cookie */
static void many__each_its_own(void)
{
	static struct connection connections[CONNECTIONS];
	struct connection *c;
	struct mp_event event;
	struct server s;
	int i;

	server_open(&s, AF_INET, 16);
	for (i = 0; i < CONNECTIONS; i++) {
		connections[i].client = client_connect(&s);
		ASSERT_EQ(mp_accept(s.handle, 1, true), 0);
		event = next_event(s.channel, MP_ACCEPT);
		c = &connections[i];
		ASSERT_EQ(mp_register(s.channel, event.result, c, NULL,
				      &c->handle), 0);
		ASSERT_EQ(mp_read(c->handle, &c->byte, 1), 0);
	}
	for (i = 0; i < CONNECTIONS; i++) {
		unsigned char byte = (unsigned char)i;

		ASSERT_EQ(write(connections[i].client, &byte, 1), 1);
	}
	for (i = 0; i < CONNECTIONS; i++) {
		event = next_event(s.channel, MP_READ);
		c = event.cookie;
		ASSERT(c >= connections && c < connections + CONNECTIONS);
		EXPECT_EQ(event.result, 1);
		EXPECT_EQ(event.handle.id, c->handle.id);
		EXPECT_EQ(c->byte, (unsigned char)(c - connections));
		close(c->client);
	}
	expect_silence(s.channel);
	server_close(&s);
}

/* A new cookie holds also when the read that brings it is refused. */
static void busy__cookie_changes(void)
{
	int old, new;
	struct pair p = pair_open(true, &old);
	struct mp_event event;

	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_register(p.s.channel, p.h.id, &new, NULL, &p.h), 0);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	event = next_event(p.s.channel, MP_READ);
	EXPECT_EQ(event.result, -EBUSY);
	EXPECT(event.cookie == &new);
	ASSERT_EQ(write(p.client, "hello", 5), 5);
	expect_from(p.s.channel, &new, 5);
	pair_close(&p);
}

/* Unlike registering it alone, which is MP_FAILED */
static void expect_one_answer(struct mp_channel *channel, int id)
{
	struct mp_event event;
	mp_handle h;

	ASSERT_EQ(mp_register(channel, id, buf, NULL, &h), 0);
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	event = next_event(channel, MP_READ);
	EXPECT_EQ(event.handle.id, id);
	EXPECT_EQ(event.result, -EBADF);
	EXPECT(!event.cookie);
	expect_silence(channel);
}

static void gone__answered_once(void)
{
	struct pair p = pair_open(true, NULL);

	expect_one_answer(p.s.channel, 1 << 30 | 12345);
	ASSERT_EQ(mp_close(p.h), 0);
	expect_one_answer(p.s.channel, p.h.id);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	expect_one_answer(p.s.channel, p.h.id);
	pair_close(&p);
}

static void another_channel__does_not_know_it(void)
{
	struct mp_channel *other = new_channel(64);
	int cookie;
	struct pair p = pair_open(true, &cookie);

	expect_one_answer(other, p.h.id);
	ASSERT_EQ(mp_read(p.h, buf, sizeof(buf)), 0);
	ASSERT_EQ(write(p.client, "hello", 5), 5);
	expect_from(p.s.channel, &cookie, 5);
	pair_close(&p);
	mp_destroy(other);
}

TEST_MAIN(
	TEST(first_message__has_the_cookie),
	TEST(many__each_its_own),
	TEST(busy__cookie_changes),
	TEST(gone__answered_once),
	TEST(another_channel__does_not_know_it)
)
