// SPDX-License-Identifier: GPL-2.0-only
/*
 * Listening sockets and accepting.
 *
 * A channel that registers a listening socket with a cpu_mask accepts from its
 * own partition of the accept queue (partition.c).  Connections that were in
 * the listener's own queue already, or in the middle of their handshake, are
 * taken by whichever channel comes first, so each of them also waits there.
 *
 * Without a mask, all channels accept from the one queue of the socket.
 *
 * That is TCP, "plain" below.  Other listening sockets (AF_UNIX, MPTCP) are
 * accepted from as accept() does it, into descriptors, also when a program asks
 * for lwsockets; so is a TCP connection that cannot be one.  The completion has
 * MEGAPIPE_EVENT_FD then.
 *
 * An accept that fails takes no connection from the queue: whatever can fail
 * for lack of something comes first.
 */

#include <linux/cpumask.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/net.h>
#include <linux/poll.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <net/inet_common.h>
#include <net/inet_connection_sock.h>
#include <net/sock.h>
#include <trace/events/megapipe.h>

#include "accept.h"
#include "channel.h"
#include "file.h"
#include "lwsocket.h"
#include "partition.h"
#include "queue.h"

/* Connections accepted before other handles get their turn */
#define MP_ACCEPT_BUDGET	64

/**
 * struct mp_listener - handle of a listening socket
 * @file: what it has in common with other descriptors; file.handle.sock is the
 *	socket that the program registered, file.wait waits on its queue
 * @partition: the channel's partition of it, or NULL
 * @wait: on the partition's wait queue
 * @plain: connections are TCP sockets, taken by inet_csk_accept()
 * @pending: an ACCEPT is pending; read by wake-ups without a lock
 * @forever: until cancelled
 * @lwsocket: as lwsockets
 * @count: connections still to accept, unless @forever
 * @accepts: connections accepted
 * @accepts_foreign: of these, those whose last packet came to another CPU
 * @migrated_in: of the partition, as far as the channel has counted them
 */
struct mp_listener {
	struct mp_file		file;
	struct mp_partition	*partition;
	wait_queue_entry_t	wait;
	bool			plain;
	bool			pending;
	bool			forever;
	bool			lwsocket;
	u32			count;
	u64			accepts;
	u64			accepts_foreign;
	u64			migrated_in;
};

static struct mp_listener *mp_listener(struct mp_handle *handle)
{
	return container_of(handle, struct mp_listener, file.handle);
}

/* A connection in the channel's partition */
static int mp_accept_wake(wait_queue_entry_t *wait, unsigned int mode,
			  int sync, void *key)
{
	struct mp_listener *l = container_of(wait, struct mp_listener, wait);

	/* No ACCEPT, nothing to do: mp_accept_start() looks at the queue. */
	if (!READ_ONCE(l->pending))
		return 0;
	mp_handle_ready(&l->file.handle, MP_EV_READ);
	return 1;
}

/*
 * A connection in the socket's own queue.  Of the channels that share it only
 * one is woken: one that wants connections, and that has not been woken for
 * another one already, so that a busy channel does not collect them all.
 */
static int mp_accept_wake_shared(wait_queue_entry_t *wait, unsigned int mode,
				 int sync, void *key)
{
	struct mp_listener *l = container_of(wait, struct mp_listener,
					     file.wait[0].entry);

	if (!READ_ONCE(l->pending))
		return 0;
	if (!mp_handle_ready(&l->file.handle, MP_EV_READ))
		return 0;
	/*
	 * The end of the listener is for everybody.  It comes with EPOLLHUP, or
	 * as a change of state with no mask at all.
	 */
	if (!key || key_to_poll(key) & (EPOLLERR | EPOLLHUP))
		return 0;
	/* Next time the next one: the caller's walk of the list allows it. */
	list_move_tail(&wait->entry, &l->file.handle.sock->wq.wait.head);
	return 1;
}

