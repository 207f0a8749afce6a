/* SPDX-License-Identifier: MIT */
/*
 * What is said over a connection. A workload is a row of functions; flows,
 * loops and reports know nothing of its protocol. To add one: write its .c with
 * a const struct workload, and add it to the table in workload.c.
 *
 * A workload keeps no buffers. It produces any part of a request on demand and
 * judges a reply piece by piece, whatever pieces the network makes of it.
 */
#ifndef LOAD_WORKLOAD_H
#define LOAD_WORKLOAD_H

#include <stddef.h>
#include <stdint.h>

struct options;

/* One request and its reply. Flows own it; workloads read it. */
struct exchange {
	const struct options *options;
	uint64_t connection;		/* unique in the run */
	uint64_t transaction;		/* within the connection, from 0 */
	void *state;			/* the workload's own, state_size bytes */
};

enum verdict {
	REPLY_INCOMPLETE,		/* right so far */
	REPLY_COMPLETE,			/* the last byte was right */
	REPLY_WRONG,			/* a byte, or a length, is not what was due */
};

/*
 * Where the bytes of a message are: offset counts from the message's start.
 * Scratch is at least IO_BYTES of the thread's own memory.
 */
#define IO_BYTES	65536

struct workload {
	const char *name;
	const char *help;
	size_t state_size;		/* per connection; zeroed when it opens */

	/*
	 * Write the request from this offset on into buf, at most room bytes.
	 * Returns how many: 0 when the request ends at the offset.
	 */
	size_t (*request)(const struct exchange *x, size_t offset, void *buf, size_t room);

	/* Judge the len > 0 bytes of the reply that start at this offset. */
	enum verdict (*reply)(const struct exchange *x, size_t offset, const void *buf,
			      size_t len, void *scratch);
};

extern const struct workload workload_pingpong;

/* NULL if there is none of that name. */
const struct workload *workload_find(const char *name);

/* Names separated by commas, for messages. */
const char *workload_names(void);

#endif
