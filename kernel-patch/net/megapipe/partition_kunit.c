// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the map from CPUs to partitions.  Included by partition.c, all
 * of whose functions are static.
 */

#include <kunit/test.h>

#define MP_TEST_PARTITIONS	3

/**
 * struct mp_map_test - partitions whose sockets are only compared
 * @group: their group, with nothing but the list
 * @partitions: the partitions
 * @socks: theirs
 */
struct mp_map_test {
	struct mp_group		group;
	struct mp_partition	partitions[MP_TEST_PARTITIONS];
	struct socket		socks[MP_TEST_PARTITIONS];
};

static struct sock *mp_map_test_sk(u32 i)
{
	return (struct sock *)(0x1000UL * (i + 1));
}

static int mp_map_test_init(struct kunit *test)
{
	struct mp_map_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	u32 i;

	if (!t)
		return -ENOMEM;
	INIT_LIST_HEAD(&t->group.partitions);
	for (i = 0; i < MP_TEST_PARTITIONS; i++) {
		t->socks[i].sk = mp_map_test_sk(i);
		t->partitions[i].sock = &t->socks[i];
		if (!zalloc_cpumask_var(&t->partitions[i].cpus, GFP_KERNEL))
			return -ENOMEM;
	}
	test->priv = t;
	return 0;
}

static void mp_map_test_exit(struct kunit *test)
{
	struct mp_map_test *t = test->priv;
	u32 i;

	for (i = 0; t && i < MP_TEST_PARTITIONS; i++)
		free_cpumask_var(t->partitions[i].cpus);
}

static void mp_map_test_add(struct mp_map_test *t, u32 i)
{
	list_add_tail(&t->partitions[i].node, &t->group.partitions);
	t->group.nr++;
}

/* How often the CPU's span has the partition */
static u32 mp_map_test_count(const struct mp_map *map, int cpu, u32 i)
{
	const struct mp_span *span = &map->cpu[cpu];
	u32 n, count = 0;

	for (n = 0; n < span->count; n++)
		count += map->socks[span->first + n] == mp_map_test_sk(i);
	return count;
}

static struct mp_map *mp_map_test_build(struct kunit *test)
{
	struct mp_map_test *t = test->priv;
	struct mp_map *map = mp_map_build(&t->group);
	int cpu;
	u32 i;

	KUNIT_ASSERT_NOT_NULL(test, map);
	for (i = 0; i < t->group.nr; i++)
		KUNIT_EXPECT_PTR_NE(test, map->socks[i], NULL);
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		KUNIT_EXPECT_GE(test, map->cpu[cpu].count, 1);
		KUNIT_EXPECT_LE(test,
				map->cpu[cpu].first + map->cpu[cpu].count,
				map->nr_socks);
	}
	return map;
}

/* One partition takes all CPUs, those of its mask and those of none. */
static void mp_map_build__single(struct kunit *test)
{
	struct mp_map_test *t = test->priv;
	struct mp_map *map;
	int cpu;

	cpumask_set_cpu(0, t->partitions[0].cpus);
	mp_map_test_add(t, 0);
	map = mp_map_test_build(test);
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		KUNIT_EXPECT_EQ(test, map->cpu[cpu].count, 1);
		KUNIT_EXPECT_EQ(test, mp_map_test_count(map, cpu, 0), 1);
	}
	mp_map_free(map);
}

static void mp_map_build__disjoint(struct kunit *test)
{
	struct mp_map_test *t = test->priv;
	struct mp_map *map;
	int cpu;

	for (cpu = 0; cpu < nr_cpu_ids; cpu++)
		cpumask_set_cpu(cpu, t->partitions[cpu % 2].cpus);
	mp_map_test_add(t, 0);
	mp_map_test_add(t, 1);
	map = mp_map_test_build(test);
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		if (nr_cpu_ids > 1)
			KUNIT_EXPECT_EQ(test, map->cpu[cpu].count, 1);
		KUNIT_EXPECT_EQ(test, mp_map_test_count(map, cpu, cpu % 2), 1);
	}
	mp_map_free(map);
}

/* CPU 0 is in all masks: each partition has it once. */
static void mp_map_build__overlapping(struct kunit *test)
{
	struct mp_map_test *t = test->priv;
	struct mp_map *map;
	u32 i;

	for (i = 0; i < MP_TEST_PARTITIONS; i++) {
		cpumask_set_cpu(0, t->partitions[i].cpus);
		mp_map_test_add(t, i);
	}
	map = mp_map_test_build(test);
	KUNIT_EXPECT_EQ(test, map->cpu[0].count, MP_TEST_PARTITIONS);
	for (i = 0; i < MP_TEST_PARTITIONS; i++)
		KUNIT_EXPECT_EQ(test, mp_map_test_count(map, 0, i), 1);
	mp_map_free(map);
}

/* A CPU in no mask is served by all. */
static void mp_map_build__uncovered(struct kunit *test)
{
	struct mp_map_test *t = test->priv;
	struct mp_map *map;
	u32 i;

	if (nr_cpu_ids < 2)
		kunit_skip(test, "needs two CPUs");
	cpumask_set_cpu(0, t->partitions[0].cpus);
	cpumask_set_cpu(0, t->partitions[1].cpus);
	mp_map_test_add(t, 0);
	mp_map_test_add(t, 1);
	map = mp_map_test_build(test);
	KUNIT_EXPECT_EQ(test, map->cpu[1].count, 2);
	for (i = 0; i < 2; i++)
		KUNIT_EXPECT_EQ(test, mp_map_test_count(map, 1, i), 1);
	mp_map_free(map);
}

static struct kunit_case mp_map_cases[] = {
	KUNIT_CASE(mp_map_build__single),
	KUNIT_CASE(mp_map_build__disjoint),
	KUNIT_CASE(mp_map_build__overlapping),
	KUNIT_CASE(mp_map_build__uncovered),
	{}
};

static struct kunit_suite mp_map_suite = {
	.name		= "megapipe_map",
	.init		= mp_map_test_init,
	.exit		= mp_map_test_exit,
	.test_cases	= mp_map_cases,
};

kunit_test_suite(mp_map_suite);
