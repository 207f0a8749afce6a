// SPDX-License-Identifier: GPL-2.0-only
/*
 * An owner goes, and no connection that it has not accepted goes with it.
 *
 *	           +--> partition A: queued, half-open --- A goes ---+
 *	listener --+                                                 |
 *	           +--> partition B  <-------------------------------+
 *	           +--> its own queue <-- when B is full, or there is no B
 */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "megapipe_test.h"
#include "owner.h"
#include "peer.h"

/* The connection works, in both directions. */
#define expect_echo(client, conn)					\
do {									\
	char __byte = 0;						\
									\
	mp_write_all(client, "?", 1);					\
	mp_read_all(conn, &__byte, 1);					\
	EXPECT_EQ(__byte, '?');						\
	mp_write_all(conn, "!", 1);					\
	mp_read_all(client, &__byte, 1);				\
	EXPECT_EQ(__byte, '!');						\
} while (0)

static long resets(void)
{
	return mp_counter("Tcp", "OutRsts");
}

static long migrated(void)
{
	return mp_counter("TcpExt", "TCPMigrateReqSuccess");
}

/* How an owner goes */
enum end {
	END_UNREGISTER,
	END_CLOSE_HANDLE,
	END_CLOSE_CHANNEL,
	END_EXIT,
	END_KILL,
};

/*
 * Connections in the queue
 */

FIXTURE(queued) {
	int		fd;
	struct mp_addr	addr;
};

FIXTURE_VARIANT(queued) {
	int		family;
	enum end	end;
};

FIXTURE_VARIANT_ADD(queued, unregister) {
	.family = AF_INET, .end = END_UNREGISTER,
};

FIXTURE_VARIANT_ADD(queued, close_handle) {
	.family = AF_INET6, .end = END_CLOSE_HANDLE,
};

FIXTURE_VARIANT_ADD(queued, close_channel) {
	.family = AF_INET6, .end = END_CLOSE_CHANNEL,
};

FIXTURE_VARIANT_ADD(queued, exit) {
	.family = AF_INET, .end = END_EXIT,
};

FIXTURE_VARIANT_ADD(queued, kill) {
	.family = AF_INET, .end = END_KILL,
};

FIXTURE_SETUP(queued)
{
	mp_new_netns();
	self->fd = mp_listen(variant->family, 15, &self->addr);
}

FIXTURE_TEARDOWN(queued)
{
	close(self->fd);
}

/*
 * A process that owns the partition of CPU 0, and of all if there is no other,
 * and never accepts.  When it may, it goes as @end says.
 */
static pid_t owner_process(int fd, enum end end, int *go)
{
	struct mp_owner owner;
	int ready[2], begin[2];
	pid_t pid;
	char byte;

	mp_must(pipe(ready));
	mp_must(pipe(begin));
	pid = mp_must(fork());
	if (pid) {
		close(ready[1]);
		close(begin[0]);
		mp_read_all(ready[0], &byte, 1);
		close(ready[0]);
		*go = begin[1];
		return pid;
	}
	close(begin[1]);
	owner = mp_owner(fd, 1);
	mp_write_all(ready[1], "", 1);
	while (read(begin[0], &byte, 1) < 0)
		;
	switch (end) {
	case END_UNREGISTER:
		mp_owner_unregister(&owner);
		break;
	case END_CLOSE_HANDLE:
		mp_submit(owner.channel, mp_cmd_close(owner.handle));
		break;
	case END_CLOSE_CHANNEL:
		close(owner.channel);
		break;
	case END_EXIT:
		break;
	case END_KILL:
		kill(getpid(), SIGKILL);
		break;
	}
	_exit(0);
}

static void owner_process_ends(pid_t pid, int go)
{
	int status;

	close(go);
	mp_must(waitpid(pid, &status, 0));
}

TEST_F(queued, go_to_another_partition)
{
	struct mp_owner other;
	int clients[16], i, go;
	long before;
	pid_t pid;

	pid = owner_process(self->fd, variant->end, &go);
	other = mp_owner(self->fd, ~1UL);
	mp_owner_accepts(&other);
	mp_clients(&self->addr, 0, clients, 16);
	if (mp_cpus() > 1)
		EXPECT_TRUE(mp_quiet(other.channel));
	before = resets();
	owner_process_ends(pid, go);
	for (i = 0; i < 16; i++) {
		int conn = mp_owner_next(&other);

		close(conn);
	}
	EXPECT_EQ(resets(), before);
	EXPECT_EQ(migrated(), 16);
	EXPECT_EQ(mp_owner_look(&other).migrated_in, 16);
	EXPECT_EQ(mp_stats(other.channel).migrated_in, 16);
	mp_close_all(clients, 16);
	close(other.channel);
}

