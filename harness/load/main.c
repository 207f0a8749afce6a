// SPDX-License-Identifier: MIT
/*
 * megabench-load: load on a server, in a closed or an open loop, every reply checked.
 *
 * main() is the experiment: open everything, start the threads parked, warm up,
 * measure, finish, join, report. A timed window is cut out of steady load. An
 * exact one is different: its N transactions start after all of the warm-up's
 * have ended and nothing starts after them, so that whatever the server counted
 * between the two edges (instructions, system calls) belongs to those N.
 *
 * Main alone decides about phases; it sleeps in poll() on its eventfd (threads
 * report), on signals, and until the next edge or the deadline.
 */
#include "idle.h"
#include "loop.h"
#include "report.h"
#include "snapshot.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define FILES_BESIDE_FLOWS	64
#define READY_POLL_NS		(5 * NS_PER_MS)

/* Why a wait ended. */
enum outcome {
	OUTCOME_TIME,			/* the given moment has come */
	OUTCOME_DRAINED,		/* all flows are parked */
	OUTCOME_FAILED,			/* run->failure says why */
};

struct main_state {
	struct run run;
	struct snapshots *snapshots;
	int signals;
	int64_t deadline_ns;
};

static _Noreturn __attribute__((format(printf, 1, 2))) void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("megabench-load: ", stderr);
	vfprintf(stderr, format, args);
	fputs("\n", stderr);
	va_end(args);
	exit(1);
}

static void resolve_target(struct control *control, const char *target)
{
	const struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV,
	};
	struct addrinfo *found;
	char host[256];
	const char *colon = strrchr(target, ':');
	size_t len = colon ? (size_t)(colon - target) : 0;
	int err;

	if (len == 0 || !colon[1] || len >= sizeof(host))
		usage_error("--target: '%s' is not ADDR:PORT", target);
	if (target[0] == '[' && target[len - 1] == ']') {
		target++;
		len -= 2;
	} else if (memchr(target, ':', len)) {
		usage_error("--target: write IPv6 as [ADDR]:PORT, not '%s'", target);
	}
	memcpy(host, target, len);
	host[len] = '\0';
	err = getaddrinfo(host, colon + 1, &hints, &found);
	if (err)
		usage_error("--target: '%s': %s", host, gai_strerror(err));
	memcpy(&control->address, found->ai_addr, found->ai_addrlen);
	control->address_len = found->ai_addrlen;
	freeaddrinfo(found);
}

static void raise_file_limit(uint64_t connections)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("getrlimit: %s", strerror(errno));
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("setrlimit: %s", strerror(errno));
	if (limit.rlim_max < connections + FILES_BESIDE_FLOWS)
		die("%llu connections need %llu open files, the limit is %llu (ulimit -Hn)",
		    (unsigned long long)connections,
		    (unsigned long long)connections + FILES_BESIDE_FLOWS,
		    (unsigned long long)limit.rlim_max);
}

/* Before any thread exists, so that all inherit the mask. */
static int open_signals(void)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		die("signalfd: %s", strerror(errno));
	return fd;
}

static void start_loops(struct run *run)
{
	const uint64_t nr = run->options->threads, flows = run->options->connections;
	cpu_set_t cpus;

	run->nr_cores = sched_getaffinity(0, sizeof(cpus), &cpus) ? 1 : CPU_COUNT(&cpus);
	if (run->nr_cores > nr)
		run->nr_cores = nr;
	run->loops = calloc(nr, sizeof(*run->loops));
	for (uint64_t i = 0; i < nr; i++) {
		int err = -ENOMEM;

		if (run->loops)
			run->loops[i] = calloc(1, sizeof(*run->loops[i]));
		if (run->loops && run->loops[i])
			err = loop_start(run->loops[i], &run->control, i,
					 flows / nr + (i < flows % nr));
		if (err)
			die("cannot start thread %llu: %s", (unsigned long long)i, strerror(-err));
	}
}

static void prepare(struct run *run)
{
	const struct options *o = run->options;
	const struct workload *workload = run->control.workload;
	int64_t done = 0;

	if (workload->prepare)
		done = workload->prepare(o, (const struct sockaddr *)&run->control.address,
					 run->control.address_len, &run->control.shared);
	if (done < 0)
		die("%s cannot be prepared on %s: %s", o->workload, o->target, strerror(-done));
	run->prepared = done;
	run->count = o->count;
	if (o->passes > 0)
		run->count = workload->count(o, run->control.shared);
	run->control.scripted = o->passes > 0;
}

static void open_idle(struct run *run)
{
	const struct options *o = run->options;
	int err = idle_open((const struct sockaddr *)&run->control.address,
			    run->control.address_len, o->idle,
			    (int64_t)(o->timeout_s * NS_PER_S));

	if (err)
		die("%llu idle connections cannot be opened to %s: %s",
		    (unsigned long long)o->idle, o->target, strerror(-err));
}

