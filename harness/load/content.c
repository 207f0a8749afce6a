// SPDX-License-Identifier: MIT
/*
 * Contents are runs of 64-bit words, so a reply that was cut, repeated, shifted,
 * corrupted or meant for somebody else is noticed.
 */
#include "content.h"

#include <string.h>

#define WORD	sizeof(uint64_t)

/* Words are a Weyl sequence from the key: cheap, and each one differs. */
static uint64_t word_at(uint64_t key, size_t index)
{
	return key + index * 0x9e3779b97f4a7c15ULL;
}

void content_fill(uint64_t key, size_t offset, unsigned char *buf, size_t len)
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
