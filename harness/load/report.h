/* SPDX-License-Identifier: MIT */
/* JSON lines on stdout: measure_begin, measure_end, result. */
#ifndef LOAD_REPORT_H
#define LOAD_REPORT_H

#include "loop.h"

/* What main knows of the run; the rest is in the loops. */
struct run {
	const struct options *options;
	struct control control;
	struct loop **loops;
	uint64_t count;			/* transactions of an exact window; 0 = timed */
	uint64_t prepared;		/* requests before all phases */
	unsigned int nr_cores;		/* that the generator may use at a time */
	int64_t begin_ns, end_ns;	/* the measured window; 0 = never reached */
	struct usage machine_begin, machine_end;
	char failure[256];		/* why it is not complete; empty = it is */
};

/* Flushed at once: whoever reads may act on it. 0 or -errno. */
int report_event(const char *event, const char *key, uint64_t value);
int report_result(const struct run *run);

#endif