TEST_F(queued, go_back_to_accept)
{
	int clients[16], i, go, conn;
	long before;
	pid_t pid;

	pid = owner_process(self->fd, variant->end, &go);
	mp_clients(&self->addr, 0, clients, 16);
	EXPECT_EQ(mp_accept_now(self->fd), -EAGAIN);
	before = resets();
	owner_process_ends(pid, go);
	for (i = 0; i < 16; i++) {
		conn = mp_accept_now(self->fd);
		ASSERT_GE(conn, 0);
		expect_echo(clients[i], conn);
		close(conn);
	}
	EXPECT_EQ(resets(), before);
	mp_close_all(clients, 16);

	/* And it goes on as an ordinary listener. */
	mp_clients(&self->addr, 0, clients, 1);
	conn = mp_accept_now(self->fd);
	EXPECT_GE(conn, 0);
	close(conn);
	close(clients[0]);
}

/* A blocking accept() learns of them, too. */
static void *blocking_accept(void *fd)
{
	return (void *)(long)accept(*(int *)fd, NULL, NULL);
}

TEST_F(queued, wake_a_blocking_accept)
{
	pthread_t thread;
	int client, go;
	void *conn;
	pid_t pid;

	pid = owner_process(self->fd, variant->end, &go);
	mp_clients(&self->addr, 0, &client, 1);
	mp_must(pthread_create(&thread, NULL, blocking_accept, &self->fd));
	owner_process_ends(pid, go);
	pthread_join(thread, &conn);
	ASSERT_GE((long)conn, 0);
	expect_echo(client, (int)(long)conn);
	close((long)conn);
	close(client);
}

/*
 * All queues are full: a queue holds 16, and 32 connections are there for one
 * partition.  They all live in the listener's queue then.
 */
TEST_F(queued, are_kept_beyond_the_backlog)
{
	int clients[2][16], i, go;
	struct mp_owner other;
	long before;
	pid_t pid;

	if (mp_cpus() < 2)
		SKIP(return, "needs 2 CPUs");
	pid = owner_process(self->fd, variant->end, &go);
	other = mp_owner(self->fd, ~1UL);
	mp_clients(&self->addr, 0, clients[0], 16);
	mp_clients(&self->addr, 1, clients[1], 16);
	before = resets();
	owner_process_ends(pid, go);
	mp_owner_accepts(&other);
	for (i = 0; i < 32; i++)
		close(mp_owner_next(&other));
	EXPECT_EQ(resets(), before);
	mp_close_all(clients[0], 16);
	mp_close_all(clients[1], 16);
	close(other.channel);
}

/* The queue with space is found, and of those with space the shortest. */
TEST(queued__spread_over_the_others)
{
	int clients[3][16], counts[2], i;
	struct mp_owner owners[3];
	struct mp_addr addr;
	int fd;

	if (mp_cpus() < 3)
		SKIP(return, "needs 3 CPUs");
	fd = mp_listen(AF_INET, 15, &addr);
	for (i = 0; i < 3; i++)
		owners[i] = mp_owner(fd, 1UL << i);
	for (i = 0; i < 3; i++)
		mp_clients(&addr, i, clients[i], 6);
	mp_owner_unregister(&owners[0]);
	for (i = 0; i < 2; i++)
		counts[i] = mp_owner_look(&owners[1 + i]).queued;
	EXPECT_EQ(counts[0], 9);
	EXPECT_EQ(counts[1], 9);
	for (i = 0; i < 3; i++) {
		mp_close_all(clients[i], 6);
		close(owners[i].channel);
	}
	close(fd);
}

/*
 * The owner of many partitions, and of both ends of some connections, dies:
 * nothing that is queued is lost on the way from one to the next.
 */
