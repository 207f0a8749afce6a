// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Requests, and the batch that collects them.
 *
 * A request writes one command behind those already collected.  The batch is
 * handed to the kernel, in the order of the requests,
 *   (i)   when it holds as many commands as the threshold (mp_push() here),
 *   (ii)  when the program asks for a completion and none is left of those
 *	   fetched (mp_dispatch()),
 *   (iii) when the program says so (mp_flush()).
 * The same system call fetches completions as far as the buffer has room.
 */
#include <limits.h>
#include <string.h>

#include "internal.h"

_Static_assert(sizeof(struct megapipe_cmd) == 32, "ABI");
_Static_assert(sizeof(struct megapipe_event) == 32, "ABI");
_Static_assert(sizeof(struct megapipe_dispatch) == 64, "ABI");

/*
 * One system call: the collected commands go in, completions come out.
 * Returns the number of completions fetched.  Commands that the kernel has not
 * consumed stay collected, in order, whatever is returned.
 */
int mp_run(struct mp_channel *ch, unsigned int min_events, int64_t timeout_ns)
{
	size_t nr = (size_t)(ch->cmd_next - ch->cmds);
	struct megapipe_dispatch run = {
		.cmds = mp_address(ch->cmds),
		.nr_cmds = (uint32_t)nr,
		.min_events = min_events,
		.timeout_ns = timeout_ns,
	};
	int fetched;

	if (unlikely(ch->fd < 0))
		return -EBADF;
	if (ch->ev_next == ch->ev_end)
		mp_rewind(ch);
	run.events = mp_address(ch->ev_end);
	run.max_events = (uint32_t)(ch->ev_limit - ch->ev_end);

	fetched = mp_sys_ioctl(ch->fd, MEGAPIPE_IOC_DISPATCH, &run);
	if (fetched > 0)
		ch->ev_end += fetched;
	ch->lagging = run.done_cmds != nr;
	if (likely(run.done_cmds == nr)) {
		ch->cmd_next = ch->cmds;
		ch->iov_used = 0;
	} else if (run.done_cmds) {
		nr -= run.done_cmds;
		memmove(ch->cmds, ch->cmds + run.done_cmds,
			nr * sizeof(*ch->cmds));
		ch->cmd_next = ch->cmds + nr;
	}
	return fetched;
}

/*
 * Hand commands over until the last one collected is before 'below'.  A batch
 * stops early when a command failed and the buffer had no room for saying so:
 * then room is made, enough for all that are left to fail.
 */
int mp_drain(struct mp_channel *ch, const struct megapipe_cmd *below)
{
	const struct megapipe_cmd *before;
	bool roomy = false;
	int ret;

	while (ch->cmd_next >= below) {
		before = ch->cmd_next;
		ret = mp_run(ch, 0, 0);
		if (ret < 0)
			return ret;
		if (likely(ch->cmd_next < below))
			break;
		if (roomy && ch->cmd_next == before)
			return -EPROTO;		/* consumes nothing */
		ret = mp_make_room(ch, (size_t)(ch->cmd_next - ch->cmds));
		if (ret)
			return ret;
		roomy = true;
	}
	return 0;
}

/* The threshold is reached.  An error means that the request is not taken. */
static __attribute__((noinline)) int batch_full(struct mp_channel *ch)
{
	int ret = mp_drain(ch, ch->cmd_flush);

	if (likely(!ret) || ch->cmd_next == ch->cmds)
		return 0;
	ch->cmd_next--;
	return ret;
}

static inline int push(mp_handle handle, struct megapipe_cmd cmd)
{
	struct mp_channel *ch = handle.channel;

	if (unlikely(!ch || handle.id <= 0))
		return -EBADF;
	cmd.handle = handle.id;
	*ch->cmd_next = cmd;
	if (likely(++ch->cmd_next < ch->cmd_flush))
		return 0;
	return batch_full(ch);
}

int mp_flush(struct mp_channel *channel)
{
	if (!channel)
		return -EINVAL;
	if (channel->fd < 0)
		return -EBADF;
	return mp_drain(channel, channel->cmds + 1);
}

