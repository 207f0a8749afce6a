// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A channel and processes: fork, exec, signals, threads, a sudden end.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "net.h"

static char buf[64];

static int child_status(pid_t child)
{
	int status;

	ASSERT_EQ(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void fork__child_refused(void)
{
	struct mp_event event;
	struct server s;
	mp_handle h;
	pid_t child;
	int client;

	server_open(&s, AF_INET, 64);
	client = client_open(&s, true, NULL, &h);
	child = fork();
	ASSERT(child >= 0);
	if (!child) {
		test_failures = 0;
		EXPECT_EQ(mp_dispatch(s.channel, &event, 0), -EPERM);
		EXPECT_EQ(mp_register(s.channel, s.listener, NULL, NULL, &h),
			  -EPERM);
		EXPECT_EQ(mp_close(h), 0);
		EXPECT_EQ(mp_flush(s.channel), -EPERM);
		mp_destroy(s.channel);
		_exit(test_failures ? 1 : 0);
	}
	EXPECT_EQ(child_status(child), 0);
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	ASSERT_EQ(write(client, "still", 5), 5);
	expect_result(s.channel, h, MP_READ, 5);
	close(client);
	server_close(&s);
}

static void exec__descriptor_is_closed(void)
{
	struct mp_channel *channel = new_channel(64);

	EXPECT(fcntl(mp_fd(channel), F_GETFD) & FD_CLOEXEC);
	mp_destroy(channel);
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* A signal during the wait; the requests made before it are not lost. */
static void signal__ends_the_wait(void)
{
	struct itimerval soon = { .it_value = { .tv_usec = 300000 } };
	struct sigaction action = { .sa_handler = on_alarm };
	struct mp_event event;
	struct server s;
	mp_handle h;
	int client;

	server_open(&s, AF_INET, 64);
	client = client_open(&s, true, NULL, &h);
	ASSERT_EQ(mp_read(h, buf, sizeof(buf)), 0);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	EXPECT_EQ(mp_dispatch(s.channel, &event, -1), -EINTR);
	action.sa_handler = SIG_DFL;
	sigaction(SIGALRM, &action, NULL);
	alarm(WATCHDOG_S);

	ASSERT_EQ(write(client, "later", 5), 5);
	expect_result(s.channel, h, MP_READ, 5);
	close(client);
	server_close(&s);
}

/* A signal that is blocked but for the time of the wait */
static void sigmask__for_the_wait(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct mp_channel *channel = new_channel(64);
	struct mp_event event;
	sigset_t blocked, none;

	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigaction(SIGUSR1, &action, NULL);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	raise(SIGUSR1);
	EXPECT_EQ(mp_dispatch_batch(channel, &event, 1, 1000, NULL), 0);
	EXPECT_EQ(mp_dispatch_batch(channel, &event, 1, -1, &none), -EINTR);
	pthread_sigmask(SIG_BLOCK, NULL, &none);
	EXPECT(sigismember(&none, SIGUSR1));
	mp_destroy(channel);
}

static void timeout__is_kept(void)
{
	struct mp_channel *channel = new_channel(64);
	struct timespec begin, end;
	struct mp_event event;
	long long us;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	EXPECT_EQ(mp_dispatch(channel, &event, 250000), 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	us = (end.tv_sec - begin.tv_sec) * 1000000LL +
	     (end.tv_nsec - begin.tv_nsec) / 1000;
	EXPECT(us >= 250000 && us < DEADLINE_US);
	mp_destroy(channel);
}

/* A thread waits, another's client wakes it. */
static void *wait_for_accept(void *arg)
{
	struct server *s = arg;
	struct mp_event event = next_event(s->channel, MP_ACCEPT);

	EXPECT(event.result >= 0);
	return NULL;
}

static void thread__woken_from_sleep(void)
{
	struct timespec poll_every = { .tv_nsec = 1000000 };
	pthread_t thread;
	struct server s;
	int client;

	server_open(&s, AF_INET, 64);
	ASSERT_EQ(mp_accept(s.handle, 1, true), 0);
	ASSERT(!pthread_create(&thread, NULL, wait_for_accept, &s));
	while (!stats_of(s.channel).sleeps)
		nanosleep(&poll_every, NULL);
	client = client_connect(&s);
	ASSERT(!pthread_join(thread, NULL));
	close(client);
	server_close(&s);
}

/* Killed with connections open, reads and writes pending. */
static void kill__listener_lives_on(void)
{
	static char big[4 << 20];
	struct server s;
	mp_handle h;
	pid_t child;
	int ready[2], client, i;
	char byte;

	s.channel = NULL;
	server_listen(&s, AF_INET, 128, 0);
	ASSERT(!pipe(ready));
	child = fork();
	ASSERT(child >= 0);
	if (!child) {
		s.channel = new_channel(64);
		ASSERT_EQ(mp_register(s.channel, s.listener, &s, NULL,
				      &s.handle), 0);
		for (i = 0; i < 20; i++) {
			client_open(&s, i % 2, NULL, &h);
			mp_read(h, buf, sizeof(buf));
			mp_write(h, big, sizeof(big));
		}
		ASSERT_EQ(mp_accept(s.handle, MP_FOREVER, true), 0);
		ASSERT_EQ(mp_flush(s.channel), 0);
		ASSERT_EQ(write(ready[1], "r", 1), 1);
		for (;;)
			pause();
	}
	ASSERT_EQ(read(ready[0], &byte, 1), 1);
	client = client_connect(&s);
	ASSERT(!kill(child, SIGKILL));
	EXPECT_EQ(child_status(child), -1);
	/* The listener is ours too, and serves on without MegaPipe. */
	close(client);
	client = client_connect(&s);
	close(client);
	close(s.listener);
	close(ready[0]);
	close(ready[1]);
}

TEST_MAIN(
	TEST(fork__child_refused),
	TEST(exec__descriptor_is_closed),
	TEST(signal__ends_the_wait),
	TEST(sigmask__for_the_wait),
	TEST(timeout__is_kept),
	TEST(thread__woken_from_sleep),
	TEST(kill__listener_lives_on)
)