TEST(queued__pass_through_several_that_die_together)
{
	struct mp_owner other;
	int fd, clients[8], i;
	int ready[2], status;
	struct mp_addr addr;
	pid_t pid;
	char byte;

	mp_new_netns();
	fd = mp_listen(AF_INET, 15, &addr);
	mp_must(pipe(ready));
	pid = mp_must(fork());
	if (!pid) {
		for (i = 0; i < 20; i++)
			mp_owner(fd, i < 10 ? 1 : ~1UL);
		mp_write_all(ready[1], "", 1);
		pause();
	}
	mp_read_all(ready[0], &byte, 1);
	mp_clients(&addr, 0, clients, 8);
	other = mp_owner(fd, 0);
	mp_owner_accepts(&other);
	mp_must(kill(pid, SIGKILL));
	mp_must(waitpid(pid, &status, 0));
	for (i = 0; i < 8; i++)
		close(mp_owner_next(&other));
	EXPECT_EQ(resets(), 0);
	mp_close_all(clients, 8);
	close(other.channel);
	close(fd);
}

/*
 * Handshakes under way
 *
 *	peer: SYN ---> A          A goes          peer: ACK or data ---> B
 */

FIXTURE(half_open) {
	int		tun;
	int		fd;
	struct mp_addr	addr;
	struct mp_owner	owners[2];
	struct mp_peer	peer;
};

FIXTURE_VARIANT(half_open) {
	int	family;
	bool	last;		/* there is no B */
};

FIXTURE_VARIANT_ADD(half_open, inet) { .family = AF_INET };
FIXTURE_VARIANT_ADD(half_open, inet6) { .family = AF_INET6 };
FIXTURE_VARIANT_ADD(half_open, inet_last) { .family = AF_INET, .last = true };
FIXTURE_VARIANT_ADD(half_open, inet6_last) {
	.family = AF_INET6, .last = true,
};

FIXTURE_SETUP(half_open)
{
	if (mp_cpus() < 2)
		SKIP(return, "needs 2 CPUs");
	mp_new_netns();
	self->tun = mp_tun_open();
	self->fd = mp_tun_listen(variant->family, 3, &self->addr);
	self->owners[0] = mp_owner(self->fd, 1);
	if (!variant->last) {
		self->owners[1] = mp_owner(self->fd, 2);
		mp_owner_accepts(&self->owners[1]);
	}
	self->peer = mp_peer(self->tun, &self->addr);
}

FIXTURE_TEARDOWN(half_open)
{
	close(self->owners[0].channel);
	if (!variant->last)
		close(self->owners[1].channel);
	close(self->fd);
	close(self->tun);
}

/* The connection at the heir, which must have it */
#define heir_has()							\
	(variant->last ? mp_accept_now(self->fd) :				\
			 mp_owner_next(&self->owners[1]))

static void expect_data(struct __test_metadata *_metadata, int conn,
			const char *want)
{
	char buf[32] = {};

	mp_read_all(conn, buf, strlen(want));
	EXPECT_STREQ(buf, want);
}

TEST_F(half_open, ack_finds_the_heir)
{
	int conn;

	mp_peer_syn(&self->peer, 0);
	mp_owner_unregister(&self->owners[0]);
	mp_peer_ack(&self->peer, 0);
	conn = heir_has();
	ASSERT_GE(conn, 0);
	mp_peer_data(&self->peer, 0, "late");
	expect_data(_metadata, conn, "late");
	EXPECT_EQ(resets(), 0);
	EXPECT_EQ(migrated(), 1);
	if (!variant->last)
		EXPECT_EQ(mp_stats(self->owners[1].channel).migrated_in, 1);
	close(conn);
}

/* The ACK was lost: data acknowledges as well. */
TEST_F(half_open, data_finds_the_heir)
{
	int conn;

	mp_peer_syn(&self->peer, 0);
	mp_owner_unregister(&self->owners[0]);
	mp_peer_data(&self->peer, 1, "request");
	conn = heir_has();
	ASSERT_GE(conn, 0);
	expect_data(_metadata, conn, "request");
	EXPECT_EQ(resets(), 0);
	close(conn);
}

/* The SYN|ACK was lost: the timer sends another and finds the heir for it. */
TEST_F(half_open, timer_finds_the_heir)
{
	int conn;

	mp_peer_syn(&self->peer, 0);
	mp_owner_unregister(&self->owners[0]);
	EXPECT_EQ(mp_peer_receive(&self->peer, 20000), PEER_SYN | PEER_ACK);
	EXPECT_EQ(migrated(), 1);
	mp_peer_ack(&self->peer, 0);
	conn = heir_has();
	ASSERT_GE(conn, 0);
	EXPECT_EQ(resets(), 0);
	EXPECT_EQ(migrated(), 1);
	close(conn);
}

