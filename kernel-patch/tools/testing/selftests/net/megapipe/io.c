// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading and writing sockets: all that is asked for, once, and the truth about
 * how it ended.
 */
#include <sys/mman.h>

#include "megapipe_test.h"

/* More than all buffers between the two ends of a connection can take */
#define BIG	(24 * 1024 * 1024)

FIXTURE(pair)
{
	int channel;
	int peer;
	int fd;
	int handle;
};

FIXTURE_VARIANT(pair)
{
	int family;
	bool lwsocket;
};

FIXTURE_VARIANT_ADD(pair, tcp)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(pair, tcp6)
{
	.family = AF_INET6,
};

FIXTURE_VARIANT_ADD(pair, lwsocket)
{
	.family = AF_INET,
	.lwsocket = true,
};

FIXTURE_VARIANT_ADD(pair, lwsocket6)
{
	.family = AF_INET6,
	.lwsocket = true,
};

FIXTURE_VARIANT_ADD(pair, unix_stream)
{
	.family = AF_UNIX,
};

/* peer (blocking) ------ handle of channel */
FIXTURE_SETUP(pair)
{
	self->channel = mp_open();
	self->handle = mp_stream(self->channel, variant->family,
				 variant->lwsocket, 0, &self->peer,
				 &self->fd);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(pair)
{
	close(self->peer);
	close(self->channel);
	close(self->fd);
}

TEST_F(pair, read__of_nothing_waits_for_data)
{
	char buf[16] = {};
	struct megapipe_event event;

	mp_submit(self->channel, mp_cmd_read(self->handle, buf, sizeof(buf)));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_write_all(self->peer, "abc", 3);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, 3);
	EXPECT_STREQ(buf, "abc");
}

TEST_F(pair, readv__fills_its_buffers_in_order)
{
	char a[2], b[20] = {};
	struct iovec iov[] = { { a, 2 }, { NULL, 0 }, { b, sizeof(b) } };
	struct megapipe_event event;

	mp_submit(self->channel, mp_cmd_readv(self->handle, iov, 3));
	/* The array is the program's again. */
	memset(iov, 0xff, sizeof(iov));
	mp_write_all(self->peer, "hello", 5);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READV);
	ASSERT_EQ(event.res, 5);
	EXPECT_EQ(memcmp(a, "he", 2), 0);
	EXPECT_STREQ(b, "llo");
}

