// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A ping-pong server: N threads echo what they read, each on a CPU of its own,
 * with its own channel and its own partition of the accept queue.
 *
 *	gcc -O2 pingpong.c -o pingpong $(pkg-config --cflags --libs libmegapipe)
 *	./pingpong 9000 4
 */
#define _GNU_SOURCE
#include <err.h>
#include <megapipe.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>

struct connection {
	mp_handle handle;
	char buf[4096];
};

static int listener;

static void accepted(struct mp_channel *channel, int lwsocket)
{
	struct connection *c = malloc(sizeof(*c));

	if (!c || lwsocket < 0 ||
	    mp_register(channel, lwsocket, c, NULL, &c->handle))
		errx(1, "no room for a connection");
	mp_read(c->handle, c->buf, sizeof(c->buf));
}

/* Answer what was read, and read on when the answer is written. */
static void completed(struct connection *c, const struct mp_event *event)
{
	if (event->cmd == MP_READ && event->result > 0) {
		mp_write_then_read(c->handle, c->buf, (size_t)event->result,
				   c->buf, sizeof(c->buf));
	} else {
		mp_close(c->handle);	/* the peer's end of file, or an error */
		free(c);
	}
}

static void *serve(void *arg)
{
	char why[MP_EXPLAIN_SIZE];
	struct mp_channel *channel;
	struct mp_event event;
	mp_handle handle;
	cpu_set_t cpu;
	int error;

	CPU_ZERO(&cpu);
	CPU_SET((unsigned long)arg, &cpu);
	pthread_setaffinity_np(pthread_self(), sizeof(cpu), &cpu);

	error = mp_create(&channel);
	if (error)
		errx(1, "%s", mp_explain(error, why, sizeof(why)));
	if (mp_register(channel, listener, NULL, &cpu, &handle))
		errx(1, "cannot register the listening socket");
	mp_accept(handle, MP_FOREVER, true);
	while (mp_dispatch(channel, &event, -1) == 1) {
		if (event.cmd == MP_ACCEPT)
			accepted(channel, event.result);
		else
			completed(event.cookie, &event);
	}
	errx(1, "no completions any more");
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	unsigned long cpu, threads;
	int one = 1;
	pthread_t thread;

	if (argc != 3)
		errx(2, "usage: %s PORT THREADS", argv[0]);
	any.sin6_port = htons((uint16_t)atoi(argv[1]));
	threads = strtoul(argv[2], NULL, 10);

	listener = socket(AF_INET6, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&any, sizeof(any)) ||
	    listen(listener, 4096))
		err(1, "cannot listen");
	for (cpu = 0; cpu < threads; cpu++)
		pthread_create(&thread, NULL, serve, (void *)cpu);
	pthread_exit(NULL);
}
