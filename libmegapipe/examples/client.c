// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A client: N connections at a time to an echo server; each says who it is and
 * checks what comes back.
 *
 *	gcc -O2 client.c -o client $(pkg-config --cflags --libs libmegapipe)
 *	./client ::1 9000 100
 */
#include <err.h>
#include <megapipe.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND 1000000

struct greeting {
	mp_handle handle;
	size_t size, echoed;
	char sent[64], received[64];
};

static void start(struct greeting *g, struct mp_channel *channel, long number,
		  const struct addrinfo *server)
{
	int fd = socket(server->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = mp_register(channel, fd, g, NULL, &g->handle);

	if (error)
		errx(1, "connection %ld: %s", number, strerror(-error));
	g->size = (size_t)snprintf(g->sent, sizeof(g->sent),
				   "hello from connection %ld\n", number);
	mp_connect(g->handle, server->ai_addr, server->ai_addrlen);
}

/* Returns 1 when the echo is complete, 0 to go on, or a negative error. */
static int step(struct greeting *g, const struct mp_event *event)
{
	if (event->result < 0)
		return event->result;
	switch (event->cmd) {
	case MP_CONNECT:
		return mp_write(g->handle, g->sent, g->size);
	case MP_WRITE:
		break;
	default:
		g->echoed += (size_t)event->result;
		if (!event->result || memcmp(g->sent, g->received, g->echoed))
			return -1;
		if (g->echoed == g->size)
			return 1;
	}
	return mp_read(g->handle, g->received + g->echoed,
		       g->size - g->echoed);
}

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	long number, n, failed = 0;
	struct addrinfo *server;
	struct greeting *greetings;
	struct mp_channel *channel;
	char why[MP_EXPLAIN_SIZE];
	struct mp_event event;
	int error, ret;

	if (argc != 4 || getaddrinfo(argv[1], argv[2], &hints, &server))
		errx(2, "usage: %s HOST PORT CONNECTIONS", argv[0]);
	number = atol(argv[3]);
	greetings = calloc((size_t)number, sizeof(*greetings));
	if (!greetings)
		err(1, "%ld connections", number);
	error = mp_create(&channel);
	if (error)
		errx(1, "%s", mp_explain(error, why, sizeof(why)));
	for (n = 0; n < number; n++)
		start(&greetings[n], channel, n, server);

	while (n && mp_dispatch(channel, &event, 10 * SECOND) == 1) {
		ret = step(event.cookie, &event);
		if (!ret)
			continue;
		failed += ret < 0;
		mp_close(event.handle);
		n--;
	}
	printf("%ld echoed, %ld failed, %ld never ended\n",
	       number - failed - n, failed, n);
	mp_destroy(channel);
	freeaddrinfo(server);
	free(greetings);
	return failed || n;
}
