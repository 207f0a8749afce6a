// SPDX-License-Identifier: GPL-2.0-only
/*
 * WRITE that goes on as a READ: a reply, the wait for the next request, and one
 * completion of both.
 *
 *	peer                        handle of channel
 *	   <------- reply -------   WRITE, with MEGAPIPE_CMD_THEN_READ
 *	   --- next request ---->   its completion: READ
 *
 * It has two stages.  While it writes it keeps the place of a READ, too, and
 * whatever ends it then is the completion of a WRITE, with nothing read; when
 * all is written it is a READ.
 */
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "megapipe_test.h"

/* More than all buffers between the two ends can take, if one is short */
#define BIG	(8 * 1024 * 1024)
#define SHORT	(64 * 1024)

FIXTURE(reply)
{
	int channel;
	int peer;
	int fd;
	int handle;
	unsigned char *big;
	char in[16];
};

FIXTURE_VARIANT(reply)
{
	int family;
	bool lwsocket;
};

FIXTURE_VARIANT_ADD(reply, tcp)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(reply, lwsocket)
{
	.family = AF_INET,
	.lwsocket = true,
};

FIXTURE_VARIANT_ADD(reply, lwsocket6)
{
	.family = AF_INET6,
	.lwsocket = true,
};

FIXTURE_VARIANT_ADD(reply, unix_stream)
{
	.family = AF_UNIX,
};

/* peer (blocking) ------ handle of channel, with a short send buffer */
FIXTURE_SETUP(reply)
{
	int i;

	self->channel = mp_open();
	self->big = malloc(BIG);
	ASSERT_NE(self->big, NULL);
	for (i = 0; i < BIG; i++)
		self->big[i] = i * 31 + (i >> 8);
	self->handle = mp_stream(self->channel, variant->family,
				 variant->lwsocket, SHORT, &self->peer,
				 &self->fd);
	ASSERT_GT(self->handle, 0);
	mp_submit(self->channel, mp_cmd_cookie(self->handle, 2));
}

FIXTURE_TEARDOWN(reply)
{
	free(self->big);
	close(self->peer);
	close(self->channel);
	if (self->fd >= 0)
		close(self->fd);
}

/* The command is tried and is pending then. */
static bool pends(int channel, struct megapipe_cmd cmd)
{
	struct megapipe_event event;
	uint32_t done;

	return mp_dispatch(channel, &cmd, 1, &event, 1, 0, 0, &done) == 0 &&
	       done == 1;
}

/* The result of a command that does not wait; -EINPROGRESS: it does. */
static int at_once(int channel, struct megapipe_cmd cmd)
{
	struct megapipe_event event;
	int ret = mp_dispatch(channel, &cmd, 1, &event, 1, 0, 0, NULL);

	return ret == 1 && event.op == cmd.op ? event.res : -EINPROGRESS;
}

