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
 * connection has been closed, but readers may still be using them.  So a closed
 * lwsocket is either freed after a grace period, or kept for the channel's next
 * accept as it is: its wait queue stays initialised and its sock.file stays
 * NULL, and a callback that comes late raises an event on the next connection,
 * which then finds nothing to read.
 */

#include <linux/slab.h>
#include <net/inet_connection_sock.h>
#include <net/inet_sock.h>
#include <net/mptcp.h>
#include <net/rps.h>
#include <net/sock.h>

#include "channel.h"
#include "lwsocket.h"

static struct kmem_cache *mp_lwsocket_cache __ro_after_init;

int __init mp_lwsocket_init(void)
{
	mp_lwsocket_cache = KMEM_CACHE(mp_lwsocket,
				       SLAB_HWCACHE_ALIGN | SLAB_ACCOUNT);
	return mp_lwsocket_cache ? 0 : -ENOMEM;
}

static struct mp_lwsocket *mp_lwsocket(struct mp_handle *handle)
{
	return container_of(handle, struct mp_lwsocket, handle);
}

static void mp_lwsocket_event(const struct sock *sk, int events)
{
	struct mp_handle *handle;

	rcu_read_lock();
	handle = rcu_dereference_sk_user_data(sk);
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
 * callbacks, or expects a file behind it.
 */
bool mp_lwsocket_eligible(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_TCP && !sk_is_mptcp(sk) &&
	       !READ_ONCE(sk->sk_user_data) &&
	       !inet_csk(sk)->icsk_ulp_ops;
}

/* What inet_accept() and sock_graft() do, for an lwsocket */
void mp_lwsocket_graft(struct mp_lwsocket *lw, struct sock *sk,
		       const struct socket *listener)
{
	struct socket *sock = &lw->sock;

	/* The lwsocket may outlive the listener, which holds the module. */
	__module_get(sock->ops->owner);
	if (test_bit(SOCK_SUPPORT_ZC, &listener->flags))
		set_bit(SOCK_SUPPORT_ZC, &sock->flags);
	sock->state = SS_CONNECTED;

	lock_sock(sk);
	sock_rps_record_flow(sk);
	/* A close that lingers would make the whole channel wait. */
	if (sk->sk_lingertime)
		sock_reset_flag(sk, SOCK_LINGER);

	write_lock_bh(&sk->sk_callback_lock);
	rcu_assign_pointer(sk->sk_wq, &sock->wq);
	sock->sk = sk;
	sk_set_socket(sk, sock);
	sk->sk_uid = current_fsuid();
	rcu_assign_sk_user_data(sk, &lw->handle);
	sk->sk_data_ready = mp_lwsocket_data_ready;
	sk->sk_write_space = mp_lwsocket_write_space;
	sk->sk_state_change = mp_lwsocket_changed;
	sk->sk_error_report = mp_lwsocket_changed;
	write_unlock_bh(&sk->sk_callback_lock);
	release_sock(sk);
}

/* Close the connection, if there is one. */
void mp_lwsocket_detach(struct mp_handle *handle)
{
	struct socket *sock = handle->sock;
	const struct proto_ops *ops = sock->ops;
	struct sock *sk = sock->sk;

	if (!sk)
		return;

	/*
	 * The callbacks stay: with no user data they do nothing.  TCP goes on
	 * with the connection after this, until the last FIN.
	 */
	write_lock_bh(&sk->sk_callback_lock);
	rcu_assign_sk_user_data(sk, NULL);
	write_unlock_bh(&sk->sk_callback_lock);

	ops->release(sock);
	module_put(ops->owner);
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
