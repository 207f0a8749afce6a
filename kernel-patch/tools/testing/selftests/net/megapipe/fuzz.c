// SPDX-License-Identifier: GPL-2.0-only
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
#define MEGAPIPE_TEST_NO_HARNESS
#include "megapipe_test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "../../kselftest.h"

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
	PIPE,
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

static struct totals *totals;
static uint64_t seed;
static uint64_t wanted;
static unsigned int nr_workers = 2, nr_channels = 2, nr_threads = 2;

static int listen_fds[NR_LISTENERS];
static struct mp_addr listen_addrs[NR_LISTENERS];

/* Of a worker */
static struct channel *channels;
static char *hole;
static int file_fd, disk_fd, epoll_fd;
static uint64_t share_done, share_wanted;
static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static struct client clients[NR_CLIENTS];
static unsigned int next_client;

/*
 * Choosing
 */

static uint64_t next_random(uint64_t *rng)
{
	/* splitmix64: any state will do */
	uint64_t z = (*rng += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static unsigned int below(struct thread *t, unsigned int limit)
{
	return next_random(&t->rng) % limit;
}

static bool one_in(struct thread *t, unsigned int n)
{
	return below(t, n) == 0;
}

/* Mostly short, sometimes more than a socket takes at once */
static uint32_t some_length(struct thread *t)
{
	if (one_in(t, 64))
		return 1 + below(t, ARENA / 2);
	return 1 + below(t, one_in(t, 8) ? 4096 : 256);
}

/* Half for what is sent, half for what comes */
static char *outgoing(struct thread *t)
{
	return t->arena + below(t, 64);
}

static char *incoming(struct thread *t)
{
	return t->arena + ARENA / 2 + below(t, 64);
}

/* Where nothing of ours is: never mapped, mapped now and then, the kernel's */
static uint64_t bad_address(struct thread *t)
{
	switch (below(t, 6)) {
	case 0:
		return 0;
	case 1:
		return 1 + below(t, 4096);
	case 2:
		return (uintptr_t)t->arena + ARENA - below(t, 64);
	case 3:
		return 0xffff888000000000ULL + below(t, 1U << 31);
	case 4:
		return next_random(&t->rng) | 1ULL << 62;
	default:
		return (uintptr_t)hole + below(t, HOLE);
	}
}

static uint32_t bad_number(struct thread *t)
{
	static const uint32_t numbers[] = {
		0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 0x40000000,
		0x7ffff000, 0x100000, 1024, 1025, 128, 129, 0x10000,
	};

	if (one_in(t, 4))
		return next_random(&t->rng);
	return numbers[below(t, ARRAY_SIZE(numbers))];
}

/*
 * Counting
 */

static void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static void broken(const char *what, long value)
{
	printf("# impossible: %s: %ld\n", what, value);
	fflush(stdout);
	count(&totals->broken, 1);
}

static int call(struct channel *channel, unsigned long request, void *arg)
{
	int ret = mp_ioctl(channel->fd, request, arg);
	unsigned int nr = _IOC_NR(request);

	if (nr < NR_IOCTLS) {
		count(&totals->called[nr], 1);
		if (ret >= 0)
			count(&totals->called_ok[nr], 1);
	}
	return ret;
}

static bool has_completion(unsigned int op)
{
	return op != MEGAPIPE_OP_CANCEL && op != MEGAPIPE_OP_COOKIE &&
	       op != MEGAPIPE_OP_UNREGISTER && op != MEGAPIPE_OP_CLOSE;
}

/*
 * Objects
 */

/* Returns the handle, or 0. */
static int register_fd(struct channel *channel, int fd)
{
	struct megapipe_register reg = { .fd = fd, .cookie = fd };
	int ret = call(channel, MEGAPIPE_IOC_REGISTER, &reg);

	return ret > 0 ? ret : 0;
}

static void close_fds(const struct pair *pair)
{
	if (pair->fd[0] >= 0)
		close(pair->fd[0]);
	if (pair->fd[1] >= 0 && pair->fd[1] != pair->fd[0])
		close(pair->fd[1]);
}

/* Descriptors for a pair of a kind; false if there are none to be had. */
static bool open_pair(struct thread *t, struct pair *pair)
{
	struct itimerspec often = { { 0, 1000 }, { 0, 1000 } };
	int family, flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
	int *fd = pair->fd;

	fd[0] = -1;
	fd[1] = -1;
	switch (pair->kind) {
	case EVENTFD:
		fd[0] = eventfd(1 << 30, EFD_NONBLOCK | EFD_SEMAPHORE);
		break;
	case TIMERFD:
		fd[0] = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
		if (fd[0] >= 0)
			timerfd_settime(fd[0], 0, &often, NULL);
		break;
	case PIPE:
		if (pipe2(fd, O_NONBLOCK | O_CLOEXEC) < 0)
			return false;
		/* What is written comes out at [1] everywhere else. */
		flags = fd[0];
		fd[0] = fd[1];
		fd[1] = flags;
		return true;
	case UNIX_STREAM:
		return socketpair(AF_UNIX, SOCK_STREAM | flags, 0, fd) == 0;
	case UNIX_DGRAM:
	case UDP:
		family = pair->kind == UDP ? AF_INET : AF_UNIX;
		if (pair->kind == UDP && one_in(t, 2))
			family = AF_INET6;
		fd[0] = socket(family, SOCK_DGRAM | flags, 0);
		if (fd[0] < 0)
			return false;
		pair->addr = mp_loopback(family);
		if (bind(fd[0], &pair->addr.sa, pair->addr.len) < 0)
			return true;
		mp_getsockname(fd[0], &pair->addr);
		break;
	default:
		break;
	}
	fd[1] = fd[0];
	return fd[0] >= 0;
}

static void put_pair(struct channel *channel, const struct pair *pair)
{
	unsigned int i;

	pthread_mutex_lock(&channel->lock);
	for (i = 0; i < NR_PAIRS; i++)
		if (channel->pairs[i].kind == EMPTY)
			break;
	if (i < NR_PAIRS)
		channel->pairs[i] = *pair;
	pthread_mutex_unlock(&channel->lock);
	if (i == NR_PAIRS) {
		struct megapipe_cmd cmds[2] = {
			mp_cmd_unregister(pair->handle[0]),
			mp_cmd_unregister(pair->handle[1]),
		};
		struct megapipe_event events[2];

		mp_dispatch(channel->fd, cmds, 2, events, 2, 0, 0, NULL);
		close_fds(pair);
	}
}

static void make_pair(struct thread *t)
{
	static const enum kind kinds[] = {
		EVENTFD, EVENTFD, TIMERFD, PIPE, UNIX_STREAM, UNIX_STREAM,
		UNIX_DGRAM, UDP,
	};
	struct pair pair = { .kind = kinds[below(t, 8)] };

	if (!open_pair(t, &pair))
		return;
	pair.handle[0] = register_fd(t->channel, pair.fd[0]);
	pair.handle[1] = pair.fd[1] == pair.fd[0] ? pair.handle[0] :
			 register_fd(t->channel, pair.fd[1]);
	if (pair.handle[0] && pair.handle[1])
		put_pair(t->channel, &pair);
	else
		close_fds(&pair);
}

/* Remember a client until its connection is accepted, or for a while. */
static void put_client(int fd, in_port_t port)
{
	struct client *client;
	int old;

	pthread_mutex_lock(&clients_lock);
	client = &clients[next_client++ % NR_CLIENTS];
	old = client->port ? client->fd : -1;
	client->fd = fd;
	client->port = port;
	pthread_mutex_unlock(&clients_lock);
	if (old >= 0)
		close(old);
}

/* The client of a connection, if it is one of this process. */
static int take_client(in_port_t port)
{
	int i, fd = -1;

	pthread_mutex_lock(&clients_lock);
	for (i = 0; i < NR_CLIENTS && port; i++) {
		if (clients[i].port == port) {
			fd = clients[i].fd;
			clients[i].port = 0;
			break;
		}
	}
	pthread_mutex_unlock(&clients_lock);
	return fd;
}

/* A client's socket, bound so that its port is known before it connects. */
static int make_client(int family, in_port_t *port)
{
	struct mp_addr addr = mp_loopback(family);
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, &addr.sa, addr.len) < 0) {
		close(fd);
		return -1;
	}
	mp_getsockname(fd, &addr);
	*port = addr.in.sin_port;	/* sin6_port lies at the same place */
	return fd;
}

