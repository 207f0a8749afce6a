// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counting what becomes of commands and ioctls, and the table of it.
 */
#include "fuzz.h"

void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

void broken(const char *what, long value)
{
	printf("# impossible: %s: %ld\n", what, value);
	fflush(stdout);
	count(&totals->broken, 1);
}

int call(struct channel *channel, unsigned long request, void *arg)
{
	int ret = mp_ioctl(channel->fd, request, arg);
	unsigned int nr = _IOC_NR(request);

	if (nr < NR_IOCTLS) {
		count(&totals->called[nr], 1);
		if (ret >= 0)
			count(&totals->called_ok[nr], 1);
	}
	return ret;
}

static bool has_completion(unsigned int op)
{
	return op != MEGAPIPE_OP_CANCEL && op != MEGAPIPE_OP_COOKIE &&
	       op != MEGAPIPE_OP_UNREGISTER && op != MEGAPIPE_OP_CLOSE;
}

static const char * const op_names[NR_OPS] = {
	[MEGAPIPE_OP_ACCEPT]		= "ACCEPT",
	[MEGAPIPE_OP_CONNECT]		= "CONNECT",
	[MEGAPIPE_OP_READ]		= "READ",
	[MEGAPIPE_OP_READV]		= "READV",
	[MEGAPIPE_OP_RECVFROM]		= "RECVFROM",
	[MEGAPIPE_OP_WRITE]		= "WRITE",
	[MEGAPIPE_OP_WRITEV]		= "WRITEV",
	[MEGAPIPE_OP_SENDTO]		= "SENDTO",
	[MEGAPIPE_OP_SENDFILE]		= "SENDFILE",
	[MEGAPIPE_OP_POLL]		= "POLL",
	[MEGAPIPE_OP_DISCONNECT]	= "DISCONNECT",
	[MEGAPIPE_OP_CANCEL]		= "CANCEL",
	[MEGAPIPE_OP_COOKIE]		= "COOKIE",
	[MEGAPIPE_OP_UNREGISTER]	= "UNREGISTER",
	[MEGAPIPE_OP_CLOSE]		= "CLOSE",
};

static const char * const ioctl_names[NR_IOCTLS] = {
	"INFO", "STATS", "REGISTER", "DISPATCH", "SETSOCKOPT", "GETSOCKOPT",
	"SOCKNAME", "TOFD", "LISTENER",
};

/* Is each command known to have worked often enough? */
bool report(void)
{
	unsigned int op, i;
	bool enough = true;

	printf("# %-12s %10s %10s %5s  most frequent errors\n", "command",
	       "submitted", "succeeded", "%");
	for (op = 0; op < NR_OPS; op++) {
		uint64_t submitted = totals->submitted[op];
		uint64_t ok = totals->ok[op], failures = 0;
		unsigned int worst = 0, second = 0, percent;
		uint64_t *failed = totals->failed[op];

		for (i = 1; i < NR_ERRNO; i++) {
			failures += failed[i];
			if (failed[i] > failed[worst]) {
				second = worst;
				worst = i;
			} else if (failed[i] > failed[second]) {
				second = i;
			}
		}
		if (!has_completion(op))
			ok = submitted > failures ? submitted - failures : 0;
		percent = submitted ? ok * 100 / submitted : 0;
		printf("# %-12s %10llu %10llu %5u ", op_names[op],
		       (unsigned long long)submitted, (unsigned long long)ok,
		       percent);
		if (worst)
			printf(" %s %llu", strerrorname_np(worst),
			       (unsigned long long)failed[worst]);
		if (second)
			printf(", %s %llu", strerrorname_np(second),
			       (unsigned long long)failed[second]);
		printf("\n");
		enough &= percent >= LEAST_PERCENT;
	}
	for (i = 0; i < NR_IOCTLS; i++)
		printf("# %-12s %10llu %10llu %5llu\n", ioctl_names[i],
		       (unsigned long long)totals->called[i],
		       (unsigned long long)totals->called_ok[i],
		       (unsigned long long)(totals->called_ok[i] * 100 /
					    (totals->called[i] ?: 1)));
	return enough;
}
