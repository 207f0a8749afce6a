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
 */
#include "memcached.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <linux/megapipe.h>

#define AHEAD_SIZE  2048    /* a request, and most values with it */
#define DUE_EVERY   64      /* completions between looks at the due ones */
#define RETRY_US    10000   /* as maxconns_handler() */

#define NO_HANDLE   ((mp_handle) { NULL, 0 })

typedef struct io_thread io_thread;

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

struct io_thread {
    LIBEVENT_THREAD *me;
    struct mp_channel *channel;
    mp_handle notify;
    int index;
    bool stop;
    bool full;              /* no more connections for now */
    bool has_closed;        /* the connection that go_on() drives */
    listener *listeners;
    waiting *waiting, **waiting_end;
    conn *due, **due_end;   /* have something to do, but nothing to wait for */
    int nr_due;
    int *slots;             /* numbers for lwsockets that are free: a stack */
    int nr_slots;
    int allowance;          /* connections that it may open at once */
    mp_handle starting;     /* the lwsocket that conn_new() is called for */
    atomic_ullong curr_conns;
};

/*
 * How many connections there may be, as with descriptors: what -c leaves. The
 * threads take from it some at a time, so that opening and closing need not
 * touch what is shared; when there are none left, they give back what they have
 * set aside.
 */
static struct {
    _Alignas(64) atomic_int left;
    _Alignas(64) atomic_int full_threads;
    int at_once;
    int first;              /* number of the first lwsocket */
    int per_thread;
    int threads;
    cpu_set_t cpus;
    io_thread *thread[];
} *all;

static io_thread *thread_of(const conn *c) {
    return c->thread->io;
}

/*
 * Going on with connections
 */

static void add_due(conn *c) {
    io_thread *t = thread_of(c);

    if (c->io.is_due)
        return;
    c->io.is_due = true;
    c->io.next_due = NULL;
    *t->due_end = c;
    t->due_end = &c->io.next_due;
    t->nr_due++;
}

static void remove_due(conn *c) {
    io_thread *t;
    conn **at;

    if (!c->io.is_due)
        return;
    t = thread_of(c);
    for (at = &t->due; *at != c; at = &(*at)->io.next_due)
        ;
    *at = c->io.next_due;
    if (t->due_end == &c->io.next_due)
        t->due_end = at;
    c->io.is_due = false;
    t->nr_due--;
}

/* A request could not be made: out of memory. */
static void give_up(conn *c) {
    conn_set_state(c, conn_closing);
    drive_machine(c);
}

/*
 * Wait for the next request, or for the rest of one of which the read buffer
 * holds the beginning.
 */
static void wait_for_request(conn *c) {
    struct io_conn *io = &c->io;
    size_t size = AHEAD_SIZE;

    if (!io->ahead && !(io->ahead = malloc(AHEAD_SIZE))) {
        give_up(c);
        return;
    }
    io->read_to = io->ahead;
    if (c->rbytes > 0) {
        /* As try_read_network() would: then it finds the bytes in place. */
        if (c->rcurr != c->rbuf) {
            memmove(c->rbuf, c->rcurr, c->rbytes);
            c->rcurr = c->rbuf;
        }
        if (c->rsize > c->rbytes) {
            io->read_to = c->rbuf + c->rbytes;
            size = c->rsize - c->rbytes;
        }
    }
    if (mp_read(io->handle, io->read_to, size)) {
        give_up(c);
        return;
    }
    io->reading = true;
}

static void poll_again(conn *c) {
    if (c->io.polling)
        return;
    if (mp_poll(c->io.handle, c->ev_flags & EV_WRITE ? EPOLLOUT : EPOLLIN)) {
        add_due(c);
        return;
    }
    c->io.polling = true;
}