static int mp_accept_read_mask(struct cpumask *mask,
			       const struct megapipe_register *reg)
{
	size_t size = min_t(size_t, reg->cpu_mask_size, cpumask_size());

	if (!reg->cpu_mask_size)
		return -EINVAL;
	cpumask_clear(mask);
	if (copy_from_user(mask, u64_to_user_ptr(reg->cpu_mask), size))
		return -EFAULT;
	cpumask_and(mask, mask, cpu_possible_mask);
	return cpumask_empty(mask) ? -EINVAL : 0;
}

static struct mp_partition *mp_accept_partition(struct socket *sock,
						const struct megapipe_register *reg)
{
	struct mp_partition *partition;
	cpumask_var_t mask;
	int err;

	if (!alloc_cpumask_var(&mask, GFP_KERNEL))
		return ERR_PTR(-ENOMEM);
	err = mp_accept_read_mask(mask, reg);
	partition = err ? ERR_PTR(err) : mp_partition_create(sock, mask);
	free_cpumask_var(mask);
	return partition;
}

/* Make a handle for a listening socket.  Returns its number or an error. */
int mp_accept_register(struct mp_channel *channel, struct file *f,
		       struct socket *sock,
		       const struct megapipe_register *reg)
{
	const struct sock *sk = sock->sk;
	struct mp_listener *l;
	bool plain;
	int ret;

	if (sk->sk_family != AF_INET && sk->sk_family != AF_INET6 &&
	    sk->sk_family != AF_UNIX)
		return -EOPNOTSUPP;
	/* An MPTCP listener, say, accepts something else than TCP sockets. */
	plain = sk_is_tcp(sk) &&
		READ_ONCE(sk->sk_prot)->accept == inet_csk_accept;
	if (!plain && reg->flags & MEGAPIPE_REG_PARTITION)
		return -EOPNOTSUPP;

	l = kzalloc(sizeof(*l), GFP_KERNEL_ACCOUNT);
	if (!l)
		return -ENOMEM;
	l->plain = plain;
	if (reg->flags & MEGAPIPE_REG_PARTITION) {
		l->partition = mp_accept_partition(sock, reg);
		if (IS_ERR(l->partition)) {
			ret = PTR_ERR(l->partition);
			goto out_free;
		}
	}

	mp_handle_init(&l->file.handle, channel, MP_KIND_LISTENER, sock);
	l->file.handle.cookie = reg->cookie;
	l->file.fd = reg->fd;
	ret = mp_handle_install(&l->file.handle);
	if (ret < 0)
		goto out_partition;

	l->file.file = get_file(f);
	add_wait_queue_exclusive(&sock->wq.wait,
				 mp_file_wait(&l->file, &sock->wq.wait,
					      mp_accept_wake_shared));
	if (l->partition) {
		channel->partitions++;
		init_waitqueue_func_entry(&l->wait, mp_accept_wake);
		add_wait_queue(&mp_partition_sock(l->partition)->wq.wait,
			       &l->wait);
	}
	return ret;

out_partition:
	if (l->partition)
		mp_partition_release(l->partition);
out_free:
	kfree(l);
	return ret;
}

static bool mp_accept_queue_empty(const struct mp_listener *l,
				  struct socket *sock)
{
	if (likely(l->plain))
		return reqsk_queue_empty(&inet_csk(sock->sk)->icsk_accept_queue);
	if (sock->sk->sk_family == AF_UNIX)
		return skb_queue_empty_lockless(&sock->sk->sk_receive_queue);
	return !(READ_ONCE(sock->ops)->poll(l->file.file, sock, NULL) &
		 EPOLLIN);
}

/* Connections that wait there */
static u32 mp_accept_queue_len(const struct socket *sock)
{
	/* MPTCP keeps its queue in a socket that it shows to nobody: 0. */
	return sock->sk->sk_family == AF_UNIX ?
	       skb_queue_len_lockless(&sock->sk->sk_receive_queue) :
	       READ_ONCE(sock->sk->sk_ack_backlog);
}

/*
 * The queue to accept from, or NULL: the socket's own, which gets next to
 * nothing while there are partitions, then the partition's.
 */
static struct socket *mp_accept_queue(const struct mp_listener *l)
{
	struct socket *sock = l->file.handle.sock;

