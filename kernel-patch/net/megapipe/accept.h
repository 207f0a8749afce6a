/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Listening sockets and accepting.
 */
#ifndef _MEGAPIPE_ACCEPT_H
#define _MEGAPIPE_ACCEPT_H

#include <linux/types.h>

struct file;
struct megapipe_cmd;
struct megapipe_listener;
struct megapipe_register;
struct mp_channel;
struct mp_handle;
struct socket;

/* accept.c APIs: commands */
int mp_accept_register(struct mp_channel *channel, struct file *file,
		       struct socket *sock,
		       const struct megapipe_register *reg);
int mp_accept_start(struct mp_handle *handle, const struct megapipe_cmd *cmd);
void mp_accept_cancel(struct mp_handle *handle);
void mp_accept_describe(struct mp_handle *handle,
			struct megapipe_listener *listener);

/* accept.c APIs: events */
void mp_accept_run(struct mp_handle *handle);
void mp_accept_detach(struct mp_handle *handle);
void mp_accept_free(struct mp_handle *handle);

#endif /* _MEGAPIPE_ACCEPT_H */
