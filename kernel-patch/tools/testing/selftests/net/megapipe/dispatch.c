// SPDX-License-Identifier: GPL-2.0-only
/*
 * The dispatch itself: how long it waits and for how many, signals, several
 * threads on one channel, and memory that is not there.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "megapipe_test.h"

#define MS		1000000LL
#define KERNEL_NSIG	64

static sig_atomic_t signals;

static void count_signal(int nr)
{
	signals++;
}

static void handle_signal(int nr, int flags)
{
	struct sigaction action = {
		.sa_handler = count_signal,
		.sa_flags = flags,
	};

	signals = 0;
	mp_must(sigaction(nr, &action, NULL));
}

/* SIGALRM every so often, until 0 */
static void alarm_every(long ms)
{
	struct itimerval timer = {
		.it_value.tv_usec = ms * 1000,
		.it_interval.tv_usec = ms * 1000,
	};

	mp_must(setitimer(ITIMER_REAL, &timer, NULL));
}

static int new_eventfd(void)
{
	return mp_must(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

static void raise_eventfd(int fd)
{
	uint64_t one = 1;

	mp_must(write(fd, &one, sizeof(one)));
}

static int dispatch_masked(int channel, struct megapipe_event *event,
			   int64_t timeout_ns, uint64_t mask, uint32_t size)
{
	struct megapipe_dispatch dispatch = {
		.events = (uintptr_t)event,
		.max_events = 1,
		.min_events = 1,
		.timeout_ns = timeout_ns,
		.sigmask = mask,
		.sigsetsize = size,
	};

	return mp_ioctl(channel, MEGAPIPE_IOC_DISPATCH, &dispatch);
}

/* A channel, and an eventfd with a pending READ of it */
FIXTURE(wait) {
	int channel;
	int fd;
	int handle;
	uint64_t value;
	struct megapipe_event event;
};

FIXTURE_SETUP(wait)
{
	self->channel = mp_open();
	self->fd = new_eventfd();
	self->handle = mp_register(self->channel, self->fd, 1);
	ASSERT_GT(self->handle, 0);
	mp_submit(self->channel, mp_cmd_read(self->handle, &self->value,
					     sizeof(self->value)));
}

FIXTURE_TEARDOWN(wait)
{
	alarm_every(0);
	close(self->channel);
	close(self->fd);
}

TEST_F(wait, timeout__0_does_not_wait)
{
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, 1, 1, 0,
			      NULL), 0);
	EXPECT_EQ(mp_stats(self->channel).sleeps, 0);
}

TEST_F(wait, timeout__is_in_nanoseconds_and_not_early)
{
	long long begin = mp_now_ns();

	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, 1, 1,
			      30 * MS, NULL), 0);
	EXPECT_GE(mp_now_ns() - begin, 30 * MS);
	/* Half a millisecond is not rounded to 0, nor to a second. */
	begin = mp_now_ns();
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, 1, 1,
			      MS / 2, NULL), 0);
	EXPECT_GE(mp_now_ns() - begin, MS / 2);
	EXPECT_EQ(mp_stats(self->channel).sleeps, 2);
}

TEST_F(wait, timeout__the_longest_is_for_ever)
{
	alarm_every(0);
	handle_signal(SIGALRM, 0);
	alarm_every(20);
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, 1, 1,
			      INT64_MAX, NULL), -EINTR);
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, 1, 1,
			      INT64_MIN, NULL), -EINTR);
}

static void *raise_later(void *arg)
{
	usleep(20000);
	raise_eventfd(*(int *)arg);
	return NULL;
}

TEST_F(wait, min_events__are_waited_for)
{
	struct megapipe_event events[4];
	int fd = new_eventfd();
	pthread_t thread;
	uint64_t value;
	int handle;

	handle = mp_register(self->channel, fd, 2);
	mp_submit(self->channel, mp_cmd_read(handle, &value, sizeof(value)));
	raise_eventfd(self->fd);
	mp_must(-pthread_create(&thread, NULL, raise_later, &fd));
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, events, 4, 2,
			      MP_DEADLINE_NS, NULL), 2);
	EXPECT_EQ(events[0].cookie, 1);
	EXPECT_EQ(events[1].cookie, 2);
	pthread_join(thread, NULL);
	close(fd);
}

TEST_F(wait, min_events__fewer_after_the_timeout)
{
	struct megapipe_event events[4];

	raise_eventfd(self->fd);
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, events, 4, 2, 10 * MS,
			      NULL), 1);
	EXPECT_EQ(events[0].res, 8);
}

