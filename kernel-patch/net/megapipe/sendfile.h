/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the page cache to a socket.
 */
#ifndef _MEGAPIPE_SENDFILE_H
#define _MEGAPIPE_SENDFILE_H

#include <linux/types.h>

struct mp_request;
struct socket;

/* sendfile.c APIs */
ssize_t mp_sendfile(struct socket *sock, struct mp_request *request,
		    size_t len, bool more);

#endif /* _MEGAPIPE_SENDFILE_H */