/* An accepted connection and its client become a pair. */
static void accepted(struct thread *t, const struct megapipe_event *event)
{
	struct mp_addr peer = { .len = sizeof(peer.storage) };
	struct pair pair = { .kind = TCP, .fd = { -1, -1 } };
	struct megapipe_sockname name = {
		.handle = event->res,
		.peer = 1,
		.addr = (uintptr_t)&peer.storage,
		.len = sizeof(peer.storage),
	};

	if (event->flags & MEGAPIPE_EVENT_FD ||
	    !(event->res & MEGAPIPE_HANDLE_LWSOCKET)) {
		pair.fd[1] = event->res;
		getpeername(event->res, &peer.sa, &peer.len);
		pair.handle[1] = register_fd(t->channel, event->res);
	} else {
		pair.handle[1] = event->res;
		call(t->channel, MEGAPIPE_IOC_SOCKNAME, &name);
	}
	pair.fd[0] = take_client(peer.in.sin_port);
	if (pair.fd[0] >= 0)
		pair.handle[0] = register_fd(t->channel, pair.fd[0]);
	put_pair(t->channel, &pair);
}

/*
 * Commands
 */

static struct megapipe_cmd noise(struct thread *t)
{
	struct megapipe_cmd cmd = {
		.op = below(t, NR_OPS + 2),
		.flags = one_in(t, 4) ? below(t, 256) : 0,
		.resv = one_in(t, 8) ? below(t, 65536) : 0,
		.handle = below(t, 1 << 7),
		.addr = bad_address(t),
		.arg = bad_address(t),
		.len = bad_number(t),
		.aux = bad_number(t),
	};

	if (one_in(t, 2))
		cmd.handle |= MEGAPIPE_HANDLE_LWSOCKET | below(t, 4) << 20;
	return cmd;
}