static bool nothing_arrives(int peer)
{
	char c;

	return recv(peer, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/*
 * Read at the other end and dispatch in turn, until there is a completion.
 * *@received is how much of @big had come by then, or BIG + 1 if it was not that.
 */
static struct megapipe_event drain(int channel, int peer,
				   const unsigned char *big, size_t *received)
{
	static unsigned char buf[1 << 20];
	struct megapipe_event event = {};
	long long deadline = 0;
	ssize_t ret;

	*received = 0;
	do {
		ret = recv(peer, buf, sizeof(buf), MSG_DONTWAIT);
		if (ret > 0 && memcmp(buf, big + *received, ret)) {
			*received = BIG + 1;
			return event;
		}
		if (ret > 0) {
			*received += ret;
			deadline = mp_now_ns() + MP_DEADLINE_NS / 3;
		}
		if (mp_dispatch(channel, NULL, 0, &event, 1, 0, 0, NULL) == 1)
			return event;
	} while (mp_now_ns() < deadline);
	mp_die("no completion, %zu bytes received", *received);
}

/* Does the rest of @big arrive? */
static bool rest_arrives(int peer, const unsigned char *big, size_t received)
{
	unsigned char *rest;
	bool same;

	if (received > BIG)
		return false;
	rest = malloc(BIG - received + 1);
	mp_read_all(peer, rest, BIG - received);
	same = !memcmp(rest, big + received, BIG - received);
	free(rest);
	return same && nothing_arrives(peer);
}

#define then_read_big(self) \
	mp_cmd_then_read((self)->handle, (self)->big, BIG, (self)->in, \
			 sizeof((self)->in))
#define then_read_short(self) \
	mp_cmd_then_read((self)->handle, "reply", 5, (self)->in, \
			 sizeof((self)->in))

TEST_F(reply, round_trip__has_one_completion)
{
	struct megapipe_event events[4];
	char buf[8] = {};

	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	mp_read_all(self->peer, buf, 5);
	EXPECT_STREQ(buf, "reply");
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(self->peer, "next", 4);
	ASSERT_EQ(mp_dispatch(self->channel, NULL, 0, events, 4, 1,
			      MP_DEADLINE_NS, NULL), 1);
	EXPECT_EQ(events[0].op, MEGAPIPE_OP_READ);
	EXPECT_EQ(events[0].res, 4);
	EXPECT_EQ(events[0].handle, self->handle);
	EXPECT_EQ(events[0].cookie, 2);
	EXPECT_EQ(events[0].flags, 0);
	EXPECT_STREQ(self->in, "next");
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_TRUE(nothing_arrives(self->peer));
}

/* Nothing is kept of it: a READ and a WRITE have their places. */
TEST_F(reply, places__are_free_again)
{
	mp_write_all(self->peer, "next", 4);
	EXPECT_EQ(mp_run(self->channel, then_read_short(self)).res, 4);
	EXPECT_TRUE(pends(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)));
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_write(self->handle, "x", 1)), 1);
	mp_write_all(self->peer, "after", 5);
	EXPECT_EQ(mp_wait(self->channel).res, 5);
	EXPECT_STREQ(self->in, "after");
	mp_write_all(self->peer, "again", 5);
	EXPECT_EQ(mp_run(self->channel, then_read_short(self)).res, 5);
	EXPECT_STREQ(self->in, "again");
}

TEST_F(reply, buffer__may_be_one_for_both)
{
	char buf[1000], sent[1000], got[1000];
	struct megapipe_event event;
	int i, n = 0;

	for (i = 1; i <= 200; i++) {
		memset(sent, i, i * 5);
		mp_write_all(self->peer, sent, i * 5);
		/* The peer waits for the answer: it comes in one piece. */
		event = mp_run(self->channel, n ?
			       mp_cmd_then_read(self->handle, buf, n, buf,
						sizeof(buf)) :
			       mp_cmd_read(self->handle, buf, sizeof(buf)));
		ASSERT_EQ(event.op, MEGAPIPE_OP_READ);
		ASSERT_EQ(event.res, i * 5);
		mp_read_all(self->peer, got, n);
		ASSERT_TRUE(!n || got[n - 1] == (char)(i - 1));
		n = event.res;
		ASSERT_EQ(memcmp(buf, sent, n), 0);
	}
}

TEST_F(reply, read__takes_no_more_than_its_room)
{
	mp_write_all(self->peer, "next", 4);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_then_read(self->handle, "x", 1, self->in,
					  2)).res, 2);
	EXPECT_STREQ(self->in, "ne");
	/* More than a READ can take is as much as it can. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_then_read(self->handle, "x", 1, self->in,
					  UINT32_MAX)).res, 2);
	EXPECT_STREQ(self->in, "xt");
}

TEST_F(reply, end_of_file__is_a_READ_of_0_bytes)
{
	struct megapipe_event event;
	char buf[10];

	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	mp_must(shutdown(self->peer, SHUT_WR));
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 0);
	/* The reply goes out all the same. */
	event = mp_run(self->channel, then_read_short(self));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 0);
	mp_read_all(self->peer, buf, 10);
	EXPECT_EQ(memcmp(buf, "replyreply", 10), 0);
}

/*
 * A peer that sends the next request and does not read the reply, which is more
 * than there is space for: the request waits, then it is found.
 */
TEST_F(reply, request__is_not_read_before_all_is_written)
{
	struct megapipe_event event;
	size_t received;
	int i;

	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_write_all(self->peer, "next", 4);
	for (i = 0; i < 3; i++)
		EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(self->in[0], 0);
	event = drain(self->channel, self->peer, self->big, &received);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
	EXPECT_STREQ(self->in, "next");
	EXPECT_TRUE(rest_arrives(self->peer, self->big, received));
	EXPECT_TRUE(mp_quiet(self->channel));
}

