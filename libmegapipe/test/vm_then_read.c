// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A reply, then the next request: mp_write_then_read() completes when the client
 * has asked again, or when it cannot be told all.
 *
 *	client --- request --> server
 *	       <-- reply -----   |  mp_write_then_read(): writing,
 *	       --- request -->   v  then reading; here it completes
 */
#include <sys/eventfd.h>

#include "net.h"

#define SIZE	(1 << 20)
#define SNDBUF	4608		/* tiny: hundreds of partial writes */

static char out[SIZE], seen[SIZE], in[64];

/* A connection whose reply of SIZE bytes takes until the client reads it */
static struct pair narrow_open(bool is_lwsocket)
{
	struct mp_event event;
	struct pair p;
	int i;

	for (i = 0; i < SIZE; i++)
		out[i] = (char)(i * 7 + i / 251);
	memset(seen, 0, sizeof(seen));
	p.s.channel = new_channel(64);
	server_listen(&p.s, AF_INET, 16, SNDBUF);
	ASSERT_EQ(mp_register(p.s.channel, p.s.listener, NULL, NULL,
			      &p.s.handle), 0);
	p.client = client_connect_buf(&p.s, 4096);
	ASSERT_EQ(mp_accept(p.s.handle, 1, is_lwsocket), 0);
	event = next_event(p.s.channel, MP_ACCEPT);
	ASSERT(event.result >= 0);
	ASSERT_EQ(mp_register(p.s.channel, event.result, NULL, NULL, &p.h), 0);
	return p;
}

static void begin_reply(struct pair *p)
{
	ASSERT_EQ(mp_write_then_read(p->h, out, SIZE, in, sizeof(in)), 0);
	expect_silence(p->s.channel);
}

/* The client reads all of the reply; returns how many completions came. */
static int drain(struct pair *p, struct mp_event *events, int max)
{
	size_t got = 0;
	int nr = 0;

	while (got < SIZE) {
		ssize_t n = recv(p->client, seen + got, SIZE - got,
				 MSG_DONTWAIT);
		int ret;

		ASSERT(n > 0 || errno == EAGAIN);
		if (n > 0)
			got += (size_t)n;
		ASSERT(nr < max);
		ret = mp_dispatch(p->s.channel, &events[nr],
				  n > 0 ? 0 : SECOND / 50);
		ASSERT(ret >= 0);
		nr += ret;
	}
	EXPECT(!memcmp(seen, out, SIZE));
	return nr;
}

static void ask(struct pair *p, const char *text)
{
	ssize_t size = (ssize_t)strlen(text);

	ASSERT_EQ(write(p->client, text, (size_t)size), size);
}

static void hear(struct pair *p, const char *text)
{
	char heard[64];
	size_t size = strlen(text);

	ASSERT_EQ(recv(p->client, heard, size, MSG_WAITALL), size);
	EXPECT(!memcmp(heard, text, size));
}

static void expect_read(struct pair *p, const char *text)
{
	size_t size = strlen(text);

	expect_result(p->s.channel, p->h, MP_READ, (int)size);
	EXPECT(!memcmp(in, text, size));
}

/* Each transaction is a command and a completion, and one buffer will do. */
static void converse(bool is_lwsocket, unsigned int batch, bool shared)
{
	struct pair p = pair_open(is_lwsocket, &p);
	struct mp_stats before, after;
	struct mp_event event;
	int i;

	ASSERT_EQ(mp_set_batch(p.s.channel, batch), 0);
	ASSERT_EQ(mp_set_shared(p.s.channel, shared), 0);
	ASSERT_EQ(mp_read(p.h, in, sizeof(in)), 0);
	ask(&p, "one");
	expect_read(&p, "one");
	before = stats_of(p.s.channel);
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(mp_write_then_read(p.h, in, 3, in, sizeof(in)), 0);
		ASSERT_EQ(mp_flush(p.s.channel), 0);
		hear(&p, i ? "two" : "one");
		ask(&p, "two");
		event = next_event(p.s.channel, MP_READ);
		EXPECT(event.cookie == &p);
		EXPECT_EQ(event.result, 3);
		EXPECT(!memcmp(in, "two", 3));
	}
	after = stats_of(p.s.channel);
	EXPECT_EQ(after.commands - before.commands, 10);
	EXPECT_EQ(after.events - before.events, 10);

	ASSERT_EQ(mp_write_then_read(p.h, in, 3, in, sizeof(in)), 0);
	expect_silence(p.s.channel);
	hear(&p, "two");
	ASSERT(!shutdown(p.client, SHUT_WR));
	expect_result(p.s.channel, p.h, MP_READ, 0);
	pair_close(&p);
}

