/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the source files share: the channel, above all.
 */
#ifndef MEGAPIPE_INTERNAL_H
#define MEGAPIPE_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>

#include <linux/megapipe.h>

/* Everything is hidden but what the public header declares. */
#pragma GCC visibility push(default)
#define MP_HOT_NO_MACROS
#include "megapipe-inline.h"
#pragma GCC visibility pop

#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)

#define MP_FETCH_MAX	256	/* completions fetched by one system call */
#define MP_IOV_MAX	1024	/* the kernel's UIO_MAXIOV */
#define MP_ASIDE_BYTES	(MP_IOV_MAX * sizeof(struct iovec))
#define MP_HOT_NOTHING	255	/* no command of the kernel's */
#define MP_DEVICE	"/dev/megapipe"
#define MP_SEEN_KEYS	2048	/* a power of 2 */
#define MP_FEW		4
#define MP_GONE_KEYS	256	/* a power of 2 */
#define MP_GONE_MAX	255	/* so that an index fits in a byte */

/*
 * Handles given up while commands of theirs may be collected: chains by the low
 * bits of their ids.  [0] of records is not used: 0 ends a chain.
 */
struct mp_gone {
	unsigned int nr;
	uint8_t heads[MP_GONE_KEYS];
	struct {
		int id;
		uint8_t next;
	} records[MP_GONE_MAX + 1];
};

/*
 * Where the handles whose ids end in the same bits were seen last: when their
 * last completion was fetched, and when they last had a command in the batch.
 */
struct mp_seen {
	uint32_t fetched;
	uint32_t collected;
};

struct mp_channel {
	/*
	 * What is looked at without the lock, see megapipe-inline.h.  While the
	 * channel is shared there is nothing to be seen in it, see close_hot():
	 * then "apart" is used.
	 */
	_Alignas(64) struct mp_hot hot;
	struct mp_hot *at;		/* &hot or &apart */

	/*
	 * The batch: commands from cmds to at->cmd_next are collected.  It is
	 * below cmd_flush whenever a public function returns, so that a request
	 * has room without asking.  The guard before them is of no kind and no
	 * handle's, so that there is a last command always: see mp_hot_join().
	 */
	struct mp_hot_cmd *cmd_guard;
	struct mp_hot_cmd *cmds;
	struct mp_hot_cmd *cmd_flush;

	/* Fetched completions: at->ev_next to at->ev_limit are to be handed out. */
	struct mp_hot_event *events;
	size_t ev_capacity;

	/*
	 * How much of both is in seen[], and the time there: of the batch; of the
	 * completions, each one's being the sum of its address and ev_bias.
	 */
	struct mp_hot_cmd *cmd_seen;
	struct mp_hot_event *ev_seen;
	uint32_t cmd_time;
	uint32_t ev_time;		/* after all in seen[] */
	uint32_t ev_bias;

	/* What mp_hot_fetch() needs, made before */
	int hot_fd;			/* -1: there is more to it */
	int64_t hot_timeout_us;
	struct megapipe_dispatch hot_run;

	struct megapipe_dispatch run;	/* of any other dispatch */
	bool shared;			/* see mp_set_shared() */
	int fd;				/* -1: destroyed */
	unsigned int fetch;		/* completions to fetch at once */
	unsigned int max_dispatch;	/* the kernel's */

	/* Copies of the iovecs and addresses that collected commands point to */
	size_t aside_used;
	unsigned char *aside;

	struct mp_gone gone;		/* see dispatch.c */
	struct mp_seen seen[MP_SEEN_KEYS];
	struct mp_hot apart;
	pthread_mutex_t mutex;		/* of all of it, if it is shared */
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

/* ---- dispatch.c -------------------------------------------------------- */

int mp_drain(struct mp_channel *ch, const struct mp_hot_cmd *below);
void mp_see(struct mp_channel *ch);
int mp_forget(struct mp_channel *ch, int id);
void mp_disown(struct mp_channel *ch, const struct mp_hot_event *ev);

static inline unsigned int mp_collected(const struct mp_channel *ch)
{
	return (unsigned int)(ch->at->cmd_next - ch->cmds);
}

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

static inline size_t mp_seen_key(int id)
{
	return (unsigned int)id % MP_SEEN_KEYS;
}

static inline uint32_t mp_ev_time(const struct mp_channel *ch,
				  const struct mp_hot_event *ev)
{
	return (uint32_t)(uintptr_t)ev + ch->ev_bias;
}

/*
 * Has the buffer a completion of such a handle?  Has the batch a command of it?
 * Both may be true without need: ids share keys.
 */
static inline bool mp_is_fetched(const struct mp_channel *ch,
				 const struct mp_hot *at,
				 const struct mp_seen *seen)
{
	return (int32_t)(seen->fetched - mp_ev_time(ch, at->ev_next)) >= 0;
}

static inline bool mp_is_collected(const struct mp_channel *ch,
				   const struct mp_seen *seen)
{
	return seen->collected == ch->cmd_time;
}

/* Where few are left in the buffer, to look is as good as to have seen. */
static inline bool mp_is_among_few(const struct mp_hot *hot, int id)
{
	const struct mp_hot_event *ev = hot->ev_next;

	if (hot->ev_limit - ev > MP_FEW)
		return true;
	for (; ev != hot->ev_limit; ev++)
		if (ev->handle == id)
			return true;
	return false;
}

/* Nothing of the handle is in the buffer or the batch, as far as is known. */
static inline bool mp_is_idle(const struct mp_channel *ch, int id)
{
	const struct mp_seen *seen = &ch->seen[mp_seen_key(id)];
	const struct mp_hot *hot = &ch->hot;

	if (unlikely(ch->ev_seen != hot->ev_limit ?
		     mp_is_among_few(hot, id) : mp_is_fetched(ch, hot, seen)))
		return false;
	return ch->cmd_seen == hot->cmd_next && !mp_is_collected(ch, seen);
}

#endif /* MEGAPIPE_INTERNAL_H */
