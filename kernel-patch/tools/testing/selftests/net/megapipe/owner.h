/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Owners of partitions: a channel with one listening handle each.
 */
#ifndef MEGAPIPE_OWNER_H
#define MEGAPIPE_OWNER_H

#include "megapipe_test.h"

/**
 * struct mp_owner - an owner
 * @channel: its channel
 * @handle: its handle of the listener
 */
struct mp_owner {
	int	channel;
	int	handle;
};

/* CPUs by bit */
static inline cpu_set_t mp_cpu_mask(unsigned long bits)
{
	cpu_set_t mask;
	int cpu;

	CPU_ZERO(&mask);
	for (cpu = 0; bits; cpu++, bits >>= 1)
		if (bits & 1)
			CPU_SET(cpu, &mask);
	return mask;
}

/* An owner of a partition of @fd for the CPUs of @bits; 0: of none */
static inline struct mp_owner mp_owner(int fd, unsigned long bits)
{
	struct mp_owner owner = { .channel = mp_open() };
	cpu_set_t mask = mp_cpu_mask(bits);

	owner.handle = bits ? mp_register_mask(owner.channel, fd, 0, &mask) :
			      mp_register(owner.channel, fd, 0);
	if (owner.handle < 0)
		mp_die("register: %d", owner.handle);
	return owner;
}

/* From now on it accepts all that come, as descriptors. */
static inline void mp_owner_accepts(const struct mp_owner *owner)
{
	mp_submit(owner->channel, mp_cmd_accept(owner->handle, 0, 0));
}

static inline void mp_owner_unregister(const struct mp_owner *owner)
{
	mp_submit(owner->channel, mp_cmd_unregister(owner->handle));
}

static inline struct megapipe_listener mp_owner_look(const struct mp_owner *owner)
{
	struct megapipe_listener listener;
	int ret = mp_listener(owner->channel, owner->handle, &listener);

	if (ret)
		mp_die("listener: %d", ret);
	return listener;
}

/* The next connection's descriptor, which must come */
static inline int mp_owner_next_at(int line, const struct mp_owner *owner)
{
	struct megapipe_event event = mp_wait_at(line, owner->channel);

	if (event.op != MEGAPIPE_OP_ACCEPT || event.res < 0)
		mp_die_at(line, "accept: op %u, %d", event.op, event.res);
	return event.res;
}

#define mp_owner_next(owner)	mp_owner_next_at(__LINE__, owner)

/* Connections that are there, all taken and closed.  Returns how many. */
static inline int mp_owner_drain(const struct mp_owner *owner)
{
	struct megapipe_event event;
	int count = 0;

	while (mp_dispatch(owner->channel, NULL, 0, &event, 1, 0, 0, NULL) == 1) {
		if (event.op != MEGAPIPE_OP_ACCEPT || event.res < 0)
			mp_die("accept: op %u, %d", event.op, event.res);
		close(event.res);
		count++;
	}
	return count;
}

/* @count clients that connect on @cpu, their sockets to @fds */
static inline void mp_clients(const struct mp_addr *addr, int cpu, int *fds,
			      int count)
{
	int i;

	mp_pin(cpu);
	for (i = 0; i < count; i++)
		fds[i] = mp_connect(addr);
}

static inline void mp_close_all(const int *fds, int count)
{
	int i;

	for (i = 0; i < count; i++)
		close(fds[i]);
}

/* accept(), but not waiting.  Returns the descriptor or -EAGAIN. */
static inline int mp_accept_now(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	if (mp_must(poll(&pfd, 1, 0)) == 0)
		return -EAGAIN;
	return mp_must(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
}

/* A counter of /proc/net/netstat or /proc/net/snmp, such as "TcpExt", "..." */
static inline long mp_counter(const char *group, const char *name)
{
	static const char * const paths[] = {
		"/proc/thread-self/net/netstat", "/proc/thread-self/net/snmp",
	};
	char names[8192], values[8192], *a, *b, *next_a, *next_b;
	size_t len = strlen(group);
	unsigned int i;

	for (i = 0; i < 2; i++) {
		FILE *file = fopen(paths[i], "re");

		if (!file)
			mp_die("%s: %s", paths[i], strerror(errno));
		while (fgets(names, sizeof(names), file) &&
		       fgets(values, sizeof(values), file)) {
			if (strncmp(names, group, len) || names[len] != ':')
				continue;
			a = strtok_r(names, "\n ", &next_a);
			b = strtok_r(values, "\n ", &next_b);
			while (a && b) {
				if (!strcmp(a, name)) {
					fclose(file);
					return atol(b);
				}
				a = strtok_r(NULL, "\n ", &next_a);
				b = strtok_r(NULL, "\n ", &next_b);
			}
		}
		fclose(file);
	}
	mp_die("no counter %s %s", group, name);
}

#endif /* MEGAPIPE_OWNER_H */
