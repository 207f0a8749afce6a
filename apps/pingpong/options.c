// SPDX-License-Identifier: MIT
/* Parses and checks the command line; the table is its documentation too. */
#include "options.h"

#include <ctype.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum flag {
	FLAG_API = 1,
	FLAG_THREADS,
	FLAG_CPUS,
	FLAG_ADDRESS,
	FLAG_PORT,
	FLAG_SIZE,
	FLAG_BACKLOG,
	FLAG_NO_PARTITION,
	FLAG_MASK,
	FLAG_BATCH,
	FLAG_NO_LWSOCKET,
	FLAG_COUNT_FOREIGN,
	FLAG_SLOW_WORK,
	FLAG_ACCEPT,
	FLAG_SHED,
	FLAG_HAND_ON,
	FLAG_MESSAGES,
	FLAG_FIN_WITH_DATA,
	FLAG_HELP,
};

static const struct flag_row {
	enum flag flag;
	const char *name;
	const char *argument;		/* NULL = takes none */
	const char *help;
} rows[] = {
	{ FLAG_API, "api", "NAME", "the interface (epoll)" },
	{ FLAG_THREADS, "threads", "N", "threads, each pinned to a CPU (1)" },
	{ FLAG_CPUS, "cpus", "LIST", "their CPUs, as 0,1,4-7 (the first N allowed)" },
	{ FLAG_ADDRESS, "address", "ADDR", "IPv4 or IPv6 address (127.0.0.1)" },
	{ FLAG_PORT, "port", "P", "TCP port; 0 = any free one (9000)" },
	{ FLAG_SIZE, "size", "BYTES", "bytes per message, for counting (64)" },
	{ FLAG_BACKLOG, "backlog", "N", "length of the accept queue (4096)" },
	{ FLAG_NO_PARTITION, "no-partition", NULL, "megapipe: one accept queue for all" },
	{ FLAG_MASK, "mask", "N",
	  "megapipe: a partition covers the CPUs of N threads, the next ones' too (1)" },
	{ FLAG_BATCH, "batch", "N", "megapipe: batching threshold, 1 = off (the library's)" },
	{ FLAG_NO_LWSOCKET, "no-lwsocket", NULL, "megapipe: ordinary descriptors" },
	{ FLAG_COUNT_FOREIGN, "count-foreign", NULL,
	  "ask each new socket for its CPU: one more system call" },
	{ FLAG_SLOW_WORK, "slow-work", "TURNS",
	  "the first thread is slow: turns of an empty loop after each message (0)" },
	{ FLAG_ACCEPT, "accept", "N",
	  "megapipe: accept N connections at a time (0 = all that there are)" },
	{ FLAG_SHED, "shed", "N",
	  "megapipe: leave the listener to others when N connections wait (0 = never)" },
	{ FLAG_HAND_ON, "hand-on", "N",
	  "megapipe: hand a new one on where it waits less even behind N more (0 = never)" },
	{ FLAG_MESSAGES, "messages", "N",
	  "close a connection after so many, not at its end of file (0 = never)" },
	{ FLAG_FIN_WITH_DATA, "fin-with-data", NULL,
	  "with --messages: the FIN goes out with the last one" },
	{ FLAG_HELP, "help", NULL, "this text" },
};

#define NR_ROWS	(sizeof(rows) / sizeof(rows[0]))

void usage_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("pingpong-server: ", stderr);
	vfprintf(stderr, format, args);
	fputs(" (see --help)\n", stderr);
	va_end(args);
	exit(2);
}

static _Noreturn void print_help(const char *apis)
{
	puts("usage: pingpong-server [options]\n"
	     "Echoes what it reads, until SIGTERM; counters on SIGUSR1. JSON lines on stdout.\n");
	for (size_t i = 0; i < NR_ROWS; i++) {
		char left[40];

		snprintf(left, sizeof(left), "--%s %s", rows[i].name,
			 rows[i].argument ? rows[i].argument : "");
		printf("  %-20s %s\n", left, rows[i].help);
	}
	printf("\nInterfaces: %s. Exit status: 0 served, 1 failed, 2 wrong usage,\n"
	       "77 the interface is not available here.\n", apis);
	exit(0);
}

static unsigned int parse_number(const char *name, const char *text, unsigned int min,
				 unsigned int max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (!isdigit((unsigned char)text[0]) || *end)
		usage_error("--%s: '%s' is not a whole number", name, text);
	if (value < min || value > max)
		usage_error("--%s: '%s' is not within %u..%u", name, text, min, max);
	return value;
}

