// SPDX-License-Identifier: GPL-2.0-only
/*
 * lwsockets: connections that are known to their channel only, with no file,
 * inode or dentry, and no entry in the descriptor table.
 *
 * TCP and the protocol independent code expect a struct socket behind a
 * connection, for its wait queue and for flags such as SOCK_NOSPACE, so an
 * lwsocket has one, embedded and marked SOCK_NO_INODE.  Never call
 * sock_release() on it: that would free the inode which it does not have.
 *
 * Lifetime.  Others reach an lwsocket in three ways, all under RCU and without
 * a reference: callbacks through sk_user_data, wake-ups through sk_wq, and
 * packet filters through sk_socket.  All three pointers are gone when the
 * connection has been closed or has become a descriptor, but readers may still
 * be using them.  So the lwsocket is then either freed after a grace period, or
 * kept for the channel's next accept as it is:
 *
 *  - A callback that comes late raises an event on whatever the handle is then.
 *    Retired or spare, it has MP_EV_QUEUED set and the event is dropped; in use
 *    again, it is looked at once for nothing.  Only mp_handle.events and .ready
 *    are touched, and the channel is the same for life.
 *  - The wait queue stays initialised; a late wake-up finds nobody, or again
 *    makes somebody look once for nothing.
 *  - sock.file stays NULL, which is what filters, cls_flow and time stamping
 *    look for.
 *  - sock.flags are changed by TCP under the lock of its struct sock only, which
 *    also covers taking sk_socket away.  Others only read SOCK_NO_INODE, which
 *    is always set.
 *
 * The callbacks that an lwsocket's sock has when closed stay with it and do
 * nothing without user data of ours: they never see the memory again.
 */

#include <linux/file.h>
#include <linux/net_tstamp.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <net/inet_connection_sock.h>
#include <net/inet_sock.h>
#include <net/mptcp.h>
#include <net/rps.h>
#include <net/sock.h>

#include "channel.h"
#include "lwsocket.h"

static struct kmem_cache *mp_lwsocket_cache __ro_after_init;

/* What an idle connection costs, and what no change should make it cost more */
#if defined(CONFIG_64BIT) && L1_CACHE_BYTES <= 64 && \
	!defined(CONFIG_DEBUG_SPINLOCK) && !defined(CONFIG_LOCKDEP)
static_assert(sizeof(struct mp_lwsocket) <= 256);
#endif

/**
 * struct mp_callbacks - whom a struct sock tells about events
 * @state_change: sk_state_change
 * @data_ready: sk_data_ready
 * @write_space: sk_write_space
 * @error_report: sk_error_report
 */
struct mp_callbacks {
	void	(*state_change)(struct sock *sk);
	void	(*data_ready)(struct sock *sk);
	void	(*write_space)(struct sock *sk);
	void	(*error_report)(struct sock *sk);
};

/* Those of a TCP socket that nobody has claimed */
static struct mp_callbacks mp_tcp_callbacks __ro_after_init;

/* They are static functions of others, so ask a socket. */
static int __init mp_lwsocket_init_callbacks(void)
{
	struct socket *sock;
	int err;

	err = sock_create_kern(&init_net, AF_INET, SOCK_STREAM, IPPROTO_TCP,
			       &sock);
	if (err)
		return err;
	mp_tcp_callbacks = (struct mp_callbacks) {
		.state_change = sock->sk->sk_state_change,
		.data_ready = sock->sk->sk_data_ready,
		.write_space = sock->sk->sk_write_space,
		.error_report = sock->sk->sk_error_report,
	};
	sock_release(sock);
	return 0;
}

int __init mp_lwsocket_init(void)
{
	mp_lwsocket_cache = KMEM_CACHE(mp_lwsocket,
				       SLAB_HWCACHE_ALIGN | SLAB_ACCOUNT);
	return mp_lwsocket_cache ? mp_lwsocket_init_callbacks() : -ENOMEM;
}

static struct mp_lwsocket *mp_lwsocket(struct mp_handle *handle)
{
	return container_of(handle, struct mp_lwsocket, handle);
}

static void mp_lwsocket_event(const struct sock *sk, int events)
{
	struct mp_handle *handle;

	rcu_read_lock();
	handle = mp_lwsocket_owner(sk);
	if (handle)
		mp_handle_ready(handle, events);
	rcu_read_unlock();
}

static void mp_lwsocket_data_ready(struct sock *sk)
{
	mp_lwsocket_event(sk, MP_EV_READ);
}

static void mp_lwsocket_write_space(struct sock *sk)
{
	const struct socket *sock = sk->sk_socket;

	/* Clears SOCK_NOSPACE, or TCP would go on calling. */
	sk_stream_write_space(sk);
	if (sock && !test_bit(SOCK_NOSPACE, &sock->flags))
		mp_lwsocket_event(sk, MP_EV_WRITE);
}

