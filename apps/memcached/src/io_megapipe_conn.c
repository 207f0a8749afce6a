/* -*- Mode: C; tab-width: 4; c-basic-offset: 4; indent-tabs-mode: nil -*- */
/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A connection of a worker that waits in a MegaPipe channel: what it waits for,
 * how memcached's state machine reads and writes, how it ends.
 */
#include "memcached.h"
#include "io_megapipe_thread.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <linux/megapipe.h>

#define AHEAD_SIZE  2048    /* a request, and most values with it */
#define COPY_SIZE   2048    /* an answer that is copied, or the place for it */
#define COPIES_MAX  256     /* that a thread keeps for the next answers */

#define NO_HANDLE   ((mp_handle) { NULL, 0 })

static io_thread *thread_of(const conn *c) {
    return c->thread->io;
}

/*
 * Places for answers on their way
 */

struct copy {
    struct copy *next;
};

static char *take_copy(io_thread *t) {
    struct copy *copy = t->copies;

    if (copy == NULL)
        return malloc(COPY_SIZE);
    t->copies = copy->next;
    t->nr_copies--;
    return (char *)copy;
}

static void free_copy(conn *c) {
    struct copy *copy = (struct copy *)c->io.copy;
    io_thread *t = thread_of(c);

    c->io.copy = NULL;
    if (t->nr_copies == COPIES_MAX) {
        free(copy);
        return;
    }
    copy->next = t->copies;
    t->copies = copy;
    t->nr_copies++;
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
void io_megapipe_settle(conn *c) {
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
    } while (c->io.has_read && !c->io.writing && (c->state == conn_read ||
                                                  c->state == conn_nread ||
                                                  c->state == conn_swallow));
    io_megapipe_settle(c);
}

/* Those of now; it may add to them. */
void io_megapipe_go_on_with_due(io_thread *t) {
    conn *c;

    for (int n = t->nr_due; n > 0 && t->due; n--) {
        c = t->due;
        remove_due(c);
        /* A side thread has it, and will return it. */
        if (c->state == conn_watch || c->state == conn_io_queue)
            continue;
        if (c->io.reading || c->io.writing || c->io.polling)
            io_megapipe_settle(c);
        else
            go_on(c);
    }
}

/*
 * What the kernel is done with
 */

/* What memcached took for sent: it is only driven if it waits for that. */
static void copy_written(conn *c, int result) {
    free_copy(c);
    if (result < 0)
        conn_set_state(c, conn_closing);
    else if (!c->io.has_read && c->state != conn_mwrite)
        return;
    go_on(c);
}

