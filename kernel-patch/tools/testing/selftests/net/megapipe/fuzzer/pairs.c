// SPDX-License-Identifier: GPL-2.0-only
/*
 * Objects for the commands: pairs of handles, and connections in the making.
 */
#include <pty.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <termios.h>

#include "fuzz.h"

static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static struct client clients[NR_CLIENTS];
static unsigned int next_client;

/* Returns the handle, or 0. */
int register_fd(struct channel *channel, int fd)
{
	struct megapipe_register reg = { .fd = fd, .cookie = fd };
	int ret = call(channel, MEGAPIPE_IOC_REGISTER, &reg);

	return ret > 0 ? ret : 0;
}

void close_fds(const struct pair *pair)
{
	if (pair->fd[0] >= 0)
		close(pair->fd[0]);
	if (pair->fd[1] >= 0 && pair->fd[1] != pair->fd[0])
		close(pair->fd[1]);
}

static int open_fifo(void)
{
	static unsigned int number;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/megapipe-fuzz-%d-%u", getpid(),
		 __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED));
	if (mkfifo(path, 0600) < 0)
		return -1;
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	unlink(path);
	return fd;
}

static bool open_tty(int fd[2])
{
	struct termios raw = {};

	cfmakeraw(&raw);
	if (openpty(&fd[0], &fd[1], NULL, &raw, NULL) < 0)
		return false;
	mp_nonblock(fd[0]);
	mp_nonblock(fd[1]);
	return true;
}

/* Descriptors for a pair of a kind; false if there are none to be had. */
static bool open_pair(struct thread *t, struct pair *pair)
{
	struct itimerspec often = { { 0, 1000 }, { 0, 1000 } };
	int family, flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
	int *fd = pair->fd;
	sigset_t mask;

	fd[0] = -1;
	fd[1] = -1;
	switch (pair->kind) {
	case EVENTFD:
		fd[0] = eventfd(1 << 30, EFD_NONBLOCK | EFD_SEMAPHORE);
		break;
	case TIMERFD:
		fd[0] = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
		if (fd[0] >= 0)
			timerfd_settime(fd[0], 0, &often, NULL);
		break;
	case SIGNALFD:
		sigemptyset(&mask);
		sigaddset(&mask, SIGUSR1);
		fd[0] = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
		break;
	case FIFO:
		fd[0] = open_fifo();
		break;
	case TTY:
		return open_tty(fd);
	case PIPE:
		if (pipe2(fd, O_NONBLOCK | O_CLOEXEC) < 0)
			return false;
		/* What is written comes out at [1] everywhere else. */
		flags = fd[0];
		fd[0] = fd[1];
		fd[1] = flags;
		return true;
	case UNIX_STREAM:
		return socketpair(AF_UNIX, SOCK_STREAM | flags, 0, fd) == 0;
	case UNIX_DGRAM:
	case UDP:
		family = pair->kind == UDP ? AF_INET : AF_UNIX;
		if (pair->kind == UDP && one_in(t, 2))
			family = AF_INET6;
		fd[0] = socket(family, SOCK_DGRAM | flags, 0);
		if (fd[0] < 0)
			return false;
		pair->addr = mp_loopback(family);
		if (bind(fd[0], &pair->addr.sa, pair->addr.len) < 0)
			return true;
		mp_getsockname(fd[0], &pair->addr);
		break;
	default:
		break;
	}
	fd[1] = fd[0];
	return fd[0] >= 0;
}

static void put_pair(struct channel *channel, const struct pair *pair)
{
	unsigned int i;

	pthread_mutex_lock(&channel->lock);
	for (i = 0; i < NR_PAIRS; i++)
		if (channel->pairs[i].kind == EMPTY)
			break;
	if (i < NR_PAIRS)
		channel->pairs[i] = *pair;
	pthread_mutex_unlock(&channel->lock);
	if (i == NR_PAIRS) {
		struct megapipe_cmd cmds[2] = {
			mp_cmd_unregister(pair->handle[0]),
			mp_cmd_unregister(pair->handle[1]),
		};
		struct megapipe_event events[2];

		mp_dispatch(channel->fd, cmds, 2, events, 2, 0, 0, NULL);
		close_fds(pair);
	}
}

void make_pair(struct thread *t)
{
	static const enum kind kinds[] = {
		EVENTFD, EVENTFD, TIMERFD, SIGNALFD, PIPE, FIFO, TTY,
		UNIX_STREAM, UNIX_STREAM, UNIX_DGRAM, UDP,
	};
	struct pair pair = { .kind = kinds[below(t, ARRAY_SIZE(kinds))] };

	if (!open_pair(t, &pair))
		return;
	pair.handle[0] = register_fd(t->channel, pair.fd[0]);
	pair.handle[1] = pair.fd[1] == pair.fd[0] ? pair.handle[0] :
			 register_fd(t->channel, pair.fd[1]);
	if (pair.handle[0] && pair.handle[1])
		put_pair(t->channel, &pair);
	else
		close_fds(&pair);
}

/* Remember a client until its connection is accepted, or for a while. */
void put_client(int fd, in_port_t port)
{
	struct client *client;
	int old;

	pthread_mutex_lock(&clients_lock);
	client = &clients[next_client++ % NR_CLIENTS];
	old = client->port ? client->fd : -1;
	client->fd = fd;
	client->port = port;
	pthread_mutex_unlock(&clients_lock);
	if (old >= 0)
		close(old);
}

/* The client of a connection, if it is one of this process. */
static int take_client(in_port_t port)
{
	int i, fd = -1;

	pthread_mutex_lock(&clients_lock);
	for (i = 0; i < NR_CLIENTS && port; i++) {
		if (clients[i].port == port) {
			fd = clients[i].fd;
			clients[i].port = 0;
			break;
		}
	}
	pthread_mutex_unlock(&clients_lock);
	return fd;
}

/* A client's socket, bound so that its port is known before it connects. */
int make_client(int family, in_port_t *port)
{
	struct mp_addr addr = mp_loopback(family);
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, &addr.sa, addr.len) < 0) {
		close(fd);
		return -1;
	}
	mp_getsockname(fd, &addr);
	*port = addr.in.sin_port;	/* sin6_port lies at the same place */
	return fd;
}

/* An accepted connection and its client become a pair. */
void accepted(struct thread *t, const struct megapipe_event *event)
{
	struct mp_addr peer = { .len = sizeof(peer.storage) };
	struct pair pair = { .kind = TCP, .fd = { -1, -1 } };
	struct megapipe_sockname name = {
		.handle = event->res,
		.peer = 1,
		.addr = (uintptr_t)&peer.storage,
		.len = sizeof(peer.storage),
	};

	if (event->flags & MEGAPIPE_EVENT_FD ||
	    !(event->res & MEGAPIPE_HANDLE_LWSOCKET)) {
		pair.fd[1] = event->res;
		getpeername(event->res, &peer.sa, &peer.len);
		pair.handle[1] = register_fd(t->channel, event->res);
	} else {
		pair.handle[1] = event->res;
		call(t->channel, MEGAPIPE_IOC_SOCKNAME, &name);
	}
	pair.fd[0] = take_client(peer.in.sin_port);
	if (pair.fd[0] >= 0)
		pair.handle[0] = register_fd(t->channel, pair.fd[0]);
	put_pair(t->channel, &pair);
}
