/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events by completion: MegaPipe.
 *
 * nginx's handlers ask: c->recv() gives bytes or NGX_AGAIN, and after NGX_AGAIN
 * the handler is called when it is worth asking again.  A channel is told: read
 * into this buffer, and says when it is done.  Here the one becomes the other
 * by buffers of this module.  A connection of a listener that allows it ("io")
 *
 *   reads    into a buffer of its own, by a READ that is pending whenever there
 *            is room; c->recv() copies from there, and the completion is what
 *            epoll's edge is;
 *   writes   from another one: c->send() and c->send_chain() copy into it, and
 *            what handlers have put there until the events are waited for goes
 *            out as one WRITE;
 *   sends    files by SENDFILE, a piece at a time.  The piece counts as sent at
 *            once, as what is copied does; so a file that nginx closes stays
 *            open until no command names it (ngx_megapipe_close_file()).
 *
 * Nothing that nginx allocates is ever the kernel's.  All other connections
 * (TLS, HTTP/2, mail, upstreams, UDP, the master's channel) have descriptors
 * and nginx's own functions; POLL tells when they are ready, once for each
 * NGX_AGAIN.
 *
 * Commands are made where the events are waited for, from what handlers have
 * left behind ("changed"), so that what is undone before costs nothing.
 *
 * The state of a connection hangs on c->read->index, as in other event modules.
 * It outlives the connection until what it wrote is gone ("closing"), and until
 * the kernel has been told to forget its buffers ("limbo").
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <linux/sock_diag.h>
#include <sys/eventfd.h>
#include <megapipe-inline.h>


#define NGX_MEGAPIPE_EVENTS      256
#define NGX_MEGAPIPE_READ        2048
#define NGX_MEGAPIPE_READ_LARGE  32768
#define NGX_MEGAPIPE_WRITE       32768
#define NGX_MEGAPIPE_SENDFILE    131072

/* none for a sanitizer, from which they would hide what is used when free */
#ifndef NGX_MEGAPIPE_SPARE
#define NGX_MEGAPIPE_SPARE       256
#define NGX_MEGAPIPE_SPARE_WRITE 64
#endif

/*
 * about as long as the kernel keeps a closed socket whose peer does not read;
 * what the peer has read by then is first looked at after the short time
 */
#define NGX_MEGAPIPE_CLOSE_LOOK     5000
#define NGX_MEGAPIPE_CLOSE_TIMEOUT  60000


typedef enum {
    NGX_MEGAPIPE_LISTEN = 0,
    NGX_MEGAPIPE_IO,
    NGX_MEGAPIPE_POLL,
    NGX_MEGAPIPE_NOTIFY
} ngx_megapipe_kind_e;


typedef enum {
    NGX_MEGAPIPE_NO_FILE = 0,
    NGX_MEGAPIPE_FILE_ASKED,
    NGX_MEGAPIPE_FILE_PENDING
} ngx_megapipe_file_e;


typedef struct {
    ngx_flag_t            lwsocket;
    ngx_uint_t            batch;
} ngx_megapipe_conf_t;


typedef struct {
    ngx_queue_t           queue;       /* changed, limbo or spare */
    ngx_connection_t     *connection;  /* NULL: closed */
    mp_handle             handle;
    ngx_megapipe_kind_e   kind;

    unsigned              changed:1;
    unsigned              lwsocket:1;

    unsigned              accepting:1;

    /* what handlers wait for, POLL */
    unsigned              want_read:1;
    unsigned              want_write:1;
    uint32_t              polled;      /* the last one's events */
    ngx_uint_t            polls;       /* whose completions are to come */

    unsigned              reading:1;
    unsigned              read_eof:1;
    unsigned              read_small:1;
    ngx_err_t             read_err;
    u_char               *read;        /* NULL: none yet */
    u_char               *read_pos;
    u_char               *read_last;
    u_char               *read_end;

    unsigned              closing:1;
    unsigned              reset:1;
    unsigned              shutdown:1;
    unsigned              shut:1;
    ngx_err_t             write_err;
    u_char               *write;       /* NULL: nothing to write */
    u_char               *write_pos;
    u_char               *write_last;
    size_t                writing;     /* bytes of the pending WRITE */

    unsigned              nopush:1;    /* what is before the file waits */
    ngx_megapipe_file_e   file;
    ngx_fd_t              file_fd;
    off_t                 file_pos;
    size_t                file_size;

    ngx_event_t           timer;       /* closing */
    uint64_t              taken;       /* by the peer, when it was set */
} ngx_megapipe_conn_t;


/* TCP_INFO, as far as it is wanted: the C library's structure ends before */

typedef struct {
    struct tcp_info       info;
    uint64_t              pacing_rate;
    uint64_t              max_pacing_rate;
    uint64_t              bytes_acked;
} ngx_megapipe_tcp_info_t;


/* a file that commands name, and whether nginx has closed it meanwhile */

typedef struct {
    unsigned              uses:31;
    unsigned              closed:1;
} ngx_megapipe_open_file_t;


#define ngx_megapipe_io(c)                                                   \
    (channel && (c)->listening && (c)->listening->completion                 \
     && !(c)->read->accept)


static ngx_int_t ngx_megapipe_init(ngx_cycle_t *cycle, ngx_msec_t timer);
static void ngx_megapipe_done(ngx_cycle_t *cycle);
static ngx_int_t ngx_megapipe_add_event(ngx_event_t *ev, ngx_int_t event,
    ngx_uint_t flags);
static ngx_int_t ngx_megapipe_del_event(ngx_event_t *ev, ngx_int_t event,
    ngx_uint_t flags);
static ngx_int_t ngx_megapipe_add_connection(ngx_connection_t *c);
static ngx_int_t ngx_megapipe_del_connection(ngx_connection_t *c,
    ngx_uint_t flags);
static ngx_int_t ngx_megapipe_notify(ngx_event_handler_pt handler);
static ngx_int_t ngx_megapipe_process_events(ngx_cycle_t *cycle,
    ngx_msec_t timer, ngx_uint_t flags);

static ssize_t ngx_megapipe_recv(ngx_connection_t *c, u_char *buf,
    size_t size);
static ssize_t ngx_megapipe_recv_chain(ngx_connection_t *c, ngx_chain_t *chain,
    off_t limit);
static ssize_t ngx_megapipe_send(ngx_connection_t *c, u_char *buf,
    size_t size);
static ngx_chain_t *ngx_megapipe_send_chain(ngx_connection_t *c,
    ngx_chain_t *in, off_t limit);

static void ngx_megapipe_notify_init(ngx_log_t *log);
static void ngx_megapipe_completed(struct mp_event *event);
static void ngx_megapipe_arm_all(void);
static void ngx_megapipe_give_way(ngx_event_t *ev);
static void ngx_megapipe_take_part(ngx_event_t *ev);
static void ngx_megapipe_close_later(ngx_event_t *ev);
static void ngx_megapipe_exit(ngx_cycle_t *cycle);

static void *ngx_megapipe_create_conf(ngx_cycle_t *cycle);
static char *ngx_megapipe_init_conf(ngx_cycle_t *cycle, void *conf);
static char *ngx_megapipe_batch(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


static struct mp_channel     *channel;
static struct mp_event       *event_list;
static cpu_set_t              cpus;

static ngx_queue_t            changed_queue;
static ngx_queue_t            limbo_queue;
static ngx_queue_t            spare_queue;
static ngx_uint_t             nspare;

/* each begins with the address of the next */
static u_char                *spare_write;
static ngx_uint_t             nspare_write;

static ngx_megapipe_open_file_t  *files;   /* by descriptor */
static ngx_fd_t               nfiles;

static ngx_event_t            accept_event;

static ngx_megapipe_conn_t    notify_conn;
static ngx_event_t            notify_event;
static uint64_t               notify_count;
static int                    notify_fd = -1;

static ngx_str_t      megapipe_name = ngx_string("megapipe");

static ngx_command_t  ngx_megapipe_commands[] = {

    { ngx_string("megapipe_lwsocket"),
      NGX_EVENT_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      0,
      offsetof(ngx_megapipe_conf_t, lwsocket),
      NULL },

    { ngx_string("megapipe_batch"),
      NGX_EVENT_CONF|NGX_CONF_TAKE1,
      ngx_megapipe_batch,
      0,
      0,
      NULL },

      ngx_null_command
};


static ngx_event_module_t  ngx_megapipe_module_ctx = {
    &megapipe_name,
    ngx_megapipe_create_conf,            /* create configuration */
    ngx_megapipe_init_conf,              /* init configuration */

    {
        ngx_megapipe_add_event,          /* add an event */
        ngx_megapipe_del_event,          /* delete an event */
        ngx_megapipe_add_event,          /* enable an event */
        ngx_megapipe_del_event,          /* disable an event */
        ngx_megapipe_add_connection,     /* add an connection */
        ngx_megapipe_del_connection,     /* delete an connection */
        ngx_megapipe_notify,             /* trigger a notify */
        ngx_megapipe_process_events,     /* process the events */
        ngx_megapipe_init,               /* init the events */
        ngx_megapipe_done,               /* done the events */
    }
};

ngx_module_t  ngx_megapipe_module = {
    NGX_MODULE_V1,
    &ngx_megapipe_module_ctx,            /* module context */
    ngx_megapipe_commands,               /* module directives */
    NGX_EVENT_MODULE,                    /* module type */
    NULL,                                /* init master */
    NULL,                                /* init module */
    NULL,                                /* init process */
    NULL,                                /* init thread */
    NULL,                                /* exit thread */
    ngx_megapipe_exit,                   /* exit process */
    NULL,                                /* exit master */
    NGX_MODULE_V1_PADDING
};


/*
 * Opening a channel takes permission, and the channel belongs to the process
 * that opens it: so a worker does it before it becomes another user.
 */

void
ngx_megapipe_open(ngx_cycle_t *cycle)
{
    int                err;
    char               why[MP_EXPLAIN_SIZE];
    ngx_event_conf_t  *ecf;

    ecf = ngx_event_get_conf(cycle->conf_ctx, ngx_event_core_module);

    if (ecf->use != ngx_megapipe_module.ctx_index || channel) {
        return;
    }

    err = mp_create(&channel);

    if (err) {
        channel = NULL;
        ngx_log_error(NGX_LOG_EMERG, cycle->log, -err, "mp_create() failed: %s",
                      mp_explain(err, why, sizeof(why)));
        /* fatal */
        exit(2);
    }
}


ngx_uint_t
ngx_megapipe_available(ngx_cycle_t *cycle)
{
    int                 err;
    char                why[MP_EXPLAIN_SIZE];
    struct mp_channel  *ch;

    err = mp_create(&ch);

    if (err) {
        ngx_log_error(NGX_LOG_INFO, cycle->log, 0, "not using megapipe: %s",
                      mp_explain(err, why, sizeof(why)));
        return 0;
    }

    mp_destroy(ch);

    return 1;
}


/*
 * The CPUs of this worker: where it is bound to, or else its share of all, to
 * which it is bound then, since partitions are for the CPU that runs a worker.
 */

static void
ngx_megapipe_cpus(ngx_cycle_t *cycle)
{
    ngx_uint_t        i, n, nth, ncpus;
    cpu_set_t         all;
    ngx_core_conf_t  *ccf;

    if (sched_getaffinity(0, sizeof(cpu_set_t), &all) == -1) {
        ngx_log_error(NGX_LOG_ALERT, cycle->log, ngx_errno,
                      "sched_getaffinity() failed");
        CPU_ZERO(&all);
        CPU_SET(0, &all);
    }

    cpus = all;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    n = (ngx_process == NGX_PROCESS_WORKER) ? (ngx_uint_t) ccf->worker_processes
                                            : 1;

    if (n == 1 || ngx_get_cpu_affinity(ngx_worker)) {
        return;
    }

    CPU_ZERO(&cpus);
    ncpus = CPU_COUNT(&all);
    nth = 0;

    for (i = 0; i < CPU_SETSIZE; i++) {

        if (!CPU_ISSET(i, &all)) {
            continue;
        }

        if (n <= ncpus ? nth % n == ngx_worker : nth == ngx_worker % ncpus) {
            CPU_SET(i, &cpus);
        }

        nth++;
    }

    if (sched_setaffinity(0, sizeof(cpu_set_t), &cpus) == -1) {
        ngx_log_error(NGX_LOG_ALERT, cycle->log, ngx_errno,
                      "sched_setaffinity() failed");
    }
}


static ngx_int_t
ngx_megapipe_init(ngx_cycle_t *cycle, ngx_msec_t timer)
{
    int                   err;
    ngx_megapipe_conf_t  *mcf;

    mcf = ngx_event_get_conf(cycle->conf_ctx, ngx_megapipe_module);

    if (event_list == NULL) {
        ngx_megapipe_open(cycle);

        ngx_queue_init(&changed_queue);
        ngx_queue_init(&limbo_queue);
        ngx_queue_init(&spare_queue);

        event_list = ngx_alloc(sizeof(struct mp_event) * NGX_MEGAPIPE_EVENTS,
                               cycle->log);
        if (event_list == NULL) {
            return NGX_ERROR;
        }

        ngx_megapipe_cpus(cycle);
        ngx_megapipe_notify_init(cycle->log);
    }

    err = mp_set_batch(channel, mcf->batch);

    if (err) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, -err, "mp_set_batch() failed");
        return NGX_ERROR;
    }

    ngx_io = ngx_os_io;
    ngx_io.recv = ngx_megapipe_recv;
    ngx_io.recv_chain = ngx_megapipe_recv_chain;
    ngx_io.send = ngx_megapipe_send;
    ngx_io.send_chain = ngx_megapipe_send_chain;

    ngx_event_actions = ngx_megapipe_module_ctx.actions;

    if (notify_fd == -1) {
        ngx_event_actions.notify = NULL;
    }

    /*
     * to handlers it is what epoll is: edges, until NGX_AGAIN, and pending_eof
     * tells of the end before it is read
     */

    ngx_event_flags = NGX_USE_CLEAR_EVENT
                      |NGX_USE_GREEDY_EVENT
                      |NGX_USE_EPOLL_EVENT;

#if (NGX_HAVE_EPOLLRDHUP)
    ngx_use_epoll_rdhup = 1;
#endif

#if (NGX_HAVE_FILE_AIO)
    ngx_file_aio = 0;
#endif

    /* each worker accepts from its own partitions */

    ngx_use_accept_mutex = 0;

    return NGX_OK;
}


