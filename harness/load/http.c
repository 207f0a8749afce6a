// SPDX-License-Identifier: MIT
/*
 * http: GETs over HTTP/1.1 with keep-alive, of the objects of a trace file. A
 * reply is right if its status is 200, its length the object's, and its body has
 * the object's CRC-32. The trace's connections are replayed (--passes), or any
 * of its objects asked for at random.
 */
#include "content.h"
#include "crc32.h"
#include "options.h"
#include "trace.h"
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No header that matters is longer; the rest of a longer one is skipped. */
#define LINE_MAX_BYTES	128

struct replay {
	struct trace trace;
	atomic_uint_fast64_t next;	/* connection of the trace */
	uint64_t connections;		/* of all passes */
};

enum part {
	PART_STATUS,
	PART_HEADERS,
	PART_BODY,
};

struct state {
	const struct object *object;
	enum part part;
	char line[LINE_MAX_BYTES];
	size_t line_len;
	bool has_length;
	uint64_t body;			/* bytes of it received */
	uint32_t crc;
};

static const struct object *object_of(const struct exchange *x)
{
	const struct replay *replay = x->shared;
	const struct trace *t = &replay->trace;
	uint64_t dice;

	if (x->options->passes > 0)
		return &t->objects[t->requests[t->first[x->script] + x->script_done +
					       x->transaction]];
	dice = mix(mix(x->options->seed + x->connection) + x->transaction);
	return &t->objects[dice % t->nr_objects];
}

/* Whether the connection ends with this request. */
static bool is_last(const struct exchange *x)
{
	const struct replay *replay = x->shared;
	const uint64_t *first = replay->trace.first;

	if (x->options->passes > 0)
		return first[x->script] + x->script_done + x->transaction + 1 ==
		       first[x->script + 1];
	return x->transaction + 1 == x->options->transactions;
}

static size_t http_request(const struct exchange *x, size_t offset, void *buf, size_t room)
{
	struct state *s = x->state;
	size_t len;

	if (offset == 0) {
		memset(s, 0, sizeof(*s));
		s->object = object_of(x);
	}
	len = snprintf(buf, room, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", s->object->path,
		       x->options->target,
		       x->options->ask_close && is_last(x) ? "Connection: close\r\n" : "");
	/* Part of it was sent: what is left, moved to the front. */
	memmove(buf, (char *)buf + offset, len - offset);
	return len - offset;
}

static bool line_begins(const struct state *s, const char *word)
{
	const size_t len = strlen(word);

	return s->line_len >= len && !strncasecmp(s->line, word, len);
}

/* The line without its end is in s->line. */
static enum verdict end_of_line(struct state *s)
{
	if (s->part == PART_STATUS) {
		s->part = PART_HEADERS;
		if (line_begins(s, "HTTP/1.1 200"))
			return REPLY_INCOMPLETE;
		return line_begins(s, "HTTP/1.") ? REPLY_REFUSED : REPLY_WRONG;
	}
	if (s->line_len == 0) {
		s->part = PART_BODY;
		return s->has_length ? REPLY_INCOMPLETE : REPLY_WRONG;
	}
	if (line_begins(s, "content-length:")) {
		s->has_length = true;
		s->line[s->line_len] = '\0';
		if (strtoull(s->line + strlen("content-length:"), NULL, 10) != s->object->size)
			return REPLY_WRONG;
	}
	return REPLY_INCOMPLETE;
}

/* One byte before the body. */
static enum verdict header_byte(struct state *s, char byte)
{
	enum verdict verdict;

	if (byte == '\n') {
		verdict = end_of_line(s);
		s->line_len = 0;
		return verdict;
	}
	if (byte != '\r' && s->line_len < sizeof(s->line) - 1)
		s->line[s->line_len++] = byte;
	return REPLY_INCOMPLETE;
}

static enum verdict http_reply(const struct exchange *x, size_t offset, const void *buf,
			       size_t len, void *scratch)
{
	const unsigned char *bytes = buf;
	struct state *s = x->state;
	size_t i = 0;

	(void)offset;
	(void)scratch;
	for (; s->part != PART_BODY && i < len; i++) {
		const enum verdict verdict = header_byte(s, bytes[i]);

		if (verdict != REPLY_INCOMPLETE)
			return verdict;
	}
	if (s->part != PART_BODY)
		return REPLY_INCOMPLETE;
	len -= i;
	if (len > s->object->size - s->body)
		return REPLY_WRONG;
	s->crc = crc32_update(s->crc, bytes + i, len);
	s->body += len;
	if (s->body < s->object->size)
		return REPLY_INCOMPLETE;
	return s->crc == s->object->crc ? REPLY_COMPLETE : REPLY_WRONG;
}

static int64_t http_prepare(const struct options *o, const struct sockaddr *address,
			    socklen_t address_len, void **shared)
{
	struct replay *replay = calloc(1, sizeof(*replay));
	int err;

	(void)address;
	(void)address_len;
	if (!replay)
		return -ENOMEM;
	crc32_set_up();
	err = trace_read(&replay->trace, o->trace);
	if (!err && o->passes > 0 && !replay->trace.nr_connections) {
		fprintf(stderr, "megabench-load: --trace: %s: no connections to replay\n", o->trace);
		err = -EINVAL;
	}
	replay->connections = o->passes * replay->trace.nr_connections;
	*shared = replay;
	return err;
}

static uint64_t http_count(const struct options *o, void *shared)
{
	const struct replay *replay = shared;

	return o->passes * replay->trace.nr_requests;
}

static void http_rewind(void *shared)
{
	struct replay *replay = shared;

	atomic_store(&replay->next, 0);
}

static uint64_t http_open(struct exchange *x, bool endless)
{
	struct replay *replay = x->shared;
	const struct trace *t = &replay->trace;
	const uint64_t next = atomic_fetch_add(&replay->next, 1);

	if (!endless && next >= replay->connections)
		return 0;
	x->script = next % t->nr_connections;
	return t->first[x->script + 1] - t->first[x->script];
}

static const char *http_check(const struct options *o)
{
	return o->trace ? NULL : "--trace is missing: it names the objects of the http workload";
}

const struct workload workload_http = {
	.name = "http",
	.help = "GETs over HTTP/1.1, of a trace's objects",
	.state_size = sizeof(struct state),
	.check = http_check,
	.prepare = http_prepare,
	.count = http_count,
	.rewind = http_rewind,
	.open = http_open,
	.request = http_request,
	.reply = http_reply,
};
