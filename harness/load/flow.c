// SPDX-License-Identifier: MIT
/*
 * The life of a connection: connect, request, reply, close. Sockets are watched
 * edge-triggered for everything from the start, so a transaction costs one send,
 * one recv and its share of an epoll_wait, and a connection one epoll_ctl.
 */
#include "flow.h"
#include "loop.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum flow_state {
	FLOW_CLOSED,			/* parked, no connection */
	FLOW_OPEN,			/* parked, connected */
	FLOW_CONNECTING,		/* holds a ticket */
	FLOW_BUSY,			/* holds a ticket */
	FLOW_RETRY,
	FLOW_DONE,
};

struct flow {
	struct list link;
	struct loop *loop;
	enum flow_state state;
	int fd;
	bool ready;			/* counted in control.ready */
	bool requested;			/* the whole request is sent */
	size_t sent, received;		/* bytes of this transaction */
	int64_t since_ns;		/* when it entered its state */
	int64_t start_ns;		/* of the transaction: begun, or due in an open loop */
	uint64_t limit;			/* transactions of this connection; 0 = endless */
	bool scripted;			/* has a script; its connection may have failed */
	struct exchange x;
};

#define HANGUP	(EPOLLRDHUP | EPOLLHUP | EPOLLERR)

static size_t flow_stride(const struct loop *loop)
{
	const size_t align = _Alignof(max_align_t);

	return (sizeof(struct flow) + loop->control->workload->state_size + align - 1) /
	       align * align;
}

static struct flow *flow_at(const struct loop *loop, unsigned int i)
{
	return (struct flow *)((char *)loop->flows + i * flow_stride(loop));
}

/*
 * If all first connections were of full length, all flows would reconnect at the
 * same time, and a short window would see too many connections or too few. A
 * warm-up takes that away: the flows begin it evenly spread over a connection.
 */
static uint64_t first_limit(const struct loop *loop, unsigned int i)
{
	const struct options *o = loop->control->options;
	const uint64_t flow = loop->index + i * o->threads;

	if (o->warmup_s == 0 && o->warmup_count == 0)
		return o->transactions;
	return o->transactions - (uint64_t)((double)o->transactions * flow / o->connections);
}

int flows_create(struct loop *loop)
{
	loop->flows = calloc(loop->nr_flows, flow_stride(loop));
	if (!loop->flows)
		return -ENOMEM;
	for (unsigned int i = 0; i < loop->nr_flows; i++) {
		struct flow *flow = flow_at(loop, i);

		flow->loop = loop;
		flow->state = FLOW_CLOSED;
		flow->fd = -1;
		flow->x.options = loop->control->options;
		flow->x.flow = loop->index + i * loop->control->options->threads;
		flow->x.state = flow + 1;
		flow->x.shared = loop->control->shared;
		flow->limit = first_limit(loop, i);
		list_add_tail(&flow->link, &loop->parked);
	}
	loop->nr_parked = loop->nr_flows;
	return 0;
}

void flows_destroy(struct loop *loop)
{
	for (unsigned int i = 0; i < loop->nr_flows; i++)
		if (flow_at(loop, i)->fd >= 0)
			close(flow_at(loop, i)->fd);
	free(loop->flows);
}

static void flow_close(struct flow *flow)
{
	if (flow->fd >= 0)
		close(flow->fd);
	flow->fd = -1;
}

void flows_rewind(struct loop *loop)
{
	for (unsigned int i = 0; i < loop->nr_flows; i++) {
		struct flow *flow = flow_at(loop, i);

		flow_close(flow);
		flow->state = FLOW_CLOSED;
		flow->scripted = false;
	}
}

struct flow *flow_first(const struct list *list)
{
	return list_empty(list) ? NULL : list_entry(list->next, struct flow, link);
}

int64_t flow_since(const struct flow *flow)
{
	return flow->since_ns;
}

static void flow_enter(struct flow *flow, enum flow_state state, struct list *list,
		       int64_t now)
{
	flow->state = state;
	flow->since_ns = now;
	list_move_tail(&flow->link, list);
}

static void flow_park(struct flow *flow)
{
	flow_enter(flow, flow->fd >= 0 ? FLOW_OPEN : FLOW_CLOSED, &flow->loop->parked, now_ns());
	flow->loop->nr_parked++;
}

