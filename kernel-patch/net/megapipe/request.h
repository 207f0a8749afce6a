/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a command needs besides one buffer.
 */
#ifndef _MEGAPIPE_REQUEST_H
#define _MEGAPIPE_REQUEST_H

#include <linux/socket.h>
#include <linux/types.h>
#include <linux/uio.h>

struct file;
struct megapipe_cmd;

#define MP_FAST_VECTORS		8

/**
 * struct mp_request - a pending command other than READ and WRITE
 * @iter: READV, RECVFROM, WRITEV, SENDTO: what is left to read or write
 * @vectors: READV, WRITEV: the array behind @iter, if @fast is too short
 * @file: SENDFILE: the file, with a reference; otherwise NULL
 * @pos: SENDFILE: where in it
 * @name: RECVFROM: room for the sender's address
 * @name_len: RECVFROM: bytes of room; SENDTO, CONNECT: bytes of @address
 * @fast: a short array
 * @address: SENDTO, CONNECT: the peer
 */
struct mp_request {
	struct iov_iter		iter;
	struct iovec		*vectors;
	struct file		*file;
	loff_t			pos;
	void __user		*name;
	u32			name_len;
	union {
		struct iovec		fast[MP_FAST_VECTORS];
		struct sockaddr_storage	address;
	};
};

/* request.c APIs: all return the request or an error pointer */
struct mp_request *mp_request_vectors(const struct megapipe_cmd *cmd,
				      int direction);
struct mp_request *mp_request_recvfrom(const struct megapipe_cmd *cmd);
struct mp_request *mp_request_sendto(const struct megapipe_cmd *cmd);
struct mp_request *mp_request_sendfile(const struct megapipe_cmd *cmd);
struct mp_request *mp_request_connect(const struct megapipe_cmd *cmd);

void mp_request_free(struct mp_request *request);

#endif /* _MEGAPIPE_REQUEST_H */
