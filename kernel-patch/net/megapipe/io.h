/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading and writing connections.
 */
#ifndef _MEGAPIPE_IO_H
#define _MEGAPIPE_IO_H

#include <linux/types.h>
#include <net/inet_sock.h>

struct megapipe_cmd;
struct mp_handle;

/* io.c APIs: commands */
int mp_io_connect(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_read(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_readv(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_recvfrom(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_write(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_writev(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_sendto(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_sendfile(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_poll(struct mp_handle *handle, const struct megapipe_cmd *cmd);
int mp_io_disconnect(struct mp_handle *handle, const struct megapipe_cmd *cmd);
void mp_io_cancel(struct mp_handle *handle);

/* io.c APIs: events */
void mp_io_run(struct mp_handle *handle, int events);
bool mp_io_pending(const struct mp_handle *handle);
void mp_io_forget(struct mp_handle *handle);

/* Would a read of a TCP socket return at once?  A look without its lock. */
static inline bool mp_io_tcp_readable(struct sock *sk)
{
	return !skb_queue_empty_lockless(&sk->sk_receive_queue) ||
	       sk_is_readable(sk) ||
	       READ_ONCE(sk->sk_shutdown) & RCV_SHUTDOWN ||
	       READ_ONCE(sk->sk_err) ||
	       inet_sk_state_load(sk) == TCP_CLOSE;
}

#endif /* _MEGAPIPE_IO_H */
