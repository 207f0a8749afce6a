/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a program does to a socket by descriptor, by handle: options, addresses,
 * and getting a descriptor after all.
 */
#ifndef _MEGAPIPE_SOCKOPT_H
#define _MEGAPIPE_SOCKOPT_H

#include <linux/compiler.h>

struct megapipe_sockname;
struct megapipe_sockopt;
struct megapipe_tofd;
struct mp_channel;

/* sockopt.c APIs: ioctls */
long mp_sockopt_set(struct mp_channel *channel,
		    struct megapipe_sockopt __user *arg);
long mp_sockopt_get(struct mp_channel *channel,
		    struct megapipe_sockopt __user *arg);
long mp_sockopt_name(struct mp_channel *channel,
		     struct megapipe_sockname __user *arg);
long mp_sockopt_tofd(struct mp_channel *channel,
		     struct megapipe_tofd __user *arg);

#endif /* _MEGAPIPE_SOCKOPT_H */