/* Returns how many. */
static unsigned int parse_cpus(const char *text, int *cpus)
{
	unsigned int nr = 0;
	const char *at = text;

	for (;;) {
		unsigned long first, last;
		char *end;

		if (!isdigit((unsigned char)*at))
			usage_error("--cpus: '%s' is not a list as 0,1,4-7", text);
		first = strtoul(at, &end, 10);
		last = first;
		if (*end == '-' && isdigit((unsigned char)end[1]))
			last = strtoul(end + 1, &end, 10);
		if (last < first || last >= CPU_SETSIZE || nr + (last - first) >= MAX_THREADS)
			usage_error("--cpus: '%s' is out of range", text);
		while (first <= last)
			cpus[nr++] = first++;
		if (!*end)
			return nr;
		if (*end != ',')
			usage_error("--cpus: '%s' is not a list as 0,1,4-7", text);
		at = end + 1;
	}
}

static void settle_cpus(struct options *o, unsigned int nr_given)
{
	cpu_set_t allowed;
	unsigned int nr = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		usage_error("cannot tell which CPUs may be used");
	if (nr_given) {
		if (nr_given != o->threads)
			usage_error("--cpus names %u CPUs for %u --threads", nr_given, o->threads);
		for (unsigned int i = 0; i < nr_given; i++)
			if (!CPU_ISSET(o->cpus[i], &allowed))
				usage_error("--cpus: there is no CPU %d here", o->cpus[i]);
		return;
	}
	for (int cpu = 0; cpu < CPU_SETSIZE && nr < o->threads; cpu++)
		if (CPU_ISSET(cpu, &allowed))
			o->cpus[nr++] = cpu;
	if (nr < o->threads)
		usage_error("--threads %u: there are only %u CPUs; to share them, name one "
			    "for each thread with --cpus", o->threads, nr);
}

void options_parse(struct options *o, int argc, char **argv, const char *apis)
{
	struct option longs[NR_ROWS + 1] = { 0 };
	unsigned int nr_cpus = 0;
	int flag;

	for (size_t i = 0; i < NR_ROWS; i++)
		longs[i] = (struct option) {
			.name = rows[i].name,
			.has_arg = rows[i].argument ? required_argument : no_argument,
			.val = rows[i].flag,
		};
	*o = (struct options) {
		.api = "epoll",
		.threads = 1,
		.address = "127.0.0.1",
		.port = 9000,
		.size = 64,
		.backlog = 4096,
		.partition = true,
		.mask = 1,
		.lwsocket = true,
	};
	while ((flag = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (flag) {
		case FLAG_API:
			o->api = optarg;
			break;
		case FLAG_THREADS:
			o->threads = parse_number("threads", optarg, 1, MAX_THREADS);
			break;
		case FLAG_CPUS:
			nr_cpus = parse_cpus(optarg, o->cpus);
			break;
		case FLAG_ADDRESS:
			o->address = optarg;
			break;
		case FLAG_PORT:
			o->port = parse_number("port", optarg, 0, 65535);
			break;
		case FLAG_SIZE:
			o->size = parse_number("size", optarg, 1, 16777216);
			break;
		case FLAG_BACKLOG:
			o->backlog = parse_number("backlog", optarg, 1, 1 << 20);
			break;
		case FLAG_NO_PARTITION:
			o->partition = false;
			o->channel_switch = true;
			break;
		case FLAG_MASK:
			o->mask = parse_number("mask", optarg, 1, MAX_THREADS);
			o->channel_switch = true;
			break;
		case FLAG_BATCH:
			o->batch = parse_number("batch", optarg, 1, 1 << 16);
			o->channel_switch = true;
			break;
		case FLAG_NO_LWSOCKET:
			o->lwsocket = false;
			o->channel_switch = true;
			break;
		case FLAG_COUNT_FOREIGN:
			o->count_foreign = true;
			break;
		case FLAG_SLOW_WORK:
			o->slow_work = parse_number("slow-work", optarg, 0, 1 << 30);
			break;
		case FLAG_ACCEPT:
			o->accept = parse_number("accept", optarg, 0, 1 << 16);
			o->channel_switch = true;
			break;
		case FLAG_SHED:
			o->shed = parse_number("shed", optarg, 0, 1 << 16);
			o->channel_switch = true;
			break;
		case FLAG_HAND_ON:
			o->hand_on = parse_number("hand-on", optarg, 0, 1 << 16);
			o->channel_switch = true;
			break;
		case FLAG_MESSAGES:
			o->messages = parse_number("messages", optarg, 0, 1 << 30);
			break;
		case FLAG_FIN_WITH_DATA:
			o->fin_with_data = true;
			break;
		case FLAG_HELP:
			print_help(apis);
		default:
			/* getopt has said what is wrong. */
			exit(2);
		}
	}
	if (optind < argc)
		usage_error("'%s' is not an option", argv[optind]);
	if (o->fin_with_data && !o->messages)
		usage_error("--fin-with-data: say after how many --messages");
	if (o->mask > 1 && !o->partition)
		usage_error("--mask: there are none with --no-partition");
	settle_cpus(o, nr_cpus);
}
