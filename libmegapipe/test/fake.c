// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The simulated kernel, in the place of src/sys.c.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "internal.h"
#include "fake.h"
#include "test.h"

struct fake fake;

static atomic_int next_fd;
static pthread_mutex_t closing = PTHREAD_MUTEX_INITIALIZER;

void fake_reset(void)
{
	memset(&fake, 0, sizeof(fake));
	fake.info.abi_version = MEGAPIPE_ABI_VERSION;
	fake.info.nr_ops = MEGAPIPE_OP_LAST;
	fake.info.max_handles = 1024;
	fake.info.max_dispatch = 4096;
	next_fd = FAKE_FD;
}

/* A channel on a fresh fake, with an empty log. */
struct mp_channel *fake_channel(unsigned int threshold)
{
	struct mp_channel *channel;

	fake_reset();
	ASSERT_EQ(mp_create(&channel), 0);
	ASSERT_EQ(mp_set_batch(channel, threshold), 0);
	return channel;
}

/* The cookie is the handle plus 100. */
static struct megapipe_event completion(int handle, uint16_t op, int res)
{
	return (struct megapipe_event) {
		.cookie = (uint64_t)handle + 100,
		.handle = handle,
		.res = res,
		.op = op,
		.aux = op == MEGAPIPE_OP_ACCEPT ? 7 : 0,
	};
}

void fake_post(struct megapipe_event event)
{
	ASSERT(fake.nr_ready < FAKE_LOG);
	fake.ready[fake.nr_ready++] = event;
}

void fake_complete(int handle, uint16_t op, int res)
{
	fake_post(completion(handle, op, res));
}

void fake_mark_stale(int handle)
{
	fake.stale[fake.nr_stale++] = handle;
}

/* errno as malloc() leaves it, which the library is not to show */
static bool out_of_memory(void)
{
	if (!fake.no_memory || --fake.no_memory)
		return false;
	errno = ENOMEM;
	return true;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
	return out_of_memory() ? NULL : __real_malloc(size);
}

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size)
{
	return out_of_memory() ? NULL : __real_realloc(old, size);
}

void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	return out_of_memory() ? NULL : __real_aligned_alloc(alignment, size);
}

int mp_sys_open(const char *path)
{
	ASSERT(!strcmp(path, "/dev/megapipe"));
	return fake.open_result ? fake.open_result :
		atomic_fetch_add(&next_fd, 1);
}

int mp_sys_close(int fd)
{
	pthread_mutex_lock(&closing);
	fake.closed[fake.nr_closed++ % 64] = fd;
	pthread_mutex_unlock(&closing);
	return 0;
}

bool mp_sys_exists(const char *path)
{
	ASSERT(!strcmp(path, "/sys/class/misc/megapipe"));
	return fake.has_sysfs;
}

void mp_sys_release(char *release, size_t size)
{
	snprintf(release, size, "Fakenix 6.12");
}

int64_t mp_sys_now_ns(void)
{
	return fake.now_ns;
}

int mp_sys_poll(int fd, int64_t timeout_ns, const sigset_t *sigmask)
{
	ASSERT(fd >= FAKE_FD);
	fake.nr_polls++;
	fake.poll_timeout_ns = timeout_ns;
	fake.poll_sigmask = sigmask;
	if (fake.asleep)
		fake.asleep();
	return fake.poll_result;
}

static bool is_stale(int handle)
{
	unsigned int i;

	for (i = 0; i < fake.nr_stale; i++)
		if (fake.stale[i] == handle)
			return true;
	return false;
}

/* Dropping a handle drops its completions, as in the kernel. */
static void drop(int handle)
{
	unsigned int i, kept = 0;

	if (fake.keep)
		return;
	for (i = 0; i < fake.nr_ready; i++)
		if (fake.ready[i].handle != handle)
			fake.ready[kept++] = fake.ready[i];
	fake.nr_ready = kept;
}