/* The same with a POLL beside it, which sees the request and takes nothing. */
TEST_F(reply, poll__sees_the_request_before)
{
	struct megapipe_event event;
	size_t received;

	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	EXPECT_TRUE(pends(self->channel,
			  mp_cmd_poll(self->handle, POLLIN)));
	mp_write_all(self->peer, "next", 4);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_POLL);
	EXPECT_EQ(event.res, POLLIN);
	EXPECT_TRUE(mp_quiet(self->channel));
	event = drain(self->channel, self->peer, self->big, &received);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
}

/*
 * What fails as a write is one, and reads nothing
 */

TEST_F(reply, reset__half_way)
{
	struct megapipe_event event;

	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_write_all(self->peer, "next", 4);
	/* With unread data: a reset, or a broken pipe */
	close(self->peer);
	self->peer = dup(self->channel);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_GT(event.res, 0);
	EXPECT_LT(event.res, BIG);
	EXPECT_EQ(self->in[0], 0);
	EXPECT_TRUE(mp_quiet(self->channel));
	/* The reset, or what came before it; but not -EBUSY */
	event = mp_run(self->channel, mp_cmd_read(self->handle, self->in, 16));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_NE(event.res, -EBUSY);
	event = mp_run(self->channel, then_read_short(self));
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_TRUE(event.res == -EPIPE || event.res == -ECONNRESET);
}

TEST_F(reply, failure__at_once)
{
	struct megapipe_event event;

	mp_write_all(self->peer, "later", 5);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_disconnect(self->handle)).res, 0);
	event = mp_run(self->channel, then_read_short(self));
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(event.res, -EPIPE);
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(self->in[0], 0);
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)), 5);
	EXPECT_STREQ(self->in, "later");
}

/* [ page ][ nothing ] */
static char *page_before_a_hole(void)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *start = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		mp_die("mmap: %s", strerror(errno));
	mp_must(munmap(start + page, page));
	return start;
}

TEST_F(reply, bad_address__of_what_is_written)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *start = page_before_a_hole();
	char * const bad[] = { start + page, (char *)-8L, NULL };
	struct megapipe_event event;
	int i;

	mp_write_all(self->peer, "later", 5);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		event = mp_run(self->channel,
			       mp_cmd_then_read(self->handle, bad[i], 10,
						self->in, 16));
		EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
		EXPECT_EQ(event.res, -EFAULT);
	}
	/* What is there goes out, or not, by the kind of socket. */
	event = mp_run(self->channel,
		       mp_cmd_then_read(self->handle, start, 2 * page,
					self->in, 16));
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_NE(event.res, 2 * page);
	EXPECT_EQ(self->in[0], 0);
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)), 5);
	munmap(start, page);
}

/* Then all is written, and it is the READ that fails. */
TEST_F(reply, bad_address__of_what_is_read)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *start = page_before_a_hole(), buf[5];
	char * const bad[] = { start + page, (char *)-8L, NULL };
	struct megapipe_event event;
	int i;

	mp_write_all(self->peer, "next", 4);
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		event = mp_run(self->channel,
			       mp_cmd_then_read(self->handle, "reply", 5,
						bad[i], 4));
		EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
		EXPECT_EQ(event.res, -EFAULT);
		mp_read_all(self->peer, buf, 5);
	}
	/* Nothing is lost to the hole. */
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)), 4);
	EXPECT_STREQ(self->in, "next");
	munmap(start, page);
}

TEST_F(reply, arguments__are_checked)
{
	const struct megapipe_cmd good = then_read_short(self);
	struct megapipe_cmd bad[9];
	int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = good;
	bad[0].aux = 0;
	bad[1].len = 0;
	bad[2].len = 0x80000000U;
	bad[3].resv = 1;
	bad[4].flags |= MEGAPIPE_CMD_COOKIE;
	bad[5].flags |= MEGAPIPE_CMD_LWSOCKET;
	/* Without the flag these fields must be zero. */
	bad[6].flags = 0;
	bad[6].aux = 0;
	bad[7].flags = MEGAPIPE_CMD_MORE;
	bad[7].arg = 0;
	/* What MORE keeps is what the peer would have to answer. */
	bad[8].flags |= MEGAPIPE_CMD_MORE;
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(at_once(self->channel, bad[i]), -EINVAL)
			TH_LOG("number %d", i);
	}
	EXPECT_TRUE(nothing_arrives(self->peer));
	/* Nor is a place kept for what was refused. */
	EXPECT_TRUE(pends(self->channel, good));
}

