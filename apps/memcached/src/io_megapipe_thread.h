/* -*- Mode: C; tab-width: 4; c-basic-offset: 4; indent-tabs-mode: nil -*- */
/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef IO_MEGAPIPE_THREAD_H
#define IO_MEGAPIPE_THREAD_H
/*
 * What io_megapipe.c, _conn.c and _accept.c share: the worker threads. Included
 * after memcached.h.
 */
#include <sched.h>
#include <stdatomic.h>

typedef struct io_thread io_thread;

struct io_thread {
    LIBEVENT_THREAD *me;
    struct mp_channel *channel;
    mp_handle notify;
    int index;
    bool stop;
    bool full;              /* no more connections for now */
    bool has_closed;        /* the connection that go_on() drives */
    struct listener *listeners;
    struct waiting *waiting, **waiting_end;
    struct conn *due, **due_end;    /* something to do, nothing to wait for */
    int nr_due;
    int *slots;             /* numbers for lwsockets that are free: a stack */
    int nr_slots;
    atomic_int allowance;   /* connections that it may open at once */
    mp_handle starting;     /* the lwsocket that conn_new() is called for */
    struct copy *copies;    /* that are free, the last one used first */
    int nr_copies;
    atomic_ullong curr_conns;
};

/*
 * How many connections there may be, as with descriptors: what -c leaves. The
 * threads take from it some at a time, so that opening and closing need not
 * touch what is shared; when there are none left, they take what others have
 * set aside: who is refused is refused because there are too many.
 */
struct io_threads {
    _Alignas(64) atomic_int left;
    _Alignas(64) atomic_int full_threads;
    int at_once;
    int first;              /* number of the first lwsocket */
    int per_thread;
    int threads;
    cpu_set_t cpus;
    io_thread *thread[];
};

extern struct io_threads *io_threads;

static inline void give_slot_back(io_thread *t, int sfd) {
    t->slots[t->nr_slots++] = sfd;
}

/* io_megapipe_conn.c: something of it has completed */
void io_megapipe_completed(conn *c, const struct mp_event *ev);
/* The machine has stopped: see that something will start it again. */
void io_megapipe_settle(conn *c);
/* Those that have something to do, but nothing to wait for. */
void io_megapipe_go_on_with_due(io_thread *t);

/* The same file: of the table of io_engine.h */
bool io_megapipe_conn_add(conn *c);
bool io_megapipe_conn_update(conn *c, const int new_flags);
bool io_megapipe_conn_lend(conn *c);
void io_megapipe_conn_remove(conn *c);
bool io_megapipe_conn_return(conn *c);
void io_megapipe_conn_end(conn *c);
void io_megapipe_conn_close(conn *c);
void io_megapipe_conn_opened(conn *c);
void io_megapipe_conn_closed(conn *c);
uint64_t io_megapipe_curr_conns(void);
void io_megapipe_peer_address(conn *c);
int io_megapipe_address(const conn *c, bool peer, struct sockaddr *addr,
                        socklen_t *len);

/* io_megapipe_accept.c: an accept of this listener has completed */
struct listener;
void io_megapipe_accepted(io_thread *t, struct listener *l,
                          const struct mp_event *ev);
/* The thread was full a while ago: still? */
void io_megapipe_retry(io_thread *t);
/* A connection of its is no more. */
void io_megapipe_one_less(io_thread *t);

#endif
