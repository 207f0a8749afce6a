// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registered descriptors: connected sockets that live in the descriptor table
 * too.
 *
 * A handle holds a reference to the open file.  It has to: commands are pending
 * on it after the ioctl() has returned.  So close() of a registered descriptor
 * closes no connection; MEGAPIPE_OP_CLOSE does.
 *
 * Events come from an entry on the socket's wait queue, as for poll().  The
 * socket is freed after the file, and removing the entry waits for a wake-up in
 * progress, so the entry needs no other protection.
 */

#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/net.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <net/inet_sock.h>

#include "accept.h"
#include "channel.h"
#include "file.h"

static int mp_file_wake(wait_queue_entry_t *wait, unsigned int mode, int sync,
			void *key)
{
	struct mp_file *file = container_of(wait, struct mp_file, wait);
	__poll_t mask = key_to_poll(key);
	int events = 0;

	/* No mask: a change of state, see sock_def_wakeup(). */
	if (!mask || mask & (EPOLLIN | EPOLLERR | EPOLLHUP))
		events |= MP_EV_READ;
	if (!mask || mask & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		events |= MP_EV_WRITE;
	if (events)
		mp_handle_ready(&file->handle, events);
	return 1;
}

static int mp_file_new(struct mp_channel *channel, struct file *f,
		       struct socket *sock,
		       const struct megapipe_register *reg)
{
	struct mp_file *file;
	int id;

	if (reg->flags)
		return -EINVAL;

	file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;
	mp_handle_init(&file->handle, channel, MP_KIND_FILE, sock);
	file->handle.cookie = reg->cookie;
	file->fd = reg->fd;
	id = mp_handle_install(&file->handle);
	if (id < 0) {
		kfree(file);
		return id;
	}

	file->file = get_file(f);
	init_waitqueue_func_entry(&file->wait, mp_file_wake);
	add_wait_queue(&sock->wq.wait, &file->wait);
	return id;
}

/* Make a handle for a descriptor.  Returns its number or an error. */
int mp_file_register(struct mp_channel *channel,
		     const struct megapipe_register *reg)
{
	struct socket *sock;
	struct file *file;
	int ret;

	file = fget(reg->fd);
	if (!file)
		return -EBADF;

	sock = sock_from_file(file);
	if (!sock || !sk_is_tcp(sock->sk))
		ret = -EOPNOTSUPP;
	else if (inet_sk_state_load(sock->sk) == TCP_LISTEN)
		ret = mp_accept_register(channel, file, sock, reg);
	else
		ret = mp_file_new(channel, file, sock, reg);
	fput(file);
	return ret;
}

/* The handle's file, with a reference, and its descriptor */
struct file *mp_file_get(struct mp_handle *handle, int *fd)
{
	*fd = mp_file(handle)->fd;
	return get_file(mp_file(handle)->file);
}

/*
 * Close the descriptor that a file was registered by, unless the program has
 * closed it already and the number is another file's.  A program must not race
 * with itself here, as with any close().  Consumes the reference.
 */
void mp_file_close_fd(struct file *file, int fd)
{
	struct file *now = fget(fd);

	if (now == file) {
		fput(now);
		now = file_close_fd(fd);
		if (now)
			filp_close(now, current->files);
	} else if (now) {
		fput(now);
	}
	fput(file);
}

void mp_file_detach(struct mp_handle *handle)
{
	struct mp_file *file = mp_file(handle);

	remove_wait_queue(&handle->sock->wq.wait, &file->wait);
	fput(file->file);
}

void mp_file_free(struct mp_handle *handle)
{
	kfree(mp_file(handle));
}
