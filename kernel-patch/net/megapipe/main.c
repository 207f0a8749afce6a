// SPDX-License-Identifier: GPL-2.0-only
/*
 * MegaPipe: channels between a thread and the kernel for network I/O.
 *
 * The interface is that of "MegaPipe: A New Programming Interface for Scalable
 * Network I/O" (Han, Marshall, Chun, Ratnasamy; OSDI 2012).
 *
 * Overview
 * --------
 *
 *	   program                        |  kernel
 *	                                  |
 *	   commands  ---- ioctl ------->  |  command.c -> io.c, accept.c
 *	                                  |      ^              |
 *	                                  |  run list        sockets
 *	                                  |      ^              |
 *	   completions <- ioctl --------  |  queue.c <- ready list <- callbacks
 *
 * A thread opens a channel (channel.c) and registers sockets and other files
 * (file.c), which gives it handles (handle.c).  It sends commands in batches
 * (command.c; what is more than a buffer is in request.c).  Each is tried at
 * once (io.c, sendfile.c, accept.c); if the file is not ready the command stays
 * pending in its handle.  When something happens to the file, a callback puts
 * the handle on the channel's ready list and wakes the thread, which tries again
 * what is pending and collects completions (queue.c).
 *
 * The three ideas of the paper are the three files partition.c (a listening
 * socket has one accept queue per channel), lwsocket.c (a connection without a
 * file) and queue.c (batches in both directions).
 *
 * Softirq only sets bits and links handles.  Every copy, accept and send runs
 * in an ioctl of a task with the address space that opened the channel.
 *
 * Locking
 * -------
 *
 * From the outside in:
 *
 *	mp_channel.mutex	all ioctls of a channel, dropped while asleep
 *	lock_sock()		a socket; a listener's, which also protects who is in
 *				its group, before a partition's
 *	sk_callback_lock	sk_wq, sk_socket, sk_user_data, callbacks
 *	wait queue of a socket, then that of the channel
 *
 * Callbacks run in any context with the socket's spinlock held or under RCU.
 * They take only the lock of the channel's wait queue.
 *
 * Field protection
 * ----------------
 *
 * Each structure's comment says it.  In short: mp_channel.ready and
 * mp_handle.events are atomic; everything else of a channel and of its handles
 * is under the channel's mutex.  Maps of partitions are read under RCU.
 * Counters are read without the mutex, by those who watch (fdinfo).
 *
 * Life of a command
 * -----------------
 *
 *	copied in -> tried --------------------> completion -> copied out
 *	               |                            ^
 *	               +-> pending -> ready -> tried +
 *	                                 ^          |
 *	                                 +----------+  not yet
 *
 * A command ends as exactly one completion (an ACCEPT of n, as n), or without
 * one if its handle is unregistered or closed.  A completion is made only when
 * the dispatch has room for it, so none is ever stored.
 *
 * Removal
 * -------
 *
 * A handle ends by UNREGISTER, by CLOSE or with its channel: mp_handle_drop().
 * Its sources of events are cut first, then its memory waits for the list that
 * it may be on (mp_handle_retire()), and that of an lwsocket also for RCU.
 *
 * A channel ends with its file, or with its address space if that is earlier
 * (mp_channel_flush()).  An ioctl holds a reference to the file, so release
 * finds nobody inside; a grace period later no callback is either.
 */

#include <linux/init.h>
#include <linux/miscdevice.h>

#include "channel.h"
#include "limit.h"
#include "lwsocket.h"

#define CREATE_TRACE_POINTS
#include <trace/events/megapipe.h>

static struct miscdevice megapipe_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "megapipe",
	.mode	= 0666,
	.fops	= &megapipe_channel_fops,
};

static int __init megapipe_init(void)
{
	int err;

	err = mp_lwsocket_init();
	if (err)
		return err;
	mp_limit_init();
	return misc_register(&megapipe_device);
}
device_initcall(megapipe_init);
