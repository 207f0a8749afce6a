/* SPDX-License-Identifier: MIT */
/* The two kinds of x86 instruction that must not be counted like the rest. */
#ifndef DECODE_H
#define DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A string instruction with a repeat prefix: one instruction to hardware, a loop to the emulator. */
bool decode_is_rep_string(const uint8_t *bytes, size_t length);

/* PAUSE, which marks the body of a loop that waits for another processor. */
bool decode_is_pause(const uint8_t *bytes, size_t length);

#endif