static void set_up(struct main_state *m, const struct options *o)
{
	m->run.options = o;
	m->run.control.options = o;
	m->run.control.workload = workload_find(o->workload);
	resolve_target(&m->run.control, o->target);
	raise_file_limit(o->connections + o->idle);
	m->snapshots = snapshots_open(o);
	m->signals = open_signals();
	m->run.control.notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->run.control.notify < 0)
		die("eventfd: %s", strerror(errno));
	prepare(&m->run);
	open_idle(&m->run);
	m->deadline_ns = now_ns() + (int64_t)(o->deadline_s * NS_PER_S);
	start_loops(&m->run);
}

static void publish(struct run *run, enum phase phase, int64_t tickets)
{
	control_publish(&run->control, run->loops, phase, tickets);
}

__attribute__((format(printf, 2, 3)))
static enum outcome fail(struct run *run, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(run->failure, sizeof(run->failure), format, args);
	va_end(args);
	return OUTCOME_FAILED;
}

static enum outcome fail_deadline(struct run *run)
{
	int error = atomic_load(&run->control.failure);

	return fail(run, "the deadline of %g s has passed%s%s", run->options->deadline_s,
		    error ? "; latest error: " : "", error ? strerror(error) : "");
}

/* Sleep until the given moment, or until all flows are parked if wanted. */
static enum outcome wait_until(struct main_state *m, int64_t until_ns, bool drained)
{
	struct run *run = &m->run;
	struct pollfd fds[] = {
		{ .fd = run->control.notify, .events = POLLIN },
		{ .fd = m->signals, .events = POLLIN },
	};
	struct signalfd_siginfo info;
	uint64_t value;

	for (;;) {
		int64_t now = now_ns(), left;
		struct timespec ts;

		if (atomic_load(&run->control.unreachable))
			return fail(run, "cannot connect to %s: %s", run->options->target,
				    strerror(atomic_load(&run->control.unreachable)));
		if (drained && atomic_load(&run->control.drained) == run->options->threads)
			return OUTCOME_DRAINED;
		if (now >= m->deadline_ns)
			return fail_deadline(run);
		if (now >= until_ns)
			return OUTCOME_TIME;
		left = (until_ns < m->deadline_ns ? until_ns : m->deadline_ns) - now;
		ts.tv_sec = left / NS_PER_S;
		ts.tv_nsec = left % NS_PER_S;
		if (ppoll(fds, 2, &ts, NULL) <= 0)
			continue;
		if (fds[0].revents && read(fds[0].fd, &value, sizeof(value)) < 0 &&
		    errno != EAGAIN)
			return fail(run, "eventfd: %s", strerror(errno));
		if (fds[1].revents && read(fds[1].fd, &info, sizeof(info)) == sizeof(info))
			return fail(run, "stopped by SIG%s", sigabbrev_np(info.ssi_signo));
	}
}

static enum outcome wait_drained(struct main_state *m)
{
	return wait_until(m, INT64_MAX, true);
}

/* Every flow has been served once; or has had the time to be, and was not. */
static enum outcome wait_ready(struct main_state *m)
{
	const struct options *o = m->run.options;
	const int64_t patience = now_ns() + (int64_t)(o->timeout_s * NS_PER_S);
	enum outcome outcome = OUTCOME_TIME;

	while (outcome == OUTCOME_TIME &&
	       atomic_load(&m->run.control.ready) < o->connections && now_ns() < patience)
		outcome = wait_until(m, now_ns() + READY_POLL_NS, false);
	return outcome;
}

/*
 * Several generators are one load only if they begin together. Each says when
 * it is ready, and whoever started them tells all of them to go.
 */
static enum outcome wait_for_go(struct main_state *m)
{
	struct run *run = &m->run;
	struct pollfd fds[] = {
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = m->signals, .events = POLLIN },
	};
	char line[16];

	if (report_event("ready", "threads", run->options->threads))
		return fail(run, "standard output is closed");
	for (;;) {
		const int64_t left = m->deadline_ns - now_ns();

		if (left <= 0)
			return fail_deadline(run);
		if (poll(fds, 2, (int)(left / NS_PER_MS) + 1) <= 0)
			continue;
		if (fds[1].revents)
			return fail(run, "stopped by a signal before it was told to begin");
		if (read(STDIN_FILENO, line, sizeof(line)) > 0)
			return OUTCOME_TIME;
		return fail(run, "standard input ended before it was told to begin");
	}
}

static enum outcome warm_up(struct main_state *m)
{
	const struct options *o = m->run.options;
	enum outcome outcome = wait_drained(m);

