// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sending a file: its pages go from the page cache to the socket by reference.
 *
 * This is what sendfile() does, by way of the task's private pipe, except that
 * the output is a struct socket, which for an lwsocket has no file.
 *
 * As with sendfile(), pages that are not in the cache are read from the disk
 * while the caller, here the channel, waits.
 */

#include <linux/bvec.h>
#include <linux/net.h>
#include <linux/pipe_fs_i.h>
#include <linux/socket.h>
#include <linux/splice.h>
#include <linux/uio.h>

#include "request.h"
#include "sendfile.h"

#define MP_SENDFILE_PAGES	16

/* Point @bvec at the pages in the pipe.  Returns the bytes, or an error. */
static ssize_t mp_sendfile_gather(struct pipe_inode_info *pipe,
				  struct bio_vec *bvec, unsigned int *nr,
				  size_t len)
{
	unsigned int mask = pipe->ring_size - 1;
	unsigned int tail = pipe->tail;
	size_t bytes = 0;
	int err;

	for (*nr = 0; bytes < len && *nr < MP_SENDFILE_PAGES &&
	     !pipe_empty(pipe->head, tail); tail++) {
		struct pipe_buffer *buf = &pipe->bufs[tail & mask];
		size_t part = min_t(size_t, len - bytes, buf->len);

		if (!part)
			continue;
		err = pipe_buf_confirm(pipe, buf);
		if (err)
			return bytes ?: err;
		bvec_set_page(&bvec[(*nr)++], buf->page, part, buf->offset);
		bytes += part;
	}
	return bytes;
}

/* Take @bytes that were sent out of the pipe. */
static void mp_sendfile_consume(struct pipe_inode_info *pipe, size_t bytes)
{
	unsigned int mask = pipe->ring_size - 1;

	while (bytes) {
		struct pipe_buffer *buf = &pipe->bufs[pipe->tail & mask];
		size_t part = min_t(size_t, bytes, buf->len);

		buf->offset += part;
		buf->len -= part;
		bytes -= part;
		if (!buf->len) {
			pipe_buf_release(pipe, buf);
			pipe->tail++;
		}
	}
}

/*
 * Send what is in the pipe, as far as it fits; the caller drops the rest.  The
 * pipe is the task's own, so nobody else looks at it.
 */
static int mp_sendfile_actor(struct pipe_inode_info *pipe,
			     struct splice_desc *sd)
{
	struct socket *sock = sd->u.data;
	size_t left = sd->total_len;
	ssize_t ret = 0;

	while (left) {
		struct msghdr msg = { .msg_flags = MSG_SPLICE_PAGES |
					MSG_DONTWAIT | MSG_NOSIGNAL };
		struct bio_vec bvec[MP_SENDFILE_PAGES];
		unsigned int nr;

		ret = mp_sendfile_gather(pipe, bvec, &nr, left);
		if (ret <= 0)
			break;
		if (sd->flags & SPLICE_F_MORE || ret < left)
			msg.msg_flags |= MSG_MORE;
		iov_iter_bvec(&msg.msg_iter, ITER_SOURCE, bvec, nr, ret);
		ret = sock_sendmsg(sock, &msg);
		if (ret <= 0)
			break;
		mp_sendfile_consume(pipe, ret);
		left -= ret;
	}
	return sd->total_len - left ?: ret;
}

/* The file ends early: the last bytes went out as if there would be more. */
static void mp_sendfile_eof(struct socket *sock)
{
	const struct proto_ops *ops = READ_ONCE(sock->ops);

	if (ops->splice_eof)
		ops->splice_eof(sock);
}

/*
 * Send up to @len bytes of the request's file, and @more later, without waiting
 * for the socket.  Returns the bytes sent, 0 at the end of the file, or an
 * error.
 */
ssize_t mp_sendfile(struct socket *sock, struct mp_request *request,
		    size_t len, bool more)
{
	struct splice_desc sd = {
		.len		= len,
		.total_len	= len,
		.flags		= more ? SPLICE_F_MORE : 0,
		.pos		= request->pos,
		.u.data		= sock,
	};
	ssize_t ret;

	ret = splice_direct_to_actor(request->file, &sd, mp_sendfile_actor);
	if (ret > 0)
		request->pos = sd.pos;
	else if (!ret)
		mp_sendfile_eof(sock);
	return ret;
}