static void conversation__a_command_for_each(void)
{
	static const unsigned int batches[] = { 64, 2, 1 };
	int i;

	for (i = 0; i < 3; i++) {
		converse(true, batches[i], false);
		converse(false, batches[i], false);
		converse(true, batches[i], true);
	}
}

/* The next request was there before the reply. */
static void asked_already(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);

	ask(&p, "onetwo");
	ASSERT_EQ(mp_read(p.h, in, 3), 0);
	expect_read(&p, "one");
	ASSERT_EQ(mp_write_then_read(p.h, "1", 1, in, sizeof(in)), 0);
	expect_read(&p, "two");
	hear(&p, "1");
	ask(&p, "end");
	ASSERT(!shutdown(p.client, SHUT_WR));
	ASSERT_EQ(mp_write_then_read(p.h, "2", 1, in, sizeof(in)), 0);
	expect_read(&p, "end");
	ASSERT_EQ(mp_write_then_read(p.h, "3", 1, in, sizeof(in)), 0);
	expect_result(p.s.channel, p.h, MP_READ, 0);
	hear(&p, "23");
	pair_close(&p);
}

static void asked_already__read_at_once(void)
{
	both_kinds(asked_already);
}

/* A client that reads slowly, and asks before it has read, or after */
static void slow(bool is_lwsocket)
{
	struct pair p = narrow_open(is_lwsocket);
	struct mp_event events[2];

	begin_reply(&p);
	ASSERT_EQ(drain(&p, events, 1), 0);
	ask(&p, "next");
	expect_read(&p, "next");

	begin_reply(&p);
	ask(&p, "early");
	expect_silence(p.s.channel);	/* all is to be written first */
	if (drain(&p, events, 2) == 0)
		events[0] = next_event(p.s.channel, MP_READ);
	EXPECT_EQ(events[0].cmd, MP_READ);
	EXPECT_EQ(events[0].result, 5);
	EXPECT(!memcmp(in, "early", 5));
	expect_silence(p.s.channel);
	pair_close(&p);
}

static void slow_reader__read_when_all_is_written(void)
{
	both_kinds(slow);
}

/* While it writes, it is in the place of a read and of a write ... */
static void busy_writing(bool is_lwsocket)
{
	struct pair p = narrow_open(is_lwsocket);
	struct sockaddr_storage addr;
	struct iovec iov = { seen, 1 };
	struct mp_event event;
	char other[4];

	begin_reply(&p);
	ASSERT_EQ(mp_read(p.h, other, sizeof(other)), 0);
	expect_result(p.s.channel, p.h, MP_READ, -EBUSY);
	ASSERT_EQ(mp_readv(p.h, &iov, 1), 0);
	expect_result(p.s.channel, p.h, MP_READ, -EBUSY);
	ASSERT_EQ(mp_recvfrom(p.h, other, sizeof(other),
			      (struct sockaddr *)&addr, sizeof(addr)), 0);
	expect_result(p.s.channel, p.h, MP_RECVFROM, -EBUSY);
	ASSERT_EQ(mp_write(p.h, "no", 2), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, -EBUSY);
	ASSERT_EQ(mp_write_then_read(p.h, "no", 2, other, sizeof(other)), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, -EBUSY);
	ASSERT_EQ(drain(&p, &event, 1), 0);
	ask(&p, "next");
	expect_read(&p, "next");
	pair_close(&p);
}