/* Spoil one field. */
static void spoil(struct thread *t, struct megapipe_cmd *cmd)
{
	switch (below(t, 7)) {
	case 0:
		cmd->op = below(t, 256);
		break;
	case 1:
		cmd->flags ^= 1 << below(t, 8);
		break;
	case 2:
		cmd->resv = bad_number(t);
		break;
	case 3:
		cmd->handle ^= 1 << below(t, 31);
		break;
	case 4:
		cmd->addr = bad_address(t);
		break;
	case 5:
		cmd->arg = bad_address(t);
		break;
	default:
		/* Of a good address any length is safe: there is the guard. */
		if (one_in(t, 2))
			cmd->len = bad_number(t);
		else
			cmd->aux = bad_number(t);
	}
}

static void emit(struct thread *t, struct megapipe_cmd cmd)
{
	if (t->nr == BATCH)
		return;
	if (one_in(t, 64))
		cmd = noise(t);
	else if (one_in(t, 16))
		spoil(t, &cmd);
	t->cmds[t->nr++] = cmd;
}

/* The next command's own place for an address, in the arena */
static struct mp_addr *address_slot(struct thread *t)
{
	return (struct mp_addr *)(t->arena + ARENA / 8) + t->nr;
}

/* Vectors that cover @len bytes at @data, in the arena too */
static struct iovec *make_vectors(struct thread *t, char *data, uint32_t len,
				  uint32_t *nr)
{
	struct iovec *iov = (struct iovec *)(t->arena + ARENA / 4);
	uint32_t piece = 1 + len / (1 + below(t, 12)), i;

	iov += t->vectors;
	for (i = 0; len; i++) {
		iov[i].iov_base = one_in(t, 200) ?
				  (void *)(uintptr_t)bad_address(t) : data;
		iov[i].iov_len = piece < len ? piece : len;
		data += iov[i].iov_len;
		len -= iov[i].iov_len;
	}
	t->vectors += i;
	*nr = i;
	return iov;
}

/* Send @len bytes by @handle, in one of the ways there are. */
static void emit_write(struct thread *t, const struct pair *pair, int handle,
		       uint32_t len)
{
	char *data = outgoing(t);
	bool is_socket = pair->kind >= UNIX_STREAM;
	bool dgram = pair->kind == UNIX_DGRAM || pair->kind == UDP;
	struct mp_addr *addr = address_slot(t);
	struct iovec *iov;
	uint32_t nr;

	if (pair->kind == EVENTFD) {
		len = 8;
		data = (char *)addr;
		*(uint64_t *)data = 1;
	}
	if (dgram) {
		*addr = pair->addr;
		emit(t, mp_cmd_sendto(handle, data, len & 1023, addr,
				      addr->len));
		return;
	}
	if (is_socket && one_in(t, 6)) {
		emit(t, mp_cmd_sendfile(handle, file_fd, below(t, FILE_SIZE / 2),
					len));
		return;
	}
	if (is_socket && one_in(t, 8)) {
		emit(t, mp_cmd_sendto(handle, data, len, NULL, 0));
		return;
	}
	if (pair->kind != EVENTFD && one_in(t, 3)) {
		iov = make_vectors(t, data, len, &nr);
		emit(t, mp_cmd_writev(handle, iov, nr));
		return;
	}
	emit(t, mp_cmd_write(handle, data, len));
}

static void emit_read(struct thread *t, const struct pair *pair, int handle,
		      uint32_t len)
{
	bool is_socket = pair->kind >= UNIX_STREAM;
	char *data = incoming(t);
	struct iovec *iov;
	uint32_t nr;

	if (one_in(t, 100))
		data = hole + below(t, HOLE);
	if (is_socket && one_in(t, 2)) {
		emit(t, mp_cmd_recvfrom(handle, data, len,
					one_in(t, 2) ? t->arena + ARENA - 256 :
					NULL, 0));
		if (t->nr && t->cmds[t->nr - 1].arg)
			t->cmds[t->nr - 1].aux = below(t, 128);
	} else if (one_in(t, 2) && data != hole) {
		iov = make_vectors(t, data, len, &nr);
		emit(t, mp_cmd_readv(handle, iov, nr));
	} else {
		emit(t, mp_cmd_read(handle, data, len));
	}
}

static void move_data(struct thread *t, const struct pair *pair)
{
	bool duplex = pair->kind == UNIX_STREAM || pair->kind == TCP;
	int from = duplex && one_in(t, 2);
	uint32_t len = some_length(t);

	if (pair->kind == EVENTFD || pair->kind == TIMERFD)
		len = 8;
	if (pair->kind != TIMERFD)
		emit_write(t, pair, pair->handle[from], len);
	if (pair->handle[!from])
		emit_read(t, pair, pair->handle[!from], len + below(t, 512));
}

static void emit_connect(struct thread *t, const struct pair *pair)
{
	struct mp_addr *addr = address_slot(t);

	*addr = pair->addr;
	emit(t, mp_cmd_connect(pair->handle[0], addr, addr->len));
}

