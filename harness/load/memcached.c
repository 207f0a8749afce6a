// SPDX-License-Identifier: MIT
/*
 * memcached: gets and sets in the ASCII protocol. All keys are set before the
 * load begins; from then on every flow has keys of its own, and knows which
 * value it set last. So a get is right only if it returns exactly that value: a
 * miss, an old value and another key's value are all noticed.
 */
#include "clock.h"
#include "content.h"
#include "options.h"
#include "workload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define KEY_MAX		250
#define HEAD_MAX	(KEY_MAX + 64)
/* Sets under way at a time while the keys are filled in. */
#define FILL_BATCH	64
#define STORED		"STORED\r\n"

/* Which value a key has: they differ while a set has not been answered. */
struct key {
	uint32_t asked, stored;
};

struct store {
	uint64_t per_flow;
	struct key keys[];
};

/* Any message of the protocol: a line, perhaps a value, perhaps an end. */
struct message {
	char head[HEAD_MAX];
	size_t head_len;
	uint64_t value;			/* key of its content */
	size_t value_len;
	const char *tail;
};

struct state {
	struct key *key;
	bool is_set;
	struct message request, reply;
};

/* Eight bytes tell keys of different generators apart, eight more different keys. */
static void key_text(const struct options *o, uint64_t index, char *text)
{
	size_t len = snprintf(text, KEY_MAX + 1, "%08" PRIx64 "%08" PRIx64, o->seed & 0xffffffff,
			      index);

	memset(text + len, 'k', o->key_size - len);
	text[o->key_size] = '\0';
}

static uint64_t value_of(const struct options *o, uint64_t index, uint32_t version)
{
	return mix(mix(o->seed + index) + version);
}

static void line(struct message *m, const char *format, const char *key, size_t value_len)
{
	m->head_len = snprintf(m->head, HEAD_MAX, format, key, value_len);
	m->value_len = 0;
	m->tail = "";
}

static void with_value(struct message *m, uint64_t value, size_t value_len, const char *tail)
{
	m->value = value;
	m->value_len = value_len;
	m->tail = tail;
}

static void set_message(const struct options *o, uint64_t index, uint32_t version,
			struct message *m)
{
	char key[KEY_MAX + 1];

	key_text(o, index, key);
	line(m, "set %s 0 0 %zu\r\n", key, o->size);
	with_value(m, value_of(o, index, version), o->size, "\r\n");
}

/* The bytes of one part that lie within the wanted ones; moves these on. */
static size_t clip(size_t part_len, size_t *offset, size_t room)
{
	size_t len;

	if (*offset >= part_len) {
		*offset -= part_len;
		return 0;
	}
	len = part_len - *offset;
	return len < room ? len : room;
}

/* At most room bytes of the message from offset on; how many. */
static size_t render(const struct message *m, size_t offset, unsigned char *buf, size_t room)
{
	const size_t tail_len = strlen(m->tail);
	size_t len, done = 0;

	len = clip(m->head_len, &offset, room);
	if (len) {
		memcpy(buf, m->head + offset, len);
		done += len;
		offset = 0;
	}
	len = clip(m->value_len, &offset, room - done);
	if (len) {
		content_fill(m->value, offset, buf + done, len);
		done += len;
		offset = 0;
	}
	len = clip(tail_len, &offset, room - done);
	memcpy(buf + done, m->tail + offset, len);
	return done + len;
}

static size_t message_len(const struct message *m)
{
	return m->head_len + m->value_len + strlen(m->tail);
}

static void begin(const struct exchange *x, struct state *s)
{
	const struct options *o = x->options;
	struct store *store = x->shared;
	const uint64_t dice = mix(mix(o->seed + x->connection) + x->transaction);
	const uint64_t index = x->flow * store->per_flow + (dice >> 16) % store->per_flow;
	char key[KEY_MAX + 1];

	s->key = &store->keys[index];
	/* After a set that failed nobody knows which value is there: set it again. */
	s->is_set = dice % 100 < o->set_percent || s->key->asked != s->key->stored;
	if (s->is_set) {
		set_message(o, index, ++s->key->asked, &s->request);
		line(&s->reply, STORED, NULL, 0);
		return;
	}
	key_text(o, index, key);
	line(&s->request, "get %s\r\n", key, 0);
	line(&s->reply, "VALUE %s 0 %zu\r\n", key, o->size);
	with_value(&s->reply, value_of(o, index, s->key->stored), o->size, "\r\nEND\r\n");
}