/* ... and then of a read alone. */
static void busy_reading(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);
	char other[4];

	ASSERT_EQ(mp_write_then_read(p.h, "hi", 2, in, sizeof(in)), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_read(p.h, other, sizeof(other)), 0);
	expect_result(p.s.channel, p.h, MP_READ, -EBUSY);
	ASSERT_EQ(mp_write_then_read(p.h, "no", 2, other, sizeof(other)), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, -EBUSY);
	ASSERT_EQ(mp_write(p.h, "news", 4), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, 4);
	hear(&p, "hinews");
	ask(&p, "next");
	expect_read(&p, "next");

	/* A read was there first: nothing is written. */
	ASSERT_EQ(mp_read(p.h, in, sizeof(in)), 0);
	ASSERT_EQ(mp_write_then_read(p.h, "no", 2, other, sizeof(other)), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, -EBUSY);
	EXPECT_EQ(recv(p.client, other, 1, MSG_DONTWAIT), -1);
	ask(&p, "more");
	expect_read(&p, "more");
	pair_close(&p);
}

static void pending__as_both_then_as_a_read(void)
{
	both_kinds(busy_writing);
	both_kinds(busy_reading);
}

/* The client dies in the middle of the reply: how much of it was written. */
static void reset_writing(bool is_lwsocket)
{
	struct pair p = narrow_open(is_lwsocket);
	struct mp_event event;

	begin_reply(&p);
	client_reset(p.client);
	event = next_event(p.s.channel, MP_WRITE);
	EXPECT_EQ(event.handle.id, p.h.id);
	EXPECT(event.result > 0 && event.result < SIZE);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_write_then_read(p.h, out, SIZE, in, sizeof(in)), 0);
	event = next_event(p.s.channel, MP_WRITE);
	EXPECT(event.result == -ECONNRESET || event.result == -EPIPE);
	expect_silence(p.s.channel);
	server_close(&p.s);
}

static void reset_reading(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);

	ASSERT_EQ(mp_write_then_read(p.h, "hi", 2, in, sizeof(in)), 0);
	expect_silence(p.s.channel);
	hear(&p, "hi");
	client_reset(p.client);
	expect_result(p.s.channel, p.h, MP_READ, -ECONNRESET);
	expect_silence(p.s.channel);
	server_close(&p.s);
}

static void reset__of_the_write_or_the_read(void)
{
	both_kinds(reset_writing);
	both_kinds(reset_reading);
}

static void cancel_writing(bool is_lwsocket)
{
	struct pair p = narrow_open(is_lwsocket);
	struct mp_event event;

	begin_reply(&p);
	ASSERT_EQ(mp_cancel(p.h), 0);
	event = next_event(p.s.channel, MP_WRITE);
	EXPECT(event.result > 0 && event.result < SIZE);
	ask(&p, "next");
	expect_silence(p.s.channel);	/* no read has begun */
	ASSERT_EQ(mp_read(p.h, in, sizeof(in)), 0);
	expect_read(&p, "next");
	pair_close(&p);
}

static void cancel_reading(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);

	ASSERT_EQ(mp_write_then_read(p.h, "hi", 2, in, sizeof(in)), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_cancel(p.h), 0);
	expect_result(p.s.channel, p.h, MP_READ, -ECANCELED);
	ASSERT_EQ(mp_write_then_read(p.h, "ho", 2, in, sizeof(in)), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	hear(&p, "hiho");
	ask(&p, "next");
	expect_read(&p, "next");
	pair_close(&p);
}

static void cancel__what_is_pending_by_then(void)
{
	both_kinds(cancel_writing);
	both_kinds(cancel_reading);
}

/* Closed while writing, while reading, and before it has begun: no completion */
static void give_up(bool is_lwsocket)
{
	struct pair p = narrow_open(is_lwsocket);

	begin_reply(&p);
	ASSERT_EQ(mp_close(p.h), 0);
	expect_silence(p.s.channel);
	EXPECT_EQ(stats_of(p.s.channel).handles, 1);
	pair_close(&p);

	p = pair_open(is_lwsocket, NULL);
	ASSERT_EQ(mp_write_then_read(p.h, "hi", 2, in, sizeof(in)), 0);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_close(p.h), 0);
	expect_silence(p.s.channel);
	hear(&p, "hi");
	EXPECT(client_sees_end(p.client));
	pair_close(&p);

	p = pair_open(is_lwsocket, NULL);
	ask(&p, "one");
	ASSERT_EQ(mp_write_then_read(p.h, "hi", 2, in, sizeof(in)), 0);
	ASSERT_EQ(mp_close(p.h), 0);
	expect_silence(p.s.channel);
	hear(&p, "hi");
	pair_close(&p);
}

