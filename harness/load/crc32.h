/* SPDX-License-Identifier: MIT */
/* CRC-32 as in zlib, gzip and PNG; begin with 0, feed piece by piece. */
#ifndef LOAD_CRC32_H
#define LOAD_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Fill the tables: once, before any thread. */
void crc32_set_up(void);

uint32_t crc32_update(uint32_t crc, const unsigned char *buf, size_t len);

#endif
