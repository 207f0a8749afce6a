// SPDX-License-Identifier: GPL-2.0-only
/*
 * The binary interface: sizes, structures of older and newer programs, reserved
 * fields, and 32-bit programs on a 64-bit kernel.
 *
 * This file is built twice where the compiler can: abi_32 is the same tests as
 * a 32-bit program, and abi runs it.
 */
#include <libgen.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "megapipe_test.h"

/* The request with another size of its structure */
#define SIZED(request, size) \
	(((request) & ~IOCSIZE_MASK) | (unsigned long)(size) << IOCSIZE_SHIFT)

#define EXPECT_LAYOUT(type, size, last, offset)				\
do {									\
	EXPECT_EQ(sizeof(struct type), size);				\
	EXPECT_EQ(offsetof(struct type, last), offset);			\
} while (0)

TEST(layout__is_the_same_for_all_programs)
{
	EXPECT_LAYOUT(megapipe_cmd, 32, aux, 28);
	EXPECT_LAYOUT(megapipe_event, 32, data, 24);
	EXPECT_LAYOUT(megapipe_dispatch, 64, resv, 56);
	EXPECT_LAYOUT(megapipe_register, 32, resv, 28);
	EXPECT_LAYOUT(megapipe_info, 64, resv, 40);
	EXPECT_LAYOUT(megapipe_stats, 128, resv, 72);
	EXPECT_LAYOUT(megapipe_sockopt, 32, resv, 24);
	EXPECT_LAYOUT(megapipe_sockname, 24, resv, 20);
	EXPECT_LAYOUT(megapipe_tofd, 16, resv, 8);
	EXPECT_LAYOUT(megapipe_listener, 80, resv2, 48);
}

TEST(operations__keep_their_numbers)
{
	EXPECT_EQ(MEGAPIPE_OP_ACCEPT, 0);
	EXPECT_EQ(MEGAPIPE_OP_READ, 2);
	EXPECT_EQ(MEGAPIPE_OP_WRITE, 5);
	EXPECT_EQ(MEGAPIPE_OP_CLOSE, 14);
	EXPECT_EQ(MEGAPIPE_OP_LAST, 15);
	EXPECT_EQ(MEGAPIPE_CMD_MORE, 2);
	EXPECT_EQ(MEGAPIPE_CMD_THEN_READ, 4);
	EXPECT_EQ(MEGAPIPE_CMD_COOKIE, 8);
	EXPECT_EQ((unsigned long)MEGAPIPE_IOC_DISPATCH, 0xc040ba03);
	EXPECT_EQ((unsigned long)MEGAPIPE_IOC_REGISTER, 0x4020ba02);
}

FIXTURE(abi) {
	int channel;
	int fd;
	int handle;
};

FIXTURE_SETUP(abi)
{
	self->channel = mp_open();
	self->fd = mp_must(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	self->handle = mp_register(self->channel, self->fd, 77);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(abi)
{
	close(self->channel);
	close(self->fd);
}

TEST_F(abi, unknown_ioctls__are_ENOTTY)
{
	char arg[256] = {};

	EXPECT_EQ(mp_ioctl(self->channel, _IO(MEGAPIPE_IOC_MAGIC, 3), arg),
		  -ENOTTY);
	EXPECT_EQ(mp_ioctl(self->channel,
			   _IOR(MEGAPIPE_IOC_MAGIC, 2, struct megapipe_register),
			   arg), -ENOTTY);
	EXPECT_EQ(mp_ioctl(self->channel, _IOWR(MEGAPIPE_IOC_MAGIC, 200, int),
			   arg), -ENOTTY);
	EXPECT_EQ(mp_ioctl(self->channel, _IOR('T', 0, struct megapipe_info),
			   arg), -ENOTTY);
	EXPECT_EQ(mp_ioctl(self->channel, FIONREAD, arg), -ENOTTY);
}

/* What a newer kernel would fill in, this one says is zero. */
TEST_F(abi, output__longer_is_filled_with_zeros)
{
	struct {
		struct megapipe_info	info;
		uint64_t		future[4];
	} big;

	memset(&big, 0xff, sizeof(big));
	EXPECT_EQ(mp_ioctl(self->channel,
			   SIZED(MEGAPIPE_IOC_INFO, sizeof(big)), &big), 0);
	EXPECT_EQ(big.info.abi_version, MEGAPIPE_ABI_VERSION);
	EXPECT_EQ(big.future[0] | big.future[1] | big.future[2] |
		  big.future[3], 0);
}

/* Nothing is written behind the structure of an older program. */
TEST_F(abi, output__shorter_is_cut)
{
	uint32_t small[6];

	memset(small, 0xff, sizeof(small));
	EXPECT_EQ(mp_ioctl(self->channel, SIZED(MEGAPIPE_IOC_INFO, 16), small),
		  0);
	EXPECT_EQ(small[0], MEGAPIPE_ABI_VERSION);
	EXPECT_EQ(small[1], MEGAPIPE_OP_LAST);
	EXPECT_EQ(small[4], UINT32_MAX);
	EXPECT_EQ(mp_ioctl(self->channel, SIZED(MEGAPIPE_IOC_INFO, 12), small),
		  -EINVAL);
}

TEST_F(abi, output__unwritable)
{
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_INFO, (void *)16),
		  -EFAULT);
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_STATS, (void *)16),
		  -EFAULT);
}