TEST_F(wait, min_events__not_more_than_room)
{
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, 1, 2, 0,
			      NULL), -EINVAL);
}

TEST_F(wait, max_events__what_finds_no_room_comes_later)
{
	int fds[8], handles[8], i, n;
	struct megapipe_event event;
	uint64_t values[8];
	uint32_t seen = 0;

	for (i = 0; i < 8; i++) {
		fds[i] = new_eventfd();
		handles[i] = mp_register(self->channel, fds[i], i);
		mp_submit(self->channel, mp_cmd_read(handles[i], &values[i],
						     sizeof(values[i])));
	}
	for (i = 0; i < 8; i++)
		raise_eventfd(fds[i]);
	for (n = 0; n < 8; n++) {
		event = mp_wait(self->channel);
		EXPECT_EQ(event.cookie, n);	/* in their order */
		seen |= 1 << event.cookie;
	}
	EXPECT_EQ(seen, 0xff);
	EXPECT_TRUE(mp_quiet(self->channel));
	for (i = 0; i < 8; i++)
		close(fds[i]);
}

/*
 * Signals
 */

TEST_F(wait, signal__ends_the_wait)
{
	handle_signal(SIGALRM, 0);
	alarm_every(20);
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, 1, 1, -1,
			      NULL), -EINTR);
	EXPECT_GE(signals, 1);
}

/* A restarted dispatch would run its commands twice. */
TEST_F(wait, signal__does_not_restart_the_call)
{
	struct megapipe_cmd cmd = mp_cmd_cookie(self->handle, 42);
	uint32_t done = 0;

	handle_signal(SIGALRM, SA_RESTART);
	alarm_every(20);
	EXPECT_EQ(mp_dispatch(self->channel, &cmd, 1, &self->event, 1, 1, -1,
			      &done), -EINTR);
	alarm_every(0);
	/* What was consumed is told all the same. */
	EXPECT_EQ(done, 1);
	EXPECT_EQ(mp_stats(self->channel).commands, 2);
	raise_eventfd(self->fd);
	EXPECT_EQ(mp_wait(self->channel).cookie, 42);
}

TEST_F(wait, signal__loses_no_completion)
{
	struct megapipe_event events[2];

	handle_signal(SIGALRM, 0);
	raise_eventfd(self->fd);
	alarm_every(20);
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, events, 2, 2, -1, NULL),
		  1);
	EXPECT_EQ(events[0].handle, self->handle);
	EXPECT_GE(signals, 1);
}

TEST_F(wait, sigmask__keeps_signals_away)
{
	uint64_t mask = 1ULL << (SIGALRM - 1);

	handle_signal(SIGALRM, 0);
	alarm_every(5);
	EXPECT_EQ(dispatch_masked(self->channel, &self->event, 60 * MS,
				  (uintptr_t)&mask, KERNEL_NSIG / 8), 0);
	/* And then they come. */
	EXPECT_GE(signals, 1);
}

TEST_F(wait, sigmask__lets_signals_in_for_the_call_only)
{
	uint64_t none = 0;
	sigset_t blocked, now;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	mp_must(-pthread_sigmask(SIG_BLOCK, &blocked, NULL));
	handle_signal(SIGUSR1, 0);
	raise(SIGUSR1);
	EXPECT_EQ(signals, 0);

	EXPECT_EQ(dispatch_masked(self->channel, &self->event, -1,
				  (uintptr_t)&none, KERNEL_NSIG / 8), -EINTR);
	EXPECT_EQ(signals, 1);
	mp_must(-pthread_sigmask(SIG_BLOCK, NULL, &now));
	EXPECT_TRUE(sigismember(&now, SIGUSR1));

	/* With something to return, it stays pending and blocked. */
	raise(SIGUSR1);
	raise_eventfd(self->fd);
	EXPECT_EQ(dispatch_masked(self->channel, &self->event, -1,
				  (uintptr_t)&none, KERNEL_NSIG / 8), 1);
	EXPECT_EQ(signals, 1);
	mp_must(-pthread_sigmask(SIG_BLOCK, NULL, &now));
	EXPECT_TRUE(sigismember(&now, SIGUSR1));
}

TEST_F(wait, sigmask__is_checked)
{
	uint64_t mask = 0;

	EXPECT_EQ(dispatch_masked(self->channel, &self->event, 0,
				  (uintptr_t)&mask, 7), -EINVAL);
	EXPECT_EQ(dispatch_masked(self->channel, &self->event, 0, 0, 8),
		  -EINVAL);
	EXPECT_EQ(dispatch_masked(self->channel, &self->event, 0, 1, 8),
		  -EFAULT);
}

