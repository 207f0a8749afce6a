/* SPDX-License-Identifier: MIT */
/*
 * Was it the generator or the server that could do no more? A closed loop cannot
 * tell from throughput, but the scheduler can: a generator that sleeps with
 * nothing to do waits for the server; one that never sleeps is the limit itself.
 */
#ifndef LOAD_EVIDENCE_H
#define LOAD_EVIDENCE_H

#include <stdint.h>

/* Clocks of one thread, or of the whole machine, at one moment; all in ns. */
struct usage {
	int64_t wall;
	int64_t cpu;			/* running */
	int64_t wait;			/* runnable, without a CPU; -1 = not known */
};

struct usage usage_of_thread(void);

/* Summed over all CPUs; wall counts each CPU. Zeroes if it cannot be read. */
struct usage usage_of_machine(void);

/* The same as shares of the time between two moments. */
struct shares {
	double cpu;
	double wait;			/* -1 = not known */
	double idle;			/* asleep: nothing to do */
};

struct shares usage_shares(const struct usage *begin, const struct usage *end);

struct verdict_on_bottleneck {
	const char *who;		/* "client", "server" or "unknown" */
	char why[200];
};

/*
 * busiest: the thread with the highest share of CPU; machine_busy: share of all
 * CPUs' time that anyone used; ours: the generator's part of that, both 0..1.
 */
struct verdict_on_bottleneck judge_bottleneck(const struct shares *busiest,
					      double machine_busy, double ours);

#endif