/*
 * It is a write and a read
 */

TEST_F(reply, busy__while_a_read_is_pending)
{
	char buf[8] = {};
	struct iovec iov = { buf, sizeof(buf) };
	const struct megapipe_cmd reads[] = {
		mp_cmd_read(self->handle, buf, sizeof(buf)),
		mp_cmd_readv(self->handle, &iov, 1),
		mp_cmd_recvfrom(self->handle, buf, sizeof(buf), NULL, 0),
	};
	struct megapipe_event event;
	int i;

	for (i = 0; i < ARRAY_SIZE(reads); i++) {
		EXPECT_TRUE(pends(self->channel, reads[i]));
		EXPECT_EQ(at_once(self->channel, then_read_short(self)),
			  -EBUSY);
		/* It was refused as a whole. */
		EXPECT_TRUE(nothing_arrives(self->peer));
		mp_write_all(self->peer, "abc", 3);
		event = mp_wait(self->channel);
		EXPECT_EQ(event.op, reads[i].op);
		EXPECT_EQ(event.res, 3);
		EXPECT_STREQ(buf, "abc");
		EXPECT_EQ(self->in[0], 0);
	}
	EXPECT_TRUE(mp_quiet(self->channel));
}

TEST_F(reply, busy__while_a_write_is_pending)
{
	struct megapipe_event event;
	size_t received;

	EXPECT_TRUE(pends(self->channel,
			  mp_cmd_write(self->handle, self->big, BIG)));
	EXPECT_EQ(at_once(self->channel, then_read_short(self)), -EBUSY);
	/* Nor is a place kept for its READ. */
	EXPECT_TRUE(pends(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)));
	event = drain(self->channel, self->peer, self->big, &received);
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(event.res, BIG);
	EXPECT_TRUE(rest_arrives(self->peer, self->big, received));
}

TEST_F(reply, busy__both_ways_while_it_writes)
{
	char buf[8] = {};
	struct iovec iov = { buf, sizeof(buf) };
	const struct megapipe_cmd refused[] = {
		mp_cmd_read(self->handle, buf, sizeof(buf)),
		mp_cmd_readv(self->handle, &iov, 1),
		mp_cmd_recvfrom(self->handle, buf, sizeof(buf), NULL, 0),
		mp_cmd_write(self->handle, buf, 1),
		mp_cmd_writev(self->handle, &iov, 1),
		mp_cmd_sendto(self->handle, buf, 1, NULL, 0),
		mp_cmd_sendfile(self->handle, self->fd, 0, 1),
		mp_cmd_then_read(self->handle, buf, 1, buf, 1),
	};
	struct megapipe_event event;
	size_t received;
	int i;

	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_write_all(self->peer, "next", 4);
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		EXPECT_EQ(at_once(self->channel, refused[i]), -EBUSY)
			TH_LOG("op %u", refused[i].op);
	}
	EXPECT_EQ(buf[0], 0);
	event = drain(self->channel, self->peer, self->big, &received);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
	EXPECT_STREQ(self->in, "next");
	EXPECT_TRUE(rest_arrives(self->peer, self->big, received));
}

/* When it reads it is a READ, and no write. */
TEST_F(reply, busy__one_way_while_it_reads)
{
	char buf[8] = {};
	struct iovec iov = { buf, sizeof(buf) };
	const struct megapipe_cmd refused[] = {
		mp_cmd_read(self->handle, buf, sizeof(buf)),
		mp_cmd_readv(self->handle, &iov, 1),
		mp_cmd_recvfrom(self->handle, buf, sizeof(buf), NULL, 0),
		mp_cmd_then_read(self->handle, buf, 1, buf, 1),
	};
	struct megapipe_event event;
	int i;

	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		EXPECT_EQ(at_once(self->channel, refused[i]), -EBUSY)
			TH_LOG("op %u", refused[i].op);
	}
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_write(self->handle, "!", 1)), 1);
	mp_read_all(self->peer, buf, 6);
	EXPECT_STREQ(buf, "reply!");
	/* The write that waits beside it does not keep it. */
	EXPECT_TRUE(pends(self->channel,
			  mp_cmd_write(self->handle, self->big, BIG)));
	mp_write_all(self->peer, "next", 4);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
	EXPECT_STREQ(self->in, "next");
}

/*
 * It ends early
 */

