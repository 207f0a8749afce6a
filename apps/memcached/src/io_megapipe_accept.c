/* -*- Mode: C; tab-width: 4; c-basic-offset: 4; indent-tabs-mode: nil -*- */
/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How connections come to the workers that wait in MegaPipe channels: each
 * accepts its own, from its partition of the listening sockets, and all of them
 * no more than -c says.
 */
#include "memcached.h"
#include "io_megapipe_thread.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A listening socket in one channel. It is the cookie of its accepts. */
typedef struct listener {
    struct listener *next;
    conn *c;
    mp_handle handle;
    bool accepting;
} listener;

/* An accepted connection that has to wait until another one is closed. */
typedef struct waiting {
    struct waiting *next;
    listener *l;
    int socket;
    bool is_lwsocket;
} waiting;

/*
 * How many connections
 */

/* What descriptors that are none of connections leave of -c. */
static void count_allowed(void) {
    int lowest = dup(STDERR_FILENO);
    int left = settings.maxconns - 1 - lowest;

    if (lowest >= 0)
        close(lowest);
    atomic_fetch_add(&io_threads->left, left > 1 ? left : 1);
}

static bool take_one(atomic_int *from) {
    int there = atomic_load(from);

    while (there > 0)
        if (atomic_compare_exchange_weak(from, &there, there - 1))
            return true;
    return false;
}

static bool may_open(io_thread *t) {
    static pthread_once_t counted = PTHREAD_ONCE_INIT;
    int left, take;

    if (take_one(&t->allowance))
        return true;
    pthread_once(&counted, count_allowed);
    left = atomic_load(&io_threads->left);
    while (left > 0) {
        take = left < io_threads->at_once ? left : io_threads->at_once;
        if (atomic_compare_exchange_weak(&io_threads->left, &left,
                                         left - take)) {
            atomic_fetch_add(&t->allowance, take - 1);
            return true;
        }
    }
    for (int i = 0; i < io_threads->threads; i++)
        if (take_one(&io_threads->thread[i]->allowance))
            return true;
    return false;
}

void io_megapipe_one_less(io_thread *t) {
    int there = atomic_fetch_add(&t->allowance, 1) + 1;
    int keep = io_threads->at_once;

    if (atomic_load_explicit(&io_threads->full_threads, memory_order_relaxed))
        keep = 0;
    else if (there <= 2 * keep)
        return;
    if (atomic_compare_exchange_strong(&t->allowance, &there, keep))
        atomic_fetch_add(&io_threads->left, there - keep);
}

/*
 * When there are too many
 */

/* Stop accepting; the thread tries again every RETRY_US. */
static void set_full(io_thread *t) {
    if (t->full)
        return;
    t->full = true;
    for (listener *l = t->listeners; l; l = l->next)
        if (l->accepting)
            mp_cancel(l->handle);
    if (atomic_fetch_add(&io_threads->full_threads, 1) == 0) {
        STATS_LOCK();
        stats_state.accepting_conns = false;
        gettimeofday(&stats.maxconns_entered, NULL);
        stats.listen_disabled_num++;
        STATS_UNLOCK();
    }
}

static void set_not_full(io_thread *t) {
    struct timeval now;

    t->full = false;
    if (atomic_fetch_sub(&io_threads->full_threads, 1) == 1) {
        gettimeofday(&now, NULL);
        STATS_LOCK();
        stats.time_in_listen_disabled_us +=
            (now.tv_sec - stats.maxconns_entered.tv_sec) * 1000000
            + (now.tv_usec - stats.maxconns_entered.tv_usec);
        stats_state.accepting_conns = true;
        STATS_UNLOCK();
    }
}

/*
 * Accepting
 */

static void close_socket(io_thread *t, int socket, bool is_lwsocket) {
    if (is_lwsocket)
        mp_close((mp_handle) { t->channel, socket });
    else
        close(socket);
}

static void start(io_thread *t, listener *l, int socket, bool is_lwsocket) {
    int sfd = socket;
    conn *c;

    if (is_lwsocket) {
        sfd = t->slots[--t->nr_slots];
        t->starting = (mp_handle) { t->channel, socket };
    }
    c = conn_new(sfd, conn_new_cmd, EV_READ | EV_PERSIST, READ_BUFFER_CACHED,
                 l->c->transport, t->me, NULL, l->c->tag, l->c->protocol);
    if (c == NULL) {
        if (is_lwsocket)
            give_slot_back(t, sfd);
        close_socket(t, socket, is_lwsocket);
        io_megapipe_one_less(t);
        return;
    }
    conn_io_queue_setup(c);
    conn_set_state(c, conn_read);
    io_megapipe_settle(c);
}

