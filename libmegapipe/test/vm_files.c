// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What else can be registered, what cannot, and waiting for readiness.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include "net.h"

static char buf[256];

static void pipe__read_write_end(void)
{
	struct mp_channel *channel = new_channel(64);
	mp_handle in, out;
	int fds[2];

	ASSERT(!pipe2(fds, O_NONBLOCK));
	ASSERT_EQ(mp_register(channel, fds[0], NULL, NULL, &in), 0);
	ASSERT_EQ(mp_register(channel, fds[1], NULL, NULL, &out), 0);
	ASSERT_EQ(mp_read(in, buf, sizeof(buf)), 0);
	expect_silence(channel);
	ASSERT_EQ(mp_write(out, "through", 7), 0);
	expect_result(channel, out, MP_WRITE, 7);
	expect_result(channel, in, MP_READ, 7);
	EXPECT(!memcmp(buf, "through", 7));
	ASSERT_EQ(mp_close(out), 0);
	ASSERT_EQ(mp_read(in, buf, sizeof(buf)), 0);
	expect_result(channel, in, MP_READ, 0);
	ASSERT_EQ(mp_close(in), 0);
	mp_destroy(channel);
}

static void expect_read_of_8(struct mp_channel *channel, int fd, int bytes)
{
	mp_handle h;

	ASSERT(fd >= 0);
	ASSERT_EQ(mp_register(channel, fd, NULL, NULL, &h), 0);
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	expect_result(channel, h, MP_READ, bytes);
	ASSERT_EQ(mp_close(h), 0);
}

static void counters_timers_signals__read(void)
{
	struct itimerspec soon = { .it_value = { .tv_nsec = 1000000 } };
	struct mp_channel *channel = new_channel(64);
	sigset_t mask;
	int fd;

	expect_read_of_8(channel, eventfd(3, EFD_NONBLOCK), 8);
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	timerfd_settime(fd, 0, &soon, NULL);
	expect_read_of_8(channel, fd, 8);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	fd = signalfd(-1, &mask, SFD_NONBLOCK);
	raise(SIGUSR2);
	expect_read_of_8(channel, fd, sizeof(struct signalfd_siginfo));
	mp_destroy(channel);
}

static void refused__by_kind(void)
{
	struct mp_channel *channel = new_channel(64), *other;
	int file = memfd_create("file", 0), epoll = epoll_create1(0);
	mp_handle h;
	int fifo;

	ASSERT_EQ(mp_create(&other), 0);
	EXPECT_EQ(mp_register(channel, file, NULL, NULL, &h), -EPERM);
	EXPECT_EQ(mp_register(channel, epoll, NULL, NULL, &h), -ELOOP);
	EXPECT_EQ(mp_register(channel, mp_fd(other), NULL, NULL, &h), -ELOOP);
	EXPECT_EQ(mp_register(channel, 999, NULL, NULL, &h), -EBADF);
	unlink("/tmp/vm_files.fifo");
	ASSERT(!mkfifo("/tmp/vm_files.fifo", 0600));
	fifo = open("/tmp/vm_files.fifo", O_RDWR);
	ASSERT(fifo >= 0);
	EXPECT_EQ(mp_register(channel, fifo, NULL, NULL, &h), -EOPNOTSUPP);
	unlink("/tmp/vm_files.fifo");
	close(fifo);
	close(file);
	close(epoll);
	mp_destroy(other);
	mp_destroy(channel);
}

static void poll__once_when_ready(void)
{
	struct pair p = pair_open(true, NULL);
	struct mp_event event;

	ASSERT_EQ(mp_poll(p.h, EPOLLIN), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(write(p.client, "x", 1), 1);
	event = next_event(p.s.channel, MP_POLL);
	EXPECT_EQ(event.result & (EPOLLIN | EPOLLERR), EPOLLIN);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_poll(p.h, EPOLLOUT), 0);
	event = next_event(p.s.channel, MP_POLL);
	EXPECT(event.result & EPOLLOUT);
	ASSERT_EQ(mp_read(p.h, buf, 1), 0);	/* eats nothing */
	expect_result(p.s.channel, p.h, MP_READ, 1);
	pair_close(&p);
}

TEST_MAIN(
	TEST(pipe__read_write_end),
	TEST(counters_timers_signals__read),
	TEST(refused__by_kind),
	TEST(poll__once_when_ready)
)