/* A SYN that is sent again is answered again. */
TEST_F(half_open, syn_again_is_answered)
{
	int conn;

	mp_peer_syn(&self->peer, 0);
	mp_owner_unregister(&self->owners[0]);
	self->peer.seq--;
	mp_peer_syn(&self->peer, 0);
	mp_peer_ack(&self->peer, 0);
	conn = heir_has();
	ASSERT_GE(conn, 0);
	EXPECT_EQ(resets(), 0);
	close(conn);
}

/* TCP_DEFER_ACCEPT: acknowledged, but nobody's until there is data */
TEST_F(half_open, deferred_finds_the_heir)
{
	int conn;

	mp_must(setsockopt(self->fd, IPPROTO_TCP, TCP_DEFER_ACCEPT,
			   &(int){ 20 }, sizeof(int)));
	mp_peer_syn(&self->peer, 0);
	mp_peer_ack(&self->peer, 0);
	mp_owner_unregister(&self->owners[0]);
	if (variant->last)
		EXPECT_EQ(mp_accept_now(self->fd), -EAGAIN);
	mp_peer_data(&self->peer, 0, "request");
	conn = heir_has();
	ASSERT_GE(conn, 0);
	expect_data(_metadata, conn, "request");
	EXPECT_EQ(resets(), 0);
	close(conn);
}

/*
 * A's queue is full, so that the last ACK was dropped: to the peer the
 * connection is established.  Its data finds the heir.
 */
TEST_F(half_open, dropped_by_a_full_queue_finds_the_heir)
{
	struct mp_peer first[4];
	int i, conn;

	for (i = 0; i < 4; i++)
		first[i] = mp_peer(self->tun, &self->addr);
	mp_peer_syn(&self->peer, 0);
	for (i = 0; i < 4; i++) {
		mp_peer_syn(&first[i], 0);
		mp_peer_ack(&first[i], 0);
	}
	EXPECT_EQ(mp_owner_look(&self->owners[0]).queued, 4);
	mp_peer_ack(&self->peer, 0);
	EXPECT_EQ(mp_owner_look(&self->owners[0]).queued, 4);
	mp_owner_unregister(&self->owners[0]);
	for (i = 0; i < 4; i++) {
		conn = heir_has();
		ASSERT_GE(conn, 0);
		close(conn);
	}
	mp_peer_data(&self->peer, 0, "request");
	conn = heir_has();
	ASSERT_GE(conn, 0);
	expect_data(_metadata, conn, "request");
	close(conn);
}

/* The heir of a handshake goes as well, and so on. */
TEST_F(half_open, passes_through_several)
{
	int i, conn;

	mp_peer_syn(&self->peer, 0);
	for (i = 0; i < 5; i++) {
		struct mp_owner next = mp_owner(self->fd, 1);

		mp_owner_unregister(&self->owners[0]);
		/* The timer moves it. */
		if (i < 1)
			EXPECT_EQ(mp_peer_receive(&self->peer, 20000),
				  PEER_SYN | PEER_ACK);
		close(self->owners[0].channel);
		self->owners[0] = next;
	}
	mp_owner_unregister(&self->owners[0]);
	mp_peer_ack(&self->peer, 0);
	conn = heir_has();
	ASSERT_GE(conn, 0);
	EXPECT_EQ(resets(), 0);
	close(conn);
}

/*
 * Fast Open: the connection is in the queue before its handshake is complete.
 */
TEST_F(half_open, fastopen_finds_the_heir)
{
	int conn;

	/* Server side, and no cookies */
	mp_write_text("/proc/sys/net/ipv4/tcp_fastopen", "514");
	mp_must(setsockopt(self->fd, IPPROTO_TCP, TCP_FASTOPEN, &(int){ 5 },
			   sizeof(int)));
	mp_pin(0);
	mp_peer_send(&self->peer, PEER_SYN, "early", 5);
	ASSERT_EQ(mp_peer_receive(&self->peer, 20000), PEER_SYN | PEER_ACK);
	EXPECT_EQ(mp_counter("TcpExt", "TCPFastOpenPassive"), 1);
	self->peer.seq += 6;
	EXPECT_EQ(mp_owner_look(&self->owners[0]).queued, 1);
	mp_owner_unregister(&self->owners[0]);
	conn = heir_has();
	ASSERT_GE(conn, 0);
	expect_data(_metadata, conn, "early");
	mp_peer_ack(&self->peer, 0);
	mp_peer_data(&self->peer, 0, "late");
	expect_data(_metadata, conn, "late");
	EXPECT_EQ(resets(), 0);
	close(conn);
}

