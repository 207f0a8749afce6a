// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a program does to a socket by descriptor, by handle: options, addresses,
 * and getting a descriptor after all.
 *
 * Everything goes the way of the system call with a descriptor, so LSM and BPF
 * hooks and later checks (an option of a partitioned listener) are the same.
 * The channel's mutex is held: it keeps the handle, and none of this waits for
 * the network.
 *
 * Options that can be set on an lwsocket are listed in mp_sockopt_settable().
 * What is not there is refused with -EOPNOTSUPP, for one of these reasons:
 *
 *	TCP_ULP			takes sk_user_data and the callbacks, which are
 *				MegaPipe's: TLS needs a descriptor first
 *	IPV6_ADDRFORM		exchanges the operations of the struct socket,
 *				whose module the lwsocket holds
 *	TCP_REPAIR*		a connection in repair is not closed properly,
 *				and moves to another process: by descriptor
 *	SO_TIMESTAMPING, SO_TXTIME, SO_TIMESTAMP*, IP_RECV*, IP_PKTINFO,
 *	IPV6_RECV*, TCP_INQ, SO_RXQ_OVFL, SO_SELECT_ERR_QUEUE, ...
 *				answer with control messages, or in the error
 *				queue, for recvmsg(): no command reads them, and
 *				what piles up takes room from received data
 *	SO_ATTACH_REUSEPORT_*, TCP_DEFER_ACCEPT, TCP_FASTOPEN*, TCP_SAVE_SYN,
 *	TCP_MD5SIG*, TCP_AO_*, IPV6_V6ONLY
 *				are for listening sockets or before connecting
 *	IP_ADD_MEMBERSHIP, ..., SO_BROADCAST, SO_NO_CHECK, SO_PASSCRED, ...
 *				are for datagrams or other families
 *	IP_IPSEC_POLICY, IP_XFRM_POLICY, IPT_SO_SET_*, ...
 *				administration, for which any descriptor does
 *
 * FIOSETOWN, F_SETOWN and SIGIO are about a struct file and have no option.
 * SO_ZEROCOPY is allowed because it only permits MSG_ZEROCOPY, which no command
 * uses; it is for the descriptor that the lwsocket may become.  SO_RCVTIMEO and
 * SO_SNDTIMEO likewise: commands never block in the socket.  SO_LINGER with a
 * time does not make an lwsocket's close wait (mp_lwsocket_close()).
 *
 * Getting an option changes nothing and needs no list, but TCP_ZEROCOPY_RECEIVE
 * takes data out of the connection, behind the back of a pending READ, and
 * SO_PEERPIDFD makes a descriptor of something else than the connection.
 *
 * A registered descriptor has all options of its levels: the program could as
 * well call setsockopt().
 */

#include <linux/compat.h>
#include <linux/file.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/net.h>
#include <linux/security.h>
#include <linux/tcp.h>
#include <linux/uaccess.h>
#include <net/sock.h>

#include "channel.h"
#include "handle.h"
#include "io.h"
#include "lwsocket.h"
#include "sockopt.h"

static bool mp_sockopt_settable_socket(int name)
{
	switch (name) {
	/* Sizes, limits and pace */
	case SO_RCVBUF:
	case SO_SNDBUF:
	case SO_RCVBUFFORCE:
	case SO_SNDBUFFORCE:
	case SO_BUF_LOCK:
	case SO_RCVLOWAT:
	case SO_RESERVE_MEM:
	case SO_MAX_PACING_RATE:
	/* The way of packets */
	case SO_PRIORITY:
	case SO_MARK:
	case SO_DONTROUTE:
	case SO_BINDTODEVICE:
	case SO_BINDTOIFINDEX:
	case SO_CNX_ADVICE:
	case SO_TXREHASH:
	/* Polling of the device */
	case SO_INCOMING_CPU:
	case SO_BUSY_POLL:
	case SO_PREFER_BUSY_POLL:
	case SO_BUSY_POLL_BUDGET:
	/* Filters: run on what arrives, before any callback */
	case SO_ATTACH_FILTER:
	case SO_ATTACH_BPF:
	case SO_DETACH_FILTER:
	case SO_LOCK_FILTER:
	/* The connection */
	case SO_KEEPALIVE:
	case SO_OOBINLINE:
	case SO_LINGER:
	case SO_REUSEADDR:
	case SO_REUSEPORT:
	case SO_DEBUG:
	/* For the descriptor that it may become, see above */
	case SO_RCVTIMEO_OLD:
	case SO_RCVTIMEO_NEW:
	case SO_SNDTIMEO_OLD:
	case SO_SNDTIMEO_NEW:
	case SO_ZEROCOPY:
		return true;
	}
	return false;
}

