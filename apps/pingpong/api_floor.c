// SPDX-License-Identifier: MIT
/*
 * The floor: the echo takes place in the kernel, in a thread on each CPU, and no
 * interface is used at all. Not a way to serve, but what to compare the others
 * with: what they cost beyond it is the cost of the interface.
 */
#include "api.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE	"/dev/megapipe-floor"

struct floor_state {
	int fd;
};

/* The CPUs as a list: 0,8,16 */
static int append_cpus(char *text, size_t size, const struct worker *w)
{
	size_t len = strlen(text);
	cpu_set_t mask;

	partition_of(w, &mask);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &mask))
			continue;
		len += snprintf(text + len, size - len, "%d,", cpu);
		if (len >= size)
			return -E2BIG;
	}
	text[len - 1] = 0;
	return 0;
}

static int floor_open(struct worker *w)
{
	struct floor_state *s = calloc(1, sizeof(*s));
	char order[4096];
	int err;

	if (!s)
		return -ENOMEM;
	w->state = s;
	s->fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	snprintf(order, sizeof(order), "%d %u ", w->listener, w->options->size);
	err = append_cpus(order, sizeof(order), w);
	if (err)
		return err;
	/* A thread of the kernel on this CPU begins to serve. */
	return write(s->fd, order, strlen(order)) < 0 ? -errno : 0;
}

static void floor_run(struct worker *w)
{
	struct pollfd stop = { .fd = w->stop_fd, .events = POLLIN };

	while (poll(&stop, 1, -1) != 1)
		;
}

static void floor_refresh(struct worker *w)
{
	unsigned long connections, transactions, errors;
	const struct floor_state *s = w->state;
	char text[128] = "";

	if (pread(s->fd, text, sizeof(text) - 1, 0) < 0 ||
	    sscanf(text, "%lu %lu %lu", &connections, &transactions, &errors) != 3)
		return;
	atomic_store(&w->counters.connections, connections);
	atomic_store(&w->counters.transactions, transactions);
	atomic_store(&w->counters.errors, errors);
}

static void floor_close(struct worker *w)
{
	struct floor_state *s = w->state;

	close(s->fd);
	free(s);
}

const struct api api_floor = {
	.name = "floor",
	.hides_sockets = true,
	.only_echoes = true,
	.open = floor_open,
	.run = floor_run,
	.refresh = floor_refresh,
	.close = floor_close,
};
