// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a program can tell its user when there is no channel to be had.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "fake.h"
#include "test.h"

static char text[MP_EXPLAIN_SIZE];

static void expect_words(int error, const char *const *words)
{
	EXPECT(mp_explain(error, text, sizeof(text)) == text);
	printf("# %s\n", text);
	for (; *words; words++)
		if (!strstr(text, *words))
			FAIL("no '%s' in: %s", *words, text);
}

#define EXPECT_WORDS(error, ...) \
	expect_words(error, (const char *const []) { __VA_ARGS__, NULL })

static void missing__kernel_option_instructions(void)
{
	fake_reset();
	EXPECT_WORDS(-ENOENT, "Fakenix 6.12", "Linux 6.12", "CONFIG_MEGAPIPE=y",
		     "megapipe(7)");
	fake.has_sysfs = true;
	EXPECT_WORDS(-ENOENT, "Fakenix 6.12", "has MegaPipe", "/dev/megapipe",
		     "/sys/class/misc/megapipe/dev");
}

static void forbidden__how_to_permit(void)
{
	fake_reset();
	EXPECT_WORDS(-EACCES, "permission", "/dev/megapipe", "MODE=");
}

static void abi__which_is_older(void)
{
	fake_reset();
	fake.info.abi_version = MEGAPIPE_ABI_VERSION + 1;
	EXPECT_WORDS(-EPROTO, "ABI version 3", "needs version 2",
		     "newer libmegapipe");
	fake.info.abi_version = MEGAPIPE_ABI_VERSION;
	fake.info.nr_ops = 3;
	EXPECT_WORDS(-EPROTO, "with 3 commands", "newer kernel", "megapipe(7)");
	EXPECT_EQ(fake.nr_closed, 2);
}

static void abi__not_ours(void)
{
	fake_reset();
	fake.info_result = -ENOTTY;
	EXPECT_WORDS(-EPROTO, "/dev/megapipe", "another driver");
}

static void others__in_words(void)
{
	fake_reset();
	EXPECT_WORDS(-EMFILE, "Too many open files");
	EXPECT_WORDS(-123456, "123456");
	EXPECT_WORDS(0, "error 0");
	EXPECT_WORDS(INT_MIN, "-2147483648");
}

static void room__kept_to(void)
{
	char small[8] = "1234567";

	fake_reset();
	EXPECT(mp_explain(-ENOENT, small, 4) == small);
	EXPECT_EQ(strlen(small), 3);
	EXPECT_EQ(small[4], '5');
	EXPECT(!strcmp(mp_explain(-ENOENT, NULL, 100), ""));
	EXPECT(!strcmp(mp_explain(-ENOENT, small, 0), ""));
}

TEST_MAIN(
	TEST(missing__kernel_option_instructions),
	TEST(forbidden__how_to_permit),
	TEST(abi__which_is_older),
	TEST(abi__not_ours),
	TEST(others__in_words),
	TEST(room__kept_to)
)
