/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated kernel behind the library's system calls.  It logs what
 * reaches it, completes what the test says, and fails commands on handles that
 * the test calls stale.  The linker puts it between the library and malloc(),
 * too.
 *
 *	test --mp_read()--> library --ioctl--> fake.ran[]
 *	test --fake_complete()--> fake.ready[] --ioctl--> library --> event
 */
#ifndef FAKE_H
#define FAKE_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/megapipe.h>

#include "megapipe.h"

#define FAKE_LOG	16384
#define FAKE_FD		1000	/* of the first channel */

/* One MEGAPIPE_IOC_DISPATCH as it came in, and what was done about it */
struct fake_call {
	unsigned int nr_cmds;
	unsigned int done_cmds;
	unsigned int max_events;
	unsigned int min_events;
	int64_t timeout_ns;
	int ret;
};

struct fake {
	/* What the test sets */
	int open_result;	/* 0: a descriptor */
	bool has_sysfs;
	unsigned int no_memory;	/* the how-manieth allocation fails; 0: none */
	int poll_result;
	void (*asleep)(void);	/* what happens during poll() */
	int64_t now_ns;
	int act_result;		/* of options, addresses, TOFD, LISTENER */
	uint32_t act_len;	/* length that they report */
	struct megapipe_listener listener_result;
	int info_result;
	struct megapipe_info info;
	int register_result[2];	/* of the next calls; 0: a new handle */
	int dispatch_result;	/* 0: do it; or an error, nothing consumed */
	bool interrupted;	/* consume, but then there is a signal */
	bool stuck;		/* consume nothing and say nothing */
	bool keep;		/* completions of dropped handles too */
	bool instant;		/* reads and writes complete as they are run */
	int stale[FAKE_LOG];	/* handles: commands on them fail, -EBADF */
	unsigned int nr_stale;
	struct megapipe_stats stats;

	/* Completions that wait to be fetched */
	struct megapipe_event ready[FAKE_LOG];
	unsigned int nr_ready;

	/* What has happened */
	struct fake_call calls[FAKE_LOG];
	unsigned int nr_calls;
	struct megapipe_cmd ran[FAKE_LOG];	/* commands consumed */
	struct iovec vectors[FAKE_LOG];		/* their first elements */
	struct sockaddr_storage addresses[FAKE_LOG];
	unsigned int nr_ran;
	unsigned long act;	/* the last of these, and after how many ran */
	unsigned int act_after;
	unsigned int nr_acts;
	struct megapipe_sockopt sockopt;
	struct megapipe_sockname sockname;
	struct megapipe_tofd tofd;
	struct megapipe_listener listener;
	uint64_t sigmask;
	uint32_t sigsetsize;
	struct megapipe_register registered;
	unsigned int nr_registers;
	unsigned int nr_polls;
	int64_t poll_timeout_ns;
	const sigset_t *poll_sigmask;
	int closed[64];
	unsigned int nr_closed;
	bool misuse;		/* a call that the real kernel would refuse */
};

extern struct fake fake;

void fake_reset(void);
struct mp_channel *fake_channel(unsigned int threshold);
void fake_post(struct megapipe_event event);
void fake_complete(int handle, uint16_t op, int res);
void fake_mark_stale(int handle);

static inline mp_handle handle(struct mp_channel *channel, int id)
{
	return (mp_handle) { channel, id };
}

static inline struct fake_call *fake_last(void)
{
	return &fake.calls[fake.nr_calls - 1];
}

#endif /* FAKE_H */
