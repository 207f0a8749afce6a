// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which connection goes to which partition, what partitions inherit, and what
 * they leave as it was.
 *
 *	client on CPU n ---- loopback ----> listener -> partition of CPU n
 *
 * Over loopback a connection arrives on the CPU that its client runs on.
 */
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/inet_diag.h>
#include <linux/membarrier.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "megapipe_test.h"
#include "owner.h"
#include "peer.h"

#define MAX_OWNERS	8
#define CLIENTS		8

/* What newer kernels have and this C library may not know */
#ifndef TCP_FASTOPEN_KEY
#define TCP_FASTOPEN_KEY	33
#endif
#ifndef SO_TXREHASH
#define SO_TXREHASH		74
#endif

static int cpus_wanted(int count)
{
	return mp_cpus() < count ? mp_cpus() : count;
}

/*
 * Masks
 */

FIXTURE(masks) {
	int		fd;
	int		cpus;
	struct mp_addr	addr;
	struct mp_owner	owners[MAX_OWNERS];
	int		nr;
	int		clients[MAX_OWNERS * CLIENTS];
};

FIXTURE_VARIANT(masks) {
	int	listener;
	int	client;
};

FIXTURE_VARIANT_ADD(masks, inet) {
	.listener = AF_INET, .client = AF_INET,
};

FIXTURE_VARIANT_ADD(masks, inet6) {
	.listener = AF_INET6, .client = AF_INET6,
};

FIXTURE_VARIANT_ADD(masks, dual_stack) {
	.listener = AF_INET6, .client = AF_INET,
};

FIXTURE_SETUP(masks)
{
	struct mp_addr any = { .in6 = { .sin6_family = AF_INET6 },
			       .len = sizeof(any.in6) };

	self->cpus = cpus_wanted(4);
	if (variant->listener == variant->client) {
		self->fd = mp_listen(variant->listener, 64, &self->addr);
	} else {
		self->fd = mp_must(socket(AF_INET6, SOCK_STREAM, 0));
		mp_must(bind(self->fd, &any.sa, any.len));
		mp_must(listen(self->fd, 64));
		mp_getsockname(self->fd, &any);
		self->addr = mp_loopback(AF_INET);
		self->addr.in.sin_port = any.in6.sin6_port;
	}
	memset(self->clients, -1, sizeof(self->clients));
}

FIXTURE_TEARDOWN(masks)
{
	int i;

	for (i = 0; i < self->nr; i++)
		close(self->owners[i].channel);
	close(self->fd);
}

/* Owner @i, in @bits; accepts at once. */
#define own(i, bits)							\
do {									\
	self->owners[i] = mp_owner(self->fd, bits);			\
	mp_owner_accepts(&self->owners[i]);				\
	self->nr = (i) + 1;						\
} while (0)

TEST_F(masks, disjoint__each_cpu_has_its_own)
{
	struct megapipe_listener look;
	int i;

	for (i = 0; i < self->cpus; i++)
		own(i, 1UL << i);
	for (i = 0; i < self->cpus; i++)
		mp_clients(&self->addr, i, self->clients + i * CLIENTS, i + 1);
	for (i = 0; i < self->cpus; i++) {
		mp_pin(i);
		EXPECT_EQ(mp_owner_drain(&self->owners[i]), i + 1);
		look = mp_owner_look(&self->owners[i]);
		EXPECT_EQ(look.partitions, self->cpus);
		EXPECT_EQ(look.cpus, 1);
		EXPECT_EQ(look.queued, 0);
		EXPECT_EQ(look.backlog, 64);
		EXPECT_EQ(look.accepts, i + 1);
		EXPECT_EQ(look.accepts_foreign, 0);
		EXPECT_EQ(look.migrated_in, 0);
	}
}

TEST_F(masks, overlapping__share_by_port)
{
	int first, second;

	own(0, 1);
	own(1, 1);
	mp_clients(&self->addr, 0, self->clients, 4 * CLIENTS);
	first = mp_owner_drain(&self->owners[0]);
	second = mp_owner_drain(&self->owners[1]);
	/* Half each, as dice go: all 32 on one side once in 2^31. */
	EXPECT_GT(first, 0);
	EXPECT_GT(second, 0);
	EXPECT_EQ(first + second, 4 * CLIENTS);
}

TEST_F(masks, overlapping__full_one_is_passed_over)
{
	int count;

	mp_must(listen(self->fd, 3));
	own(0, 1);
	self->owners[1] = mp_owner(self->fd, 1);	/* never accepts */
	self->nr = 2;
	for (count = 0; count < 2 * CLIENTS; count++) {
		mp_clients(&self->addr, 0, &self->clients[count], 1);
		mp_owner_drain(&self->owners[0]);
	}
	EXPECT_LE(mp_owner_look(&self->owners[1]).queued, 4);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).accepts +
		  mp_owner_look(&self->owners[1]).queued, 2 * CLIENTS);
}

TEST_F(masks, uncovered_cpu__is_served_by_all)
{
	int first, second;

	if (self->cpus < 3)
		SKIP(return, "needs 3 CPUs");
	own(0, 1);
	own(1, 2);
	mp_clients(&self->addr, 2, self->clients, 4 * CLIENTS);
	first = mp_owner_drain(&self->owners[0]);
	second = mp_owner_drain(&self->owners[1]);
	EXPECT_GT(first, 0);
	EXPECT_GT(second, 0);
	EXPECT_EQ(first + second, 4 * CLIENTS);
}

