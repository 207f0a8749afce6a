/* SPDX-License-Identifier: MIT */
/*
 * The shared file of liblines.so. It can be read or copied at any moment:
 *
 *   struct lines_header
 *   lines		at lines_offset, `lines` of them, every line_size bytes: struct line
 *
 * All in the byte order of the host. harness/megabench/contention.py reads it.
 */
#ifndef LINES_H
#define LINES_H

#include <stdint.h>

#define LINES_MAGIC "mpline\r\n"
#define LINES_VERSION 1

/* Functions of one line that are told apart; the last place is for all others. */
#define LINE_FUNCTIONS 8
#define FUNCTION_OTHERS UINT32_MAX

struct lines_header {
	char magic[8];
	uint32_t version;
	uint32_t header_size;
	uint32_t vcpus;
	uint32_t functions;	/* LINE_FUNCTIONS */
	uint64_t run_id;	/* differs from start to start of the emulator */
	uint64_t lines_offset;
	uint64_t line_size;
	uint64_t lines;
	/* Changes of writer that found no room in a table: there should be none. */
	uint64_t lost_pages;
	uint64_t lost_lines;
};

/* A cache line that has changed its writer */
struct line {
	uint64_t address;	/* 0: free */
	struct {
		uint32_t function;	/* the low half of its address; 0: free */
		uint32_t changes;	/* made by its stores */
	} by_function[LINE_FUNCTIONS];
	uint32_t by_vcpu[];	/* changes made by each */
};

#endif
