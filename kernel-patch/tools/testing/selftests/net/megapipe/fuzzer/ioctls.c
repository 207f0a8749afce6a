// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ioctls other than DISPATCH, and all of them with bad arguments.
 */
#include "fuzz.h"

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

void fuzz_ioctl(struct thread *t)
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
