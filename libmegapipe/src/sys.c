// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The system calls of the library, in a file of their own so that the tests can
 * put a simulated kernel in its place.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

static int result(int ret, int saved_errno)
{
	if (unlikely(ret < 0)) {
		ret = -errno;
		errno = saved_errno;
	}
	return ret;
}

int mp_sys_open(const char *path)
{
	int saved_errno = errno;

	return result(open(path, O_RDWR | O_CLOEXEC), saved_errno);
}

#ifdef __x86_64__
/* The one that is called all the time, without the detour over errno */
int mp_sys_ioctl(int fd, unsigned long request, void *arg)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "0"(SYS_ioctl), "D"((long)fd), "S"(request), "d"(arg)
			 : "rcx", "r11", "memory");
	return (int)ret;
}
#else
int mp_sys_ioctl(int fd, unsigned long request, void *arg)
{
	int saved_errno = errno;

	return result(ioctl(fd, request, arg), saved_errno);
}
#endif

/* Returns 1 when it is readable, 0 when the time is over (negative: never). */
int mp_sys_poll(int fd, int64_t timeout_ns, const sigset_t *sigmask)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	int64_t timeout_s = timeout_ns / 1000000000;
	struct timespec timeout = {
		.tv_sec = (time_t)(timeout_s < INT_MAX ? timeout_s : INT_MAX),
		.tv_nsec = (long)(timeout_ns % 1000000000),
	};
	int saved_errno = errno;

	return result(ppoll(&pollfd, 1, timeout_ns < 0 ? NULL : &timeout,
			    sigmask), saved_errno);
}

int mp_sys_close(int fd)
{
	int saved_errno = errno;

	return result(close(fd), saved_errno);
}

bool mp_sys_exists(const char *path)
{
	int saved_errno = errno;

	return !result(access(path, F_OK), saved_errno);
}

/* The name of the kernel that runs */
void mp_sys_release(char *release, size_t size)
{
	struct utsname name;

	uname(&name);
	snprintf(release, size, "%s %s", name.sysname, name.release);
}

int64_t mp_sys_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
