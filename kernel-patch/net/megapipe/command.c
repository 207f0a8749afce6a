// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commands: one row of a table each, and a shorter way for READ and WRITE.
 */

#include <linux/nospec.h>
#include <trace/events/megapipe.h>

#include "accept.h"
#include "command.h"
#include "file.h"
#include "io.h"
#include "queue.h"

#define MP_CONNECTIONS	(BIT(MP_KIND_FILE) | BIT(MP_KIND_LWSOCKET))
#define MP_LISTENERS	BIT(MP_KIND_LISTENER)
#define MP_ANY		(MP_CONNECTIONS | MP_LISTENERS)

/**
 * struct mp_command - how a command is run
 * @run: start it; returns 0, or an error that becomes its completion, and then
 *	the handle is still there
 * @kinds: kinds of handles that it works on
 * @flags: MEGAPIPE_CMD_* that it takes
 */
struct mp_command {
	int	(*run)(struct mp_handle *handle, const struct megapipe_cmd *cmd);
	u8	kinds;
	u8	flags;
};

/* What an operation does not use is zero. */
static bool mp_command_bare(const struct megapipe_cmd *cmd)
{
	return !cmd->addr && !cmd->len && !cmd->aux;
}

static int mp_command_unregister(struct mp_handle *handle,
				 const struct megapipe_cmd *cmd)
{
	if (!mp_command_bare(cmd) || cmd->arg)
		return -EINVAL;
	mp_handle_drop(handle);
	return 0;
}

static int mp_command_close(struct mp_handle *handle,
			    const struct megapipe_cmd *cmd)
{
	struct file *file;
	int fd;

	if (!mp_command_bare(cmd) || cmd->arg)
		return -EINVAL;
	if (handle->kind == MP_KIND_LWSOCKET) {
		mp_handle_drop(handle);
		return 0;
	}
	file = mp_file_get(handle, &fd);
	mp_handle_drop(handle);
	mp_file_close_fd(file, fd);
	return 0;
}

static int mp_command_cookie(struct mp_handle *handle,
			     const struct megapipe_cmd *cmd)
{
	if (!mp_command_bare(cmd))
		return -EINVAL;
	handle->cookie = cmd->arg;
	return 0;
}

static int mp_command_cancel(struct mp_handle *handle,
			     const struct megapipe_cmd *cmd)
{
	if (!mp_command_bare(cmd) || cmd->arg)
		return -EINVAL;
	if (handle->kind == MP_KIND_LISTENER)
		mp_accept_cancel(handle);
	else
		mp_io_cancel(handle);
	return 0;
}

static const struct mp_command mp_commands[] = {
	[MEGAPIPE_OP_ACCEPT] = {
		.run	= mp_accept_start,
		.kinds	= MP_LISTENERS,
		.flags	= MEGAPIPE_CMD_LWSOCKET,
	},
	[MEGAPIPE_OP_CONNECT] = {
		.run	= mp_io_connect,
		.kinds	= BIT(MP_KIND_FILE),
	},
	[MEGAPIPE_OP_READ] = {
		.run	= mp_io_read,
		.kinds	= MP_CONNECTIONS,
		.flags	= MEGAPIPE_CMD_COOKIE,
	},
	[MEGAPIPE_OP_READV] = {
		.run	= mp_io_readv,
		.kinds	= MP_CONNECTIONS,
	},
	[MEGAPIPE_OP_RECVFROM] = {
		.run	= mp_io_recvfrom,
		.kinds	= MP_CONNECTIONS,
	},
	[MEGAPIPE_OP_WRITE] = {
		.run	= mp_io_write,
		.kinds	= MP_CONNECTIONS,
		.flags	= MEGAPIPE_CMD_MORE | MEGAPIPE_CMD_THEN_READ,
	},
	[MEGAPIPE_OP_WRITEV] = {
		.run	= mp_io_writev,
		.kinds	= MP_CONNECTIONS,
		.flags	= MEGAPIPE_CMD_MORE,
	},
	[MEGAPIPE_OP_SENDTO] = {
		.run	= mp_io_sendto,
		.kinds	= MP_CONNECTIONS,
	},
	[MEGAPIPE_OP_SENDFILE] = {
		.run	= mp_io_sendfile,
		.kinds	= MP_CONNECTIONS,
		.flags	= MEGAPIPE_CMD_MORE,
	},
	[MEGAPIPE_OP_POLL] = {
		.run	= mp_io_poll,
		.kinds	= MP_CONNECTIONS,
	},
	[MEGAPIPE_OP_DISCONNECT] = {
		.run	= mp_io_disconnect,
		.kinds	= MP_CONNECTIONS,
	},
	[MEGAPIPE_OP_CANCEL] = {
		.run	= mp_command_cancel,
		.kinds	= MP_ANY,
	},
	[MEGAPIPE_OP_COOKIE] = {
		.run	= mp_command_cookie,
		.kinds	= MP_ANY,
	},
	[MEGAPIPE_OP_UNREGISTER] = {
		.run	= mp_command_unregister,
		.kinds	= MP_ANY,
	},
	[MEGAPIPE_OP_CLOSE] = {
		.run	= mp_command_close,
		.kinds	= MP_ANY,
	},
};