/* What the kernel reads when it runs the command, at a place of that size */
static void follow(const struct megapipe_cmd *cmd)
{
	struct sockaddr_storage *address = &fake.addresses[fake.nr_ran];

	switch (cmd->op) {
	case MEGAPIPE_OP_READV:
	case MEGAPIPE_OP_WRITEV:
		fake.vectors[fake.nr_ran] =
			*(struct iovec *)(uintptr_t)cmd->addr;
		break;
	case MEGAPIPE_OP_CONNECT:
		memcpy(address, (void *)(uintptr_t)cmd->addr, cmd->len);
		break;
	case MEGAPIPE_OP_SENDTO:
		memcpy(address, (void *)(uintptr_t)cmd->arg, cmd->aux);
		break;
	}
}

/* What an operation does not know or use is zero. */
static bool is_well_made(const struct megapipe_cmd *cmd)
{
	static const uint8_t flags[MEGAPIPE_OP_LAST] = {
		[MEGAPIPE_OP_ACCEPT] = MEGAPIPE_CMD_LWSOCKET,
		[MEGAPIPE_OP_READ] = MEGAPIPE_CMD_COOKIE,
		[MEGAPIPE_OP_WRITE] = MEGAPIPE_CMD_MORE |
				      MEGAPIPE_CMD_THEN_READ,
		[MEGAPIPE_OP_WRITEV] = MEGAPIPE_CMD_MORE,
		[MEGAPIPE_OP_SENDFILE] = MEGAPIPE_CMD_MORE,
	};

	if (cmd->resv || cmd->op >= MEGAPIPE_OP_LAST ||
	    cmd->flags & ~flags[cmd->op])
		return false;
	switch (cmd->op) {
	case MEGAPIPE_OP_READ:
		return cmd->len && !cmd->aux &&
		       (!cmd->arg || cmd->flags & MEGAPIPE_CMD_COOKIE);
	case MEGAPIPE_OP_WRITE:
		if (cmd->flags & MEGAPIPE_CMD_THEN_READ)
			return cmd->len && cmd->aux &&
			       !(cmd->flags & MEGAPIPE_CMD_MORE);
		return cmd->len && !cmd->arg && !cmd->aux;
	case MEGAPIPE_OP_COOKIE:
		return !cmd->addr && !cmd->len && !cmd->aux;
	}
	return true;
}

/* A write that a read follows completes as that. */
static uint16_t completes_as(const struct megapipe_cmd *cmd)
{
	return cmd->flags & MEGAPIPE_CMD_THEN_READ ? MEGAPIPE_OP_READ : cmd->op;
}

static unsigned int run_commands(const struct megapipe_dispatch *d,
				 unsigned int *posted)
{
	const struct megapipe_cmd *cmds = (void *)(uintptr_t)d->cmds;
	struct megapipe_event *events = (void *)(uintptr_t)d->events;
	unsigned int i;

	for (i = 0; i < d->nr_cmds; i++) {
		const struct megapipe_cmd *cmd = &cmds[i];

		if (!is_well_made(cmd))
			fake.misuse = true;
		if (is_stale(cmd->handle)) {
			/* Half of the room is for what waits. */
			if (*posted == d->max_events ||
			    (fake.nr_ready && *posted >= (d->max_events + 1) / 2))
				break;
			events[(*posted)++] = (struct megapipe_event) {
				.handle = cmd->handle,
				.op = cmd->op,
				.res = -EBADF,
			};
		} else if (cmd->op == MEGAPIPE_OP_UNREGISTER ||
			   cmd->op == MEGAPIPE_OP_CLOSE) {
			drop(cmd->handle);
		} else if (fake.instant && (cmd->op == MEGAPIPE_OP_READ ||
					    cmd->op == MEGAPIPE_OP_WRITE)) {
			if (*posted < d->max_events)
				events[(*posted)++] = completion(
					cmd->handle, completes_as(cmd), 1);
			else
				fake_complete(cmd->handle, completes_as(cmd), 1);
		} else {
			follow(cmd);
		}
		ASSERT(fake.nr_ran < FAKE_LOG);
		fake.ran[fake.nr_ran++] = *cmd;
	}
	return i;
}

