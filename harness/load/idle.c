// SPDX-License-Identifier: MIT
/* Connections that are only there: what do they cost, and those beside them? */
#include "idle.h"
#include "clock.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

/* Connects under way at a time: enough for a slow peer, few for any backlog. */
#define WAVE	128

static int begin(const struct sockaddr *address, socklen_t len)
{
	/* They end with a reset: thousands in TIME_WAIT would be in the next load's way. */
	const struct linger reset = { .l_onoff = 1 };
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0 &&
	    (connect(fd, address, len) == 0 || errno == EINPROGRESS || errno == EINTR))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static int await(int fd, int64_t timeout_ns)
{
	struct pollfd pending = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof(int);
	int error = 0, n;

	do {
		n = poll(&pending, 1, (int)(timeout_ns / NS_PER_MS));
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		return -ETIMEDOUT;
	if (n < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	return -error;
}

int idle_open(const struct sockaddr *address, socklen_t len, uint64_t nr, int64_t timeout_ns)
{
	int wave[WAVE];
	int err = 0;

	while (nr > 0 && !err) {
		const int want = nr < WAVE ? nr : WAVE;
		int begun = 0;

		while (begun < want && !err) {
			wave[begun] = begin(address, len);
			if (wave[begun] < 0)
				err = wave[begun];
			else
				begun++;
		}
		for (int i = 0; i < begun && !err; i++)
			err = await(wave[i], timeout_ns);
		nr -= want;
	}
	return err;
}
