// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading and writing connections and other files.
 *
 * A command is tried at once.  If the file has nothing to give, or no space,
 * the command stays pending in its handle until an event says that it is worth
 * another try; data is copied only here, by a task that has the channel's
 * address space.  One read, one write (or CONNECT) and one POLL may be pending
 * on a handle at a time.
 *
 * A WRITE with MEGAPIPE_CMD_THEN_READ is a pending write and then a pending read,
 * never both: as the one it keeps the other's place (mp_io_read_busy()), and where
 * it ends as a write, it was none else.
 *
 * READ and WRITE, by far the most common, need no memory besides the handle;
 * the others have a struct mp_request.  What those two pass through on their
 * way to TCP is inlined: for a message of 64 bytes, calls and the registers that
 * they save cost more than what is between them.
 */

#include <linux/fs.h>
#include <linux/net.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/socket.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <net/rps.h>
#include <net/tcp.h>
#include <trace/events/sock.h>

#include "file.h"
#include "handle.h"
#include "io.h"
#include "queue.h"
#include "request.h"
#include "sendfile.h"

/*
 * Bytes written before other handles get their turn: a peer on this machine can
 * take them as fast as they come.
 */
#define MP_WRITE_TURN	(256 * 1024)

/* What poll() knows; EPOLLET and its like are epoll's. */
#define MP_POLL_EVENTS	((__force u32)(EPOLLIN | EPOLLPRI | EPOLLOUT | \
				       EPOLLERR | EPOLLHUP | EPOLLRDNORM | \
				       EPOLLRDBAND | EPOLLWRNORM | \
				       EPOLLWRBAND | EPOLLRDHUP))

/* 0 stands for no pending command in mp_handle.read_op and .write_op. */
static_assert(MEGAPIPE_OP_ACCEPT == 0);

/*
 * Is it worth trying to read?  Without the socket's lock this may miss what
 * arrives right now.  That is no loss: the event that announces it is not yet
 * consumed, because MP_EV_QUEUED was clear when it was raised or is still set.
 */
static bool mp_io_readable(const struct mp_handle *handle)
{
	return !handle->tcp || mp_io_tcp_readable(handle->sock->sk);
}

/*
 * A terminal stops a background job in the middle of a call.  The command goes
 * on when the job does; until then the dispatch returns, for there is a signal.
 */
static inline bool mp_io_interrupted(struct mp_handle *handle, ssize_t ret,
				     int events)
{
	if (likely(ret != -ERESTARTSYS) || !signal_pending(current))
		return false;
	mp_queue_again(handle, events);
	return true;
}

/* For the completion: no signal is left that would explain -ERESTARTSYS. */
static int mp_io_result(ssize_t ret)
{
	return unlikely(ret == -ERESTARTSYS) ? -EINTR : ret;
}

/* import_ubuf(), inline; lengths were limited to MAX_RW_COUNT before. */
static __always_inline int mp_io_import(int direction, void __user *addr,
					u32 len, struct iov_iter *iter)
{
	if (unlikely(!access_ok(addr, len)))
		return -EFAULT;
	iov_iter_ubuf(iter, direction, addr, len);
	return 0;
}

/*
 * sock_recvmsg() and sock_sendmsg() for TCP, which gives no names, changes none
 * that it gets (that takes MSG_FASTOPEN) and does not bind by itself: the same
 * hooks and tracepoints, without the layers between.  Not if somebody (TLS, a
 * sockmap) has put himself there.
 */
static bool mp_io_receives_plainly(const struct mp_handle *handle)
{
	return handle->tcp &&
	       READ_ONCE(handle->sock->sk->sk_prot)->recvmsg == tcp_recvmsg;
}

static bool mp_io_sends_plainly(const struct mp_handle *handle)
{
	return handle->tcp &&
	       READ_ONCE(handle->sock->sk->sk_prot)->sendmsg == tcp_sendmsg;
}

static __always_inline ssize_t mp_io_tcp_receive(struct socket *sock,
						 struct msghdr *msg)
{
	size_t len = iov_iter_count(&msg->msg_iter);
	struct sock *sk = sock->sk;
	int ret;