static void mp_lwsocket_changed(struct sock *sk)
{
	mp_lwsocket_event(sk, MP_EV_READ | MP_EV_WRITE);
}

/* An lwsocket without a connection or a number, or NULL */
struct mp_lwsocket *mp_lwsocket_alloc(struct mp_channel *channel,
				      const struct socket *listener)
{
	struct mp_lwsocket *lw;

	if (channel->spare) {
		lw = mp_lwsocket(llist_entry(channel->spare, struct mp_handle,
					     ready));
		channel->spare = channel->spare->next;
		channel->nr_spare--;
	} else {
		lw = kmem_cache_zalloc(mp_lwsocket_cache, GFP_KERNEL);
		if (!lw)
			return NULL;
		init_waitqueue_head(&lw->sock.wq.wait);
	}

	mp_handle_init(&lw->handle, channel, MP_KIND_LWSOCKET, &lw->sock);
	lw->sock.state = SS_UNCONNECTED;
	lw->sock.type = listener->type;
	lw->sock.ops = READ_ONCE(listener->ops);
	lw->sock.flags = BIT(SOCK_NO_INODE);
	lw->sock.wq.flags = 0;
	return lw;
}

/*
 * Can the connection be an lwsocket?  Not if somebody else has a claim on its
 * callbacks, or expects a file behind it: MPTCP, ULPs (TLS), psocks (sockmap).
 * Nor if it reports when packets are sent: the reports pile up in the error
 * queue, charged to the receive buffer, and only recvmsg() takes them out.
 */
bool mp_lwsocket_eligible(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_TCP && !sk_is_mptcp(sk) &&
	       !READ_ONCE(sk->sk_user_data) &&
	       !inet_csk(sk)->icsk_ulp_ops &&
	       READ_ONCE(sk->sk_state_change) == mp_tcp_callbacks.state_change &&
	       READ_ONCE(sk->sk_data_ready) == mp_tcp_callbacks.data_ready &&
	       READ_ONCE(sk->sk_write_space) == mp_tcp_callbacks.write_space &&
	       READ_ONCE(sk->sk_error_report) == mp_tcp_callbacks.error_report &&
	       !(READ_ONCE(sk->sk_tsflags) & SOF_TIMESTAMPING_TX_RECORD_MASK);
}

/*
 * What inet_accept() and sock_graft() do, for an lwsocket.
 *
 * But for security_sock_graft(), which gives the connection's label to the inode
 * (SELinux) or a label to a connection without one (AppArmor): here is no inode,
 * and the connection got its label when it was cloned from the listener.
 *
 * Returns false, and leaves the connection as it is, if it is not eligible.  Who
 * claims callbacks does so under the lock for them (psock), or under the lock of
 * the sock (ULPs), so there is nobody between the look and the claim made here.
 */
bool mp_lwsocket_graft(struct mp_lwsocket *lw, struct sock *sk,
		       const struct socket *listener)
{
	struct socket *sock = &lw->sock;
	bool eligible;

	if (test_bit(SOCK_SUPPORT_ZC, &listener->flags))
		set_bit(SOCK_SUPPORT_ZC, &sock->flags);
	sock->state = SS_CONNECTED;

	lock_sock(sk);
	sock_rps_record_flow(sk);

	write_lock_bh(&sk->sk_callback_lock);
	eligible = mp_lwsocket_eligible(sk);
	if (unlikely(!eligible))
		goto out_unlock;
	/* The lwsocket may outlive the listener, which holds the module. */
	__module_get(sock->ops->owner);
	rcu_assign_pointer(sk->sk_wq, &sock->wq);
	sock->sk = sk;
	sk_set_socket(sk, sock);
	sk->sk_uid = current_fsuid();
	rcu_assign_sk_user_data(sk, &lw->handle);
	WRITE_ONCE(sk->sk_data_ready, mp_lwsocket_data_ready);
	WRITE_ONCE(sk->sk_write_space, mp_lwsocket_write_space);
	WRITE_ONCE(sk->sk_state_change, mp_lwsocket_changed);
	WRITE_ONCE(sk->sk_error_report, mp_lwsocket_changed);
out_unlock:
	write_unlock_bh(&sk->sk_callback_lock);
	release_sock(sk);
	return eligible;
}

/*
 * Close a connection whose callbacks find somebody through sk_user_data.
 *
 * SO_LINGER with a time asks close() to wait, which would keep whoever serves it
 * from its other connections: nobody waits here, as when a process exits.  With
 * no time it asks for a reset, which the connection gets.
 */
