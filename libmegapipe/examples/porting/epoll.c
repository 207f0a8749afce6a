// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An echo server on epoll, with a thread for each CPU: where docs/porting.md
 * begins.
 *
 *	./epoll PORT THREADS
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

struct connection {
	int fd;
	uint32_t waits_for;
	size_t used, sent;
	char buf[4096];
};

static int listener;

static void accepted(int epoll, int fd)
{
	struct connection *c = calloc(1, sizeof(*c));
	struct epoll_event add = { .events = EPOLLIN, .data.ptr = c };

	if (!c)
		exit(1);
	c->fd = fd;
	c->waits_for = EPOLLIN;
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &add);
}

/* Echo until there is nothing more to read, or no room to write. */
static void ready(int epoll, struct connection *c)
{
	struct epoll_event next = { .events = EPOLLIN, .data.ptr = c };
	ssize_t n;

	do {
		if (c->sent == c->used) {
			next.events = EPOLLIN;
			n = read(c->fd, c->buf, sizeof(c->buf));
			c->used = n > 0 ? (size_t)n : 0;
			c->sent = 0;
		} else {
			next.events = EPOLLOUT;
			n = send(c->fd, c->buf + c->sent, c->used - c->sent,
				 MSG_NOSIGNAL);
			c->sent += n > 0 ? (size_t)n : 0;
		}
	} while (n > 0);

	if (n == 0 || errno != EAGAIN) {
		close(c->fd);
		free(c);
	} else if (next.events != c->waits_for) {
		c->waits_for = next.events;
		epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &next);
	}
}

static void *serve(void *arg)
{
	struct epoll_event events[64];
	struct epoll_event add = { .events = EPOLLIN | EPOLLEXCLUSIVE };
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	int i, n, fd;

	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &add);
	while ((n = epoll_wait(epoll, events, 64, -1)) >= 0) {
		for (i = 0; i < n; i++) {
			if (events[i].data.ptr) {
				ready(epoll, events[i].data.ptr);
				continue;
			}
			while ((fd = accept4(listener, NULL, NULL,
					     SOCK_NONBLOCK)) >= 0)
				accepted(epoll, fd);
		}
	}
	return arg;
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	unsigned long cpu, threads;
	pthread_t thread;
	int one = 1;

	if (argc != 3) {
		fprintf(stderr, "usage: %s PORT THREADS\n", argv[0]);
		return 2;
	}
	any.sin6_port = htons((uint16_t)atoi(argv[1]));
	threads = strtoul(argv[2], NULL, 10);

	listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
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
