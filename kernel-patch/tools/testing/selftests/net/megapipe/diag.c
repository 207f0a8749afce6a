// SPDX-License-Identifier: GPL-2.0-only
/*
 * lwsockets as ss(8) sees them: listed with their user and no inode, killed.
 *
 *	client ---- TCP over loopback ----> lwsocket of a channel
 *	                                        ^
 *	              sock_diag, /proc/net/tcp -+
 */
#include <limits.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "megapipe_test.h"

#ifndef SOCK_DESTROY
#define SOCK_DESTROY	21
#endif
#define ESTABLISHED	1
#define UID		4711

FIXTURE(diag)
{
	int channel;
	int fd;
	int listener;
	int client;
	int lw;
	int netlink;
	struct mp_addr addr;
	struct mp_addr peer;
};

FIXTURE_VARIANT(diag)
{
	int family;
	const char *proc;
};

FIXTURE_VARIANT_ADD(diag, ipv4)
{
	.family = AF_INET,
	.proc = "/proc/net/tcp",
};

FIXTURE_VARIANT_ADD(diag, ipv6)
{
	.family = AF_INET6,
	.proc = "/proc/net/tcp6",
};

FIXTURE_SETUP(diag)
{
	mp_new_netns();
	self->channel = mp_open();
	self->fd = mp_listen(variant->family, 64, &self->addr);
	self->listener = mp_register(self->channel, self->fd, 7);
	ASSERT_GT(self->listener, 0);
	/* Of that user it is, as a descriptor would be. */
	setfsuid(UID);
	self->lw = mp_lwsocket(self->channel, self->listener, &self->addr,
			       &self->client);
	setfsuid(0);
	mp_getsockname(self->client, &self->peer);
	self->netlink = mp_must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC,
				       NETLINK_SOCK_DIAG));
}

FIXTURE_TEARDOWN(diag)
{
	close(self->netlink);
	close(self->client);
	close(self->channel);
	close(self->fd);
}

static __be16 port(const struct mp_addr *addr)
{
	/* At the same place in both families */
	return addr->in.sin_port;
}

struct diag_request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 body;
};

/* Bits of idiag_ext */
#define EXT(attribute)	(1 << ((attribute) - 1))

static void diag_send(int netlink, struct diag_request *request, int type,
		      int flags, int family)
{
	request->header.nlmsg_len = sizeof(*request);
	request->header.nlmsg_type = type;
	request->header.nlmsg_flags = NLM_F_REQUEST | flags;
	request->body.sdiag_family = family;
	request->body.sdiag_protocol = IPPROTO_TCP;
	mp_must(send(netlink, request, sizeof(*request), 0));
}

/*
 * All TCP connections of the network; the one from port @from to port @to goes
 * to @found.  Returns how many there are of that.
 */
static int diag_dump(int netlink, int family, __be16 from, __be16 to,
		     struct inet_diag_msg *found)
{
	static __thread char buf[1 << 16];
	struct diag_request request = { .body.idiag_states = ~0U };
	struct nlmsghdr *header;
	struct inet_diag_msg *msg;
	int count = 0, len;

