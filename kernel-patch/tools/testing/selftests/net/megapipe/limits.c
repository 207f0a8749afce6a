// SPDX-License-Identifier: GPL-2.0-only
/*
 * How many handles a channel and a user may have, and what happens then.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "megapipe_test.h"

#define MAX_CHANNEL	"/proc/sys/net/megapipe/max_channel_handles"
#define MAX_USER	"/proc/sys/net/megapipe/max_user_handles"
#define MAX_FILES	"/proc/sys/fs/file-max"

/* Handles that a channel sets aside at a time */
#define CHUNK		64

/* Somebody who has no other channels */
#define UID		23456

static void write_number(const char *path, long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", number);
	mp_write_text(path, text);
}

static void become_user(void)
{
	mp_must(setgid(UID));
	mp_must(setuid(UID));
}

/* A copy of a listening socket's descriptor, and a handle for it */
static int register_copy(int channel, int fd)
{
	return mp_register(channel, mp_must(dup(fd)), 0);
}

/* Make handles until it fails.  Returns their number; the error in *@err. */
static int fill(int channel, int fd, int *err)
{
	int count, handle;

	for (count = 0;; count++) {
		handle = mp_register(channel, fd, count);
		if (handle < 0)
			break;
	}
	*err = handle;
	return count;
}

/* What @test does as another user, in a process of its own */
#define AS_USER(limit, ...)						\
do {									\
	long before = mp_read_number(MAX_USER);				\
	int status;							\
	pid_t pid;							\
									\
	write_number(MAX_USER, limit);					\
	fflush(stdout);							\
	pid = mp_must(fork());						\
	if (!pid) {							\
		become_user();						\
		__VA_ARGS__						\
		_exit(_metadata->exit_code);				\
	}								\
	mp_must(waitpid(pid, &status, 0));				\
	write_number(MAX_USER, before);					\
	EXPECT_EQ(status, 0);						\
} while (0)

TEST(device__is_for_everybody)
{
	AS_USER(CHUNK, {
		EXPECT_GE(open(MP_DEVICE, O_RDWR | O_CLOEXEC), 0);
	});
}