void mp_lwsocket_close(struct socket *sock)
{
	struct sock *sk = sock->sk;

	/*
	 * The callbacks stay: with no user data, or a psock's, they do nothing.
	 * TCP goes on with the connection after this, until the last FIN.
	 */
	write_lock_bh(&sk->sk_callback_lock);
	rcu_assign_sk_user_data(sk, NULL);
	write_unlock_bh(&sk->sk_callback_lock);

	if (unlikely(sock_flag(sk, SOCK_LINGER) && sk->sk_lingertime)) {
		lock_sock(sk);
		sock_reset_flag(sk, SOCK_LINGER);
		release_sock(sk);
	}
	sock->ops->release(sock);
}

/* Close the connection, if there is one. */
void mp_lwsocket_detach(struct mp_handle *handle)
{
	struct socket *sock = handle->sock;
	const struct proto_ops *ops = sock->ops;

	if (!sock->sk)
		return;
	mp_lwsocket_close(sock);
	module_put(ops->owner);
}

/* A file with a socket that is like the lwsocket's, but without a connection */
static struct file *mp_lwsocket_new_file(const struct socket *from, int flags)
{
	const struct sock *sk = from->sk;
	struct socket *sock;
	struct file *file;
	int err;

	sock = sock_alloc();
	if (!sock)
		return ERR_PTR(-ENFILE);
	sock->type = from->type;
	sock->ops = from->ops;
	__module_get(sock->ops->owner);
	if (test_bit(SOCK_SUPPORT_ZC, &from->flags))
		set_bit(SOCK_SUPPORT_ZC, &sock->flags);

	/* On failure the socket is released. */
	file = sock_alloc_file(sock, flags & O_NONBLOCK,
			       sk->sk_prot_creator->name);
	if (IS_ERR(file))
		return file;

	/* Labels the inode, which accept() would do after the listener's. */
	err = security_socket_post_create(sock, sk->sk_family, sock->type,
					  sk->sk_protocol, 0);
	if (err) {
		fput(file);
		return ERR_PTR(err);
	}
	return file;
}

/*
 * Turn an lwsocket without pending commands into a descriptor, which is
 * returned.  After an error the lwsocket is as it was.
 *
 * What the connection has (data, options, errors) is in its struct sock, which
 * changes hands.  Under its lock TCP does not run, and nobody waits for the new
 * socket yet, so no wake-up can miss it: whoever polls it first looks at the
 * state.  Readers that have found the lwsocket under RCU go on with it, as when
 * it is closed.  SOCK_NOSPACE is not taken along: a writer or poller of the new
 * socket sets it.
 */
int mp_lwsocket_to_fd(struct mp_handle *handle, int flags)
{
	struct socket *sock = handle->sock, *newsock;
	const struct proto_ops *ops = sock->ops;
	struct sock *sk = sock->sk;
	struct file *file;
	int fd;

	lockdep_assert_held(&handle->channel->mutex);

	fd = get_unused_fd_flags(flags);
	if (fd < 0)
		return fd;
	file = mp_lwsocket_new_file(sock, flags);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	newsock = sock_from_file(file);

	lock_sock(sk);
	write_lock_bh(&sk->sk_callback_lock);
	rcu_assign_sk_user_data(sk, NULL);
	WRITE_ONCE(sk->sk_state_change, mp_tcp_callbacks.state_change);
	WRITE_ONCE(sk->sk_data_ready, mp_tcp_callbacks.data_ready);
	WRITE_ONCE(sk->sk_write_space, mp_tcp_callbacks.write_space);
	WRITE_ONCE(sk->sk_error_report, mp_tcp_callbacks.error_report);
	write_unlock_bh(&sk->sk_callback_lock);
	sock_graft(sk, newsock);
	newsock->state = SS_CONNECTED;
	/* What is left is an lwsocket without a connection. */
	sock->sk = NULL;
	release_sock(sk);

	module_put(ops->owner);
	mp_handle_drop(handle);
	fd_install(fd, file);
	return fd;
}

void mp_lwsocket_free(struct mp_handle *handle)
{
	struct mp_channel *channel = handle->channel;

	if (channel->nr_spare < MP_MAX_SPARE) {
		handle->ready.next = channel->spare;
		channel->spare = &handle->ready;
		channel->nr_spare++;
		return;
	}
	kfree_rcu(mp_lwsocket(handle), handle.rcu);
}

/* Called when no callback can hold a pointer to any of them. */
void mp_lwsocket_free_spare(struct mp_channel *channel)
{
	struct mp_handle *handle, *next;

	llist_for_each_entry_safe(handle, next, channel->spare, ready)
		kmem_cache_free(mp_lwsocket_cache, mp_lwsocket(handle));
	channel->spare = NULL;
	channel->nr_spare = 0;
}