/* The same, acknowledged between the owner's end and the heir's accept */
TEST_F(half_open, fastopen_is_acknowledged_at_the_heir)
{
	int conn;

	mp_write_text("/proc/sys/net/ipv4/tcp_fastopen", "514");
	mp_must(setsockopt(self->fd, IPPROTO_TCP, TCP_FASTOPEN, &(int){ 5 },
			   sizeof(int)));
	mp_pin(0);
	mp_peer_send(&self->peer, PEER_SYN, "early", 5);
	ASSERT_EQ(mp_peer_receive(&self->peer, 20000), PEER_SYN | PEER_ACK);
	self->peer.seq += 6;
	mp_owner_unregister(&self->owners[0]);
	mp_peer_data(&self->peer, 0, "late");
	conn = heir_has();
	ASSERT_GE(conn, 0);
	expect_data(_metadata, conn, "earlylate");
	EXPECT_EQ(resets(), 0);
	close(conn);
}

/*
 * The race: ACKs come in on one CPU while on another the partition to which
 * they belong is closed, again and again.
 *
 *	CPU 0: connect, wait for a byte, close ...
 *	CPU 1: register CPU 0's partition, unregister it ...
 *	CPU 2: accept from what remains, send the byte
 */

/**
 * struct race - what the threads share
 * @addr: the server
 * @stop: set when the clients are to end
 * @served: connections that got their byte
 * @lost: those that did not
 */
struct race {
	struct mp_addr	addr;
	int		stop;
	unsigned long	served;
	unsigned long	lost;
};

static void *race_client(void *arg)
{
	struct race *race = arg;
	char byte;

	mp_pin(0);
	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		int fd = mp_connect(&race->addr);

		if (read(fd, &byte, 1) == 1)
			__atomic_add_fetch(&race->served, 1, __ATOMIC_RELAXED);
		else
			__atomic_add_fetch(&race->lost, 1, __ATOMIC_RELAXED);
		close(fd);
	}
	return NULL;
}

/* Serves whatever @owner accepts, until the listener is shut down. */
static void *race_server(void *arg)
{
	const struct mp_owner *owner = arg;

	for (;;) {
		struct megapipe_event event = mp_wait(owner->channel);

		if (event.res == -EINVAL)
			return NULL;
		if (event.res < 0)
			mp_die("accept: %d", event.res);
		if (write(event.res, "!", 1) != 1)
			mp_die("write: %s", strerror(errno));
		close(event.res);
	}
}

TEST(race__with_acks_loses_nothing)
{
	unsigned long loops = mp_scaled(150), i;
	pthread_t client, server;
	struct race race = {};
	struct mp_owner other;
	int fd, channel;

	if (mp_cpus() < 2)
		SKIP(return, "needs 2 CPUs");
	mp_new_netns();
	fd = mp_listen(AF_INET, 64, &race.addr);
	channel = mp_open();
	other = mp_owner(fd, ~1UL);
	mp_owner_accepts(&other);
	mp_must(pthread_create(&client, NULL, race_client, &race));
	mp_must(pthread_create(&server, NULL, race_server, &other));
	for (i = 0; i < loops; i++) {
		int handle = mp_register_cpu(channel, fd, 0, 0);

		ASSERT_GT(handle, 0);
		/* Not before something happened in it */
		while (!mp_quiet(channel))
			;
		sched_yield();
		mp_submit(channel, mp_cmd_unregister(handle));
	}
	__atomic_store_n(&race.stop, 1, __ATOMIC_RELAXED);
	pthread_join(client, NULL);
	mp_must(shutdown(fd, SHUT_RDWR));
	pthread_join(server, NULL);
	TH_LOG("%lu connections, %ld of them migrated", race.served, migrated());
	EXPECT_GT(race.served, 0);
	EXPECT_EQ(race.lost, 0);
	EXPECT_EQ(mp_counter("TcpExt", "TCPMigrateReqFailure"), 0);
	EXPECT_EQ(mp_counter("TcpExt", "TCPAbortOnClose"), 0);
	EXPECT_EQ(mp_counter("Tcp", "EstabResets"), 0);
	close(channel);
	close(other.channel);
	close(fd);
}

/*
 * A graceful reload: a new generation of owners registers while the old one
 * serves, and then the old one leaves.
 */

