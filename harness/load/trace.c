// SPDX-License-Identifier: MIT
/* Reads a trace file whole, before the run: nothing is parsed under load. */
#include "trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for one more element of an array that grows by doubling. */
static bool grow(void *array, uint64_t nr, size_t size)
{
	void **pointer = array;
	void *grown;

	if (nr & (nr - 1))
		return true;
	grown = realloc(*pointer, (nr ? 2 * nr : 1) * size);
	if (!grown)
		return false;
	*pointer = grown;
	return true;
}

static int add_object(struct trace *t, char *words)
{
	struct object o = { 0 };

	if (sscanf(words, "%ms %" SCNu64 " %" SCNx32, &o.path, &o.size, &o.crc) != 3 ||
	    o.path[0] != '/' || o.size == 0) {
		free(o.path);
		return -EINVAL;
	}
	if (!grow(&t->objects, t->nr_objects, sizeof(o)))
		return -ENOMEM;
	t->objects[t->nr_objects++] = o;
	return 0;
}

static int add_connection(struct trace *t, char *words)
{
	const uint64_t before = t->nr_requests;
	char *word, *end;

	while ((word = strsep(&words, "\n "))) {
		uint64_t object;

		if (!*word)
			continue;
		object = strtoull(word, &end, 10);
		if (*end || object >= t->nr_objects)
			return -EINVAL;
		if (!grow(&t->requests, t->nr_requests, sizeof(*t->requests)))
			return -ENOMEM;
		t->requests[t->nr_requests++] = object;
	}
	if (t->nr_requests == before)
		return -EINVAL;
	if (!grow(&t->first, t->nr_connections + 1, sizeof(*t->first)))
		return -ENOMEM;
	t->first[++t->nr_connections] = t->nr_requests;
	return 0;
}

static int add_line(struct trace *t, char *text)
{
	if (text[0] == '#' || text[0] == '\n')
		return 0;
	if (!strncmp(text, "object ", strlen("object ")))
		return add_object(t, text + strlen("object "));
	if (!strncmp(text, "connection ", strlen("connection ")))
		return add_connection(t, text + strlen("connection "));
	return -EINVAL;
}

int trace_read(struct trace *t, const char *path)
{
	FILE *file = fopen(path, "re");
	uint64_t number = 0;
	char *text = NULL;
	size_t room = 0;
	int err = 0;

	memset(t, 0, sizeof(*t));
	if (!file)
		return -errno;
	t->first = calloc(1, sizeof(*t->first));
	if (!t->first)
		err = -ENOMEM;
	while (!err && getline(&text, &room, file) >= 0) {
		number++;
		err = add_line(t, text);
	}
	if (!err && ferror(file))
		err = -EIO;
	if (!err && !t->nr_objects)
		err = -EINVAL;
	if (err == -EINVAL)
		fprintf(stderr, "megabench-load: --trace: %s: line %" PRIu64
			" is no object, connection or comment\n", path, number);
	free(text);
	fclose(file);
	return err;
}
