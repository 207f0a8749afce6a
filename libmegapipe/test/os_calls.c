// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The library's real system calls, on this machine as it is, with MegaPipe or
 * without: -errno, and errno untouched.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "test.h"

static void errno__untouched(void)
{
	char release[64] = "";

	errno = EXDEV;
	EXPECT_EQ(mp_sys_open("/no/such/file"), -ENOENT);
	EXPECT_EQ(mp_sys_close(-1), -EBADF);
	EXPECT_EQ(mp_sys_ioctl(-1, MEGAPIPE_IOC_INFO, NULL), -EBADF);
	EXPECT(!mp_sys_exists("/no/such/file"));
	EXPECT(mp_sys_exists("/"));
	mp_sys_release(release, sizeof(release));
	EXPECT(!strncmp(release, "Linux ", 6));
	EXPECT_EQ(errno, EXDEV);
}

static void open__close_on_exec(void)
{
	int fd = mp_sys_open("/dev/null");

	ASSERT(fd >= 0);
	EXPECT(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	EXPECT_EQ(mp_sys_ioctl(fd, MEGAPIPE_IOC_INFO, NULL), -ENOTTY);
	EXPECT_EQ(mp_sys_close(fd), 0);
	EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

static volatile sig_atomic_t signals;

static void on_signal(int signal)
{
	(void)signal;
	signals++;
}

/* A signal that is blocked but for the time of the wait */
static void poll__with_signal_mask(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t blocked, none;
	int pipes[2];

	ASSERT(!pipe(pipes));
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigaction(SIGUSR1, &action, NULL);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	raise(SIGUSR1);

	EXPECT_EQ(mp_sys_poll(pipes[0], 1000000, NULL), 0);
	EXPECT_EQ(signals, 0);
	errno = EXDEV;
	EXPECT_EQ(mp_sys_poll(pipes[0], -1, &none), -EINTR);
	EXPECT_EQ(errno, EXDEV);
	EXPECT_EQ(signals, 1);
	ASSERT_EQ(write(pipes[1], "x", 1), 1);
	EXPECT_EQ(mp_sys_poll(pipes[0], -1, NULL), 1);
	close(pipes[0]);
	close(pipes[1]);
}

/* In seconds it is more than a small time_t can hold. */
static void poll__very_long(void)
{
	int pipes[2];

	ASSERT(!pipe(pipes));
	ASSERT_EQ(write(pipes[1], "x", 1), 1);
	EXPECT_EQ(mp_sys_poll(pipes[0], 3000000000LL * 1000000000, NULL), 1);
	EXPECT_EQ(mp_sys_poll(pipes[0], INT64_MAX, NULL), 1);
	close(pipes[0]);
	close(pipes[1]);
}

static void now__goes_on(void)
{
	int64_t before = mp_sys_now_ns();

	ASSERT(before > 0);
	EXPECT_EQ(mp_sys_poll(-1, 2000000, NULL), 0);
	EXPECT(mp_sys_now_ns() >= before + 2000000);
}

/* What a program on an ordinary kernel meets first */
static void create__or_an_explanation(void)
{
	struct mp_channel *channel;
	char text[MP_EXPLAIN_SIZE];
	int err = mp_create(&channel);

	if (!err) {
		mp_destroy(channel);
		return;
	}
	EXPECT(!channel);
	EXPECT(err == -ENOENT || err == -EACCES || err == -EPROTO);
	printf("# %s\n", mp_explain(err, text, sizeof(text)));
	EXPECT(strstr(text, "this kernel (Linux "));
}

TEST_MAIN(
	TEST(errno__untouched),
	TEST(open__close_on_exec),
	TEST(poll__with_signal_mask),
	TEST(poll__very_long),
	TEST(now__goes_on),
	TEST(create__or_an_explanation)
)
