// SPDX-License-Identifier: GPL-2.0-only
/*
 * The floor: an echo server in the kernel, to measure interfaces by.
 *
 * What a transaction costs a server is what TCP costs, plus what the interface
 * costs by which a program uses TCP.  This server has no interface: a kernel
 * thread on each CPU takes connections from its own partition of the listener,
 * is woken by the same callbacks as a channel, and moves bytes between a buffer
 * of its own and tcp_recvmsg() and tcp_sendmsg().  What another server costs
 * beyond it is the cost of that server's interface.
 *
 *	open	nothing yet
 *	write	"FD SIZE CPUS": echo messages of up to SIZE bytes for the
 *		connections of listening socket FD whose packets come to CPUS, a
 *		list as in /sys, by a thread bound to the caller's CPU
 *	read	"connections transactions errors", of this file
 *	close	end the thread and its connections
 *
 * It is for measurements: the device is root's, a peer that sends more than it
 * reads is cut off, and security modules are not asked.  Connections are charged
 * to no memory cgroup, so compare with servers in the root cgroup.
 *
 * Lifetime of a connection.  Callbacks find it under RCU through sk_user_data,
 * so its memory is freed a grace period after the last of them was cut; until
 * the file is closed it is kept for another connection.  Whoever sets .queued
 * puts it on the ready list; who closes it sets .queued for good, or learns
 * that it is on the list, from which it is then taken first.  A callback that
 * comes late to a connection in use again makes the thread look once for
 * nothing.
 */

#include <linux/cpumask.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kthread.h>
#include <linux/llist.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <net/inet_connection_sock.h>
#include <net/rps.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "io.h"
#include "lwsocket.h"
#include "partition.h"

#define MP_FLOOR_MAX_SIZE	65536
/* Connections accepted before others get their turn, as in a channel */
#define MP_FLOOR_BUDGET		64
/* Messages of one connection echoed before others get their turn */
#define MP_FLOOR_TURN		16

/**
 * struct mp_floor - an open file, and its server once there is one
 * @mutex: one write at a time
 * @task: the thread, or NULL
 * @listener: the listening socket, whose file is referenced
 * @partition: this server's partition of it
 * @wait: on the partition's wait queue
 * @spare: connections to be used again, linked by .ready
 * @size: bytes of a message
 * @buffer: of that many bytes
 * @connections: connections accepted
 * @transactions: messages of @size bytes echoed
 * @errors: connections cut off, or not taken
 * @open: connections
 * @ready: connections to look at; the callbacks add to it
 */
struct mp_floor {
	struct mutex		mutex;	/* of write() */
	struct task_struct	*task;
	struct socket		*listener;
	struct mp_partition	*partition;
	wait_queue_entry_t	wait;
	struct llist_node	*spare;
	u32			size;
	void			*buffer;
	unsigned long		connections;
	unsigned long		transactions;
	unsigned long		errors;
	struct list_head	open;
	struct llist_head	ready ____cacheline_aligned_in_smp;
};

/**
 * struct mp_floor_connection - a connection
 * @floor: whose it is
 * @ready: on the ready list, or on the list of spare ones
 * @queued: bit 0: on the ready list, or closed
 * @node: on mp_floor.open
 * @bytes: of the current message, echoed
 * @sock: the part of a socket that TCP looks at
 */
struct mp_floor_connection {
	struct mp_floor		*floor;
	struct llist_node	ready;
	unsigned long		queued;
	struct list_head	node;
	u32			bytes;
	struct socket		sock;
};

/* Events */

static void mp_floor_event(struct sock *sk)
{
	struct mp_floor_connection *c;

	rcu_read_lock();
	c = mp_lwsocket_owner(sk);
	if (c && !test_and_set_bit(0, &c->queued)) {
		/* Not the first: whoever added that one wakes the thread. */
		if (llist_add(&c->ready, &c->floor->ready))
			wake_up_process(c->floor->task);
	}
	rcu_read_unlock();
}

