// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Requests, and the batch that collects them.
 *
 * A request writes one command behind those already collected.  The batch is
 * handed to the kernel, in the order of the requests,
 *   (i)   when it holds as many commands as the threshold (collect() here),
 *   (ii)  when the program asks for a completion and none is left of those
 *	   fetched (mp_dispatch()),
 *   (iii) when the program says so (mp_flush()).
 * The same system call fetches completions as far as the buffer has room.
 */
#include <limits.h>
#include <string.h>

#include "internal.h"

#define MP_ALIGN	_Alignof(struct iovec)

#define SAME(field)							\
	_Static_assert(offsetof(struct mp_hot_cmd, field) ==		\
		       offsetof(struct megapipe_cmd, field), "ABI")

SAME(op);
SAME(flags);
SAME(resv);
SAME(handle);
SAME(addr);
SAME(arg);
SAME(len);
SAME(aux);
_Static_assert(sizeof(struct mp_hot_cmd) == sizeof(struct megapipe_cmd), "ABI");

/*
 * Collect a command that may fill the batch, of a channel that is nobody else's
 * just now.  An error means that it is not taken.
 */
static int collect(struct mp_channel *ch, const struct mp_hot_cmd *cmd)
{
	int ret;

	*ch->at->cmd_next++ = *cmd;
	if (ch->at->cmd_next < ch->cmd_flush)
		return 0;
	ret = mp_drain(ch, ch->cmd_flush);
	if (likely(!ret) || ch->at->cmd_next == ch->cmds)
		return 0;
	ch->at->cmd_next--;
	return ret;
}

/*
 * The batch is full with it, shared, or gone with its channel.  The fields one by
 * one: a structure would be built on the fast path already.
 */
static __attribute__((noinline)) int
push_slow(struct mp_channel *ch, uint8_t op, uint8_t flags, int handle,
	  uint64_t addr, uint64_t arg, uint32_t len, uint32_t aux)
{
	const struct mp_hot_cmd cmd = {
		.op = op,
		.flags = flags,
		.handle = handle,
		.addr = addr,
		.arg = arg,
		.len = len,
		.aux = aux,
	};
	int ret;

	if (ch->fd < 0)
		return -EBADF;
	mp_lock(ch);
	ret = collect(ch, &cmd);
	mp_unlock(ch);
	return ret;
}

static inline int push(mp_handle handle, struct mp_hot_cmd cmd)
{
	struct mp_channel *ch = handle.channel;

	if (unlikely(!ch || handle.id <= 0))
		return -EBADF;
	if (cmd.op == MEGAPIPE_OP_READ &&
	    unlikely(mp_hot_join(handle, cmd.addr, cmd.len)))
		return 0;
	if (unlikely(!mp_hot_room(ch)))
		return push_slow(ch, cmd.op, cmd.flags, handle.id, cmd.addr,
				 cmd.arg, cmd.len, cmd.aux);
	cmd.handle = handle.id;
	*ch->hot.cmd_next++ = cmd;
	return 0;
}

/*
 * A request that describes its buffer by something which the caller may reuse
 * at once, while the kernel reads it when it runs the command: so that is
 * copied, beside the batch, and the field of the command points to the copy.
 */
static int push_with(mp_handle handle, struct mp_hot_cmd *cmd,
		     uint64_t *field, const void *what, size_t bytes)
{
	struct mp_channel *ch = handle.channel;
	int ret = 0;

	if (!ch || handle.id <= 0 || ch->fd < 0)
		return -EBADF;
	mp_lock(ch);
	if (bytes > MP_ASIDE_BYTES - ch->aside_used)
		ret = mp_drain(ch, ch->cmds + 1);
	if (!ret) {
		memcpy(ch->aside + ch->aside_used, what, bytes);
		*field = mp_address(ch->aside + ch->aside_used);
		ch->aside_used += (bytes + MP_ALIGN - 1) / MP_ALIGN * MP_ALIGN;
		cmd->handle = handle.id;
		ret = collect(ch, cmd);
	}
	mp_unlock(ch);
	return ret;
}