static void refuse(io_thread *t, int socket, bool is_lwsocket) {
    static const char text[] = "ERROR Too many open connections\r\n";

    STATS_LOCK();
    stats.rejected_conns++;
    STATS_UNLOCK();
    /* It is written when the close comes: an empty socket has that much room. */
    if (is_lwsocket)
        mp_write((mp_handle) { t->channel, socket }, text, sizeof(text) - 1);
    else if (write(socket, text, sizeof(text) - 1) < 0 && settings.verbose > 0)
        perror("write()");
    close_socket(t, socket, is_lwsocket);
}

static void keep_waiting(io_thread *t, listener *l, int socket,
                         bool is_lwsocket) {
    waiting *w = malloc(sizeof(*w));

    if (w == NULL) {
        close_socket(t, socket, is_lwsocket);
        return;
    }
    *w = (waiting) { .l = l, .socket = socket, .is_lwsocket = is_lwsocket };
    *t->waiting_end = w;
    t->waiting_end = &w->next;
}

static void accept_more(io_thread *t, listener *l) {
    l->accepting = !mp_accept(l->handle, MP_FOREVER, settings.megapipe_lwsocket);
    if (!l->accepting)
        set_full(t);
}

void io_megapipe_accepted(io_thread *t, listener *l,
                          const struct mp_event *ev) {
    bool is_lwsocket = settings.megapipe_lwsocket && !(ev->flags & MP_IS_FD);

    if (!(ev->flags & MP_MORE))
        l->accepting = false;
    if (ev->result == -ECANCELED) {
        if (!t->full)
            accept_more(t, l);
    } else if (ev->result < 0) {
        if (settings.verbose > 0)
            fprintf(stderr, "accept: %s\n", strerror(-ev->result));
        set_full(t);
    } else if (may_open(t)) {
        start(t, l, ev->result, is_lwsocket);
    } else if (settings.maxconns_fast) {
        refuse(t, ev->result, is_lwsocket);
    } else {
        keep_waiting(t, l, ev->result, is_lwsocket);
        set_full(t);
    }
}

/* Full a while ago: still? */
void io_megapipe_retry(io_thread *t) {
    waiting *w;

    while ((w = t->waiting) && may_open(t)) {
        t->waiting = w->next;
        if (!t->waiting)
            t->waiting_end = &t->waiting;
        start(t, w->l, w->socket, w->is_lwsocket);
        free(w);
    }
    if (t->waiting || !may_open(t))
        return;
    io_megapipe_one_less(t);
    set_not_full(t);
    for (listener *l = t->listeners; l; l = l->next)
        if (!l->accepting)
            accept_more(t, l);
}

/* The CPUs whose connections the thread accepts: its own, and its share of
 * those that no thread has. */
static void partition_of(const io_thread *t, cpu_set_t *mask) {
    long nr_cpus = sysconf(_SC_NPROCESSORS_CONF);
    int nr = CPU_COUNT(&io_threads->cpus), n = 0;

    CPU_ZERO(mask);
    for (int cpu = 0; cpu < nr_cpus && cpu < CPU_SETSIZE; cpu++) {
        bool has_cpu = CPU_ISSET(cpu, &io_threads->cpus);
        bool has_thread = has_cpu && n < io_threads->threads;

        if (has_thread ? t->index % nr == n :
                         cpu % io_threads->threads == t->index)
            CPU_SET(cpu, mask);
        if (has_cpu)
            n++;
    }
}

void io_megapipe_listen(LIBEVENT_THREAD *me, conn *c) {
    io_thread *t = me->io;
    listener *l = calloc(1, sizeof(*l));
    cpu_set_t mask;
    int err = -ENOMEM;

    if (l) {
        partition_of(t, &mask);
        err = mp_register(t->channel, c->sfd, l,
                          settings.megapipe_partition && IS_TCP(c->transport) ?
                          &mask : NULL, &l->handle);
    }
    if (err) {
        fprintf(stderr, "megapipe: cannot accept connections: %s\n",
                strerror(-err));
        exit(EXIT_FAILURE);
    }
    l->c = c;
    l->next = t->listeners;
    t->listeners = l;
    accept_more(t, l);
}
