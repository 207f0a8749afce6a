// SPDX-License-Identifier: GPL-2.0-only
/*
 * Descriptors of all kinds: what can be registered, and how it reads and writes.
 */
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "megapipe_test.h"

FIXTURE(file)
{
	int channel;
};

FIXTURE_SETUP(file)
{
	self->channel = mp_open();
}

FIXTURE_TEARDOWN(file)
{
	close(self->channel);
}

TEST_F(file, pipe__both_ends)
{
	static char big[300000], got[300000];
	struct megapipe_event event;
	int fds[2], in, out, done;
	char buf[8] = {};

	mp_must(pipe(fds));
	in = mp_register(self->channel, fds[0], 1);
	out = mp_register(self->channel, fds[1], 2);
	ASSERT_GT(in, 0);
	ASSERT_GT(out, 0);

	mp_submit(self->channel, mp_cmd_read(in, buf, sizeof(buf)));
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(mp_run(self->channel, mp_cmd_write(out, "abc", 3)).op,
		  MEGAPIPE_OP_WRITE);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.cookie, 1);
	EXPECT_EQ(event.res, 3);
	EXPECT_STREQ(buf, "abc");

	/* More than it holds: goes on as the other end reads. */
	memset(big, 'x', sizeof(big));
	mp_submit(self->channel, mp_cmd_write(out, big, sizeof(big)));
	EXPECT_TRUE(mp_quiet(self->channel));
	for (done = 0; done < sizeof(big); ) {
		mp_submit(self->channel,
			  mp_cmd_read(in, got + done, sizeof(got) - done));
		event = mp_wait(self->channel);
		if (event.op == MEGAPIPE_OP_WRITE) {
			EXPECT_EQ(event.res, sizeof(big));
			event = mp_wait(self->channel);
		}
		ASSERT_EQ(event.op, MEGAPIPE_OP_READ);
		ASSERT_GT(event.res, 0);
		done += event.res;
	}
	EXPECT_EQ(memcmp(big, got, sizeof(big)), 0);

	/* Wrong direction */
	while (!mp_quiet(self->channel))
		;
	EXPECT_EQ(mp_run(self->channel, mp_cmd_write(in, "x", 1)).res,
		  -EOPNOTSUPP);
	EXPECT_EQ(mp_run(self->channel, mp_cmd_read(out, buf, 1)).res,
		  -EOPNOTSUPP);

	/* The last writer goes: end of file. */
	mp_submit(self->channel, mp_cmd_read(in, buf, sizeof(buf)));
	mp_submit(self->channel, mp_cmd_close(out));
	EXPECT_EQ(mp_wait(self->channel).res, 0);
	close(fds[0]);
}

TEST_F(file, pipe__the_reader_goes)
{
	int fds[2], out;

	signal(SIGPIPE, SIG_IGN);
	mp_must(pipe(fds));
	out = mp_register(self->channel, fds[1], 2);
	close(fds[0]);
	EXPECT_EQ(mp_run(self->channel, mp_cmd_write(out, "x", 1)).res, -EPIPE);
	close(fds[1]);
}

TEST_F(file, only_sockets_send_receive_and_disconnect)
{
	int fds[2], in;
	char c;

	mp_must(pipe(fds));
	in = mp_register(self->channel, fds[0], 1);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_recvfrom(in, &c, 1, NULL, 0)).res, -ENOTSOCK);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(in, &c, 1, NULL, 0)).res, -ENOTSOCK);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(in, 0, 0, 1)).res, -ENOTSOCK);
	EXPECT_EQ(mp_run(self->channel, mp_cmd_disconnect(in)).res, -ENOTSOCK);
	EXPECT_EQ(mp_run(self->channel, mp_cmd_accept(in, 1, 0)).res,
		  -EOPNOTSUPP);
	close(fds[0]);
	close(fds[1]);
}

static int fifo(int flags)
{
	char name[] = "/tmp/megapipe-XXXXXX";
	int fd;

	if (!mkdtemp(name))
		mp_die("mkdtemp: %s", strerror(errno));
	mp_must(chdir(name));
	mp_must(mkfifo("fifo", 0600));
	fd = mp_must(open("fifo", O_RDWR | flags));
	mp_must(unlink("fifo"));
	mp_must(rmdir(name));
	mp_must(chdir("/"));
	return fd;
}

TEST_F(file, fifo__must_be_nonblocking)
{
	int fd = fifo(0), nonblocking = fifo(O_NONBLOCK), handle;
	char buf[8] = {};

	EXPECT_EQ(mp_register(self->channel, fd, 1), -EOPNOTSUPP);
	/* Open for both: it has two wait queues. */
	handle = mp_register(self->channel, nonblocking, 1);
	ASSERT_GT(handle, 0);
	mp_submit(self->channel, mp_cmd_read(handle, buf, sizeof(buf)));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(nonblocking, "abc", 3);
	EXPECT_EQ(mp_wait(self->channel).res, 3);
	EXPECT_STREQ(buf, "abc");

	/* The program may change its mind; the channel does not block. */
	mp_must(fcntl(nonblocking, F_SETFL, 0));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(handle, buf, 1)).res, -EOPNOTSUPP);
	close(fd);
	close(nonblocking);
}

