// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the library costs: instructions in user space per transaction of the
 * ping-pong server (apps/pingpong) through it, beside those of the same server
 * with ioctl()s of its own.
 *
 *	server --> library --ioctl()--> simulated kernel
 *	server ------------ioctl()----> simulated kernel
 *
 * The processor traps after every instruction and the handler counts, but for the
 * kernel's: ioctl() and what is behind it are in a section of their own.  So the
 * count is exact, whatever else the machine does, and the same on every run.
 *
 *	So many clients ask at a time, of twice as many, each so many times on a
 *	connection; the server reads (mp_read()), writes and reads on
 *	(mp_write_then_read()), and closes at the end of file.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/megapipe.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <ucontext.h>
#include <unistd.h>

#include "api.h"
#include "section.h"

#define SKIPPED		77
#define MOST		1.15
#define CONNECTIONS	128
#define SIZE		64
#define WARM_UP		64		/* transactions that do not count */
#define COUNTED		128		/* those that do */
#define FAKE_FD		1000
#define LISTENER	1		/* handles */
#define STOP		2

static struct worker worker;

/* ---- The kernel --------------------------------------------------------- */

#define KERNEL __attribute__((section("simulated_kernel"), noinline,	\
	no_stack_protector, optimize("no-tree-loop-distribute-patterns")))

/* ---- Counting ----------------------------------------------------------- */

static long steps;

#ifdef __x86_64__
#define CAN_COUNT true

static void on_trap(int signal, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	uintptr_t at = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

	(void)signal;
	(void)info;
	if (at < (uintptr_t)__start_simulated_kernel ||
	    at >= (uintptr_t)__stop_simulated_kernel)
		steps++;
}

/* The flag that makes the processor trap after every instruction */
static inline __attribute__((always_inline)) void trap(void)
{
	__asm__ volatile("sub $128, %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\t"
			 "popfq\n\tadd $128, %%rsp" : : : "memory", "cc");
}

static inline __attribute__((always_inline)) void trap_no_more(void)
{
	__asm__ volatile("sub $128, %%rsp\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\t"
			 "popfq\n\tadd $128, %%rsp" : : : "memory", "cc");
}
#else
#define CAN_COUNT false

static void on_trap(int signal, siginfo_t *info, void *context)
{
}

static inline __attribute__((always_inline)) void trap(void)
{
}

static inline __attribute__((always_inline)) void trap_no_more(void)
{
}
#endif

struct client {
	uint64_t cookie;
	unsigned int asked;		/* transactions on this connection */
	bool reads;			/* the server waits for its data */
};

static struct kernel {
	struct client clients[CONNECTIONS];
	struct megapipe_event ready[4 * CONNECTIONS];	/* a ring */
	unsigned int first, last;
	unsigned int next;		/* client whose turn it is */
	unsigned int width;
	unsigned int connections;
	unsigned int transactions;	/* per connection */
	unsigned int written;
	uint64_t listener_cookie;
} kernel;

static KERNEL void post(uint16_t op, int handle, int res, uint64_t cookie)
{
	struct megapipe_event *event =
		&kernel.ready[kernel.last++ % (4 * CONNECTIONS)];

	event->cookie = cookie;
	event->handle = handle;
	event->res = res;
	event->op = op;
	event->flags = op == MEGAPIPE_OP_ACCEPT ? MEGAPIPE_EVENT_MORE : 0;
	event->aux = 0;
	event->data = 0;
}

static KERNEL int handle_of(unsigned int client)
{
	return MEGAPIPE_HANDLE_LWSOCKET | (int)(client + 1);
}

static KERNEL void run_command(const struct megapipe_cmd *cmd)
{
	unsigned int nr = (unsigned int)cmd->handle %
			  MEGAPIPE_HANDLE_LWSOCKET - 1;
	struct client *client = &kernel.clients[nr % CONNECTIONS];

	switch (cmd->op) {
	case MEGAPIPE_OP_ACCEPT:
		for (nr = 0; nr < kernel.connections; nr++)
			post(MEGAPIPE_OP_ACCEPT, cmd->handle, handle_of(nr),
			     kernel.listener_cookie);
		break;
	case MEGAPIPE_OP_COOKIE:
		client->cookie = cmd->arg;
		break;
	case MEGAPIPE_OP_READ:
		if (cmd->flags & MEGAPIPE_CMD_COOKIE)
			client->cookie = cmd->arg;
		client->reads = true;
		break;
	case MEGAPIPE_OP_WRITE:
		if (cmd->flags & MEGAPIPE_CMD_THEN_READ)
			client->reads = true;
		else
			post(MEGAPIPE_OP_WRITE, cmd->handle, (int)cmd->len,
			     client->cookie);
		if (++kernel.written == WARM_UP + COUNTED)
			post(MEGAPIPE_OP_POLL, STOP, EPOLLIN, 0);
		break;
	case MEGAPIPE_OP_CLOSE:
		client->reads = false;
		client->asked = 0;
		post(MEGAPIPE_OP_ACCEPT, LISTENER, cmd->handle,
		     kernel.listener_cookie);
		break;
	}
}

