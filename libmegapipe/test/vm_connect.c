// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Connecting to others: a client of MegaPipe, and its server of sockets.
 */
#include "net.h"

static int client_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ASSERT(fd >= 0);
	return fd;
}

static void connect__then_talk(void)
{
	struct iovec in[2], out = { (void *)"answer", 6 };
	struct sockaddr_storage to, name;
	socklen_t len = sizeof(name);
	char a[4], b[8];
	struct server s;
	int fd, peer;
	mp_handle h;

	s.channel = new_channel(64);
	server_listen(&s, AF_INET, 16, 0);
	to = s.address;
	fd = client_socket();
	ASSERT_EQ(mp_register(s.channel, fd, &s, NULL, &h), 0);
	ASSERT_EQ(mp_connect(h, (struct sockaddr *)&to, s.address_len), 0);
	memset(&to, 0xff, sizeof(to));	/* may be reused at once */

	/* The address of the peer is known after the connect before it. */
	ASSERT_EQ(mp_getpeername(h, (struct sockaddr *)&name, &len), 0);
	EXPECT_EQ(len, s.address_len);
	EXPECT(!memcmp(&name, &s.address, len));
	expect_result(s.channel, h, MP_CONNECT, 0);

	peer = accept(s.listener, NULL, NULL);
	ASSERT(peer >= 0);
	in[0] = (struct iovec) { a, sizeof(a) };
	in[1] = (struct iovec) { b, sizeof(b) };
	ASSERT_EQ(mp_readv(h, in, 2), 0);
	memset(in, 0xff, sizeof(in));
	expect_silence(s.channel);
	ASSERT_EQ(write(peer, "question", 8), 8);
	expect_result(s.channel, h, MP_READ, 8);
	EXPECT(!memcmp(a, "ques", 4) && !memcmp(b, "tion", 4));
	ASSERT_EQ(mp_writev(h, &out, 1), 0);
	expect_result(s.channel, h, MP_WRITE, 6);
	EXPECT_EQ(recv(peer, b, 6, MSG_WAITALL), 6);
	close(peer);
	ASSERT_EQ(mp_close(h), 0);
	server_close(&s);
}

static void connect__refused(void)
{
	struct server s;
	mp_handle h;

	s.channel = new_channel(64);
	server_listen(&s, AF_INET, 16, 0);
	close(s.listener);
	ASSERT_EQ(mp_register(s.channel, client_socket(), &s, NULL, &h), 0);
	ASSERT_EQ(mp_connect(h, (struct sockaddr *)&s.address, s.address_len),
		  0);
	expect_result(s.channel, h, MP_CONNECT, -ECONNREFUSED);
	ASSERT_EQ(mp_close(h), 0);
	mp_destroy(s.channel);
}

static void connect__nonsense(void)
{
	struct sockaddr_storage nowhere = { .ss_family = AF_INET };
	struct mp_channel *channel = new_channel(64);
	struct mp_event event;
	mp_handle h;

	ASSERT_EQ(mp_register(channel, client_socket(), NULL, NULL, &h), 0);
	ASSERT_EQ(mp_connect(h, (struct sockaddr *)&nowhere, 3), 0);
	event = next_event(channel, MP_CONNECT);
	EXPECT(event.result < 0);
	ASSERT_EQ(mp_close(h), 0);
	mp_destroy(channel);
}

TEST_MAIN(
	TEST(connect__then_talk),
	TEST(connect__refused),
	TEST(connect__nonsense)
)