/* A handle of a listener comes, goes or is cancelled; with partition or not. */
static void change_listener(struct thread *t, unsigned int i)
{
	struct listener *listener = &t->channel->listeners[i];
	struct megapipe_register reg = {
		.fd = listen_fds[i],
		.cookie = i,
	};
	cpu_set_t mask;
	int handle, cpu;

	pthread_mutex_lock(&t->channel->lock);
	handle = listener->handle;
	listener->handle = 0;
	listener->accepting = false;
	pthread_mutex_unlock(&t->channel->lock);
	if (handle) {
		if (one_in(t, 2))
			emit(t, mp_cmd_cancel(handle));
		/* Not CLOSE: the descriptor is for the others too. */
		emit(t, mp_cmd_unregister(handle));
	}

	CPU_ZERO(&mask);
	for (cpu = 0; cpu < mp_cpus(); cpu++)
		if (one_in(t, 2))
			CPU_SET(cpu, &mask);
	if (i % 2) {
		reg.flags = MEGAPIPE_REG_PARTITION;
		reg.cpu_mask = (uintptr_t)&mask;
		reg.cpu_mask_size = sizeof(mask);
	}
	handle = call(t->channel, MEGAPIPE_IOC_REGISTER, &reg);
	if (handle < 0)
		return;
	pthread_mutex_lock(&t->channel->lock);
	if (!listener->handle) {
		listener->handle = handle;
		handle = 0;
	}
	pthread_mutex_unlock(&t->channel->lock);
	if (handle)
		emit(t, mp_cmd_unregister(handle));
}

/* By a command, or by a system call and registered when it is accepted */
static void open_connection(struct thread *t)
{
	unsigned int i = below(t, NR_LISTENERS);
	const struct mp_addr *to = &listen_addrs[i];
	struct listener *listener = &t->channel->listeners[i];
	struct pair pair = { .kind = TCP, .addr = *to };
	in_port_t port;
	int fd, handle;
	bool accept;

	if (!listener->handle)
		change_listener(t, i);
	fd = make_client(to->sa.sa_family, &port);
	if (fd < 0)
		return;
	if (one_in(t, 3)) {
		pair.handle[0] = register_fd(t->channel, fd);
		emit_connect(t, &pair);
	} else {
		connect(fd, &to->sa, to->len);
	}
	put_client(fd, port);

	pthread_mutex_lock(&t->channel->lock);
	handle = listener->handle;
	accept = !listener->accepting || one_in(t, 32);
	listener->accepting = true;
	pthread_mutex_unlock(&t->channel->lock);
	if (accept)
		emit(t, mp_cmd_accept(handle, one_in(t, 16) ? 0 :
				      1 + below(t, 2) * below(t, 3),
				      one_in(t, 3) ? 0 : MEGAPIPE_CMD_LWSOCKET));
}

/* A pair ends: by CLOSE, by UNREGISTER, with the descriptor closed before. */
static void end_pair(struct thread *t, const struct pair *pair)
{
	int i, both = pair->handle[1] != pair->handle[0] ? 2 : 1;
	int early = one_in(t, 4);

	if (early)
		close_fds(pair);
	for (i = 0; i < both; i++) {
		if (!pair->handle[i])
			continue;
		if (one_in(t, 2) && pair->kind >= UNIX_STREAM)
			emit(t, mp_cmd_disconnect(pair->handle[i]));
		if (pair->fd[i] < 0 || early || one_in(t, 2)) {
			emit(t, mp_cmd_close(pair->handle[i]));
		} else {
			emit(t, mp_cmd_unregister(pair->handle[i]));
			close(pair->fd[i]);
		}
	}
}

static void fuzz_pair(struct thread *t)
{
	struct channel *channel = t->channel;
	unsigned int i = below(t, NR_PAIRS), dice = below(t, 1000), n;
	struct pair pair;
	int side = below(t, 2);

	pthread_mutex_lock(&channel->lock);
	pair = channel->pairs[i];
	if (dice < 10)
		channel->pairs[i].kind = EMPTY;
	pthread_mutex_unlock(&channel->lock);

	if (pair.kind == EMPTY) {
		if (one_in(t, 3))
			open_connection(t);
		else
			make_pair(t);
		return;
	}
	if (!pair.handle[side])
		side = !side;
	if (dice < 10) {
		end_pair(t, &pair);
	} else if (dice < 14) {
		change_listener(t, below(t, NR_LISTENERS));
	} else if (dice < 34 && pair.kind >= UNIX_DGRAM && pair.kind != TCP) {
		emit_connect(t, &pair);
	} else if (dice < 36 && pair.kind == UNIX_STREAM) {
		emit(t, mp_cmd_disconnect(pair.handle[side]));
	} else if (dice < 120) {
		emit(t, mp_cmd_poll(pair.handle[side], one_in(t, 8) ?
				    EPOLLIN : EPOLLIN | EPOLLOUT));
	} else if (dice < 250) {
		emit(t, mp_cmd_cancel(pair.handle[side]));
	} else if (dice < 600) {
		for (n = below(t, 4); n; n--)
			emit(t, mp_cmd_cookie(pair.handle[side],
					      next_random(&t->rng)));
	} else {
		move_data(t, &pair);
	}
}

/*
 * The other ioctls
 */