TEST_F(masks, fewer_owners_than_cpus__serve_all_of_theirs)
{
	int i;

	if (self->cpus < 4)
		SKIP(return, "needs 4 CPUs");
	own(0, 1 | 2);
	own(1, 4 | 8);
	for (i = 0; i < 4; i++)
		mp_clients(&self->addr, i, self->clients + i * CLIENTS, CLIENTS);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).cpus, 2);
	EXPECT_EQ(mp_owner_drain(&self->owners[0]), 2 * CLIENTS);
	EXPECT_EQ(mp_owner_drain(&self->owners[1]), 2 * CLIENTS);
}

TEST_F(masks, two_handles_of_one_channel__are_two_partitions)
{
	cpu_set_t mask = mp_cpu_mask(2);
	int second;

	if (self->cpus < 2)
		SKIP(return, "needs 2 CPUs");
	own(0, 1);
	second = mp_register_mask(self->owners[0].channel, self->fd, 0, &mask);
	ASSERT_GT(second, 0);
	mp_submit(self->owners[0].channel, mp_cmd_accept(second, 0, 0));
	mp_clients(&self->addr, 0, self->clients, 2);
	mp_clients(&self->addr, 1, self->clients + 1 * CLIENTS, 3);
	EXPECT_EQ(mp_owner_drain(&self->owners[0]), 5);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).accepts, 2);
	self->owners[0].handle = second;
	EXPECT_EQ(mp_owner_look(&self->owners[0]).accepts, 3);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).partitions, 2);
}

TEST_F(masks, earlier_connections__are_for_any_owner)
{
	mp_clients(&self->addr, 0, self->clients, 3);
	own(0, ~1UL & ((1UL << self->cpus) - 1) ?: 1);
	EXPECT_EQ(mp_owner_drain(&self->owners[0]), 3);
}

/* Without a mask a channel takes what the one queue has, which is nothing. */
TEST_F(masks, plain_handle__has_no_partition)
{
	struct megapipe_listener look;

	own(0, 0);
	look = mp_owner_look(&self->owners[0]);
	EXPECT_EQ(look.partitions, 0);
	EXPECT_EQ(look.cpus, 0);
	EXPECT_EQ(look.backlog, 64);
	own(1, (1UL << self->cpus) - 1);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).partitions, 1);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).cpus, 0);
	mp_clients(&self->addr, 0, self->clients, 3);
	EXPECT_EQ(mp_owner_drain(&self->owners[0]), 0);
	EXPECT_EQ(mp_owner_drain(&self->owners[1]), 3);
	mp_owner_unregister(&self->owners[1]);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).partitions, 0);
	mp_clients(&self->addr, 0, self->clients + 1 * CLIENTS, 3);
	EXPECT_EQ(mp_owner_drain(&self->owners[0]), 3);
}

TEST(mask__is_checked)
{
	struct megapipe_register reg = { .flags = MEGAPIPE_REG_PARTITION };
	int channel = mp_open();
	unsigned char first = 1;
	struct mp_addr addr;
	cpu_set_t mask;

	reg.fd = mp_listen(AF_INET, 4, &addr);
	CPU_ZERO(&mask);
	EXPECT_EQ(mp_register_mask(channel, reg.fd, 0, &mask), -EINVAL);
	/* Nobody has so many. */
	CPU_SET(CPU_SETSIZE - 1, &mask);
	EXPECT_EQ(mp_register_mask(channel, reg.fd, 0, &mask), -EINVAL);
	EXPECT_EQ(mp_ioctl(channel, MEGAPIPE_IOC_REGISTER, &reg), -EINVAL);
	reg.cpu_mask = 8;
	reg.cpu_mask_size = 8;
	EXPECT_EQ(mp_ioctl(channel, MEGAPIPE_IOC_REGISTER, &reg), -EFAULT);
	/* A short mask says nothing of the other CPUs. */
	reg.cpu_mask = (uintptr_t)&first;
	reg.cpu_mask_size = 1;
	EXPECT_GT(mp_ioctl(channel, MEGAPIPE_IOC_REGISTER, &reg), 0);
	close(reg.fd);
	close(channel);
}

TEST(listener__ioctl_is_checked)
{
	struct megapipe_listener look = {};
	int channel = mp_open(), fds[2], handle;
	struct mp_addr addr;
	int fd;

	EXPECT_EQ(mp_listener(channel, 1, &look), -EBADF);
	mp_tcp_pair(AF_INET, fds);
	handle = mp_register(channel, fds[0], 0);
	ASSERT_GT(handle, 0);
	EXPECT_EQ(mp_listener(channel, handle, &look), -EOPNOTSUPP);

	fd = mp_listen(AF_INET, 4, &addr);
	handle = mp_register(channel, fd, 0);
	ASSERT_GT(handle, 0);
	EXPECT_EQ(mp_listener(channel, handle, &look), 0);
	/* What the kernel wrote may be there. */
	EXPECT_EQ(mp_ioctl(channel, MEGAPIPE_IOC_LISTENER, &look), 0);
	look.resv = 1;
	EXPECT_EQ(mp_ioctl(channel, MEGAPIPE_IOC_LISTENER, &look), -EINVAL);
	look.resv = 0;
	look.resv2[3] = 1;
	EXPECT_EQ(mp_ioctl(channel, MEGAPIPE_IOC_LISTENER, &look), -EINVAL);
	close(fd);
	close(fds[0]);
	close(fds[1]);
	close(channel);
}

/*
 * Backlog
 */

