// SPDX-License-Identifier: MIT
/* Readings from the scheduler, and the judgement made of them. */
#include "evidence.h"
#include "clock.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

/* A thread is the limit from here on, ... */
#define CPU_SATURATED	0.90
/* ... and is not, if it slept at least this much. */
#define IDLE_ENOUGH	0.15
#define MACHINE_FULL	0.90
#define OURS_IS_SMALL	0.34

/* The kernel's own account: ns on the CPU, ns waiting for one, time slices. */
static int64_t run_queue_wait(void)
{
	char text[96];
	int64_t wait = -1;
	int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	if (sscanf(text, "%*d %" SCNd64, &wait) != 1)
		return -1;
	return wait;
}

struct usage usage_of_thread(void)
{
	return (struct usage) {
		.wall = now_ns(),
		.cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID),
		.wait = run_queue_wait(),
	};
}

struct usage usage_of_machine(void)
{
	/* user nice system idle iowait irq softirq steal, in ticks */
	long long t[8] = { 0 };
	struct usage usage = { .wait = -1 };
	const int64_t tick_ns = NS_PER_S / sysconf(_SC_CLK_TCK);
	FILE *stat = fopen("/proc/stat", "re");

	if (!stat)
		return usage;
	if (fscanf(stat, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &t[0], &t[1], &t[2],
		   &t[3], &t[4], &t[5], &t[6], &t[7]) == 8) {
		usage.cpu = (t[0] + t[1] + t[2] + t[5] + t[6] + t[7]) * tick_ns;
		usage.wall = usage.cpu + (t[3] + t[4]) * tick_ns;
	}
	fclose(stat);
	return usage;
}

struct shares usage_shares(const struct usage *begin, const struct usage *end)
{
	const double wall = end->wall - begin->wall;
	struct shares s = { .wait = -1 };

	if (wall <= 0)
		return s;
	s.cpu = (end->cpu - begin->cpu) / wall;
	if (begin->wait >= 0 && end->wait >= 0)
		s.wait = (end->wait - begin->wait) / wall;
	s.idle = 1 - s.cpu - (s.wait > 0 ? s.wait : 0);
	if (s.idle < 0)
		s.idle = 0;
	return s;
}

struct verdict_on_bottleneck judge_bottleneck(const struct shares *busiest,
					      double machine_busy, double ours)
{
	struct verdict_on_bottleneck v = { .who = "unknown" };
	const double cpu = 100 * busiest->cpu, idle = 100 * busiest->idle;

	if (busiest->cpu >= CPU_SATURATED) {
		v.who = "client";
		snprintf(v.why, sizeof(v.why),
			 "its busiest thread ran %.0f%% of the time: add threads or cores", cpu);
	} else if (busiest->wait < 0) {
		snprintf(v.why, sizeof(v.why),
			 "its busiest thread ran %.0f%% of the time; how long it waited for a "
			 "CPU is not known here (no schedstat)", cpu);
	} else if (busiest->idle >= IDLE_ENOUGH) {
		v.who = "server";
		snprintf(v.why, sizeof(v.why),
			 "even its busiest thread slept %.0f%% of the time, waiting for replies",
			 idle);
	} else if (machine_busy < MACHINE_FULL) {
		v.who = "client";
		snprintf(v.why, sizeof(v.why),
			 "its busiest thread ran %.0f%% of the time, waited for a CPU %.0f%%, and "
			 "slept only %.0f%%: add threads or cores",
			 cpu, 100 * busiest->wait, idle);
	} else if (ours <= OURS_IS_SMALL) {
		v.who = "server";
		snprintf(v.why, sizeof(v.why),
			 "the CPUs of this machine, which others share, were %.0f%% busy, only "
			 "%.0f%% of it with the generator", 100 * machine_busy, 100 * ours);
	} else {
		snprintf(v.why, sizeof(v.why),
			 "the CPUs of this machine were %.0f%% busy, %.0f%% of it with the "
			 "generator, which slept only %.0f%% of the time",
			 100 * machine_busy, 100 * ours, idle);
	}
	return v;
}