static bool mp_sockopt_settable_ip(int name)
{
	switch (name) {
	/* Fields of the header */
	case IP_TOS:
	case IP_TTL:
	case IP_OPTIONS:
	/* What is accepted, what is too long, what ICMP says */
	case IP_MINTTL:
	case IP_MTU_DISCOVER:
	case IP_RECVERR:
	/* Of no use to a connection, and inherited by nobody */
	case IP_FREEBIND:
	case IP_TRANSPARENT:
	case IP_BIND_ADDRESS_NO_PORT:
		return true;
	}
	return false;
}

static bool mp_sockopt_settable_ipv6(int name)
{
	switch (name) {
	/* Fields of the header */
	case IPV6_TCLASS:
	case IPV6_UNICAST_HOPS:
	case IPV6_AUTOFLOWLABEL:
	case IPV6_FLOWINFO_SEND:
	case IPV6_FLOWLABEL_MGR:
	/* What is accepted, what is too long, what ICMP says */
	case IPV6_MINHOPCOUNT:
	case IPV6_MTU:
	case IPV6_MTU_DISCOVER:
	case IPV6_DONTFRAG:
	case IPV6_RECVERR:
	/* Of no use to a connection, and inherited by nobody */
	case IPV6_FREEBIND:
	case IPV6_TRANSPARENT:
	case IPV6_ADDR_PREFERENCES:
		return true;
	}
	return false;
}

static bool mp_sockopt_settable_tcp(int name)
{
	switch (name) {
	/* When to send */
	case TCP_NODELAY:
	case TCP_CORK:
	case TCP_QUICKACK:
	case TCP_NOTSENT_LOWAT:
	case TCP_TX_DELAY:
	/* How much */
	case TCP_MAXSEG:
	case TCP_WINDOW_CLAMP:
	case TCP_CONGESTION:
	case TCP_THIN_LINEAR_TIMEOUTS:
	case TCP_THIN_DUPACK:
	/* When to give up */
	case TCP_KEEPIDLE:
	case TCP_KEEPINTVL:
	case TCP_KEEPCNT:
	case TCP_SYNCNT:
	case TCP_LINGER2:
	case TCP_USER_TIMEOUT:
		return true;
	}
	return false;
}

/* May a program set this option of an lwsocket? */
static bool mp_sockopt_settable(int level, int name)
{
	switch (level) {
	case SOL_SOCKET:
		return mp_sockopt_settable_socket(name);
	case SOL_IP:
		return mp_sockopt_settable_ip(name);
	case SOL_IPV6:
		return mp_sockopt_settable_ipv6(name);
	case SOL_TCP:
		return mp_sockopt_settable_tcp(name);
	}
	return false;
}

static bool mp_sockopt_gettable(int level, int name)
{
	return !(level == SOL_TCP && name == TCP_ZEROCOPY_RECEIVE) &&
	       !(level == SOL_SOCKET && name == SO_PEERPIDFD);
}

static bool mp_sockopt_level(int level)
{
	return level == SOL_SOCKET || level == SOL_IP || level == SOL_IPV6 ||
	       level == SOL_TCP;
}

static struct mp_handle *mp_sockopt_handle(struct mp_channel *channel, s32 id)
{
	struct mp_handle *handle = mp_handle_lookup(&channel->handles, id);

	if (!handle)
		return ERR_PTR(-EBADF);
	return handle->sock ? handle : ERR_PTR(-ENOTSOCK);
}

static int mp_sockopt_check(const struct megapipe_sockopt *opt)
{
	if (opt->resv || opt->len > INT_MAX)
		return -EINVAL;
	return mp_sockopt_level(opt->level) ? 0 : -EOPNOTSUPP;
}

