// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading and writing connections, with or without a descriptor.
 *
 * A command is tried at once.  If the socket has nothing to give, or no space,
 * the command stays pending in its handle until an event says that it is worth
 * another try; data is copied only here, by a task that has the channel's
 * address space.  One READ and one WRITE (or WRITEV) may be pending on a handle
 * at a time.
 */

#include <linux/net.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <net/inet_sock.h>

#include "handle.h"
#include "io.h"
#include "queue.h"

#define MP_FAST_VECTORS		8

/**
 * struct mp_vector - a WRITEV
 * @iter: what is left to write
 * @allocated: the array behind @iter, if it is not @fast
 * @fast: a short array
 */
struct mp_vector {
	struct iov_iter	iter;
	struct iovec	*allocated;
	struct iovec	fast[MP_FAST_VECTORS];
};

/*
 * Is it worth trying to read?  Without the socket's lock this may miss what
 * arrives right now.  That is no loss: the event that announces it is not yet
 * consumed, because MP_EV_QUEUED was clear when it was raised or is still set.
 */
static bool mp_io_readable(const struct mp_handle *handle)
{
	struct sock *sk = handle->sock->sk;

	return !skb_queue_empty_lockless(&sk->sk_receive_queue) ||
	       sk_is_readable(sk) ||
	       READ_ONCE(sk->sk_shutdown) & RCV_SHUTDOWN ||
	       READ_ONCE(sk->sk_err) ||
	       inet_sk_state_load(sk) == TCP_CLOSE;
}

/* Try the pending READ; there is room for its completion. */
static void mp_io_try_read(struct mp_handle *handle)
{
	struct msghdr msg = {};
	int ret;

	ret = import_ubuf(ITER_DEST, handle->read_addr, handle->read_len,
			  &msg.msg_iter);
	if (!ret)
		ret = sock_recvmsg(handle->sock, &msg, MSG_DONTWAIT);
	if (ret == -EAGAIN)
		return;

	handle->read_len = 0;
	mp_queue_complete(handle, MEGAPIPE_OP_READ, ret);
}

static void mp_io_free_vector(struct mp_vector *vector)
{
	kfree(vector->allocated);
	kfree(vector);
}

static void mp_io_complete_write(struct mp_handle *handle, int res)
{
	u16 op = MEGAPIPE_OP_WRITE;

	if (handle->write_vector) {
		op = MEGAPIPE_OP_WRITEV;
		mp_io_free_vector(handle->vector);
		handle->write_vector = false;
	}
	handle->write_len = 0;
	mp_queue_complete(handle, op, res);
}

/* Send what is left of the pending WRITE or WRITEV, as far as it fits. */
static int mp_io_send(struct mp_handle *handle)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	int ret;

	if (handle->write_vector) {
		msg.msg_iter = handle->vector->iter;
		ret = sock_sendmsg(handle->sock, &msg);
		if (ret > 0)
			handle->vector->iter = msg.msg_iter;
		return ret;
	}
	ret = import_ubuf(ITER_SOURCE, handle->write_addr + handle->write_done,
			  handle->write_len - handle->write_done,
			  &msg.msg_iter);
	return ret ?: sock_sendmsg(handle->sock, &msg);
}

/* Try the pending WRITE or WRITEV; there is room for its completion. */
static void mp_io_try_write(struct mp_handle *handle)
{
	int ret;

	do {
		ret = mp_io_send(handle);
		if (ret > 0)
			handle->write_done += ret;
	} while (ret > 0 && handle->write_done < handle->write_len);

	/*
	 * Only -EAGAIN promises a callback: TCP has set SOCK_NOSPACE.  A short
	 * count may have another reason, such as a bad address.
	 */
	if (ret == -EAGAIN)
		return;
	/* Bytes come first; the error is for the next write to find. */
	mp_io_complete_write(handle, handle->write_done ?: ret);
}

/* End the sending direction; there is room for the completion. */
static void mp_io_try_disconnect(struct mp_handle *handle)
{
	handle->disconnect = false;
	mp_queue_complete(handle, MEGAPIPE_OP_DISCONNECT,
			  __sys_shutdown_sock(handle->sock, SHUT_WR));
}

static void mp_io_run_cancel(struct mp_handle *handle)
{
	struct mp_channel *channel = handle->channel;

	if (handle->cancel & MP_CANCEL_READ && mp_queue_room(channel)) {
		handle->cancel &= ~MP_CANCEL_READ;
		if (handle->read_len) {
			handle->read_len = 0;
			mp_queue_complete(handle, MEGAPIPE_OP_READ, -ECANCELED);
		}
	}
	if (handle->cancel & MP_CANCEL_WRITE && mp_queue_room(channel)) {
		handle->cancel &= ~MP_CANCEL_WRITE;
		if (handle->write_len)
			mp_io_complete_write(handle,
					     handle->write_done ?: -ECANCELED);
	}
	if (handle->cancel & MP_CANCEL_DISCONNECT && mp_queue_room(channel)) {
		handle->cancel &= ~MP_CANCEL_DISCONNECT;
		if (handle->disconnect) {
			handle->disconnect = false;
			mp_queue_complete(handle, MEGAPIPE_OP_DISCONNECT,
					  -ECANCELED);
		}
	}
}