static void
ngx_megapipe_done(ngx_cycle_t *cycle)
{
    mp_destroy(channel);
    channel = NULL;

    ngx_free(event_list);
    event_list = NULL;
}


static void
ngx_megapipe_exit(ngx_cycle_t *cycle)
{
    struct mp_stats  stats;

    if (channel == NULL) {
        return;
    }

    /* a worker that is terminated still sends what it has said to be sent */

    ngx_megapipe_arm_all();
    (void) mp_flush(channel);

    if (mp_stats(channel, &stats) != 0) {
        return;
    }

    ngx_log_error(NGX_LOG_INFO, cycle->log, 0,
                  "megapipe: %uL accepts (%uL foreign, %uL migrated), "
                  "%uL dispatches (%uL slept), %uL commands, %uL completions, "
                  "%uL handles, %uL lwsockets",
                  stats.accepts, stats.accepts_foreign, stats.migrated_in,
                  stats.dispatches, stats.sleeps, stats.commands, stats.events,
                  stats.handles, stats.lwsockets);
}


static void
ngx_megapipe_notify_init(ngx_log_t *log)
{
    int  err;

    notify_fd = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

    if (notify_fd == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "eventfd() failed");
        return;
    }

    notify_event.log = log;
    notify_conn.kind = NGX_MEGAPIPE_NOTIFY;

    err = mp_register(channel, notify_fd, &notify_conn, NULL,
                      &notify_conn.handle);
    if (err == 0) {
        err = mp_read(notify_conn.handle, &notify_count, sizeof(uint64_t));
    }

    if (err) {
        ngx_log_error(NGX_LOG_EMERG, log, -err,
                      "mp_register(eventfd) failed");
        (void) close(notify_fd);
        notify_fd = -1;
    }
}


