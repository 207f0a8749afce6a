// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who may use a channel: the address space that opened it, and nobody else.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "megapipe_test.h"

/* 0 if every ioctl() of the channel fails with -EPERM */
static int check_refused(int channel)
{
	static const unsigned long requests[] = {
		MEGAPIPE_IOC_INFO, MEGAPIPE_IOC_STATS, MEGAPIPE_IOC_REGISTER,
		MEGAPIPE_IOC_DISPATCH, MEGAPIPE_IOC_SETSOCKOPT,
		MEGAPIPE_IOC_GETSOCKOPT, MEGAPIPE_IOC_SOCKNAME,
		MEGAPIPE_IOC_TOFD, MEGAPIPE_IOC_LISTENER,
	};
	char arg[256] = {};
	unsigned int i;

	for (i = 0; i < sizeof(requests) / sizeof(*requests); i++)
		if (mp_ioctl(channel, requests[i], arg) != -EPERM)
			return i + 1;
	return 0;
}

static int wait_for(pid_t pid)
{
	int status;

	mp_must(waitpid(pid, &status, 0));
	return status;
}

/* A channel with a listening socket and an accepted lwsocket */
FIXTURE(owner) {
	int channel;
	int fd;
	int listener;
	int client;
	int lw;
	struct mp_addr addr;
};

FIXTURE_SETUP(owner)
{
	self->channel = mp_open();
	self->fd = mp_listen(AF_INET, 16, &self->addr);
	self->listener = mp_register(self->channel, self->fd, 0);
	ASSERT_GT(self->listener, 0);
	self->lw = mp_lwsocket(self->channel, self->listener, &self->addr,
			       &self->client);
}

FIXTURE_TEARDOWN(owner)
{
	close(self->client);
	close(self->channel);
	close(self->fd);
}

/* Does the lwsocket still work?  0, or what was read instead */
static int echo_error(int channel, int lw, int client)
{
	struct megapipe_event event;
	char c = 0;

	mp_write_all(client, "z", 1);
	event = mp_run(channel, mp_cmd_read(lw, &c, 1));
	return event.res != 1 || c != 'z';
}

TEST_F(owner, fork__child_is_refused_and_may_close)
{
	pid_t pid;

	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		int err = check_refused(self->channel);

		_exit(err ?: close(self->channel) ? 100 : 0);
	}
	EXPECT_EQ(wait_for(pid), 0);
	/* It has closed nothing that is ours. */
	EXPECT_EQ(echo_error(self->channel, self->lw, self->client), 0);
}

TEST_F(owner, fork__child_may_open_its_own)
{
	pid_t pid;

	fflush(stdout);
	pid = mp_must(fork());
	if (!pid)
		_exit(mp_info(mp_open()).abi_version != MEGAPIPE_ABI_VERSION);
	EXPECT_EQ(wait_for(pid), 0);
}

static void *echo_in_thread(void *arg)
{
	FIXTURE_DATA(owner) * self = arg;
	char c = 0;

	return (void *)(long)mp_run(self->channel,
				    mp_cmd_read(self->lw, &c, 1)).res;
}

TEST_F(owner, thread__shares_the_channel)
{
	pthread_t thread;
	void *res;

	mp_write_all(self->client, "t", 1);
	mp_must(-pthread_create(&thread, NULL, echo_in_thread, self));
	pthread_join(thread, &res);
	EXPECT_EQ((long)res, 1);
}

static void *open_in_thread(void *arg)
{
	return (void *)(long)mp_open();
}

TEST(thread__that_opened_it_may_end)
{
	pthread_t thread;
	void *channel;

	mp_must(-pthread_create(&thread, NULL, open_in_thread, NULL));
	pthread_join(thread, &channel);
	EXPECT_EQ(mp_info((long)channel).abi_version, MEGAPIPE_ABI_VERSION);
	close((long)channel);
}

static int ask_for_info(void *arg)
{
	struct megapipe_info info;

	return mp_ioctl(*(int *)arg, MEGAPIPE_IOC_INFO, &info) ? 1 : 0;
}

/* It borrows the address space: the buffers are the right ones. */
TEST_F(owner, vfork__child_is_not_refused)
{
	static char stack[65536];
	pid_t pid;

	pid = mp_must(clone(ask_for_info, stack + sizeof(stack),
			    CLONE_VM | CLONE_VFORK | SIGCHLD, &self->channel));
	EXPECT_EQ(wait_for(pid), 0);
	EXPECT_EQ(echo_error(self->channel, self->lw, self->client), 0);
}

