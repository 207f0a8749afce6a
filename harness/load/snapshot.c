// SPDX-License-Identifier: MIT
/*
 * Taking is separate from writing: the moment of the window's edge costs one
 * memory copy, and the disk comes after it.
 */
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct snapshot {
	const char *source;
	size_t source_len;
	const char *destination;
	int fd;
	size_t size;
	size_t taken;
	unsigned char *copy;
};

struct snapshots {
	unsigned int nr;
	struct snapshot file[MAX_SNAPSHOTS];
};

static _Noreturn void open_failed(const struct snapshot *f)
{
	fprintf(stderr, "megabench-load: --snapshot: %.*s: %s\n", (int)f->source_len, f->source,
		strerror(errno));
	exit(1);
}

static void snapshot_open(struct snapshot *f, const char *text)
{
	struct stat st;
	char *path;

	f->source = text;
	f->source_len = strchr(text, ':') - text;
	f->destination = text + f->source_len + 1;
	path = strndup(f->source, f->source_len);
	f->fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		open_failed(f);
	free(path);
	f->size = st.st_size;
	f->copy = malloc(f->size + 1);
	if (!f->copy)
		open_failed(f);
	/* Touched now: no page faults at the window's edge. */
	memset(f->copy, 0, f->size + 1);
}

struct snapshots *snapshots_open(const struct options *o)
{
	struct snapshots *s = calloc(1, sizeof(*s));

	if (!s) {
		fputs("megabench-load: out of memory\n", stderr);
		exit(1);
	}
	for (; s->nr < o->nr_snapshots; s->nr++)
		snapshot_open(&s->file[s->nr], o->snapshots[s->nr]);
	return s;
}

int snapshots_take(struct snapshots *s)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct snapshot *f = &s->file[i];

		for (f->taken = 0; f->taken < f->size;) {
			ssize_t n = pread(f->fd, f->copy + f->taken, f->size - f->taken, f->taken);

			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0) {
				fprintf(stderr, "megabench-load: --snapshot: %.*s: %s\n",
					(int)f->source_len, f->source, strerror(errno));
				return -errno;
			}
			if (n == 0)
				break;
			f->taken += n;
		}
	}
	return 0;
}

static int write_file(const char *path, const unsigned char *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int err = 0;

	if (fd < 0)
		return -errno;
	while (len > 0 && !err) {
		ssize_t n = write(fd, bytes, len);

		if (n >= 0) {
			bytes += n;
			len -= n;
		} else if (errno != EINTR) {
			err = -errno;
		}
	}
	if (close(fd) < 0 && !err)
		err = -errno;
	return err;
}

int snapshots_write(struct snapshots *s, const char *suffix)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		const struct snapshot *f = &s->file[i];
		char path[4096];
		int err;

		snprintf(path, sizeof(path), "%s.%s", f->destination, suffix);
		err = write_file(path, f->copy, f->taken);
		if (err) {
			fprintf(stderr, "megabench-load: --snapshot: %s: %s\n", path,
				strerror(-err));
			return err;
		}
	}
	return 0;
}

void snapshots_close(struct snapshots *s)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		close(s->file[i].fd);
		free(s->file[i].copy);
	}
	free(s);
}