static int register_descriptor(struct mp_channel *ch, int fd, void *cookie,
			       const cpu_set_t *cpu_mask)
{
	struct megapipe_register reg = {
		.fd = fd,
		.flags = cpu_mask ? MEGAPIPE_REG_PARTITION : 0,
		.cookie = mp_address(cookie),
		.cpu_mask = mp_address(cpu_mask),
		.cpu_mask_size = cpu_mask ? sizeof(*cpu_mask) : 0,
	};
	int id = mp_sys_ioctl(ch->fd, MEGAPIPE_IOC_REGISTER, &reg);

	/*
	 * Registering overtakes the batch.  That is told apart only by a
	 * refusal that an mp_unregister() or mp_close() still in the batch
	 * would have prevented: descriptor registered already, no handle left.
	 */
	if (unlikely(id < 0) && ch->cmd_next > ch->cmds &&
	    !mp_drain(ch, ch->cmds + 1))
		id = mp_sys_ioctl(ch->fd, MEGAPIPE_IOC_REGISTER, &reg);
	return id;
}

int mp_register(struct mp_channel *channel, int fd, void *cookie,
		const cpu_set_t *cpu_mask, mp_handle *handle)
{
	mp_handle new_handle = { channel, fd };

	if (!channel || !handle)
		return -EINVAL;
	if (fd < 0 || channel->fd < 0)
		return -EBADF;

	/* An lwsocket has its handle by birth and needs but the cookie. */
	if (fd & MEGAPIPE_HANDLE_LWSOCKET) {
		if (cpu_mask)
			return -EINVAL;
		*handle = new_handle;
		return push(new_handle, (struct megapipe_cmd) {
			.op = MEGAPIPE_OP_COOKIE,
			.arg = mp_address(cookie),
		});
	}

	new_handle.id = register_descriptor(channel, fd, cookie, cpu_mask);
	if (new_handle.id < 0)
		return new_handle.id;
	*handle = new_handle;
	return 0;
}

static inline int give_up(mp_handle handle, uint8_t op)
{
	struct mp_channel *ch = handle.channel;
	int ret;

	if (unlikely(!ch || handle.id <= 0))
		return -EBADF;
	/* Only what is in the buffer or in the batch has completions to come. */
	if (ch->ev_next != ch->ev_end || ch->cmd_next != ch->cmds) {
		ret = mp_forget(handle);
		if (unlikely(ret))
			return ret;
	}
	return push(handle, (struct megapipe_cmd) { .op = op });
}

int mp_unregister(mp_handle handle)
{
	return give_up(handle, MEGAPIPE_OP_UNREGISTER);
}

int mp_close(mp_handle handle)
{
	return give_up(handle, MEGAPIPE_OP_CLOSE);
}

int mp_accept(mp_handle handle, unsigned int count, bool is_lwsocket)
{
	return push(handle, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_ACCEPT,
		.flags = is_lwsocket ? MEGAPIPE_CMD_LWSOCKET : 0,
		.len = count,
	});
}

/* Reading nothing would look like the end of file, and a result is an int. */
static inline int transfer(mp_handle handle, uint8_t op, const void *buf,
			   size_t size)
{
	if (unlikely(!buf || size - 1 >= INT_MAX))
		return -EINVAL;
	return push(handle, (struct megapipe_cmd) {
		.op = op,
		.addr = mp_address(buf),
		.len = (uint32_t)size,
	});
}

int mp_read(mp_handle handle, void *buf, size_t size)
{
	return transfer(handle, MEGAPIPE_OP_READ, buf, size);
}

int mp_write(mp_handle handle, const void *buf, size_t size)
{
	return transfer(handle, MEGAPIPE_OP_WRITE, buf, size);
}

/*
 * The kernel reads the array when it runs the command, the caller may reuse
 * it at once: so it is copied, beside the batch.
 */
int mp_writev(mp_handle handle, const struct iovec *iov, int iovcnt)
{
	struct mp_channel *ch = handle.channel;
	unsigned int nr = (unsigned int)iovcnt;
	struct iovec *copy;
	int ret;

	if (!iov || iovcnt <= 0 || iovcnt > MP_IOV_MAX)
		return -EINVAL;
	if (!ch || handle.id <= 0 || ch->fd < 0)
		return -EBADF;
	if (nr > MP_IOV_MAX - ch->iov_used) {
		ret = mp_drain(ch, ch->cmds + 1);
		if (ret)
			return ret;
	}
	copy = ch->iovs + ch->iov_used;
	memcpy(copy, iov, nr * sizeof(*iov));
	ch->iov_used += nr;
	return push(handle, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_WRITEV,
		.addr = mp_address(copy),
		.len = nr,
	});
}

int mp_disconnect(mp_handle handle)
{
	return push(handle, (struct megapipe_cmd) {
		.op = MEGAPIPE_OP_DISCONNECT,
	});
}

int mp_cancel(mp_handle handle)
{
	return push(handle, (struct megapipe_cmd) { .op = MEGAPIPE_OP_CANCEL });
}
