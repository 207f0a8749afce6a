// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the map from CPUs to partitions, and of a moment in the end of
 * a partition that packets meet too seldom.  Included by partition.c, all of
 * whose functions are static.
 */

#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>

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

/**
 * struct mp_end_test - a connection that a partition has not accepted
 * @lo_flags: of the loopback device, before the test
 * @listener: the listener
 * @client: the other side of the connection
 * @partition: of the listener, for all CPUs, or NULL
 */
struct mp_end_test {
	unsigned int		lo_flags;
	struct socket		*listener;
	struct socket		*client;
	struct mp_partition	*partition;
};

static int mp_end_test_flags(unsigned int flags)
{
	int err;

	rtnl_lock();
	err = dev_change_flags(init_net.loopback_dev, flags, NULL);
	rtnl_unlock();
	return err;
}

static int mp_end_test_init(struct kunit *test)
{
	struct mp_end_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int err;

	if (!t)
		return -ENOMEM;
	test->priv = t;
	/* These tests run before anybody has configured the network. */
	t->lo_flags = dev_get_flags(init_net.loopback_dev);
	err = mp_end_test_flags(t->lo_flags | IFF_UP) ?:
	      sock_create_kern(&init_net, AF_INET, SOCK_STREAM, IPPROTO_TCP,
			       &t->listener) ?:
	      kernel_bind(t->listener, (struct sockaddr *)&addr, sizeof(addr)) ?:
	      kernel_listen(t->listener, 8);
	if (err)
		return err;
	t->partition = mp_partition_create(t->listener, cpu_possible_mask);
	if (IS_ERR(t->partition)) {
		err = PTR_ERR(t->partition);
		t->partition = NULL;
		return err;
	}
	err = kernel_getsockname(t->listener, (struct sockaddr *)&addr);
	if (err < 0)
		return err;
	return sock_create_kern(&init_net, AF_INET, SOCK_STREAM, IPPROTO_TCP,
				&t->client) ?:
	       kernel_connect(t->client, (struct sockaddr *)&addr, sizeof(addr),
			      0);
}

static void mp_end_test_exit(struct kunit *test)
{
	struct mp_end_test *t = test->priv;

	if (!t)
		return;
	if (t->client)
		sock_release(t->client);
	if (t->partition)
		mp_partition_release(t->partition);
	if (t->listener)
		sock_release(t->listener);
	mp_end_test_flags(t->lo_flags);
}

/* Take the connection back out of the queue: its ACK is still under way. */
static struct request_sock *mp_end_test_dequeue(struct sock *sk)
{
	struct request_sock *req;
	int i;

	/* The client may be told before the ACK is processed. */
	for (i = 0; i < 50; i++) {
		if (!reqsk_queue_empty(&inet_csk(sk)->icsk_accept_queue))
			break;
		msleep(20);
	}
	lock_sock(sk);
	req = reqsk_queue_remove(&inet_csk(sk)->icsk_accept_queue, sk);
	release_sock(sk);
	return req;
}

/*
 * An ACK saw the partition listen, and adds its connection to the queue after
 * step 2: megapipe_is_leaving() lets it, and step 3 moves the connection to the
 * listener.  Without it the connection, which is established on the wire, would
 * be reset.
 */
static void mp_partition_end__late_ack(struct kunit *test)
{
	struct mp_end_test *t = test->priv;
	struct sock *sk = t->partition->sock->sk;
	struct socket *accepted;
	struct request_sock *req;
	struct sock *child;

	req = mp_end_test_dequeue(sk);
	KUNIT_ASSERT_NOT_NULL(test, req);
	child = req->sk;

	lock_sock(t->listener->sk);
	mp_partition_leave(t->partition);
	release_sock(t->listener->sk);
	mp_partition_synchronize();
	mp_partition_stop(t->partition);

	/* As tcp_check_req() does, in the softirq of the ACK */
	local_bh_disable();
	rcu_read_lock();
	sock_hold(child);
	bh_lock_sock(child);
	KUNIT_EXPECT_PTR_EQ(test, inet_csk_reqsk_queue_add(sk, req, child),
			    child);
	bh_unlock_sock(child);
	sock_put(child);
	rcu_read_unlock();
	local_bh_enable();

	mp_partition_synchronize();
	mp_partition_move(t->partition);

	KUNIT_ASSERT_EQ(test, kernel_accept(t->listener, &accepted, O_NONBLOCK),
			0);
	KUNIT_EXPECT_PTR_EQ(test, accepted->sk, child);
	KUNIT_EXPECT_EQ(test, inet_sk_state_load(child), TCP_ESTABLISHED);
	KUNIT_EXPECT_EQ(test, inet_sk_state_load(t->client->sk),
			TCP_ESTABLISHED);
	sock_release(accepted);
}

static struct kunit_case mp_end_cases[] = {
	KUNIT_CASE(mp_partition_end__late_ack),
	{}
};

static struct kunit_suite mp_end_suite = {
	.name		= "megapipe_end",
	.init		= mp_end_test_init,
	.exit		= mp_end_test_exit,
	.test_cases	= mp_end_cases,
};

kunit_test_suites(&mp_map_suite, &mp_end_suite);