/* The machine has stopped: see that something will start it again. */
static void settle(conn *c) {
    struct io_conn *io = &c->io;

    switch (c->state) {
    case conn_closed:
    case conn_watch:
    case conn_io_queue:
        return;
    default:
        break;
    }
    if (IS_UDP(c->transport)) {
        poll_again(c);
        return;
    }
    if (io->reading)
        return;
    if (io->writing) {
        /* Only then is a request all that can come next. */
        if (!io->has_read && c->rbytes == 0 && !c->close_after_write)
            wait_for_request(c);
        return;
    }
    if (!io->has_read && (c->state == conn_read ||
                          (c->state == conn_new_cmd && c->rbytes == 0)))
        wait_for_request(c);
    else
        add_due(c);
}

/* Once closed, "c" may be another thread's already: not to be looked at. */
static void go_on(conn *c) {
    io_thread *t = thread_of(c);

    t->has_closed = false;
    do {
        drive_machine(c);
        if (t->has_closed)
            return;
    } while (c->io.has_read && (c->state == conn_read ||
                                c->state == conn_nread ||
                                c->state == conn_swallow));
    settle(c);
}

/* Those of now; it may add to them. */
static void go_on_with_due(io_thread *t) {
    conn *c;

    for (int n = t->nr_due; n > 0 && t->due; n--) {
        c = t->due;
        remove_due(c);
        /* A side thread has it, and will return it. */
        if (c->state == conn_watch || c->state == conn_io_queue)
            continue;
        if (c->io.reading || c->io.writing || c->io.polling)
            settle(c);
        else
            go_on(c);
    }
}

/*
 * Reading and writing, as the machine calls them
 */

static ssize_t megapipe_read(conn *c, void *buf, size_t count) {
    struct io_conn *io = &c->io;
    int left = io->read - io->read_used;

    if (!io->handle.channel)
        return read(c->sfd, buf, count);   /* a side thread */
    if (io->has_read) {
        if (io->read < 0) {
            io->has_read = false;
            errno = -io->read;
            return -1;
        }
        if (left > count)
            left = count;
        if (buf != io->read_to)
            memcpy(buf, io->read_to + io->read_used, left);
        io->read_used += left;
        io->has_read = io->read_used < io->read;
        return left;
    }
    if (count == 0)
        return 0;
    /* For a value the machine knows where it goes. Otherwise settle() asks:
     * the machine may call again while it has a request to work on. */
    if (!io->reading && (c->state == conn_nread || c->state == conn_swallow)) {
        io->read_to = buf;
        if (mp_read(io->handle, buf, count)) {
            errno = ENOMEM;
            return -1;
        }
        io->reading = true;
    }
    errno = EAGAIN;
    return -1;
}

static bool join(conn *c);

static ssize_t megapipe_sendmsg(conn *c, struct msghdr *msg, int flags) {
    struct io_conn *io = &c->io;
    int err;

    if (!io->writing) {
        if (!io->handle.channel && !join(c))
            return -1;
        if (msg->msg_iovlen == 1)
            err = mp_write(io->handle, msg->msg_iov->iov_base,
                           msg->msg_iov->iov_len);
        else
            err = mp_writev(io->handle, msg->msg_iov, msg->msg_iovlen);
        if (err) {
            errno = -err;
            return -1;
        }
        io->writing = true;
    }
    errno = EAGAIN;
    return -1;
}

/*
 * Connections come and go
 */

/* A descriptor enters the channel. */
static bool join(conn *c) {
    int err = mp_register(thread_of(c)->channel, c->sfd, c, NULL,
                          &c->io.handle);

    if (err) {
        c->io.handle = NO_HANDLE;
        errno = -err;
        perror("mp_register");
    }
    return !err;
}

static bool megapipe_conn_add(conn *c) {
    struct io_conn *io = &c->io;
    char *ahead = io->ahead;

    if (c->state == conn_listening) {
        dispatch_listener(c);
        return true;
    }

    memset(io, 0, sizeof(*io));
    io->ahead = ahead;
    if (IS_UDP(c->transport)) {
        if (!join(c))
            return false;
        poll_again(c);
        return true;
    }
    c->read = megapipe_read;
    c->sendmsg = megapipe_sendmsg;
    io->is_lwsocket = c->sfd >= all->first;
    if (!io->is_lwsocket)
        return join(c);
    /* Its cookie goes along with the first read. */
    return mp_register(thread_of(c)->channel, thread_of(c)->starting.id, c,
                       NULL, &io->handle) == 0;
}

