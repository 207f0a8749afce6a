/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of MegaPipe share: one thin function per ioctl(), one per
 * command, and sockets on ports of their own.
 *
 * mp_*() that stand for a system call return its result or a negative error
 * number.  Everything else that a test needs to go on (sockets, addresses, a
 * completion that must come) ends the process, loudly, when it fails.
 */
#ifndef MEGAPIPE_TEST_H
#define MEGAPIPE_TEST_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/megapipe.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef MEGAPIPE_TEST_NO_HARNESS
#include "../../kselftest_harness.h"

/* Emulated processors under KASAN: a deadline is there for hangs only. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300
#endif

#define MP_DEVICE		"/dev/megapipe"
#define MP_EXIT_FAIL		1
#define MP_EXIT_SKIP		4

/* The longest wait for what must come */
#define MP_DEADLINE_NS		(60 * 1000000000LL)

#define mp_die(fmt, ...)						\
do {									\
	printf("# %s:%d: " fmt "\n", __FILE__, __LINE__, ##__VA_ARGS__); \
	fflush(stdout);							\
	_exit(MP_EXIT_FAIL);						\
} while (0)

/* The result of a system call that must succeed */
#define mp_must(call)							\
({									\
	__typeof__(call) __ret = (call);				\
									\
	if (__ret < 0)							\
		mp_die("%s: %s", #call, strerror(errno));		\
	__ret;								\
})

/* What fails in a shared helper is reported for the line of the test. */
#define mp_die_at(line, fmt, ...)					\
	mp_die("called from line %d: " fmt, line, ##__VA_ARGS__)

/*
 * @count, more or less by MEGAPIPE_TEST_SCALE, which is 1 in the quick run: 20
 * where there are hours, 0.2 on a slow kernel.  At least 1.
 */
static inline unsigned long mp_scaled(unsigned long count)
{
	const char *scale = getenv("MEGAPIPE_TEST_SCALE");
	double scaled = scale ? count * atof(scale) : count;

	return scaled < 1 ? 1 : scaled;
}

static inline long long mp_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/*
 * Channels
 */

static inline int mp_ioctl(int channel, unsigned long request, void *arg)
{
	int ret = ioctl(channel, request, arg);

	return ret < 0 ? -errno : ret;
}

/* A channel.  Without the device there is nothing to test. */
static inline int mp_open(void)
{
	int channel = open(MP_DEVICE, O_RDWR | O_CLOEXEC);

	if (channel < 0 && errno == ENOENT) {
		printf("1..0 # SKIP no %s: CONFIG_MEGAPIPE?\n", MP_DEVICE);
		fflush(stdout);
		_exit(MP_EXIT_SKIP);
	}
	return mp_must(channel);
}

static inline struct megapipe_info mp_info(int channel)
{
	struct megapipe_info info = {};

	mp_must(ioctl(channel, MEGAPIPE_IOC_INFO, &info));
	return info;
}

static inline struct megapipe_stats mp_stats(int channel)
{
	struct megapipe_stats stats = {};

	mp_must(ioctl(channel, MEGAPIPE_IOC_STATS, &stats));
	return stats;
}

/* Returns the handle. */
static inline int mp_register(int channel, int fd, uint64_t cookie)
{
	struct megapipe_register reg = { .fd = fd, .cookie = cookie };

	return mp_ioctl(channel, MEGAPIPE_IOC_REGISTER, &reg);
}

/* With a partition for the CPUs of @mask.  Returns the handle. */
static inline int mp_register_mask(int channel, int fd, uint64_t cookie,
				   const cpu_set_t *mask)
{
	struct megapipe_register reg = {
		.fd = fd,
		.flags = MEGAPIPE_REG_PARTITION,
		.cookie = cookie,
		.cpu_mask = (uintptr_t)mask,
		.cpu_mask_size = sizeof(*mask),
	};

	return mp_ioctl(channel, MEGAPIPE_IOC_REGISTER, &reg);
}

/* With a partition for one CPU.  Returns the handle. */
static inline int mp_register_cpu(int channel, int fd, uint64_t cookie, int cpu)
{
	cpu_set_t mask;

	CPU_ZERO(&mask);
	CPU_SET(cpu, &mask);
	return mp_register_mask(channel, fd, cookie, &mask);
}

static inline int mp_setsockopt(int channel, int handle, int level, int name,
				const void *value, uint32_t len)
{
	struct megapipe_sockopt opt = {
		.handle = handle,
		.level = level,
		.name = name,
		.len = len,
		.value = (uintptr_t)value,
	};

	return mp_ioctl(channel, MEGAPIPE_IOC_SETSOCKOPT, &opt);
}

static inline int mp_getsockopt(int channel, int handle, int level, int name,
				void *value, uint32_t *len)
{
	struct megapipe_sockopt opt = {
		.handle = handle,
		.level = level,
		.name = name,
		.len = *len,
		.value = (uintptr_t)value,
	};
	int ret = mp_ioctl(channel, MEGAPIPE_IOC_GETSOCKOPT, &opt);

	*len = opt.len;
	return ret;
}

/* The socket's address, or its peer's */
static inline int mp_sockname(int channel, int handle, bool peer,
			      struct sockaddr_storage *addr, uint32_t *len)
{
	struct megapipe_sockname name = {
		.handle = handle,
		.peer = peer,
		.addr = (uintptr_t)addr,
		.len = sizeof(*addr),
	};
	int ret = mp_ioctl(channel, MEGAPIPE_IOC_SOCKNAME, &name);

	*len = name.len;
	return ret;
}

/* Returns the descriptor. */
static inline int mp_tofd(int channel, int handle, uint32_t flags)
{
	struct megapipe_tofd tofd = { .handle = handle, .flags = flags };

	return mp_ioctl(channel, MEGAPIPE_IOC_TOFD, &tofd);
}

static inline int mp_listener(int channel, int handle,
			      struct megapipe_listener *listener)
{
	*listener = (struct megapipe_listener){ .handle = handle };
	return mp_ioctl(channel, MEGAPIPE_IOC_LISTENER, listener);
}

/*
 * Commands
 */

static inline struct megapipe_cmd mp_cmd_accept(int handle, uint32_t count,
						uint8_t flags)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_ACCEPT,
		.flags = flags,
		.handle = handle,
		.len = count,
	};
}

static inline struct megapipe_cmd mp_cmd_connect(int handle, const void *addr,
						 uint32_t len)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_CONNECT,
		.handle = handle,
		.addr = (uintptr_t)addr,
		.len = len,
	};
}

