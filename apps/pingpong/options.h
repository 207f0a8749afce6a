/* SPDX-License-Identifier: MIT */
/* The server's command line. */
#ifndef PINGPONG_OPTIONS_H
#define PINGPONG_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_THREADS	1024

struct options {
	const char *api;
	unsigned int threads;
	int cpus[MAX_THREADS];		/* one per thread */
	const char *address;
	unsigned int port;		/* 0 = any; then the one it got */
	unsigned int size;
	unsigned int backlog;
	bool partition;
	unsigned int mask;		/* threads whose CPUs a partition covers */
	unsigned int batch;
	bool lwsocket;
	bool count_foreign;
	unsigned int slow_work;		/* turns of a loop a message, in the first thread */
	unsigned int accept;		/* connections at a time; 0 = all that there are */
	unsigned int shed;		/* connections that may wait in a partition; 0 = all */
	unsigned int hand_on;		/* if it waits less behind so many more; 0 = never */
	unsigned int messages;		/* of a connection, then the server closes it; 0 = all */
	bool fin_with_data;		/* with the last of them */
	bool channel_switch;		/* one of those that channels alone have was given */
};

/* Ends the program: 0 after --help, 2 with a message on a bad flag. */
void options_parse(struct options *o, int argc, char **argv, const char *apis);

_Noreturn __attribute__((format(printf, 1, 2))) void usage_error(const char *format, ...);

#endif