TEST_F(pair, read__end_of_file_is_0_bytes)
{
	char buf[4];

	mp_submit(self->channel, mp_cmd_read(self->handle, buf, sizeof(buf)));
	mp_must(shutdown(self->peer, SHUT_WR));
	EXPECT_EQ(mp_wait(self->channel).res, 0);
	/* And it stays so. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, buf, sizeof(buf))).res, 0);
}

TEST_F(pair, read__of_0_bytes_is_refused)
{
	char buf[4];
	struct iovec empty[] = { { buf, 0 }, { buf, 0 } };

	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, buf, 0)).res, -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_readv(self->handle, empty, 2)).res, -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_writev(self->handle, empty, 2)).res, -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_readv(self->handle, empty, 0)).res, -EINVAL);
}

TEST_F(pair, commands__one_read_and_one_write_at_a_time)
{
	char buf[4], *big;
	struct iovec iov = { buf, sizeof(buf) };

	big = mmap(NULL, BIG, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(big, MAP_FAILED);
	mp_submit(self->channel, mp_cmd_read(self->handle, buf, sizeof(buf)));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_readv(self->handle, &iov, 1)).res, -EBUSY);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_recvfrom(self->handle, buf, 4, NULL, 0)).res,
		  -EBUSY);
	mp_submit(self->channel, mp_cmd_write(self->handle, big, BIG));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_writev(self->handle, &iov, 1)).res, -EBUSY);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, buf, 4, NULL, 0)).res,
		  -EBUSY);
	munmap(big, BIG);
}

/* Byte @i of what is sent: no two nearby blocks are alike. */
static unsigned char pattern(size_t i)
{
	return i ^ (i >> 8) ^ (i >> 16) * 31;
}

static unsigned char *big_pattern(void)
{
	unsigned char *big = malloc(BIG);
	size_t i;

	if (!big)
		mp_die("malloc");
	for (i = 0; i < BIG; i++)
		big[i] = pattern(i);
	return big;
}

/* Dispatch and read at the other end in turn, until the write is complete. */
static int drain(int channel, int peer, size_t *received, bool *same)
{
	static unsigned char buf[1 << 20];
	struct megapipe_event event;
	ssize_t ret;
	size_t i;

	*received = 0;
	*same = true;
	for (;;) {
		ret = recv(peer, buf, sizeof(buf), MSG_DONTWAIT);
		for (i = 0; ret > 0 && i < ret; i++)
			*same &= buf[i] == pattern(*received + i);
		if (ret > 0)
			*received += ret;
		if (mp_dispatch(channel, NULL, 0, &event, 1, 0, 0, NULL) == 1)
			break;
	}
	while (*received < event.res) {
		ret = mp_must(recv(peer, buf, sizeof(buf), 0));
		for (i = 0; i < ret; i++)
			*same &= buf[i] == pattern(*received + i);
		*received += ret;
	}
	return event.res;
}

TEST_F(pair, write__goes_on_until_all_is_written)
{
	unsigned char *big = big_pattern();
	size_t received;
	bool same;

	mp_submit(self->channel, mp_cmd_write(self->handle, big, BIG));
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(drain(self->channel, self->peer, &received, &same), BIG);
	EXPECT_EQ(received, BIG);
	EXPECT_TRUE(same);
	free(big);
}

TEST_F(pair, writev__goes_on_across_its_buffers)
{
	unsigned char *big = big_pattern();
	struct iovec iov[20];
	size_t received, i, at;
	bool same;

	/* More buffers than are copied without an allocation */
	for (i = 0, at = 0; i < 20; i++) {
		iov[i].iov_base = big + at;
		iov[i].iov_len = i < 19 ? i * 12345 + 1 : BIG - at;
		at += iov[i].iov_len;
	}
	mp_submit(self->channel, mp_cmd_writev(self->handle, iov, 20));
	memset(iov, 0xff, sizeof(iov));
	EXPECT_EQ(drain(self->channel, self->peer, &received, &same), BIG);
	EXPECT_TRUE(same);
	free(big);
}

static struct megapipe_cmd with_more(struct megapipe_cmd cmd)
{
	cmd.flags |= MEGAPIPE_CMD_MORE;
	return cmd;
}

TEST_F(pair, more__keeps_the_order)
{
	struct iovec iov = { "b", 1 };
	char buf[4] = {};

	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_write(self->handle, "a", 1))).res, 1);
	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_writev(self->handle, &iov, 1))).res, 1);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, "c", 1)).res, 1);
	EXPECT_EQ(recv(self->peer, buf, 3, MSG_WAITALL), 3);
	EXPECT_STREQ(buf, "abc");
}

/* The promise is broken: what was kept arrives all the same. */
TEST_F(pair, more__that_never_comes)
{
	char buf;

	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_write(self->handle, "a", 1))).res, 1);
	EXPECT_EQ(recv(self->peer, &buf, 1, 0), 1);
}

TEST_F(pair, more__is_for_writes)
{
	char buf[4];

	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_read(self->handle, buf, sizeof(buf)))).res, -EINVAL);
	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_disconnect(self->handle))).res, -EINVAL);
	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_sendto(self->handle, buf, 1, NULL, 0))).res, -EINVAL);
}

TEST_F(pair, write__cut_short_says_how_much_went_out)
{
	unsigned char *big = big_pattern();
	struct megapipe_event event;
	char c;

	mp_submit(self->channel, mp_cmd_write(self->handle, big, BIG));
	EXPECT_TRUE(mp_quiet(self->channel));
	/* Unread data at the other end: a reset, or a broken pipe */
	close(self->peer);
	self->peer = dup(self->channel);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	EXPECT_GT(event.res, 0);
	EXPECT_LT(event.res, BIG);
	EXPECT_LT(mp_run(self->channel,
			 mp_cmd_write(self->handle, &c, 1)).res, 0);
	free(big);
}

TEST_F(pair, write__to_a_closed_peer_raises_no_signal)
{
	char buf[4] = "abc";
	int res;

	/* SIGPIPE would end the test. */
	mp_must(shutdown(self->peer, SHUT_RDWR));
	close(self->peer);
	self->peer = dup(self->channel);
	do
		res = mp_run(self->channel,
			     mp_cmd_write(self->handle, buf, 3)).res;
	while (res == 3);
	EXPECT_TRUE(res == -EPIPE || res == -ECONNRESET);
}