/* The program after exec() has other memory at the same addresses. */
TEST_F(owner, exec__is_refused)
{
	char number[16];
	pid_t pid;

	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		int channel = open(MP_DEVICE, O_RDWR);	/* not O_CLOEXEC */

		snprintf(number, sizeof(number), "%d", channel);
		execl("/proc/self/exe", "process", "check_refused", number,
		      NULL);
		_exit(101);
	}
	EXPECT_EQ(wait_for(pid), 0);
}

TEST_F(owner, SCM_RIGHTS__is_refused)
{
	char data = 0, control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iov = { .iov_base = &data, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int pair[2];

	mp_must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &self->channel, sizeof(int));
	EXPECT_EQ(sendmsg(pair[0], &msg, 0), -1);
	EXPECT_EQ(errno, EINVAL);
	close(pair[0]);
	close(pair[1]);
}

/* The name in /proc leads to the device, not to the channel. */
TEST_F(owner, proc__opens_another_channel)
{
	char path[64];
	int other;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->channel);
	other = mp_must(open(path, O_RDWR | O_CLOEXEC));
	EXPECT_EQ(mp_stats(other).handles, 0);
	close(other);
	EXPECT_EQ(echo_error(self->channel, self->lw, self->client), 0);
}

TEST_F(owner, accepted_descriptors__are_the_accepting_process_own)
{
	int client = mp_connect(&self->addr);
	struct megapipe_event event;

	event = mp_run(self->channel, mp_cmd_accept(self->listener, 1, 0));
	ASSERT_GE(event.res, 0);
	EXPECT_TRUE(event.flags & MEGAPIPE_EVENT_FD);
	EXPECT_EQ(fcntl(event.res, F_GETFD), FD_CLOEXEC);
	EXPECT_TRUE(fcntl(event.res, F_GETFL) & O_NONBLOCK);
	/* It outlives the channel. */
	close(self->channel);
	mp_write_all(event.res, "q", 1);
	close(event.res);
	close(client);
	self->channel = mp_open();
}

/*
 *	owner --fork--> helper, which keeps the channel's descriptor
 *	  |
 *	kill -9
 *
 * A channel that nobody can use must not keep connections, and connections that
 * were not accepted go back to the listening socket.
 */
TEST(death__a_forked_child_does_not_keep_the_channel)
{
	int fd, ready[2], client, queued, accepted;
	struct mp_addr addr;
	pid_t pid, helper;
	char c;

	fd = mp_listen(AF_INET, 16, &addr);
	mp_must(pipe(ready));
	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		int channel = mp_open();
		cpu_set_t all;
		int listener, lw;

		memset(&all, 0xff, sizeof(all));
		listener = mp_register_mask(channel, fd, 0, &all);
		lw = mp_lwsocket(channel, listener, &addr, &client);
		if (lw < 0)
			_exit(1);
		helper = mp_must(fork());
		if (!helper) {
			prctl(PR_SET_PDEATHSIG, 0);
			for (;;)
				pause();
		}
		mp_write_all(ready[1], &helper, sizeof(helper));
		for (;;)
			pause();
	}
	mp_read_all(ready[0], &helper, sizeof(helper));
	queued = mp_connect(&addr);
	mp_write_all(queued, "m", 1);

	kill(pid, SIGKILL);
	wait_for(pid);
	/* The connection in the partition's queue is the listener's again. */
	accepted = mp_must(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
	mp_read_all(accepted, &c, 1);
	EXPECT_EQ(c, 'm');
	/* And new ones are. */
	client = mp_connect(&addr);
	close(mp_must(accept4(fd, NULL, NULL, SOCK_CLOEXEC)));
	close(client);

	kill(helper, SIGKILL);
	close(queued);
	close(accepted);
	close(fd);
}

/* Connections of a dead owner end although a child has its channel. */
TEST(death__connections_end_with_their_owner)
{
	int fd, ready[2], client;
	struct mp_addr addr;
	pid_t pid, helper;
	char c = 'n';

	fd = mp_listen(AF_INET, 16, &addr);
	mp_must(pipe(ready));
	client = mp_connect(&addr);
	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		int channel = mp_open();
		int listener = mp_register(channel, fd, 0);
		struct megapipe_event event;

		event = mp_run(channel, mp_cmd_accept(listener, 1,
						      MEGAPIPE_CMD_LWSOCKET));
		if (event.res < 0)
			_exit(1);
		helper = mp_must(fork());
		if (!helper)
			for (;;)
				pause();
		mp_write_all(ready[1], &helper, sizeof(helper));
		for (;;)
			pause();
	}
	mp_read_all(ready[0], &helper, sizeof(helper));
	kill(pid, SIGKILL);
	wait_for(pid);
	EXPECT_EQ(read(client, &c, 1), 0);
	kill(helper, SIGKILL);
	close(client);
	close(fd);
}