TEST_F(abi, input__longer_is_taken_if_the_rest_is_zero)
{
	struct {
		struct megapipe_register	reg;
		uint64_t			future[2];
	} big = { .reg = { .fd = self->fd, .cookie = 5 } };
	unsigned long request = SIZED(MEGAPIPE_IOC_REGISTER, sizeof(big));

	EXPECT_GT(mp_ioctl(self->channel, request, &big), 0);
	big.future[1] = 1;
	EXPECT_EQ(mp_ioctl(self->channel, request, &big), -E2BIG);
	EXPECT_EQ(mp_stats(self->channel).handles, 2);
}

TEST_F(abi, input__shorter_is_taken_and_the_rest_is_zero)
{
	/* The kernel must not read on: this would be an invalid mask. */
	struct megapipe_register reg = {
		.fd = self->fd,
		.cookie = 6,
		.cpu_mask = 1,
		.cpu_mask_size = 1,
		.resv = 1,
	};

	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_REGISTER, &reg),
		  -EINVAL);
	EXPECT_GT(mp_ioctl(self->channel, SIZED(MEGAPIPE_IOC_REGISTER, 16),
			   &reg), 0);
	EXPECT_EQ(mp_ioctl(self->channel, SIZED(MEGAPIPE_IOC_REGISTER, 8),
			   &reg), -EINVAL);
	EXPECT_EQ(mp_ioctl(self->channel, SIZED(MEGAPIPE_IOC_REGISTER, 0),
			   &reg), -EINVAL);
}

TEST_F(abi, dispatch__longer_and_shorter)
{
	struct megapipe_event event = {};
	struct megapipe_cmd cmd = { .op = 200, .handle = 3 };
	struct {
		struct megapipe_dispatch	d;
		uint64_t			future;
	} big = {
		.d = {
			.cmds = (uintptr_t)&cmd,
			.events = (uintptr_t)&event,
			.nr_cmds = 1,
			.max_events = 1,
		},
	};
	unsigned long request = SIZED(MEGAPIPE_IOC_DISPATCH, sizeof(big));

	EXPECT_EQ(mp_ioctl(self->channel, request, &big), 1);
	EXPECT_EQ(big.d.done_cmds, 1);
	EXPECT_EQ(event.res, -EINVAL);
	big.d.done_cmds = 0;
	big.future = 1;
	EXPECT_EQ(mp_ioctl(self->channel, request, &big), -E2BIG);
	EXPECT_EQ(big.d.done_cmds, 0);

	/* Without timeout: it does not wait. */
	big.d.timeout_ns = -1;
	big.d.flags = 1;
	big.d.min_events = 1;
	big.d.nr_cmds = 0;
	request = SIZED(MEGAPIPE_IOC_DISPATCH, 32);
	EXPECT_EQ(mp_ioctl(self->channel, request, &big), 0);
	request = SIZED(MEGAPIPE_IOC_DISPATCH, 31);
	EXPECT_EQ(mp_ioctl(self->channel, request, &big), -EINVAL);
}

TEST_F(abi, dispatch__reserved_fields_are_checked)
{
	struct megapipe_dispatch d = { .flags = 1 };

	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_DISPATCH, &d), -EINVAL);
	d = (struct megapipe_dispatch){ .resv = 1 };
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_DISPATCH, &d), -EINVAL);
	d = (struct megapipe_dispatch){ .done_cmds = 1 };
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_DISPATCH, &d), -EINVAL);
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_DISPATCH, (void *)16),
		  -EFAULT);
}

TEST_F(abi, register__reserved_fields_are_checked)
{
	struct megapipe_register reg = { .fd = self->fd, .flags = 2 };

	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_REGISTER, &reg),
		  -EINVAL);
	reg = (struct megapipe_register){ .fd = self->fd, .resv = 1 };
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_REGISTER, &reg),
		  -EINVAL);
	reg = (struct megapipe_register){ .fd = self->fd, .cpu_mask_size = 8 };
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_REGISTER, &reg),
		  -EINVAL);
	reg = (struct megapipe_register){ .fd = -1 };
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_REGISTER, &reg),
		  -EBADF);
}