TEST_F(reply, cancel__while_it_writes)
{
	struct megapipe_event event;

	mp_write_all(self->peer, "next", 4);
	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_submit(self->channel, mp_cmd_cancel(self->handle));
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_GT(event.res, 0);
	EXPECT_LT(event.res, BIG);
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(self->in[0], 0);
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)), 4);
}

/* A dispatch without room for completions tries nothing. */
TEST_F(reply, cancel__before_it_is_tried)
{
	struct megapipe_event event;

	mp_write_all(self->peer, "next", 4);
	mp_submit(self->channel, then_read_short(self));
	mp_submit(self->channel, mp_cmd_cancel(self->handle));
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(event.res, -ECANCELED);
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_TRUE(nothing_arrives(self->peer));
	EXPECT_EQ(self->in[0], 0);
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)), 4);
}

TEST_F(reply, cancel__while_it_reads)
{
	struct megapipe_event event;

	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	mp_submit(self->channel, mp_cmd_cancel(self->handle));
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, -ECANCELED);
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(self->peer, "next", 4);
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)), 4);
}

/* The FIN waits for the reply, not for the next request. */
TEST_F(reply, disconnect__while_it_writes)
{
	struct megapipe_event event;
	size_t received;
	char c;

	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_submit(self->channel, mp_cmd_disconnect(self->handle));
	event = drain(self->channel, self->peer, self->big, &received);
	EXPECT_EQ(event.op, MEGAPIPE_OP_DISCONNECT);
	EXPECT_EQ(event.res, 0);
	ASSERT_LE(received, BIG);
	mp_read_all(self->peer, self->big, BIG - received);
	EXPECT_EQ(read(self->peer, &c, 1), 0);
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(self->peer, "next", 4);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
}

/* With the request there, and room for one completion: first the READ's */
TEST_F(reply, disconnect__is_not_forgotten_for_the_read)
{
	struct megapipe_event event;
	size_t received;

	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_submit(self->channel, mp_cmd_disconnect(self->handle));
	mp_write_all(self->peer, "next", 4);
	event = drain(self->channel, self->peer, self->big, &received);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_DISCONNECT);
	EXPECT_EQ(event.res, 0);
}

TEST_F(reply, disconnect__while_it_reads)
{
	struct megapipe_event event;
	char buf[8] = {};

	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_disconnect(self->handle)), 0);
	mp_read_all(self->peer, buf, 5);
	EXPECT_EQ(read(self->peer, buf, 1), 0);
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(self->peer, "next", 4);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
}

TEST_F(reply, unregister__while_it_writes)
{
	mp_write_all(self->peer, "next", 4);
	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_submit(self->channel, mp_cmd_unregister(self->handle));
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(self->in[0], 0);
	EXPECT_EQ(at_once(self->channel, mp_cmd_cancel(self->handle)), -EBADF);
}

TEST_F(reply, unregister__while_it_reads)
{
	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	mp_submit(self->channel, mp_cmd_unregister(self->handle));
	if (!variant->lwsocket)
		mp_write_all(self->peer, "next", 4);
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(self->in[0], 0);
	EXPECT_EQ(at_once(self->channel, mp_cmd_cancel(self->handle)), -EBADF);
}

/* The connection ends, and a part of the reply is all that the peer gets. */
TEST_F(reply, close__while_it_writes)
{
	static char buf[1 << 20];
	size_t received = 0;
	ssize_t ret;

	EXPECT_TRUE(pends(self->channel, then_read_big(self)));
	mp_submit(self->channel, mp_cmd_close(self->handle));
	if (!variant->lwsocket)
		self->fd = -1;
	EXPECT_TRUE(mp_quiet(self->channel));
	while ((ret = read(self->peer, buf, sizeof(buf))) > 0)
		received += ret;
	EXPECT_EQ(ret, 0);
	EXPECT_GT(received, 0);
	EXPECT_LT(received, BIG);
}

TEST_F(reply, close__while_it_reads)
{
	char buf[8] = {};

	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	mp_submit(self->channel, mp_cmd_close(self->handle));
	if (!variant->lwsocket)
		self->fd = -1;
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_read_all(self->peer, buf, 5);
	EXPECT_EQ(read(self->peer, buf, 1), 0);
}

/*
 *	writer ---------> handle: what is read is written back
 *	reader <---------/
 *
 * Both at the same time, with a send buffer that is full now and then: the event
 * of the one direction comes at any moment of the other's stage.
 */
struct flow {
	int		peer;
	size_t		total;
	bool		same;
};

