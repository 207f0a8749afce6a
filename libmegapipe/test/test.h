/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The frame of a test program: a list of cases, run in order, one line each.
 * Exit code 0: all passed, 1: one failed, 77: the machine cannot run them.
 */
#ifndef TEST_H
#define TEST_H

#include <stdio.h>
#include <stdlib.h>

#define TEST_SKIPPED 77

struct test_case {
	const char *name;	/* function__case */
	void (*run)(void);
};

static int test_failures;

#define TEST(function)	{ #function, function }

#define FAIL(...) do {							\
	printf("# %s:%d: ", __FILE__, __LINE__);			\
	printf(__VA_ARGS__);						\
	printf("\n");							\
	test_failures++;						\
} while (0)

/* Both sides are numbers.  EXPECT goes on, ASSERT ends the program. */
#define EXPECT_EQ(seen, wanted) do {					\
	long long seen_ = (long long)(seen);				\
	long long wanted_ = (long long)(wanted);			\
	if (seen_ != wanted_)						\
		FAIL("%s is %lld, not %lld", #seen, seen_, wanted_);	\
} while (0)

#define EXPECT(claim) do {						\
	if (!(claim))							\
		FAIL("%s", #claim);					\
} while (0)

#define ASSERT_EQ(seen, wanted) do {					\
	long long seen_ = (long long)(seen);				\
	long long wanted_ = (long long)(wanted);			\
	if (seen_ != wanted_) {						\
		FAIL("%s is %lld, not %lld", #seen, seen_, wanted_);	\
		exit(1);						\
	}								\
} while (0)

#define ASSERT(claim) do {						\
	if (!(claim)) {							\
		FAIL("%s", #claim);					\
		exit(1);						\
	}								\
} while (0)

static inline int test_main(const struct test_case *cases, size_t nr)
{
	size_t i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 0; i < nr; i++) {
		int before = test_failures;

		cases[i].run();
		printf("%s %s\n", test_failures == before ? "ok" : "not ok",
		       cases[i].name);
	}
	return test_failures ? 1 : 0;
}

#define TEST_MAIN(...)							\
int main(void)								\
{									\
	static const struct test_case cases[] = { __VA_ARGS__ };	\
									\
	return test_main(cases, sizeof(cases) / sizeof(cases[0]));	\
}

#endif /* TEST_H */