/*
 * Commands in chunks, and arrays that are not there
 */

TEST_F(wait, commands__4096_and_no_more)
{
	uint32_t nr = mp_info(self->channel).max_dispatch;
	struct megapipe_cmd *cmds = calloc(nr + 1, sizeof(*cmds));
	uint32_t done, i;

	for (i = 0; i <= nr; i++)
		cmds[i] = mp_cmd_cookie(self->handle, i);
	EXPECT_EQ(mp_dispatch(self->channel, cmds, nr, NULL, 0, 0, 0, &done),
		  0);
	EXPECT_EQ(done, nr);
	EXPECT_EQ(mp_dispatch(self->channel, cmds, nr + 1, NULL, 0, 0, 0,
			      &done), -EINVAL);
	EXPECT_EQ(done, 0);
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, &self->event, nr + 1, 0,
			      0, NULL), -EINVAL);
	raise_eventfd(self->fd);
	EXPECT_EQ(mp_wait(self->channel).cookie, nr - 1);
	free(cmds);
}

/* [ page with 128 commands ][ nothing ] */
TEST_F(wait, commands__unreadable_are_not_consumed)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct megapipe_cmd *cmds;
	uint32_t done, i, nr;

	cmds = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mp_must(munmap((char *)cmds + page, page));
	nr = page / sizeof(*cmds);
	for (i = 0; i < nr; i++)
		cmds[i] = mp_cmd_cookie(self->handle, i);
	EXPECT_EQ(mp_dispatch(self->channel, cmds, nr + 1, NULL, 0, 0, 0,
			      &done), 0);
	EXPECT_EQ(done, nr);
	EXPECT_EQ(mp_dispatch(self->channel, cmds + nr, 1, NULL, 0, 0, 0,
			      &done), -EFAULT);
	EXPECT_EQ(done, 0);
	munmap(cmds, page);
}

TEST_F(wait, events__unwritable_is_an_error)
{
	raise_eventfd(self->fd);
	EXPECT_EQ(mp_dispatch(self->channel, NULL, 0, (void *)16, 1, 1, -1,
			      NULL), -EFAULT);
	EXPECT_TRUE(mp_quiet(self->channel));
}

/*
 * Several threads
 */

#define THREADS	4

struct waiter {
	pthread_t	thread;
	int		channel;
	int64_t		timeout_ns;
	int		got;
};

static uint64_t sink;

static void *take_one(void *arg)
{
	struct waiter *w = arg;
	struct megapipe_event event;

	w->got = mp_dispatch(w->channel, NULL, 0, &event, 1, 1, w->timeout_ns,
			     NULL);
	return NULL;
}

static void start_waiter(struct waiter *w, int channel, int64_t timeout_ns)
{
	w->channel = channel;
	w->timeout_ns = timeout_ns;
	mp_must(-pthread_create(&w->thread, NULL, take_one, w));
}

/*
 * An event comes just as the first waiter, which it wakes, gives up.  If that
 * one does not take it, the second must.
 */
TEST_F(wait, threads__a_wakeup_is_not_lost_with_one_that_gives_up)
{
	int round, rounds = mp_scaled(200), late = 0;
	struct waiter first, second;
	long long until;

	for (round = 0; round < rounds; round++) {
		start_waiter(&first, self->channel, 1 + rand() % (MS / 2));
		start_waiter(&second, self->channel, MP_DEADLINE_NS);
		until = mp_now_ns() + rand() % (MS / 2);
		while (mp_now_ns() < until)
			;
		raise_eventfd(self->fd);
		pthread_join(first.thread, NULL);
		ASSERT_GE(first.got, 0);
		if (first.got) {
			mp_submit(self->channel,
				  mp_cmd_read(self->handle, &sink,
					      sizeof(sink)));
			raise_eventfd(self->fd);
		} else {
			late++;
		}
		pthread_join(second.thread, NULL);
		ASSERT_EQ(second.got, 1);
		mp_submit(self->channel, mp_cmd_read(self->handle, &sink,
						     sizeof(sink)));
	}
	TH_LOG("the first gave up in %d of %d rounds", late, rounds);
}

