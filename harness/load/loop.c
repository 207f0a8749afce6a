// SPDX-License-Identifier: MIT
/*
 * One epoll instance per thread. Between two waits a thread follows main's phase,
 * handles what is ready, and now and then looks for what is overdue.
 */
#include "loop.h"
#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
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

bool loop_take_ticket(struct loop *loop)
{
	atomic_int_fast64_t *tickets = &loop->control->tickets;
	int64_t left = atomic_load_explicit(tickets, memory_order_relaxed);

	/* Never below zero, so that a returned ticket is worth one. */
	while (left > 0 && left != TICKETS_ENDLESS)
		if (atomic_compare_exchange_weak(tickets, &left, left - 1))
			return true;
	return left > 0;
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

static void loop_enter_phase(struct loop *loop, enum phase phase)
{
	if (phase == PHASE_MEASURE)
		loop->usage_begin = usage_of_thread();
	else if (loop->phase == PHASE_MEASURE)
		loop->usage_end = usage_of_thread();
	loop->tally = phase == PHASE_MEASURE ? &loop->measured : &loop->outside;
	loop->phase = phase;
	loop->reported = false;
	if (phase == PHASE_ABORT)
		return;
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

static void *loop_run(void *arg)
{
	struct loop *loop = arg;
	struct epoll_event events[BATCH];
	int64_t next_tick = 0;

	loop_report_drained(loop);
	while (loop->nr_done < loop->nr_flows) {
		int n = epoll_wait(loop->epoll, events, BATCH,
				   list_empty(&loop->retry) ? IDLE_MS : TICK_MS);
		enum phase phase = atomic_load(&loop->control->phase);
		int64_t now = now_ns();

		if (phase != loop->phase)
			loop_enter_phase(loop, phase);
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
