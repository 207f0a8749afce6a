/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a program does to a socket by descriptor, by handle: options, addresses,
 * and getting a descriptor after all.
 */
#ifndef _MEGAPIPE_SOCKOPT_H
#define _MEGAPIPE_SOCKOPT_H

#include <linux/compiler.h>

struct mp_channel;

/* sockopt.c APIs: ioctls, see struct mp_ioctl in channel.c */
long mp_sockopt_set(struct mp_channel *channel, void *arg, void __user *user);
long mp_sockopt_get(struct mp_channel *channel, void *arg, void __user *user);
long mp_sockopt_name(struct mp_channel *channel, void *arg, void __user *user);
long mp_sockopt_tofd(struct mp_channel *channel, void *arg, void __user *user);

#endif /* _MEGAPIPE_SOCKOPT_H */