/* As many events at once as there are waiters: each has its own. */
TEST(threads__all_are_woken)
{
	int round, rounds = mp_scaled(50), fds[THREADS], handles[THREADS], i;
	struct waiter waiters[THREADS];
	int channel = mp_open();

	for (i = 0; i < THREADS; i++) {
		fds[i] = new_eventfd();
		handles[i] = mp_register(channel, fds[i], i);
	}
	for (round = 0; round < rounds; round++) {
		for (i = 0; i < THREADS; i++)
			mp_submit(channel, mp_cmd_read(handles[i], &sink,
						       sizeof(sink)));
		for (i = 0; i < THREADS; i++)
			start_waiter(&waiters[i], channel, MP_DEADLINE_NS);
		/* Half of the rounds find them asleep. */
		if (round % 2)
			usleep(1000);
		for (i = 0; i < THREADS; i++)
			raise_eventfd(fds[i]);
		for (i = 0; i < THREADS; i++) {
			pthread_join(waiters[i].thread, NULL);
			ASSERT_EQ(waiters[i].got, 1);
		}
	}
	EXPECT_TRUE(mp_quiet(channel));
	for (i = 0; i < THREADS; i++)
		close(fds[i]);
	close(channel);
}

static int die_waiting(void *arg)
{
	struct itimerval timer = { .it_value.tv_usec = 20000 };
	struct megapipe_event event;

	signal(SIGALRM, SIG_DFL);
	setitimer(ITIMER_REAL, &timer, NULL);
	mp_dispatch(*(int *)arg, NULL, 0, &event, 1, 1, -1, NULL);
	return 1;
}

/*
 * UNREGISTER is the end: a dispatch that begins after it has returned delivers
 * nothing of the handle, whichever thread calls it.
 *
 *	one thread:  register, READ, write, UNREGISTER -> gone[] = now
 *	the others:  now, dispatch: none of what was gone by then
 */
#define GONE_THREADS	3
#define GONE_ROUNDS	1000

struct gone {
	int channel;
	bool stop;
	unsigned int now;
	unsigned int at[GONE_ROUNDS + 1];	/* by cookie; 0: still there */
	unsigned int delivered;
	unsigned int late;
};