TEST_F(pair, bad_address__is_the_completion_of_its_command)
{
	char *hole = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec bad = { (void *)-4096L, 10 };
	char buf[8];

	ASSERT_NE(hole, MAP_FAILED);
	mp_must(munmap(hole + 4096, 4096));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, hole + 4096, 10)).res,
		  -EFAULT);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, (void *)-8L, 10)).res,
		  -EFAULT);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_writev(self->handle, &bad, 1)).res, -EFAULT);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_writev(self->handle, (void *)8, 1)).res,
		  -EFAULT);
	mp_write_all(self->peer, "abcdefgh", 8);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, hole + 4096, 4)).res,
		  -EFAULT);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_readv(self->handle, &bad, 1)).res, -EFAULT);
	/* Unmapped while it waits: nothing is lost to the hole. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, buf, 8)).res, 8);
	mp_submit(self->channel, mp_cmd_read(self->handle, hole, 4));
	mp_must(munmap(hole, 4096));
	mp_write_all(self->peer, "x", 1);
	EXPECT_EQ(mp_wait(self->channel).res, -EFAULT);
	munmap(hole + 2 * 4096, 4096);
}

TEST_F(pair, disconnect__comes_after_the_pending_write_and_eats_nothing)
{
	unsigned char *big = big_pattern();
	struct megapipe_event event;
	char buf[8] = {};
	size_t received;
	bool same;

	mp_write_all(self->peer, "later", 5);
	mp_submit(self->channel, mp_cmd_write(self->handle, big, BIG));
	mp_submit(self->channel, mp_cmd_disconnect(self->handle));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, big, 1)).res, -EBUSY);
	EXPECT_EQ(drain(self->channel, self->peer, &received, &same), BIG);
	EXPECT_TRUE(same);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_DISCONNECT);
	EXPECT_EQ(event.res, 0);
	EXPECT_EQ(read(self->peer, buf, 1), 0);
	/* The other direction lives on. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_read(self->handle, buf, sizeof(buf))).res, 5);
	EXPECT_STREQ(buf, "later");
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, buf, 1)).res, -EPIPE);
	free(big);
}

TEST_F(pair, cancel__completes_all_that_is_pending)
{
	unsigned char *big = big_pattern();
	struct megapipe_event events[4];
	struct iovec iov = { big, 4 };
	int i, seen = 0;

	mp_submit(self->channel, mp_cmd_readv(self->handle, &iov, 1));
	mp_submit(self->channel, mp_cmd_write(self->handle, big, BIG));
	mp_submit(self->channel, mp_cmd_poll(self->handle, POLLIN));
	mp_submit(self->channel, mp_cmd_disconnect(self->handle));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_submit(self->channel, mp_cmd_cancel(self->handle));
	ASSERT_EQ(mp_dispatch(self->channel, NULL, 0, events, 4, 4,
			      MP_DEADLINE_NS, NULL), 4);
	for (i = 0; i < 4; i++) {
		seen |= 1 << events[i].op;
		EXPECT_TRUE(events[i].op == MEGAPIPE_OP_WRITE ?
			    events[i].res > 0 : events[i].res == -ECANCELED);
	}
	EXPECT_EQ(seen, 1 << MEGAPIPE_OP_READV | 1 << MEGAPIPE_OP_WRITE |
			1 << MEGAPIPE_OP_POLL | 1 << MEGAPIPE_OP_DISCONNECT);
	EXPECT_TRUE(mp_quiet(self->channel));
	free(big);
}

TEST_F(pair, unregister__ends_pending_commands_without_a_completion)
{
	unsigned char *big = big_pattern();
	struct iovec iov = { big, 4 };

	mp_submit(self->channel, mp_cmd_readv(self->handle, &iov, 1));
	mp_submit(self->channel, mp_cmd_write(self->handle, big, BIG));
	mp_submit(self->channel, mp_cmd_poll(self->handle, POLLIN));
	mp_submit(self->channel, mp_cmd_unregister(self->handle));
	if (!variant->lwsocket)
		mp_write_all(self->peer, "x", 1);
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_cancel(self->handle)).res, -EBADF);
	free(big);
}

TEST_F(pair, unused_fields__must_be_zero)
{
	struct megapipe_cmd cmds[] = {
		mp_cmd_read(self->handle, self, 1),
		mp_cmd_write(self->handle, self, 1),
		mp_cmd_disconnect(self->handle),
		mp_cmd_poll(self->handle, POLLIN),
		mp_cmd_cancel(self->handle),
		mp_cmd_unregister(self->handle),
		mp_cmd_close(self->handle),
		mp_cmd_readv(self->handle, NULL, 0),
		mp_cmd_writev(self->handle, NULL, 0),
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		struct megapipe_cmd cmd = cmds[i];

		cmd.arg = 1;
		EXPECT_EQ(mp_run(self->channel, cmd).res, -EINVAL);
		cmd.arg = 0;
		cmd.resv = 1;
		EXPECT_EQ(mp_run(self->channel, cmd).res, -EINVAL);
		cmd.resv = 0;
		cmd.flags = 0x80;
		EXPECT_EQ(mp_run(self->channel, cmd).res, -EINVAL);
	}
	EXPECT_EQ(mp_run(self->channel, mp_cmd_poll(self->handle,
						    1U << 31)).res, -EINVAL);
	cmds[5].op = MEGAPIPE_OP_LAST;
	EXPECT_EQ(mp_run(self->channel, cmds[5]).res, -EINVAL);
}

/*
 * Datagrams:	peer ------ handle of channel		both named
 */
