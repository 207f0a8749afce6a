/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A fuzzer that knows what it does: most of its commands are valid, on objects
 * that suit them, some have one field wrong, a few are noise.
 *
 *	supervisor --- listening sockets, shared by all ---.
 *	  |  fork, kill -9, fork again                      |
 *	  +- worker --+- channel --+- thread: batches of    |
 *	  |           |            +- thread: commands      |
 *	  |           +- channel --+- ...     ^             |
 *	  |           |                       |             |
 *	  |           +- wrecker: unmaps memory, resets and closes
 *	  +- worker --- ...                     what they use
 *
 * A channel's objects are pairs: what is written to the one handle is read from
 * the other, so that data moves by commands alone.
 *
 *	fuzz [--seed N] [--commands N] [--workers N] [--channels N] [--threads N]
 *
 * A seed decides all that the threads choose; with one worker, one channel and
 * one thread also what the kernel sees.  Without arguments it is a short test.
 */
#ifndef MEGAPIPE_FUZZ_H
#define MEGAPIPE_FUZZ_H

#define MEGAPIPE_TEST_NO_HARNESS
#include "../megapipe_test.h"

#include <pthread.h>

#include "../../../kselftest.h"

#define NR_OPS		MEGAPIPE_OP_LAST
#define NR_IOCTLS	9
#define NR_ERRNO	134
#define NR_LISTENERS	4
#define NR_PAIRS	48
#define NR_CLIENTS	64
#define BATCH		64
#define MAX_THREADS	64
#define ARENA		(256 << 10)	/* where data goes to and comes from */
#define GUARD		(64 << 20)	/* behind it: lengths may be wrong */
#define HOLE		(64 << 10)	/* mapped now and then */
#define FILE_SIZE	(256 << 10)
#define WORKER_COMMANDS	15000		/* then it is replaced */
#define LEAST_PERCENT	30

/**
 * struct totals - what became of it all, shared by all processes
 * @commands: consumed by the kernel
 * @submitted: the same by operation
 * @ok: of these, completed without an error
 * @failed: completions by operation and error
 * @called: ioctls by number
 * @called_ok: of these, without an error
 * @killed: workers ended by kill -9
 * @ended: workers that ended by themselves
 * @broken: a worker saw what must not be
 */
struct totals {
	uint64_t commands;
	uint64_t submitted[NR_OPS];
	uint64_t ok[NR_OPS];
	uint64_t failed[NR_OPS][NR_ERRNO];
	uint64_t called[NR_IOCTLS];
	uint64_t called_ok[NR_IOCTLS];
	uint64_t killed;
	uint64_t ended;
	uint64_t broken;
};

enum kind {
	EMPTY,
	EVENTFD,	/* reads and writes always succeed */
	TIMERFD,	/* reads always succeed */
	SIGNALFD,	/* the same, when there is a signal */
	PIPE,
	FIFO,		/* open for both directions */
	TTY,		/* raw; a pseudo terminal's two ends */
	UNIX_STREAM,
	UNIX_DGRAM,	/* bound, sends to itself */
	UDP,		/* the same */
	TCP,		/* a client and the accepted connection */
};

/**
 * struct pair - two handles; what is written to the one the other reads
 * @kind: what they are
 * @handle: the handles, the same twice where one does both; 0: elsewhere
 * @fd: the descriptors, or -1
 * @addr: where datagrams go
 */
struct pair {
	enum kind	kind;
	int		handle[2];
	int		fd[2];
	struct mp_addr	addr;
};

struct listener {
	int		handle;
	bool		accepting;
};

struct client {
	int		fd;
	in_port_t	port;
};

struct channel {
	int		fd;
	pthread_mutex_t	lock;		/* of the fields below */
	struct pair	pairs[NR_PAIRS];
	struct listener	listeners[NR_LISTENERS];
};

/**
 * struct thread - one that sends commands
 * @rng: state of its random numbers
 * @nr: commands in @cmds
 * @arena: memory of its own, ARENA bytes and a guard
 * @vectors: next free struct iovec in the arena
 */
struct thread {
	struct channel		*channel;
	uint64_t		rng;
	unsigned int		nr;
	struct megapipe_cmd	cmds[BATCH];
	struct megapipe_event	events[2 * BATCH + 1];
	char			*arena;
	unsigned int		vectors;
	pthread_t		id;
};

/* Of all processes */
extern struct totals *totals;
extern uint64_t seed, wanted;
extern unsigned int nr_workers, nr_channels, nr_threads;
extern int listen_fds[NR_LISTENERS];
extern struct mp_addr listen_addrs[NR_LISTENERS];

/* Of a worker */
extern struct channel *channels;
extern char *hole;
extern int file_fd, disk_fd, epoll_fd;

/* random.c */
uint64_t next_random(uint64_t *rng);
unsigned int below(struct thread *t, unsigned int limit);
bool one_in(struct thread *t, unsigned int n);
uint32_t some_length(struct thread *t);
char *outgoing(struct thread *t);
char *incoming(struct thread *t);
uint64_t bad_address(struct thread *t);
uint32_t bad_number(struct thread *t);

/* totals.c */
void count(uint64_t *counter, uint64_t n);
void broken(const char *what, long value);
int call(struct channel *channel, unsigned long request, void *arg);
bool report(void);

/* pairs.c */
int register_fd(struct channel *channel, int fd);
void close_fds(const struct pair *pair);
void make_pair(struct thread *t);
void put_client(int fd, in_port_t port);
int make_client(int family, in_port_t *port);
void accepted(struct thread *t, const struct megapipe_event *event);

/* commands.c */
void emit(struct thread *t, struct megapipe_cmd cmd);
void move_data(struct thread *t, const struct pair *pair);
void emit_connect(struct thread *t, const struct pair *pair);

/* actions.c */
void fuzz_pair(struct thread *t);

/* ioctls.c */
void fuzz_ioctl(struct thread *t);

/* worker.c */
void run_worker(unsigned int number);

#endif /* MEGAPIPE_FUZZ_H */