	if (outcome == OUTCOME_FAILED)
		return outcome;
	if (o->warmup_count > 0) {
		publish(&m->run, PHASE_WARMUP, o->warmup_count);
		return wait_drained(m);
	}
	if (o->warmup_s > 0) {
		publish(&m->run, PHASE_WARMUP, TICKETS_ENDLESS);
		outcome = wait_until(m, now_ns() + (int64_t)(o->warmup_s * NS_PER_S), false);
		if (outcome != OUTCOME_FAILED)
			outcome = wait_ready(m);
		if (outcome != OUTCOME_FAILED && m->run.count > 0) {
			publish(&m->run, PHASE_PAUSE, 0);
			outcome = wait_drained(m);
		}
	}
	return outcome;
}

static enum outcome begin(struct main_state *m)
{
	struct run *run = &m->run;

	if (run->control.scripted)
		run->control.workload->rewind(run->control.shared);
	run->machine_begin = usage_of_machine();
	if (snapshots_take(m->snapshots))
		return fail(run, "a snapshot could not be read");
	run->begin_ns = now_ns();
	run->end_ns = run->begin_ns;
	publish(run, PHASE_MEASURE, run->count > 0 ? (int64_t)run->count : TICKETS_ENDLESS);
	if (snapshots_write(m->snapshots, "begin"))
		return fail(run, "a snapshot could not be written");
	if (report_event("measure_begin", "connections_ready", atomic_load(&run->control.ready)))
		return fail(run, "standard output is closed");
	return OUTCOME_TIME;
}

static uint64_t measured_transactions(const struct run *run)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < run->options->threads; i++)
		sum += run->loops[i]->measured.transactions;
	return sum;
}

static enum outcome measure(struct main_state *m)
{
	const struct options *o = m->run.options;
	const int64_t end = m->run.begin_ns + (int64_t)(o->duration_s * NS_PER_S);
	const int64_t every = o->progress_s * NS_PER_S;

	if (m->run.count > 0)
		return wait_drained(m);
	while (every > 0 && now_ns() + every < end) {
		enum outcome outcome = wait_until(m, now_ns() + every, false);

		if (outcome != OUTCOME_TIME)
			return outcome;
		/* Read while the threads count: it is for somebody who watches. */
		if (report_event("progress", "transactions", measured_transactions(&m->run)))
			return fail(&m->run, "standard output is closed");
	}
	return wait_until(m, end, false);
}

/*
 * An exact window ends with its last reply, not when main wakes up. The threads
 * are parked: what they wrote before they said so can be read.
 */
static int64_t last_completion(const struct run *run)
{
	int64_t last = run->begin_ns;

	for (uint64_t i = 0; i < run->options->threads; i++)
		if (run->loops[i]->last_completion_ns > last)
			last = run->loops[i]->last_completion_ns;
	return last;
}

static enum outcome end(struct main_state *m)
{
	struct run *run = &m->run;

	/* Before anything that takes time: flows are still running if timed. */
	int bad = snapshots_take(m->snapshots);

	run->end_ns = run->count > 0 ? last_completion(run) : now_ns();
	publish(run, PHASE_FINISH, 0);
	run->machine_end = usage_of_machine();
	if (bad)
		return fail(run, "a snapshot could not be read");
	if (snapshots_write(m->snapshots, "end"))
		return fail(run, "a snapshot could not be written");
	if (report_event("measure_end", "elapsed_ns", run->end_ns - run->begin_ns))
		return fail(run, "standard output is closed");
	return OUTCOME_TIME;
}

static void finish(struct main_state *m, enum outcome outcome)
{
	struct run *run = &m->run;

	if (outcome == OUTCOME_FAILED) {
		if (run->begin_ns && run->end_ns == run->begin_ns) {
			run->end_ns = now_ns();
			run->machine_end = usage_of_machine();
		}
		publish(run, PHASE_ABORT, 0);
	}
	for (uint64_t i = 0; i < run->options->threads; i++)
		loop_join(run->loops[i]);
}

int main(int argc, char **argv)
{
	static struct options options;
	static struct main_state m;
	enum outcome outcome = OUTCOME_TIME;

	options_parse(&options, argc, argv);
	set_up(&m, &options);

	if (options.wait)
		outcome = wait_for_go(&m);
	if (outcome != OUTCOME_FAILED)
		outcome = warm_up(&m);
	if (outcome != OUTCOME_FAILED)
		outcome = begin(&m);
	if (outcome != OUTCOME_FAILED)
		outcome = measure(&m);
	if (outcome != OUTCOME_FAILED)
		outcome = end(&m);
	finish(&m, outcome);
	if (outcome != OUTCOME_FAILED && !measured_transactions(&m.run))
		outcome = fail(&m.run, "no transaction was completed in the measured window");
	if (report_result(&m.run) && outcome != OUTCOME_FAILED)
		outcome = fail(&m.run, "standard output is closed");
	snapshots_close(m.snapshots);
	if (outcome == OUTCOME_FAILED)
		die("%s", m.run.failure);
	return 0;
}
