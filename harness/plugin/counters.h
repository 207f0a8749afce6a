/* SPDX-License-Identifier: MIT */
/*
 * The shared file. Whoever maps or copies it sees, at any moment, the counts so far: aligned
 * 64-bit words, one row for each vCPU, each row written by its own vCPU's thread alone.
 *
 *   struct counters_header       see below
 *   rows                         at rows_offset, one every row_stride bytes: uint64_t [slots]
 *   names                        at names_offset: for each slot a kind and a name, NUL-terminated
 *
 * All in the byte order of the host. harness/megabench/instructions.py reads it.
 */
#ifndef COUNTERS_H
#define COUNTERS_H

#include <stddef.h>
#include <stdint.h>

#include "symbols.h"

#define COUNTERS_MAGIC "mpinsn\r\n"
#define COUNTERS_VERSION 1

struct counters_header {
	char magic[8];
	uint32_t version;
	uint32_t header_size;
	uint32_t vcpus;
	uint32_t slots;
	uint64_t run_id;	/* differs from start to start of the emulator */
	uint64_t rows_offset;
	uint64_t row_stride;
	uint64_t names_offset;
	uint64_t names_size;
};

/* Slots that are no function's. Kinds: user, kernel, spin, tick, idle, event. */
enum slot {
	SLOT_USER,
	SLOT_OTHER,		/* kernel, but no function known: modules, BPF, trampolines */
	SLOT_PAUSE,		/* loops around a PAUSE */
	SLOT_TICK,
	SLOT_IDLE,
	SLOT_EVENTS,		/* EVENT_TICK is the first */
	SLOT_FUNCTIONS = SLOT_EVENTS + EVENT_COUNT - 1,
};

struct counters {
	struct counters_header *header;
	size_t size;
};

/*
 * Makes the file, with all counters zero, under its name only once it is complete; a file of that
 * name from an earlier run stays whole for those who still have it open. Returns 0 or -errno.
 */
int counters_create(struct counters *counters, const char *path, unsigned int vcpus,
		    const struct symbols *symbols);

uint64_t *counters_row(const struct counters *counters, unsigned int vcpu);

static inline unsigned int counters_event_slot(enum event event)
{
	return SLOT_EVENTS + event - 1;
}

#endif
