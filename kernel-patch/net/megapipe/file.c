// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registered descriptors: sockets, pipes, terminals and event files that live in
 * the descriptor table too.
 *
 * A handle holds a reference to the open file.  It has to: commands are pending
 * on it after the ioctl() has returned.  So close() of a registered descriptor
 * closes no connection; MEGAPIPE_OP_CLOSE does.
 *
 * Events come from entries on the file's wait queues, as for poll(), for as long
 * as it is registered.  A queue normally lives as long as the file, and removing
 * an entry waits for a wake-up in progress, so the entries need no other
 * protection.  The exception is POLLFREE: the queue of a signalfd is that of the
 * process and may go first.  See mp_file_wake() and mp_file_unwait().
 *
 * Sockets are read and written as such, without blocking.  Other files must
 * either know IOCB_NOWAIT (FMODE_NOWAIT) or be open with O_NONBLOCK.
 */

#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/net.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
/* Needs linux/fs.h and linux/uaccess.h */
#include <linux/eventpoll.h>
#include <net/inet_sock.h>
#include <net/megapipe.h>

#include "accept.h"
#include "channel.h"
#include "file.h"

#define MP_POLL_READ	(EPOLLIN | EPOLLRDNORM | EPOLLPRI | EPOLLRDBAND | \
			 EPOLLRDHUP | EPOLLERR | EPOLLHUP)
#define MP_POLL_WRITE	(EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND | \
			 EPOLLERR | EPOLLHUP)

/* Called under the lock of the wait queue */
static int mp_file_wake(wait_queue_entry_t *entry, unsigned int mode, int sync,
			void *key)
{
	struct mp_wait *wait = container_of(entry, struct mp_wait, entry);
	struct mp_file *file = entry->private;
	__poll_t mask = key_to_poll(key);
	int events = 0;

	/* No mask: a change of state, see sock_def_wakeup(). */
	if (!mask || mask & (MP_POLL_READ | POLLFREE))
		events |= MP_EV_READ;
	if (!mask || mask & (MP_POLL_WRITE | POLLFREE))
		events |= MP_EV_WRITE;
	if (events)
		mp_handle_ready(&file->handle, events);

	if (unlikely(mask & POLLFREE)) {
		list_del_init(&entry->entry);
		/*
		 * The last access: with it mp_file_unwait() no longer takes the
		 * lock that is held here, and the handle may be freed.  Pairs
		 * with smp_load_acquire() there.
		 */
		smp_store_release(&wait->head, NULL);
	}
	return 1;
}

/* Have @func called with the new entry, which is not on @head yet. */
wait_queue_entry_t *mp_file_wait(struct mp_file *file, wait_queue_head_t *head,
				 wait_queue_func_t func)
{
	struct mp_wait *wait = &file->wait[file->nr_waits++];

	init_waitqueue_func_entry(&wait->entry, func);
	wait->entry.private = file;
	wait->head = head;
	return &wait->entry;
}

static void mp_file_unwait(struct mp_file *file)
{
	wait_queue_head_t *head;
	unsigned int i;

	/* A queue that goes with POLLFREE is freed after a grace period. */
	rcu_read_lock();
	for (i = 0; i < file->nr_waits; i++) {
		/* Pairs with smp_store_release() in mp_file_wake(). */
		head = smp_load_acquire(&file->wait[i].head);
		if (head)
			remove_wait_queue(head, &file->wait[i].entry);
	}
	rcu_read_unlock();
	file->nr_waits = 0;
}

/**
 * struct mp_poll_table - to find a file's wait queues with its poll()
 * @pt: what poll() is given
 * @file: the handle
 * @full: there were more queues than MP_MAX_WAITS
 */
struct mp_poll_table {
	poll_table	pt;
	struct mp_file	*file;
	bool		full;
};

static void mp_file_found_queue(struct file *f, wait_queue_head_t *head,
				poll_table *pt)
{
	struct mp_poll_table *table = container_of(pt, struct mp_poll_table, pt);

	if (table->file->nr_waits == MP_MAX_WAITS)
		table->full = true;
	else
		add_wait_queue(head, mp_file_wait(table->file, head,
						  mp_file_wake));
}

/* Wait on all queues that the file's poll() names. */
static int mp_file_wait_all(struct mp_file *file)
{
	struct mp_poll_table table = { .file = file };
	struct socket *sock = file->handle.sock;

	/* TCP has the one, and is what programs register a million times. */
	if (file->handle.tcp) {
		add_wait_queue(&sock->wq.wait,
			       mp_file_wait(file, &sock->wq.wait,
					    mp_file_wake));
		return 0;
	}
	init_poll_funcptr(&table.pt, mp_file_found_queue);
	vfs_poll(file->file, &table.pt);
	return table.full ? -EOPNOTSUPP : 0;
}