static int mp_floor_wake_accept(wait_queue_entry_t *wait, unsigned int mode,
				int sync, void *key)
{
	struct mp_floor *floor = container_of(wait, struct mp_floor, wait);

	return wake_up_process(floor->task);
}

/* Connections */

static struct mp_floor_connection *mp_floor_alloc(struct mp_floor *floor)
{
	struct mp_floor_connection *c;

	if (floor->spare) {
		c = llist_entry(floor->spare, struct mp_floor_connection, ready);
		floor->spare = floor->spare->next;
	} else {
		c = kzalloc(sizeof(*c), GFP_KERNEL);
		if (!c)
			return NULL;
		c->floor = floor;
		init_waitqueue_head(&c->sock.wq.wait);
	}
	c->bytes = 0;
	c->sock.type = floor->listener->type;
	c->sock.ops = READ_ONCE(floor->listener->ops);
	c->sock.flags = BIT(SOCK_NO_INODE);
	c->sock.wq.flags = 0;
	return c;
}

/* Nobody can reach it. */
static void mp_floor_keep(struct mp_floor *floor, struct mp_floor_connection *c)
{
	c->ready.next = floor->spare;
	floor->spare = &c->ready;
}

/* Returns false, and leaves the connection as it is, if others claim it. */
static bool mp_floor_graft(struct mp_floor_connection *c, struct sock *sk)
{
	struct socket *sock = &c->sock;
	bool eligible;

	sock->state = SS_CONNECTED;
	lock_sock(sk);
	sock_rps_record_flow(sk);
	write_lock_bh(&sk->sk_callback_lock);
	eligible = mp_lwsocket_eligible(sk);
	if (unlikely(!eligible))
		goto out_unlock;
	/* From here on it may be queued; before, late events keep away. */
	clear_bit(0, &c->queued);
	rcu_assign_pointer(sk->sk_wq, &sock->wq);
	sock->sk = sk;
	sk_set_socket(sk, sock);
	rcu_assign_sk_user_data(sk, c);
	WRITE_ONCE(sk->sk_data_ready, mp_floor_event);
	WRITE_ONCE(sk->sk_state_change, mp_floor_event);
	WRITE_ONCE(sk->sk_error_report, mp_floor_event);
out_unlock:
	write_unlock_bh(&sk->sk_callback_lock);
	release_sock(sk);
	return eligible;
}

static void mp_floor_close(struct mp_floor_connection *c)
{
	mp_lwsocket_close(&c->sock);
	list_del(&c->node);
}

/* The thread */

/* Echo what there is.  Returns false if the connection is to be closed. */
static bool mp_floor_echo(struct mp_floor *floor, struct mp_floor_connection *c)
{
	struct sock *sk = c->sock.sk;
	int n, sent, len, turn;

	for (turn = 0; turn < MP_FLOOR_TURN; turn++) {
		struct kvec vec = { floor->buffer, floor->size };
		struct msghdr msg = {};

		iov_iter_kvec(&msg.msg_iter, ITER_DEST, &vec, 1, vec.iov_len);
		sock_rps_record_flow(sk);
		n = tcp_recvmsg(sk, &msg, vec.iov_len, MSG_DONTWAIT, &len);
		if (n <= 0)
			return n == -EAGAIN;

		vec.iov_len = n;
		msg = (struct msghdr) {
			.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL,
		};
		iov_iter_kvec(&msg.msg_iter, ITER_SOURCE, &vec, 1, n);
		sock_rps_record_flow(sk);
		sent = tcp_sendmsg(sk, &msg, n);
		if (sent != n) {
			WRITE_ONCE(floor->errors, floor->errors + 1);
			return false;
		}
		c->bytes += n;
		if (c->bytes >= floor->size) {
			c->bytes -= floor->size;
			WRITE_ONCE(floor->transactions,
				   floor->transactions + 1);
		}
		if (!mp_io_tcp_readable(sk))
			return true;
	}
	/* Others first */
	mp_floor_event(sk);
	return true;
}