TEST(backlog__is_reported_with_each_accept_and_follows_listen)
{
	struct megapipe_event event;
	struct mp_owner owner;
	struct mp_addr addr;
	int clients[8], i, fd;

	fd = mp_listen(AF_INET, 64, &addr);
	owner = mp_owner(fd, 1);
	EXPECT_EQ(mp_owner_look(&owner).backlog, 64);
	mp_must(listen(fd, 3));
	EXPECT_EQ(mp_owner_look(&owner).backlog, 3);

	/* A queue takes one more than its backlog. */
	mp_clients(&addr, 0, clients, 4);
	EXPECT_EQ(mp_owner_look(&owner).queued, 4);
	clients[4] = mp_must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	EXPECT_EQ(connect(clients[4], &addr.sa, addr.len), -1);
	EXPECT_EQ(mp_owner_look(&owner).queued, 4);
	EXPECT_GT(mp_counter("TcpExt", "ListenOverflows"), 0);

	mp_must(listen(fd, 100));
	EXPECT_EQ(mp_owner_look(&owner).backlog, 100);
	mp_clients(&addr, 0, clients + 5, 1);
	EXPECT_EQ(mp_owner_look(&owner).queued, 5);

	mp_submit(owner.channel, mp_cmd_accept(owner.handle, 5, 0));
	for (i = 4; i >= 0; i--) {
		event = mp_wait(owner.channel);
		ASSERT_GE(event.res, 0);
		EXPECT_EQ(event.aux, i);
		close(event.res);
	}
	mp_close_all(clients, 6);
	close(fd);
	close(owner.channel);
}

/*
 * Options
 */

/**
 * struct option - an option that partitions take over
 * @name: for the log
 * @level: as for setsockopt()
 * @option: as for setsockopt()
 * @value: the value
 * @family: of sockets that know it; 0: of any
 */
struct option {
	const char	*name;
	int		level;
	int		option;
	int		value;
	int		family;
};

#define OPTION(level, option, ...)	{ #option, level, option, __VA_ARGS__ }

static const struct option options[] = {
	OPTION(SOL_SOCKET, SO_KEEPALIVE, 1),
	OPTION(SOL_SOCKET, SO_MARK, 7),
	OPTION(SOL_SOCKET, SO_OOBINLINE, 1),
	OPTION(SOL_SOCKET, SO_PRIORITY, 3),
	OPTION(SOL_SOCKET, SO_RCVBUF, 20000),
	OPTION(SOL_SOCKET, SO_RCVLOWAT, 5),
	OPTION(SOL_SOCKET, SO_SNDBUF, 20000),
	OPTION(SOL_SOCKET, SO_TXREHASH, 0),
	OPTION(SOL_SOCKET, SO_ZEROCOPY, 1),
	OPTION(IPPROTO_TCP, TCP_NODELAY, 1),
	OPTION(IPPROTO_TCP, TCP_KEEPIDLE, 77),
	OPTION(IPPROTO_TCP, TCP_KEEPINTVL, 78),
	OPTION(IPPROTO_TCP, TCP_KEEPCNT, 9),
	OPTION(IPPROTO_TCP, TCP_SYNCNT, 4),
	OPTION(IPPROTO_TCP, TCP_LINGER2, 11),
	OPTION(IPPROTO_TCP, TCP_USER_TIMEOUT, 12345),
	OPTION(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 54321),
	OPTION(IPPROTO_TCP, TCP_WINDOW_CLAMP, 30000),
	OPTION(IPPROTO_TCP, TCP_INQ, 1),
	OPTION(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1),
	OPTION(IPPROTO_IP, IP_TOS, 0x10),
	OPTION(IPPROTO_IP, IP_TTL, 33),
	OPTION(IPPROTO_IP, IP_MINTTL, 2),
	OPTION(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT),
	OPTION(IPPROTO_IP, IP_RECVERR, 1),
	OPTION(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44, AF_INET6),
	OPTION(IPPROTO_IPV6, IPV6_TCLASS, 0x20, AF_INET6),
	OPTION(IPPROTO_IPV6, IPV6_MINHOPCOUNT, 3, AF_INET6),
	OPTION(IPPROTO_IPV6, IPV6_RECVERR, 1, AF_INET6),
};

static void set_options(int fd, int family)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option *o = &options[i];

		if (o->family && o->family != family)
			continue;
		ret = setsockopt(fd, o->level, o->option, &o->value,
				 sizeof(o->value));
		if (ret)
			mp_die("%s: %s", o->name, strerror(errno));
	}
	mp_must(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
}

FIXTURE(options) {
	struct mp_owner	owner;
	struct mp_addr	addr;
	int		fd;
};

FIXTURE_VARIANT(options) {
	int	family;
	bool	later;
};

FIXTURE_VARIANT_ADD(options, inet_before) { .family = AF_INET };
FIXTURE_VARIANT_ADD(options, inet_later) { .family = AF_INET, .later = true };
FIXTURE_VARIANT_ADD(options, inet6_before) { .family = AF_INET6 };
FIXTURE_VARIANT_ADD(options, inet6_later) { .family = AF_INET6, .later = true };

FIXTURE_SETUP(options)
{
	self->fd = mp_listen(variant->family, 8, &self->addr);
	if (!variant->later)
		set_options(self->fd, variant->family);
	self->owner = mp_owner(self->fd, (1UL << mp_cpus()) - 1);
	if (variant->later)
		set_options(self->fd, variant->family);
	mp_owner_accepts(&self->owner);
}

FIXTURE_TEARDOWN(options)
{
	close(self->owner.channel);
	close(self->fd);
}

