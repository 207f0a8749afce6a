// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Echo, the whole life of connections: by lwsockets and by descriptors, over
 * IPv4 and IPv6, with and without batching.
 */
#include "net.h"

#define CONNECTIONS	20
#define ROUNDS		5
#define SIZE		3000

static const struct variant {
	const char *name;
	int family;
	bool is_lwsocket;
	unsigned int batch;
} variants[] = {
	{ "lwsocket ipv4", AF_INET, true, 64 },
	{ "lwsocket ipv6", AF_INET6, true, 64 },
	{ "descriptor ipv4", AF_INET, false, 64 },
	{ "descriptor ipv6", AF_INET6, false, 64 },
	{ "lwsocket ipv4 unbatched", AF_INET, true, 1 },
	{ "descriptor ipv6 unbatched", AF_INET6, false, 1 },
	{ "lwsocket ipv4 batch 3", AF_INET, true, 3 },
};

struct connection {
	mp_handle handle;
	char buf[SIZE];
	int client;
	int read;
	bool open;
};

static struct connection connections[CONNECTIONS];

/* A byte that depends on where it is */
static char pattern(int connection, int round, int i)
{
	return (char)(connection * 31 + round * 7 + i);
}

static void client_send(int nr, int round)
{
	char data[SIZE];
	int i;

	for (i = 0; i < SIZE; i++)
		data[i] = pattern(nr, round, i);
	ASSERT_EQ(write(connections[nr].client, data, SIZE), SIZE);
}

static void client_check(int nr, int round)
{
	char data[SIZE];
	int i;

	ASSERT_EQ(recv(connections[nr].client, data, SIZE, MSG_WAITALL), SIZE);
	for (i = 0; i < SIZE; i++)
		if (data[i] != pattern(nr, round, i))
			break;
	EXPECT_EQ(i, SIZE);
}

static void start_read(struct connection *c)
{
	ASSERT_EQ(mp_read(c->handle, c->buf + c->read,
			  (size_t)(SIZE - c->read)), 0);
}

/* Serve until so many messages were echoed or connections ended. */
static void serve(struct server *s, int wanted)
{
	struct mp_event event;
	struct connection *c;

	while (wanted) {
		ASSERT_EQ(mp_dispatch(s->channel, &event, DEADLINE_US), 1);
		c = event.cookie;
		ASSERT(c >= connections && c < connections + CONNECTIONS);
		EXPECT_EQ(event.handle.id, c->handle.id);
		EXPECT(c->open);
		if (event.cmd == MP_WRITE) {
			EXPECT_EQ(event.result, SIZE);
			c->read = 0;
			start_read(c);
			wanted--;
			continue;
		}
		ASSERT_EQ(event.cmd, MP_READ);
		ASSERT(event.result >= 0);
		c->read += event.result;
		if (!event.result) {
			ASSERT_EQ(mp_close(c->handle), 0);
			c->open = false;
			wanted--;
		} else if (c->read == SIZE) {
			ASSERT_EQ(mp_write(c->handle, c->buf, SIZE), 0);
		} else {
			start_read(c);
		}
	}
}

static void echo(const struct variant *v)
{
	struct mp_stats stats;
	struct mp_event event;
	struct server s;
	int i, round;

	memset(connections, 0, sizeof(connections));
	server_open(&s, v->family, v->batch);
	ASSERT_EQ(mp_accept(s.handle, MP_FOREVER, v->is_lwsocket), 0);

	for (i = 0; i < CONNECTIONS; i++) {
		struct connection *c = &connections[i];

		c->client = client_connect(&s);
		event = next_event(s.channel, MP_ACCEPT);
		ASSERT(event.result >= 0);
		EXPECT_EQ(!!(event.result & 1 << 30), v->is_lwsocket);
		ASSERT_EQ(mp_register(s.channel, event.result, c, NULL,
				      &c->handle), 0);
		c->open = true;
		start_read(c);
	}
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < CONNECTIONS; i++)
			client_send(i, round);
		serve(&s, CONNECTIONS);
		/* Writes complete when the socket has them all. */
		for (i = 0; i < CONNECTIONS; i++)
			client_check(i, round);
	}
	for (i = 0; i < CONNECTIONS; i++)
		shutdown(connections[i].client, SHUT_WR);
	serve(&s, CONNECTIONS);
	ASSERT_EQ(mp_flush(s.channel), 0);
	for (i = 0; i < CONNECTIONS; i++) {
		EXPECT(client_sees_end(connections[i].client));
		close(connections[i].client);
	}
	stats = stats_of(s.channel);
	EXPECT_EQ(stats.accepts, CONNECTIONS);
	EXPECT_EQ(stats.handles, 1);
	EXPECT_EQ(stats.lwsockets, 0);
	server_close(&s);
}

static void echo__every_variant(void)
{
	size_t i;

	for (i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		printf("# %s\n", variants[i].name);
		echo(&variants[i]);
	}
}

/* The client's data arrive before the server accepts and reads. */
static void data_before_accept(bool is_lwsocket)
{
	struct server s;
	struct mp_event event;
	mp_handle h;
	char buf[16];
	int client;

	server_open(&s, AF_INET, 64);
	client = client_connect(&s);
	ASSERT_EQ(write(client, "early", 5), 5);
	shutdown(client, SHUT_WR);
	ASSERT_EQ(mp_accept(s.handle, 1, is_lwsocket), 0);
	event = next_event(s.channel, MP_ACCEPT);
	ASSERT_EQ(mp_register(s.channel, event.result, buf, NULL, &h), 0);
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	expect_result(s.channel, h, MP_READ, 5);
	EXPECT(!memcmp(buf, "early", 5));
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	expect_result(s.channel, h, MP_READ, 0);
	close(client);
	server_close(&s);
}

static void accept__data_came_first(void)
{
	data_before_accept(true);
	data_before_accept(false);
}

TEST_MAIN(
	TEST(echo__every_variant),
	TEST(accept__data_came_first)
)