static void mp_floor_look(struct mp_floor *floor, struct mp_floor_connection *c)
{
	/* Closed while it was on the list: now nobody has it. */
	if (!c->sock.sk) {
		mp_floor_keep(floor, c);
		return;
	}
	/* An event from here on queues it again. */
	clear_bit(0, &c->queued);
	/*
	 * Clear before the look at the socket; pairs with test_and_set_bit() of
	 * mp_floor_event(), which comes after the data was queued.
	 */
	smp_mb__after_atomic();
	if (mp_floor_echo(floor, c))
		return;
	mp_floor_close(c);
	if (!test_and_set_bit(0, &c->queued))
		mp_floor_keep(floor, c);
}

/*
 * The socket to accept from, or NULL.  The listener's own queue has what came
 * before there was a partition; nobody is woken for it, but those that connect
 * later do wake somebody.
 */
static struct sock *mp_floor_listener(const struct mp_floor *floor)
{
	struct sock *sk = mp_partition_sock(floor->partition)->sk;

	if (!reqsk_queue_empty(&inet_csk(sk)->icsk_accept_queue))
		return sk;
	sk = floor->listener->sk;
	if (!reqsk_queue_empty(&inet_csk(sk)->icsk_accept_queue))
		return sk;
	return NULL;
}

static void mp_floor_accept(struct mp_floor *floor)
{
	struct sock *listener;
	int i;

	for (i = 0; i < MP_FLOOR_BUDGET; i++) {
		struct proto_accept_arg arg = { .flags = O_NONBLOCK };
		struct mp_floor_connection *c;
		struct sock *sk;

		listener = mp_floor_listener(floor);
		if (!listener)
			return;
		c = mp_floor_alloc(floor);
		if (!c) {
			/* With the connections still queued: not at full speed */
			schedule_timeout_idle(1);
			return;
		}
		sk = inet_csk_accept(listener, &arg);
		if (sk && mp_floor_graft(c, sk)) {
			/* Until the file is closed its module cannot go. */
			list_add(&c->node, &floor->open);
			WRITE_ONCE(floor->connections, floor->connections + 1);
			/* What came before the callbacks were there */
			if (mp_io_tcp_readable(sk))
				mp_floor_event(sk);
			continue;
		}
		if (sk) {
			WRITE_ONCE(floor->errors, floor->errors + 1);
			sk->sk_prot->close(sk, 0);
		}
		set_bit(0, &c->queued);
		mp_floor_keep(floor, c);
	}
}

static int mp_floor_run(void *arg)
{
	struct mp_floor_connection *c, *next;
	struct mp_floor *floor = arg;
	struct llist_node *ready;

	for (;;) {
		/* Before the look; pairs with the barrier of a wake-up. */
		set_current_state(TASK_IDLE);
		if (kthread_should_stop())
			break;
		if (llist_empty(&floor->ready) && !mp_floor_listener(floor))
			schedule();
		__set_current_state(TASK_RUNNING);

		mp_floor_accept(floor);
		ready = llist_reverse_order(llist_del_all(&floor->ready));
		llist_for_each_entry_safe(c, next, ready, ready) {
			mp_floor_look(floor, c);
			cond_resched();
		}
	}
	__set_current_state(TASK_RUNNING);

	list_for_each_entry_safe(c, next, &floor->open, node) {
		mp_floor_close(c);
		if (!test_and_set_bit(0, &c->queued))
			mp_floor_keep(floor, c);
		cond_resched();
	}
	return 0;
}

/* The file */

static int mp_floor_open(struct inode *inode, struct file *file)
{
	struct mp_floor *floor = kzalloc(sizeof(*floor), GFP_KERNEL);

	if (!floor)
		return -ENOMEM;
	mutex_init(&floor->mutex);
	INIT_LIST_HEAD(&floor->open);
	file->private_data = floor;
	return 0;
}

