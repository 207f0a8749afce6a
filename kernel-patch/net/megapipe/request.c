// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commands that need more than one buffer: vectors, addresses, a file.
 *
 * Everything is copied in and checked when the command is submitted, so that a
 * try later has only data to copy, and the program may reuse its arrays as soon
 * as the ioctl() has returned.
 */

#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <uapi/linux/megapipe.h>

#include "request.h"

static struct mp_request *mp_request_alloc(void)
{
	struct mp_request *request;

	request = kmalloc(sizeof(*request), GFP_KERNEL_ACCOUNT);
	if (!request)
		return ERR_PTR(-ENOMEM);
	request->vectors = NULL;
	request->file = NULL;
	request->name_len = 0;
	return request;
}

void mp_request_free(struct mp_request *request)
{
	kfree(request->vectors);
	if (request->file)
		fput(request->file);
	kfree(request);
}

/* READV or WRITEV, by @direction: ITER_DEST or ITER_SOURCE */
struct mp_request *mp_request_vectors(const struct megapipe_cmd *cmd,
				      int direction)
{
	struct mp_request *request;
	struct iovec *iov;
	ssize_t len;

	if (cmd->len > UIO_MAXIOV || cmd->arg || cmd->aux)
		return ERR_PTR(-EINVAL);
	request = mp_request_alloc();
	if (IS_ERR(request))
		return request;

	/* An array of import_iovec()'s own would be charged to nobody. */
	iov = request->fast;
	if (cmd->len > ARRAY_SIZE(request->fast)) {
		iov = kmalloc_array(cmd->len, sizeof(*iov), GFP_KERNEL_ACCOUNT);
		request->vectors = iov;
	}
	len = iov ? import_iovec(direction, u64_to_user_ptr(cmd->addr),
				 cmd->len, cmd->len, &iov, &request->iter) :
		    -ENOMEM;
	/* 0 bytes would complete like the end of the file. */
	if (len <= 0) {
		mp_request_free(request);
		return ERR_PTR(len ?: -EINVAL);
	}
	return request;
}

/* A request for the one buffer of the command */
static struct mp_request *mp_request_buffer(const struct megapipe_cmd *cmd,
					    int direction)
{
	struct mp_request *request = mp_request_alloc();
	int err;

	if (IS_ERR(request))
		return request;
	err = import_ubuf(direction, u64_to_user_ptr(cmd->addr), cmd->len,
			  &request->iter);
	if (err) {
		kfree(request);
		return ERR_PTR(err);
	}
	return request;
}

struct mp_request *mp_request_recvfrom(const struct megapipe_cmd *cmd)
{
	struct mp_request *request;

	if (!cmd->len || (cmd->aux && !cmd->arg))
		return ERR_PTR(-EINVAL);
	request = mp_request_buffer(cmd, ITER_DEST);
	if (IS_ERR(request))
		return request;
	request->name = u64_to_user_ptr(cmd->arg);
	request->name_len = cmd->aux;
	return request;
}

static int mp_request_copy_address(struct mp_request *request, u64 addr,
				   u32 len)
{
	if (!len || len > sizeof(request->address))
		return -EINVAL;
	request->name_len = len;
	return move_addr_to_kernel(u64_to_user_ptr(addr), len,
				   &request->address);
}

/* Without an address, and with 0 bytes, it is an empty datagram to the peer. */
struct mp_request *mp_request_sendto(const struct megapipe_cmd *cmd)
{
	struct mp_request *request;
	int err;

	if (cmd->len > MAX_RW_COUNT || !cmd->aux != !cmd->arg)
		return ERR_PTR(-EINVAL);
	request = mp_request_buffer(cmd, ITER_SOURCE);
	if (IS_ERR(request) || !cmd->aux)
		return request;

	err = mp_request_copy_address(request, cmd->arg, cmd->aux);
	if (err) {
		mp_request_free(request);
		return ERR_PTR(err);
	}
	return request;
}

struct mp_request *mp_request_connect(const struct megapipe_cmd *cmd)
{
	struct mp_request *request;
	int err;

	if (cmd->arg || cmd->aux)
		return ERR_PTR(-EINVAL);
	request = mp_request_alloc();
	if (IS_ERR(request))
		return request;
	err = mp_request_copy_address(request, cmd->addr, cmd->len);
	if (err) {
		mp_request_free(request);
		return ERR_PTR(err);
	}
	return request;
}

/* As for sendfile(), the input must be seekable. */
static int mp_request_check_file(struct file *file, loff_t pos, size_t len)
{
	if (!(file->f_mode & FMODE_READ))
		return -EBADF;
	if (!(file->f_mode & FMODE_LSEEK) || !file->f_op->splice_read)
		return -EINVAL;
	if (!(file->f_mode & FMODE_PREAD))
		return -ESPIPE;
	return rw_verify_area(READ, file, &pos, len);
}

struct mp_request *mp_request_sendfile(const struct megapipe_cmd *cmd)
{
	struct mp_request *request;
	int err;

	if (!cmd->len || cmd->len > MAX_RW_COUNT || cmd->addr ||
	    (s64)cmd->arg < 0)
		return ERR_PTR(-EINVAL);
	request = mp_request_alloc();
	if (IS_ERR(request))
		return request;

	request->pos = cmd->arg;
	request->file = fget(cmd->aux);
	err = request->file ? mp_request_check_file(request->file,
						    request->pos, cmd->len) :
			      -EBADF;
	if (err) {
		mp_request_free(request);
		return ERR_PTR(err);
	}
	return request;
}
