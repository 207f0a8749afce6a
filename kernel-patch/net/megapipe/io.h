/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading and writing connections.
 */
#ifndef _MEGAPIPE_IO_H
#define _MEGAPIPE_IO_H

#include <linux/types.h>

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

#endif /* _MEGAPIPE_IO_H */