static void fuzz_register(struct thread *t)
{
	static const uint32_t flags[] = { 0, 1, 2, 3, 0x80000000 };
	const int fds[] = {
		-1, disk_fd, epoll_fd, t->channel->fd, 0, 1 << 20, file_fd,
		listen_fds[0],
	};
	cpu_set_t mask;
	struct megapipe_register reg = {
		.fd = fds[below(t, 8)],
		.flags = flags[below(t, 5)],
		.cpu_mask = one_in(t, 2) ? bad_address(t) : (uintptr_t)&mask,
		.cpu_mask_size = bad_number(t),
		.resv = one_in(t, 8),
	};
	int ret;

	/* More than the set is read from the stack behind it: harmless. */
	memset(&mask, one_in(t, 2) ? 0 : 0xff, sizeof(mask));
	ret = call(t->channel, MEGAPIPE_IOC_REGISTER, &reg);
	if (ret > 0)
		emit(t, mp_cmd_unregister(ret));
}

static void fuzz_sockopt(struct thread *t, int handle)
{
	static const int options[][2] = {
		{ SOL_SOCKET, SO_RCVBUF }, { SOL_SOCKET, SO_SNDBUF },
		{ SOL_SOCKET, SO_KEEPALIVE }, { SOL_SOCKET, SO_PRIORITY },
		{ IPPROTO_TCP, TCP_NODELAY }, { IPPROTO_TCP, TCP_CORK },
		{ IPPROTO_TCP, TCP_QUICKACK }, { IPPROTO_TCP, TCP_INFO },
		{ IPPROTO_IP, 1 /* IP_TOS */ }, { IPPROTO_IPV6, 67 },
		{ SOL_SOCKET, SO_REUSEPORT }, { SOL_SOCKET, SO_LINGER },
		{ IPPROTO_TCP, 31 /* TCP_ULP */ },
	};
	const int *option = options[below(t, 13)];
	struct {
		uint32_t words[64];
	} value = { { 4096 + below(t, 65536), 1 } };
	struct megapipe_sockopt opt = {
		.handle = handle,
		.level = one_in(t, 16) ? bad_number(t) : option[0],
		.name = one_in(t, 16) ? bad_number(t) : option[1],
		.len = one_in(t, 16) ? bad_number(t) : 4,
		.value = one_in(t, 16) ? bad_address(t) : (uintptr_t)&value,
		.resv = one_in(t, 64),
	};

	if (one_in(t, 2)) {
		/* Never more than there is room for on this stack. */
		if (opt.len > sizeof(value))
			opt.value = bad_address(t) & ~(uint64_t)7;
		if (opt.value == (uintptr_t)t->arena)
			opt.value = 0;
		call(t->channel, MEGAPIPE_IOC_GETSOCKOPT, &opt);
	} else {
		call(t->channel, MEGAPIPE_IOC_SETSOCKOPT, &opt);
	}
}

/* An lwsocket becomes a descriptor, and that is closed. */
static void fuzz_tofd(struct thread *t, const struct pair *pair)
{
	struct megapipe_tofd tofd = {
		.handle = pair->handle[1],
		.flags = one_in(t, 8) ? bad_number(t) : O_CLOEXEC | O_NONBLOCK,
		.resv = one_in(t, 16),
	};
	int fd = call(t->channel, MEGAPIPE_IOC_TOFD, &tofd);

	if (fd >= 0)
		close(fd);
}

static void fuzz_ioctl(struct thread *t)
{
	struct channel *channel = t->channel;
	unsigned int i = below(t, NR_PAIRS);
	struct megapipe_info info;
	struct megapipe_stats stats;
	struct megapipe_listener listener = {};
	struct megapipe_dispatch dispatch = {};
	struct sockaddr_storage addr;
	struct megapipe_sockname name = { .len = sizeof(addr) };
	struct pair pair;

	pthread_mutex_lock(&channel->lock);
	pair = channel->pairs[i];
	listener.handle = channel->listeners[i % NR_LISTENERS].handle;
	pthread_mutex_unlock(&channel->lock);

	switch (below(t, 12)) {
	case 0:
		call(channel, MEGAPIPE_IOC_INFO, &info);
		break;
	case 1:
		call(channel, MEGAPIPE_IOC_STATS, &stats);
		break;
	case 2:
		fuzz_register(t);
		break;
	case 3:
		call(channel, MEGAPIPE_IOC_LISTENER, &listener);
		break;
	case 4:
		name.handle = pair.handle[1];
		name.peer = below(t, 2);
		name.addr = one_in(t, 8) ? bad_address(t) : (uintptr_t)&addr;
		if (one_in(t, 8))
			name.len = below(t, sizeof(addr));
		call(channel, MEGAPIPE_IOC_SOCKNAME, &name);
		break;
	case 5:
		if (pair.kind == TCP)
			fuzz_tofd(t, &pair);
		break;
	case 6:
		dispatch.cmds = bad_address(t);
		dispatch.nr_cmds = bad_number(t);
		dispatch.events = bad_address(t);
		dispatch.max_events = bad_number(t);
		dispatch.flags = one_in(t, 4) ? bad_number(t) : 0;
		call(channel, MEGAPIPE_IOC_DISPATCH, &dispatch);
		break;
	case 7:
		ioctl(channel->fd, _IOWR(MEGAPIPE_IOC_MAGIC, below(t, 256),
					 char[64]), bad_address(t));
		break;
	case 8:
		/* Every ioctl with an argument that is not there */
		ioctl(channel->fd, _IOWR(MEGAPIPE_IOC_MAGIC, below(t, 9),
					 struct megapipe_info), bad_address(t));
		mp_ioctl(channel->fd, MEGAPIPE_IOC_INFO,
			 (void *)(uintptr_t)bad_address(t));
		break;
	default:
		if (pair.kind >= UNIX_STREAM)
			fuzz_sockopt(t, pair.handle[below(t, 2)]);
	}
}