	diag_send(netlink, &request, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
	for (;;) {
		len = mp_must(recv(netlink, buf, sizeof(buf), 0));
		for (header = (void *)buf; NLMSG_OK(header, len);
		     header = NLMSG_NEXT(header, len)) {
			if (header->nlmsg_type == NLMSG_DONE)
				return count;
			if (header->nlmsg_type == NLMSG_ERROR)
				mp_die("sock_diag: error");
			msg = NLMSG_DATA(header);
			if (msg->id.idiag_sport != from ||
			    msg->id.idiag_dport != to)
				continue;
			*found = *msg;
			count++;
		}
	}
}

/* Its class of net_cls, as ss --tos shows it, or its priority if that is 0 */
static uint32_t diag_class(int netlink, int family, __be16 from, __be16 to)
{
	static char buf[1 << 16];
	struct diag_request request = {
		.body.idiag_states = 1 << ESTABLISHED,
		.body.idiag_ext = EXT(INET_DIAG_TCLASS),
	};
	uint32_t class = UINT_MAX;
	struct nlmsghdr *header;
	struct inet_diag_msg *msg;
	struct rtattr *attr;
	int len, rest;

	diag_send(netlink, &request, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
	for (;;) {
		len = mp_must(recv(netlink, buf, sizeof(buf), 0));
		for (header = (void *)buf; NLMSG_OK(header, len);
		     header = NLMSG_NEXT(header, len)) {
			if (header->nlmsg_type == NLMSG_DONE)
				return class;
			if (header->nlmsg_type == NLMSG_ERROR)
				mp_die("sock_diag: error");
			msg = NLMSG_DATA(header);
			if (msg->id.idiag_sport != from ||
			    msg->id.idiag_dport != to)
				continue;
			rest = header->nlmsg_len - NLMSG_LENGTH(sizeof(*msg));
			for (attr = (void *)(msg + 1); RTA_OK(attr, rest);
			     attr = RTA_NEXT(attr, rest))
				if (attr->rta_type == INET_DIAG_CLASS_ID)
					memcpy(&class, RTA_DATA(attr),
					       sizeof(class));
		}
	}
}

/* As ss -K does.  Returns 0 or a negative error number. */
static int diag_destroy(int netlink, const struct inet_diag_msg *which)
{
	struct diag_request request = { .body.id = which->id };
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		char more[256];
	} answer;

	diag_send(netlink, &request, SOCK_DESTROY, NLM_F_ACK,
		  which->idiag_family);
	mp_must(recv(netlink, &answer, sizeof(answer), 0));
	if (answer.header.nlmsg_type != NLMSG_ERROR)
		mp_die("netlink answered with %d", answer.header.nlmsg_type);
	return answer.error.error;
}

TEST_F(diag, dump__has_user_and_no_inode)
{
	struct inet_diag_msg msg;

	ASSERT_EQ(diag_dump(self->netlink, variant->family, port(&self->addr),
			    port(&self->peer), &msg), 1);
	EXPECT_EQ(msg.idiag_state, ESTABLISHED);
	EXPECT_EQ(msg.idiag_uid, UID);
	EXPECT_EQ(msg.idiag_inode, 0);
	EXPECT_EQ(msg.idiag_rqueue, 0);

	/* Its queues are shown. */
	mp_write_all(self->client, "12345", 5);
	ASSERT_EQ(diag_dump(self->netlink, variant->family, port(&self->addr),
			    port(&self->peer), &msg), 1);
	EXPECT_EQ(msg.idiag_rqueue, 5);
}

/* The line of /proc/net/tcp: the ports in hexadecimal, then uid and inode */
TEST_F(diag, proc__has_user_and_no_inode)
{
	unsigned int from, to, state, uid, found = 0;
	FILE *file = fopen(variant->proc, "re");
	unsigned long inode;
	char line[512];

	ASSERT_NE(file, NULL);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " %*d: %*[0-9A-F]:%x %*[0-9A-F]:%x %x %*x:%*x %*x:%*x %*x %u %*d %lu",
			   &from, &to, &state, &uid, &inode) != 5)
			continue;
		if (from != ntohs(port(&self->addr)) ||
		    to != ntohs(port(&self->peer)))
			continue;
		found++;
		EXPECT_EQ(state, ESTABLISHED);
		EXPECT_EQ(uid, UID);
		EXPECT_EQ(inode, 0);
	}
	EXPECT_EQ(found, 1);
	fclose(file);
}

/* A descriptor made of it has an inode again, and the caller's user. */
TEST_F(diag, dump__of_a_descriptor_made_of_it)
{
	struct inet_diag_msg msg;
	int fd;

	fd = mp_tofd(self->channel, self->lw, 0);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(diag_dump(self->netlink, variant->family, port(&self->addr),
			    port(&self->peer), &msg), 1);
	EXPECT_EQ(msg.idiag_uid, 0);
	EXPECT_NE(msg.idiag_inode, 0);
	close(fd);
}

