/* -*- Mode: C; tab-width: 4; c-basic-offset: 4; indent-tabs-mode: nil -*- */
/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef IO_MEGAPIPE_H
#define IO_MEGAPIPE_H
/*
 * What io_megapipe_conn.c keeps in every connection.
 */
#include <megapipe.h>
#include <stdbool.h>

struct io_conn {
    mp_handle handle;   /* none: a side thread has the descriptor */
    char *ahead;        /* AHEAD_SIZE bytes, to wait in for the next request */
    char *copy;         /* of the answer that is being written, if any */
    char *read_to;      /* where the read leads that is under way or done */
    int read;           /* once done: bytes, 0 at the end, or -errno */
    int read_used;      /* bytes of it that memcached has taken */
    int written;        /* once done: bytes or -errno */
    bool reading;       /* under way */
    bool has_read;      /* done, and not all of it taken yet */
    bool writing;
    bool has_written;
    bool polling;
    bool is_lwsocket;
    bool is_due;        /* on its thread's list of connections to go on with */
    struct conn *next_due;
};

#endif