static ngx_int_t
ngx_megapipe_notify(ngx_event_handler_pt handler)
{
    static uint64_t  inc = 1;

    notify_event.data = handler;

    if ((size_t) write(notify_fd, &inc, sizeof(uint64_t)) != sizeof(uint64_t)) {
        ngx_log_error(NGX_LOG_ALERT, notify_event.log, ngx_errno,
                      "write() to eventfd %d failed", notify_fd);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_megapipe_notified(void)
{
    int                   err;
    ngx_event_handler_pt  handler;

    err = mp_read(notify_conn.handle, &notify_count, sizeof(uint64_t));

    if (err) {
        ngx_log_error(NGX_LOG_ALERT, notify_event.log, -err,
                      "mp_read(eventfd) failed");
    }

    handler = notify_event.data;

    if (handler) {
        handler(&notify_event);
    }
}


static void
ngx_megapipe_changed(ngx_megapipe_conn_t *mc)
{
    if (!mc->changed) {
        mc->changed = 1;
        ngx_queue_insert_tail(&changed_queue, &mc->queue);
    }
}


static ngx_megapipe_conn_t *
ngx_megapipe_alloc(ngx_log_t *log)
{
    u_char               *read;
    ngx_queue_t          *q;
    ngx_megapipe_conn_t  *mc;

    if (ngx_queue_empty(&spare_queue)) {
        return ngx_calloc(sizeof(ngx_megapipe_conn_t), log);
    }

    q = ngx_queue_head(&spare_queue);
    ngx_queue_remove(q);
    nspare--;

    mc = ngx_queue_data(q, ngx_megapipe_conn_t, queue);

    read = mc->read;
    ngx_memzero(mc, sizeof(ngx_megapipe_conn_t));
    mc->read = read;

    return mc;
}


static u_char *
ngx_megapipe_alloc_write(ngx_log_t *log)
{
    u_char  *p;

    p = spare_write;

    if (p == NULL) {
        return ngx_alloc(NGX_MEGAPIPE_WRITE, log);
    }

    spare_write = *(u_char **) p;
    nspare_write--;

    return p;
}


static void
ngx_megapipe_free_write(ngx_megapipe_conn_t *mc)
{
    u_char  *p;

    p = mc->write;
    mc->write = NULL;

    if (nspare_write == NGX_MEGAPIPE_SPARE_WRITE) {
        ngx_free(p);
        return;
    }

    *(u_char **) p = spare_write;
    spare_write = p;
    nspare_write++;
}


/* A command will name the file. */

static ngx_int_t
ngx_megapipe_use_file(ngx_fd_t fd, ngx_log_t *log)
{
    ngx_fd_t                   n;
    ngx_megapipe_open_file_t  *p;

    if (fd >= nfiles) {
        n = ngx_max(fd + 1, 2 * nfiles);

        p = realloc(files, n * sizeof(ngx_megapipe_open_file_t));
        if (p == NULL) {
            ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "realloc() failed");
            return NGX_ERROR;
        }

        ngx_memzero(p + nfiles,
                    (n - nfiles) * sizeof(ngx_megapipe_open_file_t));
        files = p;
        nfiles = n;
    }

    files[fd].uses++;

    return NGX_OK;
}


static void
ngx_megapipe_unuse_file(ngx_megapipe_conn_t *mc)
{
    ngx_megapipe_open_file_t  *file;

    mc->file = NGX_MEGAPIPE_NO_FILE;

    file = &files[mc->file_fd];

    if (--file->uses == 0 && file->closed) {
        file->closed = 0;

        if (close(mc->file_fd) == -1) {
            ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                          ngx_close_file_n " failed");
        }
    }
}


int
ngx_megapipe_close_file(ngx_fd_t fd)
{
    if (fd >= 0 && fd < nfiles && files[fd].uses) {
        files[fd].closed = 1;
        return 0;
    }

    return close(fd);
}


static void
ngx_megapipe_free(ngx_megapipe_conn_t *mc)
{
    if (mc->write) {
        ngx_megapipe_free_write(mc);
    }

    if (mc->file != NGX_MEGAPIPE_NO_FILE) {
        ngx_megapipe_unuse_file(mc);
    }

    if (mc->read && !mc->read_small) {
        ngx_free(mc->read);
        mc->read = NULL;
    }

    if (nspare != NGX_MEGAPIPE_SPARE) {
        ngx_queue_insert_head(&spare_queue, &mc->queue);
        nspare++;
        return;
    }

    if (mc->read) {
        ngx_free(mc->read);
    }

    ngx_free(mc);
}


/* the handle is given up; the buffers are the kernel's until it has heard */

static void
ngx_megapipe_forget(ngx_megapipe_conn_t *mc)
{
    if (mc->changed) {
        mc->changed = 0;
        ngx_queue_remove(&mc->queue);
    }

    if (mc->timer.timer_set) {
        ngx_del_timer(&mc->timer);
    }

    mc->connection = NULL;
    ngx_queue_insert_tail(&limbo_queue, &mc->queue);
}


/* Returns the state of the connection, registered now if it was not before. */

static ngx_megapipe_conn_t *
ngx_megapipe_get(ngx_connection_t *c)
{
    int                   fd, err;
    ngx_megapipe_conn_t  *mc;

    if (c->read->index != NGX_INVALID_INDEX && c->read->index != 0) {
        return (ngx_megapipe_conn_t *) c->read->index;
    }

    mc = ngx_megapipe_alloc(c->log);
    if (mc == NULL) {
        return NULL;
    }

    mc->connection = c;
    mc->read_small = 1;
    mc->lwsocket = (c->fd < -1);
    mc->kind = ngx_megapipe_io(c) ? NGX_MEGAPIPE_IO : NGX_MEGAPIPE_POLL;

    if (mc->kind == NGX_MEGAPIPE_IO && mc->read == NULL) {
        mc->read = ngx_alloc(NGX_MEGAPIPE_READ, c->log);
        if (mc->read == NULL) {
            ngx_free(mc);
            return NULL;
        }
    }

    if (mc->read) {
        mc->read_pos = mc->read;
        mc->read_last = mc->read;
        mc->read_end = mc->read + NGX_MEGAPIPE_READ;
    }

    fd = mc->lwsocket ? -c->fd : c->fd;

    err = mp_register(channel, fd, mc, NULL, &mc->handle);

    if (err) {
        ngx_log_error(NGX_LOG_ALERT, c->log, -err,
                      "mp_register(%d) failed", c->fd);
        ngx_megapipe_free(mc);
        return NULL;
    }

    ngx_log_debug2(NGX_LOG_DEBUG_EVENT, c->log, 0,
                   "megapipe register: fd:%d handle:%d",
                   c->fd, mc->handle.id);

    c->read->index = (ngx_uint_t) (uintptr_t) mc;

    return mc;
}


/* Listening sockets */