static bool megapipe_conn_update(conn *c, const int new_flags) {
    c->ev_flags = new_flags;
    return true;
}

static void give_slot_back(io_thread *t, int sfd) {
    t->slots[t->nr_slots++] = sfd;
}

/*
 * Nothing is under way, for the machine is working on a request. An lwsocket
 * becomes a descriptor and takes that place among the connections; the one that
 * had the place, closed for good, gets the other, as they are never freed.
 */
static bool megapipe_conn_lend(conn *c) {
    struct io_conn *io = &c->io;
    int sfd, old_sfd = c->sfd;

    if (io->has_read)
        return false;
    if (io->is_lwsocket) {
        sfd = mp_tofd(io->handle, O_NONBLOCK);
        if (sfd < 0)
            return false;
        conns[old_sfd] = conns[sfd];
        if (conns[old_sfd])
            conns[old_sfd]->sfd = old_sfd;
        c->sfd = sfd;
        conns[sfd] = c;
        io->is_lwsocket = false;
        give_slot_back(thread_of(c), old_sfd);
    } else if (io->handle.channel) {
        mp_unregister(io->handle);
        /* Before the side thread waits for it. */
        mp_flush(io->handle.channel);
    }
    io->handle = NO_HANDLE;
    return true;
}

static void megapipe_conn_remove(conn *c) {
}

static bool megapipe_conn_return(conn *c) {
    c->ev_flags = EV_READ | EV_PERSIST;
    if (!c->io.handle.channel && !join(c)) {
        c->state = conn_closing;
        return false;
    }
    add_due(c);
    return true;
}

/*
 * How many connections
 */

/* What descriptors that are none of connections leave of -c. */
static void count_allowed(void) {
    int lowest = dup(STDERR_FILENO);
    int left = settings.maxconns - 1 - lowest;

    if (lowest >= 0)
        close(lowest);
    atomic_fetch_add(&all->left, left > 1 ? left : 1);
}

static bool may_open(io_thread *t) {
    static pthread_once_t counted = PTHREAD_ONCE_INIT;
    int left, take;

    if (t->allowance > 0) {
        t->allowance--;
        return true;
    }
    pthread_once(&counted, count_allowed);
    left = atomic_load(&all->left);
    do {
        if (left <= 0)
            return false;
        take = left < all->at_once ? left : all->at_once;
    } while (!atomic_compare_exchange_weak(&all->left, &left, left - take));
    t->allowance = take - 1;
    return true;
}

static void one_less(io_thread *t) {
    int keep = all->at_once;

    t->allowance++;
    if (atomic_load_explicit(&all->full_threads, memory_order_relaxed))
        keep = 0;
    else if (t->allowance <= 2 * keep)
        return;
    atomic_fetch_add(&all->left, t->allowance - keep);
    t->allowance = keep;
}

/* It is in the numbers of its thread. */
static bool has_worker(const conn *c) {
    return c->thread && !IS_UDP(c->transport);
}

static void megapipe_conn_opened(conn *c) {
    if (has_worker(c)) {
        io_thread *t = thread_of(c);

        atomic_fetch_add_explicit(&t->curr_conns, 1, memory_order_relaxed);
        THR_STATS_LOCK(c);
        c->thread->stats.total_conns++;
        THR_STATS_UNLOCK(c);
    } else {
        io_libevent.conn_opened(c);
    }
}

/* A worker's was counted in conn_close(), while it still was the worker's. */
static void megapipe_conn_closed(conn *c) {
    if (!has_worker(c))
        io_libevent.conn_closed(c);
}

static uint64_t megapipe_curr_conns(void) {
    uint64_t sum = 0;

    for (int i = 0; i < all->threads; i++)
        sum += atomic_load_explicit(&all->thread[i]->curr_conns,
                                    memory_order_relaxed);
    return sum;
}

/*
 * Ending
 */

