// SPDX-License-Identifier: MIT
/*
 * pingpong: the reply is the request. A message is a run of 64-bit words that
 * depends on the seed, the connection and the transaction, so a reply that was
 * cut, repeated, shifted, corrupted or meant for another connection is noticed.
 */
#include "options.h"
#include "workload.h"

#include <string.h>

#define WORD	sizeof(uint64_t)

/* The finaliser of splitmix64: near keys give unlike words. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static uint64_t message_key(const struct exchange *x)
{
	return mix(mix(x->options->seed + x->connection) + x->transaction);
}

/* Words are a Weyl sequence from the key: cheap, and each one differs. */
static uint64_t word_at(uint64_t key, size_t index)
{
	return key + index * 0x9e3779b97f4a7c15ULL;
}

static void fill(uint64_t key, size_t offset, unsigned char *buf, size_t len)
{
	size_t index = offset / WORD, skip = offset % WORD;
	uint64_t word;

	if (skip > 0) {
		size_t head = WORD - skip < len ? WORD - skip : len;

		word = word_at(key, index++);
		memcpy(buf, (unsigned char *)&word + skip, head);
		buf += head;
		len -= head;
	}
	for (; len >= WORD; buf += WORD, len -= WORD) {
		word = word_at(key, index++);
		memcpy(buf, &word, WORD);
	}
	if (len > 0) {
		word = word_at(key, index);
		memcpy(buf, &word, len);
	}
}

static size_t pingpong_request(const struct exchange *x, size_t offset, void *buf, size_t room)
{
	size_t left = x->options->size - offset;
	size_t len = left < room ? left : room;

	fill(message_key(x), offset, buf, len);
	return len;
}

static enum verdict pingpong_reply(const struct exchange *x, size_t offset, const void *buf,
				   size_t len, void *scratch)
{
	size_t left = x->options->size - offset;

	if (len > left)
		return REPLY_WRONG;
	fill(message_key(x), offset, scratch, len);
	if (memcmp(buf, scratch, len))
		return REPLY_WRONG;
	return len == left ? REPLY_COMPLETE : REPLY_INCOMPLETE;
}

const struct workload workload_pingpong = {
	.name = "pingpong",
	.help = "the server echoes what it receives",
	.request = pingpong_request,
	.reply = pingpong_reply,
};