/* MEGAPIPE_IOC_SETSOCKOPT */
long mp_sockopt_set(struct mp_channel *channel, void *arg, void __user *user)
{
	const struct megapipe_sockopt *opt = arg;
	struct mp_handle *handle;
	long ret;

	ret = mp_sockopt_check(opt);
	if (ret)
		return ret;
	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	handle = mp_sockopt_handle(channel, opt->handle);
	if (IS_ERR(handle))
		ret = PTR_ERR(handle);
	else if (handle->kind == MP_KIND_LWSOCKET &&
		 !mp_sockopt_settable(opt->level, opt->name))
		ret = -EOPNOTSUPP;
	else
		ret = do_sock_setsockopt(handle->sock, in_compat_syscall(),
					 opt->level, opt->name,
					 USER_SOCKPTR(u64_to_user_ptr(opt->value)),
					 opt->len);
	mutex_unlock(&channel->mutex);
	return ret;
}

/*
 * MEGAPIPE_IOC_GETSOCKOPT
 *
 * The length is read again, and written, where the program has it: protocols
 * take nothing but a user address.
 */
long mp_sockopt_get(struct mp_channel *channel, void *arg, void __user *user)
{
	struct megapipe_sockopt __user *user_opt = user;
	struct megapipe_sockopt *opt = arg;
	struct mp_handle *handle;
	long ret;

	ret = mp_sockopt_check(opt);
	if (ret)
		return ret;
	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	handle = mp_sockopt_handle(channel, opt->handle);
	if (IS_ERR(handle))
		ret = PTR_ERR(handle);
	else if (handle->kind == MP_KIND_LWSOCKET &&
		 !mp_sockopt_gettable(opt->level, opt->name))
		ret = -EOPNOTSUPP;
	else
		ret = do_sock_getsockopt(handle->sock, in_compat_syscall(),
					 opt->level, opt->name,
					 USER_SOCKPTR(u64_to_user_ptr(opt->value)),
					 USER_SOCKPTR(&user_opt->len));
	mutex_unlock(&channel->mutex);
	return ret ?: get_user(opt->len, &user_opt->len);
}

static int mp_sockopt_getname(struct socket *sock, bool peer,
			      struct sockaddr_storage *addr)
{
	int err;

	err = peer ? security_socket_getpeername(sock) :
		     security_socket_getsockname(sock);
	if (err)
		return err;
	return READ_ONCE(sock->ops)->getname(sock, (struct sockaddr *)addr,
					     peer);
}

/* MEGAPIPE_IOC_SOCKNAME */
long mp_sockopt_name(struct mp_channel *channel, void *arg, void __user *user)
{
	struct megapipe_sockname *name = arg;
	struct sockaddr_storage addr;
	struct mp_handle *handle;
	int len;

	if (name->resv || name->peer > 1 || name->len > INT_MAX)
		return -EINVAL;

	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	handle = mp_sockopt_handle(channel, name->handle);
	len = IS_ERR(handle) ? PTR_ERR(handle) :
	      mp_sockopt_getname(handle->sock, name->peer, &addr);
	mutex_unlock(&channel->mutex);

	if (len < 0)
		return len;
	if (copy_to_user(u64_to_user_ptr(name->addr), &addr,
			 min_t(u32, len, name->len)))
		return -EFAULT;
	name->len = len;
	return 0;
}

/* MEGAPIPE_IOC_TOFD */
long mp_sockopt_tofd(struct mp_channel *channel, void *arg, void __user *user)
{
	const struct megapipe_tofd *tofd = arg;
	struct mp_handle *handle;
	long ret;

	if (tofd->resv || tofd->flags & ~(O_CLOEXEC | O_NONBLOCK))
		return -EINVAL;

	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	handle = mp_sockopt_handle(channel, tofd->handle);
	if (IS_ERR(handle))
		ret = PTR_ERR(handle);
	else if (handle->kind != MP_KIND_LWSOCKET)
		ret = -EOPNOTSUPP;
	else if (mp_io_pending(handle))
		ret = -EBUSY;
	else
		ret = mp_lwsocket_to_fd(handle, tofd->flags);
	mutex_unlock(&channel->mutex);
	return ret;
}