/*
 * Threads
 */

static void look_at(struct thread *t, const struct megapipe_event *event)
{
	if (event->op >= 256 || event->data || event->res < -4095)
		broken("completion", event->op);
	if (event->op >= NR_OPS)
		return;
	if (event->op == MEGAPIPE_OP_ACCEPT) {
		if (event->res >= 0)
			accepted(t, event);
		if (!(event->flags & MEGAPIPE_EVENT_MORE)) {
			unsigned int i;

			pthread_mutex_lock(&t->channel->lock);
			for (i = 0; i < NR_LISTENERS; i++)
				if (t->channel->listeners[i].handle ==
				    event->handle && event->res != -EBUSY)
					t->channel->listeners[i].accepting = false;
			pthread_mutex_unlock(&t->channel->lock);
		} else {
			return;		/* counted once, at its end */
		}
	}
	if (event->res >= 0)
		count(&totals->ok[event->op], 1);
	else if (-event->res < NR_ERRNO)
		count(&totals->failed[event->op][-event->res], 1);
	else
		broken("error number", event->res);
}

static void send_batch(struct thread *t)
{
	struct megapipe_dispatch dispatch = {
		.cmds = (uintptr_t)t->cmds,
		.nr_cmds = t->nr,
		.events = (uintptr_t)t->events,
		.max_events = one_in(t, 16) ? below(t, 4) : 2 * BATCH,
	};
	static const struct megapipe_event canary = { .data = 0x5a5a5a5a };
	unsigned int i, done;
	sigset_t mask;
	int ret;

	if (one_in(t, 16) && dispatch.max_events) {
		dispatch.min_events = 1;
		dispatch.timeout_ns = below(t, 300000);
	}
	if (one_in(t, 64)) {
		sigfillset(&mask);
		dispatch.sigmask = (uintptr_t)&mask;
		dispatch.sigsetsize = 8;
	}
	t->events[2 * BATCH] = canary;
	ret = call(t->channel, MEGAPIPE_IOC_DISPATCH, &dispatch);
	done = dispatch.done_cmds;
	if (ret < 0 && ret != -EINTR) {
		broken("dispatch", ret);
		return;
	}
	if (done > t->nr || ret > (int)dispatch.max_events ||
	    memcmp(&t->events[2 * BATCH], &canary, sizeof(canary)))
		broken("count of a dispatch", ret);
	for (i = 0; i < done && i < t->nr; i++)
		if (t->cmds[i].op < NR_OPS)
			count(&totals->submitted[t->cmds[i].op], 1);
	count(&totals->commands, done);
	__atomic_fetch_add(&share_done, done ?: 1, __ATOMIC_RELAXED);
	for (i = 0; ret > 0 && i < (unsigned int)ret; i++)
		look_at(t, &t->events[i]);
	t->nr = 0;
	t->vectors = 0;
}

static void *run_thread(void *arg)
{
	struct thread *t = arg;

	while (__atomic_load_n(&share_done, __ATOMIC_RELAXED) < share_wanted) {
		unsigned int size = one_in(t, 8) ? 1 + below(t, 4) :
				    BATCH / 2 + below(t, BATCH / 2);

		while (t->nr < size)
			fuzz_pair(t);
		if (one_in(t, 4))
			fuzz_ioctl(t);
		send_batch(t);
	}
	return NULL;
}

/*
 * What happens to a program while the kernel works for it: memory goes, and
 * the other end of a connection, or its own, does what it likes.
 */