static void close__nothing_comes(void)
{
	both_kinds(give_up);
}

/* The end comes behind the reply, and what the client still says is read. */
static void disconnect(bool is_lwsocket)
{
	struct pair p = narrow_open(is_lwsocket);
	struct mp_event events[3];
	int nr;

	begin_reply(&p);
	ASSERT_EQ(mp_disconnect(p.h), 0);
	expect_silence(p.s.channel);
	nr = drain(&p, events, 2);
	if (!nr)
		events[0] = next_event(p.s.channel, MP_DISCONNECT);
	EXPECT_EQ(events[0].cmd, MP_DISCONNECT);
	EXPECT_EQ(events[0].result, 0);
	EXPECT(client_sees_end(p.client));
	ask(&p, "bye");
	expect_read(&p, "bye");
	pair_close(&p);
}

static void disconnect__when_all_is_written(void)
{
	both_kinds(disconnect);
}

static void wrong_address(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);

	ask(&p, "one");
	ASSERT_EQ(mp_write_then_read(p.h, (void *)8, 100, in, sizeof(in)), 0);
	expect_result(p.s.channel, p.h, MP_WRITE, -EFAULT);
	expect_silence(p.s.channel);
	ASSERT_EQ(mp_write_then_read(p.h, "hi", 2, (void *)8, 64), 0);
	expect_result(p.s.channel, p.h, MP_READ, -EFAULT);
	hear(&p, "hi");
	ASSERT_EQ(mp_read(p.h, in, sizeof(in)), 0);
	expect_read(&p, "one");
	pair_close(&p);
}

static void bad_address__of_the_write_or_the_read(void)
{
	both_kinds(wrong_address);
}

/* What cannot be read is written all the same; an eventfd is its own peer. */
static void descriptors__of_other_kinds(void)
{
	struct mp_channel *channel = new_channel(64);
	int ends[2], event_fd = eventfd(0, EFD_NONBLOCK);
	uint64_t three = 3, count = 0;
	mp_handle h;

	ASSERT_EQ(mp_register(channel, event_fd, NULL, NULL, &h), 0);
	ASSERT_EQ(mp_write_then_read(h, &three, 8, &count, 8), 0);
	expect_result(channel, h, MP_READ, 8);
	EXPECT_EQ(count, 3);

	ASSERT(!pipe(ends));
	ASSERT_EQ(mp_register(channel, ends[1], NULL, NULL, &h), 0);
	ASSERT_EQ(mp_write_then_read(h, "hi", 2, in, sizeof(in)), 0);
	expect_result(channel, h, MP_READ, -EOPNOTSUPP);
	EXPECT_EQ(read(ends[0], in, sizeof(in)), 2);

	ASSERT(!socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
	ASSERT_EQ(mp_register(channel, ends[1], NULL, NULL, &h), 0);
	ASSERT_EQ(write(ends[0], "question", 8), 8);
	ASSERT_EQ(mp_write_then_read(h, "answer", 6, in, 5), 0);
	EXPECT_EQ(next_event(channel, MP_READ).flags, MP_TRUNCATED);
	EXPECT(!memcmp(in, "quest", 5));
	EXPECT_EQ(read(ends[0], in, sizeof(in)), 6);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(conversation__a_command_for_each),
	TEST(asked_already__read_at_once),
	TEST(slow_reader__read_when_all_is_written),
	TEST(pending__as_both_then_as_a_read),
	TEST(reset__of_the_write_or_the_read),
	TEST(cancel__what_is_pending_by_then),
	TEST(close__nothing_comes),
	TEST(disconnect__when_all_is_written),
	TEST(bad_address__of_the_write_or_the_read),
	TEST(descriptors__of_other_kinds)
)
