// SPDX-License-Identifier: GPL-2.0-only
/*
 * The dispatch: run commands, look at what became ready, report completions,
 * and sleep when there are none.
 *
 * A completion exists only once there is room for it in the array that the
 * program gave.  When the room is used up, handles stay on the run list and
 * are looked at by the next dispatch, so nothing needs to be stored for a
 * program that does not keep up.
 */

#include <linux/bitops.h>
#include <linux/compat.h>
#include <linux/hrtimer.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/task_work.h>
#include <linux/uaccess.h>
#include <trace/events/megapipe.h>

#include "command.h"
#include "queue.h"

/* Copy out the completions that wait in the channel. */
void mp_queue_flush(struct mp_channel *channel)
{
	struct mp_batch *batch = channel->batch;
	u32 n = batch->next - channel->events;

	if (n && copy_to_user(batch->events + batch->nr - n, channel->events,
			      n * sizeof(*channel->events)))
		batch->error = -EFAULT;
	batch->next = channel->events;
}

/* The same where it is not done for each message */
void mp_queue_complete(struct mp_handle *handle, u16 op, s32 res)
{
	mp_queue_post(handle->channel, handle->id, handle->cookie, op, 0, res,
		      0);
}

static void mp_queue_append(struct mp_channel *channel,
			    struct llist_node *first, struct llist_node *last)
{
	last->next = NULL;
	if (channel->run_first)
		channel->run_last->next = first;
	else
		WRITE_ONCE(channel->run_first, first);
	channel->run_last = last;
}

/* Have the handle looked at again, after the others. */
void mp_queue_again(struct mp_handle *handle, int events)
{
	if (!(atomic_fetch_or(events | MP_EV_QUEUED, &handle->events) &
	      MP_EV_QUEUED))
		mp_queue_append(handle->channel, &handle->ready,
				&handle->ready);
}

static void mp_queue_take_ready(struct mp_channel *channel)
{
	struct llist_node *newest = llist_del_all(&channel->ready);

	if (newest)
		mp_queue_append(channel, llist_reverse_order(newest), newest);
}

static struct mp_handle *mp_queue_next(struct mp_channel *channel)
{
	struct llist_node *node = channel->run_first;

	if (!node)
		return NULL;
	WRITE_ONCE(channel->run_first, node->next);
	return llist_entry(node, struct mp_handle, ready);
}

/*
 * Look once at each handle that is on the run list now, while there is room.
 * Those that queue themselves again wait for the next pass.
 */
static void mp_queue_pass(struct mp_channel *channel)
{
	const struct llist_node *last = channel->run_last;
	struct mp_handle *handle;
	unsigned int n = 0;
	bool end = false;
	int events;

	while (!end && mp_queue_room(channel) &&
	       (handle = mp_queue_next(channel))) {
		end = &handle->ready == last;
		if (unlikely(handle->dead)) {
			mp_handle_free(handle);
			continue;
		}
		/* See mp_handle_ready(): clear first, then look. */
		events = atomic_xchg(&handle->events, 0) & ~MP_EV_QUEUED;
		mp_handle_run(handle, events);
		if (!(++n % MP_CHUNK))
			cond_resched();
	}
}

/*
 * As many passes as bring completions.  A handle that queues itself again for
 * nothing must not keep the dispatch from its deadline, or from a signal.
 */
static void mp_queue_run(struct mp_channel *channel)
{
	struct mp_batch *batch = channel->batch;
	u32 nr;

	do {
		nr = batch->nr;
		mp_queue_pass(channel);
	} while (channel->run_first && batch->nr != nr &&
		 mp_queue_room(channel) && !signal_pending(current));
}

/* Anything for a dispatch to do?  Without the mutex, a hint. */
bool mp_queue_pending(const struct mp_channel *channel)
{
	return !llist_empty(&channel->ready) || READ_ONCE(channel->run_first);
}

/*
 * Sleep until there is something to do, without the mutex.  Returns 0 if there
 * may be, -ETIME after @deadline, -EINTR for a signal.
 *
 * Waiters are exclusive: an event wakes one of them.  Whatever made this one go
 * on, the caller looks at the lists once more, and on its way out wakes another
 * one for what is left there (mp_queue_pass_on()), so a wake-up that was meant
 * for a thread which just gave up is not lost with it.
 */
static int mp_queue_wait(struct mp_channel *channel, ktime_t *deadline)
{
	struct mp_batch *batch = channel->batch;
	DEFINE_WAIT(wait);
	int err = 0;

	mp_queue_flush(channel);
	if (batch->error)
		return 0;
	channel->stats.sleeps++;
	mutex_unlock(&channel->mutex);
	/*
	 * What a CLOSE has closed is released by the task on its way to user
	 * space: do not keep the peer waiting for it until something happens.
	 */
	if (task_work_pending(current))
		task_work_run();

	/*
	 * On the wait queue first, then the look at the lists: the barrier in
	 * here pairs with the one in llist_add() in mp_handle_ready(), and with
	 * that of wq_has_sleeper() in mp_queue_pass_on().
	 */
	prepare_to_wait_exclusive(&channel->wait, &wait,
				  TASK_INTERRUPTIBLE | TASK_FREEZABLE);
	if (signal_pending(current))
		err = -EINTR;
	else if (mp_queue_pending(channel))
		/* Events that complete nothing must not go on for ever. */
		err = deadline && ktime_get() >= *deadline ? -ETIME : 0;
	else if (!schedule_hrtimeout_range(deadline, current->timer_slack_ns,
					   HRTIMER_MODE_ABS))
		err = -ETIME;
	finish_wait(&channel->wait, &wait);
	cond_resched();

	/* Another thread may hold it for as long as its buffers are paged in. */
	batch->locked = !mutex_lock_killable(&channel->mutex);
	if (!batch->locked)
		return -EINTR;
	channel->batch = batch;
	return err;
}