static int mp_floor_start(struct mp_floor *floor, int fd,
			  const struct cpumask *cpus)
{
	struct task_struct *task;
	int err;

	floor->listener = sockfd_lookup(fd, &err);
	if (!floor->listener)
		return err;
	err = -EINVAL;
	if (!sk_is_tcp(floor->listener->sk) ||
	    inet_sk_state_load(floor->listener->sk) != TCP_LISTEN)
		goto out_listener;
	err = -ENOMEM;
	floor->buffer = kvmalloc(floor->size, GFP_KERNEL);
	if (!floor->buffer)
		goto out_listener;
	floor->partition = mp_partition_create(floor->listener, cpus);
	if (IS_ERR(floor->partition)) {
		err = PTR_ERR(floor->partition);
		goto out_buffer;
	}
	task = kthread_create(mp_floor_run, floor, "megapipe-floor");
	if (IS_ERR(task)) {
		err = PTR_ERR(task);
		goto out_partition;
	}
	kthread_bind(task, raw_smp_processor_id());
	floor->task = get_task_struct(task);
	init_waitqueue_func_entry(&floor->wait, mp_floor_wake_accept);
	add_wait_queue(&mp_partition_sock(floor->partition)->wq.wait,
		       &floor->wait);
	wake_up_process(task);
	return 0;

out_partition:
	mp_partition_release(floor->partition);
out_buffer:
	kvfree(floor->buffer);
out_listener:
	sockfd_put(floor->listener);
	return err;
}

static ssize_t mp_floor_write(struct file *file, const char __user *from,
			      size_t len, loff_t *pos)
{
	struct mp_floor *floor = file->private_data;
	cpumask_var_t cpus;
	int fd, at = 0, err;
	char *text;

	if (len >= PAGE_SIZE)
		return -E2BIG;
	text = memdup_user_nul(from, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	if (!zalloc_cpumask_var(&cpus, GFP_KERNEL)) {
		kfree(text);
		return -ENOMEM;
	}

	mutex_lock(&floor->mutex);
	err = -EBUSY;
	if (floor->task)
		goto out;
	err = -EINVAL;
	if (sscanf(text, "%d %u %n", &fd, &floor->size, &at) < 2 || !at ||
	    !floor->size || floor->size > MP_FLOOR_MAX_SIZE)
		goto out;
	err = cpulist_parse(strim(text + at), cpus);
	if (err)
		goto out;
	cpumask_and(cpus, cpus, cpu_possible_mask);
	err = cpumask_empty(cpus) ? -EINVAL : mp_floor_start(floor, fd, cpus);
out:
	mutex_unlock(&floor->mutex);
	free_cpumask_var(cpus);
	kfree(text);
	return err ?: len;
}

static ssize_t mp_floor_read(struct file *file, char __user *to, size_t len,
			     loff_t *pos)
{
	const struct mp_floor *floor = file->private_data;
	char text[64];
	int n;

	n = scnprintf(text, sizeof(text), "%lu %lu %lu\n",
		      READ_ONCE(floor->connections),
		      READ_ONCE(floor->transactions),
		      READ_ONCE(floor->errors));
	return simple_read_from_buffer(to, len, pos, text, n);
}

static int mp_floor_release(struct inode *inode, struct file *file)
{
	struct mp_floor *floor = file->private_data;
	struct mp_floor_connection *c, *next;

	if (floor->task) {
		remove_wait_queue(&mp_partition_sock(floor->partition)->wq.wait,
				  &floor->wait);
		kthread_stop(floor->task);
		/* Callbacks that have found a connection or the thread */
		synchronize_rcu();
		put_task_struct(floor->task);
		llist_for_each_entry_safe(c, next, floor->ready.first, ready)
			kfree(c);
		llist_for_each_entry_safe(c, next, floor->spare, ready)
			kfree(c);
		mp_partition_release(floor->partition);
		kvfree(floor->buffer);
		sockfd_put(floor->listener);
	}
	kfree(floor);
	return 0;
}

static const struct file_operations mp_floor_fops = {
	.owner		= THIS_MODULE,
	.open		= mp_floor_open,
	.read		= mp_floor_read,
	.write		= mp_floor_write,
	.release	= mp_floor_release,
};

static struct miscdevice mp_floor_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "megapipe-floor",
	.mode	= 0600,
	.fops	= &mp_floor_fops,
};

builtin_misc_device(mp_floor_device);