static_assert(ARRAY_SIZE(mp_commands) == MEGAPIPE_OP_LAST);

/*
 * Room to report that a command has failed?  Like mp_queue_room_now(), but a
 * failed command cannot wait for its turn, so the half is rounded up: with room
 * for one completion, commands get on.
 */
static bool mp_command_room(const struct mp_channel *channel)
{
	const struct mp_batch *batch = channel->batch;

	return batch->nr < DIV_ROUND_UP(batch->max, 2) ||
	       mp_queue_room_now(channel);
}

/*
 * The command has failed, without any effect but a cookie that a READ brought.
 * Returns false if there is no room to report that: then it was not consumed,
 * and brings the same when it is sent again.
 */
static noinline bool mp_command_fail(struct mp_channel *channel,
				     const struct megapipe_cmd *cmd,
				     const struct mp_handle *handle, int err)
{
	if (!mp_command_room(channel))
		return false;
	mp_queue_post(channel, cmd->handle, handle ? handle->cookie : 0,
		      cmd->op, 0, err, 0);
	return true;
}

/* Any command.  Returns 0, or the error to report. */
static noinline int mp_command_run_by_table(struct mp_handle *handle,
					    const struct megapipe_cmd *cmd)
{
	const struct mp_command *command;

	if (cmd->op >= MEGAPIPE_OP_LAST || cmd->resv)
		return -EINVAL;
	command = &mp_commands[array_index_nospec(cmd->op, MEGAPIPE_OP_LAST)];
	if (cmd->flags & ~command->flags)
		return -EINVAL;
	if (!handle)
		return -EBADF;
	if (!(BIT(handle->kind) & command->kinds))
		return -EOPNOTSUPP;
	return command->run(handle, cmd);
}

/*
 * A server of short messages sends nearly nothing else than READ and WRITE, so
 * these do not go by the table, if they are as their rows there want them.
 */
static __always_inline int mp_command_run(struct mp_handle *handle,
					  const struct megapipe_cmd *cmd)
{
	if (likely(handle && BIT(handle->kind) & MP_CONNECTIONS &&
		   !cmd->resv)) {
		if (cmd->op == MEGAPIPE_OP_READ &&
		    !(cmd->flags & ~MEGAPIPE_CMD_COOKIE))
			return mp_io_read(handle, cmd);
		if (cmd->op == MEGAPIPE_OP_WRITE &&
		    !(cmd->flags & ~(MEGAPIPE_CMD_MORE | MEGAPIPE_CMD_THEN_READ)))
			return mp_io_write(handle, cmd);
	}
	return mp_command_run_by_table(handle, cmd);
}

/* Run commands that were copied in.  Returns how many were consumed. */
u32 mp_command_run_chunk(struct mp_channel *channel, u32 nr)
{
	const struct megapipe_cmd *cmd = channel->cmds;
	struct mp_handle *handle;
	u32 done;
	int err;

	for (done = 0; done < nr; done++, cmd++) {
		trace_megapipe_command(channel->id, cmd);
		handle = mp_handle_lookup(&channel->handles, cmd->handle);
		err = mp_command_run(handle, cmd);
		if (unlikely(err) &&
		    !mp_command_fail(channel, cmd, handle, err))
			break;
	}
	return done;
}