/*
 * What found no room, or was left by a thread that is being killed, is for
 * whoever waits: a poller of the channel, or another thread.
 */
static void mp_queue_pass_on(struct mp_channel *channel)
{
	if (unlikely(mp_queue_pending(channel)) &&
	    /* Its barrier pairs with prepare_to_wait_exclusive(), see there */
	    wq_has_sleeper(&channel->wait))
		wake_up_interruptible_poll(&channel->wait,
					   EPOLLIN | EPOLLRDNORM);
}

/* Returns the number of commands consumed, or -EFAULT if that is 0. */
static int mp_queue_run_commands(struct mp_channel *channel,
				 const struct megapipe_cmd __user *cmds, u32 nr)
{
	u32 done = 0, n, ran;

	while (done < nr && !fatal_signal_pending(current)) {
		n = min_t(u32, nr - done, MP_CHUNK);
		if (copy_from_user(channel->cmds, cmds + done,
				   n * sizeof(*cmds)))
			return done ? done : -EFAULT;
		ran = mp_command_run_chunk(channel, n);
		done += ran;
		if (ran < n)
			break;
		cond_resched();
	}
	return done;
}

static int mp_queue_check(const struct megapipe_dispatch *d)
{
	if (d->nr_cmds > MP_MAX_DISPATCH || d->max_events > MP_MAX_DISPATCH ||
	    d->min_events > d->max_events || d->done_cmds ||
	    d->flags || d->resv || (d->sigsetsize && !d->sigmask))
		return -EINVAL;
	return 0;
}

/* As in epoll_pwait(); none, if the address is NULL */
static int mp_queue_set_sigmask(const struct megapipe_dispatch *d)
{
#ifdef CONFIG_COMPAT
	if (in_compat_syscall())
		return set_compat_user_sigmask(u64_to_user_ptr(d->sigmask),
					       d->sigsetsize);
#endif
	return set_user_sigmask(u64_to_user_ptr(d->sigmask), d->sigsetsize);
}

/* Returns the number of completions, or an error. */
static long mp_queue_exchange(struct mp_channel *channel,
			      struct megapipe_dispatch *d)
{
	struct mp_batch batch = {
		.events = u64_to_user_ptr(d->events),
		.next = channel->events,
		.max = d->max_events,
	};
	ktime_t deadline, *until = NULL;
	int done, err = 0;

	if (mutex_lock_killable(&channel->mutex))
		return -EINTR;
	batch.locked = true;
	channel->batch = &batch;
	channel->stats.dispatches++;

	done = mp_queue_run_commands(channel, u64_to_user_ptr(d->cmds),
				     d->nr_cmds);
	if (done < 0) {
		mutex_unlock(&channel->mutex);
		return done;
	}
	d->done_cmds = done;
	channel->stats.commands += done;

	if (d->timeout_ns > 0) {
		deadline = ktime_add_safe(ktime_get(), d->timeout_ns);
		until = &deadline;
	}
	for (;;) {
		mp_queue_take_ready(channel);
		mp_queue_run(channel);
		if (batch.nr >= d->min_events || batch.error || err)
			break;
		if (!d->timeout_ns)
			break;
		err = mp_queue_wait(channel, until);
		if (unlikely(!batch.locked))
			return err;	/* being killed */
	}

	mp_queue_flush(channel);
	channel->stats.events += batch.nr;
	channel->batches[fls(batch.nr)]++;
	mutex_unlock(&channel->mutex);
	if (batch.error)
		return batch.error;
	if (batch.nr)
		return batch.nr;
	return err == -EINTR ? err : 0;
}

/* MEGAPIPE_IOC_DISPATCH; the program's structure has @size bytes. */
long mp_queue_dispatch(struct mp_channel *channel,
		       struct megapipe_dispatch __user *arg, size_t size)
{
	struct megapipe_dispatch d;
	long ret;

	if (likely(size == sizeof(d)))
		ret = copy_from_user(&d, arg, sizeof(d)) ? -EFAULT : 0;
	else
		ret = copy_struct_from_user(&d, sizeof(d), arg, size);
	ret = ret ?: mp_queue_check(&d);
	ret = ret ?: mp_queue_set_sigmask(&d);
	if (ret)
		return ret;

	ret = mp_queue_exchange(channel, &d);
	mp_queue_pass_on(channel);

	/*
	 * The handler runs with the mask of the call.  The signal may be gone:
	 * reading a signalfd finds out that another thread took it.
	 */
	restore_saved_sigmask_unless(ret == -EINTR && signal_pending(current));
	if (put_user(d.done_cmds, &arg->done_cmds))
		return -EFAULT;
	return ret;
}

/* Free what is left on the lists of a channel whose handles were dropped. */
void mp_queue_drain(struct mp_channel *channel)
{
	struct mp_handle *handle;

	mp_queue_take_ready(channel);
	while ((handle = mp_queue_next(channel)))
		mp_handle_free(handle);
}
