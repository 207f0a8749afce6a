// SPDX-License-Identifier: GPL-2.0-only
/*
 * A channel as a file: polling it, what its fdinfo says, and the numbers that
 * its handles have.
 */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "megapipe_test.h"

static int new_eventfd(void)
{
	return mp_must(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

static void raise_eventfd(int fd)
{
	uint64_t one = 1;

	mp_must(write(fd, &one, sizeof(one)));
}

/* The text of a channel's fdinfo */
static char *fdinfo(int channel)
{
	static char text[4096];
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/%s/%d", "fdinfo",
		 channel);
	fd = mp_must(open(path, O_RDONLY | O_CLOEXEC));
	n = mp_must(read(fd, text, sizeof(text) - 1));
	text[n] = 0;
	close(fd);
	return text;
}

/* The value of a field; -1: there is none */
static long long field(const char *text, const char *name)
{
	char key[64];
	const char *at;

	snprintf(key, sizeof(key), "\n%s:\t", name);
	at = strstr(text, key);
	return at ? atoll(at + strlen(key)) : -1;
}

static short polled(int channel)
{
	struct pollfd p = { .fd = channel, .events = POLLIN };

	mp_must(poll(&p, 1, 0));
	return p.revents;
}

/* A dispatch may have to look at a handle to find that there is nothing. */
static bool idle(int channel)
{
	return mp_quiet(channel) && polled(channel) == 0;
}

TEST(poll__tells_that_a_dispatch_has_something_to_do)
{
	int channel = mp_open(), fd = new_eventfd(), handle, ep;
	struct epoll_event event = { .events = EPOLLIN };
	uint64_t value;

	EXPECT_EQ(polled(channel), 0);
	handle = mp_register(channel, fd, 0);
	mp_submit(channel, mp_cmd_read(handle, &value, sizeof(value)));
	EXPECT_TRUE(idle(channel));
	ep = mp_must(epoll_create1(EPOLL_CLOEXEC));
	mp_must(epoll_ctl(ep, EPOLL_CTL_ADD, channel, &event));
	EXPECT_EQ(epoll_wait(ep, &event, 1, 0), 0);

	raise_eventfd(fd);
	EXPECT_EQ(polled(channel), POLLIN);
	EXPECT_EQ(epoll_wait(ep, &event, 1, 0), 1);
	EXPECT_EQ(mp_wait(channel).res, 8);
	EXPECT_TRUE(idle(channel));
	close(ep);
	close(fd);
	close(channel);
}

/* What found no room in a dispatch is still something to do. */
TEST(poll__tells_that_something_found_no_room)
{
	int channel = mp_open(), fds[2], i, handle;
	uint64_t value;

	for (i = 0; i < 2; i++) {
		fds[i] = new_eventfd();
		handle = mp_register(channel, fds[i], 0);
		mp_submit(channel, mp_cmd_read(handle, &value, sizeof(value)));
		raise_eventfd(fds[i]);
	}
	EXPECT_EQ(mp_wait(channel).res, 8);
	EXPECT_EQ(polled(channel), POLLIN);
	EXPECT_EQ(mp_wait(channel).res, 8);
	EXPECT_TRUE(idle(channel));
	for (i = 0; i < 2; i++)
		close(fds[i]);
	close(channel);
}

TEST(fdinfo__says_what_the_channel_has)
{
	int channel = mp_open(), other = mp_open();
	int fd = new_eventfd(), listening, listener, client;
	struct mp_addr addr;
	long long id;
	char *text;

	id = field(fdinfo(other), "channel");
	text = fdinfo(channel);
	EXPECT_EQ(field(text, "abi"), MEGAPIPE_ABI_VERSION);
	EXPECT_GT(field(text, "channel"), 0);
	EXPECT_NE(field(text, "channel"), id);
	EXPECT_EQ(field(text, "handles"), 0);
	EXPECT_EQ(field(text, "max_handles"), mp_info(channel).max_handles);

	mp_register(channel, fd, 0);
	listening = mp_listen(AF_INET, 16, &addr);
	listener = mp_register(channel, listening, 0);
	mp_lwsocket(channel, listener, &addr, &client);
	text = fdinfo(channel);
	EXPECT_EQ(field(text, "handles"), 3);
	EXPECT_EQ(field(text, "files"), 1);
	EXPECT_EQ(field(text, "listeners"), 1);
	EXPECT_EQ(field(text, "lwsockets"), 1);
	EXPECT_EQ(field(text, "partitions"), 0);
	EXPECT_EQ(field(text, "accepts"), 1);
	EXPECT_EQ(field(text, "migrated_in"), 0);

	close(client);
	close(listening);
	close(fd);
	close(other);
	close(channel);
}

TEST(fdinfo__says_whether_partitions_are_active)
{
	int channel = mp_open(), listening, listener;
	struct mp_addr addr;

	listening = mp_listen(AF_INET, 16, &addr);
	listener = mp_register_cpu(channel, listening, 0, 0);
	ASSERT_GT(listener, 0);
	EXPECT_EQ(field(fdinfo(channel), "partitions"), 1);
	mp_submit(channel, mp_cmd_unregister(listener));
	EXPECT_EQ(field(fdinfo(channel), "partitions"), 0);
	close(listening);
	close(channel);
}

/* The counters, and how deep the batches were */
TEST(fdinfo__counts_what_MEGAPIPE_IOC_STATS_counts)
{
	int channel = mp_open(), fds[3], handles[3], i;
	struct megapipe_event events[4];
	struct megapipe_stats stats;
	uint64_t values[3];
	const char *batches;
	char *text;

	for (i = 0; i < 3; i++) {
		fds[i] = new_eventfd();
		handles[i] = mp_register(channel, fds[i], 0);
		mp_submit(channel, mp_cmd_read(handles[i], &values[i], 8));
	}
	for (i = 0; i < 3; i++)
		raise_eventfd(fds[i]);
	EXPECT_EQ(mp_dispatch(channel, NULL, 0, events, 4, 3, 0, NULL), 3);
	mp_dispatch(channel, NULL, 0, events, 4, 1, 1000, NULL);

	stats = mp_stats(channel);
	text = fdinfo(channel);
	EXPECT_EQ(stats.dispatches, 5);
	EXPECT_EQ(stats.commands, 3);
	EXPECT_EQ(stats.events, 3);
	EXPECT_EQ(stats.sleeps, 1);
	EXPECT_EQ(stats.handles, 3);
	EXPECT_EQ(field(text, "dispatches"), stats.dispatches);
	EXPECT_EQ(field(text, "commands"), stats.commands);
	EXPECT_EQ(field(text, "completions"), stats.events);
	EXPECT_EQ(field(text, "sleeps"), stats.sleeps);
	/* None four times; once two or three */
	batches = strstr(text, "\nbatches:\t");
	ASSERT_NE(batches, NULL);
	EXPECT_EQ(strncmp(batches, "\nbatches:\t4 0 1 0 0 0 0 0 0 0 0 0 0 0\n",
			  38), 0);
	for (i = 0; i < 3; i++)
		close(fds[i]);
	close(channel);
}

/* The number of a handle that is gone is nobody else's for a long time. */
TEST(handle__a_stale_number_is_caught)
{
	int channel = mp_open(), fd = new_eventfd(), first, handle, i;
	int count = mp_scaled(5000);
	uint64_t value;

	first = mp_register(channel, fd, 0);
	mp_submit(channel, mp_cmd_unregister(first));
	for (i = 0; i < count; i++) {
		handle = mp_register(channel, fd, 0);
		ASSERT_GT(handle, 0);
		ASSERT_NE(handle, first);
		mp_submit(channel, mp_cmd_unregister(handle));
	}
	EXPECT_EQ(mp_run(channel, mp_cmd_read(first, &value, 8)).res, -EBADF);
	EXPECT_EQ(mp_stats(channel).handles, 0);
	close(fd);
	close(channel);
}

/* Nor is it that of the handle which has its slot then. */
TEST(handle__a_stale_number_is_not_the_next_of_its_slot)
{
	enum { MAX = 16 };	/* so few that slots are used again at once */
	int channel, fd = new_eventfd(), stale = 0, handle, i;
	struct rlimit old, few;
	uint64_t value = 1;

	mp_must(getrlimit(RLIMIT_NOFILE, &old));
	few = old;
	few.rlim_cur = MAX;
	mp_must(setrlimit(RLIMIT_NOFILE, &few));
	channel = mp_open();
	mp_must(setrlimit(RLIMIT_NOFILE, &old));

	for (i = 0; i < MAX; i++) {
		stale = mp_register(channel, fd, 0);
		ASSERT_GT(stale, 0);
	}
	mp_submit(channel, mp_cmd_unregister(stale));
	handle = mp_register(channel, fd, 0);
	ASSERT_GT(handle, 0);
	EXPECT_NE(handle, stale);
	EXPECT_EQ((handle ^ stale) & (MEGAPIPE_MAX_HANDLES - 1), 0);

	/* There is something to read, so whoever it reaches completes it. */
	mp_write_all(fd, &value, sizeof(value));
	EXPECT_EQ(mp_run(channel, mp_cmd_read(stale, &value, 8)).res, -EBADF);
	EXPECT_EQ(mp_run(channel, mp_cmd_read(handle, &value, 8)).res, 8);
	close(fd);
	close(channel);
}

/* Each of many handles has a number of its own and is found by it. */
TEST(handle__numbers_are_distinct)
{
	enum { COUNT = 600 };	/* three pages of slots */
	int channel = mp_open(), fd = new_eventfd(), handles[COUNT], i, round;
	struct megapipe_event event;

	for (round = 0; round < 3; round++) {
		for (i = 0; i < COUNT; i++) {
			handles[i] = mp_register(channel, fd, i);
			ASSERT_GT(handles[i], 0);
		}
		EXPECT_EQ(mp_stats(channel).handles, COUNT);
		for (i = 0; i < COUNT; i++) {
			event = mp_run(channel, mp_cmd_read(handles[i], NULL,
							    0));
			ASSERT_EQ(event.cookie, i);
		}
		for (i = 0; i < COUNT; i++)
			mp_submit(channel, mp_cmd_unregister(handles[i]));
	}
	close(fd);
	close(channel);
}

TEST(close__with_everything_pending)
{
	int rounds = mp_scaled(50), channel, listening, client, listener, lw, i;
	struct mp_addr addr;
	char c;

	listening = mp_listen(AF_INET, 16, &addr);
	for (i = 0; i < rounds; i++) {
		channel = mp_open();
		listener = mp_register(channel, listening, 0);
		lw = mp_lwsocket(channel, listener, &addr, &client);
		mp_submit(channel, mp_cmd_accept(listener, 0, 0));
		mp_submit(channel, mp_cmd_read(lw, &c, 1));
		mp_submit(channel, mp_cmd_poll(lw, POLLPRI));
		/* In the list of those that something happened to */
		mp_write_all(client, "x", 1);
		close(channel);
		/* The byte was not read, so the connection is reset. */
		EXPECT_LE(read(client, &c, 1), 0);
		close(client);
	}
	close(listening);
}

TEST_HARNESS_MAIN
