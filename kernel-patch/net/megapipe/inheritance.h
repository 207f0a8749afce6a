/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a partition inherits from its listener.
 */
#ifndef _MEGAPIPE_INHERITANCE_H
#define _MEGAPIPE_INHERITANCE_H

#include <linux/types.h>

struct sock;

/* inheritance.c APIs */
bool mp_inheritance_allows(int level, int name);
bool mp_inheritance_possible(const struct sock *listener);
int mp_inheritance_copy(struct sock *sk, const struct sock *from);

#endif /* _MEGAPIPE_INHERITANCE_H */