/*
 * exec() without O_CLOEXEC: the program that follows has the descriptor and
 * cannot use it.  What waits in the partition is the listening socket's again.
 */
TEST(exec__ends_the_channel)
{
	int fd, ready[2], queued, accepted, client;
	struct timeval deadline = { .tv_sec = MP_DEADLINE_NS / 1000000000 };
	struct mp_addr addr;
	pid_t pid;
	char c;

	fd = mp_listen(AF_INET, 16, &addr);
	/* accept() would wait for ever. */
	mp_must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline,
			   sizeof(deadline)));
	mp_must(pipe2(ready, O_CLOEXEC));
	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		int channel = mp_must(open(MP_DEVICE, O_RDWR));
		cpu_set_t all;

		memset(&all, 0xff, sizeof(all));
		if (mp_register_mask(channel, fd, 0, &all) < 0)
			_exit(1);
		queued = mp_connect(&addr);
		mp_write_all(queued, "e", 1);
		/* The client's end outlives exec() too. */
		fcntl(queued, F_SETFD, 0);
		mp_write_all(ready[1], "", 1);
		execl("/proc/self/exe", "process", "pause", NULL);
		_exit(1);
	}
	mp_read_all(ready[0], &c, 1);
	accepted = mp_must(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
	mp_read_all(accepted, &c, 1);
	EXPECT_EQ(c, 'e');
	client = mp_connect(&addr);
	close(mp_must(accept4(fd, NULL, NULL, SOCK_CLOEXEC)));
	close(client);
	EXPECT_EQ(kill(pid, 0), 0);

	kill(pid, SIGKILL);
	EXPECT_TRUE(WIFSIGNALED(wait_for(pid)));
	close(accepted);
	close(ready[0]);
	close(ready[1]);
	close(fd);
}

struct spy {
	pid_t pid;
	int stop;
};

/* Look at a process through /proc, which holds its address space. */
static void *spy_run(void *arg)
{
	struct spy *spy = arg;
	static char text[65536];
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/smaps", spy->pid);
	while (!__atomic_load_n(&spy->stop, __ATOMIC_RELAXED)) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			break;
		while (read(fd, text, sizeof(text)) > 0)
			;
		close(fd);
	}
	return NULL;
}

/*
 * An owner is killed, while somebody looks at it, and has a child that keeps the
 * channel's descriptor.
 */
TEST(death__may_be_looked_at)
{
	struct timeval deadline = { .tv_sec = MP_DEADLINE_NS / 1000000000 };
	int i, fd, ready[2], client;
	struct mp_addr addr;
	pid_t pid, helper;

	fd = mp_listen(AF_INET, 16, &addr);
	mp_must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline,
			   sizeof(deadline)));
	mp_must(pipe2(ready, O_CLOEXEC));
	fflush(stdout);
	for (i = 0; i < mp_scaled(20); i++) {
		struct spy spy = {};
		pthread_t thread;

		pid = mp_must(fork());
		if (!pid) {
			int channel = mp_open();
			cpu_set_t all;

			memset(&all, 0xff, sizeof(all));
			if (mp_register_mask(channel, fd, 0, &all) < 0)
				_exit(1);
			helper = mp_must(fork());
			if (helper)
				mp_write_all(ready[1], &helper, sizeof(helper));
			for (;;)
				pause();
		}
		mp_read_all(ready[0], &helper, sizeof(helper));
		spy.pid = pid;
		mp_must(-pthread_create(&thread, NULL, spy_run, &spy));
		client = mp_connect(&addr);
		kill(pid, SIGKILL);
		wait_for(pid);
		close(mp_must(accept4(fd, NULL, NULL, SOCK_CLOEXEC)));
		close(client);
		__atomic_store_n(&spy.stop, 1, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		kill(helper, SIGKILL);
	}
	close(ready[0]);
	close(ready[1]);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "check_refused"))
		return check_refused(atoi(argv[2]));
	if (argc == 2 && !strcmp(argv[1], "pause"))
		return pause();
	return test_harness_run(argc, argv);
}