static size_t memcached_request(const struct exchange *x, size_t offset, void *buf, size_t room)
{
	struct state *s = x->state;

	if (offset == 0)
		begin(x, s);
	return render(&s->request, offset, buf, room);
}

/* It understood, and said no: a miss, or one of its errors. */
static bool is_refusal(const char *buf, size_t len)
{
	static const char *const words[] = {
		"END\r\n", "ERROR", "CLIENT_ERROR", "SERVER_ERROR", "NOT_STORED", "EXISTS",
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (len >= strlen(words[i]) && !memcmp(buf, words[i], strlen(words[i])))
			return true;
	return false;
}

static enum verdict memcached_reply(const struct exchange *x, size_t offset, const void *buf,
				    size_t len, void *scratch)
{
	struct state *s = x->state;
	const size_t left = message_len(&s->reply) - offset;

	if (render(&s->reply, offset, scratch, len) < len || memcmp(buf, scratch, len))
		return offset == 0 && is_refusal(buf, len) ? REPLY_REFUSED : REPLY_WRONG;
	if (len < left)
		return REPLY_INCOMPLETE;
	if (s->is_set)
		s->key->stored = s->key->asked;
	return REPLY_COMPLETE;
}

static int send_all(int fd, const unsigned char *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			buf += n;
			len -= n;
		}
	}
	return 0;
}

static int send_message(int fd, const struct message *m)
{
	static unsigned char buf[IO_BYTES];
	size_t offset = 0, len;

	while ((len = render(m, offset, buf, sizeof(buf))) > 0) {
		int err = send_all(fd, buf, len);

		if (err)
			return err;
		offset += len;
	}
	return 0;
}

static int expect_stored(int fd, uint64_t times)
{
	char text[sizeof(STORED) - 1];

	while (times-- > 0) {
		ssize_t n = recv(fd, text, sizeof(text), MSG_WAITALL);

		if (n < 0)
			return -errno;
		if (n < (ssize_t)sizeof(text) || memcmp(text, STORED, n))
			return -EPROTO;
	}
	return 0;
}

static int fill(int fd, const struct options *o, uint64_t keys)
{
	struct message m;
	int err = 0;

	for (uint64_t first = 0; first < keys && !err; first += FILL_BATCH) {
		const uint64_t end = first + FILL_BATCH < keys ? first + FILL_BATCH : keys;

		for (uint64_t i = first; i < end && !err; i++) {
			set_message(o, i, 0, &m);
			err = send_message(fd, &m);
		}
		if (!err)
			err = expect_stored(fd, end - first);
	}
	return err;
}

/* Every flow needs a key at least; all have as many. */
static int64_t memcached_prepare(const struct options *o, const struct sockaddr *address,
				 socklen_t address_len, void **shared)
{
	const struct timeval timeout = {
		.tv_sec = o->timeout_s,
		.tv_usec = (o->timeout_s - (int64_t)o->timeout_s) * 1e6,
	};
	const uint64_t per_flow = (o->keys + o->connections - 1) / o->connections;
	const uint64_t keys = per_flow * o->connections;
	struct store *store = calloc(1, sizeof(*store) + keys * sizeof(store->keys[0]));
	int err = 0, fd;

	if (!store)
		return -ENOMEM;
	store->per_flow = per_flow;
	*shared = store;
	fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    connect(fd, address, address_len) < 0)
		err = -errno;
	if (!err)
		err = fill(fd, o, keys);
	if (fd >= 0)
		close(fd);
	return err ? err : (int64_t)keys;
}

static const char *memcached_check(const struct options *o)
{
	if (o->key_size < 16 || o->key_size > KEY_MAX)
		return "--key-size must be 16 to 250";
	return NULL;
}

const struct workload workload_memcached = {
	.name = "memcached",
	.help = "gets and sets in the ASCII protocol",
	.state_size = sizeof(struct state),
	.check = memcached_check,
	.prepare = memcached_prepare,
	.request = memcached_request,
	.reply = memcached_reply,
};