static ngx_int_t
ngx_megapipe_accept_more(ngx_megapipe_conn_t *mc)
{
    int                   err;
    ngx_connection_t     *c;
    ngx_megapipe_conf_t  *mcf;

    c = mc->connection;
    mcf = ngx_event_get_conf(ngx_cycle->conf_ctx, ngx_megapipe_module);

    err = mp_accept(mc->handle, MP_FOREVER,
                    c->listening->completion && mcf->lwsocket);

    if (err) {
        ngx_log_error(NGX_LOG_ALERT, c->log, -err, "mp_accept() failed");
        return NGX_ERROR;
    }

    mc->accepting = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_megapipe_listen(ngx_connection_t *c)
{
    int                   err;
    cpu_set_t            *mask;
    ngx_megapipe_conn_t  *mc;

    if (c->read->index != NGX_INVALID_INDEX) {
        return NGX_OK;
    }

    mc = ngx_megapipe_alloc(c->log);
    if (mc == NULL) {
        return NGX_ERROR;
    }

    mc->connection = c;
    mc->kind = NGX_MEGAPIPE_LISTEN;
    mc->read_small = 1;

    /* "reuseport" has given the worker a socket, and a queue, of its own */

    mask = c->listening->reuseport ? NULL : &cpus;

    err = mp_register(channel, c->fd, mc, mask, &mc->handle);

    if (err == -EOPNOTSUPP && mask) {
        /* not TCP */
        err = mp_register(channel, c->fd, mc, NULL, &mc->handle);
    }

    if (err) {
        ngx_log_error(NGX_LOG_EMERG, c->log, -err, "mp_register(%V) failed",
                      &c->listening->addr_text);
        ngx_megapipe_free(mc);
        return NGX_ERROR;
    }

    c->read->index = (ngx_uint_t) (uintptr_t) mc;

    /* so it is, even while no ACCEPT is pending: there is a partition to end */

    c->read->active = 1;

    return ngx_megapipe_accept_more(mc);
}


static void
ngx_megapipe_accept(ngx_megapipe_conn_t *mc, struct mp_event *event)
{
    int                err;
    mp_handle          handle;
    socklen_t          len;
    ngx_event_t       *rev;
    ngx_socket_t       s;
    ngx_sockaddr_t     sa;

    rev = mc->connection->read;

    if (!(event->flags & MP_MORE)) {
        mc->accepting = 0;
    }

    if (event->result < 0) {
        err = -event->result;

        if (err == NGX_ECANCELED) {
            return;
        }

        ngx_log_error(NGX_LOG_CRIT, rev->log, err, "accepting failed");

        /* not here, where connections of this batch are still to be taken */

        accept_event.handler = ngx_megapipe_give_way;
        accept_event.data = mc->connection;
        accept_event.log = ngx_cycle->log;
        accept_event.cancelable = 1;
        ngx_add_timer(&accept_event, 0);
        return;
    }

    len = sizeof(ngx_sockaddr_t);

    if (event->flags & MP_IS_FD) {
        s = event->result;
        err = getpeername(s, &sa.sockaddr, &len) == -1 ? ngx_socket_errno : 0;

    } else {
        s = -event->result;
        handle.channel = channel;
        handle.id = event->result;
        err = -mp_getpeername(handle, &sa.sockaddr, &len);
    }

    if (err) {
        ngx_log_error(NGX_LOG_INFO, rev->log, err,
                      "the client has gone before it was accepted");
        (void) ngx_megapipe_close_socket(s);
        return;
    }

    (void) ngx_event_accepted(rev, s, &sa, len);
}


/*
 * What the kernel has accepted is served, then the partition ends, and the
 * connections in it go to the other workers.  What else completes meanwhile is
 * handled at once: it cannot wait, for what it is about may be closed next.
 */

static void
ngx_megapipe_stop_listening(ngx_connection_t *c)
{
    int                   n;
    struct mp_event       event;
    ngx_megapipe_conn_t  *mc;

    if (c->read->index == NGX_INVALID_INDEX) {
        return;
    }

    mc = (ngx_megapipe_conn_t *) c->read->index;

    if (mc->accepting && mp_cancel(mc->handle) == 0) {

        while (mc->accepting) {
            n = mp_dispatch(channel, &event, -1);

            if (n == 1) {
                ngx_megapipe_completed(&event);

            } else if (n != -EINTR) {
                break;
            }
        }
    }

    (void) mp_unregister(mc->handle);
    (void) mp_flush(channel);

    c->read->index = NGX_INVALID_INDEX;
    c->read->active = 0;
    ngx_megapipe_forget(mc);
}


/*
 * Descriptors or handles have run out: as ngx_event_accept() does, leave all
 * connections to the other workers for a while.
 */

static void
ngx_megapipe_give_way(ngx_event_t *ev)
{
    ngx_uint_t         i;
    ngx_listening_t   *ls;
    ngx_connection_t  *c;
    ngx_event_conf_t  *ecf;

    ls = ngx_cycle->listening.elts;

    for (i = 0; i < ngx_cycle->listening.nelts; i++) {
        c = ls[i].connection;

        if (c && c->read->active && c->type == SOCK_STREAM) {
            ngx_megapipe_stop_listening(c);
        }
    }

    ecf = ngx_event_get_conf(ngx_cycle->conf_ctx, ngx_event_core_module);

    ev->handler = ngx_megapipe_take_part;
    ngx_add_timer(ev, ecf->accept_mutex_delay);
}


static void
ngx_megapipe_take_part(ngx_event_t *ev)
{
    ngx_uint_t         i;
    ngx_listening_t   *ls;
    ngx_connection_t  *c;

    ls = ngx_cycle->listening.elts;

    for (i = 0; i < ngx_cycle->listening.nelts; i++) {
        c = ls[i].connection;

        if (c == NULL || c->read->active || c->type != SOCK_STREAM) {
            continue;
        }

        if (ngx_megapipe_listen(c) != NGX_OK) {
            ev->handler = ngx_megapipe_give_way;
            ngx_add_timer(ev, 0);
            return;
        }
    }
}


static ngx_int_t
ngx_megapipe_add_event(ngx_event_t *ev, ngx_int_t event, ngx_uint_t flags)
{
    ngx_connection_t     *c;
    ngx_megapipe_conn_t  *mc;

    c = ev->data;

    if (ev->accept && c->type == SOCK_STREAM) {
        return ngx_megapipe_listen(c);
    }

    mc = ngx_megapipe_get(c);
    if (mc == NULL) {
        return NGX_ERROR;
    }

    if (event == NGX_READ_EVENT) {
        mc->want_read = 1;

    } else {
        mc->want_write = 1;
    }

    ev->active = 1;
    ngx_megapipe_changed(mc);

    return NGX_OK;
}


static ngx_int_t
ngx_megapipe_del_event(ngx_event_t *ev, ngx_int_t event, ngx_uint_t flags)
{
    ngx_connection_t     *c;
    ngx_megapipe_conn_t  *mc;

    c = ev->data;

    if (ev->accept && c->type == SOCK_STREAM) {
        ngx_megapipe_stop_listening(c);
        return NGX_OK;
    }

    ev->active = 0;

    if (c->read->index == NGX_INVALID_INDEX || c->read->index == 0) {
        return NGX_OK;
    }

    mc = (ngx_megapipe_conn_t *) c->read->index;

    if (ev->write) {
        mc->want_write = 0;

    } else {
        mc->want_read = 0;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_megapipe_add_connection(ngx_connection_t *c)
{
    ngx_megapipe_conn_t  *mc;

    mc = ngx_megapipe_get(c);
    if (mc == NULL) {
        return NGX_ERROR;
    }

    mc->want_read = 1;
    mc->want_write = 1;
    c->read->active = 1;
    c->write->active = 1;
    ngx_megapipe_changed(mc);

    return NGX_OK;
}


static void
ngx_megapipe_close(ngx_megapipe_conn_t *mc)
{
    int  err;

    err = mp_close(mc->handle);

    if (err) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, -err,
                      "mp_close(%d) failed", mc->handle.id);
    }

    ngx_megapipe_forget(mc);
}


static ngx_int_t
ngx_megapipe_del_connection(ngx_connection_t *c, ngx_uint_t flags)
{
    ngx_megapipe_conn_t  *mc;

    c->read->active = 0;
    c->write->active = 0;

    if (c->read->index == NGX_INVALID_INDEX || c->read->index == 0) {

        if (c->fd < -1) {
            (void) ngx_megapipe_close_socket(c->fd);
            c->shared = 1;
        }

        return NGX_OK;
    }

    mc = (ngx_megapipe_conn_t *) c->read->index;
    c->read->index = NGX_INVALID_INDEX;

    if (mc->kind == NGX_MEGAPIPE_POLL) {
        (void) mp_unregister(mc->handle);
        ngx_megapipe_forget(mc);
        return NGX_OK;
    }

    /* the handle is closed here: ngx_close_connection() leaves it alone */

    c->shared = 1;

    if (mc->reset || mc->write_err
        || (mc->write == NULL && mc->file == NGX_MEGAPIPE_NO_FILE))
    {
        ngx_megapipe_close(mc);
        return NGX_OK;
    }

    mc->connection = NULL;
    mc->closing = 1;

    mc->timer.handler = ngx_megapipe_close_later;
    mc->timer.data = mc;
    mc->timer.log = ngx_cycle->log;
    mc->taken = (uint64_t) -1;
    ngx_add_timer(&mc->timer, NGX_MEGAPIPE_CLOSE_LOOK);

    ngx_megapipe_changed(mc);

    return NGX_OK;
}


/*
 * A number that changes when the peer has read something.  Other sockets than
 * TCP's do not tell how much it was, only how much it has left.
 */

static uint64_t
ngx_megapipe_taken(ngx_megapipe_conn_t *mc)
{
    uint32_t                  meminfo[SK_MEMINFO_VARS];
    socklen_t                 len;
    ngx_megapipe_tcp_info_t   ti;

    ngx_memzero(&ti, sizeof(ngx_megapipe_tcp_info_t));
    len = sizeof(ngx_megapipe_tcp_info_t);

    if (mp_getsockopt(mc->handle, IPPROTO_TCP, TCP_INFO, &ti, &len) == 0) {
        return ti.bytes_acked;
    }

    ngx_memzero(meminfo, sizeof(meminfo));
    len = sizeof(meminfo);

    (void) mp_getsockopt(mc->handle, SOL_SOCKET, SO_MEMINFO, meminfo, &len);

    return mc->file_pos + (uintptr_t) mc->write_pos
           - meminfo[SK_MEMINFO_WMEM_ALLOC];
}


/* as the kernel does: who reads slowly gets all, who does not read nothing */

static void
ngx_megapipe_close_later(ngx_event_t *ev)
{
    uint64_t              taken;
    ngx_megapipe_conn_t  *mc;

    mc = ev->data;

    taken = ngx_megapipe_taken(mc);

    if (taken == mc->taken) {
        ngx_megapipe_close(mc);
        return;
    }

    mc->taken = taken;
    ngx_add_timer(ev, NGX_MEGAPIPE_CLOSE_TIMEOUT);
}


/*
 * What handlers believe to be sent will never be.  What pending commands name
 * is kept until they complete.
 */

static void
ngx_megapipe_write_failed(ngx_megapipe_conn_t *mc, ngx_err_t err)
{
    mc->write_err = err;

    if (mc->write && mc->writing == 0) {
        ngx_megapipe_free_write(mc);
    }

    if (mc->file == NGX_MEGAPIPE_FILE_ASKED) {
        ngx_megapipe_unuse_file(mc);
    }

    if (mc->closing) {
        ngx_megapipe_changed(mc);
    }
}


/*
 * The same where the connection itself would not tell: the client waits for
 * what does not come, so the handlers are told that it is over.
 */

static void
ngx_megapipe_broken(ngx_megapipe_conn_t *mc, ngx_err_t err)
{
    ngx_event_t  *rev, *wev;

    ngx_megapipe_write_failed(mc, err);

    if (mc->connection == NULL) {
        return;
    }

    /* the reading one first: it ends the connection, and need not say why */

    if (!mc->read_eof && !mc->read_err) {
        mc->read_err = err;

        rev = mc->connection->read;
        rev->pending_eof = 1;
        rev->ready = 1;
        rev->available = -1;

        if (rev->active) {
            ngx_post_event(rev, &ngx_posted_events);
        }
    }

    wev = mc->connection->write;
    wev->ready = 1;

    if (wev->active) {
        ngx_post_event(wev, &ngx_posted_events);
    }
}


/* the commands that follow from what handlers have left behind */

static void
ngx_megapipe_arm_write(ngx_megapipe_conn_t *mc)
{
    int         err;
    size_t      size;
    ngx_uint_t  stuck;

    stuck = (mc->writing != 0);

    if (mc->write && !stuck) {
        size = mc->write_last - mc->write_pos;

        if (mc->nopush && mc->file == NGX_MEGAPIPE_FILE_ASKED) {
            err = mp_write_more(mc->handle, mc->write_pos, size);

        } else {
            err = mp_write(mc->handle, mc->write_pos, size);
        }

        if (err) {
            ngx_megapipe_broken(mc, -err);

        } else {
            mc->writing = size;
        }
    }

    /*
     * A WRITE that finds room is done when the next command runs; if it does
     * not, the SENDFILE fails with EBUSY, and its time is when the WRITE ends.
     */

    if (mc->file == NGX_MEGAPIPE_FILE_ASKED && !stuck) {
        err = mp_sendfile(mc->handle, mc->file_fd, mc->file_pos,
                          mc->file_size);
        if (err) {
            ngx_megapipe_broken(mc, -err);

        } else {
            mc->file = NGX_MEGAPIPE_FILE_PENDING;
        }
    }

    if (mc->shutdown && !mc->shut && !stuck
        && mc->file == NGX_MEGAPIPE_NO_FILE)
    {
        mc->shut = 1;
        err = mp_disconnect(mc->handle);

        if (err) {
            ngx_megapipe_broken(mc, -err);
        }
    }

    if (mc->closing && mc->write == NULL
        && mc->file == NGX_MEGAPIPE_NO_FILE)
    {
        ngx_megapipe_close(mc);
    }
}


static void
ngx_megapipe_arm_read(ngx_megapipe_conn_t *mc)
{
    int      err;
    size_t   size;
    u_char  *p;

    if (mc->reading || mc->read_eof || mc->read_err) {
        return;
    }

    if (mc->read_pos == mc->read_last) {

        /* a full buffer is followed by a large one, a small rest by a small */

        size = mc->read_end - mc->read;

        if (mc->read_small && mc->read_last == mc->read_end) {
            size = NGX_MEGAPIPE_READ_LARGE;

        } else if (!mc->read_small
                   && mc->read_last - mc->read < NGX_MEGAPIPE_READ)
        {
            size = NGX_MEGAPIPE_READ;
        }

        if (size != (size_t) (mc->read_end - mc->read)) {
            p = ngx_alloc(size, ngx_cycle->log);

            if (p) {
                ngx_free(mc->read);
                mc->read = p;
                mc->read_end = p + size;
                mc->read_small = (size == NGX_MEGAPIPE_READ);
            }
        }

        mc->read_pos = mc->read;
        mc->read_last = mc->read;
    }

    if (mc->read_last < mc->read_end) {
        err = mp_read(mc->handle, mc->read_last, mc->read_end - mc->read_last);

        if (err) {
            ngx_megapipe_broken(mc, -err);

        } else {
            mc->reading = 1;
        }
    }
}


static void
ngx_megapipe_arm_poll(ngx_megapipe_conn_t *mc)
{
    uint32_t           events;
    ngx_event_t       *rev, *wev;

    rev = mc->connection->read;
    wev = mc->connection->write;

    events = 0;

    /*
     * POLL looks at the state, and an end that was read remains one;
     * an event that is not polled for must be added again when it is not ready
     */

    rev->active = 0;
    wev->active = 0;

    if (mc->want_read && !rev->eof && !rev->error) {

        if (!rev->ready) {
            events |= EPOLLIN|EPOLLRDHUP;
            rev->active = 1;

        } else if (!rev->pending_eof) {
            events |= EPOLLRDHUP;
        }
    }

    if (mc->want_write && !wev->ready) {
        events |= EPOLLOUT;
        wev->active = 1;
    }

    if (mc->polls && (mc->polled & events) == events) {
        return;
    }

    if (events == 0) {
        return;
    }

    if (mc->polls) {
        (void) mp_cancel(mc->handle);
    }

    if (mp_poll(mc->handle, events) != 0) {

        /* the handlers look for themselves, and ask again */

        if (events & EPOLLIN) {
            rev->ready = 1;
            ngx_post_event(rev, &ngx_posted_events);
        }

        if (events & EPOLLOUT) {
            wev->ready = 1;
            ngx_post_event(wev, &ngx_posted_events);
        }

        return;
    }

    mc->polls++;
    mc->polled = events;
}


static void
ngx_megapipe_arm(ngx_megapipe_conn_t *mc)
{
    ngx_event_t  *wev;

    if (mc->kind == NGX_MEGAPIPE_POLL) {
        ngx_megapipe_arm_poll(mc);
        return;
    }

    if (mc->connection && mc->connection->read->active) {
        ngx_megapipe_arm_read(mc);
    }

    if (mc->connection) {
        wev = mc->connection->write;

        if (wev->active && !wev->ready && mc->write == NULL
            && mc->file == NGX_MEGAPIPE_NO_FILE)
        {
            wev->ready = 1;
            ngx_post_event(wev, &ngx_posted_events);
        }
    }

    ngx_megapipe_arm_write(mc);
}


static void
ngx_megapipe_arm_all(void)
{
    ngx_queue_t          *q;
    ngx_megapipe_conn_t  *mc;

    while (!ngx_queue_empty(&changed_queue)) {
        q = ngx_queue_head(&changed_queue);
        ngx_queue_remove(q);

        mc = ngx_queue_data(q, ngx_megapipe_conn_t, queue);
        mc->changed = 0;

        ngx_megapipe_arm(mc);
    }
}


/* the completions */

static void
ngx_megapipe_writable(ngx_megapipe_conn_t *mc)
{
    ngx_event_t  *wev;

    if (mc->connection == NULL || mc->file != NGX_MEGAPIPE_NO_FILE) {
        return;
    }

    wev = mc->connection->write;

    if (wev->ready) {
        return;
    }

    wev->ready = 1;
#if (NGX_THREADS)
    wev->complete = 1;
#endif

    if (wev->active) {
        wev->handler(wev);
    }
}


static void
ngx_megapipe_wrote(ngx_megapipe_conn_t *mc, int result)
{
    size_t  size;

    size = mc->writing;
    mc->writing = 0;

    if (mc->write_err || result < 0 || (size_t) result < size) {

        if (mc->write_err == 0) {
            mc->write_err = (result < 0) ? -result : NGX_EPIPE;
        }

        ngx_megapipe_write_failed(mc, mc->write_err);
        ngx_megapipe_writable(mc);
        return;
    }

    mc->write_pos += size;

    if (mc->write_pos == mc->write_last) {
        ngx_megapipe_free_write(mc);
    }

    if (mc->write || mc->closing || mc->shutdown
        || mc->file == NGX_MEGAPIPE_FILE_ASKED)
    {
        ngx_megapipe_changed(mc);
    }

    ngx_megapipe_writable(mc);
}


static void
ngx_megapipe_sent_file(ngx_megapipe_conn_t *mc, int result)
{
    mc->file = NGX_MEGAPIPE_FILE_ASKED;

    if (mc->write_err) {
        /* the WRITE before it has failed */
        ngx_megapipe_write_failed(mc, mc->write_err);
        ngx_megapipe_writable(mc);
        return;
    }

    if (result < 0 && result != -EBUSY) {
        ngx_megapipe_broken(mc, -result);
        return;
    }

    if (result == 0) {

        /*
         * if sendfile returns zero, then someone has truncated the file,
         * so the offset became beyond the end of the file
         */

        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                      "mp_sendfile() reported that the file was truncated "
                      "at %O", mc->file_pos);

        ngx_megapipe_broken(mc, NGX_ECONNABORTED);
        return;
    }

    if (result > 0) {
        mc->file_pos += result;
        mc->file_size -= result;
    }

    if (mc->file_size) {

        /* EBUSY: the completion of the WRITE makes the next attempt */

        if (mc->writing == 0) {
            ngx_megapipe_changed(mc);
        }

        return;
    }

    ngx_megapipe_unuse_file(mc);

    if (mc->write || mc->closing || mc->shutdown) {
        ngx_megapipe_changed(mc);
    }

    ngx_megapipe_writable(mc);
}