void io_megapipe_completed(conn *c, const struct mp_event *ev) {
    switch (ev->cmd) {
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
        if (c->io.copy) {
            copy_written(c, ev->result);
            break;
        }
        c->io.has_written = true;
        c->io.written = ev->result;
        go_on(c);
        break;
    case MP_POLL:
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

/*
 * Reading and writing, as the machine calls them
 */

static ssize_t megapipe_read(conn *c, void *buf, size_t count) {
    struct io_conn *io = &c->io;
    int left = io->read - io->read_used;

    if (!io->handle.channel)
        return read(c->sfd, buf, count);   /* a side thread */
    if (io->copy) {
        errno = EAGAIN;
        return -1;
    }
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
    /* For a value the machine knows where it goes. Otherwise it is asked for in
     * io_megapipe_settle(): the machine may call again while it has a request
     * to work on. */
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

/*
 * A small answer to the only request at hand is copied, and passed off as sent.
 * That saves describing its pieces to the kernel and driving the machine once
 * more. Until it is written, nothing is read: so the machine never works on a
 * request, lends the connection or sees its end meanwhile.
 */
static bool write_copy(conn *c, const struct msghdr *msg, size_t *size) {
    struct io_conn *io = &c->io;
    char *to;

    if (c->rbytes > 0 || c->close_after_write)
        return false;
    *size = 0;
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        *size += msg->msg_iov[i].iov_len;
    if (*size > COPY_SIZE || !(to = io->copy = take_copy(thread_of(c))))
        return false;
    for (size_t i = 0; i < msg->msg_iovlen; i++) {
        memcpy(to, msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len);
        to += msg->msg_iov[i].iov_len;
    }
    if (mp_write(io->handle, io->copy, *size)) {
        free_copy(c);
        return false;
    }
    io->writing = true;
    return true;
}

static ssize_t megapipe_sendmsg(conn *c, struct msghdr *msg, int flags) {
    struct io_conn *io = &c->io;
    size_t size;
    int err;

    if (!io->writing) {
        if (!io->handle.channel && !join(c))
            return -1;
        if (write_copy(c, msg, &size))
            return size;
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

bool io_megapipe_conn_add(conn *c) {
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
    io->is_lwsocket = c->sfd >= io_threads->first;
    if (!io->is_lwsocket)
        return join(c);
    /* Its cookie goes along with the first read. */
    return mp_register(thread_of(c)->channel, thread_of(c)->starting.id, c,
                       NULL, &io->handle) == 0;
}

bool io_megapipe_conn_update(conn *c, const int new_flags) {
    c->ev_flags = new_flags;
    return true;
}

/*
 * An lwsocket becomes a descriptor and takes that place among the connections;
 * the closed one that had the place, or a new one, gets the other: no place may
 * become NULL again, for other threads look at them without a lock.
 */
static bool become_descriptor(conn *c) {
    conn *closed = calloc(1, sizeof(*closed));
    int sfd = closed ? mp_tofd(c->io.handle, O_NONBLOCK) : -1;
    int old_sfd = c->sfd;

    if (sfd < 0) {
        free(closed);
        return false;
    }
    if (conns[sfd]) {
        free(closed);
        closed = conns[sfd];
    } else {
        closed->state = conn_closed;
        STATS_LOCK();
        stats_state.conn_structs++;
        STATS_UNLOCK();
    }
    closed->sfd = old_sfd;
    conns[old_sfd] = closed;
    c->sfd = sfd;
    conns[sfd] = c;
    c->io.handle = NO_HANDLE;
    c->io.is_lwsocket = false;
    give_slot_back(thread_of(c), old_sfd);
    return true;
}

/* Nothing is under way, for the machine is working on a request. */
bool io_megapipe_conn_lend(conn *c) {
    struct io_conn *io = &c->io;

    if (io->has_read || (io->is_lwsocket && !become_descriptor(c)))
        return false;
    if (io->handle.channel) {
        mp_unregister(io->handle);
        /* Before the side thread waits for it. */
        mp_flush(io->handle.channel);
        io->handle = NO_HANDLE;
    }
    return true;
}

void io_megapipe_conn_remove(conn *c) {
}

bool io_megapipe_conn_return(conn *c) {
    c->ev_flags = EV_READ | EV_PERSIST;
    if (!c->io.handle.channel && !join(c)) {
        c->state = conn_closing;
        return false;
    }
    add_due(c);
    return true;
}

/*
 * Counting
 */

/* It is in the numbers of its thread. */
static bool has_worker(const conn *c) {
    return c->thread && !IS_UDP(c->transport);
}

void io_megapipe_conn_opened(conn *c) {
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
void io_megapipe_conn_closed(conn *c) {
    if (!has_worker(c))
        io_libevent.conn_closed(c);
}

uint64_t io_megapipe_curr_conns(void) {
    uint64_t sum = 0;

    for (int i = 0; i < io_threads->threads; i++)
        sum += atomic_load_explicit(&io_threads->thread[i]->curr_conns,
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
void io_megapipe_conn_end(conn *c) {
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
    if (io->copy)
        free_copy(c);
    io->reading = io->has_read = false;
    io->writing = io->has_written = false;
    io->polling = false;
}

void io_megapipe_conn_close(conn *c) {
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
        io_megapipe_one_less(t);
    }
    if (handle.channel)
        mp_close(handle);
    else if (!is_lwsocket)
        close(sfd);
}

/*
 * Addresses
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

    if (c->sfd < io_threads->first)
        return peer ? getpeername(c->sfd, addr, len) :
                      getsockname(c->sfd, addr, len);
    if (!handle.channel)
        return -1;
    if (ioctl(mp_fd(handle.channel), MEGAPIPE_IOC_SOCKNAME, &name))
        return -1;
    *len = name.len;
    return 0;
}

int io_megapipe_address(const conn *c, bool peer, struct sockaddr *addr,
                            socklen_t *len) {
    return address(c, c->io.handle, peer, addr, len);
}

/* It costs a system call: only if somebody watches connections. */
void io_megapipe_peer_address(conn *c) {
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
