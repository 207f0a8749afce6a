/* SPDX-License-Identifier: MIT */
/*
 * A trace file: text, a line an object or a connection; # begins a comment.
 *
 *	object PATH BYTES CRC32		counted from 0
 *	connection OBJECT...		its requests in order
 */
#ifndef LOAD_TRACE_H
#define LOAD_TRACE_H

#include <stdint.h>

struct object {
	char *path;
	uint64_t size;
	uint32_t crc;
};

/* Connection i requests requests[first[i]] .. requests[first[i + 1] - 1]. */
struct trace {
	struct object *objects;
	uint64_t nr_objects;
	uint32_t *requests;
	uint64_t nr_requests;
	uint64_t *first;
	uint64_t nr_connections;
};

/* 0 or -errno; -EINVAL names the line on stderr. */
int trace_read(struct trace *t, const char *path);

#endif