static void *write_all(void *arg)
{
	const struct flow *flow = arg;
	static unsigned char buf[128 << 10];
	size_t done, i, n;

	for (done = 0; done < flow->total; done += n) {
		n = 1 + rand() % sizeof(buf);
		if (n > flow->total - done)
			n = flow->total - done;
		for (i = 0; i < n; i++)
			buf[i] = (done + i) * 31 + ((done + i) >> 8);
		mp_write_all(flow->peer, buf, n);
	}
	mp_must(shutdown(flow->peer, SHUT_WR));
	return NULL;
}

static void *read_all(void *arg)
{
	struct flow *flow = arg;
	static unsigned char buf[64 << 10];
	size_t done = 0;
	ssize_t i, n;

	flow->same = true;
	while (done < flow->total) {
		n = mp_must(read(flow->peer, buf, sizeof(buf)));
		for (i = 0; i < n; i++)
			flow->same &= buf[i] == (unsigned char)
				      ((done + i) * 31 + ((done + i) >> 8));
		if (!n)
			break;
		done += n;
	}
	flow->same &= done == flow->total;
	return NULL;
}

TEST_F(reply, echo__loses_neither_bytes_nor_wake_ups)
{
	struct flow flow = {
		.peer = self->peer,
		.total = mp_scaled(32) << 20,
	};
	struct megapipe_event event;
	pthread_t writer, reader;
	size_t echoed = 0;

	mp_must(-pthread_create(&writer, NULL, write_all, &flow));
	mp_must(-pthread_create(&reader, NULL, read_all, &flow));
	event = mp_run(self->channel,
		       mp_cmd_read(self->handle, self->big, BIG));
	while (event.res > 0) {
		ASSERT_EQ(event.op, MEGAPIPE_OP_READ);
		echoed += event.res;
		event = mp_run(self->channel,
			       mp_cmd_then_read(self->handle, self->big,
						event.res, self->big, BIG));
	}
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 0);
	EXPECT_EQ(echoed, flow.total);
	pthread_join(writer, NULL);
	pthread_join(reader, NULL);
	EXPECT_TRUE(flow.same);
	EXPECT_TRUE(mp_quiet(self->channel));
}

/*
 * Datagrams:	peer ------ handle of channel		connected both ways
 */
FIXTURE(datagram)
{
	int channel;
	int peer;
	int fd;
	int handle;
	char in[16];
};

FIXTURE_VARIANT(datagram)
{
	int family;
};

FIXTURE_VARIANT_ADD(datagram, udp)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(datagram, udp6)
{
	.family = AF_INET6,
};

FIXTURE_VARIANT_ADD(datagram, unix_dgram)
{
	.family = AF_UNIX,
};

FIXTURE_SETUP(datagram)
{
	struct mp_addr peer, own;

	self->channel = mp_open();
	self->peer = mp_bound(variant->family, SOCK_DGRAM, &peer);
	self->fd = mp_bound(variant->family, SOCK_DGRAM, &own);
	mp_must(connect(self->peer, &own.sa, own.len));
	mp_must(connect(self->fd, &peer.sa, peer.len));
	self->handle = mp_register(self->channel, self->fd, 3);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(datagram)
{
	close(self->peer);
	close(self->channel);
	close(self->fd);
}

TEST_F(datagram, round_trip__of_one_each_way)
{
	struct megapipe_event event;
	char buf[16] = {};

	EXPECT_TRUE(pends(self->channel, then_read_short(self)));
	EXPECT_EQ(recv(self->peer, buf, sizeof(buf), 0), 5);
	EXPECT_STREQ(buf, "reply");
	EXPECT_EQ(send(self->peer, "next", 4, 0), 4);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
	EXPECT_EQ(event.flags, 0);
	EXPECT_STREQ(self->in, "next");
	/* One that is there, empty or cut, is taken at once. */
	EXPECT_EQ(send(self->peer, "", 0, 0), 0);
	EXPECT_EQ(send(self->peer, "longer", 6, 0), 6);
	event = mp_run(self->channel, then_read_short(self));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 0);
	event = mp_run(self->channel,
		       mp_cmd_then_read(self->handle, "x", 1, self->in, 4));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 4);
	EXPECT_EQ(event.flags, MEGAPIPE_EVENT_TRUNC);
	EXPECT_TRUE(mp_quiet(self->channel));
}

