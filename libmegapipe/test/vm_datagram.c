// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Messages of UDP sockets: whence, whereto, and how much of them fitted.
 *
 *	peer (ordinary socket) <--- UDP ---> handle
 */
#include "net.h"

struct ends {
	struct mp_channel *channel;
	mp_handle h;
	struct sockaddr_in at, peer_at;
	int fd, peer;
};

static int bound_socket(struct sockaddr_in *at)
{
	struct timeval deadline = { .tv_sec = DEADLINE_US / SECOND };
	socklen_t len = sizeof(*at);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memset(at, 0, sizeof(*at));
	at->sin_family = AF_INET;
	at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ASSERT(fd >= 0);
	ASSERT(!bind(fd, (struct sockaddr *)at, len));
	ASSERT(!getsockname(fd, (struct sockaddr *)at, &len));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
	return fd;
}

static struct ends ends_open(void)
{
	struct ends e = { .channel = new_channel(64) };

	e.fd = bound_socket(&e.at);
	e.peer = bound_socket(&e.peer_at);
	ASSERT_EQ(mp_register(e.channel, e.fd, NULL, NULL, &e.h), 0);
	return e;
}

static void ends_close(struct ends *e)
{
	mp_destroy(e->channel);
	close(e->fd);
	close(e->peer);
}

static void peer_sends(const struct ends *e, const char *text)
{
	ASSERT_EQ(sendto(e->peer, text, strlen(text), 0,
			 (const struct sockaddr *)&e->at, sizeof(e->at)),
		  strlen(text));
}

static void recvfrom__address_of_the_sender(void)
{
	struct ends e = ends_open();
	struct sockaddr_in from = { 0 };
	struct mp_event event;
	char buf[64];

	ASSERT_EQ(mp_recvfrom(e.h, buf, sizeof(buf), (struct sockaddr *)&from,
			      sizeof(from)), 0);
	expect_silence(e.channel);
	peer_sends(&e, "hello");
	event = next_event(e.channel, MP_RECVFROM);
	EXPECT_EQ(event.result, 5);
	EXPECT(!memcmp(buf, "hello", 5));
	EXPECT_EQ(event.addrlen, sizeof(from));
	EXPECT_EQ(event.flags, 0);
	EXPECT_EQ(from.sin_port, e.peer_at.sin_port);
	ends_close(&e);
}

static void recvfrom__cut_off(void)
{
	struct ends e = ends_open();
	struct sockaddr_in from = { 0 };
	struct mp_event event;
	char buf[4];

	peer_sends(&e, "too long");
	ASSERT_EQ(mp_recvfrom(e.h, buf, sizeof(buf), (struct sockaddr *)&from,
			      2), 0);
	event = next_event(e.channel, MP_RECVFROM);
	EXPECT_EQ(event.result, 4);
	EXPECT_EQ(event.flags, MP_TRUNCATED);
	EXPECT_EQ(event.addrlen, sizeof(from));
	EXPECT_EQ(from.sin_family, AF_INET);
	EXPECT_EQ(from.sin_port, 0);	/* there was room for 2 bytes */
	ends_close(&e);
}

/* The address may be reused at once; a message of 0 bytes is one. */
static void sendto__to_the_address(void)
{
	struct ends e = ends_open();
	struct sockaddr_in to = e.peer_at;
	char buf[8];

	ASSERT_EQ(mp_sendto(e.h, "hi", 2, (struct sockaddr *)&to, sizeof(to)),
		  0);
	memset(&to, 0xff, sizeof(to));
	expect_result(e.channel, e.h, MP_SENDTO, 2);
	EXPECT_EQ(recv(e.peer, buf, sizeof(buf), 0), 2);
	ASSERT_EQ(mp_sendto(e.h, buf, 0, (struct sockaddr *)&e.peer_at,
			    sizeof(e.peer_at)), 0);
	expect_result(e.channel, e.h, MP_SENDTO, 0);
	EXPECT_EQ(recv(e.peer, buf, sizeof(buf), 0), 0);
	ends_close(&e);
}

TEST_MAIN(
	TEST(recvfrom__address_of_the_sender),
	TEST(recvfrom__cut_off),
	TEST(sendto__to_the_address)
)