static inline struct megapipe_cmd mp_cmd_read(int handle, void *buf,
					      uint32_t len)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_READ,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.len = len,
	};
}

/* A READ that brings a cookie */
static inline struct megapipe_cmd mp_cmd_cookie_read(int handle, void *buf,
						     uint32_t len,
						     uint64_t cookie)
{
	struct megapipe_cmd cmd = mp_cmd_read(handle, buf, len);

	cmd.flags = MEGAPIPE_CMD_COOKIE;
	cmd.arg = cookie;
	return cmd;
}

static inline struct megapipe_cmd mp_cmd_readv(int handle,
					       const struct iovec *iov,
					       uint32_t count)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_READV,
		.handle = handle,
		.addr = (uintptr_t)iov,
		.len = count,
	};
}

static inline struct megapipe_cmd mp_cmd_recvfrom(int handle, void *buf,
						  uint32_t len, void *addr,
						  uint32_t addr_len)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_RECVFROM,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.arg = (uintptr_t)addr,
		.len = len,
		.aux = addr_len,
	};
}

static inline struct megapipe_cmd mp_cmd_write(int handle, const void *buf,
					       uint32_t len)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_WRITE,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.len = len,
	};
}

/* A WRITE that goes on as a READ of up to @room bytes to @in */
static inline struct megapipe_cmd mp_cmd_then_read(int handle, const void *buf,
						   uint32_t len, void *in,
						   uint32_t room)
{
	struct megapipe_cmd cmd = mp_cmd_write(handle, buf, len);

	cmd.flags = MEGAPIPE_CMD_THEN_READ;
	cmd.arg = (uintptr_t)in;
	cmd.aux = room;
	return cmd;
}

