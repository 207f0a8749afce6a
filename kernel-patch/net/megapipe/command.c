// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commands: one row of a table each.
 */

#include <linux/indirect_call_wrapper.h>
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
 * @run: start it; returns 0, or an error that becomes its completion
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
		.flags	= MEGAPIPE_CMD_MORE,
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
 * Run a command.  Returns false if it was not consumed: it has failed, without
 * any effect, and there is no room to report that.
 */
bool mp_command_run(struct mp_channel *channel,
		    const struct megapipe_cmd *cmd)
{
	const struct mp_command *command;
	struct mp_handle *handle;
	int err = -EINVAL;

	trace_megapipe_command(channel->id, cmd);
	/* First, for its cookie is in the completion of any failure. */
	handle = mp_handle_lookup(&channel->handles, cmd->handle);
	if (cmd->op >= MEGAPIPE_OP_LAST || cmd->resv)
		goto failed;
	command = &mp_commands[array_index_nospec(cmd->op, MEGAPIPE_OP_LAST)];
	if (cmd->flags & ~command->flags)
		goto failed;

	err = -EBADF;
	if (!handle)
		goto failed;

	err = -EOPNOTSUPP;
	if (!(BIT(handle->kind) & command->kinds))
		goto failed;

	err = INDIRECT_CALL_2(command->run, mp_io_read, mp_io_write, handle,
			      cmd);
	if (likely(!err))
		return true;

failed:
	if (!mp_command_room(channel))
		return false;
	mp_queue_post(channel, cmd->handle, handle ? handle->cookie : 0,
		      cmd->op, 0, err, 0);
	return true;
}