int mp_flush(struct mp_channel *channel)
{
	int ret;

	if (!channel)
		return -EINVAL;
	if (channel->fd < 0)
		return -EBADF;
	mp_lock(channel);
	ret = mp_drain(channel, channel->cmds + 1);
	mp_unlock(channel);
	return ret;
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
	 * would have prevented: no handle left, or no partition.
	 */
	if (unlikely(id < 0) && ch->at->cmd_next > ch->cmds &&
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
		return push(new_handle, (struct mp_hot_cmd) {
			.op = MEGAPIPE_OP_COOKIE,
			.arg = mp_address(cookie),
		});
	}

	mp_lock(channel);
	new_handle.id = register_descriptor(channel, fd, cookie, cpu_mask);
	mp_unlock(channel);
	if (new_handle.id < 0)
		return new_handle.id;
	*handle = new_handle;
	return 0;
}

static __attribute__((noinline)) int give_up_slow(struct mp_channel *ch, int id,
						  uint8_t op)
{
	const struct mp_hot_cmd cmd = { .op = op, .handle = id };
	int ret;

	if (ch->fd < 0)
		return -EBADF;
	mp_lock(ch);
	ret = mp_forget(ch, id);
	if (!ret)
		ret = collect(ch, &cmd);
	if (!ret)
		ch->cmd_seen = ch->at->cmd_next;
	mp_unlock(ch);
	return ret;
}

/* Returns false if there is more to it than a command. */
static inline bool give_up_idle(struct mp_channel *ch, int id, uint8_t op)
{
	if (unlikely(ch->hot.cmd_next >= ch->hot.cmd_limit ||
		     !mp_is_idle(ch, id)))
		return false;
	mp_hot_push((mp_handle) { ch, id }, op, NULL, NULL, 0);
	ch->cmd_seen = ch->hot.cmd_next;
	return true;
}

static __attribute__((noinline)) int give_up_unseen(struct mp_channel *ch,
						    int id, uint8_t op)
{
	if (ch->hot.cmd_next < ch->hot.cmd_limit) {
		mp_see(ch);
		if (give_up_idle(ch, id, op))
			return 0;
	}
	return give_up_slow(ch, id, op);
}

static inline int give_up(mp_handle handle, uint8_t op)
{
	if (unlikely(!handle.channel || handle.id <= 0))
		return -EBADF;
	if (likely(give_up_idle(handle.channel, handle.id, op)))
		return 0;
	return give_up_unseen(handle.channel, handle.id, op);
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
	return push(handle, (struct mp_hot_cmd) {
		.op = MEGAPIPE_OP_ACCEPT,
		.flags = is_lwsocket ? MEGAPIPE_CMD_LWSOCKET : 0,
		.len = count,
	});
}

/* A socket address, whatever its family: the kernel knows more of them. */
static inline bool is_address(const struct sockaddr *addr, socklen_t len)
{
	return addr && len && len <= sizeof(struct sockaddr_storage);
}

int mp_connect(mp_handle handle, const struct sockaddr *addr,
	       socklen_t addrlen)
{
	struct mp_hot_cmd cmd = {
		.op = MEGAPIPE_OP_CONNECT,
		.len = addrlen,
	};

	if (!is_address(addr, addrlen))
		return -EINVAL;
	return push_with(handle, &cmd, &cmd.addr, addr, addrlen);
}

/* Reading nothing would look like the end of file, and a result is an int. */
static inline bool is_buffer(const void *buf, size_t size)
{
	return likely(buf && size - 1 < INT_MAX);
}

static inline int transfer(mp_handle handle, uint8_t op, uint8_t flags,
			   const void *buf, size_t size)
{
	if (!is_buffer(buf, size))
		return -EINVAL;
	return push(handle, (struct mp_hot_cmd) {
		.op = op,
		.flags = flags,
		.addr = mp_address(buf),
		.len = (uint32_t)size,
	});
}

static int transfer_vector(mp_handle handle, uint8_t op, uint8_t flags,
			   const struct iovec *iov, int iovcnt)
{
	struct mp_hot_cmd cmd = {
		.op = op,
		.flags = flags,
		.len = (uint32_t)iovcnt,
	};

	if (!iov || iovcnt <= 0 || iovcnt > MP_IOV_MAX)
		return -EINVAL;
	return push_with(handle, &cmd, &cmd.addr, iov,
			 cmd.len * sizeof(*iov));
}

