/* -*- Mode: C; tab-width: 4; c-basic-offset: 4; indent-tabs-mode: nil -*- */
/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Worker threads that wait in MegaPipe channels.
 *
 * Every worker has a channel and is pinned to a CPU. It has its own partition
 * of each listening TCP socket and accepts its connections itself, as
 * lwsockets: nothing goes from thread to thread for a connection or a request.
 *
 * memcached's state machine is kept as it is. It calls c->read() when it wants
 * more and c->sendmsg() when it has answers, and expects EAGAIN for "not now".
 * Here that means "asked for": the function makes the request and says EAGAIN,
 * the machine stops, and when the completion comes it is driven again, asks the
 * same again, and is given the result:
 *
 *      drive_machine() -> c->sendmsg() : mp_writev(), EAGAIN
 *      MP_WRITE        -> drive_machine() -> io_sent(): the bytes written
 *
 * Where a connection waits for its next request it must not hold one of the
 * thread's read buffers (16 KB, and 10,000 connections may be waiting), but the
 * kernel needs a buffer to wait with. That is c->io.ahead, small and its own;
 * the bytes are copied to the read buffer as soon as there is a reason to have
 * one. It is handed out together with the write of an answer, so that an answer
 * and the wait for the next request take one system call, shared with those of
 * the thread's other connections.
 *
 * What completions do not fit is served by readiness: UDP, and the eventfd by
 * which side threads call.
 *
 * Here are the threads; io_megapipe_conn.c has the connections,
 * io_megapipe_accept.c how they come and how many there may be.
 */
#include "memcached.h"
#include "io_megapipe_thread.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define DUE_EVERY   64      /* completions between looks at the due ones */
#define RETRY_US    10000   /* as maxconns_handler() */

struct io_threads *io_threads;

/*
 * Threads
 */

static void prepare(void) {
    io_threads = calloc(1, sizeof(*io_threads) +
                        settings.num_threads * sizeof(*io_threads->thread));
    if (!io_threads) {
        perror("megapipe");
        exit(EXIT_FAILURE);
    }
    io_threads->at_once = settings.maxconns / (32 * settings.num_threads);
    if (io_threads->at_once < 1)
        io_threads->at_once = 1;
    if (io_threads->at_once > 64)
        io_threads->at_once = 64;
    if (sched_getaffinity(0, sizeof(io_threads->cpus), &io_threads->cpus)) {
        perror("sched_getaffinity");
        exit(EXIT_FAILURE);
    }
}

/* All connections may be one thread's; "waiting" ones have no number. */
static int megapipe_extra_conns(int first) {
    prepare();
    io_threads->first = first;
    io_threads->per_thread = settings.maxconns;
    return settings.num_threads * io_threads->per_thread;
}

static void megapipe_thread_setup(LIBEVENT_THREAD *me) {
    io_thread *t = calloc(1, sizeof(*t));
    int err = -ENOMEM;

    if (t) {
        t->slots = calloc(io_threads->per_thread, sizeof(*t->slots));
        err = t->slots ? mp_create(&t->channel) : -ENOMEM;
    }
    if (!err && settings.megapipe_batch)
        err = mp_set_batch(t->channel, settings.megapipe_batch);
    if (!err)
        err = mp_register(t->channel, me->notify_event_fd, t, NULL, &t->notify);
    if (!err)
        err = mp_poll(t->notify, EPOLLIN);
    if (err) {
        char why[MP_EXPLAIN_SIZE];

        fprintf(stderr, "megapipe: %s\n", mp_explain(err, why, sizeof(why)));
        exit(EXIT_FAILURE);
    }
    t->me = me;
    me->io = t;
    t->due_end = &t->due;
    t->waiting_end = &t->waiting;
    t->index = io_threads->threads;
    io_threads->thread[io_threads->threads++] = t;
    for (int i = io_threads->per_thread; i > 0; i--)
        give_slot_back(t, io_threads->first +
                       t->index * io_threads->per_thread + i - 1);
}

static void pin(const io_thread *t) {
    int n = t->index % CPU_COUNT(&io_threads->cpus);
    cpu_set_t mask;

    CPU_ZERO(&mask);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &io_threads->cpus) && n-- == 0) {
            CPU_SET(cpu, &mask);
            break;
        }
    }
    if (pthread_setaffinity_np(pthread_self(), sizeof(mask), &mask))
        fprintf(stderr, "megapipe: cannot pin worker %d to its CPU\n", t->index);
}

