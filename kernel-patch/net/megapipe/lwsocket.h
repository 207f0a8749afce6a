/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lwsockets: connections without a descriptor.
 */
#ifndef _MEGAPIPE_LWSOCKET_H
#define _MEGAPIPE_LWSOCKET_H

#include <linux/net.h>
#include <linux/rcupdate.h>
#include <net/sock.h>

#include "handle.h"

/**
 * struct mp_lwsocket - an lwsocket
 * @handle: its handle, the only name that it has
 * @sock: the part of a socket that TCP looks at; no file, no inode
 */
struct mp_lwsocket {
	struct mp_handle	handle;
	struct socket		sock;
};

/* lwsocket.c APIs */
int mp_lwsocket_init(void);
struct mp_lwsocket *mp_lwsocket_alloc(struct mp_channel *channel,
				      const struct socket *listener);
bool mp_lwsocket_eligible(const struct sock *sk);
bool mp_lwsocket_graft(struct mp_lwsocket *lw, struct sock *sk,
		       const struct socket *listener);
void mp_lwsocket_close(struct socket *sock);
void mp_lwsocket_detach(struct mp_handle *handle);
int mp_lwsocket_to_fd(struct mp_handle *handle, int flags);
void mp_lwsocket_free(struct mp_handle *handle);
void mp_lwsocket_free_spare(struct mp_channel *channel);

/*
 * Who has the connection, for its callbacks, under RCU.  They stay after its
 * close, when a psock may come to the same place: it marks its pointer.
 */
static inline void *mp_lwsocket_owner(const struct sock *sk)
{
	uintptr_t owner = (uintptr_t)rcu_dereference(__sk_user_data(sk));

	return likely(!(owner & ~SK_USER_DATA_PTRMASK)) ? (void *)owner : NULL;
}

#endif /* _MEGAPIPE_LWSOCKET_H */
