/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the source files share: the channel, and the two paths that a program
 * takes once for every request and every completion, kept inline and free of
 * locks and allocation.
 */
#ifndef MEGAPIPE_INTERNAL_H
#define MEGAPIPE_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>

#include <linux/megapipe.h>

/* Everything is hidden but what the public header declares. */
#pragma GCC visibility push(default)
#include "megapipe.h"
#pragma GCC visibility pop

#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)

#define MP_FETCH_MAX	256	/* completions fetched by one system call */
#define MP_IOV_MAX	1024	/* the kernel's UIO_MAXIOV */
#define MP_ASIDE_BYTES	(MP_IOV_MAX * sizeof(struct iovec))
#define MP_DEVICE	"/dev/megapipe"
#define MP_GONE_KEYS	256	/* a power of 2 */
#define MP_GONE_MAX	255	/* so that an index fits in a byte */

/*
 * The handles given up in one epoch: chains by the low bits of their ids.
 * [0] of records is not used: 0 ends a chain.
 */
struct mp_gone {
	unsigned int nr;
	struct {
		int id;
		uint8_t next;
	} records[MP_GONE_MAX + 1];
};

/* The heads of a key's chains in both sets, to be looked at with one load */
union mp_gone_heads {
	uint8_t of[2];
	uint16_t any;
};

struct mp_channel {
	/*
	 * The batch: commands from cmds to cmd_next are collected.  cmd_next
	 * is below cmd_flush whenever a public function returns, so that a
	 * request has room without asking.
	 */
	_Alignas(64) struct megapipe_cmd *cmd_next;
	struct megapipe_cmd *cmd_flush;
	struct megapipe_cmd *cmds;

	/* Fetched completions: from ev_next to ev_end are to be handed out. */
	struct megapipe_event *ev_next;
	struct megapipe_event *ev_end;
	struct megapipe_event *ev_limit;	/* fetch up to here */
	struct megapipe_event *events;

	bool shared;			/* see mp_set_shared() */
	int fd;				/* -1: destroyed */
	unsigned int fetch;		/* completions to fetch at once */
	size_t ev_capacity;
	unsigned int max_dispatch;	/* the kernel's */

	/* Copies of the iovecs and addresses that collected commands point to */
	size_t aside_used;
	unsigned char *aside;

	/*
	 * Handles given up in this epoch and in the one before it, see
	 * dispatch.c.
	 */
	unsigned int epoch;
	bool lagging;			/* the last run left commands */
	union mp_gone_heads gone_heads[MP_GONE_KEYS];
	struct mp_gone gone[2];

	pthread_mutex_t mutex;		/* of all of it, if it is shared */
	struct megapipe_cmd grave;	/* takes requests after mp_destroy() */
	struct mp_channel *next_free;
};

/* ---- sys.c: the only system calls; -errno, errno untouched ------------- */

int mp_sys_open(const char *path);
int mp_sys_ioctl(int fd, unsigned long request, void *arg);
int mp_sys_poll(int fd, int64_t timeout_ns, const sigset_t *sigmask);
int mp_sys_close(int fd);
bool mp_sys_exists(const char *path);
void mp_sys_release(char *release, size_t size);
int64_t mp_sys_now_ns(void);

/* ---- channel.c --------------------------------------------------------- */

int mp_open_device(struct megapipe_info *info);

/* ---- request.c --------------------------------------------------------- */

int mp_run(struct mp_channel *ch, unsigned int min_events, int64_t timeout_ns,
	   const sigset_t *sigmask);
int mp_drain(struct mp_channel *ch, const struct megapipe_cmd *below);

/* ---- dispatch.c -------------------------------------------------------- */

void mp_rewind(struct mp_channel *ch);
int mp_make_room(struct mp_channel *ch, size_t nr);
int mp_forget(mp_handle handle);
void mp_disown(struct mp_channel *ch, const struct megapipe_event *ev);

/* The lock of a shared channel; that of any other costs a glance. */
static inline void mp_lock(struct mp_channel *ch)
{
	if (unlikely(ch->shared))
		pthread_mutex_lock(&ch->mutex);
}

static inline void mp_unlock(struct mp_channel *ch)
{
	if (unlikely(ch->shared))
		pthread_mutex_unlock(&ch->mutex);
}

static inline uint64_t mp_address(const void *p)
{
	return (uintptr_t)p;
}

static inline unsigned int mp_gone_key(int id)
{
	return (unsigned int)id % MP_GONE_KEYS;
}

#endif /* MEGAPIPE_INTERNAL_H */
