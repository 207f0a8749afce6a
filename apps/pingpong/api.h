/* SPDX-License-Identifier: MIT */
/*
 * What an interface must offer to serve the ping-pong. One api_*.c per
 * interface, one row in server.c; the server knows nothing else of them.
 */
#ifndef PINGPONG_API_H
#define PINGPONG_API_H

#include "options.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The largest piece read at a time; one of them is touched before the start. */
#define BUFFER_BYTES	65536

/* Written by its thread alone, read by main whenever it is asked. */
struct counters {
	_Atomic uint64_t connections;	/* accepted */
	_Atomic uint64_t transactions;	/* messages of --size bytes echoed */
	_Atomic uint64_t errors;	/* failed accepts, reads, writes */
	_Atomic uint64_t syscalls;	/* made by the thread, waiting included */
	_Atomic uint64_t dispatches;	/* made for it by a library; refresh() tells */
	_Atomic uint64_t foreign_accepts; /* handshake handled by another CPU */
};

struct api;

struct worker {
	/* No two threads write to one cache line, nor to a prefetched pair. */
	_Alignas(128) struct counters counters;
	_Alignas(128) const struct options *options;
	const struct api *api;
	pthread_t thread;
	unsigned int index;
	unsigned int slow_work;		/* turns of a loop a message */
	int cpu;
	int listener;			/* shared by all, or one of its own */
	int stop_fd;			/* readable once the server is to end */
	int error;			/* of open(): -errno */
	void *state;			/* the interface's own */
};

struct api {
	const char *name;
	bool has_channels;		/* takes the switches of MegaPipe */
	bool knows_foreign;		/* counts foreign_accepts at no cost */
	bool hides_sockets;		/* connections are no descriptors */
	bool own_listeners;		/* one for each thread, by SO_REUSEPORT */
	bool only_echoes;		/* ends no connection by itself */
	bool only_descriptors;		/* no lwsockets, and no --shed, --hand-on */

	/*
	 * In the worker's thread, on its CPU: make what it needs, listen, and
	 * return 0 or -errno (-ENOENT, -EACCES: this machine does not have it).
	 */
	int (*open)(struct worker *w);

	/* Serve until w->stop_fd is readable. */
	void (*run)(struct worker *w);

	/* Main asks: put into the counters what is counted elsewhere. Or NULL. */
	void (*refresh)(struct worker *w);

	void (*close)(struct worker *w);
};

static inline void count(_Atomic uint64_t *counter, uint64_t n)
{
	/* One writer: no need for a locked instruction. */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/*
 * Zeroed, and touched now, on this CPU: no page faults while measuring. The
 * compiler must not see both, or it makes a calloc() of them, which touches nothing.
 */
static inline void *alloc_touched(size_t bytes)
{
	void *memory = malloc(bytes);

	__asm__("" : "+r"(memory));
	return memory ? memset(memory, 0, bytes) : NULL;
}

/* Keeps what is rare out of the way of what is counted. */
#define COLD __attribute__((cold, noinline, unused))

/*
 * Count the messages that end within the next n bytes of a connection, of
 * which *bytes have been echoed.
 */
static inline void count_bytes(struct worker *w, uint64_t *bytes, uint64_t n)
{
	const uint64_t size = w->options->size;

	*bytes += n;
	if (*bytes >= size) {
		for (unsigned int i = w->slow_work; __builtin_expect(i, 0); i--)
			__asm__ volatile("");
		count(&w->counters.transactions, *bytes / size);
		*bytes %= size;
	}
}

/* Of a new connection: what is to be echoed before the server closes it. */
static inline uint64_t bytes_of_connection(const struct options *o)
{
	return o->messages ? (uint64_t)o->messages * o->size : UINT64_MAX;
}

/* This thread's CPU, with --mask those of the next threads, and its share of the others. */
static inline void partition_of(const struct worker *w, cpu_set_t *mask)
{
	const struct options *o = w->options;
	const long nr_cpus = sysconf(_SC_NPROCESSORS_CONF);
	cpu_set_t taken;

	CPU_ZERO(&taken);
	for (unsigned int i = 0; i < o->threads; i++)
		CPU_SET(o->cpus[i], &taken);
	CPU_ZERO(mask);
	for (unsigned int i = 0; i < o->mask; i++)
		CPU_SET(o->cpus[(w->index + i) % o->threads], mask);
	for (unsigned int cpu = 0; cpu < nr_cpus && cpu < CPU_SETSIZE; cpu++)
		if (!CPU_ISSET(cpu, &taken) && cpu % o->threads == w->index)
			CPU_SET(cpu, mask);
}

extern const struct api api_epoll;
extern const struct api api_reuseport;
extern const struct api api_io_uring;
extern const struct api api_megapipe_raw;
extern const struct api api_floor;

/* Only where libmegapipe is: else their addresses are NULL, and the rows are absent. */
extern const struct api api_megapipe __attribute__((weak));
extern const struct api api_megapipe_steal __attribute__((weak));

#endif