static int dispatch(struct megapipe_dispatch *d)
{
	struct megapipe_event *events = (void *)(uintptr_t)d->events;
	unsigned int posted = 0, n;

	if (d->done_cmds || d->min_events > d->max_events ||
	    d->nr_cmds > fake.info.max_dispatch ||
	    d->max_events > fake.info.max_dispatch)
		fake.misuse = true;
	if (fake.dispatch_result)
		return fake.dispatch_result;
	if (fake.stuck)
		return 0;

	d->done_cmds = run_commands(d, &posted);
	n = d->max_events - posted;
	if (n > fake.nr_ready)
		n = fake.nr_ready;
	if (n)
		memcpy(events + posted, fake.ready, n * sizeof(*events));
	fake.nr_ready -= n;
	memmove(fake.ready, fake.ready + n,
		fake.nr_ready * sizeof(*fake.ready));
	posted += n;
	if (fake.interrupted && !posted)
		return -EINTR;
	return (int)posted;
}

static int log_dispatch(struct megapipe_dispatch *d)
{
	struct fake_call *call = &fake.calls[fake.nr_calls++];

	ASSERT(fake.nr_calls < FAKE_LOG);
	*call = (struct fake_call) {
		.nr_cmds = d->nr_cmds,
		.max_events = d->max_events,
		.min_events = d->min_events,
		.timeout_ns = d->timeout_ns,
	};
	fake.sigmask = d->sigmask;
	fake.sigsetsize = d->sigsetsize;
	call->ret = dispatch(d);
	call->done_cmds = d->done_cmds;
	return call->ret;
}

static int do_register(const struct megapipe_register *reg)
{
	unsigned int nr = fake.nr_registers++;

	fake.registered = *reg;
	if (nr < 2 && fake.register_result[nr])
		return fake.register_result[nr];
	return (1 << 20) + reg->fd;
}

static int act(unsigned long request, void *arg)
{
	fake.act = request;
	fake.act_after = fake.nr_ran;
	fake.nr_acts++;
	switch (request) {
	case MEGAPIPE_IOC_SETSOCKOPT:
		fake.sockopt = *(struct megapipe_sockopt *)arg;
		break;
	case MEGAPIPE_IOC_GETSOCKOPT:
		fake.sockopt = *(struct megapipe_sockopt *)arg;
		((struct megapipe_sockopt *)arg)->len = fake.act_len;
		break;
	case MEGAPIPE_IOC_SOCKNAME:
		fake.sockname = *(struct megapipe_sockname *)arg;
		((struct megapipe_sockname *)arg)->len = fake.act_len;
		break;
	case MEGAPIPE_IOC_TOFD:
		fake.tofd = *(struct megapipe_tofd *)arg;
		break;
	case MEGAPIPE_IOC_LISTENER:
		fake.listener = *(struct megapipe_listener *)arg;
		*(struct megapipe_listener *)arg = fake.listener_result;
		break;
	default:
		fake.misuse = true;
		return -ENOTTY;
	}
	return fake.act_result;
}

int mp_sys_ioctl(int fd, unsigned long request, void *arg)
{
	if (fd < FAKE_FD)
		return -EBADF;
	switch (request) {
	case MEGAPIPE_IOC_INFO:
		if (!fake.info_result)
			*(struct megapipe_info *)arg = fake.info;
		return fake.info_result;
	case MEGAPIPE_IOC_STATS:
		*(struct megapipe_stats *)arg = fake.stats;
		return 0;
	case MEGAPIPE_IOC_REGISTER:
		return do_register(arg);
	case MEGAPIPE_IOC_DISPATCH:
		return log_dispatch(arg);
	default:
		return act(request, arg);
	}
}
