// SPDX-License-Identifier: GPL-2.0-only
/*
 * Choosing, from a seed.
 */
#include "fuzz.h"

uint64_t next_random(uint64_t *rng)
{
	/* splitmix64: any state will do */
	uint64_t z = (*rng += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

unsigned int below(struct thread *t, unsigned int limit)
{
	return next_random(&t->rng) % limit;
}

bool one_in(struct thread *t, unsigned int n)
{
	return below(t, n) == 0;
}

/* Mostly short, sometimes more than a socket takes at once */
uint32_t some_length(struct thread *t)
{
	if (one_in(t, 64))
		return 1 + below(t, ARENA / 2);
	return 1 + below(t, one_in(t, 8) ? 4096 : 256);
}

/* Half for what is sent, half for what comes */
char *outgoing(struct thread *t)
{
	return t->arena + below(t, 64);
}

char *incoming(struct thread *t)
{
	return t->arena + ARENA / 2 + below(t, 64);
}

/* Where nothing of ours is: never mapped, mapped now and then, the kernel's */
uint64_t bad_address(struct thread *t)
{
	switch (below(t, 6)) {
	case 0:
		return 0;
	case 1:
		return 1 + below(t, 4096);
	case 2:
		return (uintptr_t)t->arena + ARENA - below(t, 64);
	case 3:
		return 0xffff888000000000ULL + below(t, 1U << 31);
	case 4:
		return next_random(&t->rng) | 1ULL << 62;
	default:
		return (uintptr_t)hole + below(t, HOLE);
	}
}

uint32_t bad_number(struct thread *t)
{
	static const uint32_t numbers[] = {
		0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 0x40000000,
		0x7ffff000, 0x100000, 1024, 1025, 128, 129, 0x10000,
	};

	if (one_in(t, 4))
		return next_random(&t->rng);
	return numbers[below(t, ARRAY_SIZE(numbers))];
}