FIXTURE(datagram)
{
	int channel;
	int peer;
	int fd;
	int handle;
	struct mp_addr peer_addr;
	struct mp_addr addr;
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
	self->channel = mp_open();
	self->peer = mp_bound(variant->family, SOCK_DGRAM, &self->peer_addr);
	self->fd = mp_bound(variant->family, SOCK_DGRAM, &self->addr);
	self->handle = mp_register(self->channel, self->fd, 3);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(datagram)
{
	close(self->peer);
	close(self->channel);
	close(self->fd);
}

TEST_F(datagram, recvfrom__tells_where_a_datagram_came_from)
{
	struct sockaddr_storage from = {};
	struct megapipe_event event;
	char buf[16] = {};

	mp_submit(self->channel, mp_cmd_recvfrom(self->handle, buf, sizeof(buf),
						 &from, sizeof(from)));
	EXPECT_TRUE(mp_quiet(self->channel));
	mp_must(sendto(self->peer, "abc", 3, 0, &self->addr.sa,
		       self->addr.len));
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_RECVFROM);
	EXPECT_EQ(event.res, 3);
	EXPECT_STREQ(buf, "abc");
	ASSERT_EQ(event.aux, self->peer_addr.len);
	EXPECT_EQ(memcmp(&from, &self->peer_addr.sa, event.aux), 0);
}

TEST_F(datagram, recvfrom__fills_no_more_than_the_room_for_the_address)
{
	struct sockaddr_storage from;
	struct megapipe_event event;
	char buf[16];

	memset(&from, 0xaa, sizeof(from));
	mp_must(sendto(self->peer, "abc", 3, 0, &self->addr.sa,
		       self->addr.len));
	event = mp_run(self->channel,
		       mp_cmd_recvfrom(self->handle, buf, 16, &from, 4));
	EXPECT_EQ(event.res, 3);
	EXPECT_EQ(event.aux, self->peer_addr.len);
	EXPECT_EQ(memcmp(&from, &self->peer_addr.sa, 4), 0);
	EXPECT_EQ(((unsigned char *)&from)[4], 0xaa);

	/* Nowhere to put it */
	mp_must(sendto(self->peer, "abc", 3, 0, &self->addr.sa,
		       self->addr.len));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_recvfrom(self->handle, buf, 16, (void *)8,
					 16)).res, -EFAULT);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_recvfrom(self->handle, buf, 16, NULL, 16)).res,
		  -EINVAL);
}

TEST_F(datagram, read__says_that_a_datagram_was_longer)
{
	struct megapipe_event event;
	char buf[4];

	mp_must(sendto(self->peer, "abcdef", 6, 0, &self->addr.sa,
		       self->addr.len));
	mp_must(sendto(self->peer, "xy", 2, 0, &self->addr.sa,
		       self->addr.len));
	event = mp_run(self->channel, mp_cmd_read(self->handle, buf, 4));
	EXPECT_EQ(event.res, 4);
	EXPECT_EQ(event.flags, MEGAPIPE_EVENT_TRUNC);
	event = mp_run(self->channel, mp_cmd_read(self->handle, buf, 4));
	EXPECT_EQ(event.res, 2);
	EXPECT_EQ(event.flags, 0);
}

