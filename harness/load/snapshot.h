/* SPDX-License-Identifier: MIT */
/*
 * Copies of files taken at the exact begin and end of the measured window, such
 * as the shared file in which an emulator counts instructions.
 */
#ifndef LOAD_SNAPSHOT_H
#define LOAD_SNAPSHOT_H

#include "options.h"

struct snapshots;

/* Opens every SRC at once; ends the program with a message if one fails. */
struct snapshots *snapshots_open(const struct options *o);

/* Read all sources into memory, now. 0 or -errno. */
int snapshots_take(struct snapshots *s);

/* Write what was taken to DST.<suffix>. 0 or -errno; names the file on stderr. */
int snapshots_write(struct snapshots *s, const char *suffix);

void snapshots_close(struct snapshots *s);

#endif
