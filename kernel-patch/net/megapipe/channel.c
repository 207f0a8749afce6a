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
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <net/megapipe.h>

#include "accept.h"
#include "channel.h"
#include "file.h"
#include "lwsocket.h"
#include "queue.h"
#include "sockopt.h"

static atomic64_t mp_channel_last_id;

/* All channels, for mp_channel_look() */
static LIST_HEAD(mp_channels);
static DEFINE_SPINLOCK(mp_channels_lock);

/* The owner may be changing it meanwhile, see struct mp_channel */
#define mp_peek(counter)	data_race(counter)

static void mp_channel_look(struct work_struct *work);
static DECLARE_DELAYED_WORK(mp_channel_looker, mp_channel_look);

static void mp_channel_drop_handles(struct mp_channel *channel)
{
	struct mp_handle *handle;
	u32 index = 0;

	mutex_lock(&channel->mutex);
	while ((handle = mp_table_next(&channel->handles, &index))) {
		mp_handle_drop(handle);
		cond_resched();
	}
	mutex_unlock(&channel->mutex);
}

/*
 * Address spaces end without telling the channels that they have opened.  Mostly
 * a channel is closed then (mp_channel_flush(), mp_channel_release()), but not
 * when a program calls exec() and had not set O_CLOEXEC, nor when somebody
 * looked at the dying process through /proc just then, and a forked child has
 * the descriptor too.  Nobody can use such a channel, so once in a while all
 * channels are looked at.  An MMU notifier would tell at once, and would make
 * each munmap() and each fault of a copied page a bit slower for the program.
 */
static bool mp_channel_orphaned(const struct mp_channel *channel)
{
	/* At 0 it stays there, for an ioctl() needs the address space. */
	return !atomic_read(&channel->mm->mm_users);
}

static void mp_channel_end(struct work_struct *work)
{
	mp_channel_drop_handles(container_of(work, struct mp_channel, end));
}

static void mp_channel_look_later(void)
{
	schedule_delayed_work(&mp_channel_looker, round_jiffies_relative(HZ));
}

static void mp_channel_look(struct work_struct *work)
{
	struct mp_channel *channel;

	spin_lock(&mp_channels_lock);
	list_for_each_entry(channel, &mp_channels, node)
		if (mp_channel_orphaned(channel) &&
		    mp_peek(channel->handles.count))
			queue_work(system_unbound_wq, &channel->end);
	if (!list_empty(&mp_channels))
		mp_channel_look_later();
	spin_unlock(&mp_channels_lock);
}

static void mp_channel_list(struct mp_channel *channel)
{
	INIT_WORK(&channel->end, mp_channel_end);
	spin_lock(&mp_channels_lock);
	if (list_empty(&mp_channels))
		mp_channel_look_later();
	list_add_tail(&channel->node, &mp_channels);
	spin_unlock(&mp_channels_lock);
}

static void mp_channel_unlist(struct mp_channel *channel)
{
	spin_lock(&mp_channels_lock);
	list_del(&channel->node);
	spin_unlock(&mp_channels_lock);
	/* Off the list, so it is not queued again. */
	cancel_work_sync(&channel->end);
}

