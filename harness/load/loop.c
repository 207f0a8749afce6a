// SPDX-License-Identifier: MIT
/*
 * One epoll instance per thread. Between two waits a thread follows main's phase,
 * handles what is ready, and now and then looks for what is overdue.
 */
#include "loop.h"
#include "content.h"
#include "flow.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BATCH		128		/* events per wait: bounds how late a phase is seen */
#define TICK_MS		10		/* granularity of timeouts and retries */
#define IDLE_MS		100		/* wait if there is nothing to retry */
#define RETRY_NS	(20 * NS_PER_MS)

const char *const error_names[ERROR_KINDS] = {
	[ERROR_CONNECT] = "connect",
	[ERROR_RESET] = "reset",
	[ERROR_TIMEOUT] = "timeout",
	[ERROR_SHORT] = "short",
	[ERROR_CONTENT] = "content",
	[ERROR_REFUSED] = "refused",
	[ERROR_OTHER] = "other",
};

static void signal_eventfd(int fd)
{
	const uint64_t one = 1;

	/* It can only fail when full, and then the reader is awake anyway. */
	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void control_notify(struct control *control)
{
	signal_eventfd(control->notify);
}

void control_publish(struct control *control, struct loop **loops, enum phase phase,
		     int64_t tickets)
{
	atomic_store(&control->drained, 0);
	atomic_store(&control->tickets, tickets);
	atomic_store(&control->phase, phase);
	for (uint64_t i = 0; i < control->options->threads; i++)
		signal_eventfd(loops[i]->wake);
}

static bool is_open(const struct loop *loop)
{
	return loop->control->options->rate > 0;
}

/* Starts are independent of each other: the times between them are exponential. */
static int64_t next_gap(struct loop *loop)
{
	const struct options *o = loop->control->options;
	const double mean_ns = NS_PER_S * o->threads / o->rate;
	double share;

	loop->dice += 0x9e3779b97f4a7c15ULL;
	share = ((mix(loop->dice) >> 11) + 1) * 0x1p-53;
	return -log(share) * mean_ns;
}

/* Whether an open loop may start one now: what was reported drained stays so. */
static bool is_due(const struct loop *loop, int64_t now)
{
	return loop->paced && !loop->reported && loop->next_start_ns <= now;
}

static void begin_schedule(struct loop *loop, int64_t now)
{
	loop->paced = true;
	loop->next_start_ns = now + next_gap(loop);
}

void loop_count_ready(struct loop *loop, int64_t now)
{
	atomic_fetch_add(&loop->control->ready, 1);
	if (++loop->nr_ready == loop->nr_flows && is_open(loop) && !loop->paced)
		begin_schedule(loop, now);
}

static bool take_ticket(atomic_int_fast64_t *tickets)
{
	int64_t left = atomic_load_explicit(tickets, memory_order_relaxed);

	/* Never below zero, so that a returned ticket is worth one. */
	while (left > 0 && left != TICKETS_ENDLESS)
		if (atomic_compare_exchange_weak(tickets, &left, left - 1))
			return true;
	return left > 0;
}

bool loop_take_ticket(struct loop *loop, int64_t now, bool first, int64_t *start_ns)
{
	const bool unpaced = !is_open(loop) || (!loop->paced && first);

	if (!unpaced && !is_due(loop, now))
		return false;
	if (!take_ticket(&loop->control->tickets))
		return false;
	*start_ns = now;
	if (!unpaced) {
		*start_ns = loop->next_start_ns;
		loop->next_start_ns += next_gap(loop);
	}
	return true;
}

void loop_return_ticket(struct loop *loop)
{
	atomic_int_fast64_t *tickets = &loop->control->tickets;
	int64_t left = atomic_load(tickets);

	while (left != TICKETS_ENDLESS && loop->phase != PHASE_FINISH)
		if (atomic_compare_exchange_weak(tickets, &left, left + 1))
			return;
}

static void loop_resume_parked(struct loop *loop)
{
	struct list parked = loop->parked;

	if (list_empty(&loop->parked))
		return;
	/* On a list of their own: those that park again are not seen twice. */
	parked.next->prev = &parked;
	parked.prev->next = &parked;
	list_init(&loop->parked);
	while (!list_empty(&parked))
		flow_resume(flow_first(&parked));
}

static void loop_retry_failed(struct loop *loop, int64_t due)
{
	struct flow *flow;

	while ((flow = flow_first(&loop->retry)) && flow_since(flow) <= due)
		flow_resume(flow);
}

static void loop_expire_busy(struct loop *loop, int64_t now)
{
	const int64_t timeout = loop->control->options->timeout_s * NS_PER_S;
	struct flow *flow;

	while ((flow = flow_first(&loop->busy)) && flow_since(flow) + timeout <= now)
		flow_expire(flow);
}

/* Open loop: give what is due to flows that are free. */
static void loop_start_due(struct loop *loop, int64_t now)
{
	struct flow *flow;

	while (is_due(loop, now) && (flow = flow_first(&loop->parked))) {
		const int64_t due = loop->next_start_ns;

		flow_resume(flow);
		if (loop->next_start_ns == due)
			break;
	}
}

static void loop_enter_phase(struct loop *loop, enum phase phase, int64_t now)
{
	if (phase == PHASE_MEASURE) {
		loop->usage_begin = usage_of_thread();
	} else if (loop->phase == PHASE_MEASURE) {
		loop->usage_end = usage_of_thread();
		loop->behind_ns = now - loop->next_start_ns;
	}
	/* A pause is not time that was lost. */
	if (loop->phase == PHASE_PAUSE)
		loop->paced = false;
	if (is_open(loop) && !loop->paced &&
	    (phase == PHASE_MEASURE || loop->nr_ready == loop->nr_flows))
		begin_schedule(loop, now);
	loop->tally = phase == PHASE_MEASURE ? &loop->measured : &loop->outside;
	loop->phase = phase;
	loop->reported = false;
	if (phase == PHASE_ABORT)
		return;
	if (phase == PHASE_MEASURE && loop->control->scripted)
		flows_rewind(loop);
	loop_resume_parked(loop);
	if (phase == PHASE_FINISH)
		loop_retry_failed(loop, INT64_MAX);
}

/* Parked for good in this phase: only main can change that. */
static void loop_report_drained(struct loop *loop)
{
	struct control *control = loop->control;

	if (loop->reported || loop->nr_parked != loop->nr_flows)
		return;
	/* In an open loop flows are also parked between two starts. */
	if (atomic_load(&control->tickets) > 0 && !control->scripted)
		return;
	loop->reported = true;
	if (atomic_fetch_add(&control->drained, 1) + 1 == control->options->threads)
		control_notify(control);
}

static void clear_eventfd(int fd)
{
	uint64_t value;

	while (read(fd, &value, sizeof(value)) < 0 && errno == EINTR)
		;
}

/* How long it may sleep: until an open loop's next start, at most. */
static struct timespec patience(const struct loop *loop)
{
	int64_t wait = (list_empty(&loop->retry) ? IDLE_MS : TICK_MS) * NS_PER_MS;

	if (loop->paced && !loop->reported && !list_empty(&loop->parked) &&
	    atomic_load_explicit(&loop->control->tickets, memory_order_relaxed) > 0) {
		const int64_t due = loop->next_start_ns - now_ns();

		if (due < wait)
			wait = due > 0 ? due : 0;
	}
	return (struct timespec) { .tv_sec = wait / NS_PER_S, .tv_nsec = wait % NS_PER_S };
}

static void *loop_run(void *arg)
{
	struct loop *loop = arg;
	struct epoll_event events[BATCH];
	int64_t next_tick = 0;

	/* An open loop starts on time, not up to 50 us late. */
	prctl(PR_SET_TIMERSLACK, 1UL);
	loop_report_drained(loop);
	while (loop->nr_done < loop->nr_flows) {
		const struct timespec wait = patience(loop);
		int n = epoll_pwait2(loop->epoll, events, BATCH, &wait, NULL);
		enum phase phase = atomic_load(&loop->control->phase);
		int64_t now = now_ns();

		if (phase != loop->phase)
			loop_enter_phase(loop, phase, now);
		if (phase == PHASE_ABORT)
			break;
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr)
				flow_event(events[i].data.ptr, events[i].events);
			else
				clear_eventfd(loop->wake);
		}
		if (now >= next_tick) {
			loop_expire_busy(loop, now);
			loop_retry_failed(loop, now - RETRY_NS);
			next_tick = now + TICK_MS * NS_PER_MS;
		}
		if (is_open(loop) && phase != PHASE_PAUSE && phase != PHASE_FINISH)
			loop_start_due(loop, now_ns());
		loop_report_drained(loop);
	}
	return NULL;
}

int loop_start(struct loop *loop, struct control *control, unsigned int index,
	       unsigned int nr_flows)
{
	struct epoll_event event = { .events = EPOLLIN };
	int err;

	loop->control = control;
	loop->index = index;
	loop->nr_flows = nr_flows;
	loop->phase = PHASE_PAUSE;
	loop->dice = mix(control->options->seed + index);
	loop->tally = &loop->outside;
	list_init(&loop->busy);
	list_init(&loop->retry);
	list_init(&loop->parked);
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->epoll < 0 || loop->wake < 0 ||
	    epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->wake, &event) < 0)
		return -errno;
	err = flows_create(loop);
	if (err)
		return err;
	return -pthread_create(&loop->thread, NULL, loop_run, loop);
}

void loop_join(struct loop *loop)
{
	pthread_join(loop->thread, NULL);
	flows_destroy(loop);
	close(loop->epoll);
	close(loop->wake);
}