TEST_F(diag, destroy__ends_a_pending_read)
{
	struct megapipe_event event;
	struct inet_diag_msg msg;
	char buf[8];
	int err;

	ASSERT_EQ(diag_dump(self->netlink, variant->family, port(&self->addr),
			    port(&self->peer), &msg), 1);
	mp_submit(self->channel, mp_cmd_read(self->lw, buf, sizeof(buf)));
	err = diag_destroy(self->netlink, &msg);
	if (err == -EOPNOTSUPP)
		SKIP(return, "needs CONFIG_INET_DIAG_DESTROY");
	ASSERT_EQ(err, 0);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.handle, self->lw);
	EXPECT_EQ(event.op, MEGAPIPE_OP_READ);
	EXPECT_EQ(event.res, -ECONNABORTED);
	EXPECT_EQ(read(self->client, buf, 1), -1);
	EXPECT_EQ(errno, ECONNRESET);

	/* The handle is the program's until it closes it. */
	event = mp_run(self->channel, mp_cmd_write(self->lw, buf, 1));
	EXPECT_EQ(event.res, -EPIPE);
	event = mp_run(self->channel, mp_cmd_read(self->lw, buf, 1));
	EXPECT_EQ(event.res, 0);
	EXPECT_EQ(mp_stats(self->channel).lwsockets, 1);
	mp_submit(self->channel, mp_cmd_close(self->lw));
	EXPECT_EQ(mp_stats(self->channel).lwsockets, 0);
}

TEST_F(diag, destroy__ends_a_pending_write)
{
	static char data[16 << 20];
	struct megapipe_event event;
	struct inet_diag_msg msg;
	int err;

	mp_submit(self->channel, mp_cmd_write(self->lw, data, sizeof(data)));
	EXPECT_TRUE(mp_quiet(self->channel));
	ASSERT_EQ(diag_dump(self->netlink, variant->family, port(&self->addr),
			    port(&self->peer), &msg), 1);
	err = diag_destroy(self->netlink, &msg);
	if (err == -EOPNOTSUPP)
		SKIP(return, "needs CONFIG_INET_DIAG_DESTROY");
	ASSERT_EQ(err, 0);
	event = mp_wait(self->channel);
	EXPECT_EQ(event.op, MEGAPIPE_OP_WRITE);
	/* Bytes come first, as ever; the error is the next one's. */
	EXPECT_GT(event.res, 0);
	EXPECT_LT(event.res, sizeof(data));
	event = mp_run(self->channel, mp_cmd_write(self->lw, data, 1));
	EXPECT_TRUE(event.res == -ECONNABORTED || event.res == -EPIPE);
}

/*
 * The class of net_cls is that of the queue when the connection came, whoever
 * accepts it, as a descriptor or as an lwsocket.  The listening socket and other
 * descriptors follow their process when that moves; partitions and lwsockets
 * do not, for the kernel looks through descriptors.
 */
#define CLASSES	"/tmp/megapipe-net_cls"

static void join_class(int class)
{
	char path[64], id[16];

	snprintf(path, sizeof(path), CLASSES "/mp-%d", class);
	if (mkdir(path, 0700) && errno != EEXIST)
		mp_die("%s: %s", path, strerror(errno));
	snprintf(path, sizeof(path), CLASSES "/mp-%d/net_cls.classid", class);
	snprintf(id, sizeof(id), "%d", class);
	mp_write_text(path, id);
	snprintf(path, sizeof(path), CLASSES "/mp-%d/tasks", class);
	mp_write_text(path, "0");
}

static void leave_classes(void)
{
	char path[64];
	int class;

	mp_write_text(CLASSES "/tasks", "0");
	for (class = 1; class <= 3; class++) {
		snprintf(path, sizeof(path), CLASSES "/mp-%d", class);
		rmdir(path);
	}
}