TEST_F(abi, sockopt__reserved_fields_are_checked)
{
	struct megapipe_sockopt opt = { .handle = self->handle, .resv = 1 };
	struct megapipe_sockname name = { .handle = self->handle, .resv = 1 };
	struct megapipe_tofd tofd = { .handle = self->handle, .resv = 1 };

	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SETSOCKOPT, &opt),
		  -EINVAL);
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_GETSOCKOPT, &opt),
		  -EINVAL);
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_SOCKNAME, &name),
		  -EINVAL);
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_TOFD, &tofd), -EINVAL);
	tofd = (struct megapipe_tofd){ .flags = 1 };
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_TOFD, &tofd), -EINVAL);
}

/* Every field that an operation does not use */
TEST_F(abi, command__unused_fields_are_checked)
{
	struct megapipe_cmd good[] = {
		mp_cmd_cookie(self->handle, 1),
		mp_cmd_cancel(self->handle),
		mp_cmd_unregister(self->handle),
		mp_cmd_close(self->handle),
		mp_cmd_poll(self->handle, POLLOUT),
	};
	struct megapipe_cmd bad;
	unsigned int i;

	for (i = 0; i < sizeof(good) / sizeof(*good); i++) {
		bad = good[i];
		bad.resv = 1;
		EXPECT_EQ(mp_run(self->channel, bad).res, -EINVAL);
		bad = good[i];
		bad.flags = 0x80;
		EXPECT_EQ(mp_run(self->channel, bad).res, -EINVAL);
		bad = good[i];
		bad.addr = 1;
		EXPECT_EQ(mp_run(self->channel, bad).res, -EINVAL);
		bad = good[i];
		bad.len = 1;
		EXPECT_EQ(mp_run(self->channel, bad).res, -EINVAL);
	}
	bad = mp_cmd_cancel(self->handle);
	bad.op = MEGAPIPE_OP_LAST;
	EXPECT_EQ(mp_run(self->channel, bad).res, -EINVAL);
}

/* Each flag is for the operations that know it. */
TEST_F(abi, command__flags_of_others_are_refused)
{
	static const uint8_t known[MEGAPIPE_OP_LAST] = {
		[MEGAPIPE_OP_ACCEPT]	= MEGAPIPE_CMD_LWSOCKET,
		[MEGAPIPE_OP_READ]	= MEGAPIPE_CMD_COOKIE,
		[MEGAPIPE_OP_WRITE]	= MEGAPIPE_CMD_MORE |
					  MEGAPIPE_CMD_THEN_READ,
		[MEGAPIPE_OP_WRITEV]	= MEGAPIPE_CMD_MORE,
		[MEGAPIPE_OP_SENDFILE]	= MEGAPIPE_CMD_MORE,
	};
	struct megapipe_cmd cmd = { .handle = 0x7fffffff };
	struct megapipe_event event;
	unsigned int bit;

	/* Of a handle that is not there, what is known is -EBADF. */
	for (cmd.op = 0; cmd.op < MEGAPIPE_OP_LAST; cmd.op++) {
		for (bit = 0; bit < 8; bit++) {
			cmd.flags = 1 << bit;
			event = mp_run(self->channel, cmd);
			EXPECT_EQ(event.op, cmd.op);
			EXPECT_EQ(event.res, known[cmd.op] & cmd.flags ?
					     -EBADF : -EINVAL) {
				TH_LOG("op %u, flag %#x", cmd.op, cmd.flags);
			}
		}
	}
	/* One that is there: the shorter way of READ and WRITE */
	for (bit = 0; bit < 8; bit++) {
		cmd = mp_cmd_read(self->handle, NULL, 8);
		cmd.flags = 1 << bit;
		if (!(known[cmd.op] & cmd.flags))
			EXPECT_EQ(mp_run(self->channel, cmd).res, -EINVAL);
		cmd = mp_cmd_write(self->handle, NULL, 8);
		cmd.flags = 1 << bit;
		if (!(known[cmd.op] & cmd.flags))
			EXPECT_EQ(mp_run(self->channel, cmd).res, -EINVAL);
	}
}

/* A completion of a failed command says which command it was. */
TEST_F(abi, command__failure_names_the_command)
{
	struct megapipe_event event;

	event = mp_run(self->channel, mp_cmd_read(self->handle, NULL, 0));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.handle, self->handle);
	EXPECT_EQ(event.cookie, 77);
	EXPECT_EQ(event.res, -EINVAL);
	EXPECT_EQ(event.data, 0);
	event = mp_run(self->channel, mp_cmd_read(0x7fffffff, &event, 1));
	EXPECT_EQ(event.handle, 0x7fffffff);
	EXPECT_EQ(event.cookie, 0);
	EXPECT_EQ(event.res, -EBADF);
}

