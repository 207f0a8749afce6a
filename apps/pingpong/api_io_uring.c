// SPDX-License-Identifier: MIT
/*
 * io_uring, as a program of today would use it: a ring and a listener
 * (SO_REUSEPORT) for each thread. System calls are made by hand: a library would
 * not change what they cost.
 *
 *	SINGLE_ISSUER | DEFER_TASKRUN	no other thread touches the ring, and the
 *		kernel completes requests when this one asks for completions
 *	NO_SQARRAY	entries are submitted in the order of the ring anyway
 *	registered ring	io_uring_enter() looks no file up
 *	multishot accept into direct descriptors: one request for ever, and
 *		connections have no entry in the process's table of files
 *	multishot receive from a ring of provided buffers: one request a
 *		connection, and no buffer for those that wait
 *	CQE_SKIP_SUCCESS for close(): nobody waits for it
 *	requests are submitted with the next wait: one system call a batch
 *
 * That is what its author advises ("io_uring and networking in 2023", liburing's
 * wiki; io_uring_setup(2), io_uring_register(2) and io_uring_enter(2)). Not used:
 * SQPOLL, whose thread would take a CPU of its own and count as work; zero-copy
 * sends, which pay from some KiB on; bundles of buffers, for a message is one.
 * RECVSEND_POLL_FIRST is for connections that have no data yet, but these
 * mostly do when they are accepted.
 *
 * What was received is sent from the buffer it lies in, one send at a time for
 * each connection, or pieces of the stream could overtake each other.
 *
 * With --messages the last send is linked to what ends the connection: the close
 * itself, if no receive is pending (of the only message it is not multishot), else
 * the receive's cancellation, after which it is closed: a shutdown would do as well,
 * but goes to a thread of its own.
 */
#include "api.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SQ_ENTRIES	1024
#define CQ_ENTRIES	16384
#define NR_BUFFERS	1024		/* a power of two */
#define PIECE_BYTES	4096
#define MAX_FILES	16384
#define GROUP		0
#define NOTHING		UINT32_MAX

#ifndef IORING_SETUP_NO_SQARRAY		/* the header of Linux 6.1 */
#define IORING_SETUP_NO_SQARRAY	(1U << 16)
#endif

enum request {
	ACCEPT,
	RECEIVE,
	SEND,
	CLOSE,
	CANCEL,
	STOP,
};

struct piece {
	uint32_t next;			/* of the same connection, or NOTHING */
	uint32_t from, to;		/* not sent yet */
};

struct connection {
	uint64_t bytes;			/* of the current message, echoed */
	uint64_t left;			/* to be received before the server closes it */
	uint32_t first, last;		/* pieces to send */
	uint32_t next_starved;
	bool sending, receiving;	/* such a request is under way */
	bool ended, failed;
	bool closing;			/* a linked request does it */
	bool cancelling;		/* such a request is under way */
};

struct io_uring_state {
	int ring;
	unsigned int enter_ring, enter_flags;	/* the registered ring, if it is */
	bool accepting;
	unsigned int to_submit;

	void *rings;
	size_t rings_bytes;
	unsigned int *sq_head, *sq_tail, sq_mask;
	struct io_uring_sqe *sqes;
	unsigned int *cq_head, *cq_tail, cq_mask;
	struct io_uring_cqe *cqes;

	struct io_uring_buf_ring *buffers;
	uint16_t buffers_tail;
	unsigned char *memory;
	struct piece pieces[NR_BUFFERS];

	uint32_t starved;		/* connections that found no buffer */
	unsigned int nr_files;
	struct connection connections[MAX_FILES];
};

static int enter(struct worker *w, unsigned int wait_for)
{
	struct io_uring_state *s = w->state;
	long n = syscall(__NR_io_uring_enter, s->enter_ring, s->to_submit, wait_for,
			 s->enter_flags, NULL, 0);

	count(&w->counters.syscalls, 1);
	if (n < 0)
		return -errno;
	s->to_submit -= n;
	return 0;
}

/* Entries that are linked to each other must be submitted together. */
static void make_room(struct worker *w, unsigned int entries)
{
	struct io_uring_state *s = w->state;

	/* The kernel takes all that is submitted: room for one is room again. */
	while (s->to_submit + entries > SQ_ENTRIES)
		enter(w, 0);
}

static struct io_uring_sqe *prepare(struct worker *w, enum request kind, uint32_t index)
{
	struct io_uring_state *s = w->state;
	unsigned int tail = *s->sq_tail;
	struct io_uring_sqe *sqe = &s->sqes[tail & s->sq_mask];

	make_room(w, 1);
	memset(sqe, 0, sizeof(*sqe));
	sqe->user_data = (uint64_t)kind << 32 | index;
	/* Only this thread submits, by a system call: no barrier is needed. */
	*s->sq_tail = tail + 1;
	s->to_submit++;
	return sqe;
}