TEST_F(file, tty__reads_lines_and_hangs_up)
{
	int master, slave, handle;
	char buf[16] = {};

	mp_must(openpty(&master, &slave, NULL, NULL, NULL));
	EXPECT_EQ(mp_register(self->channel, slave, 1), -EOPNOTSUPP);
	mp_nonblock(slave);
	handle = mp_register(self->channel, slave, 1);
	ASSERT_GT(handle, 0);
	mp_submit(self->channel, mp_cmd_read(handle, buf, sizeof(buf)));
	mp_write_all(master, "ab", 2);
	/* Not a line yet */
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(master, "c\n", 2);
	EXPECT_EQ(mp_wait(self->channel).res, 4);
	EXPECT_STREQ(buf, "abc\n");

	EXPECT_EQ(mp_run(self->channel, mp_cmd_write(handle, "hey", 3)).res, 3);

	/* The other end goes: end of file, or an error, but no silence. */
	mp_submit(self->channel, mp_cmd_read(handle, buf, sizeof(buf)));
	close(master);
	EXPECT_LE(mp_wait(self->channel).res, 0);
	close(slave);
}

TEST_F(file, eventfd__counts)
{
	int fd = mp_must(eventfd(0, EFD_NONBLOCK)), handle;
	int blocking = mp_must(eventfd(0, 0)), other;
	uint64_t value = 0, three = 3, most = ~0ULL - 1;
	struct iovec iov[2] = { { &three, 4 }, { (char *)&three + 4, 4 } };
	struct megapipe_event event;

	handle = mp_register(self->channel, fd, 1);
	ASSERT_GT(handle, 0);
	mp_submit(self->channel, mp_cmd_read(handle, &value, 8));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(fd, &three, 8);
	EXPECT_EQ(mp_wait(self->channel).res, 8);
	EXPECT_EQ(value, 3);

	/* Full: waits until somebody reads. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(handle, &most, 8)).res, 8);
	mp_submit(self->channel, mp_cmd_write(handle, &three, 8));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_read_all(fd, &value, 8);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(event.res, 8);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_writev(handle, iov, 2)).res, -EOPNOTSUPP);

	/* A blocking one can be read, for it knows how not to wait. */
	other = mp_register(self->channel, blocking, 2);
	ASSERT_GT(other, 0);
	mp_submit(self->channel, mp_cmd_read(other, &value, 8));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(blocking, &three, 8);
	EXPECT_EQ(mp_wait(self->channel).res, 8);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(other, &three, 8)).res, -EOPNOTSUPP);
	close(fd);
	close(blocking);
}

TEST_F(file, timerfd__expires)
{
	int fd = mp_must(timerfd_create(CLOCK_MONOTONIC, 0)), handle;
	struct itimerspec soon = { .it_value.tv_nsec = 1000000 };
	uint64_t ticks = 0;

	handle = mp_register(self->channel, fd, 1);
	ASSERT_GT(handle, 0);
	mp_submit(self->channel, mp_cmd_read(handle, &ticks, 8));
	mp_must(timerfd_settime(fd, 0, &soon, NULL));
	EXPECT_EQ(mp_wait(self->channel).res, 8);
	EXPECT_EQ(ticks, 1);
	close(fd);
}

static int usr1_fd(void)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	mp_must(sigprocmask(SIG_BLOCK, &mask, NULL));
	return mp_must(signalfd(-1, &mask, SFD_CLOEXEC));
}

TEST_F(file, signalfd__reports_signals)
{
	struct signalfd_siginfo info = {};
	int fd = usr1_fd(), handle;

	handle = mp_register(self->channel, fd, 1);
	ASSERT_GT(handle, 0);
	mp_submit(self->channel, mp_cmd_read(handle, &info, sizeof(info)));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_must(kill(getpid(), SIGUSR1));
	EXPECT_EQ(mp_wait(self->channel).res, sizeof(info));
	EXPECT_EQ(info.ssi_signo, SIGUSR1);
	close(fd);
}

/*
 * The wait queue of a signalfd is that of the process that registered it, and
 * goes with that process (POLLFREE), while the file, the address space and so
 * the channel may stay.
 *
 *	this process ---- memory, descriptors ---- another, with its own signals
 *	  reads, cancels, unregisters		     registers, and ends
 */
struct other {
	int	channel;
	int	fd;
	int	handle;
};