static inline struct megapipe_cmd mp_cmd_writev(int handle,
						const struct iovec *iov,
						uint32_t count)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_WRITEV,
		.handle = handle,
		.addr = (uintptr_t)iov,
		.len = count,
	};
}

static inline struct megapipe_cmd mp_cmd_sendto(int handle, const void *buf,
						uint32_t len, const void *addr,
						uint32_t addr_len)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_SENDTO,
		.handle = handle,
		.addr = (uintptr_t)buf,
		.arg = (uintptr_t)addr,
		.len = len,
		.aux = addr_len,
	};
}

static inline struct megapipe_cmd mp_cmd_sendfile(int handle, int fd,
						  uint64_t offset, uint32_t len)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_SENDFILE,
		.handle = handle,
		.arg = offset,
		.len = len,
		.aux = fd,
	};
}

/* @events: EPOLLIN, ... */
static inline struct megapipe_cmd mp_cmd_poll(int handle, uint32_t events)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_POLL,
		.handle = handle,
		.aux = events,
	};
}

static inline struct megapipe_cmd mp_cmd_disconnect(int handle)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_DISCONNECT,
		.handle = handle,
	};
}

static inline struct megapipe_cmd mp_cmd_cancel(int handle)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_CANCEL,
		.handle = handle,
	};
}

static inline struct megapipe_cmd mp_cmd_cookie(int handle, uint64_t cookie)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_COOKIE,
		.handle = handle,
		.arg = cookie,
	};
}

static inline struct megapipe_cmd mp_cmd_unregister(int handle)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_UNREGISTER,
		.handle = handle,
	};
}

static inline struct megapipe_cmd mp_cmd_close(int handle)
{
	return (struct megapipe_cmd){
		.op = MEGAPIPE_OP_CLOSE,
		.handle = handle,
	};
}

/*
 * Dispatch
 */

/*
 * Run @nr commands, then wait for @min to @max completions, at most
 * @timeout_ns.  Returns the completions; *@done is how many commands were
 * consumed (@done may be NULL).
 */
static inline int mp_dispatch(int channel, const struct megapipe_cmd *cmds,
			      uint32_t nr, struct megapipe_event *events,
			      uint32_t max, uint32_t min, int64_t timeout_ns,
			      uint32_t *done)
{
	struct megapipe_dispatch dispatch = {
		.cmds = (uintptr_t)cmds,
		.events = (uintptr_t)events,
		.nr_cmds = nr,
		.max_events = max,
		.min_events = min,
		.timeout_ns = timeout_ns,
	};
	int ret = mp_ioctl(channel, MEGAPIPE_IOC_DISPATCH, &dispatch);

	if (done)
		*done = dispatch.done_cmds;
	return ret;
}

static inline void mp_submit_at(int line, int channel,
				const struct megapipe_cmd *cmds, uint32_t nr)
{
	uint32_t done;
	int ret = mp_dispatch(channel, cmds, nr, NULL, 0, 0, 0, &done);

	if (ret)
		mp_die_at(line, "dispatch: %d", ret);
	if (done != nr)
		mp_die_at(line, "command %u of %u (op %u) failed", done, nr,
			  cmds[done].op);
}

/* Run commands that must not fail; their completions come later. */
#define mp_submit_all(channel, cmds, nr) \
	mp_submit_at(__LINE__, channel, cmds, nr)
#define mp_submit(channel, ...)						\
do {									\
	struct megapipe_cmd __cmd = __VA_ARGS__;			\
									\
	mp_submit_at(__LINE__, channel, &__cmd, 1);			\
} while (0)