TEST_F(diag, net_cls__is_the_class_of_the_queue)
{
	int channel = mp_open(), fd, client, listener, partitioned, lw, accepted;
	struct mp_addr addr, peer;
#define CLASS()	diag_class(self->netlink, variant->family, port(&addr), \
			   port(&peer))

	mp_must(unshare(CLONE_NEWNS));
	mp_must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	mkdir(CLASSES, 0700);
	if (mount("megapipe", CLASSES, "cgroup", 0, "net_cls"))
		SKIP(return, "no net_cls: %s", strerror(errno));

	for (partitioned = 0; partitioned <= 1; partitioned++) {
		join_class(1);
		fd = mp_listen(variant->family, 64, &addr);
		listener = partitioned ? mp_register_cpu(channel, fd, 0, 0) :
					 mp_register(channel, fd, 0);
		ASSERT_GT(listener, 0);
		/* It comes, the process moves, it is accepted. */
		client = mp_connect(&addr);
		mp_getsockname(client, &peer);
		join_class(2);
		lw = mp_run(channel, mp_cmd_accept(listener, 1,
						   MEGAPIPE_CMD_LWSOCKET)).res;
		ASSERT_GT(lw, 0);
		EXPECT_EQ(CLASS(), 1);
		/* A descriptor made of it has its class, and can get another. */
		accepted = mp_tofd(channel, lw, 0);
		ASSERT_GE(accepted, 0);
		EXPECT_EQ(CLASS(), 1);
		join_class(3);
		EXPECT_EQ(CLASS(), 3);
		close(accepted);
		close(client);

		lw = mp_lwsocket(channel, listener, &addr, &client);
		mp_getsockname(client, &peer);
		EXPECT_EQ(CLASS(), partitioned ? 1 : 3);
		join_class(2);
		EXPECT_EQ(CLASS(), partitioned ? 1 : 3);
		mp_submit(channel, mp_cmd_close(lw));
		mp_submit(channel, mp_cmd_unregister(listener));
		close(client);

		/* The same with accept() */
		client = mp_connect(&addr);
		mp_getsockname(client, &peer);
		join_class(3);
		accepted = mp_must(accept(fd, NULL, NULL));
		EXPECT_EQ(CLASS(), 2);
		close(accepted);
		close(client);
		close(fd);
	}
	leave_classes();
	close(channel);
#undef CLASS
}

/*
 * Dumps and kills while connections come, close and become descriptors: who
 * looks at an lwsocket that is going away must find nothing freed.
 */
struct crowd {
	int family;
	bool stop;
	unsigned long seen;
};

static void *look_on(void *arg)
{
	int netlink = mp_must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC,
				     NETLINK_SOCK_DIAG));
	struct crowd *crowd = arg;
	struct inet_diag_msg msg = {};
	char buf[4096];
	int fd;

	while (!__atomic_load_n(&crowd->stop, __ATOMIC_RELAXED)) {
		/* Port 0: none is, but all are looked at. */
		diag_dump(netlink, crowd->family, 0, 0, &msg);
		fd = mp_must(open(crowd->family == AF_INET ? "/proc/net/tcp" :
				  "/proc/net/tcp6", O_RDONLY | O_CLOEXEC));
		while (read(fd, buf, sizeof(buf)) > 0)
			;
		close(fd);
		crowd->seen++;
	}
	close(netlink);
	return NULL;
}

TEST_F(diag, dump__while_connections_end)
{
	unsigned long i, rounds = mp_scaled(150);
	struct crowd crowd = { .family = variant->family };
	struct inet_diag_msg msg;
	struct mp_addr peer;
	pthread_t thread;
	int lw, client, fd;

	ASSERT_EQ(pthread_create(&thread, NULL, look_on, &crowd), 0);
	for (i = 0; i < rounds || !__atomic_load_n(&crowd.seen, __ATOMIC_RELAXED);
	     i++) {
		lw = mp_lwsocket(self->channel, self->listener, &self->addr,
				 &client);
		mp_getsockname(client, &peer);
		switch (i % 3) {
		case 0:
			mp_submit(self->channel, mp_cmd_close(lw));
			break;
		case 1:
			fd = mp_tofd(self->channel, lw, 0);
			ASSERT_GE(fd, 0);
			close(fd);
			break;
		case 2:
			ASSERT_EQ(diag_dump(self->netlink, variant->family,
					    port(&self->addr), port(&peer),
					    &msg), 1);
			diag_destroy(self->netlink, &msg);
			mp_submit(self->channel, mp_cmd_close(lw));
			break;
		}
		close(client);
	}
	__atomic_store_n(&crowd.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_GT(crowd.seen, 0);
	EXPECT_EQ(mp_stats(self->channel).lwsockets, 1);
}

TEST_HARNESS_MAIN