static void wreck(uint64_t *rng)
{
	struct channel *channel = &channels[next_random(rng) % nr_channels];
	struct sockaddr reset = { .sa_family = AF_UNSPEC };
	struct pair pair;
	int fd;

	pthread_mutex_lock(&channel->lock);
	pair = channel->pairs[next_random(rng) % NR_PAIRS];
	pthread_mutex_unlock(&channel->lock);
	fd = pair.fd[next_random(rng) % 2];

	switch (next_random(rng) % 4) {
	case 0:
		munmap(hole, HOLE / 2);
		break;
	case 1:
		mprotect(hole, HOLE / 2, PROT_READ);
		break;
	case 2:
		if (pair.kind == TCP)
			connect(fd, &reset, sizeof(reset));
		break;
	case 3:
		if (pair.kind == TCP)
			shutdown(fd, next_random(rng) % 3);
		break;
	}
	usleep(2000);
	mmap(hole, HOLE, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void *reserve(size_t size)
{
	char *memory = mmap(NULL, size + GUARD, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		mp_die("mmap: %s", strerror(errno));
	mp_must(mprotect(memory, size, PROT_READ | PROT_WRITE));
	return memory;
}

static void run_worker(unsigned int number)
{
	unsigned int nr = nr_channels * nr_threads, i;
	struct thread *threads = calloc(nr, sizeof(*threads));
	uint64_t rng = seed ^ (uint64_t)number << 32;
	char *page;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	channels = calloc(nr_channels, sizeof(*channels));
	hole = reserve(HOLE);
	file_fd = mp_must(memfd_create("fuzz", MFD_CLOEXEC));
	mp_must(ftruncate(file_fd, FILE_SIZE));
	page = mmap(NULL, FILE_SIZE, PROT_WRITE, MAP_SHARED, file_fd, 0);
	memset(page, 'x', FILE_SIZE);
	disk_fd = mp_must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	epoll_fd = mp_must(epoll_create1(EPOLL_CLOEXEC));
	share_wanted = WORKER_COMMANDS;
	if (wanted / nr_workers + 1 < share_wanted)
		share_wanted = wanted / nr_workers + 1;

	for (i = 0; i < nr_channels; i++) {
		channels[i].fd = mp_open();
		pthread_mutex_init(&channels[i].lock, NULL);
	}
	for (i = 0; i < nr; i++) {
		threads[i].channel = &channels[i % nr_channels];
		threads[i].rng = next_random(&rng);
		threads[i].arena = reserve(ARENA);
		if (pthread_create(&threads[i].id, NULL, run_thread, &threads[i]))
			mp_die("pthread_create");
	}
	while (__atomic_load_n(&share_done, __ATOMIC_RELAXED) < share_wanted)
		wreck(&rng);
	for (i = 0; i < nr; i++)
		pthread_join(threads[i].id, NULL);
	_exit(0);
}

/*
 * The supervisor
 */

static pid_t start_worker(unsigned int number)
{
	pid_t pid;

	fflush(stdout);
	pid = mp_must(fork());
	if (!pid)
		run_worker(number);
	return pid;
}

/* Run workers, ending some of them early, until enough is done. */
static bool supervise(void)
{
	unsigned int started = 0, i;
	uint64_t rng = seed, said = 0;
	long long begun = mp_now_ns();
	pid_t pids[MAX_THREADS] = {};
	int status;

	for (i = 0; i < nr_workers; i++)
		pids[i] = start_worker(started++);
	while (totals->commands < wanted && !totals->broken) {
		usleep(100000);
		i = next_random(&rng) % nr_workers;
		/* Each lives for some seconds; kill it at any of its moments. */
		if (next_random(&rng) % 64 == 0)
			kill(pids[i], SIGKILL);
		for (i = 0; i < nr_workers; i++) {
			if (waitpid(pids[i], &status, WNOHANG) != pids[i])
				continue;
			if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
				totals->killed++;
			} else if (WIFEXITED(status) && !WEXITSTATUS(status)) {
				totals->ended++;
			} else {
				broken("worker's status", status);
				return false;
			}
			pids[i] = start_worker(started++);
		}
		if (totals->commands - said >= 500000) {
			said = totals->commands;
			printf("# %llu commands, %lld per second\n",
			       (unsigned long long)said, (long long)said *
			       1000000000LL / (mp_now_ns() - begun));
			fflush(stdout);
		}
	}
	for (i = 0; i < nr_workers; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], &status, 0);
	}
	printf("# %llu commands in %lld s, %llu workers killed, %llu ended\n",
	       (unsigned long long)totals->commands,
	       (mp_now_ns() - begun) / 1000000000LL,
	       (unsigned long long)totals->killed,
	       (unsigned long long)totals->ended);
	return !totals->broken;
}

static const char * const op_names[NR_OPS] = {
	[MEGAPIPE_OP_ACCEPT]		= "ACCEPT",
	[MEGAPIPE_OP_CONNECT]		= "CONNECT",
	[MEGAPIPE_OP_READ]		= "READ",
	[MEGAPIPE_OP_READV]		= "READV",
	[MEGAPIPE_OP_RECVFROM]		= "RECVFROM",
	[MEGAPIPE_OP_WRITE]		= "WRITE",
	[MEGAPIPE_OP_WRITEV]		= "WRITEV",
	[MEGAPIPE_OP_SENDTO]		= "SENDTO",
	[MEGAPIPE_OP_SENDFILE]		= "SENDFILE",
	[MEGAPIPE_OP_POLL]		= "POLL",
	[MEGAPIPE_OP_DISCONNECT]	= "DISCONNECT",
	[MEGAPIPE_OP_CANCEL]		= "CANCEL",
	[MEGAPIPE_OP_COOKIE]		= "COOKIE",
	[MEGAPIPE_OP_UNREGISTER]	= "UNREGISTER",
	[MEGAPIPE_OP_CLOSE]		= "CLOSE",
};

static const char * const ioctl_names[NR_IOCTLS] = {
	"INFO", "STATS", "REGISTER", "DISPATCH", "SETSOCKOPT", "GETSOCKOPT",
	"SOCKNAME", "TOFD", "LISTENER",
};

