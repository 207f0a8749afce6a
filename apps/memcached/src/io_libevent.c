/* -*- Mode: C; tab-width: 4; c-basic-offset: 4; indent-tabs-mode: nil -*- */
/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Worker threads that wait in libevent: what memcached did before there was a
 * choice. The main thread accepts connections and hands them to the workers.
 */
#include "memcached.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void libevent_thread_setup(LIBEVENT_THREAD *me) {
#if defined(LIBEVENT_VERSION_NUMBER) && LIBEVENT_VERSION_NUMBER >= 0x02000101
    struct event_config *ev_config;
    ev_config = event_config_new();
    event_config_set_flag(ev_config, EVENT_BASE_FLAG_NOLOCK);
    me->base = event_base_new_with_config(ev_config);
    event_config_free(ev_config);
#else
    me->base = event_init();
#endif

    if (! me->base) {
        fprintf(stderr, "Can't allocate event base\n");
        exit(1);
    }

    /* Listen for notifications from other threads */
#ifdef HAVE_EVENTFD
    event_set(&me->notify_event, me->notify_event_fd,
              EV_READ | EV_PERSIST, thread_libevent_process, me);
#else
    event_set(&me->notify_event, me->notify_receive_fd,
              EV_READ | EV_PERSIST, thread_libevent_process, me);
#endif
    event_base_set(me->base, &me->notify_event);

    if (event_add(&me->notify_event, 0) == -1) {
        fprintf(stderr, "Can't monitor libevent notify pipe\n");
        exit(1);
    }
}

static void libevent_thread_run(LIBEVENT_THREAD *me) {
    event_base_loop(me->base, 0);
}

static void libevent_thread_stop(LIBEVENT_THREAD *me) {
    event_base_loopexit(me->base, NULL);
}

static void libevent_thread_free(LIBEVENT_THREAD *me) {
    event_base_free(me->base);
}

/* Listening connections have no thread: they are the main thread's. */
static bool libevent_conn_add(conn *c) {
    event_set(&c->event, c->sfd, c->ev_flags, event_handler, (void *)c);
    event_base_set(c->thread ? c->thread->base : main_event_base(), &c->event);

    if (event_add(&c->event, 0) == -1) {
        perror("event_add");
        return false;
    }
    return true;
}

static bool libevent_conn_update(conn *c, const int new_flags) {
    struct event_base *base = c->event.ev_base;
    if (c->ev_flags == new_flags)
        return true;
    if (event_del(&c->event) == -1) return false;
    event_set(&c->event, c->sfd, new_flags, event_handler, (void *)c);
    event_base_set(base, &c->event);
    c->ev_flags = new_flags;
    if (event_add(&c->event, 0) == -1) return false;
    return true;
}

static bool libevent_conn_lend(conn *c) {
    return true;
}

static void libevent_conn_remove(conn *c) {
    event_del(&c->event);
}

static bool libevent_conn_return(conn *c) {
    c->ev_flags = EV_READ | EV_PERSIST;
    return libevent_conn_add(c);
}

static void libevent_conn_close(conn *c) {
    close(c->sfd);
}

static void libevent_conn_opened(conn *c) {
    STATS_LOCK();
    stats_state.curr_conns++;
    stats.total_conns++;
    STATS_UNLOCK();
}

static void libevent_conn_closed(conn *c) {
    allow_conns();

    STATS_LOCK();
    stats_state.curr_conns--;
    STATS_UNLOCK();
}

static uint64_t libevent_curr_conns(void) {
    return 0;
}

static void libevent_peer_address(conn *c) {
    if (getpeername(c->sfd, (struct sockaddr *) &c->request_addr,
                    &c->request_addr_size)) {
        perror("getpeername");
        memset(&c->request_addr, 0, sizeof(c->request_addr));
    }
}

static int libevent_address(const conn *c, bool peer, struct sockaddr *addr,
                            socklen_t *len) {
    return peer ? getpeername(c->sfd, addr, len) :
                  getsockname(c->sfd, addr, len);
}

static int libevent_extra_conns(int first) {
    return 0;
}

static void libevent_stats(ADD_STAT add_stats, conn *c) {
    APPEND_STAT("io_engine", "%s", io_engine->name);
}

const struct io_engine io_libevent = {
    .name = "libevent",
    .thread_setup = libevent_thread_setup,
    .thread_run = libevent_thread_run,
    .thread_stop = libevent_thread_stop,
    .thread_free = libevent_thread_free,
    .conn_add = libevent_conn_add,
    .conn_update = libevent_conn_update,
    .conn_lend = libevent_conn_lend,
    .conn_remove = libevent_conn_remove,
    .conn_return = libevent_conn_return,
    .conn_end = libevent_conn_remove,
    .conn_close = libevent_conn_close,
    .conn_opened = libevent_conn_opened,
    .conn_closed = libevent_conn_closed,
    .curr_conns = libevent_curr_conns,
    .peer_address = libevent_peer_address,
    .address = libevent_address,
    .extra_conns = libevent_extra_conns,
    .stats = libevent_stats,
};

const struct io_engine *io_engine = &io_libevent;