	ret = security_socket_recvmsg(sock, msg, len, MSG_DONTWAIT);
	if (unlikely(ret))
		return ret;
	sock_rps_record_flow(sk);
	ret = tcp_recvmsg(sk, msg, len, MSG_DONTWAIT, &msg->msg_namelen);
	trace_sock_recv_length(sk, ret, MSG_DONTWAIT);
	return ret;
}

static __always_inline ssize_t mp_io_tcp_send(struct socket *sock,
					      struct msghdr *msg)
{
	size_t len = iov_iter_count(&msg->msg_iter);
	struct sock *sk = sock->sk;
	int ret;

	ret = security_socket_sendmsg(sock, msg, len);
	if (unlikely(ret))
		return ret;
	sock_rps_record_flow(sk);
	ret = tcp_sendmsg(sk, msg, len);
	trace_sock_send_length(sk, ret, 0);
	return ret;
}

/* The address that a datagram came from.  Returns its length, or an error. */
static int mp_io_copy_name(const struct mp_request *request,
			   const struct msghdr *msg)
{
	u32 len = min_t(u32, request->name_len, msg->msg_namelen);

	if (len && copy_to_user(request->name, msg->msg_name, len))
		return -EFAULT;
	return msg->msg_namelen;
}

static __always_inline void mp_io_complete_read(struct mp_handle *handle,
						int res, u16 flags, u32 aux)
{
	u16 op = handle->read_op;

	if (unlikely(op != MEGAPIPE_OP_READ))
		mp_request_free(handle->read_request);
	handle->read_op = 0;
	mp_queue_post(handle->channel, handle->id, handle->cookie, op, flags,
		      res, aux);
}

static __always_inline void mp_io_complete_write(struct mp_handle *handle,
						 int res)
{
	u16 op = handle->write_op;

	if (unlikely(op != MEGAPIPE_OP_WRITE))
		mp_request_free(handle->write_request);
	handle->write_op = 0;
	handle->write_flags = 0;
	mp_queue_post(handle->channel, handle->id, handle->cookie, op, 0, res,
		      0);
}

static __always_inline ssize_t mp_io_receive(struct mp_handle *handle,
					     struct msghdr *msg)
{
	if (likely(mp_io_receives_plainly(handle)))
		return mp_io_tcp_receive(handle->sock, msg);
	if (!handle->sock)
		return mp_file_read(handle, &msg->msg_iter);
	return sock_recvmsg(handle->sock, msg, MSG_DONTWAIT);
}

/* Try the pending READV or RECVFROM; there is room for its completion. */
static void mp_io_try_read_request(struct mp_handle *handle)
{
	struct mp_request *request = handle->read_request;
	struct sockaddr_storage name;
	struct msghdr msg = { .msg_iter = request->iter };
	ssize_t ret;
	int len = 0;

	if (handle->read_op == MEGAPIPE_OP_RECVFROM)
		msg.msg_name = &name;
	ret = mp_io_receive(handle, &msg);
	if (ret == -EAGAIN || mp_io_interrupted(handle, ret, MP_EV_READ))
		return;

	if (ret >= 0 && msg.msg_name) {
		len = mp_io_copy_name(request, &msg);
		if (len < 0)
			ret = len;
	}
	mp_io_complete_read(handle, mp_io_result(ret),
			    msg.msg_flags & MSG_TRUNC ? MEGAPIPE_EVENT_TRUNC : 0,
			    max(len, 0));
}

/* Try the pending read; there is room for its completion. */
static void mp_io_try_read(struct mp_handle *handle)
{
	struct msghdr msg = {};
	ssize_t ret;

	if (unlikely(handle->read_op != MEGAPIPE_OP_READ)) {
		mp_io_try_read_request(handle);
		return;
	}
	ret = mp_io_import(ITER_DEST, handle->read_addr, handle->read_len,
			   &msg.msg_iter);
	if (likely(!ret))
		ret = mp_io_receive(handle, &msg);
	if (ret == -EAGAIN || mp_io_interrupted(handle, ret, MP_EV_READ))
		return;
	mp_io_complete_read(handle, mp_io_result(ret),
			    msg.msg_flags & MSG_TRUNC ? MEGAPIPE_EVENT_TRUNC : 0,
			    0);
}

