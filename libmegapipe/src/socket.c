// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What acts on a handle at once, by a system call of its own: options and
 * addresses, without a descriptor; turning an lwsocket into one; how a listener
 * fares.
 */
#include "internal.h"

/*
 * One such system call.  It acts after the requests made on the handle before:
 * if one of them is still collected, the batch is handed over first.
 */
static int act(mp_handle handle, unsigned long request, void *arg)
{
	struct mp_channel *ch = handle.channel;
	const struct mp_hot_cmd *cmd;
	int ret = 0;

	if (!ch || handle.id <= 0 || ch->fd < 0)
		return -EBADF;
	mp_lock(ch);
	for (cmd = ch->cmds; cmd < ch->at->cmd_next; cmd++) {
		if (cmd->handle == handle.id) {
			ret = mp_drain(ch, ch->cmds + 1);
			break;
		}
	}
	if (!ret)
		ret = mp_sys_ioctl(ch->fd, request, arg);
	mp_unlock(ch);
	return ret;
}

int mp_tofd(mp_handle handle, int flags)
{
	struct megapipe_tofd tofd = {
		.handle = handle.id,
		.flags = (uint32_t)flags,
	};

	return act(handle, MEGAPIPE_IOC_TOFD, &tofd);
}

int mp_setsockopt(mp_handle handle, int level, int name, const void *value,
		  socklen_t len)
{
	struct megapipe_sockopt option = {
		.handle = handle.id,
		.level = level,
		.name = name,
		.len = len,
		.value = mp_address(value),
	};

	if (!value)
		return -EINVAL;
	return act(handle, MEGAPIPE_IOC_SETSOCKOPT, &option);
}

int mp_getsockopt(mp_handle handle, int level, int name, void *value,
		  socklen_t *len)
{
	struct megapipe_sockopt option = {
		.handle = handle.id,
		.level = level,
		.name = name,
		.value = mp_address(value),
	};
	int ret;

	if (!value || !len)
		return -EINVAL;
	option.len = *len;
	ret = act(handle, MEGAPIPE_IOC_GETSOCKOPT, &option);
	if (ret >= 0)
		*len = option.len;
	return ret;
}

static int get_name(mp_handle handle, uint32_t peer, struct sockaddr *addr,
		    socklen_t *len)
{
	struct megapipe_sockname name = {
		.handle = handle.id,
		.peer = peer,
		.addr = mp_address(addr),
	};
	int ret;

	if (!addr || !len)
		return -EINVAL;
	name.len = *len;
	ret = act(handle, MEGAPIPE_IOC_SOCKNAME, &name);
	if (ret >= 0)
		*len = name.len;
	return ret;
}

int mp_getsockname(mp_handle handle, struct sockaddr *addr, socklen_t *len)
{
	return get_name(handle, 0, addr, len);
}

int mp_getpeername(mp_handle handle, struct sockaddr *addr, socklen_t *len)
{
	return get_name(handle, 1, addr, len);
}

int mp_listener(mp_handle handle, struct mp_listener *listener)
{
	struct megapipe_listener kernel = { .handle = handle.id };
	int ret;

	if (!listener)
		return -EINVAL;
	ret = act(handle, MEGAPIPE_IOC_LISTENER, &kernel);
	if (ret < 0)
		return ret;
	*listener = (struct mp_listener) {
		.partitions = kernel.partitions,
		.cpus = kernel.cpus,
		.queued = kernel.queued,
		.backlog = kernel.backlog,
		.accepts = kernel.accepts,
		.accepts_foreign = kernel.accepts_foreign,
		.migrated_in = kernel.migrated_in,
	};
	return 0;
}