/* Try what is pending, as far as there is room for completions. */
void mp_io_run(struct mp_handle *handle, int events)
{
	struct mp_channel *channel = handle->channel;

	if (unlikely(handle->cancel))
		mp_io_run_cancel(handle);
	if (events & MP_EV_READ && handle->read_len && mp_queue_room(channel)) {
		mp_io_try_read(handle);
		events &= ~MP_EV_READ;
	}
	if (events & MP_EV_WRITE && handle->write_len &&
	    mp_queue_room(channel)) {
		mp_io_try_write(handle);
		events &= ~MP_EV_WRITE;
	}
	if (unlikely(handle->disconnect) && !handle->write_len &&
	    mp_queue_room(channel))
		mp_io_try_disconnect(handle);

	/* What did not find room is tried by the next dispatch. */
	if ((events & MP_EV_READ && handle->read_len) ||
	    (events & MP_EV_WRITE && handle->write_len) || handle->cancel ||
	    (handle->disconnect && !handle->write_len))
		mp_queue_again(handle, events & (MP_EV_READ | MP_EV_WRITE));
}

/* MEGAPIPE_OP_READ */
int mp_io_read(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (handle->read_len)
		return -EBUSY;
	/* 0 bytes would complete like the end of the file. */
	if (!cmd->len || cmd->arg || cmd->aux)
		return -EINVAL;

	handle->read_addr = u64_to_user_ptr(cmd->addr);
	handle->read_len = min_t(u32, cmd->len, MAX_RW_COUNT);
	if (!mp_io_readable(handle))
		return 0;
	if (mp_queue_room_now(handle->channel))
		mp_io_try_read(handle);
	else
		mp_queue_again(handle, MP_EV_READ);
	return 0;
}

static void mp_io_start_write(struct mp_handle *handle)
{
	if (mp_queue_room_now(handle->channel))
		mp_io_try_write(handle);
	else
		mp_queue_again(handle, MP_EV_WRITE);
}

/* MEGAPIPE_OP_WRITE */
int mp_io_write(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (handle->write_len || handle->disconnect)
		return -EBUSY;
	if (!cmd->len || cmd->len > MAX_RW_COUNT || cmd->arg ||
	    cmd->aux)
		return -EINVAL;

	handle->write_addr = u64_to_user_ptr(cmd->addr);
	handle->write_len = cmd->len;
	handle->write_done = 0;
	mp_io_start_write(handle);
	return 0;
}

/* MEGAPIPE_OP_WRITEV */
int mp_io_writev(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	struct mp_vector *vector;
	struct iovec *iov;
	ssize_t len;

	if (handle->write_len || handle->disconnect)
		return -EBUSY;
	if (cmd->arg || cmd->aux)
		return -EINVAL;

	vector = kmalloc(sizeof(*vector), GFP_KERNEL_ACCOUNT);
	if (!vector)
		return -ENOMEM;
	iov = vector->fast;
	len = import_iovec(ITER_SOURCE, u64_to_user_ptr(cmd->addr), cmd->len,
			   ARRAY_SIZE(vector->fast), &iov, &vector->iter);
	if (len <= 0) {
		kfree(vector);
		return len ?: -EINVAL;
	}
	vector->allocated = iov;

	handle->vector = vector;
	handle->write_vector = true;
	handle->write_len = len;
	handle->write_done = 0;
	mp_io_start_write(handle);
	return 0;
}

/* MEGAPIPE_OP_DISCONNECT */
int mp_io_disconnect(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (handle->disconnect)
		return -EBUSY;
	if (cmd->addr || cmd->len || cmd->arg || cmd->aux)
		return -EINVAL;

	handle->disconnect = true;
	if (handle->write_len)
		return 0;
	if (mp_queue_room_now(handle->channel))
		mp_io_try_disconnect(handle);
	else
		mp_queue_again(handle, 0);
	return 0;
}

/* MEGAPIPE_OP_CANCEL */
void mp_io_cancel(struct mp_handle *handle)
{
	if (handle->read_len)
		handle->cancel |= MP_CANCEL_READ;
	if (handle->write_len)
		handle->cancel |= MP_CANCEL_WRITE;
	if (handle->disconnect)
		handle->cancel |= MP_CANCEL_DISCONNECT;
	if (handle->cancel)
		mp_queue_again(handle, 0);
}

/* Drop what is pending, without a completion. */
void mp_io_forget(struct mp_handle *handle)
{
	if (handle->write_vector)
		mp_io_free_vector(handle->vector);
	handle->write_vector = false;
	handle->write_len = 0;
	handle->read_len = 0;
	handle->disconnect = false;
}
