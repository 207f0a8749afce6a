/* SPDX-License-Identifier: MIT */
/*
 * All options are rows of one table (options.c): name, type, range, default and
 * help. Every result echoes them, so a result can be run again.
 */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include <stdint.h>
#include <stdio.h>

#define MAX_SNAPSHOTS	8

struct options {
	const char *target;
	const char *workload;
	uint64_t connections;
	uint64_t idle;			/* beside them, without a word */
	uint64_t transactions;		/* per connection; 0 = endless */
	uint64_t size;
	uint64_t key_size;
	uint64_t keys;
	uint64_t set_percent;
	const char *trace;
	uint64_t ask_close;
	uint64_t threads;
	double warmup_s;
	uint64_t warmup_count;		/* > 0: replaces warmup_s */
	double duration_s;		/* either this */
	uint64_t count;			/* or this */
	uint64_t passes;		/* or this */
	double rate;			/* > 0: open loop, transactions a second */
	double timeout_s;
	double deadline_s;
	uint64_t seed;
	uint64_t wait;			/* 1: begin when told to */
	double progress_s;		/* 0: say nothing in between */
	const char *snapshots[MAX_SNAPSHOTS];
	unsigned int nr_snapshots;
};

/* Ends the program: status 0 after --help, 2 with a message on a bad flag. */
void options_parse(struct options *o, int argc, char **argv);

/* Print the message with the program's name, then exit with status 2. */
_Noreturn __attribute__((format(printf, 1, 2))) void usage_error(const char *format, ...);

/* All of them as one JSON object. */
void options_print_json(const struct options *o, FILE *out);

void print_json_string(const char *text, FILE *out);

#endif
