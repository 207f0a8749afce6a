/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Partitions of a listening socket's accept queue.
 */
#ifndef _MEGAPIPE_PARTITION_H
#define _MEGAPIPE_PARTITION_H

#include <linux/types.h>

struct cpumask;
struct mp_partition;
struct socket;

/* partition.c APIs */
struct mp_partition *mp_partition_create(struct socket *listener,
					 const struct cpumask *cpus);
void mp_partition_release(struct mp_partition *partition);
struct socket *mp_partition_sock(const struct mp_partition *partition);
u32 mp_partition_count(const struct socket *listener);
u32 mp_partition_cpus(const struct mp_partition *partition);
u64 mp_partition_migrated_in(const struct mp_partition *partition);

#endif /* _MEGAPIPE_PARTITION_H */