TEST_F(datagram, sendto__names_its_peer)
{
	struct mp_addr copy = self->peer_addr, from;
	char buf[16] = {};

	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, "hi", 2, &copy.sa,
				       copy.len)).res, 2);
	from.len = sizeof(from.storage);
	EXPECT_EQ(recvfrom(self->peer, buf, sizeof(buf), 0, &from.sa,
			   &from.len), 2);
	EXPECT_EQ(from.len, self->addr.len);
	EXPECT_EQ(memcmp(&from.sa, &self->addr.sa, from.len), 0);
	EXPECT_STREQ(buf, "hi");

	/* An empty datagram is a datagram. */
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, NULL, 0, &copy.sa,
				       copy.len)).res, 0);
	EXPECT_EQ(recv(self->peer, buf, sizeof(buf), MSG_DONTWAIT), 0);
}

TEST_F(datagram, sendto__bad_addresses_are_refused)
{
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, "hi", 2, (void *)8,
				       16)).res, -EFAULT);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, "hi", 2, &self->peer_addr,
				       1000)).res, -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, "hi", 2, NULL, 8)).res,
		  -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, "hi", 2, &self->peer_addr,
				       0)).res, -EINVAL);
	EXPECT_LT(mp_run(self->channel,
			 mp_cmd_sendto(self->handle, "hi", 2,
				       &self->peer_addr.sa, 1)).res, 0);
}

/* A datagram is one for itself, whatever is said to follow. */
TEST_F(datagram, more__makes_no_longer_datagram)
{
	int file = mp_must(memfd_create("body", MFD_CLOEXEC));
	struct pollfd pfd = { .fd = self->peer, .events = POLLIN };
	char buf[16];

	mp_write_all(file, "file", 4);
	mp_must(connect(self->fd, &self->peer_addr.sa, self->peer_addr.len));
	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_write(self->handle, "write", 5))).res, 5);
	ASSERT_EQ(poll(&pfd, 1, 1000), 1);
	EXPECT_EQ(recv(self->peer, buf, sizeof(buf), 0), 5);
	EXPECT_EQ(mp_run(self->channel, with_more(
		mp_cmd_sendfile(self->handle, file, 0, 4))).res, 4);
	ASSERT_EQ(poll(&pfd, 1, 1000), 1);
	EXPECT_EQ(recv(self->peer, buf, sizeof(buf), 0), 4);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_write(self->handle, "x", 1)).res, 1);
	EXPECT_EQ(recv(self->peer, buf, sizeof(buf), 0), 1);
	close(file);
}

/*
 * connected UNIX datagram socket -> a peer with a full queue: told when there
 * is space; unconnected: -EAGAIN, for nobody would tell.
 */
TEST(unix_dgram__full_peer)
{
	struct mp_addr to, from;
	int channel = mp_open(), handle, peer, fd, n, res;
	char buf[4];

	peer = mp_bound(AF_UNIX, SOCK_DGRAM, &to);
	fd = mp_bound(AF_UNIX, SOCK_DGRAM, &from);
	handle = mp_register(channel, fd, 4);
	ASSERT_GT(handle, 0);
	for (n = 0; ; n++) {
		res = mp_run(channel, mp_cmd_sendto(handle, "x", 1, &to.sa,
						    to.len)).res;
		if (res != 1)
			break;
	}
	EXPECT_EQ(res, -EAGAIN);
	EXPECT_GT(n, 1);

	mp_must(connect(fd, &to.sa, to.len));
	mp_submit(channel, mp_cmd_write(handle, "y", 1));
	EXPECT_TRUE(mp_quiet(channel));
	for (; n > 0; n--)
		mp_must(recv(peer, buf, sizeof(buf), 0));
	EXPECT_EQ(mp_wait(channel).res, 1);
	close(channel);
	close(fd);
	close(peer);
}

/* A full UDP send buffer is waited for as well. */
TEST(udp__full_send_buffer_is_waited_for)
{
	int channel = mp_open(), fd, peer, handle, size = 1, i;
	struct mp_addr addr, own;
	static char buf[20000];

	peer = mp_bound(AF_INET, SOCK_DGRAM, &addr);
	fd = mp_bound(AF_INET, SOCK_DGRAM, &own);
	mp_must(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
	mp_must(connect(fd, &addr.sa, addr.len));
	handle = mp_register(channel, fd, 5);
	for (i = 0; i < 100; i++)
		ASSERT_EQ(mp_run(channel,
				 mp_cmd_write(handle, buf, 3000)).res, 3000);
	close(channel);
	close(fd);
	close(peer);
}

TEST_HARNESS_MAIN