static int register_and_end(void *arg)
{
	struct other *other = arg;

	other->handle = mp_register(other->channel, other->fd, 1);
	return 0;
}

TEST_F(file, signalfd__outlives_its_process)
{
	struct other other = { .channel = self->channel };
	struct signalfd_siginfo info = {};
	static max_align_t stack[4096];	/* It grows downwards. */
	int round, status;
	pid_t pid;

	for (round = 0; round < 50; round++) {
		other.fd = usr1_fd();
		pid = mp_must(clone(register_and_end,
				    stack + ARRAY_SIZE(stack),
				    CLONE_VM | CLONE_FILES | CLONE_VFORK |
				    SIGCHLD, &other));
		/* Its signals are freed when it is waited for. */
		mp_must(waitpid(pid, &status, 0));
		ASSERT_EQ(status, 0);
		ASSERT_GT(other.handle, 0);

		/* Nobody tells of signals any more, but they can be read. */
		mp_submit(self->channel, mp_cmd_read(other.handle, &info,
						     sizeof(info)));
		EXPECT_TRUE(mp_quiet(self->channel));
		if (round % 2) {
			EXPECT_EQ(mp_run(self->channel,
					 mp_cmd_cancel(other.handle)).res,
				  -ECANCELED);
			raise(SIGUSR1);
			EXPECT_EQ(mp_run(self->channel,
					 mp_cmd_read(other.handle, &info,
						     sizeof(info))).res,
				  sizeof(info));
		}
		mp_submit(self->channel, mp_cmd_unregister(other.handle));
		close(other.fd);
	}
}

TEST_F(file, disk__files_are_always_ready)
{
	int fd = mp_must(open("/proc/self/exe", O_RDONLY));
	int dir = mp_must(open("/", O_RDONLY | O_DIRECTORY));

	EXPECT_EQ(mp_register(self->channel, fd, 1), -EPERM);
	EXPECT_EQ(mp_register(self->channel, dir, 1), -EPERM);
	close(fd);
	close(dir);
}

TEST_F(file, loops__are_refused)
{
	int epoll = mp_must(epoll_create1(EPOLL_CLOEXEC));
	char params[256] = {};
	int ring = syscall(__NR_io_uring_setup, 4, params);
	int other = mp_open();

	EXPECT_EQ(mp_register(self->channel, epoll, 1), -ELOOP);
	EXPECT_EQ(mp_register(self->channel, other, 1), -ELOOP);
	EXPECT_EQ(mp_register(self->channel, self->channel, 1), -ELOOP);
	if (ring >= 0)
		EXPECT_EQ(mp_register(self->channel, ring, 1), -ELOOP);
	close(epoll);
	close(other);
	if (ring >= 0)
		close(ring);
}

TEST_F(file, not_open__is_no_file)
{
	EXPECT_EQ(mp_register(self->channel, -1, 1), -EBADF);
	EXPECT_EQ(mp_register(self->channel, 1000, 1), -EBADF);
}

TEST_F(file, register__only_listeners_have_partitions)
{
	int fds[2];

	mp_must(pipe(fds));
	EXPECT_EQ(mp_register_cpu(self->channel, fds[0], 1, 0), -EINVAL);
	close(fds[0]);
	close(fds[1]);
}

/* close() of the descriptor leaves the handle; CLOSE ends both. */
TEST_F(file, handle__holds_its_file)
{
	int fds[2], in;
	char buf[4] = {};

	mp_must(pipe(fds));
	in = mp_register(self->channel, fds[0], 1);
	close(fds[0]);
	mp_write_all(fds[1], "ab", 2);
	EXPECT_EQ(mp_run(self->channel, mp_cmd_read(in, buf, 4)).res, 2);
	mp_submit(self->channel, mp_cmd_unregister(in));
	signal(SIGPIPE, SIG_IGN);
	EXPECT_EQ(write(fds[1], "x", 1), -1);
	EXPECT_EQ(errno, EPIPE);
	close(fds[1]);
}

/*
 * Both ends in one channel: the read of one ends when the other is closed, in
 * the same dispatch, which has nothing else to wait for.
 */
TEST_F(file, close__takes_effect_while_the_dispatch_waits)
{
	struct megapipe_event event = {};
	struct megapipe_cmd cmds[2];
	int fds[2];
	char buf;

	mp_must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
	cmds[0] = mp_cmd_read(mp_register(self->channel, fds[0], 1), &buf, 1);
	cmds[1] = mp_cmd_close(mp_register(self->channel, fds[1], 2));
	EXPECT_EQ(mp_dispatch(self->channel, cmds, 2, &event, 1, 1,
			      MP_DEADLINE_NS / 4, NULL), 1);
	EXPECT_EQ(event.cookie, 1);
	EXPECT_EQ(event.res, 0);
	close(fds[0]);
}

TEST_HARNESS_MAIN
