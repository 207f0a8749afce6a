// SPDX-License-Identifier: MIT
/*
 * Eight bytes a step: table[k] carries a byte past k more bytes. A byte a step
 * would cost the generator more than receiving the bytes does.
 */
#include "crc32.h"

#include <endian.h>
#include <string.h>

#define POLYNOMIAL	0xedb88320u
#define STEP		8

static uint32_t table[STEP][256];

void crc32_set_up(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
		table[0][i] = crc;
	}
	for (uint32_t i = 0; i < 256; i++)
		for (int k = 1; k < STEP; k++)
			table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 0xff];
}

uint32_t crc32_update(uint32_t crc, const unsigned char *buf, size_t len)
{
	crc = ~crc;
	for (; len >= STEP; buf += STEP, len -= STEP) {
		uint64_t word;
		uint32_t next = 0;

		memcpy(&word, buf, STEP);
		word = le64toh(word) ^ crc;
		for (int k = 0; k < STEP; k++)
			next ^= table[STEP - 1 - k][(word >> (8 * k)) & 0xff];
		crc = next;
	}
	for (; len > 0; buf++, len--)
		crc = (crc >> 8) ^ table[0][(crc ^ *buf) & 0xff];
	return ~crc;
}
