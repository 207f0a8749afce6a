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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct options;

/* One request and its reply. Flows own it; workloads read it. */
struct exchange {
	const struct options *options;
	uint64_t flow;			/* whose connection it is, from 0 */
	uint64_t connection;		/* unique in the run */
	uint64_t transaction;		/* within the connection, from 0 */
	uint64_t script;		/* what open() chose for the connection */
	uint64_t script_done;		/* transactions of it that an earlier connection did */
	void *state;			/* the workload's own, state_size bytes */
	void *shared;			/* what prepare() made, for the whole run */
};

enum verdict {
	REPLY_INCOMPLETE,		/* right so far */
	REPLY_COMPLETE,			/* the last byte was right */
	REPLY_WRONG,			/* a byte, or a length, is not what was due */
	REPLY_REFUSED,			/* well formed, and says no */
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

	/* The rest up to request() is optional. What is wrong with the options, or NULL. */
	const char *(*check)(const struct options *o);

	/* Once, before any thread: make *shared. Requests that it made, or -errno. */
	int64_t (*prepare)(const struct options *o, const struct sockaddr *address,
			   socklen_t address_len, void **shared);

	/*
	 * Scripts: connections that are laid down beforehand. count() is how many
	 * transactions the whole run has, 0 if it has no script; rewind() begins it
	 * anew; open() takes the next script and returns its transactions, or 0 if
	 * there is none left. An endless run takes them round and round.
	 */
	uint64_t (*count)(const struct options *o, void *shared);
	void (*rewind)(void *shared);
	uint64_t (*open)(struct exchange *x, bool endless);

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
extern const struct workload workload_memcached;
extern const struct workload workload_http;

/* NULL if there is none of that name. */
const struct workload *workload_find(const char *name);

/* Names separated by commas, for messages. */
const char *workload_names(void);

#endif