static void
ngx_megapipe_has_read(ngx_megapipe_conn_t *mc, int result)
{
    ngx_event_t  *rev;

    mc->reading = 0;

    if (mc->connection == NULL) {
        return;
    }

    rev = mc->connection->read;

    if (result > 0) {
        mc->read_last += result;

    } else {
        if (result == 0) {
            mc->read_eof = 1;

        } else {
            mc->read_err = -result;
        }

        rev->pending_eof = 1;
    }

    rev->ready = 1;
    rev->available = -1;

    /* the end of the connection is seen behind what nobody reads yet */

    ngx_megapipe_changed(mc);

    if (rev->active) {
        rev->handler(rev);
    }
}


static void
ngx_megapipe_polled(ngx_megapipe_conn_t *mc, int result)
{
    uint32_t           revents;
    ngx_event_t       *rev, *wev;
    ngx_connection_t  *c;

    mc->polls--;

    if (result == -ECANCELED || result == -EBUSY) {

        /* the one that was to follow came too early: now is its time */

        if (mc->polls == 0) {
            ngx_megapipe_changed(mc);
        }

        return;
    }

    c = mc->connection;
    rev = c->read;
    wev = c->write;

    revents = (result < 0) ? (uint32_t) EPOLLERR : (uint32_t) result;

    ngx_log_debug2(NGX_LOG_DEBUG_EVENT, c->log, 0,
                   "megapipe: fd:%d ev:%04XD", c->fd, revents);

    if (revents & (EPOLLERR|EPOLLHUP)) {
        revents |= EPOLLIN|EPOLLOUT;
    }

    ngx_megapipe_changed(mc);

    if ((revents & (EPOLLIN|EPOLLRDHUP)) && mc->want_read) {

        if (revents & (EPOLLRDHUP|EPOLLERR|EPOLLHUP)) {
            rev->pending_eof = 1;
        }

        /* the handler of the master's channel does not tell that it is empty */

        rev->active = 0;
        rev->ready = !rev->channel;
        rev->available = -1;

        rev->handler(rev);
    }

    if ((revents & EPOLLOUT) && mc->connection == c && mc->want_write) {

        wev->active = 0;
        wev->ready = 1;
#if (NGX_THREADS)
        wev->complete = 1;
#endif

        wev->handler(wev);
    }
}