static int mp_channel_open(struct inode *inode, struct file *file)
{
	struct mp_channel *channel;
	int err;

	if (!current->mm)
		return -EINVAL;

	channel = kzalloc(sizeof(*channel), GFP_KERNEL_ACCOUNT);
	if (!channel)
		return -ENOMEM;

	err = mp_limit_open(&channel->limit);
	if (err)
		goto out_free;
	err = mp_table_init(&channel->handles,
			    min_t(unsigned long, rlimit(RLIMIT_NOFILE),
				  mp_limit_channel_handles()));
	if (err)
		goto out_limit;
	init_llist_head(&channel->ready);
	init_waitqueue_head(&channel->wait);
	mutex_init(&channel->mutex);
	channel->id = atomic64_inc_return(&mp_channel_last_id);
	/* The struct, not the address space: buffers are not pinned. */
	channel->mm = current->mm;
	mmgrab(channel->mm);
	mp_channel_list(channel);

	file->private_data = channel;
	return stream_open(inode, file);

out_limit:
	mp_limit_close(&channel->limit);
out_free:
	kfree(channel);
	return err;
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

/*
 * A descriptor is closed.  A process that dies without having closed its
 * channel may leave it in a forked child, where nobody can use it: then its
 * connections are closed, and those that wait in its partitions go to others,
 * as if it was the last descriptor.  By the time that a dying process closes
 * its descriptors, its address space has no users and gets none any more, but
 * for somebody who looks at it: then mp_channel_look() finds the channel later.
 */
static int mp_channel_flush(struct file *file, fl_owner_t id)
{
	struct mp_channel *channel = file->private_data;

	if (mp_channel_orphaned(channel))
		mp_channel_drop_handles(channel);
	return 0;
}

static int mp_channel_release(struct inode *inode, struct file *file)
{
	struct mp_channel *channel = file->private_data;

	mp_channel_unlist(channel);
	/* Nobody else is here; the mutex is for lockdep_assert_held(). */
	mp_channel_drop_handles(channel);
	mp_limit_close(&channel->limit);

	INIT_RCU_WORK(&channel->release, mp_channel_free);
	queue_rcu_work(system_unbound_wq, &channel->release);
	return 0;
}

static __poll_t mp_channel_poll(struct file *file, poll_table *pt)
{
	struct mp_channel *channel = file->private_data;

	/*
	 * Then the look at the lists: the barrier in here pairs with the one in
	 * llist_add() in mp_handle_ready(), and with that of wq_has_sleeper()
	 * in mp_queue_pass_on().
	 */
	poll_wait(file, &channel->wait, pt);
	return mp_queue_pending(channel) ? EPOLLIN | EPOLLRDNORM : 0;
}

/* The counters now.  Each is right; they need not be of the same moment. */
static void mp_channel_snapshot(const struct mp_channel *channel,
				struct megapipe_stats *stats)
{
	*stats = mp_peek(channel->stats);
	stats->handles = mp_peek(channel->handles.count);
	stats->lwsockets = mp_peek(channel->handles.kinds[MP_KIND_LWSOCKET]);
}

/* MEGAPIPE_IOC_INFO */
static long mp_channel_info(struct mp_channel *channel, void *arg,
			    void __user *user)
{
	*(struct megapipe_info *)arg = (struct megapipe_info) {
		.abi_version = MEGAPIPE_ABI_VERSION,
		.nr_ops = MEGAPIPE_OP_LAST,
		.max_handles = channel->handles.max,
		.max_dispatch = MP_MAX_DISPATCH,
		.max_user_handles = mp_limit_user_max(),
		.user_handles = mp_limit_user_handles(&channel->limit),
	};
	return 0;
}

/* MEGAPIPE_IOC_STATS */
static long mp_channel_stats(struct mp_channel *channel, void *arg,
			     void __user *user)
{
	mp_channel_snapshot(channel, arg);
	return 0;
}

/* MEGAPIPE_IOC_REGISTER */
static long mp_channel_register(struct mp_channel *channel, void *arg,
				void __user *user)
{
	const struct megapipe_register *reg = arg;
	long ret;

	if (reg->flags & ~MEGAPIPE_REG_PARTITION || reg->resv)
		return -EINVAL;
	if (!(reg->flags & MEGAPIPE_REG_PARTITION) &&
	    (reg->cpu_mask || reg->cpu_mask_size))
		return -EINVAL;

	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	ret = mp_file_register(channel, reg);
	mutex_unlock(&channel->mutex);
	return ret;
}

static long mp_channel_listener(struct mp_channel *channel, void *arg,
				void __user *user)
{
	struct megapipe_listener *listener = arg;
	struct mp_handle *handle;
	long ret = 0;

	if (listener->resv ||
	    memchr_inv(listener->resv2, 0, sizeof(listener->resv2)))
		return -EINVAL;

	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	handle = mp_handle_lookup(&channel->handles, listener->handle);
	if (!handle)
		ret = -EBADF;
	else if (handle->kind != MP_KIND_LISTENER)
		ret = -EOPNOTSUPP;
	else
		mp_accept_describe(handle, listener);
	mutex_unlock(&channel->mutex);
	return ret;
}

/**
 * union mp_ioctl_arg - room for the structure of any ioctl but DISPATCH
 * @info: MEGAPIPE_IOC_INFO
 * @stats: MEGAPIPE_IOC_STATS
 * @reg: MEGAPIPE_IOC_REGISTER
 * @opt: MEGAPIPE_IOC_SETSOCKOPT, MEGAPIPE_IOC_GETSOCKOPT
 * @name: MEGAPIPE_IOC_SOCKNAME
 * @tofd: MEGAPIPE_IOC_TOFD
 * @listener: MEGAPIPE_IOC_LISTENER
 */
union mp_ioctl_arg {
	struct megapipe_info		info;
	struct megapipe_stats		stats;
	struct megapipe_register	reg;
	struct megapipe_sockopt		opt;
	struct megapipe_sockname	name;
	struct megapipe_tofd		tofd;
	struct megapipe_listener	listener;
};

/**
 * struct mp_ioctl - an ioctl other than DISPATCH
 * @cmd: MEGAPIPE_IOC_*
 * @min: bytes that the program's structure must have
 * @run: what it does with the structure, which was copied in, and is copied
 *	out if @cmd says so and there was no error.  @user is where from.
 *
 * Structures grow at the end, so programs may have longer ones, if what this
 * kernel does not know is zero, or shorter ones; what they lack is zero.
 */
struct mp_ioctl {
	unsigned int	cmd;
	unsigned int	min;
	long		(*run)(struct mp_channel *channel, void *arg,
			       void __user *user);
};

static const struct mp_ioctl mp_ioctls[] = {
	{
		.cmd	= MEGAPIPE_IOC_INFO,
		.min	= offsetofend(struct megapipe_info, max_dispatch),
		.run	= mp_channel_info,
	},
	{
		.cmd	= MEGAPIPE_IOC_STATS,
		.min	= offsetofend(struct megapipe_stats, lwsockets),
		.run	= mp_channel_stats,
	},
	{
		.cmd	= MEGAPIPE_IOC_REGISTER,
		.min	= offsetofend(struct megapipe_register, cookie),
		.run	= mp_channel_register,
	},
	{
		.cmd	= MEGAPIPE_IOC_SETSOCKOPT,
		.min	= offsetofend(struct megapipe_sockopt, value),
		.run	= mp_sockopt_set,
	},
	{
		.cmd	= MEGAPIPE_IOC_GETSOCKOPT,
		.min	= offsetofend(struct megapipe_sockopt, value),
		.run	= mp_sockopt_get,
	},
	{
		.cmd	= MEGAPIPE_IOC_SOCKNAME,
		.min	= offsetofend(struct megapipe_sockname, len),
		.run	= mp_sockopt_name,
	},
	{
		.cmd	= MEGAPIPE_IOC_TOFD,
		.min	= offsetofend(struct megapipe_tofd, flags),
		.run	= mp_sockopt_tofd,
	},
	{
		.cmd	= MEGAPIPE_IOC_LISTENER,
		.min	= offsetofend(struct megapipe_listener, migrated_in),
		.run	= mp_channel_listener,
	},
};

static unsigned int mp_ioctl_unsized(unsigned int cmd)
{
	return cmd & ~IOCSIZE_MASK;
}

static long mp_ioctl_run(struct mp_channel *channel,
			 const struct mp_ioctl *ioctl, void __user *user,
			 size_t size)
{
	size_t known = _IOC_SIZE(ioctl->cmd);
	union mp_ioctl_arg arg;
	long ret;

	if (size < ioctl->min)
		return -EINVAL;
	memset(&arg, 0, sizeof(arg));
	if (_IOC_DIR(ioctl->cmd) & _IOC_WRITE) {
		ret = copy_struct_from_user(&arg, known, user, size);
		if (ret)
			return ret;
	}
	ret = ioctl->run(channel, &arg, user);
	if (ret < 0 || !(_IOC_DIR(ioctl->cmd) & _IOC_READ))
		return ret;
	if (copy_to_user(user, &arg, min(size, known)) ||
	    (size > known && clear_user(user + known, size - known)))
		return -EFAULT;
	return ret;
}

static long mp_channel_ioctl(struct file *file, unsigned int cmd,
			     unsigned long arg)
{
	struct mp_channel *channel = file->private_data;
	void __user *user = (void __user *)arg;
	unsigned int i;

	/* Buffers are addresses of the address space that opened it. */
	if (current->mm != channel->mm)
		return -EPERM;

	if (likely(cmd == MEGAPIPE_IOC_DISPATCH))
		return mp_queue_dispatch(channel, user,
					 sizeof(struct megapipe_dispatch));
	for (i = 0; i < ARRAY_SIZE(mp_ioctls); i++)
		if (mp_ioctl_unsized(cmd) == mp_ioctl_unsized(mp_ioctls[i].cmd))
			return mp_ioctl_run(channel, &mp_ioctls[i], user,
					    _IOC_SIZE(cmd));
	if (mp_ioctl_unsized(cmd) != mp_ioctl_unsized(MEGAPIPE_IOC_DISPATCH))
		return -ENOTTY;
	if (_IOC_SIZE(cmd) < offsetofend(struct megapipe_dispatch, done_cmds))
		return -EINVAL;
	return mp_queue_dispatch(channel, user, _IOC_SIZE(cmd));
}

#ifdef CONFIG_PROC_FS
static void mp_channel_show_fdinfo(struct seq_file *m, struct file *file)
{
	const struct mp_channel *channel = file->private_data;
	struct megapipe_stats stats;
	unsigned int i;

	mp_channel_snapshot(channel, &stats);
	seq_printf(m, "abi:\t%u\n", MEGAPIPE_ABI_VERSION);
	seq_printf(m, "channel:\t%llu\n", channel->id);
	seq_printf(m, "handles:\t%llu\n", stats.handles);
	seq_printf(m, "max_handles:\t%u\n", channel->handles.max);
	seq_printf(m, "files:\t%u\n",
		   mp_peek(channel->handles.kinds[MP_KIND_FILE]));
	seq_printf(m, "listeners:\t%u\n",
		   mp_peek(channel->handles.kinds[MP_KIND_LISTENER]));
	seq_printf(m, "lwsockets:\t%llu\n", stats.lwsockets);
	seq_printf(m, "partitions:\t%u\n", mp_peek(channel->partitions));
	seq_printf(m, "dispatches:\t%llu\n", stats.dispatches);
	seq_printf(m, "commands:\t%llu\n", stats.commands);
	seq_printf(m, "completions:\t%llu\n", stats.events);
	seq_printf(m, "sleeps:\t%llu\n", stats.sleeps);
	seq_printf(m, "accepts:\t%llu\n", stats.accepts);
	seq_printf(m, "accepts_foreign:\t%llu\n", stats.accepts_foreign);
	seq_printf(m, "migrated_in:\t%llu\n", stats.migrated_in);
	/* Dispatches with 0, 1, 2-3, 4-7, ... completions */
	seq_puts(m, "batches:\t");
	for (i = 0; i < MP_BATCH_SIZES; i++)
		seq_printf(m, "%s%llu", i ? " " : "",
			   mp_peek(channel->batches[i]));
	seq_putc(m, '\n');
}
#endif

const struct file_operations megapipe_channel_fops = {
	.owner		= THIS_MODULE,
	.open		= mp_channel_open,
	.flush		= mp_channel_flush,
	.release	= mp_channel_release,
	.poll		= mp_channel_poll,
	.unlocked_ioctl	= mp_channel_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
#ifdef CONFIG_PROC_FS
	.show_fdinfo	= mp_channel_show_fdinfo,
#endif
};

bool megapipe_is_channel(const struct file *file)
{
	return file->f_op == &megapipe_channel_fops;
}