static int mp_file_new(struct mp_channel *channel, struct file *f,
		       struct socket *sock,
		       const struct megapipe_register *reg)
{
	struct mp_file *file;
	int ret;

	if (reg->flags)
		return -EINVAL;

	file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;
	mp_handle_init(&file->handle, channel, MP_KIND_FILE, sock);
	file->handle.cookie = reg->cookie;
	file->fd = reg->fd;
	ret = mp_handle_install(&file->handle);
	if (ret < 0) {
		kfree(file);
		return ret;
	}

	file->file = get_file(f);
	/* From here on events may queue the handle. */
	if (mp_file_wait_all(file)) {
		mp_handle_drop(&file->handle);
		return -EOPNOTSUPP;
	}
	return ret;
}

/* Can the file be waited for, and without waiting for itself? */
static int mp_file_check(struct file *file)
{
	if (megapipe_is_channel(file) || io_is_uring_fops(file) ||
	    eventpoll_is_file(file))
		return -ELOOP;
	if (!file_can_poll(file))
		return -EPERM;
	return 0;
}

static bool mp_file_never_blocks(const struct file *file)
{
	return file->f_mode & FMODE_NOWAIT ||
	       READ_ONCE(file->f_flags) & O_NONBLOCK;
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
	ret = mp_file_check(file);
	if (ret)
		goto out_put;

	sock = sock_from_file(file);
	if (sock && !sock->sk)
		ret = -EOPNOTSUPP;
	else if (sock && inet_sk_state_load(sock->sk) == TCP_LISTEN)
		ret = mp_accept_register(channel, file, sock, reg);
	else if (sock || mp_file_never_blocks(file))
		ret = mp_file_new(channel, file, sock, reg);
	else
		ret = -EOPNOTSUPP;
out_put:
	fput(file);
	return ret;
}

__poll_t mp_file_poll(const struct mp_handle *handle)
{
	const struct mp_file *file;

	file = container_of_const(handle, struct mp_file, handle);
	return vfs_poll(file->file, NULL);
}

/* Connect, or ask how a connect goes: as connect() of a non-blocking socket */
int mp_file_connect(struct mp_handle *handle, struct sockaddr_storage *address,
		    int len)
{
	return __sys_connect_file(mp_file(handle)->file, address, len,
				  O_NONBLOCK);
}

static int mp_file_prepare(struct file *file, struct kiocb *iocb)
{
	/* The program may have changed O_NONBLOCK. */
	if (!mp_file_never_blocks(file))
		return -EOPNOTSUPP;
	init_sync_kiocb(iocb, file);
	if (file->f_mode & FMODE_NOWAIT)
		iocb->ki_flags |= IOCB_NOWAIT;
	return 0;
}

/*
 * Read something that is not a socket, without blocking.  Not open for it: not
 * -EBADF, which would say that the handle is wrong.
 */
ssize_t mp_file_read(struct mp_handle *handle, struct iov_iter *iter)
{
	struct file *file = mp_file(handle)->file;
	struct kiocb iocb;
	int err;

	if (!(file->f_mode & FMODE_READ) || !file->f_op->read_iter)
		return -EOPNOTSUPP;
	err = mp_file_prepare(file, &iocb);
	return err ?: vfs_iocb_iter_read(file, &iocb, iter);
}

ssize_t mp_file_write(struct mp_handle *handle, struct iov_iter *iter)
{
	struct file *file = mp_file(handle)->file;
	struct kiocb iocb;
	loff_t pos = 0;
	int err;

	if (!(file->f_mode & FMODE_WRITE))
		return -EOPNOTSUPP;
	if (file->f_op->write_iter) {
		err = mp_file_prepare(file, &iocb);
		return err ?: vfs_iocb_iter_write(file, &iocb, iter);
	}
	/* An eventfd knows only write(), which has no other way not to block. */
	if (!(READ_ONCE(file->f_flags) & O_NONBLOCK) || !iter_is_ubuf(iter))
		return -EOPNOTSUPP;
	return vfs_write(file, iter->ubuf + iter->iov_offset,
			 iov_iter_count(iter), &pos);
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

	mp_file_unwait(file);
	fput(file->file);
}

void mp_file_free(struct mp_handle *handle)
{
	kfree(mp_file(handle));
}