/* As they would from a listener without partitions */
TEST_F(options, reach_the_connections)
{
	char name[16] = {}, ordinary_name[16] = {};
	int client, fd, listener, clients[2];
	struct mp_addr addr;
	unsigned int i;
	socklen_t len;

	client = mp_connect(&self->addr);
	fd = mp_owner_next(&self->owner);
	listener = mp_listen(variant->family, 8, &addr);
	set_options(listener, variant->family);
	clients[0] = mp_connect(&addr);
	clients[1] = mp_must(accept(listener, NULL, NULL));

	for (i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option *o = &options[i];
		int value = 0, want = -1;

		if (o->family && o->family != variant->family)
			continue;
		len = sizeof(value);
		ASSERT_EQ(getsockopt(fd, o->level, o->option, &value, &len), 0);
		ASSERT_EQ(getsockopt(clients[1], o->level, o->option, &want,
				     &len), 0);
		EXPECT_EQ(value, want)
			TH_LOG("%s", o->name);
	}
	len = sizeof(name);
	ASSERT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
	len = sizeof(name);
	ASSERT_EQ(getsockopt(clients[1], IPPROTO_TCP, TCP_CONGESTION,
			     ordinary_name, &len), 0);
	EXPECT_STREQ(name, ordinary_name);
	EXPECT_STREQ(name, "reno");
	close(fd);
	close(client);
	close(listener);
	mp_close_all(clients, 2);
}

TEST(options__that_partitions_cannot_take_over_are_refused_meanwhile)
{
	static struct sock_filter pass[] = { BPF_STMT(BPF_RET | BPF_K, ~0U) };
	struct sock_fprog filter = { .len = 1, .filter = pass };
	struct {
		int level, option;
		const void *value;
		socklen_t len;
	} refused[] = {
		{ SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter) },
		{ SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &filter, sizeof(filter) },
		{ SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int) },
		{ SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int) },
		{ SOL_SOCKET, SO_BINDTODEVICE, "lo", 2 },
		{ SOL_SOCKET, SO_TIMESTAMPNS, &(int){ 1 }, sizeof(int) },
		{ IPPROTO_TCP, TCP_ULP, "tls", 3 },
		{ IPPROTO_TCP, TCP_MD5SIG, &(int){ 0 }, sizeof(int) },
		{ IPPROTO_TCP, TCP_REPAIR, &(int){ 1 }, sizeof(int) },
		{ IPPROTO_IP, IP_OPTIONS, "\1\1\1\1", 4 },
		{ IPPROTO_IPV6, IPV6_HOPOPTS, "", 0 },
		{ 12345, 1, &(int){ 1 }, sizeof(int) },
	};
	struct mp_owner owner;
	struct mp_addr addr;
	unsigned int i;
	int fd;

	fd = mp_listen(AF_INET, 8, &addr);
	owner = mp_owner(fd, 1);
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		EXPECT_EQ(setsockopt(fd, refused[i].level, refused[i].option,
				     refused[i].value, refused[i].len), -1);
		EXPECT_EQ(errno, EBUSY)
			TH_LOG("option %d", refused[i].option);
	}
	mp_owner_unregister(&owner);
	EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter,
			     sizeof(filter)), 0);
	/* The other way round */
	EXPECT_EQ(mp_register_cpu(owner.channel, fd, 0, 0), -EOPNOTSUPP);
	EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){ 0 },
			     sizeof(int)), 0);
	EXPECT_GT(mp_register_cpu(owner.channel, fd, 0, 0), 0);
	close(fd);
	close(owner.channel);
}

TEST(defer_accept__waits_for_data)
{
	struct mp_owner owner;
	struct mp_addr addr;
	int fd, client;

	fd = mp_listen(AF_INET, 8, &addr);
	owner = mp_owner(fd, 1);
	mp_must(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){ 20 },
			   sizeof(int)));
	mp_owner_accepts(&owner);
	mp_clients(&addr, 0, &client, 1);
	EXPECT_EQ(mp_owner_drain(&owner), 0);
	mp_write_all(client, "x", 1);
	close(mp_owner_next(&owner));
	close(client);
	close(fd);
	close(owner.channel);
}

/*
 * Fast Open: the second connection brings its data with the SYN, by a cookie
 * made with the listener's own key, whichever partition gave it.
 */
TEST(fastopen__works_and_has_the_listeners_key)
{
	static const char key[16] = "0123456789abcdef";
	struct mp_owner owners[2];
	struct mp_addr addr;
	int fd, client, i, conn;
	char buf[8];

	if (mp_cpus() < 2)
		SKIP(return, "needs 2 CPUs");
	mp_new_netns();
	mp_write_text("/proc/sys/net/ipv4/tcp_fastopen", "3");
	fd = mp_listen(AF_INET, 8, &addr);
	mp_must(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, 16));
	owners[0] = mp_owner(fd, 1);
	mp_must(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &(int){ 5 },
			   sizeof(int)));
	owners[1] = mp_owner(fd, 2);
	for (i = 0; i < 2; i++) {
		mp_pin(i);
		client = mp_must(socket(AF_INET, SOCK_STREAM, 0));
		EXPECT_EQ(sendto(client, "hello", 5, MSG_FASTOPEN, &addr.sa,
				 addr.len), 5);
		mp_owner_accepts(&owners[i]);
		conn = mp_owner_next(&owners[i]);
		mp_read_all(conn, buf, 5);
		EXPECT_EQ(mp_counter("TcpExt", "TCPFastOpenPassive"), i);
		close(conn);
		close(client);
	}
	/* A new key is a key of all partitions; cookies of before are void. */
	mp_must(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY,
			   "fedcba9876543210", 16));
	for (i = 0; i < 2; i++) {
		mp_pin(1 - i);
		client = mp_must(socket(AF_INET, SOCK_STREAM, 0));
		EXPECT_EQ(sendto(client, "hello", 5, MSG_FASTOPEN, &addr.sa,
				 addr.len), 5);
		conn = mp_owner_next(&owners[1 - i]);
		mp_read_all(conn, buf, 5);
		EXPECT_EQ(mp_counter("TcpExt", "TCPFastOpenPassive"), 1 + i);
		EXPECT_EQ(mp_counter("TcpExt", "TCPFastOpenPassiveFail"), 1);
		close(conn);
		close(client);
	}
	close(fd);
	close(owners[0].channel);
	close(owners[1].channel);
}