TEST(channel__has_the_openers_RLIMIT_NOFILE)
{
	struct rlimit limit = {};
	int channel, fd, err;

	mp_must(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = 100;
	mp_must(setrlimit(RLIMIT_NOFILE, &limit));
	channel = mp_open();
	EXPECT_EQ(mp_info(channel).max_handles, 100);

	fd = mp_must(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	EXPECT_EQ(fill(channel, fd, &err), 100);
	EXPECT_EQ(err, -EMFILE);

	/* As it was when the channel was opened */
	limit.rlim_cur = 200;
	mp_must(setrlimit(RLIMIT_NOFILE, &limit));
	EXPECT_EQ(mp_register(channel, fd, 0), -EMFILE);
	close(fd);
	close(channel);
}

TEST(channel__has_at_most_max_channel_handles)
{
	long before = mp_read_number(MAX_CHANNEL);
	int channel, fd, err;

	write_number(MAX_CHANNEL, 5);
	channel = mp_open();
	write_number(MAX_CHANNEL, before);
	EXPECT_EQ(mp_info(channel).max_handles, 5);
	fd = mp_must(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	EXPECT_EQ(fill(channel, fd, &err), 5);
	EXPECT_EQ(err, -EMFILE);
	close(fd);
	close(channel);
}

/* A full channel accepts nothing, loses nothing, and can go on later. */
TEST(channel__full_leaves_connections_in_the_queue)
{
	long before = mp_read_number(MAX_CHANNEL);
	int channel, fd, listener, clients[3], lw[2], i;
	struct megapipe_event event;
	struct mp_addr addr;
	char byte = 'x';

	/* The listener and two connections */
	write_number(MAX_CHANNEL, 3);
	channel = mp_open();
	write_number(MAX_CHANNEL, before);
	fd = mp_listen(AF_INET, 16, &addr);
	listener = register_copy(channel, fd);
	ASSERT_GT(listener, 0);
	for (i = 0; i < 3; i++) {
		clients[i] = mp_connect(&addr);
		mp_write_all(clients[i], &byte, 1);
	}

	mp_submit(channel, mp_cmd_accept(listener, 0, MEGAPIPE_CMD_LWSOCKET));
	for (i = 0; i < 2; i++) {
		event = mp_wait(channel);
		ASSERT_GT(event.res, 0);
		EXPECT_TRUE(event.flags & MEGAPIPE_EVENT_MORE);
		lw[i] = event.res;
	}
	/* It says so once, and is no longer pending. */
	event = mp_wait(channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_ACCEPT);
	EXPECT_EQ(event.res, -EMFILE);
	EXPECT_FALSE(event.flags & MEGAPIPE_EVENT_MORE);
	EXPECT_EQ(event.aux, 1);
	EXPECT_TRUE(mp_quiet(channel));

	mp_submit(channel, mp_cmd_close(lw[0]));
	event = mp_run(channel, mp_cmd_accept(listener, 1,
					      MEGAPIPE_CMD_LWSOCKET));
	ASSERT_GT(event.res, 0);
	event = mp_run(channel, mp_cmd_read(event.res, &byte, 1));
	EXPECT_EQ(event.res, 1);
	for (i = 0; i < 3; i++)
		close(clients[i]);
	close(fd);
	close(channel);
}

TEST(user__sets_handles_aside_in_chunks)
{
	AS_USER(10 * CHUNK, {
		int channel = mp_open();
		int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		int handles[3 * CHUNK];
		int i;

		EXPECT_EQ(mp_info(channel).max_user_handles, 10 * CHUNK);
		EXPECT_EQ(mp_info(channel).user_handles, CHUNK);
		for (i = 0; i < CHUNK; i++)
			handles[i] = mp_register(channel, fd, 0);
		EXPECT_EQ(mp_info(channel).user_handles, CHUNK);
		for (; i < 3 * CHUNK; i++)
			handles[i] = mp_register(channel, fd, 0);
		EXPECT_EQ(mp_info(channel).user_handles, 3 * CHUNK);

		/* One chunk goes back when two are unused. */
		while (i > CHUNK + 1)
			mp_submit(channel, mp_cmd_unregister(handles[--i]));
		EXPECT_EQ(mp_info(channel).user_handles, 3 * CHUNK);
		mp_submit(channel, mp_cmd_unregister(handles[--i]));
		EXPECT_EQ(mp_info(channel).user_handles, 2 * CHUNK);
		/* The first one stays. */
		while (i > 0)
			mp_submit(channel, mp_cmd_unregister(handles[--i]));
		EXPECT_EQ(mp_info(channel).user_handles, CHUNK);
	});
}

TEST(user__has_at_most_max_user_handles_in_all_channels)
{
	AS_USER(2 * CHUNK + 10, {
		int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		int first = mp_open();
		int second = mp_open();
		int err;

		/* What is left when the second has its first chunk */
		EXPECT_EQ(fill(first, fd, &err), CHUNK + 10);
		EXPECT_EQ(err, -ENOBUFS);
		EXPECT_EQ(fill(second, fd, &err), CHUNK);
		EXPECT_EQ(err, -ENOBUFS);
		EXPECT_EQ(open(MP_DEVICE, O_RDWR | O_CLOEXEC), -1);
		EXPECT_EQ(errno, ENOBUFS);

		/* At once, not some grace period later */
		close(second);
		EXPECT_EQ(mp_info(first).user_handles, CHUNK + 10);
		EXPECT_EQ(fill(first, fd, &err), CHUNK);
		EXPECT_EQ(err, -ENOBUFS);
		close(first);
		first = mp_open();
		EXPECT_EQ(mp_info(first).user_handles, CHUNK);
	});
}

TEST(user__is_not_charged_for_others)
{
	AS_USER(CHUNK, {
		int channel = mp_open();
		pid_t pid;
		int status;

		EXPECT_EQ(mp_info(channel).user_handles, CHUNK);
		/* The same user in a namespace of its own is the same user. */
		pid = mp_must(fork());
		if (!pid) {
			if (unshare(CLONE_NEWUSER))
				_exit(errno == EPERM || errno == ENOSPC ||
				      errno == EINVAL ? 0 : 1);
			_exit(!(open(MP_DEVICE, O_RDWR) < 0 &&
				errno == ENOBUFS));
		}
		mp_must(waitpid(pid, &status, 0));
		EXPECT_EQ(status, 0);
	});
	/* root has the default limit, and others' handles are not in it. */
	close(mp_open());
}

/* The user's limit in the middle of accepting: nothing is lost either. */
TEST(user__full_leaves_connections_in_the_queue)
{
	struct mp_addr addr;
	int fd = mp_listen(AF_INET, 256, &addr);

	AS_USER(CHUNK, {
		struct megapipe_event event;
		int clients[CHUNK];
		int channel = mp_open();
		int listener = mp_register(channel, fd, 0);
		int lw = 0;
		int i;

		for (i = 0; i < CHUNK; i++)
			clients[i] = mp_connect(&addr);
		mp_submit(channel, mp_cmd_accept(listener, 0,
						 MEGAPIPE_CMD_LWSOCKET));
		for (i = 0; i < CHUNK - 1; i++) {
			event = mp_wait(channel);
			EXPECT_GT(event.res, 0);
			lw = event.res;
		}
		event = mp_wait(channel);
		EXPECT_EQ(event.res, -ENOBUFS);
		EXPECT_EQ(event.aux, 1);
		EXPECT_FALSE(event.flags & MEGAPIPE_EVENT_MORE);

		mp_submit(channel, mp_cmd_close(lw));
		event = mp_run(channel, mp_cmd_accept(listener, 1,
						      MEGAPIPE_CMD_LWSOCKET));
		EXPECT_GT(event.res, 0);
		close(clients[0]);
	});
	close(fd);
}

/* Run the child until it stops itself or ends.  Returns its status. */
static int run_until_stop(pid_t pid)
{
	int status;

	kill(pid, SIGCONT);
	mp_must(waitpid(pid, &status, WUNTRACED));
	return status;
}

/*
 * The system has no more files: no descriptor, and the connection stays in the
 * queue.  An lwsocket needs no file.
 */
TEST(accept__files_used_up)
{
	long before = mp_read_number(MAX_FILES);
	int status, clients[3], i;
	struct mp_addr addr;
	pid_t pid;

	fflush(stdout);
	pid = mp_must(fork());
	if (!pid) {
		struct megapipe_event event;
		int channel, listener;

		become_user();
		channel = mp_open();
		listener = mp_register(channel, mp_listen(AF_INET, 16, &addr), 0);
		for (i = 0; i < ARRAY_SIZE(clients); i++)
			clients[i] = mp_connect(&addr);
		raise(SIGSTOP);
		event = mp_run(channel, mp_cmd_accept(listener, 0, 0));
		EXPECT_EQ(event.res, -ENFILE);
		EXPECT_EQ(event.aux, ARRAY_SIZE(clients));
		EXPECT_FALSE(event.flags & MEGAPIPE_EVENT_MORE);
		event = mp_run(channel, mp_cmd_accept(listener, 1,
						      MEGAPIPE_CMD_LWSOCKET));
		EXPECT_GT(event.res, 0);
		raise(SIGSTOP);
		event = mp_run(channel, mp_cmd_accept(listener, 1, 0));
		EXPECT_GE(event.res, 0);
		EXPECT_TRUE(event.flags & MEGAPIPE_EVENT_FD);
		_exit(_metadata->exit_code);
	}
	EXPECT_TRUE(WIFSTOPPED(run_until_stop(pid)));
	write_number(MAX_FILES, 1);
	status = run_until_stop(pid);
	write_number(MAX_FILES, before);
	EXPECT_TRUE(WIFSTOPPED(status));
	EXPECT_EQ(run_until_stop(pid), 0);
}

TEST(sysctl__refuses_nonsense)
{
	int fd = mp_must(open(MAX_CHANNEL, O_WRONLY | O_CLOEXEC));

	EXPECT_EQ(write(fd, "0", 1), -1);
	EXPECT_EQ(write(fd, "-1", 2), -1);
	EXPECT_EQ(write(fd, "1048577", 7), -1);
	EXPECT_EQ(write(fd, "many", 4), -1);
	close(fd);
	EXPECT_GE(mp_read_number(MAX_USER), 8192);
}

TEST_HARNESS_MAIN