/* Its cookie is the handle's, whatever is wrong; without one it is 0. */
TEST_F(abi, command__malformed_has_the_cookie)
{
	struct megapipe_cmd bad[3];
	struct megapipe_event event;
	unsigned int i;
	char byte;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = mp_cmd_read(self->handle, &byte, 1);
	bad[0].op = MEGAPIPE_OP_LAST;
	bad[1].flags = MEGAPIPE_CMD_MORE;
	bad[2].resv = 1;
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		event = mp_run(self->channel, bad[i]);
		EXPECT_EQ(event.res, -EINVAL);
		EXPECT_EQ(event.cookie, 77);
		bad[i].handle = 0x7fffffff;
		event = mp_run(self->channel, bad[i]);
		EXPECT_EQ(event.res, -EINVAL);
		EXPECT_EQ(event.cookie, 0);
	}
}

/*
 * Where a 32-bit program differs: struct iovec, pointers, sigset_t, and masks of
 * CPUs made of longs
 */
TEST(pointers__of_this_program_are_understood)
{
	int pair[2], channel = mp_open(), a, b;
	char hello[6] = {}, world[6] = {};
	struct iovec out[2] = {
		{ .iov_base = "hello", .iov_len = 5 },
		{ .iov_base = "world", .iov_len = 5 },
	};
	struct iovec in[2] = {
		{ .iov_base = hello, .iov_len = 5 },
		{ .iov_base = world, .iov_len = 5 },
	};

	mp_tcp_pair(AF_INET, pair);
	mp_nonblock(pair[0]);
	mp_nonblock(pair[1]);
	a = mp_register(channel, pair[0], 0);
	b = mp_register(channel, pair[1], 0);
	EXPECT_EQ(mp_run(channel, mp_cmd_writev(a, out, 2)).res, 10);
	EXPECT_EQ(mp_run(channel, mp_cmd_readv(b, in, 2)).res, 10);
	EXPECT_STREQ(hello, "hello");
	EXPECT_STREQ(world, "world");
	close(channel);
	close(pair[0]);
	close(pair[1]);
}

static sig_atomic_t signals;

static void count_signal(int nr)
{
	signals++;
}

TEST_F(abi, sigmask__of_this_program_is_understood)
{
	uint32_t all_but_usr1[2] = { ~(1U << (SIGUSR1 - 1)), ~0U };
	struct megapipe_event event;
	struct megapipe_dispatch d = {
		.events = (uintptr_t)&event,
		.max_events = 1,
		.min_events = 1,
		.timeout_ns = MP_DEADLINE_NS,
		.sigmask = (uintptr_t)all_but_usr1,
		.sigsetsize = sizeof(all_but_usr1),
	};
	sigset_t usr1;

	signal(SIGUSR1, count_signal);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	raise(SIGUSR1);
	EXPECT_EQ(signals, 0);
	EXPECT_EQ(mp_ioctl(self->channel, MEGAPIPE_IOC_DISPATCH, &d), -EINTR);
	EXPECT_EQ(signals, 1);
}

TEST(cpu_mask__of_this_program_is_understood)
{
	int channel = mp_open(), client, fd, listener;
	struct mp_addr addr;
	cpu_set_t mask;

	fd = mp_listen(AF_INET, 16, &addr);
	CPU_ZERO(&mask);
	EXPECT_EQ(mp_register_mask(channel, fd, 0, &mask), -EINVAL);
	CPU_SET(mp_cpus() - 1, &mask);
	listener = mp_register_mask(channel, fd, 0, &mask);
	ASSERT_GT(listener, 0);
	mp_pin(mp_cpus() - 1);
	mp_lwsocket(channel, listener, &addr, &client);
	EXPECT_EQ(mp_stats(channel).accepts_foreign, 0);
	close(client);
	close(fd);
	close(channel);
}

#ifdef __LP64__
/* All of these tests as a 32-bit program */
TEST(compat__32_bit_programs_pass_these_tests)
{
	char self[4096] = {}, path[4200];
	int status;
	pid_t pid;

	mp_must(readlink("/proc/self/exe", self, sizeof(self) - 1));
	snprintf(path, sizeof(path), "%s/abi_32", dirname(self));
	if (access(path, X_OK))
		SKIP(return, "no abi_32: the compiler has no -m32");
	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		/* Its TAP is not ours. */
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execl(path, "abi_32", NULL);
		_exit(errno == ENOEXEC ? MP_EXIT_SKIP : 1);
	}
	mp_must(waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == MP_EXIT_SKIP)
		SKIP(return, "no CONFIG_IA32_EMULATION");
	EXPECT_EQ(status, 0);
}
#endif

TEST_HARNESS_MAIN