static void
ngx_megapipe_completed(struct mp_event *event)
{
    ngx_megapipe_conn_t  *mc;

    mc = event->cookie;

    if (mc == NULL) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, -event->result,
                      "megapipe: command %d of handle %d, which is none",
                      event->cmd, event->handle.id);
        return;
    }

    if (mc->kind == NGX_MEGAPIPE_NOTIFY) {
        ngx_megapipe_notified();
        return;
    }

    if (mc->connection == NULL && !mc->closing) {
        ngx_log_debug1(NGX_LOG_DEBUG_EVENT, ngx_cycle->log, 0,
                       "megapipe: stale completion %p", mc);
        return;
    }

    ngx_log_debug3(NGX_LOG_DEBUG_EVENT, ngx_cycle->log, 0,
                   "megapipe: handle:%d command:%d result:%d",
                   event->handle.id, event->cmd, event->result);

    switch (event->cmd) {

    case MP_ACCEPT:
        ngx_megapipe_accept(mc, event);
        break;

    case MP_READ:
        ngx_megapipe_has_read(mc, event->result);
        break;

    case MP_WRITE:
        ngx_megapipe_wrote(mc, event->result);
        break;

    case MP_SENDFILE:
        ngx_megapipe_sent_file(mc, event->result);
        break;

    case MP_POLL:
        ngx_megapipe_polled(mc, event->result);
        break;

    default: /* MP_DISCONNECT: as shutdown(), of a connection that broke */
        break;
    }
}