/*
 * SYN cookies
 *
 *	SYN on CPU 0 -> partition 0 sends a cookie
 *	ACK on CPU 1 -> partition 1 takes the connection
 */

FIXTURE(cookies) {
	int		tun;
};

FIXTURE_VARIANT(cookies) {
	int	family;
};

FIXTURE_VARIANT_ADD(cookies, inet) { .family = AF_INET };
FIXTURE_VARIANT_ADD(cookies, inet6) { .family = AF_INET6 };

FIXTURE_SETUP(cookies)
{
	mp_new_netns();
	mp_write_text("/proc/sys/net/ipv4/tcp_syncookies", "2");
	self->tun = mp_tun_open();
}

FIXTURE_TEARDOWN(cookies)
{
	close(self->tun);
}

TEST_F(cookies, of_one_partition_are_good_for_another)
{
	struct mp_owner owners[2];
	struct mp_addr addr;
	struct mp_peer peer;
	int fd;

	if (mp_cpus() < 2)
		SKIP(return, "needs 2 CPUs");
	fd = mp_tun_listen(variant->family, 8, &addr);
	owners[0] = mp_owner(fd, 1);
	owners[1] = mp_owner(fd, 2);
	mp_owner_accepts(&owners[0]);
	mp_owner_accepts(&owners[1]);
	peer = mp_peer(self->tun, &addr);
	mp_peer_syn(&peer, 0);
	EXPECT_EQ(mp_counter("TcpExt", "SyncookiesSent"), 1);
	mp_peer_ack(&peer, 1);
	EXPECT_EQ(mp_peer_receive(&peer, 0) & PEER_RST, 0);
	EXPECT_EQ(mp_owner_drain(&owners[1]), 1);
	EXPECT_EQ(mp_counter("TcpExt", "SyncookiesRecv"), 1);

	/* And when the partition that sent it is gone */
	peer = mp_peer(self->tun, &addr);
	mp_peer_syn(&peer, 0);
	mp_owner_unregister(&owners[0]);
	mp_peer_ack(&peer, 0);
	EXPECT_EQ(mp_owner_drain(&owners[1]), 1);

	/* And when all are */
	peer = mp_peer(self->tun, &addr);
	mp_peer_syn(&peer, 1);
	mp_owner_unregister(&owners[1]);
	mp_peer_ack(&peer, 0);
	EXPECT_GE(mp_accept_now(fd), 0);

	/* Without one there was no flood, and the ACK is nobody's. */
	peer = mp_peer(self->tun, &addr);
	peer.ack = 12345;
	mp_peer_ack(&peer, 0);
	EXPECT_NE(mp_peer_receive(&peer, 10000) & PEER_RST, 0);
	close(fd);
	close(owners[0].channel);
	close(owners[1].channel);
}

/*
 * SO_REUSEPORT: first a listener is chosen, by the program's BPF if it has any,
 * then that listener's partition.
 */
TEST(reuseport_bpf__chooses_the_listener_before_the_partition)
{
	static struct sock_filter second[] = { BPF_STMT(BPF_RET | BPF_K, 1) };
	struct sock_fprog program = { .len = 1, .filter = second };
	struct mp_addr addr = mp_loopback(AF_INET);
	struct mp_owner owners[2];
	int fds[2], clients[8], i;

	for (i = 0; i < 2; i++) {
		fds[i] = mp_must(socket(AF_INET, SOCK_STREAM, 0));
		mp_must(setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT,
				   &(int){ 1 }, sizeof(int)));
		mp_must(bind(fds[i], &addr.sa, addr.len));
		mp_must(listen(fds[i], 8));
		mp_getsockname(fds[i], &addr);
	}
	mp_must(setsockopt(fds[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF,
			   &program, sizeof(program)));
	for (i = 0; i < 2; i++) {
		owners[i] = mp_owner(fds[i], 1);
		mp_owner_accepts(&owners[i]);
	}
	mp_clients(&addr, 0, clients, 8);
	EXPECT_EQ(mp_owner_drain(&owners[0]), 0);
	EXPECT_EQ(mp_owner_drain(&owners[1]), 8);
	mp_close_all(clients, 8);
	for (i = 0; i < 2; i++) {
		close(owners[i].channel);
		close(fds[i]);
	}
}

/*
 * The end of the listener
 */