static void flow_done(struct flow *flow)
{
	flow_close(flow);
	flow->state = FLOW_DONE;
	list_del(&flow->link);
	list_init(&flow->link);
	flow->loop->nr_done++;
}

static void flow_fail(struct flow *flow, enum error_kind kind, int error)
{
	struct loop *loop = flow->loop;

	loop->tally->errors[kind]++;
	if (error)
		atomic_store_explicit(&loop->control->failure, error, memory_order_relaxed);
	if (flow->state == FLOW_CONNECTING || flow->state == FLOW_BUSY)
		loop_return_ticket(loop);
	if (flow->state == FLOW_OPEN)
		loop->nr_parked--;
	flow_close(flow);
	/* The rest of its script is for the next connection. */
	if (flow->scripted) {
		flow->limit -= flow->x.transaction;
		flow->x.script_done += flow->x.transaction;
		flow->x.transaction = 0;
	}
	/* Not at once: a server that refuses must not be hammered. */
	flow_enter(flow, FLOW_RETRY, &loop->retry, now_ns());
}

static void flow_connect_failed(struct flow *flow, int error)
{
	struct control *control = flow->loop->control;

	switch (error) {
	case EADDRNOTAVAIL:
		flow->loop->tally->ports_exhausted++;
		break;
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ENETUNREACH:
		/* Nobody has ever been there: waiting will not help. */
		if (!atomic_load_explicit(&control->established, memory_order_relaxed) &&
		    !atomic_exchange(&control->unreachable, error))
			control_notify(control);
		break;
	}
	flow_fail(flow, ERROR_CONNECT, error);
}

static void flow_connect(struct flow *flow)
{
	struct loop *loop = flow->loop;
	const struct control *control = loop->control;
	const struct sockaddr *address = (const struct sockaddr *)&control->address;
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.ptr = flow,
	};
	const int on = 1;

	flow_enter(flow, FLOW_CONNECTING, &loop->busy, now_ns());
	flow->x.connection = (uint64_t)loop->index << 48 | ++loop->last_connection;
	flow->x.transaction = 0;
	memset(flow->x.state, 0, control->workload->state_size);

	flow->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (flow->fd < 0 ||
	    setsockopt(flow->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    (connect(flow->fd, address, control->address_len) < 0 && errno != EINPROGRESS &&
	     errno != EINTR) ||
	    epoll_ctl(loop->epoll, EPOLL_CTL_ADD, flow->fd, &event) < 0)
		flow_connect_failed(flow, errno);
}

static void flow_send(struct flow *flow)
{
	struct loop *loop = flow->loop;

	while (!flow->requested) {
		size_t len = loop->control->workload->request(&flow->x, flow->sent, loop->out,
							      IO_BYTES);
		ssize_t n = len ? send(flow->fd, loop->out, len, MSG_NOSIGNAL) : 0;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			flow_fail(flow, errno == ECONNRESET || errno == EPIPE ? ERROR_RESET :
				  ERROR_OTHER, errno);
			return;
		}
		flow->sent += n;
		flow->requested = (size_t)n == len && len < IO_BYTES;
	}
}

static void flow_begin_transaction(struct flow *flow, int64_t now)
{
	flow->sent = 0;
	flow->received = 0;
	flow->requested = false;
	if (flow->x.options->rate == 0)
		flow->start_ns = now;
	flow_enter(flow, FLOW_BUSY, &flow->loop->busy, now);
	flow_send(flow);
}

/* A flow without a connection has something to do, unless the trace is at its end. */
static bool flow_has_script(struct flow *flow)
{
	const struct control *control = flow->loop->control;

	if (!control->scripted || flow->scripted)
		return true;
	flow->limit = control->workload->open(&flow->x, flow->loop->phase != PHASE_MEASURE);
	flow->x.script_done = 0;
	flow->scripted = flow->limit > 0;
	return flow->scripted;
}

/* The flow is between two transactions. */
static void flow_next(struct flow *flow, int64_t now)
{
	if (flow->loop->phase == PHASE_FINISH)
		flow_done(flow);
	else if (flow->loop->phase == PHASE_PAUSE || !flow_has_script(flow) ||
		 !loop_take_ticket(flow->loop, now, !flow->ready, &flow->start_ns))
		flow_park(flow);
	else if (flow->fd < 0)
		flow_connect(flow);
	else
		flow_begin_transaction(flow, now);
}

