// SPDX-License-Identifier: MIT
/* Parsing, checking and echoing of the options, all driven by one table. */
#include "options.h"
#include "workload.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum option_type {
	OPTION_TEXT,
	OPTION_NUMBER,			/* uint64_t, within min..max */
	OPTION_REAL,			/* double, within min..max */
	OPTION_SNAPSHOTS,		/* may be repeated */
};

struct option_row {
	const char *name;
	const char *key;		/* in JSON, with its unit */
	enum option_type type;
	size_t offset;
	double min, max;
	const char *value;		/* the default; NULL = none */
	const char *argument;
	const char *help;
};

#define AT(field)	offsetof(struct options, field)

static const struct option_row rows[] = {
	{ "target", "target", OPTION_TEXT, AT(target), 0, 0, NULL,
	  "ADDR:PORT", "the server; IPv6 as [ADDR]:PORT" },
	{ "workload", "workload", OPTION_TEXT, AT(workload), 0, 0, "pingpong",
	  "NAME", "what is said over a connection" },
	{ "connections", "connections", OPTION_NUMBER, AT(connections), 1, 1000000, "1",
	  "C", "connections open at a time, over all threads" },
	{ "idle", "idle", OPTION_NUMBER, AT(idle), 0, 1000000, "0",
	  "N", "open N more beforehand, on which nothing is ever said" },
	{ "transactions", "transactions", OPTION_NUMBER, AT(transactions), 0, 1e15, "0",
	  "K", "transactions per connection; 0 = endless" },
	{ "size", "size", OPTION_NUMBER, AT(size), 1, 16777216, "64",
	  "BYTES", "bytes per message; memcached: per value" },
	{ "key-size", "key_size", OPTION_NUMBER, AT(key_size), 1, 250, "64",
	  "BYTES", "memcached: bytes per key" },
	{ "keys", "keys", OPTION_NUMBER, AT(keys), 1, 1e9, "10000",
	  "N", "memcached: keys, all set before the load; each flow has its own" },
	{ "set-percent", "set_percent", OPTION_NUMBER, AT(set_percent), 0, 100, "10",
	  "P", "memcached: sets among the requests, the others are gets" },
	{ "trace", "trace", OPTION_TEXT, AT(trace), 0, 0, NULL,
	  "FILE", "http: objects, and connections to replay" },
	{ "ask-close", "ask_close", OPTION_NUMBER, AT(ask_close), 0, 1, "0",
	  "0|1", "http: 1 = the last request asks the server to close" },
	{ "threads", "threads", OPTION_NUMBER, AT(threads), 1, 256, "1",
	  "T", "threads; at most one per connection" },
	{ "warmup", "warmup_s", OPTION_REAL, AT(warmup_s), 0, 86400, "0",
	  "S", "seconds of load before the measurement" },
	{ "warmup-count", "warmup_count", OPTION_NUMBER, AT(warmup_count), 0, 1e15, "0",
	  "N", "instead: transactions before the measurement" },
	{ "duration", "duration_s", OPTION_REAL, AT(duration_s), 0, 86400, "0",
	  "S", "measure for so long" },
	{ "count", "count", OPTION_NUMBER, AT(count), 0, 1e15, "0",
	  "N", "instead: measure exactly N transactions" },
	{ "passes", "passes", OPTION_NUMBER, AT(passes), 0, 1000, "0",
	  "N", "instead: the trace's connections to their end, N times" },
	{ "rate", "rate_txn_s", OPTION_REAL, AT(rate), 0, 1e9, "0",
	  "R", "open loop: start R transactions a second; 0 = closed loop" },
	{ "timeout", "timeout_s", OPTION_REAL, AT(timeout_s), 0.01, 120, "10",
	  "S", "give up a connect or a transaction after" },
	{ "deadline", "deadline_s", OPTION_REAL, AT(deadline_s), 0.1, 604800, "600",
	  "S", "end everything after so long, as a failure" },
	{ "seed", "seed", OPTION_NUMBER, AT(seed), 0, 9007199254740992.0, "1",
	  "N", "of the contents of the messages" },
	{ "wait", "wait", OPTION_NUMBER, AT(wait), 0, 1, "0",
	  "0|1", "1 = say ready, and begin when a line comes on standard input" },
	{ "progress", "progress_s", OPTION_REAL, AT(progress_s), 0, 86400, "0",
	  "S", "say every so many seconds how far a timed window is; 0 = never" },
	{ "snapshot", "snapshots", OPTION_SNAPSHOTS, AT(snapshots), 0, 0, NULL,
	  "SRC:DST", "copy file SRC to DST.begin and DST.end" },
};

#define NR_ROWS	(sizeof(rows) / sizeof(rows[0]))

void usage_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("megabench-load: ", stderr);
	vfprintf(stderr, format, args);
	fputs(" (see --help)\n", stderr);
	va_end(args);
	exit(2);
}

static void print_help(void)
{
	puts("usage: megabench-load --target ADDR:PORT (--duration S | --count N | --passes N) "
	     "[options]\n"
	     "Load on a server, in a closed or an open loop; every reply is checked. JSON lines on "
	     "stdout.\n");
	for (size_t i = 0; i < NR_ROWS; i++) {
		char left[40];

		snprintf(left, sizeof(left), "--%s %s", rows[i].name, rows[i].argument);
		printf("  %-24s %s", left, rows[i].help);
		if (rows[i].value && strcmp(rows[i].value, "0"))
			printf(" (%s)", rows[i].value);
		putchar('\n');
	}
	printf("\nWorkloads: %s. Exit status: 0 measured, 1 not, 2 wrong usage.\n",
	       workload_names());
}