static void start_accept(struct worker *w)
{
	struct io_uring_state *s = w->state;
	struct io_uring_sqe *sqe = prepare(w, ACCEPT, 0);

	sqe->opcode = IORING_OP_ACCEPT;
	sqe->fd = w->listener;
	sqe->ioprio = IORING_ACCEPT_MULTISHOT;
	sqe->file_index = IORING_FILE_INDEX_ALLOC;
	s->accepting = true;
}

static void start_receive(struct worker *w, uint32_t index)
{
	struct io_uring_state *s = w->state;
	struct io_uring_sqe *sqe = prepare(w, RECEIVE, index);

	sqe->opcode = IORING_OP_RECV;
	sqe->fd = index;
	sqe->flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
	/* For the only message there is nothing to go on with. */
	sqe->ioprio = s->connections[index].left > w->options->size ? IORING_RECV_MULTISHOT : 0;
	sqe->buf_group = GROUP;
	s->connections[index].receiving = true;
}

static void start_send(struct worker *w, uint32_t index)
{
	struct io_uring_state *s = w->state;
	struct connection *c = &s->connections[index];
	const struct piece *piece = &s->pieces[c->first];
	struct io_uring_sqe *sqe = prepare(w, SEND, index);

	sqe->opcode = IORING_OP_SEND;
	sqe->fd = index;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->addr = (uintptr_t)s->memory + (size_t)c->first * PIECE_BYTES + piece->from;
	sqe->len = piece->to - piece->from;
	sqe->msg_flags = MSG_NOSIGNAL;
	c->sending = true;
}

static void prepare_close(struct worker *w, uint32_t index)
{
	const struct io_uring_state *s = w->state;
	struct io_uring_sqe *sqe = prepare(w, CLOSE, index);

	sqe->opcode = IORING_OP_CLOSE;
	/* It is waited for only if it makes room for connections. */
	sqe->flags = s->accepting ? IOSQE_CQE_SKIP_SUCCESS : 0;
	sqe->file_index = index + 1;
}

/* The last piece, and with it the connection's end. */
static void start_last_send(struct worker *w, uint32_t index)
{
	struct io_uring_state *s = w->state;
	struct connection *c = &s->connections[index];
	struct io_uring_sqe *sqe;

	make_room(w, 2);
	start_send(w, index);
	sqe = &s->sqes[(*s->sq_tail - 1) & s->sq_mask];
	sqe->flags |= IOSQE_IO_LINK;
	/* Whole, or the link breaks. */
	sqe->msg_flags |= MSG_WAITALL | (w->options->fin_with_data ? MSG_MORE : 0);
	if (c->receiving) {
		sqe = prepare(w, CANCEL, index);
		sqe->opcode = IORING_OP_ASYNC_CANCEL;
		sqe->addr = (uint64_t)RECEIVE << 32 | index;
		c->cancelling = true;
	} else {
		c->closing = true;
		prepare_close(w, index);
	}
}

static void send_next(struct worker *w, uint32_t index)
{
	struct io_uring_state *s = w->state;
	const struct connection *c = &s->connections[index];

	if (__builtin_expect(c->left == 0 && c->first == c->last, 0))
		start_last_send(w, index);
	else
		start_send(w, index);
}

static void give_buffer(struct io_uring_state *s, uint32_t buffer)
{
	struct io_uring_buf *b = &s->buffers->bufs[s->buffers_tail & (NR_BUFFERS - 1)];

	b->addr = (uintptr_t)s->memory + (size_t)buffer * PIECE_BYTES;
	b->len = PIECE_BYTES;
	b->bid = buffer;
	/* Read by the kernel when it picks one. */
	__atomic_store_n(&s->buffers->tail, ++s->buffers_tail, __ATOMIC_RELEASE);
}

/* The connection's first piece has been sent, or never will be. */
static void drop_piece(struct worker *w, struct connection *c)
{
	struct io_uring_state *s = w->state;
	uint32_t piece = c->first;

	c->first = s->pieces[piece].next;
	give_buffer(s, piece);
	if (s->starved != NOTHING) {
		uint32_t index = s->starved;

		s->starved = s->connections[index].next_starved;
		start_receive(w, index);
	}
}

static void close_if_over(struct worker *w, uint32_t index)
{
	struct io_uring_state *s = w->state;
	struct connection *c = &s->connections[index];

	if (!(c->ended || c->failed) || c->closing || c->sending || c->receiving ||
	    c->cancelling)
		return;
	if (c->failed)
		while (c->first != NOTHING)
			drop_piece(w, c);
	if (c->first != NOTHING)
		return;
	prepare_close(w, index);
}

