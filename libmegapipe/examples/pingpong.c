// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A ping-pong server: N threads echo what they read, each on a CPU of its own,
 * with its own channel and its own partition of the accept queue.
 *
 *	gcc -O2 pingpong.c -o pingpong $(pkg-config --cflags --libs libmegapipe)
 *	./pingpong 9000 4
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <megapipe.h>

struct connection {
	mp_handle handle;
	char buf[4096];
};

static int listener;

static void die(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(-err));
	exit(1);
}

static void accepted(struct mp_channel *channel, int lwsocket)
{
	struct connection *c = malloc(sizeof(*c));

	if (!c)
		exit(1);
	mp_register(channel, lwsocket, c, NULL, &c->handle);
	mp_read(c->handle, c->buf, sizeof(c->buf));
}

static void finished(struct connection *c)
{
	mp_close(c->handle);
	free(c);
}

static void *serve(void *arg)
{
	struct mp_channel *channel;
	struct mp_event event;
	mp_handle handle;
	cpu_set_t cpu;
	int err;

	CPU_ZERO(&cpu);
	CPU_SET((unsigned long)arg, &cpu);
	pthread_setaffinity_np(pthread_self(), sizeof(cpu), &cpu);

	err = mp_create(&channel);
	if (err)
		die("no MegaPipe in this kernel", err);
	err = mp_register(channel, listener, NULL, &cpu, &handle);
	if (err)
		die("cannot register the listening socket", err);
	mp_accept(handle, MP_FOREVER, true);

	while ((err = mp_dispatch(channel, &event, -1)) == 1) {
		struct connection *c = event.cookie;

		if (event.cmd == MP_ACCEPT && event.result >= 0)
			accepted(channel, event.result);
		else if (event.cmd == MP_ACCEPT)
			die("accept", event.result);
		else if (event.result <= 0)
			finished(c);
		else if (event.cmd == MP_READ)
			mp_write(c->handle, c->buf, (size_t)event.result);
		else
			mp_read(c->handle, c->buf, sizeof(c->buf));
	}
	die("dispatch", err);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	unsigned long cpu, threads;
	int one = 1;
	pthread_t thread;

	if (argc != 3) {
		fprintf(stderr, "usage: %s PORT THREADS\n", argv[0]);
		return 2;
	}
	any.sin6_port = htons((uint16_t)atoi(argv[1]));
	threads = strtoul(argv[2], NULL, 10);

	listener = socket(AF_INET6, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&any, sizeof(any)) ||
	    listen(listener, 4096)) {
		perror("cannot listen");
		return 1;
	}
	for (cpu = 0; cpu < threads; cpu++)
		pthread_create(&thread, NULL, serve, (void *)cpu);
	for (;;)
		pause();
}