/* Is each command known to have worked often enough? */
static bool report(void)
{
	unsigned int op, i;
	bool enough = true;

	printf("# %-12s %10s %10s %5s  most frequent errors\n", "command",
	       "submitted", "succeeded", "%");
	for (op = 0; op < NR_OPS; op++) {
		uint64_t submitted = totals->submitted[op];
		uint64_t ok = totals->ok[op], failures = 0;
		unsigned int worst = 0, second = 0, percent;
		uint64_t *failed = totals->failed[op];

		for (i = 1; i < NR_ERRNO; i++) {
			failures += failed[i];
			if (failed[i] > failed[worst]) {
				second = worst;
				worst = i;
			} else if (failed[i] > failed[second]) {
				second = i;
			}
		}
		if (!has_completion(op))
			ok = submitted > failures ? submitted - failures : 0;
		percent = submitted ? ok * 100 / submitted : 0;
		printf("# %-12s %10llu %10llu %5u ", op_names[op],
		       (unsigned long long)submitted, (unsigned long long)ok,
		       percent);
		if (worst)
			printf(" %s %llu", strerrorname_np(worst),
			       (unsigned long long)failed[worst]);
		if (second)
			printf(", %s %llu", strerrorname_np(second),
			       (unsigned long long)failed[second]);
		printf("\n");
		enough &= percent >= LEAST_PERCENT;
	}
	for (i = 0; i < NR_IOCTLS; i++)
		printf("# %-12s %10llu %10llu %5llu\n", ioctl_names[i],
		       (unsigned long long)totals->called[i],
		       (unsigned long long)totals->called_ok[i],
		       (unsigned long long)(totals->called_ok[i] * 100 /
					    (totals->called[i] ?: 1)));
	return enough;
}

/* Sockets of this network namespace that exist, TCP's among them */
static long sockets_used(void)
{
	FILE *file = fopen("/proc/net/sockstat", "r");
	long used = -1;

	if (!file || fscanf(file, "sockets: used %ld", &used) != 1)
		mp_die("/proc/net/sockstat");
	fclose(file);
	return used;
}

/* Handles that the user has, where the kernel counts them */
static long handles_used(void)
{
	int channel = mp_open();
	long used = mp_info(channel).user_handles;

	close(channel);
	return used;
}

/* Everything back: what was killed is cleaned up after it is gone. */
static bool all_back(long sockets, long handles)
{
	long long deadline = mp_now_ns() + 3 * MP_DEADLINE_NS;

	while (sockets_used() > sockets || handles_used() > handles) {
		if (mp_now_ns() > deadline) {
			printf("# sockets %ld, before %ld; handles %ld, before %ld\n",
			       sockets_used(), sockets, handles_used(), handles);
			return false;
		}
		usleep(200000);
	}
	return true;
}

static void parse(int argc, char **argv)
{
	int i;

	for (i = 1; i + 1 < argc; i += 2) {
		unsigned long long value = strtoull(argv[i + 1], NULL, 0);

		if (!strcmp(argv[i], "--seed"))
			seed = value;
		else if (!strcmp(argv[i], "--commands"))
			wanted = value;
		else if (!strcmp(argv[i], "--workers"))
			nr_workers = value;
		else if (!strcmp(argv[i], "--channels"))
			nr_channels = value;
		else if (!strcmp(argv[i], "--threads"))
			nr_threads = value;
		else
			break;
	}
	if (i < argc || !nr_workers || !nr_channels || !nr_threads ||
	    nr_workers > MAX_THREADS ||
	    nr_channels * nr_threads > MAX_THREADS) {
		fprintf(stderr, "usage: fuzz [--seed N] [--commands N] [--workers N] [--channels N] [--threads N]\n");
		exit(2);
	}
}

static bool test_result(unsigned int number, bool good, const char *claim)
{
	printf("%s %u %s\n", good ? "ok" : "not ok", number, claim);
	return good;
}

int main(int argc, char **argv)
{
	struct rlimit files = { 4096, 4096 };
	long sockets, handles;
	bool good = true;
	int i;

	seed = time(NULL);
	wanted = mp_scaled(250000);
	parse(argc, argv);
	close(mp_open());	/* or skip */
	printf("TAP version 13\n1..3\n# seed %llu: --seed %llu --commands %llu --workers %u --channels %u --threads %u\n",
	       (unsigned long long)seed, (unsigned long long)seed,
	       (unsigned long long)wanted, nr_workers, nr_channels, nr_threads);

	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	mp_new_netns();
	totals = mmap(NULL, sizeof(*totals), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sockets = sockets_used();
	handles = handles_used();
	for (i = 0; i < NR_LISTENERS; i++)
		listen_fds[i] = mp_listen(i < 2 ? AF_INET : AF_INET6, 64,
					  &listen_addrs[i]);

	good &= test_result(1, supervise(), "nothing impossible was seen");
	good &= test_result(2, report(), "each command succeeded often enough");
	for (i = 0; i < NR_LISTENERS; i++)
		close(listen_fds[i]);
	good &= test_result(3, all_back(sockets, handles),
			    "sockets and handles are back");
	return good ? 0 : MP_EXIT_FAIL;
}