static __always_inline void mp_io_start_read(struct mp_handle *handle)
{
	if (!mp_io_readable(handle))
		return;
	if (mp_queue_room_now(handle->channel))
		mp_io_try_read(handle);
	else
		mp_queue_again(handle, MP_EV_READ);
}

/* To UDP it would mean to make one datagram of this and what follows. */
static bool mp_io_says_more(const struct mp_handle *handle)
{
	return unlikely(handle->write_flags & MEGAPIPE_CMD_MORE) && handle->tcp;
}

/* Write from the iterator, which moves on, at most a turn's worth of a stream. */
static __always_inline ssize_t mp_io_transmit(struct mp_handle *handle,
					      struct msghdr *msg)
{
	if (mp_io_says_more(handle))
		msg->msg_flags |= MSG_MORE;
	if (likely(mp_io_sends_plainly(handle))) {
		iov_iter_truncate(&msg->msg_iter, MP_WRITE_TURN);
		return mp_io_tcp_send(handle->sock, msg);
	}
	if (!handle->sock) {
		iov_iter_truncate(&msg->msg_iter, MP_WRITE_TURN);
		return mp_file_write(handle, &msg->msg_iter);
	}
	/* A datagram goes out whole. */
	if (handle->sock->type == SOCK_STREAM)
		iov_iter_truncate(&msg->msg_iter, MP_WRITE_TURN);
	return sock_sendmsg(handle->sock, msg);
}

/* Send some of what is left of the pending WRITEV, SENDTO or SENDFILE. */
static ssize_t mp_io_send_request(struct mp_handle *handle)
{
	struct mp_request *request = handle->write_request;
	u32 left = handle->write_len - handle->write_done;
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	ssize_t ret;

	if (request->file)
		return mp_sendfile(handle->sock, request,
				   min_t(u32, left, MP_WRITE_TURN),
				   left > MP_WRITE_TURN ||
				   mp_io_says_more(handle));

	msg.msg_iter = request->iter;
	if (request->name_len) {
		msg.msg_name = &request->address;
		msg.msg_namelen = request->name_len;
	}
	ret = mp_io_transmit(handle, &msg);
	if (ret > 0)
		iov_iter_advance(&request->iter, ret);
	return ret;
}

/* Send some of what is left of the pending write. */
static __always_inline ssize_t mp_io_send(struct mp_handle *handle)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	int err;

	if (unlikely(handle->write_op != MEGAPIPE_OP_WRITE))
		return mp_io_send_request(handle);
	err = mp_io_import(ITER_SOURCE, handle->write_addr + handle->write_done,
			   handle->write_len - handle->write_done,
			   &msg.msg_iter);
	return err ?: mp_io_transmit(handle, &msg);
}

/* Nobody tells an unconnected UNIX datagram socket that its peer has space. */
static bool mp_io_never_told(const struct mp_handle *handle)
{
	return handle->write_op == MEGAPIPE_OP_SENDTO &&
	       handle->write_request->name_len &&
	       handle->sock->sk->sk_family == AF_UNIX;
}

/*
 * Connect, or ask again how it went: write_len tells that it has begun.  There
 * is room for the completion.
 */
static void mp_io_try_connect(struct mp_handle *handle)
{
	struct mp_request *request = handle->write_request;
	int err;

	err = mp_file_connect(handle, &request->address, request->name_len);
	if (err == -EINPROGRESS || err == -EALREADY) {
		handle->write_len = 1;
		return;
	}
	if (err == -EISCONN && handle->write_len)
		err = 0;
	mp_io_complete_write(handle, err);
}