TEST(shutdown__ends_accepts_and_listen_begins_anew)
{
	struct megapipe_event event;
	struct mp_owner owners[2];
	int fd, clients[2], i;
	struct mp_addr addr;
	char byte;

	/* A port that was asked for stays with the socket. */
	close(mp_bound(AF_INET, SOCK_STREAM, &addr));
	fd = mp_must(socket(AF_INET, SOCK_STREAM, 0));
	/* Past connections wait in the port; the partitions do not, it shows. */
	mp_must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 },
			   sizeof(int)));
	mp_must(bind(fd, &addr.sa, addr.len));
	mp_must(listen(fd, 8));
	owners[0] = mp_owner(fd, 1);
	owners[1] = mp_owner(fd, ~1UL);
	mp_owner_accepts(&owners[0]);
	mp_clients(&addr, 0, clients, 1);
	close(mp_owner_next(&owners[0]));
	mp_close_all(clients, 1);

	/* One waits in the queue of an owner that does not accept. */
	mp_clients(&addr, mp_cpus() - 1, clients, 1);
	mp_must(shutdown(fd, SHUT_RDWR));
	event = mp_wait(owners[0].channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_ACCEPT);
	if (mp_cpus() > 1) {
		EXPECT_EQ(event.res, -EINVAL);
	} else {
		close(event.res);
		EXPECT_EQ(mp_wait(owners[0].channel).res, -EINVAL);
	}

	/* Nobody else may have the port meanwhile: there were listeners. */
	ASSERT_EQ(listen(fd, 8), 0);
	if (mp_cpus() > 1) {
		EXPECT_EQ(read(clients[0], &byte, 1), -1);
		EXPECT_EQ(errno, ECONNRESET);
	}
	close(clients[0]);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(mp_owner_look(&owners[i]).partitions, 0);
		EXPECT_EQ(mp_owner_look(&owners[i]).cpus, 0);
	}

	/* An ordinary listener, for the old handles, too */
	mp_clients(&addr, 0, clients, 2);
	EXPECT_EQ(mp_owner_look(&owners[0]).queued, 2);
	event = mp_run(owners[0].channel, mp_cmd_accept(owners[0].handle, 1, 0));
	EXPECT_GE(event.res, 0);
	close(event.res);
	i = mp_accept_now(fd);
	EXPECT_GE(i, 0);
	close(i);
	mp_close_all(clients, 2);

	/* Registered again, it has partitions again. */
	mp_owner_unregister(&owners[0]);
	owners[0].handle = mp_register_cpu(owners[0].channel, fd, 0, 0);
	ASSERT_GT(owners[0].handle, 0);
	EXPECT_EQ(mp_owner_look(&owners[0]).partitions, 1);
	mp_clients(&addr, 0, clients, 2);
	mp_owner_accepts(&owners[0]);
	EXPECT_EQ(mp_owner_drain(&owners[0]), 2);
	mp_close_all(clients, 2);
	close(fd);
	close(owners[0].channel);
	close(owners[1].channel);
}

/* What ss -K does.  Returns 0 or a negative error number. */
static int sock_destroy(const struct mp_addr *addr)
{
	struct {
		struct nlmsghdr nlh;
		struct inet_diag_req_v2 req;
	} request = {
		.nlh = {
			.nlmsg_len = sizeof(request),
			.nlmsg_type = SOCK_DESTROY,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		},
		.req = {
			.sdiag_family = AF_INET,
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_states = ~0U,
			.id = {
				.idiag_sport = addr->in.sin_port,
				.idiag_src = { addr->in.sin_addr.s_addr },
				.idiag_cookie = { INET_DIAG_NOCOOKIE,
						  INET_DIAG_NOCOOKIE },
			},
		},
	};
	int fd = mp_must(socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG));
	char reply[512];
	struct nlmsghdr *nlh = (void *)reply;

	mp_must(send(fd, &request, sizeof(request), 0));
	mp_must(recv(fd, reply, sizeof(reply), 0));
	close(fd);
	return ((struct nlmsgerr *)NLMSG_DATA(nlh))->error;
}

TEST(sock_destroy__ends_the_listener_not_a_partition)
{
	struct megapipe_event event;
	struct mp_owner owners[2];
	struct mp_addr addr;
	int fd, err, client;

	fd = mp_listen(AF_INET, 8, &addr);
	owners[0] = mp_owner(fd, 1);
	owners[1] = mp_owner(fd, ~1UL);
	mp_owner_accepts(&owners[0]);
	mp_owner_accepts(&owners[1]);
	mp_pin(0);
	err = sock_destroy(&addr);
	if (err == -EOPNOTSUPP)
		SKIP(return, "no INET_DIAG_DESTROY");
	ASSERT_EQ(err, 0);
	client = mp_must(socket(AF_INET, SOCK_STREAM, 0));
	EXPECT_EQ(connect(client, &addr.sa, addr.len), -1);
	EXPECT_EQ(errno, ECONNREFUSED);
	event = mp_wait(owners[0].channel);
	EXPECT_EQ(event.res, -EINVAL);
	event = mp_wait(owners[1].channel);
	EXPECT_EQ(event.res, -EINVAL);
	close(client);
	close(fd);
	close(owners[0].channel);
	close(owners[1].channel);
}

