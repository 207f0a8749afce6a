/* SPDX-License-Identifier: MIT */
/*
 * A thread's event loop, and what the threads share with main.
 *
 *	main                          each thread
 *	control_publish(phase) -----> wakes, enters the phase
 *	     <----- control.notify -- all its flows are parked ("drained")
 *
 * Main moves the phases; threads only follow. Whether a flow may start another
 * transaction is decided by tickets: endless in a timed phase, counted in an
 * exact one. In an open loop each thread has its share of the rate too, and times
 * when starts are due; a flow starts one when it is due, or late if none was free.
 * A thread's tallies are its own until it has ended.
 */
#ifndef LOAD_LOOP_H
#define LOAD_LOOP_H

#include "clock.h"
#include "evidence.h"
#include "histogram.h"
#include "list.h"
#include "options.h"
#include "workload.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

enum phase {
	PHASE_PAUSE,			/* let transactions end, start none */
	PHASE_WARMUP,
	PHASE_MEASURE,
	PHASE_FINISH,			/* as pause, then close and end */
	PHASE_ABORT,			/* end at once */
};

enum error_kind {
	ERROR_CONNECT,			/* could not open a connection */
	ERROR_RESET,			/* the connection was reset */
	ERROR_TIMEOUT,			/* no connection, or no reply, in time */
	ERROR_SHORT,			/* closed before the reply's end */
	ERROR_CONTENT,			/* a wrong byte, or too many */
	ERROR_REFUSED,			/* the server said no: a miss, a status */
	ERROR_OTHER,
	ERROR_KINDS,
};

extern const char *const error_names[ERROR_KINDS];

/* What happened in one window of time. */
struct tally {
	struct histogram latency;	/* start to the reply's last byte */
	struct histogram connect;	/* connect() to established */
	uint64_t transactions;
	uint64_t connections;
	uint64_t bytes;			/* received */
	uint64_t errors[ERROR_KINDS];
	uint64_t ports_exhausted;	/* part of ERROR_CONNECT */
	uint64_t server_closed_first;	/* after a complete reply */
};

#define TICKETS_ENDLESS	INT64_MAX

struct control {
	const struct options *options;
	const struct workload *workload;
	void *shared;			/* the workload's */
	bool scripted;			/* connections are laid down beforehand */
	struct sockaddr_storage address;
	socklen_t address_len;
	int notify;			/* eventfd: main, look again */
	atomic_int phase;
	atomic_int_fast64_t tickets;	/* transactions that may still start */
	atomic_uint drained;		/* threads parked in this phase */
	atomic_uint ready;		/* flows with a transaction behind them */
	atomic_bool established;	/* some connection, at some time */
	atomic_int unreachable;	/* errno: there is no server at all */
	atomic_int failure;		/* errno of the latest failure */
};

struct flow;

struct loop {
	struct control *control;
	unsigned int index;
	pthread_t thread;
	int epoll;
	int wake;			/* eventfd: the phase has changed */
	enum phase phase;		/* the one entered */
	bool reported;			/* drained, in this phase */
	unsigned int nr_flows, nr_parked, nr_done;
	unsigned int nr_ready;		/* with a transaction behind them */
	void *flows;
	struct list busy;		/* connecting or in a transaction; oldest first */
	struct list retry;		/* failed; oldest first */
	struct list parked;
	uint64_t last_connection;
	int64_t last_completion_ns;
	bool paced;			/* open loop: starts are scheduled by now */
	int64_t next_start_ns;		/* open loop: when the next is due */
	int64_t behind_ns;		/* open loop: the same, overdue at the window's end */
	uint64_t dice;			/* open loop: state of its random numbers */
	struct usage usage_begin, usage_end;	/* edges of the measured window */
	struct tally *tally;		/* one of the next two */
	struct tally measured;
	struct tally outside;
	unsigned char out[IO_BYTES];
	unsigned char in[IO_BYTES];
	unsigned char scratch[IO_BYTES];
};

/* 0 or -errno. Flows begin parked, in PHASE_PAUSE. */
int loop_start(struct loop *loop, struct control *control, unsigned int index,
	       unsigned int nr_flows);
void loop_join(struct loop *loop);

void control_publish(struct control *control, struct loop **loops, enum phase phase,
		     int64_t tickets);
void control_notify(struct control *control);

/*
 * For flows: the right to start one transaction, and giving it back unused. In an
 * open loop *start_ns is when it was due, otherwise now. A warm-up begins with one
 * of every flow that has none behind it (first), so that all are connected when the
 * schedule begins, and no backlog of connects is left in it.
 */
bool loop_take_ticket(struct loop *loop, int64_t now, bool first, int64_t *start_ns);
void loop_count_ready(struct loop *loop, int64_t now);
void loop_return_ticket(struct loop *loop);

#endif
