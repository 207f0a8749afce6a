// SPDX-License-Identifier: GPL-2.0-only
/*
 * SENDFILE: from a file's pages to a socket.
 */
#include <sys/mman.h>

#include "megapipe_test.h"

#define SIZE	(12 * 1024 * 1024 + 4321)

FIXTURE(sendfile)
{
	int channel;
	int peer;
	int fd;
	int handle;
	int file;
};

FIXTURE_VARIANT(sendfile)
{
	int family;
	bool lwsocket;
};

FIXTURE_VARIANT_ADD(sendfile, tcp)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(sendfile, lwsocket)
{
	.family = AF_INET6,
	.lwsocket = true,
};

FIXTURE_VARIANT_ADD(sendfile, unix_stream)
{
	.family = AF_UNIX,
};

static unsigned char pattern(size_t i)
{
	return i ^ (i >> 8) ^ (i >> 16) * 31;
}

static int pattern_file(void)
{
	int fd = mp_must(memfd_create("megapipe", MFD_CLOEXEC));
	unsigned char *map;
	size_t i;

	mp_must(ftruncate(fd, SIZE));
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		mp_die("mmap: %s", strerror(errno));
	for (i = 0; i < SIZE; i++)
		map[i] = pattern(i);
	munmap(map, SIZE);
	return fd;
}

FIXTURE_SETUP(sendfile)
{
	self->channel = mp_open();
	self->file = pattern_file();
	self->handle = mp_stream(self->channel, variant->family,
				 variant->lwsocket, 0, &self->peer,
				 &self->fd);
	ASSERT_GT(self->handle, 0);
}

FIXTURE_TEARDOWN(sendfile)
{
	close(self->peer);
	close(self->channel);
	close(self->fd);
	close(self->file);
}

/* Receive until the command is complete.  Returns its result, if all is right. */
static int receive(int channel, int peer, size_t offset)
{
	static unsigned char buf[1 << 20];
	struct megapipe_event event = {};
	bool complete = false;
	size_t got = 0, i;
	ssize_t ret;

	while (!complete || got < event.res) {
		ret = recv(peer, buf, sizeof(buf), complete ? 0 : MSG_DONTWAIT);
		for (i = 0; ret > 0 && i < ret; i++)
			if (buf[i] != pattern(offset + got + i))
				mp_die("byte %zu is wrong", got + i);
		if (ret > 0)
			got += ret;
		if (!complete)
			complete = mp_dispatch(channel, NULL, 0, &event, 1, 0,
					       0, NULL) == 1;
	}
	if (event.op != MEGAPIPE_OP_SENDFILE)
		mp_die("completion of op %u", event.op);
	return event.res;
}

TEST_F(sendfile, sends_all_of_a_large_file)
{
	mp_submit(self->channel, mp_cmd_sendfile(self->handle, self->file, 0,
						 SIZE));
	EXPECT_TRUE(mp_quiet(self->channel));
	EXPECT_EQ(receive(self->channel, self->peer, 0), SIZE);
}

TEST_F(sendfile, begins_at_the_offset)
{
	mp_submit(self->channel, mp_cmd_sendfile(self->handle, self->file,
						 12345, 10));
	EXPECT_EQ(receive(self->channel, self->peer, 12345), 10);
	/* The file's own position is nobody's business. */
	EXPECT_EQ(lseek(self->file, 0, SEEK_CUR), 0);
}

TEST_F(sendfile, ends_with_the_file)
{
	struct megapipe_event event;
	char buf[16];

	event = mp_run(self->channel, mp_cmd_sendfile(self->handle, self->file,
						      SIZE - 10, 1000));
	EXPECT_EQ(event.res, 10);
	/* Not held back for more that never comes */
	mp_read_all(self->peer, buf, 10);
	event = mp_run(self->channel, mp_cmd_sendfile(self->handle, self->file,
						      SIZE, 1000));
	EXPECT_EQ(event.res, 0);
}

TEST_F(sendfile, holds_the_file_while_it_goes_on)
{
	int file = self->file;

	mp_submit(self->channel, mp_cmd_sendfile(self->handle, file, 0, SIZE));
	close(file);
	self->file = dup(self->channel);
	EXPECT_EQ(receive(self->channel, self->peer, 0), SIZE);
}

/*
 * No copy: what is queued are the file's own pages, so what is written to the
 * file meanwhile is what arrives.  (AF_UNIX does the same.)
 */
#define QUEUED	(16 * 1024)

static void expect_new_bytes(struct __test_metadata *_metadata, int channel,
			     int handle, int peer, int file)
{
	static char buf[QUEUED], expected[QUEUED];

	memset(expected, 'N', sizeof(expected));
	/* All of it fits into the send buffer, so the command is complete. */
	ASSERT_EQ(mp_run(channel, mp_cmd_sendfile(handle, file, 0,
						  QUEUED)).res, QUEUED);
	ASSERT_EQ(pwrite(file, expected, QUEUED, 0), QUEUED);
	mp_read_all(peer, buf, QUEUED);
	EXPECT_EQ(memcmp(buf, expected, QUEUED), 0);
}

TEST_F(sendfile, copies_nothing)
{
	expect_new_bytes(_metadata, self->channel, self->handle, self->peer,
			 self->file);
}

/* A file of a disk, whose pages the kernel reads into its cache */
TEST_F(sendfile, copies_nothing_of_a_file_on_a_disk)
{
	static char old[QUEUED];
	char name[] = "/var/tmp/megapipe-XXXXXX";
	int file = mp_must(mkstemp(name));

	mp_must(unlink(name));
	memset(old, 'O', sizeof(old));
	mp_write_all(file, old, sizeof(old));
	mp_must(fsync(file));
	/* Not in the cache, so it has to be read */
	posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	expect_new_bytes(_metadata, self->channel, self->handle, self->peer,
			 file);
	close(file);
}

TEST_F(sendfile, can_be_cancelled_and_then_says_how_much)
{
	struct megapipe_event event;

	mp_submit(self->channel, mp_cmd_sendfile(self->handle, self->file, 0,
						 SIZE));
	EXPECT_TRUE(mp_quiet(self->channel));
	event = mp_run(self->channel, mp_cmd_cancel(self->handle));
	EXPECT_EQ(event.op, MEGAPIPE_OP_SENDFILE);
	EXPECT_GT(event.res, 0);
	EXPECT_LT(event.res, SIZE);
}

TEST_F(sendfile, ends_with_its_channel)
{
	mp_submit(self->channel, mp_cmd_sendfile(self->handle, self->file, 0,
						 SIZE));
	close(self->channel);
	self->channel = dup(self->file);
}

TEST_F(sendfile, refuses_what_is_no_file)
{
	int fds[2], wronly;

	mp_must(pipe(fds));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(self->handle, 1000, 0, 10)).res,
		  -EBADF);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(self->handle, fds[0], 0, 10)).res,
		  -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(self->handle, fds[1], 0, 10)).res,
		  -EBADF);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(self->handle, self->peer, 0, 10)).res,
		  -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(self->handle, self->file, -1, 10)).res,
		  -EINVAL);
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(self->handle, self->file, 0, 0)).res,
		  -EINVAL);
	wronly = mp_must(open("/dev/null", O_WRONLY));
	EXPECT_EQ(mp_run(self->channel,
			 mp_cmd_sendfile(self->handle, wronly, 0, 10)).res,
		  -EBADF);
	close(wronly);
	close(fds[0]);
	close(fds[1]);
}

TEST_HARNESS_MAIN