/* Nothing is ready: the next few clients ask, or end their connections. */
static KERNEL void let_clients_ask(void)
{
	unsigned int asked = 0, looked = 0;

	for (; asked < kernel.width && looked < kernel.connections; looked++) {
		unsigned int nr = kernel.next++ % kernel.connections;
		struct client *client = &kernel.clients[nr];
		bool ends = client->asked == kernel.transactions;

		if (!client->reads)
			continue;
		client->reads = false;
		client->asked++;
		post(MEGAPIPE_OP_READ, handle_of(nr), ends ? 0 : SIZE,
		     client->cookie);
		asked++;
	}
}

static KERNEL int dispatch(struct megapipe_dispatch *d)
{
	const struct megapipe_cmd *cmds = (void *)(uintptr_t)d->cmds;
	struct megapipe_event *events = (void *)(uintptr_t)d->events;
	unsigned int i;

	for (i = 0; i < d->nr_cmds; i++)
		run_command(&cmds[i]);
	d->done_cmds = d->nr_cmds;
	if (kernel.first == kernel.last && d->min_events)
		let_clients_ask();
	for (i = 0; i < d->max_events && kernel.first != kernel.last; i++)
		events[i] = kernel.ready[kernel.first++ % (4 * CONNECTIONS)];
	return (int)i;
}

static KERNEL int make_handle(const struct megapipe_register *reg)
{
	if (reg->cookie)
		kernel.listener_cookie = reg->cookie;
	return reg->cookie ? LISTENER : STOP;
}

static KERNEL int give_info(struct megapipe_info *info)
{
	info->abi_version = MEGAPIPE_ABI_VERSION;
	info->nr_ops = MEGAPIPE_OP_LAST;
	info->max_dispatch = 4096;
	return 0;
}

static KERNEL int call(unsigned long request, void *arg)
{
	switch (request) {
	case MEGAPIPE_IOC_DISPATCH:
		return dispatch(arg);
	case MEGAPIPE_IOC_REGISTER:
		return make_handle(arg);
	case MEGAPIPE_IOC_INFO:
		return give_info(arg);
	}
	errno = ENOTTY;
	return -1;
}

/*
 * In the place of the C library's, for the library and for the server alike.
 * Counting begins with the return from the call that ends the warm-up.
 */
KERNEL int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;
	int ret;

	trap_no_more();
	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	(void)fd;
	ret = call(request, arg);
	if (kernel.written >= WARM_UP && kernel.written < WARM_UP + COUNTED)
		trap();
	return ret;
}

/* The library's system calls, in the place of its sys.c */
KERNEL int mp_sys_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

int mp_sys_open(const char *path)
{
	(void)path;
	return FAKE_FD;
}

int mp_sys_close(int fd)
{
	(void)fd;
	return 0;
}

int mp_sys_poll(void)
{
	abort();
}

int mp_sys_exists(void)
{
	abort();
}

int mp_sys_release(void)
{
	abort();
}

int64_t mp_sys_now_ns(void)
{
	abort();
}

/* And those of the server without it */
int open(const char *path, int flags, ...)
{
	(void)flags;
	return mp_sys_open(path);
}

int close(int fd)
{
	return mp_sys_close(fd);
}

/* ---- The server --------------------------------------------------------- */

/* Instructions per transaction */
static double measure(const struct api *api, unsigned int width,
		      unsigned int transactions)
{
	static struct options options = {
		.threads = 1, .size = SIZE, .partition = true, .lwsocket = true,
	};

	memset(&kernel, 0, sizeof(kernel));
	memset(&worker, 0, sizeof(worker));
	kernel.width = width;
	kernel.connections = 2 * width;
	kernel.transactions = transactions;
	worker.options = &options;
	worker.api = api;
	steps = 0;
	if (api->open(&worker)) {
		fprintf(stderr, "cost: the server does not start\n");
		exit(1);
	}
	api->run(&worker);
	api->close(&worker);
	if (worker.counters.errors || kernel.written < WARM_UP + COUNTED) {
		fprintf(stderr, "cost: the server failed\n");
		exit(1);
	}
	return (double)steps / COUNTED;
}

int main(void)
{
	static const struct {
		unsigned int width, transactions;
	} loads[] = {
		{ 64, 128 }, { 64, 1 }, { 8, 128 }, { 8, 8 }, { 8, 1 },
		{ 1, 128 }, { 1, 8 }, { 1, 1 },
	};
	struct sigaction action = {
		.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO,
	};
	double library, raw;
	int status = 0;
	size_t i;

	if (!CAN_COUNT)
		return SKIPPED;
	sigaction(SIGTRAP, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("instructions in user space per transaction, %d B\n", SIZE);
	printf("%10s %24s %8s %8s %6s\n", "at a time", "transactions/connection",
	       "library", "raw", "ratio");
	for (i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
		library = measure(&api_megapipe, loads[i].width,
				  loads[i].transactions);
		raw = measure(&api_megapipe_raw, loads[i].width,
			      loads[i].transactions);
		printf("%10u %24u %8.1f %8.1f %6.3f\n", loads[i].width,
		       loads[i].transactions, library, raw, library / raw);
		if (library / raw > MOST)
			status = 1;
	}
	return status;
}