static inline struct megapipe_event mp_wait_at(int line, int channel)
{
	struct megapipe_event event;
	int ret = mp_dispatch(channel, NULL, 0, &event, 1, 1, MP_DEADLINE_NS,
			      NULL);

	if (ret != 1)
		mp_die_at(line, "no completion: %d", ret);
	return event;
}

/* The next completion, which must come */
#define mp_wait(channel)	mp_wait_at(__LINE__, channel)

static inline struct megapipe_event mp_run_at(int line, int channel,
					      struct megapipe_cmd cmd)
{
	struct megapipe_event event;
	uint32_t done;
	int ret = mp_dispatch(channel, &cmd, 1, &event, 1, 1, MP_DEADLINE_NS,
			      &done);

	if (ret != 1 || done != 1)
		mp_die_at(line, "op %u: no completion: %d", cmd.op, ret);
	return event;
}

/* Run a command and wait for a completion, which must come. */
#define mp_run(channel, ...)	mp_run_at(__LINE__, channel, __VA_ARGS__)

/* Is there nothing to be had from the channel, now? */
static inline bool mp_quiet(int channel)
{
	struct megapipe_event event;

	return mp_dispatch(channel, NULL, 0, &event, 1, 0, 0, NULL) == 0;
}

/*
 * Sockets
 */

/**
 * struct mp_addr - a socket's address
 * @sa: the address, of any family
 * @len: its length
 */
struct mp_addr {
	union {
		struct sockaddr		sa;
		struct sockaddr_in	in;
		struct sockaddr_in6	in6;
		struct sockaddr_un	un;
		struct sockaddr_storage	storage;
	};
	socklen_t len;
};

/* Loopback, any port; AF_UNIX: an abstract name that the kernel chooses */
static inline struct mp_addr mp_loopback(int family)
{
	struct mp_addr addr = {};

	addr.sa.sa_family = family;
	switch (family) {
	case AF_INET:
		addr.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		addr.len = sizeof(addr.in);
		break;
	case AF_INET6:
		addr.in6.sin6_addr = in6addr_loopback;
		addr.len = sizeof(addr.in6);
		break;
	case AF_UNIX:
		addr.len = sizeof(sa_family_t);
		break;
	default:
		mp_die("address family %d", family);
	}
	return addr;
}

static inline void mp_getsockname(int fd, struct mp_addr *addr)
{
	addr->len = sizeof(addr->storage);
	mp_must(getsockname(fd, &addr->sa, &addr->len));
}

/* A socket bound to an address of its own, which goes to @addr */
static inline int mp_bound(int family, int type, struct mp_addr *addr)
{
	int fd = mp_must(socket(family, type | SOCK_CLOEXEC, 0));

	*addr = mp_loopback(family);
	mp_must(bind(fd, &addr->sa, addr->len));
	mp_getsockname(fd, addr);
	return fd;
}

/* A listening stream socket; its address goes to @addr. */
static inline int mp_listen(int family, int backlog, struct mp_addr *addr)
{
	int fd = mp_bound(family, SOCK_STREAM, addr);

	mp_must(listen(fd, backlog));
	return fd;
}

/* A connected stream socket; blocking, and it does not wait for ever. */
static inline int mp_connect(const struct mp_addr *addr)
{
	struct timeval deadline = { .tv_sec = MP_DEADLINE_NS / 1000000000 };
	int fd = mp_must(socket(addr->sa.sa_family,
				SOCK_STREAM | SOCK_CLOEXEC, 0));

	mp_must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline,
			   sizeof(deadline)));
	mp_must(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &deadline,
			   sizeof(deadline)));
	mp_must(connect(fd, &addr->sa, addr->len));
	return fd;
}