/*
 * The memory of what is under way is about to be anybody's, but for io->ahead,
 * which stays where it is. A descriptor is closed last, in conn_close(): with
 * its number, "c" is at once some other thread's.
 */
static void megapipe_conn_end(conn *c) {
    struct io_conn *io = &c->io;
    mp_handle handle = io->handle;
    bool uses_memory = io->writing ||
                       (io->reading && io->read_to != io->ahead);

    remove_due(c);
    if (handle.channel && uses_memory) {
        if (io->is_lwsocket)
            mp_close(handle);
        else
            mp_unregister(handle);
        mp_flush(handle.channel);
        io->handle = NO_HANDLE;
    }
    io->reading = io->has_read = false;
    io->writing = io->has_written = false;
    io->polling = false;
}

static void megapipe_conn_close(conn *c) {
    mp_handle handle = c->io.handle;
    bool is_lwsocket = c->io.is_lwsocket;
    int sfd = c->sfd;

    c->io.handle = NO_HANDLE;
    c->io.is_lwsocket = false;
    if (is_lwsocket)
        give_slot_back(thread_of(c), sfd);
    if (has_worker(c)) {
        io_thread *t = thread_of(c);

        t->has_closed = true;
        atomic_fetch_sub_explicit(&t->curr_conns, 1, memory_order_relaxed);
        one_less(t);
    }
    if (handle.channel)
        mp_close(handle);
    else if (!is_lwsocket)
        close(sfd);
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
    if (atomic_fetch_add(&all->full_threads, 1) == 0) {
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
    if (atomic_fetch_sub(&all->full_threads, 1) == 1) {
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
        one_less(t);
        return;
    }
    conn_io_queue_setup(c);
    conn_set_state(c, conn_read);
    settle(c);
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

static void accepted(io_thread *t, listener *l, const struct mp_event *ev) {
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
static void retry(io_thread *t) {
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
    one_less(t);
    set_not_full(t);
    for (listener *l = t->listeners; l; l = l->next)
        if (!l->accepting)
            accept_more(t, l);
}

/* The CPUs whose connections the thread accepts: its own, and its share of
 * those that no thread has. */
static void partition_of(const io_thread *t, cpu_set_t *mask) {
    long nr_cpus = sysconf(_SC_NPROCESSORS_CONF);
    int nr = CPU_COUNT(&all->cpus), n = 0;

    CPU_ZERO(mask);
    for (int cpu = 0; cpu < nr_cpus && cpu < CPU_SETSIZE; cpu++) {
        bool has_thread = CPU_ISSET(cpu, &all->cpus) && n < all->threads;

        if (has_thread ? t->index % nr == n : cpu % all->threads == t->index)
            CPU_SET(cpu, mask);
        if (CPU_ISSET(cpu, &all->cpus))
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

/*
 * Threads
 */

static void prepare(void) {
    all = calloc(1, sizeof(*all) + settings.num_threads * sizeof(*all->thread));
    if (!all) {
        perror("megapipe");
        exit(EXIT_FAILURE);
    }
    all->at_once = settings.maxconns / (32 * settings.num_threads);
    if (all->at_once < 1)
        all->at_once = 1;
    if (all->at_once > 64)
        all->at_once = 64;
    if (sched_getaffinity(0, sizeof(all->cpus), &all->cpus)) {
        perror("sched_getaffinity");
        exit(EXIT_FAILURE);
    }
}

/* All connections may be one thread's; "waiting" ones have no number. */
static int megapipe_extra_conns(int first) {
    prepare();
    all->first = first;
    all->per_thread = settings.maxconns;
    return settings.num_threads * all->per_thread;
}

static void megapipe_thread_setup(LIBEVENT_THREAD *me) {
    io_thread *t = calloc(1, sizeof(*t));
    int err = -ENOMEM;

    if (t) {
        t->slots = calloc(all->per_thread, sizeof(*t->slots));
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
    t->index = all->threads;
    all->thread[all->threads++] = t;
    for (int i = all->per_thread; i > 0; i--)
        give_slot_back(t, all->first + t->index * all->per_thread + i - 1);
}

static void pin(const io_thread *t) {
    int n = t->index % CPU_COUNT(&all->cpus);
    cpu_set_t mask;

    CPU_ZERO(&mask);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all->cpus) && n-- == 0) {
            CPU_SET(cpu, &mask);
            break;
        }
    }
    if (pthread_setaffinity_np(pthread_self(), sizeof(mask), &mask))
        fprintf(stderr, "megapipe: cannot pin worker %d to its CPU\n", t->index);
}

static void completed(io_thread *t, const struct mp_event *ev) {
    conn *c = ev->cookie;

    switch (ev->cmd) {
    case MP_ACCEPT:
        accepted(t, ev->cookie, ev);
        break;
    case MP_READ:
        c->io.reading = false;
        c->io.has_read = true;
        c->io.read = ev->result;
        c->io.read_used = 0;
        /* While an answer is written, or worked on, the request waits. */
        if (!c->io.writing && c->state != conn_io_queue)
            go_on(c);
        break;
    case MP_WRITE:
        c->io.writing = false;
        c->io.has_written = true;
        c->io.written = ev->result;
        go_on(c);
        break;
    case MP_POLL:
        if (ev->cookie == t) {
            thread_libevent_process(t->me->notify_event_fd, EV_READ, t->me);
            mp_poll(t->notify, EPOLLIN);
            break;
        }
        c->io.polling = false;
        go_on(c);
        break;
    default:
        if (settings.verbose > 0)
            fprintf(stderr, "megapipe: request failed: %s\n",
                    strerror(-ev->result));
        break;
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
            go_on_with_due(t);
        if (t->full)
            retry(t);
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
 * Addresses and counters
 */

/*
 * Of a connection of any thread, and only "any" functions of the library may be
 * called for the channel of another; hence the system call.
 */
static int address(const conn *c, mp_handle handle, bool peer,
                   struct sockaddr *addr, socklen_t *len) {
    struct megapipe_sockname name = {
        .handle = handle.id,
        .peer = peer,
        .addr = (uintptr_t)addr,
        .len = *len,
    };

    if (c->sfd < all->first)
        return peer ? getpeername(c->sfd, addr, len) :
                      getsockname(c->sfd, addr, len);
    if (!handle.channel)
        return -1;
    if (ioctl(mp_fd(handle.channel), MEGAPIPE_IOC_SOCKNAME, &name))
        return -1;
    *len = name.len;
    return 0;
}

static int megapipe_address(const conn *c, bool peer, struct sockaddr *addr,
                            socklen_t *len) {
    return address(c, c->io.handle, peer, addr, len);
}

/* It costs a system call: only if somebody watches connections. */
static void megapipe_peer_address(conn *c) {
    mp_handle handle = c->io.handle;

    if (!handle.channel)
        handle = thread_of(c)->starting;
    if (!(c->thread->l->eflags & LOG_CONNEVENTS)) {
        memset(&c->request_addr, 0, sizeof(c->request_addr));
        c->request_addr_size = 0;
        return;
    }
    c->request_addr_size = sizeof(c->request_addr);
    if (address(c, handle, true, (struct sockaddr *)&c->request_addr,
                &c->request_addr_size)) {
        memset(&c->request_addr, 0, sizeof(c->request_addr));
        c->request_addr_size = 0;
    }
}

static void megapipe_stats(ADD_STAT add_stats, conn *c) {
    struct mp_stats sum = { 0 }, one;

    for (int i = 0; i < all->threads; i++) {
        if (mp_stats(all->thread[i]->channel, &one))
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
    .conn_add = megapipe_conn_add,
    .conn_update = megapipe_conn_update,
    .conn_lend = megapipe_conn_lend,
    .conn_remove = megapipe_conn_remove,
    .conn_return = megapipe_conn_return,
    .conn_end = megapipe_conn_end,
    .conn_close = megapipe_conn_close,
    .conn_opened = megapipe_conn_opened,
    .conn_closed = megapipe_conn_closed,
    .curr_conns = megapipe_curr_conns,
    .peer_address = megapipe_peer_address,
    .address = megapipe_address,
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