	if (!mp_accept_queue_empty(l, sock))
		return sock;
	if (!l->partition)
		return NULL;
	sock = mp_partition_sock(l->partition);
	return mp_accept_queue_empty(l, sock) ? NULL : sock;
}

/*
 * Stop accepting although the socket's own queue may have connections.  One of
 * the wake-ups that this channel took may be another's: pass it on.
 */
static void mp_accept_pass_on(const struct mp_listener *l)
{
	struct socket *sock = l->file.handle.sock;

	/*
	 * Not pending, or queued, before the look at the queue; pairs with the
	 * lock of the wait queue, taken for a wake-up after a connection was
	 * queued.
	 */
	smp_mb();
	if (!mp_accept_queue_empty(l, sock))
		wake_up_interruptible_sync_poll(&sock->wq.wait,
						EPOLLIN | EPOLLRDNORM);
}

/* May the channel accept?  -EAGAIN is for an empty queue only. */
static int mp_accept_allowed(struct socket *sock, struct socket *newsock)
{
	int err = security_socket_accept(sock, newsock);

	return err == -EAGAIN ? -EACCES : err;
}

static struct sock *mp_accept_take(struct socket *sock)
{
	struct proto_accept_arg arg = { .flags = O_NONBLOCK };
	struct sock *sk = inet_csk_accept(sock->sk, &arg);

	return sk ?: ERR_PTR(arg.err);
}

/* The connection is the program's now, as @result. */
static void mp_accept_done(struct mp_listener *l, s32 result,
			   const struct sock *sk)
{
	bool foreign = READ_ONCE(sk->sk_incoming_cpu) != raw_smp_processor_id();
	struct mp_channel *channel = l->file.handle.channel;

	l->accepts++;
	channel->stats.accepts++;
	if (foreign) {
		l->accepts_foreign++;
		channel->stats.accepts_foreign++;
	}
	trace_megapipe_accept(channel->id, l->file.handle.id, result, foreign,
			      sk);
}

/*
 * Accept as a descriptor.  @sk is the connection if it was already taken from
 * the queue, else NULL.  Returns the descriptor.
 */
static int mp_accept_fd(struct mp_listener *l, struct socket *sock,
			struct sock *sk)
{
	const struct proto_ops *ops = READ_ONCE(sock->ops);
	struct socket *newsock;
	struct file *file;
	int fd, err;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;

	err = -ENFILE;
	newsock = sock_alloc();
	if (!newsock)
		goto out_fd;
	newsock->type = sock->type;
	newsock->ops = ops;
	__module_get(ops->owner);

	file = sock_alloc_file(newsock, O_NONBLOCK,
			       sock->sk->sk_prot_creator->name);
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
		goto out_fd;
	}

	err = mp_accept_allowed(sock, newsock);
	if (err)
		goto out_file;
	if (!sk) {
		sk = mp_accept_take(sock);
		if (IS_ERR(sk)) {
			err = PTR_ERR(sk);
			goto out_file;
		}
	}
	lock_sock(sk);
	__inet_accept(sock, newsock, sk);
	release_sock(sk);

	mp_accept_done(l, fd, sk);
	fd_install(fd, file);
	return fd;

out_file:
	fput(file);
out_fd:
	put_unused_fd(fd);
	return err;
}

/* Accept from a listening socket that is not plain.  Returns the descriptor. */
static int mp_accept_other(struct mp_listener *l)
{
	struct mp_handle *handle = &l->file.handle;
	struct proto_accept_arg arg = { .flags = O_NONBLOCK };
	struct file *file;
	int fd;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = do_accept(l->file.file, &arg, NULL, NULL, O_NONBLOCK);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	l->accepts++;
	handle->channel->stats.accepts++;
	trace_megapipe_accept(handle->channel->id, handle->id, fd, false,
			      sock_from_file(file)->sk);
	fd_install(fd, file);
	return fd;
}

/*
 * Can the next connection be an lwsocket?  A look before it is taken, because a
 * descriptor may not be had when it cannot.  A program that accepts from the
 * same queue may be faster; then the answer is about another connection, which
 * is as good as a guess.
 */