static void completed(io_thread *t, const struct mp_event *ev) {
    if (ev->cmd == MP_ACCEPT) {
        io_megapipe_accepted(t, ev->cookie, ev);
    } else if (ev->cookie == t) {
        thread_libevent_process(t->me->notify_event_fd, EV_READ, t->me);
        mp_poll(t->notify, EPOLLIN);
    } else {
        io_megapipe_completed(ev->cookie, ev);
    }
}

static void megapipe_thread_run(LIBEVENT_THREAD *me) {
    io_thread *t = me->io;
    struct mp_event ev;
    int since_due = 0;

    pin(t);
    while (!t->stop) {
        int got = mp_dispatch(t->channel, &ev,
                              t->due ? 0 : t->full ? RETRY_US : -1);

        if (got == 1) {
            completed(t, &ev);
            if (++since_due < DUE_EVERY)
                continue;
        } else if (got < 0 && got != -EINTR) {
            fprintf(stderr, "mp_dispatch: %s\n", strerror(-got));
            exit(EXIT_FAILURE);
        }
        since_due = 0;
        if (t->due)
            io_megapipe_go_on_with_due(t);
        if (t->full)
            io_megapipe_retry(t);
    }
}

static void megapipe_thread_stop(LIBEVENT_THREAD *me) {
    io_thread *t = me->io;

    t->stop = true;
}

static void megapipe_thread_free(LIBEVENT_THREAD *me) {
    io_thread *t = me->io;

    mp_destroy(t->channel);
}

/*
 * Counters
 */

static void megapipe_stats(ADD_STAT add_stats, conn *c) {
    struct mp_stats sum = { 0 }, one;

    for (int i = 0; i < io_threads->threads; i++) {
        if (mp_stats(io_threads->thread[i]->channel, &one))
            continue;
        sum.dispatches += one.dispatches;
        sum.commands += one.commands;
        sum.events += one.events;
        sum.sleeps += one.sleeps;
        sum.accepts += one.accepts;
        sum.accepts_foreign += one.accepts_foreign;
        sum.lwsockets += one.lwsockets;
    }
    APPEND_STAT("io_engine", "%s", io_engine->name);
#define X(name) APPEND_STAT("megapipe_" #name, "%llu", (unsigned long long)sum.name)
    X(dispatches)
    X(commands)
    X(events)
    X(sleeps)
    X(accepts)
    X(accepts_foreign)
    X(lwsockets)
#undef X
}

const struct io_engine io_megapipe = {
    .name = "megapipe",
    .thread_setup = megapipe_thread_setup,
    .thread_run = megapipe_thread_run,
    .thread_stop = megapipe_thread_stop,
    .thread_free = megapipe_thread_free,
    .conn_add = io_megapipe_conn_add,
    .conn_update = io_megapipe_conn_update,
    .conn_lend = io_megapipe_conn_lend,
    .conn_remove = io_megapipe_conn_remove,
    .conn_return = io_megapipe_conn_return,
    .conn_end = io_megapipe_conn_end,
    .conn_close = io_megapipe_conn_close,
    .conn_opened = io_megapipe_conn_opened,
    .conn_closed = io_megapipe_conn_closed,
    .curr_conns = io_megapipe_curr_conns,
    .peer_address = io_megapipe_peer_address,
    .address = io_megapipe_address,
    .extra_conns = megapipe_extra_conns,
    .stats = megapipe_stats,
};

/*
 * Choosing
 */

static const char *refusal(void) {
    static char why[MP_EXPLAIN_SIZE];
    struct mp_channel *channel;
    int err;

#ifdef TLS
    if (settings.ssl_enabled)
        return "TLS (-Z) is served by libevent only";
#endif
#ifdef PROXY
    if (settings.proxy_enabled)
        return "the proxy is served by libevent only";
#endif
    if (settings.num_napi_ids)
        return "-N (--napi_ids) chooses the thread by network card queue, which partitions do already";
    if (settings.drop_privileges)
        return "drop_privileges does not know MegaPipe's system calls";
    err = mp_create(&channel);
    if (err)
        return mp_explain(err, why, sizeof(why));
    mp_destroy(channel);
    return NULL;
}

bool io_megapipe_choose(void) {
    const char *why = NULL;

    if (settings.io_engine != IO_LIBEVENT) {
        why = refusal();
        if (!why) {
            io_engine = &io_megapipe;
        } else if (settings.io_engine == IO_MEGAPIPE) {
            fprintf(stderr, "io_engine=megapipe: %s\n", why);
            return false;
        }
    }
    if (settings.verbose > 0)
        fprintf(stderr, "io_engine: %s%s%s\n", io_engine->name,
                why ? ", because: " : "", why ? why : "");
    return true;
}