static void *dispatch_until_stopped(void *arg)
{
	struct gone *gone = arg;
	struct megapipe_event events[8];
	unsigned int began, at;
	int i, n;

	while (!__atomic_load_n(&gone->stop, __ATOMIC_ACQUIRE)) {
		began = __atomic_load_n(&gone->now, __ATOMIC_ACQUIRE);
		n = mp_dispatch(gone->channel, NULL, 0, events, 8, 1, MS, NULL);
		for (i = 0; i < n; i++) {
			at = __atomic_load_n(&gone->at[events[i].cookie],
					     __ATOMIC_ACQUIRE);
			__atomic_fetch_add(&gone->delivered, 1,
					   __ATOMIC_RELAXED);
			if (at && at <= began)
				__atomic_fetch_add(&gone->late, 1,
						   __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

TEST(threads__get_nothing_of_what_is_unregistered)
{
	unsigned int rounds = mp_scaled(GONE_ROUNDS), i, spin;
	static struct gone gone;
	pthread_t threads[GONE_THREADS];
	static uint64_t values[GONE_ROUNDS + 1];
	int fd, handle;

	if (rounds > GONE_ROUNDS)
		rounds = GONE_ROUNDS;
	gone.channel = mp_open();
	for (i = 0; i < GONE_THREADS; i++)
		mp_must(-pthread_create(&threads[i], NULL,
					dispatch_until_stopped, &gone));
	for (i = 1; i <= rounds; i++) {
		fd = new_eventfd();
		handle = mp_register(gone.channel, fd, i);
		ASSERT_GT(handle, 0);
		mp_submit(gone.channel, mp_cmd_read(handle, &values[i], 8));
		raise_eventfd(fd);
		/* Sooner or later, so that either may be first */
		for (spin = (i % 16) * 500; spin; spin--)
			__asm__ volatile("" ::: "memory");
		mp_submit(gone.channel, mp_cmd_unregister(handle));
		__atomic_store_n(&gone.at[i], gone.now + 1, __ATOMIC_RELEASE);
		__atomic_store_n(&gone.now, gone.now + 1, __ATOMIC_RELEASE);
		close(fd);
	}
	__atomic_store_n(&gone.stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < GONE_THREADS; i++)
		pthread_join(threads[i], NULL);
	TH_LOG("%u of %u reads completed before", gone.delivered, rounds);
	EXPECT_LE(gone.delivered, rounds);
	EXPECT_EQ(gone.late, 0);
	close(gone.channel);
}

/* A process that shares the address space dies in its sleep. */
TEST_F(wait, threads__one_that_is_killed_does_not_keep_the_channel)
{
	static char stack[65536];
	int status;
	pid_t pid;

	pid = mp_must(clone(die_waiting, stack + sizeof(stack),
			    CLONE_VM | SIGCHLD, &self->channel));
	mp_must(waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(WTERMSIG(status), SIGALRM);
	raise_eventfd(self->fd);
	EXPECT_EQ(mp_wait(self->channel).cookie, 1);
}

/*
 * Memory that stalls: the kernel waits for a page in a copy, with the channel's
 * mutex held.
 */

struct stall {
	int		channel;
	void		*page;		/* not there */
	pthread_t	thread;
	int		ret;
};

static void *dispatch_stalled(void *arg)
{
	struct stall *s = arg;

	s->ret = mp_dispatch(s->channel, NULL, 0, s->page, 1, 1, -1, NULL);
	return NULL;
}

/* Memory whose page faults nobody answers yet.  -1: not on this kernel. */
static int stalling_memory(void **page)
{
	size_t size = sysconf(_SC_PAGESIZE);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		return -1;
	mp_must(ioctl(fd, UFFDIO_API, &api));
	*page = mmap(NULL, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (uintptr_t)*page;
	reg.range.len = size;
	mp_must(ioctl(fd, UFFDIO_REGISTER, &reg));
	return fd;
}

static void wait_for_fault(int uffd)
{
	struct uffd_msg msg;

	mp_must(read(uffd, &msg, sizeof(msg)));
}

static void give_page(int uffd, void *page)
{
	struct uffdio_zeropage zero = {
		.range.start = (uintptr_t)page,
		.range.len = sysconf(_SC_PAGESIZE),
	};

	mp_must(ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
}

TEST_F(wait, stall__blocks_this_channel_only)
{
	struct pollfd pollfd = { .fd = self->channel, .events = POLLIN };
	struct stall s = { .channel = self->channel };
	char path[64], text[2048];
	int uffd, other, handle, fd, info;
	uint64_t value;

	uffd = stalling_memory(&s.page);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	raise_eventfd(self->fd);
	mp_must(-pthread_create(&s.thread, NULL, dispatch_stalled, &s));
	wait_for_fault(uffd);

	/* Another channel goes on, with the same file even. */
	other = mp_open();
	fd = new_eventfd();
	handle = mp_register(other, fd, 9);
	mp_submit(other, mp_cmd_read(handle, &value, sizeof(value)));
	raise_eventfd(fd);
	EXPECT_EQ(mp_wait(other).cookie, 9);

	/*
	 * This one can be looked at and polled.  It may be ready again: who
	 * reads an eventfd wakes those that wait to write.
	 */
	EXPECT_EQ(mp_stats(self->channel).handles, 1);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", self->channel);
	info = mp_must(open(path, O_RDONLY | O_CLOEXEC));
	EXPECT_GT(read(info, text, sizeof(text)), 0);
	close(info);
	EXPECT_GE(poll(&pollfd, 1, 0), 0);

	give_page(uffd, s.page);
	pthread_join(s.thread, NULL);
	EXPECT_EQ(s.ret, 1);
	EXPECT_EQ(((struct megapipe_event *)s.page)->cookie, 1);
	close(uffd);
	close(fd);
	close(other);
}

/* Threads that stall, and that wait for the one that stalls, can be killed. */
TEST(stall__can_be_killed)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		int channel = mp_open();
		int fd = new_eventfd();
		int handle = mp_register(channel, fd, 1);
		struct stall s = { .channel = channel };
		struct stall t = { .channel = channel };
		struct megapipe_event event;
		uint64_t value;
		int uffd = stalling_memory(&s.page);

		if (uffd < 0)
			_exit(MP_EXIT_SKIP);
		t.page = &event;
		mp_submit(channel, mp_cmd_read(handle, &value, sizeof(value)));
		raise_eventfd(fd);
		mp_must(-pthread_create(&s.thread, NULL, dispatch_stalled, &s));
		wait_for_fault(uffd);
		mp_must(-pthread_create(&t.thread, NULL, dispatch_stalled, &t));
		usleep(50000);
		kill(getpid(), SIGKILL);
		_exit(1);
	}
	mp_must(waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == MP_EXIT_SKIP)
		SKIP(return, "no userfaultfd");
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST_HARNESS_MAIN