static bool mp_accept_next_eligible(const struct socket *sock)
{
	struct request_sock_queue *queue =
		&inet_csk(sock->sk)->icsk_accept_queue;
	const struct request_sock *req;
	bool eligible;

	/* Whoever takes the request from the queue has the lock for it. */
	spin_lock_bh(&queue->rskq_lock);
	req = READ_ONCE(queue->rskq_accept_head);
	eligible = !req || mp_lwsocket_eligible(req->sk);
	spin_unlock_bh(&queue->rskq_lock);
	return eligible;
}

/*
 * Accept as an lwsocket, or as a descriptor if that cannot be.  Returns the
 * handle, or the descriptor.
 */
static int mp_accept_lwsocket(struct mp_listener *l, struct socket *sock)
{
	struct mp_channel *channel = l->file.handle.channel;
	struct mp_lwsocket *lw;
	struct sock *sk;
	int ret, fd;

	if (unlikely(!mp_accept_next_eligible(sock)))
		return mp_accept_fd(l, sock, NULL);

	lw = mp_lwsocket_alloc(channel, sock);
	if (!lw)
		return -ENOMEM;
	ret = mp_handle_install(&lw->handle);
	if (ret < 0)
		goto out_retire;

	ret = mp_accept_allowed(sock, &lw->sock);
	if (ret)
		goto out_remove;
	sk = mp_accept_take(sock);
	if (IS_ERR(sk)) {
		ret = PTR_ERR(sk);
		goto out_remove;
	}

	if (unlikely(!mp_lwsocket_graft(lw, sk, sock))) {
		/* The guess was wrong. */
		fd = mp_accept_fd(l, sock, sk);
		if (fd < 0)
			sk->sk_prot->close(sk, 0);
		ret = fd;
		goto out_remove;
	}
	mp_accept_done(l, lw->handle.id, sk);
	return lw->handle.id;

out_remove:
	mp_handle_remove(&lw->handle);
out_retire:
	mp_handle_retire(&lw->handle);
	return ret;
}

/* shutdown() of a listening socket ends it; AF_UNIX keeps its state then. */
static bool mp_accept_listening(const struct mp_listener *l)
{
	const struct sock *sk = l->file.handle.sock->sk;

	return inet_sk_state_load(sk) == TCP_LISTEN &&
	       !(READ_ONCE(sk->sk_shutdown) & RCV_SHUTDOWN);
}

/*
 * Count the connections that other partitions left to this one.  They are
 * counted in the partition when they come, and here when the channel looks.
 */
static void mp_accept_count_migrated(struct mp_listener *l)
{
	u64 migrated_in;

	if (!l->partition)
		return;
	migrated_in = mp_partition_migrated_in(l->partition);
	l->file.handle.channel->stats.migrated_in +=
		migrated_in - l->migrated_in;
	l->migrated_in = migrated_in;
}

static u16 mp_accept_flags(const struct mp_listener *l, int ret)
{
	u16 flags = l->pending ? MEGAPIPE_EVENT_MORE : 0;

	/* Descriptors do not reach the bit that marks lwsockets' handles. */
	if (ret >= 0 && !(ret & MEGAPIPE_HANDLE_LWSOCKET))
		flags |= MEGAPIPE_EVENT_FD;
	return flags;
}

/*
 * Accept while there are connections, room and budget.  A failed accept ends
 * the command: the connection stays in the queue for the next one.
 */
