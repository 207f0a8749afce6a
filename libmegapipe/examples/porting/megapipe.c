// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The same echo server on MegaPipe: where docs/porting.md arrives.  Its three
 * ideas are switched on one after another: P, then B, then L.
 *
 *	./megapipe PORT THREADS P|PB|PBL
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <megapipe.h>

struct connection {
	mp_handle handle;
	char buf[4096];
};

static int listener;
static bool batching, lwsockets;

static void accepted(struct mp_channel *channel, int socket)
{
	struct connection *c = malloc(sizeof(*c));

	if (!c || mp_register(channel, socket, c, NULL, &c->handle))
		exit(1);
	mp_read(c->handle, c->buf, sizeof(c->buf));
}

/* Echo what was read; when all of it is written, read on. */
static void completed(struct connection *c, const struct mp_event *event)
{
	if (event->result <= 0) {
		mp_close(c->handle);
		free(c);
	} else if (event->cmd == MP_READ) {
		mp_write(c->handle, c->buf, (size_t)event->result);
	} else {
		mp_read(c->handle, c->buf, sizeof(c->buf));
	}
}

static void *serve(void *arg)
{
	char why[MP_EXPLAIN_SIZE];
	struct mp_channel *channel;
	struct mp_event event;
	mp_handle handle;
	cpu_set_t cpu;
	int err;

	CPU_ZERO(&cpu);
	CPU_SET((unsigned long)arg, &cpu);
	pthread_setaffinity_np(pthread_self(), sizeof(cpu), &cpu);

	err = mp_create(&channel);
	if (err) {
		fprintf(stderr, "%s\n", mp_explain(err, why, sizeof(why)));
		exit(1);
	}
	mp_set_batch(channel, batching ? MP_BATCH_DEFAULT : 1);
	if (mp_register(channel, listener, NULL, &cpu, &handle))
		exit(1);
	mp_accept(handle, MP_FOREVER, lwsockets);
	while (mp_dispatch(channel, &event, -1) == 1) {
		if (event.cookie)
			completed(event.cookie, &event);
		else if (event.result >= 0)
			accepted(channel, event.result);
		else
			exit(1);
	}
	return arg;
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	unsigned long cpu, threads;
	pthread_t thread;
	int one = 1;

	if (argc != 4) {
		fprintf(stderr, "usage: %s PORT THREADS P|PB|PBL\n", argv[0]);
		return 2;
	}
	any.sin6_port = htons((uint16_t)atoi(argv[1]));
	threads = strtoul(argv[2], NULL, 10);
	batching = strchr(argv[3], 'B');
	lwsockets = strchr(argv[3], 'L');

	listener = socket(AF_INET6, SOCK_STREAM, 0);
	setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&any, sizeof(any)) ||
	    listen(listener, 4096)) {
		perror("cannot listen");
		return 1;
	}
	for (cpu = 0; cpu < threads; cpu++)
		pthread_create(&thread, NULL, serve, (void *)cpu);
	pthread_exit(NULL);
}