/* The port is free as soon as the last owner of it has gone. */
TEST(port__is_free_when_the_owner_is_dead)
{
	struct mp_owner owner;
	struct mp_addr addr;
	int fd, i, status;
	pid_t pid;

	fd = mp_listen(AF_INET, 8, &addr);
	close(fd);
	for (i = 0; i < 5; i++) {
		pid = mp_must(fork());
		if (!pid) {
			fd = mp_must(socket(AF_INET, SOCK_STREAM, 0));
			mp_must(bind(fd, &addr.sa, addr.len));
			mp_must(listen(fd, 8));
			owner = mp_owner(fd, 1);
			mp_owner_accepts(&owner);
			mp_must(kill(getpid(), SIGKILL));
		}
		mp_must(waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
	}
}

/*
 * Privacy: whoever may or may not share the port may or may not do so whether
 * there are partitions or not.
 */

/**
 * struct intruder - an attempt to listen on somebody's port
 * @reuse: SO_REUSEADDR
 * @reuseport: SO_REUSEPORT
 * @uid: as this user
 * @any: on all addresses, not on the listener's
 * @inet6: by an IPv6 socket, on all addresses
 */
struct intruder {
	bool	reuse;
	bool	reuseport;
	bool	any;
	bool	inet6;
	uid_t	uid;
};

/* From another process.  Returns 0 or the error number of bind() or listen(). */
static int intrude(const struct intruder *intruder, struct mp_addr addr)
{
	pid_t pid = mp_must(fork());
	int status, fd;

	if (pid) {
		mp_must(waitpid(pid, &status, 0));
		if (!WIFEXITED(status))
			mp_die("the intruder died");
		return WEXITSTATUS(status);
	}
	if (intruder->uid)
		mp_must(setuid(intruder->uid));
	if (intruder->inet6)
		addr = (struct mp_addr){
			.in6 = { .sin6_family = AF_INET6,
				 .sin6_port = addr.in.sin_port },
			.len = sizeof(addr.in6),
		};
	else if (intruder->any)
		addr.in.sin_addr.s_addr = htonl(INADDR_ANY);
	fd = mp_must(socket(addr.sa.sa_family, SOCK_STREAM, 0));
	mp_must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR,
			   &(int){ intruder->reuse }, sizeof(int)));
	mp_must(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT,
			   &(int){ intruder->reuseport }, sizeof(int)));
	if (bind(fd, &addr.sa, addr.len) || listen(fd, 8))
		_exit(errno);
	_exit(0);
}

TEST(privacy__is_that_of_the_listener)
{
	struct mp_addr addr;
	int bits, how, allowed = 0, refused = 0;

	mp_new_netns();
	for (bits = 0; bits < 4; bits++) {
		int fd = mp_must(socket(AF_INET, SOCK_STREAM, 0));
		struct mp_owner owner;
		int before[32], with, after;

		addr = mp_loopback(AF_INET);
		mp_must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR,
				   &(int){ bits & 1 }, sizeof(int)));
		mp_must(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT,
				   &(int){ bits >> 1 }, sizeof(int)));
		mp_must(bind(fd, &addr.sa, addr.len));
		mp_must(listen(fd, 8));
		mp_getsockname(fd, &addr);
#define INTRUDER(how) (&(struct intruder){		\
		.reuse = (how) & 1, .reuseport = (how) & 2,	\
		.any = (how) & 4, .uid = (how) & 8 ? 1234 : 0,	\
		.inet6 = (how) & 16 })
		for (how = 0; how < 32; how++)
			before[how] = intrude(INTRUDER(how), addr);
		owner = mp_owner(fd, 1);
		for (how = 0; how < 32; how++) {
			with = intrude(INTRUDER(how), addr);
			EXPECT_EQ(with, before[how])
				TH_LOG("listener %d, intruder %d", bits, how);
			allowed += !with;
			refused += with == EADDRINUSE;
		}
		mp_owner_unregister(&owner);
		for (how = 0; how < 32; how++) {
			after = intrude(INTRUDER(how), addr);
			EXPECT_EQ(after, before[how]);
		}
		close(owner.channel);
		close(fd);
	}
	/* SO_REUSEPORT on both sides, and the same user */
	EXPECT_EQ(allowed, 2 * 2 * (2 + 2));
	EXPECT_EQ(allowed + refused, 4 * 32);
}

/* Partitions are the listener's own business: one line in /proc/net/tcp. */
TEST(partitions__are_not_listed)
{
	struct mp_owner owner;
	struct mp_addr addr;
	char line[256], want[16];
	int fd, lines = 0;
	FILE *file;

	mp_new_netns();
	fd = mp_listen(AF_INET, 8, &addr);
	owner = mp_owner(fd, 1);
	snprintf(want, sizeof(want), ":%04X 00000000:", ntohs(addr.in.sin_port));
	file = fopen("/proc/thread-self/net/tcp", "re");
	ASSERT_NE(file, NULL);
	while (fgets(line, sizeof(line), file))
		lines += !!strstr(line, want);
	fclose(file);
	EXPECT_EQ(lines, 1);
	close(owner.channel);
	close(fd);
}

/*
 * Partitions made and ended in a loop, by several users at once, on listeners
 * of their own and on a shared one: no harm, and no lock between strangers.
 */

static void *churn(void *arg)
{
	unsigned long loops = mp_scaled(20), i;
	int shared = *(int *)arg;
	struct mp_addr addr;
	int own = mp_listen(AF_INET, 8, &addr);
	int channel = mp_open();

	for (i = 0; i < loops; i++) {
		int a = mp_register_cpu(channel, own, 0, 0);
		int b = mp_register_cpu(channel, shared, 0, 0);

		if (a < 0 || b < 0)
			mp_die("register: %d, %d", a, b);
		mp_submit(channel, mp_cmd_unregister(i & 1 ? a : b));
		mp_submit(channel, mp_cmd_unregister(i & 1 ? b : a));
	}
	close(channel);
	close(own);
	return NULL;
}

