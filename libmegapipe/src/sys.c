// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The three system calls of the library, in a file of their own so that the
 * tests can put a simulated kernel in its place.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
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

int mp_sys_ioctl(int fd, unsigned long request, void *arg)
{
	int saved_errno = errno;

	return result(ioctl(fd, request, arg), saved_errno);
}

int mp_sys_close(int fd)
{
	int saved_errno = errno;

	return result(close(fd), saved_errno);
}
