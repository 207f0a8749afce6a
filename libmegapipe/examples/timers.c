// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A clock, and the signals that end it, in one channel: what is not a socket
 * comes as completions, too.
 *
 *	gcc -O2 timers.c -o timers $(pkg-config --cflags --libs libmegapipe)
 *	./timers 500
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include <megapipe.h>

static int new_timer(long ms)
{
	const struct timespec period = { ms / 1000, ms % 1000 * 1000000 };
	const struct itimerspec when = { period, period };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);

	timerfd_settime(fd, 0, &when, NULL);
	return fd;
}

/* SIGINT and SIGTERM are no longer delivered, but read. */
static int new_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

int main(int argc, char **argv)
{
	long ms = argc == 2 ? atol(argv[1]) : 0;
	struct signalfd_siginfo signal;
	uint64_t expirations, ticks = 0;
	struct mp_channel *channel;
	char why[MP_EXPLAIN_SIZE];
	mp_handle clock, signals;
	struct mp_event event;
	int err;

	if (ms <= 0) {
		fprintf(stderr, "usage: %s MILLISECONDS\n", argv[0]);
		return 2;
	}
	err = mp_create(&channel);
	if (err) {
		fprintf(stderr, "%s\n", mp_explain(err, why, sizeof(why)));
		return 1;
	}
	if (mp_register(channel, new_timer(ms), &clock, NULL, &clock) ||
	    mp_register(channel, new_signals(), &signals, NULL, &signals))
		return 1;
	mp_read(clock, &expirations, sizeof(expirations));
	mp_read(signals, &signal, sizeof(signal));

	while (mp_dispatch(channel, &event, -1) == 1 && event.result > 0) {
		if (event.cookie == &signals) {
			printf("signal %u after %llu ticks\n", signal.ssi_signo,
			       (unsigned long long)ticks);
			mp_destroy(channel);
			return 0;
		}
		ticks += expirations;	/* more than 1 if we were late */
		printf("tick %llu\n", (unsigned long long)ticks);
		fflush(stdout);
		mp_read(clock, &expirations, sizeof(expirations));
	}
	return 1;
}