static void fail_connection(struct worker *w, struct connection *c)
{
	if (!c->failed)
		count(&w->counters.errors, 1);
	c->failed = true;
}

static void accepted(struct worker *w, const struct io_uring_cqe *cqe)
{
	struct io_uring_state *s = w->state;

	if (cqe->res >= 0) {
		struct connection *c = &s->connections[cqe->res];

		*c = (struct connection) {
			.first = NOTHING,
			.left = bytes_of_connection(w->options),
		};
		count(&w->counters.connections, 1);
		start_receive(w, cqe->res);
	}
	if (cqe->flags & IORING_CQE_F_MORE)
		return;
	/* Out of room: the next connection that closes makes some. */
	s->accepting = false;
	if (cqe->res == -ENFILE || cqe->res == -EMFILE)
		count(&w->counters.errors, 1);
	else
		start_accept(w);
}

static void received(struct worker *w, uint32_t index, const struct io_uring_cqe *cqe)
{
	struct io_uring_state *s = w->state;
	struct connection *c = &s->connections[index];

	c->receiving = cqe->flags & IORING_CQE_F_MORE;
	if (cqe->res > 0) {
		uint32_t piece = cqe->flags >> IORING_CQE_BUFFER_SHIFT;

		s->pieces[piece] = (struct piece) { .next = NOTHING, .to = cqe->res };
		if (c->first == NOTHING)
			c->first = piece;
		else
			s->pieces[c->last].next = piece;
		c->last = piece;
		c->left -= (uint64_t)cqe->res < c->left ? (uint64_t)cqe->res : c->left;
		if (!c->sending && !c->failed)
			send_next(w, index);
		if (!c->receiving && !c->failed && c->left)
			start_receive(w, index);
	} else if (cqe->res == -ENOBUFS && !c->failed) {
		c->next_starved = s->starved;
		s->starved = index;
		/* Counts as under way: it will be. */
		c->receiving = true;
		return;
	} else if (cqe->res == 0 || (cqe->res == -ECANCELED && c->left == 0)) {
		c->ended = true;
	} else {
		fail_connection(w, c);
	}
	close_if_over(w, index);
}

static void sent(struct worker *w, uint32_t index, const struct io_uring_cqe *cqe)
{
	struct io_uring_state *s = w->state;
	struct connection *c = &s->connections[index];
	struct piece *piece = &s->pieces[c->first];

	c->sending = false;
	if (cqe->res < 0) {
		fail_connection(w, c);
	} else {
		count_bytes(w, &c->bytes, cqe->res);
		piece->from += cqe->res;
		if (piece->from == piece->to)
			drop_piece(w, c);
		if (c->first != NOTHING)
			send_next(w, index);
	}
	close_if_over(w, index);
}

/* The send that it was linked to failed, which was told before. */
static COLD void not_closed(struct worker *w, uint32_t index)
{
	struct io_uring_state *s = w->state;

	s->connections[index].closing = false;
	close_if_over(w, index);
}

static int map_rings(struct io_uring_state *s, const struct io_uring_params *p)
{
	size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned int);
	size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	unsigned int *array;
	char *rings;

	s->rings_bytes = sq > cq ? sq : cq;
	rings = mmap(NULL, s->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		     s->ring, IORING_OFF_SQ_RING);
	s->sqes = mmap(NULL, p->sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_POPULATE, s->ring, IORING_OFF_SQES);
	if (rings == MAP_FAILED || s->sqes == MAP_FAILED)
		return -errno;
	s->rings = rings;
	s->sq_head = (unsigned int *)(rings + p->sq_off.head);
	s->sq_tail = (unsigned int *)(rings + p->sq_off.tail);
	s->sq_mask = p->sq_entries - 1;
	s->cq_head = (unsigned int *)(rings + p->cq_off.head);
	s->cq_tail = (unsigned int *)(rings + p->cq_off.tail);
	s->cq_mask = p->cq_entries - 1;
	s->cqes = (struct io_uring_cqe *)(rings + p->cq_off.cqes);
	if (p->flags & IORING_SETUP_NO_SQARRAY)
		return 0;
	array = (unsigned int *)(rings + p->sq_off.array);
	for (unsigned int i = 0; i < p->sq_entries; i++)
		array[i] = i;
	return 0;
}

static int register_files(struct io_uring_state *s)
{
	struct io_uring_rsrc_register files = { .flags = IORING_RSRC_REGISTER_SPARSE };
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	files.nr = limit.rlim_cur < MAX_FILES ? limit.rlim_cur : MAX_FILES;
	s->nr_files = files.nr;
	return syscall(__NR_io_uring_register, s->ring, IORING_REGISTER_FILES2, &files,
		       sizeof(files)) < 0 ? -errno : 0;
}

