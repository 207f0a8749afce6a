/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Registered descriptors.
 */
#ifndef _MEGAPIPE_FILE_H
#define _MEGAPIPE_FILE_H

#include <linux/wait.h>

#include "handle.h"

struct file;

/**
 * struct mp_file - handle of a registered descriptor
 * @handle: the handle
 * @file: the open file, referenced until the handle is dropped
 * @fd: the descriptor it was registered by
 * @wait: on the socket's wait queue
 */
struct mp_file {
	struct mp_handle	handle;
	struct file		*file;
	int			fd;
	wait_queue_entry_t	wait;
};

static inline struct mp_file *mp_file(struct mp_handle *handle)
{
	return container_of(handle, struct mp_file, handle);
}

/* file.c APIs */
int mp_file_register(struct mp_channel *channel,
		     const struct megapipe_register *reg);
struct file *mp_file_get(struct mp_handle *handle, int *fd);
void mp_file_close_fd(struct file *file, int fd);
void mp_file_detach(struct mp_handle *handle);
void mp_file_free(struct mp_handle *handle);

#endif /* _MEGAPIPE_FILE_H */