TEST_F(datagram, write__that_is_too_long_reads_nothing)
{
	static char big[BIG];
	struct megapipe_event event;

	EXPECT_EQ(send(self->peer, "next", 4, 0), 4);
	event = mp_run(self->channel,
		       mp_cmd_then_read(self->handle, big, BIG, self->in, 16));
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(event.res, -EMSGSIZE);
	EXPECT_EQ(self->in[0], 0);
	EXPECT_EQ(at_once(self->channel,
			  mp_cmd_read(self->handle, self->in, 16)), 4);
}

/* UDP hears of it after it has written, UNIX before. */
TEST_F(datagram, peer__that_is_gone)
{
	struct megapipe_event event;

	close(self->peer);
	self->peer = dup(self->channel);
	event = mp_run(self->channel, then_read_short(self));
	EXPECT_EQ(event.op, variant->family == AF_UNIX ? MEGAPIPE_OP_WRITE :
							 MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, -ECONNREFUSED);
}

/*
 * Other files
 */

/* An end can do one of the two. */
TEST(pipe__has_one_direction)
{
	int channel = mp_open(), fds[2], in, out;
	struct megapipe_event event;
	char buf[8] = {};

	mp_must(pipe(fds));
	in = mp_register(channel, fds[0], 1);
	out = mp_register(channel, fds[1], 2);
	event = mp_run(channel, mp_cmd_then_read(out, "reply", 5, buf, 8));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.handle, out);
	EXPECT_EQ(event.res, -EOPNOTSUPP);
	event = mp_run(channel, mp_cmd_then_read(in, "x", 1, buf, 8));
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_EQ(event.handle, in);
	EXPECT_EQ(event.res, -EOPNOTSUPP);
	EXPECT_EQ(buf[0], 0);
	/* It was written, and not read. */
	EXPECT_EQ(at_once(channel, mp_cmd_read(in, buf, 8)), 5);
	EXPECT_STREQ(buf, "reply");
	close(channel);
	close(fds[0]);
	close(fds[1]);
}

TEST(eventfd__gives_back_what_it_got)
{
	int channel = mp_open(), fd, handle;
	struct megapipe_event event;
	uint64_t value = 7;

	fd = mp_must(eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
	handle = mp_register(channel, fd, 1);
	event = mp_run(channel, mp_cmd_then_read(handle, &value, 8, &value, 8));
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 8);
	EXPECT_EQ(value, 8);
	close(channel);
	close(fd);
}

/*
 * 16 connections with a request each; a dispatch has room for one completion,
 * or for none.
 */
#define MANY	16

TEST(room__for_one_completion_is_enough)
{
	int channel = mp_open(), pairs[MANY][2], handles[MANY], i, round;
	struct megapipe_cmd cmds[MANY];
	struct megapipe_event event;
	char in[MANY], c;
	uint32_t done;

	for (i = 0; i < MANY; i++) {
		mp_tcp_pair(AF_INET, pairs[i]);
		handles[i] = mp_register(channel, pairs[i][1], i);
		cmds[i] = mp_cmd_then_read(handles[i], "y", 1, &in[i], 1);
	}
	for (round = 0; round < 2; round++) {
		unsigned int seen = 0;

		memset(in, 0, sizeof(in));
		for (i = 0; i < MANY; i++)
			mp_write_all(pairs[i][0], "x", 1);
		if (round)
			mp_submit_all(channel, cmds, MANY);
		for (i = 0; i < MANY; i++) {
			ASSERT_EQ(mp_dispatch(channel, cmds,
					      i || round ? 0 : MANY, &event, 1,
					      1, MP_DEADLINE_NS, &done), 1);
			EXPECT_EQ(done, i || round ? 0 : MANY);
			EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
			EXPECT_EQ(event.res, 1);
			seen |= 1U << event.cookie;
		}
		EXPECT_EQ(seen, (1U << MANY) - 1);
		EXPECT_TRUE(mp_quiet(channel));
		for (i = 0; i < MANY; i++) {
			EXPECT_EQ(in[i], 'x');
			mp_read_all(pairs[i][0], &c, 1);
			EXPECT_EQ(c, 'y');
			EXPECT_TRUE(nothing_arrives(pairs[i][0]));
		}
	}
	for (i = 0; i < MANY; i++) {
		close(pairs[i][0]);
		close(pairs[i][1]);
	}
	close(channel);
}

TEST_HARNESS_MAIN
