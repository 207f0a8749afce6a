// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The channel in other event loops, by the descriptor of mp_fd().
 */
#include <sys/epoll.h>

#include "net.h"

static bool readable(struct mp_channel *channel, int timeout_ms)
{
	struct pollfd fd = { .fd = mp_fd(channel), .events = POLLIN };

	return poll(&fd, 1, timeout_ms) == 1 && fd.revents & POLLIN;
}

static void poll__readable_when_there_are_completions(void)
{
	struct mp_event event;
	struct server s;
	int client;

	server_open(&s, AF_INET, 64);
	ASSERT_EQ(mp_accept(s.handle, MP_FOREVER, true), 0);
	ASSERT_EQ(mp_dispatch(s.channel, &event, 0), 0);
	EXPECT(!readable(s.channel, 0));
	client = client_connect(&s);
	EXPECT(readable(s.channel, DEADLINE_US / 1000));
	ASSERT_EQ(mp_dispatch(s.channel, &event, 0), 1);
	EXPECT_EQ(event.cmd, MP_ACCEPT);
	ASSERT_EQ(mp_dispatch(s.channel, &event, 0), 0);
	EXPECT(!readable(s.channel, 0));
	close(client);
	server_close(&s);
}

static void epoll__wakes_for_each(void)
{
	struct epoll_event ep = { .events = EPOLLIN | EPOLLET };
	struct mp_event event;
	struct server s;
	int clients[10];
	int epfd, i;

	server_open(&s, AF_INET, 64);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	ASSERT(!epoll_ctl(epfd, EPOLL_CTL_ADD, mp_fd(s.channel), &ep));
	ASSERT_EQ(mp_accept(s.handle, MP_FOREVER, true), 0);
	ASSERT_EQ(mp_dispatch(s.channel, &event, 0), 0);
	while (epoll_wait(epfd, &ep, 1, 0) == 1)
		;
	for (i = 0; i < 10; i++) {
		clients[i] = client_connect(&s);
		ASSERT_EQ(epoll_wait(epfd, &ep, 1, DEADLINE_US / 1000), 1);
		ASSERT_EQ(mp_dispatch(s.channel, &event, 0), 1);
		ASSERT_EQ(mp_dispatch(s.channel, &event, 0), 0);
	}
	for (i = 0; i < 10; i++)
		close(clients[i]);
	close(epfd);
	server_close(&s);
}

TEST_MAIN(
	TEST(poll__readable_when_there_are_completions),
	TEST(epoll__wakes_for_each)
)
