// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Files to sockets.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "net.h"

#define SIZE	300000

static char out[SIZE], in[SIZE];

static int make_file(void)
{
	int fd = memfd_create("file", MFD_CLOEXEC);
	int i;

	for (i = 0; i < SIZE; i++)
		out[i] = (char)(i * 7 + i / 251);
	ASSERT(fd >= 0);
	ASSERT_EQ(write(fd, out, SIZE), SIZE);
	return fd;
}

static void whole(bool is_lwsocket)
{
	struct pair p = pair_open(is_lwsocket, NULL);
	int fd = make_file();

	ASSERT_EQ(mp_sendfile(p.h, fd, 0, SIZE), 0);
	ASSERT_EQ(mp_flush(p.s.channel), 0);
	ASSERT_EQ(recv(p.client, in, SIZE, MSG_WAITALL), SIZE);
	EXPECT(!memcmp(in, out, SIZE));
	expect_result(p.s.channel, p.h, MP_SENDFILE, SIZE);
	close(fd);
	pair_close(&p);
}

static void sendfile__whole(void)
{
	both_kinds(whole);
}

static void sendfile__part_and_end(void)
{
	struct pair p = pair_open(true, NULL);
	int fd = make_file();

	ASSERT_EQ(mp_sendfile(p.h, fd, 1000, 50), 0);
	expect_result(p.s.channel, p.h, MP_SENDFILE, 50);
	ASSERT_EQ(recv(p.client, in, 50, MSG_WAITALL), 50);
	EXPECT(!memcmp(in, out + 1000, 50));
	ASSERT_EQ(mp_sendfile(p.h, fd, SIZE - 10, 1000), 0);
	expect_result(p.s.channel, p.h, MP_SENDFILE, 10);
	ASSERT_EQ(recv(p.client, in, 10, MSG_WAITALL), 10);
	EXPECT_EQ(lseek(fd, 0, SEEK_CUR), SIZE);	/* left alone */
	close(fd);
	pair_close(&p);
}

static void sendfile__no_such_file(void)
{
	struct pair p = pair_open(true, NULL);

	ASSERT_EQ(mp_sendfile(p.h, 999, 0, 10), 0);
	expect_result(p.s.channel, p.h, MP_SENDFILE, -EBADF);
	pair_close(&p);
}

TEST_MAIN(
	TEST(sendfile__whole),
	TEST(sendfile__part_and_end),
	TEST(sendfile__no_such_file)
)
