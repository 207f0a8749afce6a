/* SPDX-License-Identifier: MIT */
/*
 * A flow is one place in the loop: it holds at most one connection, has at
 * most one transaction in flight, and starts the next as soon as it may.
 *
 *	        take ticket             established
 *	CLOSED ------------> CONNECTING ------------> BUSY --+ reply complete,
 *	  ^  ^                   |                    ^  |   | next ticket
 *	  |  | last transaction  | failed      ticket |  +---+
 *	  |  +-------------------|-------------- OPEN +--- no ticket (parked)
 *	  | a while later        v
 *	  +------------------- RETRY  <--- any failure
 */
#ifndef LOAD_FLOW_H
#define LOAD_FLOW_H

#include <stdint.h>

struct flow;
struct list;
struct loop;

/* Make the loop's flows, all closed and parked. 0 or -errno. */
int flows_create(struct loop *loop);

/* Close whatever is open, and free. */
void flows_destroy(struct loop *loop);

/* The oldest of a list, or NULL; and when it entered its state. */
struct flow *flow_first(const struct list *list);
int64_t flow_since(const struct flow *flow);

/* All are parked: close what is open, and give up what scripts they had begun. */
void flows_rewind(struct loop *loop);

/* A parked flow, or one whose time to retry has come: go on if it may. */
void flow_resume(struct flow *flow);

void flow_event(struct flow *flow, uint32_t events);

/* It connects or waits for its reply for too long. */
void flow_expire(struct flow *flow);

#endif