/* Owners of @fd in processes of their own, until *@leave.  Returns one of them. */
static pid_t generation(int fd, int nr, int *leave)
{
	struct megapipe_event event;
	struct mp_owner owner;
	pid_t pids[8];
	int ready[2], i;
	char byte;

	mp_must(pipe(ready));
	*leave = 0;
	pids[0] = mp_must(fork());
	if (pids[0]) {
		for (i = 0; i < nr; i++)
			mp_read_all(ready[0], &byte, 1);
		close(ready[0]);
		close(ready[1]);
		return pids[0];
	}
	/* The first waits for the others. */
	for (i = 1; i < nr; i++) {
		pids[i] = mp_must(fork());
		if (!pids[i])
			break;
	}
	owner = mp_owner(fd, 1UL << (i % nr));
	mp_owner_accepts(&owner);
	mp_write_all(ready[1], "", 1);
	while (!__atomic_load_n(leave, __ATOMIC_RELAXED)) {
		if (mp_dispatch(owner.channel, NULL, 0, &event, 1, 1,
				50 * 1000000, NULL) != 1)
			continue;
		if (event.res < 0)
			mp_die("accept: %d", event.res);
		if (write(event.res, "!", 1) != 1)
			mp_die("write: %s", strerror(errno));
		close(event.res);
	}
	/* It leaves what it has not accepted. */
	close(owner.channel);
	while (i == nr && --nr > 0)
		mp_must(waitpid(pids[nr], NULL, 0));
	_exit(0);
}

TEST(generations__overlap_and_lose_nothing)
{
	unsigned long loops = mp_scaled(8), i;
	struct race race = {};
	pthread_t clients[2];
	int fd, nr = 2, *leave, status;
	pid_t pids[2];

	if (mp_cpus() < 2)
		SKIP(return, "needs 2 CPUs");
	leave = mmap(NULL, 2 * sizeof(*leave), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(leave, MAP_FAILED);
	mp_new_netns();
	fd = mp_listen(AF_INET, 64, &race.addr);
	pids[0] = generation(fd, nr, &leave[0]);
	for (i = 0; i < 2; i++)
		mp_must(pthread_create(&clients[i], NULL, race_client, &race));
	for (i = 1; i <= loops; i++) {
		pids[i & 1] = generation(fd, nr, &leave[i & 1]);
		__atomic_store_n(&leave[~i & 1], 1, __ATOMIC_RELAXED);
		mp_must(waitpid(pids[~i & 1], &status, 0));
		EXPECT_TRUE(WIFEXITED(status) && !WEXITSTATUS(status));
	}
	__atomic_store_n(&race.stop, 1, __ATOMIC_RELAXED);
	for (i = 0; i < 2; i++)
		pthread_join(clients[i], NULL);
	__atomic_store_n(&leave[loops & 1], 1, __ATOMIC_RELAXED);
	mp_must(waitpid(pids[loops & 1], &status, 0));
	TH_LOG("%lu connections, %ld of them migrated", race.served, migrated());
	EXPECT_GT(race.served, 0);
	EXPECT_EQ(race.lost, 0);
	close(fd);
}

/* A new program that inherits nothing but the listener's descriptor */
TEST(generations__may_be_another_program)
{
	struct megapipe_listener look;
	struct mp_owner owner;
	int fd, client, status;
	struct mp_addr addr;
	pid_t pid;

	fd = mp_listen(AF_INET, 64, &addr);
	owner = mp_owner(fd, 1);
	mp_clients(&addr, 0, &client, 1);
	mp_must(fcntl(fd, F_SETFD, 0));
	pid = mp_must(fork());
	if (!pid) {
		char number[16];

		snprintf(number, sizeof(number), "%d", fd);
		setenv("MEGAPIPE_TEST_LISTENER", number, 1);
		execl("/proc/self/exe", "migrate", NULL);
		_exit(1);
	}
	/* It registers before the old one has left, and waits. */
	do {
		ASSERT_EQ(mp_listener(owner.channel, owner.handle, &look), 0);
		sched_yield();
	} while (look.partitions < 2);
	mp_owner_unregister(&owner);
	mp_must(waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), 0);
	close(client);
	close(owner.channel);
	close(fd);
}

/* What that program does */
__attribute__((constructor)) static void next_generation(void)
{
	const char *number = getenv("MEGAPIPE_TEST_LISTENER");
	struct mp_owner owner;

	if (!number)
		return;
	owner = mp_owner(atoi(number), ~0UL);
	mp_owner_accepts(&owner);
	close(mp_owner_next(&owner));
	_exit(0);
}

TEST_HARNESS_MAIN