/* All is written; there is room for a completion. */
static __always_inline void mp_io_written(struct mp_handle *handle)
{
	if (!(handle->write_flags & MEGAPIPE_CMD_THEN_READ)) {
		mp_io_complete_write(handle, handle->write_done);
		return;
	}
	handle->write_op = 0;
	handle->write_flags = 0;
	handle->read_op = MEGAPIPE_OP_READ;
	mp_io_start_read(handle);
}

/* Try the pending write; there is room for its completion. */
static void mp_io_try_write(struct mp_handle *handle)
{
	u32 end = handle->write_done + MP_WRITE_TURN;
	ssize_t ret;

	if (unlikely(handle->write_op == MEGAPIPE_OP_CONNECT)) {
		mp_io_try_connect(handle);
		return;
	}
	while ((ret = mp_io_send(handle)) > 0) {
		handle->write_done += ret;
		if (likely(handle->write_done == handle->write_len)) {
			mp_io_written(handle);
			return;
		}
		if (handle->write_done >= end) {
			mp_queue_again(handle, MP_EV_WRITE);
			return;
		}
	}
	/*
	 * Only -EAGAIN promises an event: a socket has set SOCK_NOSPACE.  A
	 * short count may have another reason, such as a bad address.
	 */
	if (ret == -EAGAIN && !mp_io_never_told(handle))
		return;
	if (mp_io_interrupted(handle, ret, MP_EV_WRITE))
		return;
	/* Bytes come first; the error is for the next write to find. */
	mp_io_complete_write(handle, (int)handle->write_done ?:
				     mp_io_result(ret));
}

/* What the handle is ready for, as poll() says it */
static __poll_t mp_io_ready_mask(const struct mp_handle *handle)
{
	struct socket *sock = handle->sock;

	if (handle->kind == MP_KIND_LWSOCKET)
		return READ_ONCE(sock->ops)->poll(NULL, sock, NULL);
	return mp_file_poll(handle);
}

