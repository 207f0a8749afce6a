// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tracepoints: what a channel did can be read from the trace.
 */
#include <sys/mount.h>
#include <sys/stat.h>

#include "megapipe_test.h"

#define TRACING	"/sys/kernel/tracing/"

static void clear_trace(void)
{
	close(mp_must(open(TRACING "trace", O_WRONLY | O_TRUNC | O_CLOEXEC)));
}

static char *read_trace(void)
{
	static char text[1 << 18];
	int fd = mp_must(open(TRACING "trace", O_RDONLY | O_CLOEXEC));
	size_t len = 0;
	ssize_t n;

	while ((n = mp_must(read(fd, text + len, sizeof(text) - 1 - len))) > 0)
		len += n;
	text[len] = 0;
	close(fd);
	return text;
}

/* Lines of the trace that have all of these in this order */
static int count_lines(char *trace, const char *event, const char *format, ...)
{
	char *line, *save, *copy = strdup(trace);
	char wanted[256];
	int count = 0;
	va_list args;

	va_start(args, format);
	vsnprintf(wanted, sizeof(wanted), format, args);
	va_end(args);
	for (line = strtok_r(copy, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *at = strstr(line, event);

		if (at && strstr(at, wanted))
			count++;
	}
	free(copy);
	return count;
}

FIXTURE(trace) {
	int channel;
	int fd;
	struct mp_addr addr;
};

FIXTURE_SETUP(trace)
{
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	if (access(TRACING "events/megapipe", R_OK))
		SKIP(return, "no tracefs");
	clear_trace();
	mp_write_text(TRACING "events/megapipe/enable", "1");
	self->channel = mp_open();
	self->fd = mp_listen(AF_INET, 16, &self->addr);
}

FIXTURE_TEARDOWN(trace)
{
	mp_write_text(TRACING "events/megapipe/enable", "0");
	close(self->channel);
	close(self->fd);
}

TEST_F(trace, commands_and_completions__are_traced)
{
	int listener = mp_register(self->channel, self->fd, 0);
	int lw, client;
	char *trace, c;

	lw = mp_lwsocket(self->channel, listener, &self->addr, &client);
	mp_submit(self->channel, mp_cmd_read(lw, &c, 1));
	mp_write_all(client, "x", 1);
	mp_wait(self->channel);
	mp_run(self->channel, mp_cmd_write(0x7fffffff, &c, 1));
	mp_submit(self->channel, mp_cmd_close(lw));
	trace = read_trace();

	EXPECT_EQ(count_lines(trace, "megapipe_command: ",
			      "handle=%#x op=accept flags=0x1 len=1",
			      listener), 1);
	EXPECT_EQ(count_lines(trace, "megapipe_command: ",
			      "handle=%#x op=read flags=0x0 len=1", lw), 1);
	EXPECT_EQ(count_lines(trace, "megapipe_completion: ",
			      "handle=%#x op=read flags=0x0 result=1", lw), 1);
	EXPECT_EQ(count_lines(trace, "megapipe_completion: ",
			      "op=write flags=0x0 result=%d", -EBADF), 1);
	EXPECT_EQ(count_lines(trace, "megapipe_command: ",
			      "handle=%#x op=close", lw), 1);
	close(client);
}

static void expect_accept(struct __test_metadata *_metadata, int family,
			  const char *name, const char *address)
{
	int channel = mp_open(), fd, listener, client, lw;
	struct mp_addr addr, own;
	char *trace;

	clear_trace();
	fd = mp_listen(family, 16, &addr);
	listener = mp_register(channel, fd, 0);
	lw = mp_lwsocket(channel, listener, &addr, &client);
	mp_getsockname(client, &own);
	trace = read_trace();
	EXPECT_EQ(count_lines(trace, "megapipe_accept: ",
			      "listener=%#x result=%#x", listener, lw), 1);
	/* sin_port and sin6_port are at the same place. */
	EXPECT_EQ(count_lines(trace, "megapipe_accept: ",
			      "family=%s sport=%u dport=%u saddr=%s daddr=%s",
			      name, ntohs(addr.in.sin_port),
			      ntohs(own.in.sin_port), address, address), 1);
	close(client);
	close(fd);
	close(channel);
}

TEST_F(trace, accept__tells_both_addresses)
{
	expect_accept(_metadata, AF_INET, "inet", "::ffff:127.0.0.1");
	expect_accept(_metadata, AF_INET6, "inet6", "::1");
}

/* A connection in the queue of a partition that is closed */
TEST_F(trace, migrate__tells_who_moved)
{
	int heir = mp_open(), listener, client, lw;
	struct megapipe_event event;
	struct mp_addr own;
	char *trace;

	mp_pin(0);
	listener = mp_register_cpu(self->channel, self->fd, 0, 0);
	ASSERT_GT(listener, 0);
	client = mp_connect(&self->addr);
	mp_getsockname(client, &own);
	lw = mp_register_cpu(heir, self->fd, 0, 0);
	ASSERT_GT(lw, 0);
	mp_submit(self->channel, mp_cmd_unregister(listener));
	trace = read_trace();
	EXPECT_EQ(count_lines(trace, "megapipe_migrate: ", "dport=%u",
			      ntohs(own.in.sin_port)), 1);
	EXPECT_EQ(count_lines(trace, "megapipe_migrate: ",
			      "state=ESTABLISHED family=inet"), 1);
	event = mp_run(heir, mp_cmd_accept(lw, 1, MEGAPIPE_CMD_LWSOCKET));
	EXPECT_GT(event.res, 0);
	close(client);
	close(heir);
}

TEST_HARNESS_MAIN
