/* SPDX-License-Identifier: MIT */
/* Bytes that depend on a key alone: made anywhere, checked anywhere, kept nowhere. */
#ifndef LOAD_CONTENT_H
#define LOAD_CONTENT_H

#include <stddef.h>
#include <stdint.h>

/* The finaliser of splitmix64: near keys give unlike words. */
static inline uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* The len bytes from offset on of the content that belongs to key. */
void content_fill(uint64_t key, size_t offset, unsigned char *buf, size_t len);

#endif