void flow_resume(struct flow *flow)
{
	if (flow->state == FLOW_CLOSED || flow->state == FLOW_OPEN)
		flow->loop->nr_parked--;
	flow_next(flow, now_ns());
}

static void flow_completed(struct flow *flow, bool hangup)
{
	struct loop *loop = flow->loop;
	int64_t now = now_ns();

	histogram_record(&loop->tally->latency, now - flow->start_ns);
	loop->tally->transactions++;
	loop->last_completion_ns = now;
	if (!flow->ready) {
		flow->ready = true;
		loop_count_ready(loop, now);
	}
	if (++flow->x.transaction == flow->limit) {
		loop->tally->server_closed_first += hangup;
		flow->limit = flow->x.options->transactions;
		flow->scripted = false;
		flow_close(flow);
	}
	flow_next(flow, now);
}

/* True when a reply was completed, and there may be more to read. */
static bool flow_receive(struct flow *flow, bool hangup)
{
	struct loop *loop = flow->loop;

	for (;;) {
		ssize_t n = recv(flow->fd, loop->in, IO_BYTES, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0) {
			flow_fail(flow, errno == ECONNRESET ? ERROR_RESET : ERROR_OTHER, errno);
			return false;
		}
		if (n == 0) {
			flow_fail(flow, ERROR_SHORT, 0);
			return false;
		}
		loop->tally->bytes += n;
		switch (loop->control->workload->reply(&flow->x, flow->received, loop->in, n,
						       loop->scratch)) {
		case REPLY_COMPLETE:
			if (flow->requested) {
				flow_completed(flow, hangup);
				return true;
			}
			/* fall through - an answer to what was not yet asked */
		case REPLY_WRONG:
			flow_fail(flow, ERROR_CONTENT, 0);
			return false;
		case REPLY_REFUSED:
			flow_fail(flow, ERROR_REFUSED, 0);
			return false;
		case REPLY_INCOMPLETE:
			break;
		}
		flow->received += n;
		/*
		 * Edge-triggered: a short count means the socket is empty and
		 * will say when it no longer is, except for an end of file that
		 * was already announced together with these bytes.
		 */
		if (n < IO_BYTES && !hangup)
			return false;
	}
}

static void flow_established(struct flow *flow, uint32_t events)
{
	struct loop *loop = flow->loop;
	int error = 0;
	socklen_t len = sizeof(error);
	int64_t now = now_ns();

	if (events & (EPOLLERR | EPOLLHUP) &&
	    (getsockopt(flow->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error)) {
		flow_connect_failed(flow, error ? error : errno);
		return;
	}
	if (!atomic_load_explicit(&loop->control->established, memory_order_relaxed))
		atomic_store(&loop->control->established, true);
	loop->tally->connections++;
	histogram_record(&loop->tally->connect, now - flow->since_ns);
	flow_begin_transaction(flow, now);
}

/* Nothing is due on a parked connection: whatever comes is a fault. */
static void flow_disturbed(struct flow *flow)
{
	ssize_t n = recv(flow->fd, flow->loop->in, IO_BYTES, MSG_DONTWAIT);

	if (n > 0)
		flow_fail(flow, ERROR_CONTENT, 0);
	else if (n == 0)
		flow_fail(flow, ERROR_OTHER, 0);
	else if (errno != EAGAIN && errno != EINTR)
		flow_fail(flow, errno == ECONNRESET ? ERROR_RESET : ERROR_OTHER, errno);
}

void flow_event(struct flow *flow, uint32_t events)
{
	const bool hangup = events & HANGUP;

	switch (flow->state) {
	case FLOW_CONNECTING:
		flow_established(flow, events);
		if (flow->state != FLOW_BUSY || !hangup)
			break;
		/* fall through - the end of file was announced already */
	case FLOW_BUSY:
		if (events & EPOLLOUT && !flow->requested)
			flow_send(flow);
		if (!(events & EPOLLIN) && !hangup)
			break;
		while (flow->state == FLOW_BUSY && flow_receive(flow, hangup) && hangup)
			;
		break;
	case FLOW_OPEN:
		if (events & EPOLLIN || hangup)
			flow_disturbed(flow);
		break;
	case FLOW_CLOSED:
	case FLOW_RETRY:
	case FLOW_DONE:
		break;
	}
}

void flow_expire(struct flow *flow)
{
	flow_fail(flow, ERROR_TIMEOUT, ETIMEDOUT);
}