/* Two connected TCP sockets, accepted in the ordinary way */
static inline void mp_tcp_pair(int family, int fds[2])
{
	struct mp_addr addr;
	int listener = mp_listen(family, 1, &addr);

	fds[0] = mp_connect(&addr);
	fds[1] = mp_must(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
}

/*
 * A connection: an lwsocket of @channel, and its client's blocking socket, to
 * *@client.  @listener is a handle without a pending accept.
 */
static inline int mp_lwsocket_at(int line, int channel, int listener,
				 const struct mp_addr *addr, int *client)
{
	struct megapipe_event event;

	*client = mp_connect(addr);
	event = mp_run_at(line, channel, mp_cmd_accept(listener, 1,
						       MEGAPIPE_CMD_LWSOCKET));
	if (event.op != MEGAPIPE_OP_ACCEPT || event.res < 0 ||
	    event.flags & MEGAPIPE_EVENT_FD)
		mp_die_at(line, "accept: op %u, %d", event.op, event.res);
	return event.res;
}

#define mp_lwsocket(...)	mp_lwsocket_at(__LINE__, __VA_ARGS__)

/*
 * A connection, by TCP or a UNIX socket: the handle of @channel for its end, which
 * is an lwsocket (*@fd is then the listener) or the descriptor *@fd, and the other
 * end's blocking socket, *@peer.  @sndbuf: bytes of send buffer, 0: as many as ever.
 */
static inline int mp_stream_at(int line, int channel, int family, bool lwsocket,
			       int sndbuf, int *peer, int *fd)
{
	struct mp_addr addr;
	int fds[2];

	if (lwsocket) {
		*fd = mp_listen(family, 8, &addr);
	} else {
		if (family == AF_UNIX)
			mp_must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
		else
			mp_tcp_pair(family, fds);
		*peer = fds[0];
		*fd = fds[1];
	}
	/* Of the listener, it is inherited. */
	if (sndbuf)
		mp_must(setsockopt(*fd, SOL_SOCKET, SO_SNDBUF, &sndbuf,
				   sizeof(sndbuf)));
	if (lwsocket)
		return mp_lwsocket_at(line, channel,
				      mp_register(channel, *fd, 1), &addr,
				      peer);
	return mp_register(channel, *fd, 2);
}

#define mp_stream(...)	mp_stream_at(__LINE__, __VA_ARGS__)

static inline void mp_nonblock(int fd)
{
	mp_must(fcntl(fd, F_SETFL, mp_must(fcntl(fd, F_GETFL)) | O_NONBLOCK));
}

/* Write everything to a blocking descriptor. */
static inline void mp_write_all(int fd, const void *data, size_t len)
{
	size_t done;

	for (done = 0; done < len;)
		done += mp_must(write(fd, (const char *)data + done,
				      len - done));
}

/* Read exactly so much from a blocking descriptor. */
static inline void mp_read_all(int fd, void *data, size_t len)
{
	size_t done;
	ssize_t ret;

	for (done = 0; done < len; done += ret) {
		ret = mp_must(read(fd, (char *)data + done, len - done));
		if (!ret)
			mp_die("end of file after %zu of %zu bytes", done, len);
	}
}

/*
 * The machine
 */

/* Run on one CPU: over loopback that is the one a connection arrives on. */
static inline void mp_pin(int cpu)
{
	cpu_set_t mask;

	CPU_ZERO(&mask);
	CPU_SET(cpu, &mask);
	mp_must(sched_setaffinity(0, sizeof(mask), &mask));
}

static inline int mp_cpus(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN);
}

/* A network of one's own, loopback up: ports, sysctls and counters start anew. */
static inline void mp_new_netns(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	mp_must(unshare(CLONE_NEWNET));
	fd = mp_must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	mp_must(ioctl(fd, SIOCSIFFLAGS, &lo));
	close(fd);
}

/* What a small file says: a sysctl, a counter of debugfs */
static inline long mp_read_number(const char *path)
{
	char text[64] = {};
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		mp_die("%s: %s", path, strerror(errno));
	mp_must(read(fd, text, sizeof(text) - 1));
	close(fd);
	return atol(text);
}

static inline void mp_write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		mp_die("%s: %s", path, strerror(errno));
	close(fd);
}

/* A shell command that must succeed, such as one of ip(8) */
static inline void mp_shell(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	if (system(command))
		mp_die("%s: failed", command);
}

#endif /* MEGAPIPE_TEST_H */