static ngx_int_t
ngx_megapipe_process_events(ngx_cycle_t *cycle, ngx_msec_t timer,
    ngx_uint_t flags)
{
    int                   n, i;
    ngx_uint_t            heard, level;
    ngx_queue_t          *q, limbo;

    ngx_megapipe_arm_all();

    if (!ngx_queue_empty(&ngx_posted_events)) {
        timer = 0;
    }

    ngx_log_debug1(NGX_LOG_DEBUG_EVENT, cycle->log, 0,
                   "megapipe timer: %M", timer);

    /* with nothing fetched it is a system call, which takes all commands */

    heard = mp_hot(channel)->ev_next == mp_hot(channel)->ev_limit;

    ngx_queue_init(&limbo);

    if (!ngx_queue_empty(&limbo_queue)) {
        ngx_queue_add(&limbo, &limbo_queue);
        ngx_queue_init(&limbo_queue);
    }

    n = mp_dispatch_batch(channel, event_list, NGX_MEGAPIPE_EVENTS,
                          timer == NGX_TIMER_INFINITE ? -1
                                                      : (int64_t) timer * 1000,
                          NULL);

    if (flags & NGX_UPDATE_TIME || ngx_event_timer_alarm) {
        ngx_time_update();
    }

    while (!ngx_queue_empty(&limbo)) {
        q = ngx_queue_head(&limbo);
        ngx_queue_remove(q);

        if (heard && n >= 0) {
            ngx_megapipe_free(ngx_queue_data(q, ngx_megapipe_conn_t, queue));

        } else {
            ngx_queue_insert_tail(&limbo_queue, q);
        }
    }

    if (n < 0) {
        if (n == -EINTR) {

            if (ngx_event_timer_alarm) {
                ngx_event_timer_alarm = 0;
                return NGX_OK;
            }

            level = NGX_LOG_INFO;

        } else {
            level = NGX_LOG_ALERT;
        }

        ngx_log_error(level, cycle->log, -n, "mp_dispatch_batch() failed");
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        ngx_megapipe_completed(&event_list[i]);
    }

    return NGX_OK;
}


/* what handlers call: ngx_io */

static ssize_t
ngx_megapipe_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    size_t                n;
    ngx_err_t             err;
    ngx_event_t          *rev;
    ngx_megapipe_conn_t  *mc;

    if (!ngx_megapipe_io(c)) {
        return ngx_os_io.recv(c, buf, size);
    }

    rev = c->read;

    mc = ngx_megapipe_get(c);
    if (mc == NULL) {
        rev->error = 1;
        return NGX_ERROR;
    }

    n = ngx_min(size, (size_t) (mc->read_last - mc->read_pos));

    ngx_log_debug4(NGX_LOG_DEBUG_EVENT, c->log, 0,
                   "megapipe recv: handle:%d %uz of %uz eof:%d",
                   mc->handle.id, n, size, mc->read_eof);

    if (n) {
        ngx_memcpy(buf, mc->read_pos, n);
        mc->read_pos += n;

        if (mc->read_pos == mc->read_last) {
            rev->ready = mc->read_eof || mc->read_err;
            ngx_megapipe_changed(mc);
        }

        return n;
    }

    rev->ready = 0;

    if (mc->read_eof) {
        rev->eof = 1;
        return 0;
    }

    if (mc->read_err) {
        err = mc->read_err;
        rev->error = 1;
        return ngx_connection_error(c, err, "recv() failed");
    }

    ngx_megapipe_changed(mc);

    return NGX_AGAIN;
}


static ssize_t
ngx_megapipe_recv_chain(ngx_connection_t *c, ngx_chain_t *chain, off_t limit)
{
    size_t   size;
    ssize_t  n, total;

    if (!ngx_megapipe_io(c)) {
        return ngx_os_io.recv_chain(c, chain, limit);
    }

    total = 0;

    for ( /* void */ ; chain; chain = chain->next) {
        size = chain->buf->end - chain->buf->last;

        if (limit && (off_t) size > limit - total) {
            size = limit - total;
        }

        if (size == 0) {
            break;
        }

        n = ngx_megapipe_recv(c, chain->buf->last, size);

        if (n <= 0) {
            return total ? total : n;
        }

        total += n;

        if ((size_t) n < size || !c->read->ready) {
            break;
        }
    }

    return total;
}


/* Returns how much has found room in the buffer. */

static ssize_t
ngx_megapipe_put(ngx_megapipe_conn_t *mc, u_char *p, size_t size)
{
    size_t  n;

    if (mc->write == NULL) {
        mc->write = ngx_megapipe_alloc_write(mc->connection->log);
        if (mc->write == NULL) {
            return NGX_ERROR;
        }

        mc->write_pos = mc->write;
        mc->write_last = mc->write;
    }

    n = ngx_min(size,
                (size_t) (mc->write + NGX_MEGAPIPE_WRITE - mc->write_last));

    ngx_memcpy(mc->write_last, p, n);
    mc->write_last += n;

    return n;
}


static ssize_t
ngx_megapipe_send(ngx_connection_t *c, u_char *buf, size_t size)
{
    ssize_t               n;
    ngx_event_t          *wev;
    ngx_megapipe_conn_t  *mc;

    if (!ngx_megapipe_io(c)) {
        return ngx_os_io.send(c, buf, size);
    }

    wev = c->write;

    mc = ngx_megapipe_get(c);
    if (mc == NULL) {
        wev->error = 1;
        return NGX_ERROR;
    }

    if (mc->write_err) {
        wev->error = 1;
        (void) ngx_connection_error(c, mc->write_err, "send() failed");
        return NGX_ERROR;
    }

    if (mc->file != NGX_MEGAPIPE_NO_FILE) {
        wev->ready = 0;
        return NGX_AGAIN;
    }

    n = ngx_megapipe_put(mc, buf, size);

    if (n == NGX_ERROR) {
        wev->error = 1;
        return NGX_ERROR;
    }

    ngx_log_debug3(NGX_LOG_DEBUG_EVENT, c->log, 0,
                   "megapipe send: handle:%d %z of %uz",
                   mc->handle.id, n, size);

    ngx_megapipe_changed(mc);

    if ((size_t) n < size) {
        wev->ready = 0;
    }

    if (n == 0) {
        return NGX_AGAIN;
    }

    c->sent += n;

    return n;
}


