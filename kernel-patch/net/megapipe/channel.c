// SPDX-License-Identifier: GPL-2.0-only
/*
 * Opening and closing channels, and their ioctls.
 */

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/megapipe.h>

#include "channel.h"
#include "file.h"
#include "lwsocket.h"
#include "queue.h"
#include "sockopt.h"

static atomic64_t mp_channel_last_id;

static int mp_channel_open(struct inode *inode, struct file *file)
{
	struct mp_channel *channel;
	int err;

	if (!current->mm)
		return -EINVAL;

	channel = kzalloc(sizeof(*channel), GFP_KERNEL_ACCOUNT);
	if (!channel)
		return -ENOMEM;

	err = mp_table_init(&channel->handles, rlimit(RLIMIT_NOFILE));
	if (err) {
		kfree(channel);
		return err;
	}
	init_llist_head(&channel->ready);
	init_waitqueue_head(&channel->wait);
	mutex_init(&channel->mutex);
	channel->id = atomic64_inc_return(&mp_channel_last_id);
	/* The struct, not the address space: buffers are not pinned. */
	channel->mm = current->mm;
	mmgrab(channel->mm);

	file->private_data = channel;
	return stream_open(inode, file);
}

/* No callback can see the channel or its handles any more. */
static void mp_channel_free(struct work_struct *work)
{
	struct mp_channel *channel =
		container_of(to_rcu_work(work), struct mp_channel, release);

	mp_queue_drain(channel);
	mp_lwsocket_free_spare(channel);
	mp_table_destroy(&channel->handles);
	mmdrop(channel->mm);
	kfree(channel);
}

static int mp_channel_release(struct inode *inode, struct file *file)
{
	struct mp_channel *channel = file->private_data;
	struct mp_handle *handle;
	u32 index = 0;

	/* Nobody else is here; the mutex is for lockdep_assert_held(). */
	mutex_lock(&channel->mutex);
	while ((handle = mp_table_next(&channel->handles, &index))) {
		mp_handle_drop(handle);
		cond_resched();
	}
	mutex_unlock(&channel->mutex);

	INIT_RCU_WORK(&channel->release, mp_channel_free);
	queue_rcu_work(system_unbound_wq, &channel->release);
	return 0;
}

static __poll_t mp_channel_poll(struct file *file, poll_table *pt)
{
	struct mp_channel *channel = file->private_data;

	poll_wait(file, &channel->wait, pt);
	return mp_queue_pending(channel) ? EPOLLIN | EPOLLRDNORM : 0;
}

static long mp_channel_info(struct mp_channel *channel,
			    struct megapipe_info __user *arg)
{
	struct megapipe_info info = {
		.abi_version = MEGAPIPE_ABI_VERSION,
		.nr_ops = MEGAPIPE_OP_LAST,
		.max_handles = channel->handles.max,
		.max_dispatch = MP_MAX_DISPATCH,
	};

	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long mp_channel_stats(struct mp_channel *channel,
			     struct megapipe_stats __user *arg)
{
	struct megapipe_stats stats;

	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	stats = channel->stats;
	stats.handles = channel->handles.count;
	mutex_unlock(&channel->mutex);

	return copy_to_user(arg, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static long mp_channel_register(struct mp_channel *channel,
				struct megapipe_register __user *arg)
{
	struct megapipe_register reg;
	long ret;

	if (copy_from_user(&reg, arg, sizeof(reg)))
		return -EFAULT;
	if (reg.flags & ~MEGAPIPE_REG_PARTITION || reg.resv)
		return -EINVAL;
	if (!(reg.flags & MEGAPIPE_REG_PARTITION) &&
	    (reg.cpu_mask || reg.cpu_mask_size))
		return -EINVAL;

	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	ret = mp_file_register(channel, &reg);
	mutex_unlock(&channel->mutex);
	return ret;
}

static long mp_channel_ioctl(struct file *file, unsigned int cmd,
			     unsigned long arg)
{
	struct mp_channel *channel = file->private_data;
	void __user *argp = (void __user *)arg;

	/* Buffers are addresses of the address space that opened it. */
	if (current->mm != channel->mm)
		return -EPERM;

	switch (cmd) {
	case MEGAPIPE_IOC_DISPATCH:
		return mp_queue_dispatch(channel, argp);
	case MEGAPIPE_IOC_REGISTER:
		return mp_channel_register(channel, argp);
	case MEGAPIPE_IOC_INFO:
		return mp_channel_info(channel, argp);
	case MEGAPIPE_IOC_SETSOCKOPT:
		return mp_sockopt_set(channel, argp);
	case MEGAPIPE_IOC_GETSOCKOPT:
		return mp_sockopt_get(channel, argp);
	case MEGAPIPE_IOC_SOCKNAME:
		return mp_sockopt_name(channel, argp);
	case MEGAPIPE_IOC_TOFD:
		return mp_sockopt_tofd(channel, argp);
	case MEGAPIPE_IOC_STATS:
		return mp_channel_stats(channel, argp);
	}
	return -ENOTTY;
}

const struct file_operations megapipe_channel_fops = {
	.owner		= THIS_MODULE,
	.open		= mp_channel_open,
	.release	= mp_channel_release,
	.poll		= mp_channel_poll,
	.unlocked_ioctl	= mp_channel_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

bool megapipe_is_channel(const struct file *file)
{
	return file->f_op == &megapipe_channel_fops;
}