/* Look for the pending POLL; there is room for its completion. */
static void mp_io_try_poll(struct mp_handle *handle)
{
	u32 mask = (__force u32)mp_io_ready_mask(handle) & handle->poll;

	if (!mask)
		return;
	handle->poll = 0;
	mp_queue_complete(handle, MEGAPIPE_OP_POLL, mask);
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
		if (handle->read_op)
			mp_io_complete_read(handle, -ECANCELED, 0, 0);
	}
	if (handle->cancel & MP_CANCEL_WRITE && mp_queue_room(channel)) {
		handle->cancel &= ~MP_CANCEL_WRITE;
		if (handle->write_op)
			mp_io_complete_write(handle,
					     handle->write_done ?: -ECANCELED);
	}
	if (handle->cancel & MP_CANCEL_POLL && mp_queue_room(channel)) {
		handle->cancel &= ~MP_CANCEL_POLL;
		if (handle->poll) {
			handle->poll = 0;
			mp_queue_complete(handle, MEGAPIPE_OP_POLL, -ECANCELED);
		}
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

/*
 * Try what is pending, as far as there is room for completions; there is for
 * one.
 */
void mp_io_run(struct mp_handle *handle, int events)
{
	struct mp_channel *channel = handle->channel;
	bool poll = events;

	/* Mostly it is data for a READ, and nothing else to look at. */
	if (likely(events == MP_EV_READ && !(handle->cancel | handle->poll |
					     handle->disconnect))) {
		if (handle->read_op)
			mp_io_try_read(handle);
		return;
	}
	if (unlikely(handle->cancel))
		mp_io_run_cancel(handle);
	/* The reason for which it failed is for the CONNECT, not for a READ. */
	if (unlikely(handle->write_op == MEGAPIPE_OP_CONNECT) &&
	    events & MP_EV_WRITE && mp_queue_room(channel)) {
		mp_io_try_connect(handle);
		events &= ~MP_EV_WRITE;
	}
	if (events & MP_EV_READ && handle->read_op && mp_queue_room(channel)) {
		mp_io_try_read(handle);
		events &= ~MP_EV_READ;
	}
	/* A READ that begins when the write ends looks for itself. */
	if (!handle->read_op)
		events &= ~MP_EV_READ;
	if (events & MP_EV_WRITE && handle->write_op &&
	    mp_queue_room(channel)) {
		mp_io_try_write(handle);
		events &= ~MP_EV_WRITE;
	}
	if (unlikely(handle->poll) && poll && mp_queue_room(channel)) {
		mp_io_try_poll(handle);
		poll = false;
	}
	if (unlikely(handle->disconnect) && !handle->write_op &&
	    mp_queue_room(channel))
		mp_io_try_disconnect(handle);

	/* What did not find room is tried by the next dispatch. */
	if ((events & MP_EV_READ && handle->read_op) ||
	    (events & MP_EV_WRITE && handle->write_op) || handle->cancel ||
	    (handle->disconnect && !handle->write_op))
		mp_queue_again(handle, events);
	if (unlikely(handle->poll) && poll)
		mp_queue_again(handle, MP_EV_READ | MP_EV_WRITE);
}

static __always_inline bool mp_io_read_busy(const struct mp_handle *handle)
{
	return handle->read_op || handle->write_flags & MEGAPIPE_CMD_THEN_READ;
}

/* MEGAPIPE_OP_READ */
int mp_io_read(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (cmd->flags & MEGAPIPE_CMD_COOKIE)
		handle->cookie = cmd->arg;
	else if (cmd->arg)
		return -EINVAL;
	if (mp_io_read_busy(handle))
		return -EBUSY;
	/* 0 bytes would complete like the end of the file. */
	if (!cmd->len || cmd->aux)
		return -EINVAL;

	handle->read_addr = u64_to_user_ptr(cmd->addr);
	handle->read_len = min_t(u32, cmd->len, MAX_RW_COUNT);
	handle->read_op = cmd->op;
	mp_io_start_read(handle);
	return 0;
}

static noinline int mp_io_read_request(struct mp_handle *handle, u8 op,
				       struct mp_request *request)
{
	if (IS_ERR(request))
		return PTR_ERR(request);
	handle->read_request = request;
	handle->read_op = op;
	mp_io_start_read(handle);
	return 0;
}

/* MEGAPIPE_OP_READV */
int mp_io_readv(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (mp_io_read_busy(handle))
		return -EBUSY;
	return mp_io_read_request(handle, cmd->op,
				  mp_request_vectors(cmd, ITER_DEST));
}

/* MEGAPIPE_OP_RECVFROM */
int mp_io_recvfrom(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (!handle->sock)
		return -ENOTSOCK;
	if (mp_io_read_busy(handle))
		return -EBUSY;
	return mp_io_read_request(handle, cmd->op, mp_request_recvfrom(cmd));
}

static __always_inline void mp_io_start_write(struct mp_handle *handle,
					      const struct megapipe_cmd *cmd,
					      u32 len)
{
	handle->write_op = cmd->op;
	handle->write_flags = cmd->flags;
	handle->write_len = len;
	handle->write_done = 0;
	if (mp_queue_room_now(handle->channel))
		mp_io_try_write(handle);
	else
		mp_queue_again(handle, MP_EV_WRITE);
}

static bool mp_io_write_busy(const struct mp_handle *handle)
{
	return handle->write_op || handle->disconnect;
}

/* MEGAPIPE_OP_WRITE */
int mp_io_write(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (mp_io_write_busy(handle))
		return -EBUSY;
	if (!cmd->len || cmd->len > MAX_RW_COUNT)
		return -EINVAL;
	if (cmd->flags & MEGAPIPE_CMD_THEN_READ) {
		if (mp_io_read_busy(handle))
			return -EBUSY;
		/* What MORE would hold back is what the READ waits to be answered. */
		if (!cmd->aux || cmd->flags & MEGAPIPE_CMD_MORE)
			return -EINVAL;
		handle->read_addr = u64_to_user_ptr(cmd->arg);
		handle->read_len = min_t(u32, cmd->aux, MAX_RW_COUNT);
	} else if (cmd->arg || cmd->aux) {
		return -EINVAL;
	}

	handle->write_addr = u64_to_user_ptr(cmd->addr);
	mp_io_start_write(handle, cmd, cmd->len);
	return 0;
}

static noinline int mp_io_write_request(struct mp_handle *handle,
					const struct megapipe_cmd *cmd, u32 len,
					struct mp_request *request)
{
	handle->write_request = request;
	mp_io_start_write(handle, cmd, len);
	return 0;
}

/* MEGAPIPE_OP_WRITEV */
int mp_io_writev(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	struct mp_request *request;

	if (mp_io_write_busy(handle))
		return -EBUSY;
	request = mp_request_vectors(cmd, ITER_SOURCE);
	if (IS_ERR(request))
		return PTR_ERR(request);
	return mp_io_write_request(handle, cmd, iov_iter_count(&request->iter),
				   request);
}

/* MEGAPIPE_OP_SENDTO */
int mp_io_sendto(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	struct mp_request *request;

	if (!handle->sock)
		return -ENOTSOCK;
	if (mp_io_write_busy(handle))
		return -EBUSY;
	request = mp_request_sendto(cmd);
	if (IS_ERR(request))
		return PTR_ERR(request);
	return mp_io_write_request(handle, cmd, cmd->len, request);
}

/* MEGAPIPE_OP_SENDFILE */
int mp_io_sendfile(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	struct mp_request *request;

	if (!handle->sock)
		return -ENOTSOCK;
	if (mp_io_write_busy(handle))
		return -EBUSY;
	request = mp_request_sendfile(cmd);
	if (IS_ERR(request))
		return PTR_ERR(request);
	return mp_io_write_request(handle, cmd, cmd->len, request);
}

/* MEGAPIPE_OP_CONNECT */
int mp_io_connect(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	struct mp_request *request;

	if (!handle->sock)
		return -ENOTSOCK;
	if (mp_io_write_busy(handle))
		return -EBUSY;
	request = mp_request_connect(cmd);
	if (IS_ERR(request))
		return PTR_ERR(request);
	return mp_io_write_request(handle, cmd, 0, request);
}

/* MEGAPIPE_OP_POLL */
int mp_io_poll(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (handle->poll)
		return -EBUSY;
	if (cmd->addr || cmd->len || cmd->arg || cmd->aux & ~MP_POLL_EVENTS)
		return -EINVAL;

	handle->poll = cmd->aux | (__force u32)(EPOLLERR | EPOLLHUP);
	if (mp_queue_room_now(handle->channel))
		mp_io_try_poll(handle);
	else
		mp_queue_again(handle, MP_EV_READ | MP_EV_WRITE);
	return 0;
}

/* MEGAPIPE_OP_DISCONNECT */
int mp_io_disconnect(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	if (!handle->sock)
		return -ENOTSOCK;
	if (handle->disconnect)
		return -EBUSY;
	if (cmd->addr || cmd->len || cmd->arg || cmd->aux)
		return -EINVAL;

	handle->disconnect = true;
	if (handle->write_op)
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
	if (handle->read_op)
		handle->cancel |= MP_CANCEL_READ;
	if (handle->write_op)
		handle->cancel |= MP_CANCEL_WRITE;
	if (handle->poll)
		handle->cancel |= MP_CANCEL_POLL;
	if (handle->disconnect)
		handle->cancel |= MP_CANCEL_DISCONNECT;
	if (handle->cancel)
		mp_queue_again(handle, 0);
}

/* Has the handle commands that are to complete yet? */
bool mp_io_pending(const struct mp_handle *handle)
{
	return handle->read_op || handle->write_op || handle->poll ||
	       handle->disconnect;
}

/* Drop what is pending, without a completion. */
void mp_io_forget(struct mp_handle *handle)
{
	if (handle->read_op && handle->read_op != MEGAPIPE_OP_READ)
		mp_request_free(handle->read_request);
	if (handle->write_op && handle->write_op != MEGAPIPE_OP_WRITE)
		mp_request_free(handle->write_request);
	handle->read_op = 0;
	handle->write_op = 0;
	handle->write_flags = 0;
	handle->poll = 0;
	handle->disconnect = false;
}