static ngx_chain_t *
ngx_megapipe_send_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    off_t                 send, size;
    ssize_t               n;
    ngx_buf_t            *file;
    ngx_event_t          *wev;
    ngx_chain_t          *cl;
    ngx_megapipe_conn_t  *mc;

    if (!ngx_megapipe_io(c)) {
        return ngx_os_io.send_chain(c, in, limit);
    }

    wev = c->write;

    if (!wev->ready) {
        return in;
    }

    mc = ngx_megapipe_get(c);
    if (mc == NULL) {
        wev->error = 1;
        return NGX_CHAIN_ERROR;
    }

    if (limit == 0) {
        limit = NGX_MAX_OFF_T_VALUE;
    }

    if (mc->write_err) {
        wev->error = 1;
        (void) ngx_connection_error(c, mc->write_err, "send() failed");
        return NGX_CHAIN_ERROR;
    }

    send = 0;
    cl = in;

    while (cl && send < limit) {

        if (ngx_buf_special(cl->buf)) {
            cl = cl->next;
            continue;
        }

        if (mc->file != NGX_MEGAPIPE_NO_FILE) {
            /* what follows a file waits for it */
            wev->ready = 0;
            break;
        }

        if (cl->buf->in_file) {
            file = cl->buf;

            if (ngx_megapipe_use_file(file->file->fd, c->log) != NGX_OK) {
                wev->error = 1;
                return NGX_CHAIN_ERROR;
            }

            mc->nopush = (c->tcp_nopush == NGX_TCP_NOPUSH_UNSET);
            mc->file = NGX_MEGAPIPE_FILE_ASKED;
            mc->file_fd = file->file->fd;
            mc->file_pos = file->file_pos;
            mc->file_size = ngx_chain_coalesce_file(&cl,
                                                ngx_min(limit - send,
                                                        NGX_MEGAPIPE_SENDFILE));
            send += mc->file_size;
            ngx_megapipe_changed(mc);
            continue;
        }

        if (!ngx_buf_in_memory(cl->buf)) {
            ngx_log_error(NGX_LOG_ALERT, c->log, 0,
                          "bad buf in output chain t:%d r:%d f:%d %p %p-%p",
                          cl->buf->temporary, cl->buf->recycled,
                          cl->buf->in_file, cl->buf->start, cl->buf->pos,
                          cl->buf->last);
            ngx_debug_point();
            return NGX_CHAIN_ERROR;
        }

        size = ngx_min(cl->buf->last - cl->buf->pos, limit - send);

        n = ngx_megapipe_put(mc, cl->buf->pos, size);

        if (n == NGX_ERROR) {
            wev->error = 1;
            return NGX_CHAIN_ERROR;
        }

        send += n;
        ngx_megapipe_changed(mc);

        if (n < size) {
            wev->ready = 0;
            break;
        }

        cl = cl->next;
    }

    ngx_log_debug3(NGX_LOG_DEBUG_EVENT, c->log, 0,
                   "megapipe send chain: handle:%d %O file:%d",
                   mc->handle.id, send, mc->file);

    c->sent += send;

    return ngx_chain_update_sent(in, send);
}


int
ngx_megapipe_getsockname(ngx_connection_t *c, struct sockaddr *sa,
    socklen_t *len)
{
    int        err;
    mp_handle  handle;

    if (c->fd >= -1) {
        return getsockname(c->fd, sa, len);
    }

    handle.channel = channel;
    handle.id = -c->fd;

    err = mp_getsockname(handle, sa, len);

    if (err < 0) {
        ngx_set_socket_errno(-err);
        return -1;
    }

    return 0;
}


int
ngx_megapipe_getsockopt(ngx_connection_t *c, int level, int name, void *value,
    socklen_t *len)
{
    int                   err;
    mp_handle             handle;
    ngx_megapipe_conn_t  *mc;

    if (level == SOL_SOCKET && name == SO_ERROR && ngx_megapipe_io(c)) {

        /* the completion has taken it */

        mc = ngx_megapipe_get(c);
        *(int *) value = mc ? mc->read_err : 0;
        return 0;
    }

    if (c->fd >= -1) {
        return getsockopt(c->fd, level, name, value, len);
    }

    handle.channel = channel;
    handle.id = -c->fd;

    err = mp_getsockopt(handle, level, name, value, len);

    if (err < 0) {
        ngx_set_socket_errno(-err);
        return -1;
    }

    return 0;
}


int
ngx_megapipe_setsockopt(ngx_connection_t *c, int level, int name,
    const void *value, socklen_t len)
{
    int                   err;
    mp_handle             handle;
    ngx_megapipe_conn_t  *mc;

    if (level == SOL_SOCKET && name == SO_LINGER && ngx_megapipe_io(c)) {

        /* only used to reset: not to wait for what is not written yet */

        mc = ngx_megapipe_get(c);

        if (mc) {
            mc->reset = 1;
        }
    }

    if (c->fd >= -1) {
        return setsockopt(c->fd, level, name, value, len);
    }

    handle.channel = channel;
    handle.id = -c->fd;

    err = mp_setsockopt(handle, level, name, value, len);

    if (err < 0) {
        ngx_set_socket_errno(-err);
        return -1;
    }

    return 0;
}


int
ngx_megapipe_shutdown(ngx_connection_t *c, int how)
{
    ngx_megapipe_conn_t  *mc;

    if (!ngx_megapipe_io(c)) {
        return ngx_shutdown_socket(c->fd, how);
    }

    mc = ngx_megapipe_get(c);

    if (mc == NULL) {
        ngx_set_socket_errno(NGX_ENOMEM);
        return -1;
    }

    if (mc->read_err) {
        ngx_set_socket_errno(NGX_ENOTCONN);
        return -1;
    }

    /* after what is still to be written */

    mc->shutdown = 1;
    ngx_megapipe_changed(mc);

    return 0;
}


int
ngx_megapipe_close_socket(ngx_socket_t s)
{
    int        err;
    mp_handle  handle;

    if (s >= -1) {
        return ngx_close_socket(s);
    }

    handle.channel = channel;
    handle.id = -s;

    err = mp_close(handle);

    if (err < 0) {
        ngx_set_socket_errno(-err);
        return -1;
    }

    return 0;
}


static void *
ngx_megapipe_create_conf(ngx_cycle_t *cycle)
{
    ngx_megapipe_conf_t  *mcf;

    mcf = ngx_palloc(cycle->pool, sizeof(ngx_megapipe_conf_t));
    if (mcf == NULL) {
        return NULL;
    }

    mcf->lwsocket = NGX_CONF_UNSET;
    mcf->batch = NGX_CONF_UNSET_UINT;

    return mcf;
}


static char *
ngx_megapipe_init_conf(ngx_cycle_t *cycle, void *conf)
{
    ngx_megapipe_conf_t *mcf = conf;

    int                  err;
    char                 why[MP_EXPLAIN_SIZE];
    ngx_event_conf_t    *ecf;
    struct mp_channel   *ch;

    ngx_conf_init_value(mcf->lwsocket, 1);
    ngx_conf_init_uint_value(mcf->batch, MP_BATCH_DEFAULT);

    ecf = ngx_event_get_conf(cycle->conf_ctx, ngx_event_core_module);

    if (ecf->use != ngx_megapipe_module.ctx_index) {
        return NGX_CONF_OK;
    }

    err = mp_create(&ch);

    if (err) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "\"use megapipe\" is not possible: %s",
                      mp_explain(err, why, sizeof(why)));
        return NGX_CONF_ERROR;
    }

    mp_destroy(ch);

    return NGX_CONF_OK;
}


static char *
ngx_megapipe_batch(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_megapipe_conf_t  *mcf = conf;

    ngx_int_t             n;
    ngx_str_t            *value;

    if (mcf->batch != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        mcf->batch = 1;
        return NGX_CONF_OK;
    }

    n = ngx_atoi(value[1].data, value[1].len);

    if (n < 1 || n > MP_BATCH_MAX) {
        return "must be \"off\" or a number from 1 to 1024";
    }

    mcf->batch = n;

    return NGX_CONF_OK;
}
