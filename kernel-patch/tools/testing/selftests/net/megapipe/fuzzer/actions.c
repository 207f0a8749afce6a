// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a thread does with pairs and listeners: a few commands each.
 */
#include <sys/epoll.h>

#include "fuzz.h"

/* A handle of a listener comes, goes or is cancelled; with partition or not. */
static void change_listener(struct thread *t, unsigned int i)
{
	struct listener *listener = &t->channel->listeners[i];
	struct megapipe_register reg = {
		.fd = listen_fds[i],
		.cookie = i,
	};
	cpu_set_t mask;
	int handle, cpu;

	pthread_mutex_lock(&t->channel->lock);
	handle = listener->handle;
	listener->handle = 0;
	listener->accepting = false;
	pthread_mutex_unlock(&t->channel->lock);
	if (handle) {
		if (one_in(t, 2))
			emit(t, mp_cmd_cancel(handle));
		/* Not CLOSE: the descriptor is for the others too. */
		emit(t, mp_cmd_unregister(handle));
	}

	CPU_ZERO(&mask);
	for (cpu = 0; cpu < mp_cpus(); cpu++)
		if (one_in(t, 2))
			CPU_SET(cpu, &mask);
	if (i % 2) {
		reg.flags = MEGAPIPE_REG_PARTITION;
		reg.cpu_mask = (uintptr_t)&mask;
		reg.cpu_mask_size = sizeof(mask);
	}
	handle = call(t->channel, MEGAPIPE_IOC_REGISTER, &reg);
	if (handle < 0)
		return;
	pthread_mutex_lock(&t->channel->lock);
	if (!listener->handle) {
		listener->handle = handle;
		handle = 0;
	}
	pthread_mutex_unlock(&t->channel->lock);
	if (handle)
		emit(t, mp_cmd_unregister(handle));
}

/* By a command, or by a system call and registered when it is accepted */
static void open_connection(struct thread *t)
{
	unsigned int i = below(t, NR_LISTENERS);
	const struct mp_addr *to = &listen_addrs[i];
	struct listener *listener = &t->channel->listeners[i];
	struct pair pair = { .kind = TCP, .addr = *to };
	in_port_t port;
	int fd, handle;
	bool accept;

	if (!listener->handle)
		change_listener(t, i);
	fd = make_client(to->sa.sa_family, &port);
	if (fd < 0)
		return;
	if (one_in(t, 3)) {
		pair.handle[0] = register_fd(t->channel, fd);
		emit_connect(t, &pair);
	} else {
		connect(fd, &to->sa, to->len);
	}
	put_client(fd, port);

	pthread_mutex_lock(&t->channel->lock);
	handle = listener->handle;
	accept = !listener->accepting || one_in(t, 32);
	listener->accepting = true;
	pthread_mutex_unlock(&t->channel->lock);
	if (accept)
		emit(t, mp_cmd_accept(handle, one_in(t, 16) ? 0 :
				      1 + below(t, 2) * below(t, 3),
				      one_in(t, 3) ? 0 : MEGAPIPE_CMD_LWSOCKET));
}

/* A pair ends: by CLOSE, by UNREGISTER, with the descriptor closed before. */
static void end_pair(struct thread *t, const struct pair *pair)
{
	int i, both = pair->handle[1] != pair->handle[0] ? 2 : 1;
	int early = one_in(t, 4);

	if (early)
		close_fds(pair);
	for (i = 0; i < both; i++) {
		if (!pair->handle[i])
			continue;
		if (one_in(t, 2) && pair->kind >= UNIX_STREAM)
			emit(t, mp_cmd_disconnect(pair->handle[i]));
		if (pair->fd[i] < 0 || early || one_in(t, 2)) {
			emit(t, mp_cmd_close(pair->handle[i]));
		} else {
			emit(t, mp_cmd_unregister(pair->handle[i]));
			close(pair->fd[i]);
		}
	}
}

void fuzz_pair(struct thread *t)
{
	struct channel *channel = t->channel;
	unsigned int i = below(t, NR_PAIRS), dice = below(t, 1000), n;
	struct pair pair;
	int side = below(t, 2);

	pthread_mutex_lock(&channel->lock);
	pair = channel->pairs[i];
	if (dice < 10)
		channel->pairs[i].kind = EMPTY;
	pthread_mutex_unlock(&channel->lock);

	if (pair.kind == EMPTY) {
		if (one_in(t, 3))
			open_connection(t);
		else
			make_pair(t);
		return;
	}
	if (!pair.handle[side])
		side = !side;
	if (dice < 10) {
		end_pair(t, &pair);
	} else if (dice < 14) {
		change_listener(t, below(t, NR_LISTENERS));
	} else if (dice < 34 && pair.kind >= UNIX_DGRAM && pair.kind != TCP) {
		emit_connect(t, &pair);
	} else if (dice < 36 && pair.kind == UNIX_STREAM) {
		emit(t, mp_cmd_disconnect(pair.handle[side]));
	} else if (dice < 120) {
		emit(t, mp_cmd_poll(pair.handle[side], one_in(t, 8) ?
				    EPOLLIN : EPOLLIN | EPOLLOUT));
	} else if (dice < 250) {
		emit(t, mp_cmd_cancel(pair.handle[side]));
	} else if (dice < 600) {
		for (n = below(t, 4); n; n--)
			emit(t, mp_cmd_cookie(pair.handle[side],
					      next_random(&t->rng)));
	} else {
		move_data(t, &pair);
	}
}
