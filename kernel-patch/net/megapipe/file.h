/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Registered descriptors.
 */
#ifndef _MEGAPIPE_FILE_H
#define _MEGAPIPE_FILE_H

#include <linux/wait.h>

#include "handle.h"

struct file;
struct iov_iter;
struct megapipe_register;
struct sockaddr_storage;

/* A pipe that is open in both directions has two, a terminal as well. */
#define MP_MAX_WAITS	2

/**
 * struct mp_wait - an entry on one of a file's wait queues
 * @entry: the entry; its .private is the struct mp_file
 * @head: the queue, NULL if it is gone (POLLFREE) or was never there
 */
struct mp_wait {
	wait_queue_entry_t	entry;
	wait_queue_head_t	*head;
};

/**
 * struct mp_file - handle of a registered descriptor
 * @handle: the handle
 * @file: the open file, referenced until the handle is dropped
 * @fd: the descriptor it was registered by
 * @nr_waits: used entries of @wait
 * @wait: on the file's wait queues
 */
struct mp_file {
	struct mp_handle	handle;
	struct file		*file;
	int			fd;
	unsigned int		nr_waits;
	struct mp_wait		wait[MP_MAX_WAITS];
};

static inline struct mp_file *mp_file(struct mp_handle *handle)
{
	return container_of(handle, struct mp_file, handle);
}

/* file.c APIs */
wait_queue_entry_t *mp_file_wait(struct mp_file *file, wait_queue_head_t *head,
				 wait_queue_func_t func);
int mp_file_register(struct mp_channel *channel,
		     const struct megapipe_register *reg);
int mp_file_connect(struct mp_handle *handle, struct sockaddr_storage *address,
		    int len);
__poll_t mp_file_poll(const struct mp_handle *handle);
ssize_t mp_file_read(struct mp_handle *handle, struct iov_iter *iter);
ssize_t mp_file_write(struct mp_handle *handle, struct iov_iter *iter);
struct file *mp_file_get(struct mp_handle *handle, int *fd);
void mp_file_close_fd(struct file *file, int fd);
void mp_file_detach(struct mp_handle *handle);
void mp_file_free(struct mp_handle *handle);

#endif /* _MEGAPIPE_FILE_H */
