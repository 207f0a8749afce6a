// SPDX-License-Identifier: MIT
/* Just enough of the x86 instruction format: prefixes, then one byte of operation. */
#include "decode.h"

struct operation {
	bool repeat;		/* F2 or F3 before it */
	bool rex_b;		/* turns 90 from NOP into an exchange with R8 */
	int code;		/* -1: no byte left */
};

static bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:	/* segment */
	case 0x66: case 0x67:							/* size */
	case 0xf0: case 0xf2: case 0xf3:					/* lock, repeat */
		return true;
	default:
		return false;
	}
}

static struct operation decode(const uint8_t *bytes, size_t length)
{
	struct operation op = { .code = -1 };
	size_t at = 0;

	for (; at < length && is_prefix(bytes[at]); at++)
		op.repeat |= bytes[at] == 0xf2 || bytes[at] == 0xf3;
	/*
	 * REX of 64-bit code. In older modes these bytes are whole instructions, but none of
	 * them follows a repeat prefix.
	 */
	if (op.repeat && at < length && (bytes[at] & 0xf0) == 0x40)
		op.rex_b = bytes[at++] & 1;
	if (at < length)
		op.code = bytes[at];
	return op;
}

bool decode_is_rep_string(const uint8_t *bytes, size_t length)
{
	struct operation op = decode(bytes, length);

	if (!op.repeat)
		return false;
	switch (op.code) {
	case 0x6c ... 0x6f:	/* INS, OUTS */
	case 0xa4 ... 0xa7:	/* MOVS, CMPS */
	case 0xaa ... 0xaf:	/* STOS, LODS, SCAS */
		return true;
	default:
		return false;
	}
}

bool decode_is_pause(const uint8_t *bytes, size_t length)
{
	struct operation op = decode(bytes, length);

	return op.repeat && op.code == 0x90 && !op.rex_b;
}