TEST(churn__does_no_harm)
{
	pthread_t threads[4];
	struct mp_owner owner;
	struct mp_addr addr;
	int fd, i, client;

	fd = mp_listen(AF_INET, 8, &addr);
	for (i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, churn, &fd);
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	owner = mp_owner(fd, 1);
	EXPECT_EQ(mp_owner_look(&owner).partitions, 1);
	mp_owner_accepts(&owner);
	client = mp_connect(&addr);
	close(mp_owner_next(&owner));
	close(client);
	close(owner.channel);
	close(fd);
}

/* A listener has at most 1,024 partitions. */
TEST(partitions__are_limited)
{
	const struct rlimit limit = { .rlim_cur = 2048, .rlim_max = 2048 };
	struct megapipe_listener look;
	int channel, fd, i, ret = 0, last = 0;
	struct mp_addr addr;

	mp_must(setrlimit(RLIMIT_NOFILE, &limit));
	channel = mp_open();
	fd = mp_listen(AF_INET, 8, &addr);
	for (i = 0; i < 1030; i++) {
		ret = mp_register_cpu(channel, fd, 0, i % mp_cpus());
		if (ret < 0)
			break;
		last = ret;
	}
	EXPECT_EQ(i, 1024);
	EXPECT_EQ(ret, -ENOSPC);
	/* It counts those that there are. */
	mp_submit(channel, mp_cmd_unregister(last));
	last = mp_register_cpu(channel, fd, 0, 0);
	EXPECT_GT(last, 0);
	ASSERT_EQ(mp_listener(channel, last, &look), 0);
	EXPECT_EQ(look.partitions, 1024);

	/* All together: one by one they would wait for 2,048 grace periods. */
	mp_must(shutdown(fd, SHUT_RD));
	mp_must(listen(fd, 8));
	ASSERT_EQ(mp_listener(channel, last, &look), 0);
	EXPECT_EQ(look.partitions, 0);
	close(channel);
	close(fd);
}

/*
 * The descriptor is the authority: who has it may have a partition, whoever has
 * bound the port, also one that needs a privilege to be bound.
 *
 *	root: bind(), listen() -- fork --> another user: open, register, accept
 */
TEST(user__need_not_be_the_one_who_has_bound)
{
	struct mp_addr addr = mp_loopback(AF_INET);
	int fd, client, status, ready[2];
	char byte = 0;
	pid_t pid;

	mp_new_netns();
	addr.in.sin_port = htons(80);
	fd = mp_must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	mp_must(bind(fd, &addr.sa, addr.len));
	mp_must(listen(fd, 8));
	mp_must(pipe2(ready, O_CLOEXEC));

	pid = mp_must(fork());
	if (!pid) {
		struct megapipe_event event;
		struct mp_owner owner;

		mp_must(setgid(65534));
		mp_must(setuid(65534));
		owner = mp_owner(fd, ~0UL);
		mp_submit(owner.channel, mp_cmd_accept(owner.handle, 1,
						       MEGAPIPE_CMD_LWSOCKET));
		mp_must(write(ready[1], "x", 1));
		event = mp_wait(owner.channel);
		if (event.res < 0)
			mp_die("accept: %d", event.res);
		if (mp_owner_look(&owner).accepts != 1)
			mp_die("accepted from another queue");
		event = mp_run(owner.channel, mp_cmd_write(event.res, "y", 1));
		_exit(event.res != 1);
	}
	close(ready[1]);
	ASSERT_EQ(read(ready[0], &byte, 1), 1);
	client = mp_connect(&addr);
	mp_read_all(client, &byte, 1);
	EXPECT_EQ(byte, 'y');
	mp_must(waitpid(pid, &status, 0));
	EXPECT_EQ(status, 0);
	close(client);
	close(ready[0]);
	close(fd);
}

/*
 * A connection keeps its network namespace, as one from an ordinary listener
 * does, when the partition that it came by and everything else there is gone.
 */
static int netns_of(int fd)
{
	int ret = ioctl(fd, SIOCGSKNS);

	return ret < 0 ? -errno : ret;
}

TEST(netns__is_held_by_the_connection)
{
	int old, fd, client, connection, ret, lw, i, channel = mp_open();
	struct megapipe_event event;
	struct mp_owner owner;
	struct mp_addr addr;

	for (lw = 0; lw <= 1; lw++) {
		old = mp_must(open("/proc/thread-self/ns/net",
				   O_RDONLY | O_CLOEXEC));
		mp_new_netns();
		fd = mp_listen(AF_INET, 8, &addr);
		owner.channel = channel;
		owner.handle = mp_register_cpu(channel, fd, 0, 0);
		ASSERT_GT(owner.handle, 0);
		client = mp_connect(&addr);
		event = mp_run(channel, mp_cmd_accept(owner.handle, 1, lw ?
						      MEGAPIPE_CMD_LWSOCKET : 0));
		connection = event.res;
		ASSERT_GE(connection, 0);
		close(client);
		mp_owner_unregister(&owner);
		close(fd);
		mp_must(setns(old, CLONE_NEWNET));
		close(old);
		/* Listeners let go of it when they are freed: that takes time. */
		for (i = 0; i < 10; i++) {
			mp_must(syscall(__NR_membarrier,
					MEMBARRIER_CMD_GLOBAL, 0, 0));
			usleep(20000);
		}

		if (lw)
			connection = mp_tofd(channel, connection, 0);
		ASSERT_GE(connection, 0);
		ret = netns_of(connection);
		EXPECT_GE(ret, 0);
		close(ret);
		close(connection);
	}
	close(channel);
}

TEST_HARNESS_MAIN
