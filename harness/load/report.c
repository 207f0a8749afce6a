// SPDX-License-Identifier: MIT
/* Merges the threads' tallies after they have ended, and prints the result. */
#include "report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int flush(void)
{
	return fflush(stdout) == EOF || ferror(stdout) ? -EIO : 0;
}

int report_event(const char *event, const char *key, uint64_t value)
{
	printf("{\"event\":\"%s\",\"time_ns\":%" PRId64 ",\"%s\":%" PRIu64 "}\n", event,
	       clock_ns(CLOCK_REALTIME), key, value);
	return flush();
}

static void tally_add(struct tally *to, const struct tally *from)
{
	to->transactions += from->transactions;
	to->connections += from->connections;
	to->bytes += from->bytes;
	for (int i = 0; i < ERROR_KINDS; i++)
		to->errors[i] += from->errors[i];
	to->ports_exhausted += from->ports_exhausted;
	to->server_closed_first += from->server_closed_first;
	histogram_add(&to->latency, &from->latency);
	histogram_add(&to->connect, &from->connect);
}

static void print_errors(const char *name, const struct tally *t)
{
	printf("\"%s\":{", name);
	for (int i = 0; i < ERROR_KINDS; i++)
		printf("%s\"%s\":%" PRIu64, i ? "," : "", error_names[i], t->errors[i]);
	printf("},");
}

static void print_latency(const char *name, const struct histogram *h)
{
	static const struct {
		const char *name;
		double share;
	} points[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p999", 0.999 } };

	printf("\"%s\":{", name);
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		printf("\"%s\":%.3f,", points[i].name,
		       histogram_percentile_ns(h, points[i].share) / 1e3);
	printf("\"max\":%.3f,\"mean\":%.3f},", h->max_ns / 1e3, histogram_mean_ns(h) / 1e3);
}

static void print_histogram(const struct histogram *h)
{
	const char *comma = "";

	printf("\"histogram_bins_per_octave\":%d,\"histogram_out_of_range\":%" PRIu64
	       ",\"histogram\":[", HISTOGRAM_PER_OCTAVE, h->out_of_range);
	for (unsigned int i = 0; i < HISTOGRAM_BINS; i++) {
		if (!h->bin[i])
			continue;
		printf("%s[%.3f,%" PRIu64 "]", comma, histogram_lower_ns(i) / 1e3, h->bin[i]);
		comma = ",";
	}
	printf("],");
}

/* Shares of each thread, and what they say of the bottleneck. */
static void print_usage(const struct run *run, double elapsed_s)
{
	const uint64_t nr = run->options->threads;
	struct shares machine = usage_shares(&run->machine_begin, &run->machine_end);
	struct verdict_on_bottleneck verdict;
	struct shares busiest = { .cpu = -1 };
	double cpu_s = 0, ours;

	printf("\"threads\":[");
	for (uint64_t i = 0; i < nr; i++) {
		const struct loop *loop = run->loops[i];
		struct shares s = usage_shares(&loop->usage_begin, &loop->usage_end);

		printf("%s{\"transactions\":%" PRIu64 ",\"cpu\":%.4f,\"wait\":%.4f,\"idle\":%.4f}",
		       i ? "," : "", loop->measured.transactions, s.cpu, s.wait, s.idle);
		cpu_s += (loop->usage_end.cpu - loop->usage_begin.cpu) / 1e9;
		if (s.cpu > busiest.cpu)
			busiest = s;
	}
	printf("],");
	ours = (run->machine_end.cpu - run->machine_begin.cpu) / 1e9;
	ours = ours > 0 ? cpu_s / ours : 1;
	verdict = judge_bottleneck(&busiest, machine.cpu, ours > 1 ? 1 : ours);
	if (run->failure[0])
		snprintf(verdict.why, sizeof(verdict.why), "the run is not complete");
	printf("\"client_cpu\":%.4f,\"machine_cpu\":%.4f,",
	       elapsed_s > 0 ? cpu_s / elapsed_s / run->nr_cores : 0, machine.cpu);
	printf("\"bottleneck\":\"%s\",\"bottleneck_why\":\"%s\",",
	       run->failure[0] ? "unknown" : verdict.who, verdict.why);
}

/* How late an open loop was at the end of the window: the server could not keep up. */
static void print_behind(const struct run *run)
{
	int64_t behind_ns = 0;

	if (run->options->rate == 0)
		return;
	for (uint64_t i = 0; i < run->options->threads; i++)
		if (run->loops[i]->behind_ns > behind_ns)
			behind_ns = run->loops[i]->behind_ns;
	printf("\"behind_s\":%.6f,", behind_ns / 1e9);
}

int report_result(const struct run *run)
{
	struct tally *measured = calloc(2, sizeof(*measured)), *outside = measured + 1;
	const double elapsed_s = (run->end_ns - run->begin_ns) / 1e9;
	const double per_s = elapsed_s > 0 ? 1 / elapsed_s : 0;
	int error = atomic_load(&run->control.failure);

	if (!measured)
		return -ENOMEM;
	for (uint64_t i = 0; i < run->options->threads; i++) {
		tally_add(measured, &run->loops[i]->measured);
		tally_add(outside, &run->loops[i]->outside);
	}
	printf("{\"event\":\"result\",\"time_ns\":%" PRId64 ",\"complete\":%s,\"failure\":",
	       clock_ns(CLOCK_REALTIME), run->failure[0] ? "false" : "true");
	if (run->failure[0])
		print_json_string(run->failure, stdout);
	else
		printf("null");
	printf(",\"transactions\":%" PRIu64 ",\"connections\":%" PRIu64 ",\"elapsed_s\":%.9f,",
	       measured->transactions, measured->connections, elapsed_s);
	printf("\"throughput\":%.3f,\"connections_s\":%.3f,", measured->transactions * per_s,
	       measured->connections * per_s);
	printf("\"received_bytes\":%" PRIu64 ",\"gigabits_s\":%.6f,", measured->bytes,
	       8e-9 * measured->bytes * per_s);
	print_behind(run);
	print_errors("errors", measured);
	print_errors("errors_outside", outside);
	printf("\"last_error\":");
	if (error)
		print_json_string(strerror(error), stdout);
	else
		printf("null");
	printf(",\"ports_exhausted\":%" PRIu64 ",\"server_closed_first\":%" PRIu64
	       ",\"transactions_outside\":%" PRIu64 ",",
	       measured->ports_exhausted + outside->ports_exhausted,
	       measured->server_closed_first + outside->server_closed_first,
	       outside->transactions);
	printf("\"prepared\":%" PRIu64 ",", run->prepared);
	print_latency("latency_us", &measured->latency);
	print_latency("connect_us", &measured->connect);
	print_histogram(&measured->latency);
	print_usage(run, elapsed_s);
	printf("\"options\":");
	options_print_json(run->options, stdout);
	printf("}\n");
	if (measured->ports_exhausted + outside->ports_exhausted)
		fprintf(stderr, "megabench-load: no free local port for %" PRIu64
			" connections: widen net.ipv4.ip_local_port_range, or set "
			"net.ipv4.tcp_tw_reuse=1\n",
			measured->ports_exhausted + outside->ports_exhausted);
	free(measured);
	return flush();
}
