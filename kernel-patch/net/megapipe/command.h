/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MEGAPIPE_COMMAND_H
#define _MEGAPIPE_COMMAND_H

#include <linux/types.h>

struct megapipe_cmd;
struct mp_channel;

/* command.c APIs */
bool mp_command_run(struct mp_channel *channel,
		    const struct megapipe_cmd *cmd);

#endif /* _MEGAPIPE_COMMAND_H */
