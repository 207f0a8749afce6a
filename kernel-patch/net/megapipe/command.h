/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MEGAPIPE_COMMAND_H
#define _MEGAPIPE_COMMAND_H

#include <linux/types.h>

struct mp_channel;

/* command.c APIs */
u32 mp_command_run_chunk(struct mp_channel *channel, u32 nr);

#endif /* _MEGAPIPE_COMMAND_H */