static double checked_range(const struct option_row *row, double value, const char *text)
{
	if (!(value >= row->min && value <= row->max))
		usage_error("--%s: '%s' is not within %g..%.0f", row->name, text, row->min,
			    row->max);
	return value;
}

static uint64_t parse_number(const struct option_row *row, const char *text)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno)
		usage_error("--%s: '%s' is not a whole number", row->name, text);
	checked_range(row, value, text);
	return value;
}

static double parse_real(const struct option_row *row, const char *text)
{
	double value;
	char *end;

	value = strtod(text, &end);
	if (end == text || *end || !isfinite(value))
		usage_error("--%s: '%s' is not a number", row->name, text);
	return checked_range(row, value, text);
}

static void add_snapshot(struct options *o, const struct option_row *row, const char *text)
{
	const char *colon = strchr(text, ':');

	if (!colon || colon == text || !colon[1])
		usage_error("--%s: '%s' is not SRC:DST", row->name, text);
	if (o->nr_snapshots == MAX_SNAPSHOTS)
		usage_error("--%s: at most %d of them", row->name, MAX_SNAPSHOTS);
	o->snapshots[o->nr_snapshots++] = text;
}

static void set_option(struct options *o, const struct option_row *row, const char *text)
{
	void *field = (char *)o + row->offset;

	switch (row->type) {
	case OPTION_TEXT:
		*(const char **)field = text;
		break;
	case OPTION_NUMBER:
		*(uint64_t *)field = parse_number(row, text);
		break;
	case OPTION_REAL:
		*(double *)field = parse_real(row, text);
		break;
	case OPTION_SNAPSHOTS:
		add_snapshot(o, row, text);
		break;
	}
}

static const struct option_row *find_row(const char *name, size_t len)
{
	for (size_t i = 0; i < NR_ROWS; i++)
		if (strlen(rows[i].name) == len && !memcmp(rows[i].name, name, len))
			return &rows[i];
	return NULL;
}

static void check_together(const struct options *o)
{
	const struct workload *workload;
	const char *wrong;

	if (!o->target)
		usage_error("--target is missing");
	workload = workload_find(o->workload);
	if (!workload)
		usage_error("--workload: no '%s'; there are: %s", o->workload, workload_names());
	if ((o->duration_s > 0) + (o->count > 0) + (o->passes > 0) != 1)
		usage_error("give either --duration or --count or --passes, one of them above 0");
	if (o->passes > 0 && o->rate > 0)
		usage_error("--rate goes with --duration or --count: a trace has no times");
	if (o->warmup_s > 0 && o->warmup_count > 0)
		usage_error("give either --warmup or --warmup-count");
	if (o->threads > o->connections)
		usage_error("--threads %llu is more than --connections %llu",
			    (unsigned long long)o->threads, (unsigned long long)o->connections);
	if (o->warmup_s + o->duration_s >= o->deadline_s)
		usage_error("--deadline %g is not longer than --warmup and --duration together",
			    o->deadline_s);
	if (o->passes > 0 && !workload->count)
		usage_error("--passes: the workload '%s' has no traces", o->workload);
	wrong = workload->check ? workload->check(o) : NULL;
	if (wrong)
		usage_error("%s", wrong);
}

void options_parse(struct options *o, int argc, char **argv)
{
	memset(o, 0, sizeof(*o));
	for (size_t i = 0; i < NR_ROWS; i++)
		if (rows[i].value)
			set_option(o, &rows[i], rows[i].value);

	for (int i = 1; i < argc; i++) {
		const char *name = argv[i] + 2, *value;
		const struct option_row *row;
		size_t len;

		if (!strcmp(argv[i], "--help")) {
			print_help();
			exit(0);
		}
		if (strncmp(argv[i], "--", 2))
			usage_error("'%s' is not an option", argv[i]);
		len = strcspn(name, "=");
		row = find_row(name, len);
		if (!row)
			usage_error("there is no option '%s'", argv[i]);
		value = name[len] ? name + len + 1 : argv[++i];
		if (!value)
			usage_error("--%s needs a value", row->name);
		set_option(o, row, value);
	}
	check_together(o);
}

void print_json_string(const char *text, FILE *out)
{
	putc('"', out);
	for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
		if (*c == '"' || *c == '\\')
			fprintf(out, "\\%c", *c);
		else if (*c < 0x20)
			fprintf(out, "\\u%04x", *c);
		else
			putc(*c, out);
	}
	putc('"', out);
}

static void print_snapshots(const struct options *o, FILE *out)
{
	putc('[', out);
	for (unsigned int i = 0; i < o->nr_snapshots; i++) {
		if (i)
			putc(',', out);
		print_json_string(o->snapshots[i], out);
	}
	putc(']', out);
}

void options_print_json(const struct options *o, FILE *out)
{
	putc('{', out);
	for (size_t i = 0; i < NR_ROWS; i++) {
		const void *field = (const char *)o + rows[i].offset;

		fprintf(out, "%s\"%s\":", i ? "," : "", rows[i].key);
		switch (rows[i].type) {
		case OPTION_TEXT:
			if (*(const char *const *)field)
				print_json_string(*(const char *const *)field, out);
			else
				fputs("null", out);
			break;
		case OPTION_NUMBER:
			fprintf(out, "%llu", (unsigned long long)*(const uint64_t *)field);
			break;
		case OPTION_REAL:
			fprintf(out, "%.9g", *(const double *)field);
			break;
		case OPTION_SNAPSHOTS:
			print_snapshots(o, out);
			break;
		}
	}
	putc('}', out);
}