static int register_buffers(struct io_uring_state *s)
{
	const size_t bytes = NR_BUFFERS * sizeof(struct io_uring_buf);
	struct io_uring_buf_reg ring = { .ring_entries = NR_BUFFERS, .bgid = GROUP };

	s->buffers = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->buffers == MAP_FAILED)
		return -errno;
	ring.ring_addr = (uintptr_t)s->buffers;
	if (syscall(__NR_io_uring_register, s->ring, IORING_REGISTER_PBUF_RING, &ring, 1) < 0)
		return -errno;
	s->memory = alloc_touched((size_t)NR_BUFFERS * PIECE_BYTES);
	if (!s->memory)
		return -ENOMEM;
	for (uint32_t i = 0; i < NR_BUFFERS; i++)
		give_buffer(s, i);
	return 0;
}

/* The kernel keeps it for this thread, which alone submits. */
static void register_ring(struct io_uring_state *s)
{
	struct io_uring_rsrc_update ring = { .offset = UINT32_MAX, .data = s->ring };

	s->enter_ring = s->ring;
	s->enter_flags = IORING_ENTER_GETEVENTS;
	if (syscall(__NR_io_uring_register, s->ring, IORING_REGISTER_RING_FDS, &ring, 1) == 1) {
		s->enter_ring = ring.offset;
		s->enter_flags |= IORING_ENTER_REGISTERED_RING;
	}
}

/* NO_SQARRAY is of Linux 6.6, the rest of 6.1. */
static int set_up(struct io_uring_params *p)
{
	const struct io_uring_params asked = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_CQSIZE,
		.cq_entries = CQ_ENTRIES,
	};
	int ring;

	*p = asked;
	p->flags |= IORING_SETUP_NO_SQARRAY;
	ring = syscall(__NR_io_uring_setup, SQ_ENTRIES, p);
	if (ring >= 0 || errno != EINVAL)
		return ring;
	*p = asked;
	return syscall(__NR_io_uring_setup, SQ_ENTRIES, p);
}

static int io_uring_open(struct worker *w)
{
	struct io_uring_state *s = alloc_touched(sizeof(*s));
	struct io_uring_params p;
	struct io_uring_sqe *sqe;
	int err;

	if (!s)
		return -ENOMEM;
	w->state = s;
	s->starved = NOTHING;
	s->ring = set_up(&p);
	if (s->ring < 0)
		/* If not for a shortage, it is too old, switched off or forbidden. */
		return errno == ENOMEM || errno == EMFILE || errno == ENFILE ? -errno : -ENOENT;
	register_ring(s);
	err = map_rings(s, &p) ?: register_files(s) ?: register_buffers(s);
	if (err)
		return err;
	sqe = prepare(w, STOP, 0);
	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = w->stop_fd;
	sqe->poll32_events = POLLIN;
	start_accept(w);
	return enter(w, 0);
}

static void io_uring_run(struct worker *w)
{
	struct io_uring_state *s = w->state;

	for (;;) {
		unsigned int head, tail;
		int err = enter(w, 1);

		if (err && err != -EINTR && err != -EAGAIN && err != -EBUSY)
			count(&w->counters.errors, 1);
		head = *s->cq_head;
		tail = __atomic_load_n(s->cq_tail, __ATOMIC_ACQUIRE);
		for (; head != tail; head++) {
			const struct io_uring_cqe *cqe = &s->cqes[head & s->cq_mask];
			uint32_t index = cqe->user_data;

			switch (cqe->user_data >> 32) {
			case ACCEPT:
				accepted(w, cqe);
				break;
			case RECEIVE:
				received(w, index, cqe);
				break;
			case SEND:
				sent(w, index, cqe);
				break;
			case CANCEL:
				s->connections[index].cancelling = false;
				close_if_over(w, index);
				break;
			case CLOSE:
				if (cqe->res == -ECANCELED)
					not_closed(w, index);
				else if (cqe->res < 0)
					count(&w->counters.errors, 1);
				if (!s->accepting)
					start_accept(w);
				break;
			case STOP:
				return;
			}
		}
		__atomic_store_n(s->cq_head, head, __ATOMIC_RELEASE);
	}
}

static void io_uring_close(struct worker *w)
{
	struct io_uring_state *s = w->state;

	close(s->ring);
	munmap(s->rings, s->rings_bytes);
	munmap(s->sqes, (s->sq_mask + 1) * sizeof(struct io_uring_sqe));
	munmap(s->buffers, NR_BUFFERS * sizeof(struct io_uring_buf));
	free(s->memory);
	free(s);
}

const struct api api_io_uring = {
	.name = "io_uring",
	.own_listeners = true,
	.hides_sockets = true,
	.open = io_uring_open,
	.run = io_uring_run,
	.close = io_uring_close,
};