void mp_accept_run(struct mp_handle *handle)
{
	struct mp_listener *l = mp_listener(handle);
	struct mp_channel *channel = handle->channel;
	unsigned int budget = MP_ACCEPT_BUDGET;
	struct socket *sock;
	int ret;

	if (unlikely(handle->cancel) && mp_queue_room(channel)) {
		handle->cancel = 0;
		if (l->pending) {
			WRITE_ONCE(l->pending, false);
			mp_queue_complete(handle, MEGAPIPE_OP_ACCEPT,
					  -ECANCELED);
		}
	}

	while (l->pending && (sock = mp_accept_queue(l))) {
		if (!mp_queue_room(channel) || !budget--) {
			mp_queue_again(handle, MP_EV_READ);
			mp_accept_pass_on(l);
			return;
		}
		if (unlikely(!l->plain))
			ret = mp_accept_other(l);
		else if (l->lwsocket)
			ret = mp_accept_lwsocket(l, sock);
		else
			ret = mp_accept_fd(l, sock, NULL);
		if (ret == -EAGAIN) {	/* another channel was faster */
			if (likely(l->plain))
				continue;
			/*
			 * Maybe the protocol's poll() and accept() differ.  Then
			 * this waits for an event, rather than spin.
			 */
			break;
		}
		if (ret < 0 || (!l->forever && !--l->count))
			WRITE_ONCE(l->pending, false);
		mp_queue_post(channel, handle->id, handle->cookie,
			      MEGAPIPE_OP_ACCEPT, mp_accept_flags(l, ret), ret,
			      mp_accept_queue_len(sock));
	}

	mp_accept_count_migrated(l);
	if (!l->pending) {
		mp_accept_pass_on(l);
	} else if (unlikely(!mp_accept_listening(l))) {
		if (!mp_queue_room(channel)) {
			mp_queue_again(handle, MP_EV_READ);
			return;
		}
		WRITE_ONCE(l->pending, false);
		mp_queue_complete(handle, MEGAPIPE_OP_ACCEPT, -EINVAL);
	}
}

/* MEGAPIPE_OP_ACCEPT */
int mp_accept_start(struct mp_handle *handle, const struct megapipe_cmd *cmd)
{
	struct mp_listener *l = mp_listener(handle);

	if (cmd->addr || cmd->arg || cmd->aux)
		return -EINVAL;
	if (l->pending)
		return -EBUSY;
	if (!mp_accept_listening(l))
		return -EINVAL;

	l->lwsocket = cmd->flags & MEGAPIPE_CMD_LWSOCKET;
	l->forever = !cmd->len;
	l->count = cmd->len;
	WRITE_ONCE(l->pending, true);
	/*
	 * Announce first, then look: pairs with the lock of the wait queue,
	 * which a wake-up takes between queueing the connection and reading
	 * l->pending.
	 */
	smp_mb();
	if (mp_accept_queue(l))
		mp_queue_again(handle, MP_EV_READ);
	return 0;
}

/* MEGAPIPE_OP_CANCEL */
void mp_accept_cancel(struct mp_handle *handle)
{
	if (!mp_listener(handle)->pending)
		return;
	handle->cancel = MP_CANCEL_ACCEPT;
	mp_queue_again(handle, 0);
}

/* MEGAPIPE_IOC_LISTENER */
void mp_accept_describe(struct mp_handle *handle,
			struct megapipe_listener *listener)
{
	struct mp_listener *l = mp_listener(handle);
	const struct socket *sock = l->file.handle.sock;

	mp_accept_count_migrated(l);
	listener->partitions = mp_partition_count(sock);
	if (l->partition) {
		listener->cpus = mp_partition_cpus(l->partition);
		/* After shutdown() and listen() the handle is an ordinary one. */
		if (listener->cpus)
			sock = mp_partition_sock(l->partition);
	}
	listener->queued = mp_accept_queue_len(sock);
	listener->backlog = READ_ONCE(sock->sk->sk_max_ack_backlog);
	listener->accepts = l->accepts;
	listener->accepts_foreign = l->accepts_foreign;
	listener->migrated_in = l->migrated_in;
}

void mp_accept_detach(struct mp_handle *handle)
{
	struct mp_listener *l = mp_listener(handle);

	WRITE_ONCE(l->pending, false);
	mp_accept_pass_on(l);
	if (l->partition) {
		handle->channel->partitions--;
		mp_accept_count_migrated(l);
		remove_wait_queue(&mp_partition_sock(l->partition)->wq.wait,
				  &l->wait);
		/* Before the file: the listener takes over the connections. */
		mp_partition_release(l->partition);
	}
	mp_file_detach(handle);
}

void mp_accept_free(struct mp_handle *handle)
{
	kfree(mp_listener(handle));
}