int mp_read(mp_handle handle, void *buf, size_t size)
{
	return transfer(handle, MEGAPIPE_OP_READ, 0, buf, size);
}

int mp_readv(mp_handle handle, const struct iovec *iov, int iovcnt)
{
	return transfer_vector(handle, MEGAPIPE_OP_READV, 0, iov, iovcnt);
}

int mp_recvfrom(mp_handle handle, void *buf, size_t size,
		struct sockaddr *addr, socklen_t room)
{
	if (!is_buffer(buf, size) || !addr || !room)
		return -EINVAL;
	return push(handle, (struct mp_hot_cmd) {
		.op = MEGAPIPE_OP_RECVFROM,
		.addr = mp_address(buf),
		.len = (uint32_t)size,
		.arg = mp_address(addr),
		.aux = room,
	});
}

int mp_write(mp_handle handle, const void *buf, size_t size)
{
	return transfer(handle, MEGAPIPE_OP_WRITE, 0, buf, size);
}

int mp_write_then_read(mp_handle handle, const void *buf, size_t size,
		       void *in, size_t room)
{
	if (!is_buffer(buf, size) || !is_buffer(in, room))
		return -EINVAL;
	return push(handle, (struct mp_hot_cmd) {
		.op = MEGAPIPE_OP_WRITE,
		.flags = MEGAPIPE_CMD_THEN_READ,
		.addr = mp_address(buf),
		.len = (uint32_t)size,
		.arg = mp_address(in),
		.aux = (uint32_t)room,
	});
}

int mp_write_more(mp_handle handle, const void *buf, size_t size)
{
	return transfer(handle, MEGAPIPE_OP_WRITE, MEGAPIPE_CMD_MORE, buf,
			size);
}

int mp_writev(mp_handle handle, const struct iovec *iov, int iovcnt)
{
	return transfer_vector(handle, MEGAPIPE_OP_WRITEV, 0, iov, iovcnt);
}

int mp_writev_more(mp_handle handle, const struct iovec *iov, int iovcnt)
{
	return transfer_vector(handle, MEGAPIPE_OP_WRITEV, MEGAPIPE_CMD_MORE,
			       iov, iovcnt);
}

int mp_sendto(mp_handle handle, const void *buf, size_t size,
	      const struct sockaddr *addr, socklen_t addrlen)
{
	struct mp_hot_cmd cmd = {
		.op = MEGAPIPE_OP_SENDTO,
		.addr = mp_address(buf),
		.len = (uint32_t)size,
		.aux = addrlen,
	};

	if (!buf || size > INT_MAX || !is_address(addr, addrlen))
		return -EINVAL;
	return push_with(handle, &cmd, &cmd.arg, addr, addrlen);
}

static inline int send_file(mp_handle handle, uint8_t flags, int fd,
			    int64_t offset, size_t size)
{
	if (offset < 0 || size - 1 >= INT_MAX)
		return -EINVAL;
	if (fd < 0)
		return -EBADF;
	return push(handle, (struct mp_hot_cmd) {
		.op = MEGAPIPE_OP_SENDFILE,
		.flags = flags,
		.len = (uint32_t)size,
		.arg = (uint64_t)offset,
		.aux = (uint32_t)fd,
	});
}

int mp_sendfile(mp_handle handle, int fd, int64_t offset, size_t size)
{
	return send_file(handle, 0, fd, offset, size);
}

int mp_sendfile_more(mp_handle handle, int fd, int64_t offset, size_t size)
{
	return send_file(handle, MEGAPIPE_CMD_MORE, fd, offset, size);
}

int mp_poll(mp_handle handle, uint32_t events)
{
	return push(handle, (struct mp_hot_cmd) {
		.op = MEGAPIPE_OP_POLL,
		.aux = events,
	});
}

int mp_disconnect(mp_handle handle)
{
	return push(handle, (struct mp_hot_cmd) {
		.op = MEGAPIPE_OP_DISCONNECT,
	});
}

int mp_cancel(mp_handle handle)
{
	return push(handle, (struct mp_hot_cmd) { .op = MEGAPIPE_OP_CANCEL });
}
