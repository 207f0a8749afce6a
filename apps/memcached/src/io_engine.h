/* -*- Mode: C; tab-width: 4; c-basic-offset: 4; indent-tabs-mode: nil -*- */
/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef IO_ENGINE_H
#define IO_ENGINE_H
/*
 * How worker threads wait and connections reach the network: a table of
 * functions for each way to do it. io_libevent.c does what memcached always
 * did, io_megapipe.c is the other way; the rest of memcached names neither.
 *
 * Included at the end of memcached.h.
 */

struct io_engine {
    const char *name;

    /* A worker thread, in this order. setup runs in the main thread and exits
     * on failure; stop runs in the worker and ends run. */
    void (*thread_setup)(LIBEVENT_THREAD *me);
    void (*thread_run)(LIBEVENT_THREAD *me);
    void (*thread_stop)(LIBEVENT_THREAD *me);
    void (*thread_free)(LIBEVENT_THREAD *me);

    /* A connection, a listening one too, begins to wait for c->ev_flags. */
    bool (*conn_add)(conn *c);
    /* It waits for something else from now on. */
    bool (*conn_update)(conn *c, const int new_flags);
    /* A side thread is about to be given the descriptor, c->sfd. False: no. */
    bool (*conn_lend)(conn *c);
    /* It waits for nothing: a side thread works for it, or on the descriptor. */
    void (*conn_remove)(conn *c);
    /* It is back from a side thread. */
    bool (*conn_return)(conn *c);
    /* It ends: first what is under way, later the socket. */
    void (*conn_end)(conn *c);
    void (*conn_close)(conn *c);

    /* It counts, or no longer; those that are not in stats_state.curr_conns. */
    void (*conn_opened)(conn *c);
    void (*conn_closed)(conn *c);
    uint64_t (*curr_conns)(void);

    /* Fill in c->request_addr. An engine may leave request_addr_size 0 and be
     * asked again when the address is needed. */
    void (*peer_address)(conn *c);
    /* As getpeername() and getsockname(), for a connection of any thread. */
    int (*address)(const conn *c, bool peer, struct sockaddr *addr,
                   socklen_t *len);

    /* Connections without a descriptor are numbered from "first" on, behind
     * all descriptors; how many numbers that takes. */
    int (*extra_conns)(int first);

    /* The lines of "stats io_engine". */
    void (*stats)(ADD_STAT add_stats, conn *c);
};

extern const struct io_engine io_libevent;
extern const struct io_engine *io_engine; /* the one in use */

/* What the engines need of memcached.c and thread.c. */
void event_handler(const evutil_socket_t fd, const short which, void *arg);
void drive_machine(conn *c);
void allow_conns(void);
struct event_base *main_event_base(void);
void thread_libevent_process(evutil_socket_t fd, short which, void *arg);

#ifdef MEGAPIPE
extern const struct io_engine io_megapipe;

/* Set io_engine as the settings say. False: it cannot be, which was said. */
bool io_megapipe_choose(void);

/* In a worker thread: accept connections of this listener. */
void io_megapipe_listen(LIBEVENT_THREAD *me, conn *c);

/* A sendmsg() that had to wait is done: what it would have returned. */
static inline bool io_sent(conn *c, ssize_t *res) {
    if (!c->io.has_written)
        return false;
    c->io.has_written = false;
    *res = c->io.written;
    if (*res < 0) {
        errno = -*res;
        *res = -1;
    }
    return true;
}

/* The connection has had its share of requests, and stops before it is told to
 * yield, for the answers have to wait. */
static inline void io_yield(conn *c, int nreqs) {
    if (nreqs >= 0 || !c->io.writing)
        return;
    pthread_mutex_lock(&c->thread->stats.mutex);
    c->thread->stats.conn_yields++;
    pthread_mutex_unlock(&c->thread->stats.mutex);
}
#else
#define io_sent(c, res) (false)
#define io_yield(c, nreqs) ((void)(nreqs))
#endif

#endif
