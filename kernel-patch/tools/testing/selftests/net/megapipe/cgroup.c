// SPDX-License-Identifier: GPL-2.0-only
/*
 * Control groups and BPF see an lwsocket as they see the same connection with a
 * descriptor: each test does both, and compares.
 *
 *	cgroup:	 +- listening socket, channel -+
 *	         |   lwsocket | descriptor     | <---- client, outside
 *	         +-----------------------------+
 *
 * The programs are a few instructions each, by hand, so that no compiler for
 * BPF is needed.
 */
#include <limits.h>
#include <linux/bpf.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "megapipe_test.h"

#define UID	4711
#define ROOT	"/tmp/megapipe-cgroup"

/* Instructions, in the words of the kernel's filter.h */
#define INSN(c, d, s, o, i) \
	((struct bpf_insn){ .code = (c), .dst_reg = (d), .src_reg = (s), \
			    .off = (o), .imm = (i) })
#define MOV(d, s)	INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOV_IMM(d, i)	INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD_IMM(d, i)	INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LOAD(d, s, o)	INSN(BPF_LDX | BPF_MEM | BPF_W, d, s, o, 0)
#define STORE(d, o, s)	INSN(BPF_STX | BPF_MEM | BPF_DW, d, s, o, 0)
#define STORE_IMM(d, o, i) INSN(BPF_ST | BPF_MEM | BPF_W, d, 0, o, i)
#define ADD_MEM(d, o, s) INSN(BPF_STX | BPF_ATOMIC | BPF_DW, d, s, o, BPF_ADD)
#define JEQ_IMM(d, i, o) INSN(BPF_JMP | BPF_JEQ | BPF_K, d, 0, o, i)
#define JNE_IMM(d, i, o) INSN(BPF_JMP | BPF_JNE | BPF_K, d, 0, o, i)
/* Two instructions long */
#define MAP(d, fd)	INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, \
			     0, fd)
#define MAP_END()	INSN(0, 0, 0, 0, 0)
#define CALL(f)		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT()		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

static int bpf(int cmd, union bpf_attr *attr)
{
	int ret = syscall(SYS_bpf, cmd, attr, sizeof(*attr));

	return ret < 0 ? -errno : ret;
}

static int bpf_map(int type, int value_size)
{
	union bpf_attr attr = {
		.map_type = type,
		.key_size = 4,
		.value_size = value_size,
		.max_entries = 1,
	};

	return bpf(BPF_MAP_CREATE, &attr);
}

static int bpf_load(int type, int attach, const struct bpf_insn *insns, int nr)
{
	static char log[1 << 16];
	union bpf_attr attr = {
		.prog_type = type,
		.expected_attach_type = attach,
		.insns = (uintptr_t)insns,
		.insn_cnt = nr,
		.license = (uintptr_t)"GPL",
		.log_level = 1,
		.log_buf = (uintptr_t)log,
		.log_size = sizeof(log),
	};
	int fd = bpf(BPF_PROG_LOAD, &attr);

	if (fd < 0)
		mp_die("program: %s: %s", strerror(-fd), log);
	return fd;
}

static void bpf_attach(int prog, int cgroup, int type)
{
	union bpf_attr attr = {
		.target_fd = cgroup,
		.attach_bpf_fd = prog,
		.attach_type = type,
	};
	int ret = bpf(BPF_PROG_ATTACH, &attr);

	if (ret)
		mp_die("attach: %s", strerror(-ret));
}

static void bpf_detach(int prog, int cgroup, int type)
{
	union bpf_attr attr = {
		.target_fd = cgroup,
		.attach_bpf_fd = prog,
		.attach_type = type,
	};

	mp_must(bpf(BPF_PROG_DETACH, &attr));
}

/*
 * A cgroup of our own, which this process joins after its client has been
 * forked off outside.
 */

FIXTURE(cg)
{
	int dir;
	int channel;
	int fd;
	int listener;
	struct mp_addr addr;
	char path[64];
};

FIXTURE_SETUP(cg)
{
	mp_must(unshare(CLONE_NEWNS));
	mp_must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	mkdir(ROOT, 0700);
	if (mount("megapipe", ROOT, "cgroup2", 0, NULL))
		SKIP(return, "no cgroup2: %s", strerror(errno));
	mp_new_netns();
	snprintf(self->path, sizeof(self->path), ROOT "/mp-%d", getpid());
	mp_must(mkdir(self->path, 0700));
	self->dir = mp_must(open(self->path, O_RDONLY | O_DIRECTORY |
				 O_CLOEXEC));
	self->channel = -1;
	self->fd = -1;
}

FIXTURE_TEARDOWN(cg)
{
	close(self->channel);
	close(self->fd);
	mp_write_text(ROOT "/cgroup.procs", "0");
	close(self->dir);
	rmdir(self->path);
}

static void cg_join(FIXTURE_DATA(cg) * self)
{
	char procs[128];

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", self->path);
	mp_write_text(procs, "0");
	self->channel = mp_open();
	self->fd = mp_listen(AF_INET, 1024, &self->addr);
	self->listener = mp_must(mp_register(self->channel, self->fd, 0));
}

static struct megapipe_event cg_accept(FIXTURE_DATA(cg) * self, int *client,
				       uint8_t flags)
{
	*client = mp_connect(&self->addr);
	return mp_run(self->channel, mp_cmd_accept(self->listener, 1, flags));
}

/*
 * What a program at the cgroup's egress sees of the sender
 */

struct seen {
	uint64_t packets;
	uint64_t uid;
	uint64_t cookie;
};

static int load_egress(int map, int port)
{
	const struct bpf_insn insns[] = {
		MOV(BPF_REG_6, BPF_REG_1),
		LOAD(BPF_REG_7, BPF_REG_6, offsetof(struct __sk_buff,
						    local_port)),
		JNE_IMM(BPF_REG_7, port, 17),
		MOV(BPF_REG_1, BPF_REG_6),
		CALL(BPF_FUNC_get_socket_uid),
		MOV(BPF_REG_8, BPF_REG_0),
		MOV(BPF_REG_1, BPF_REG_6),
		CALL(BPF_FUNC_get_socket_cookie),
		MOV(BPF_REG_9, BPF_REG_0),
		STORE_IMM(BPF_REG_10, -4, 0),
		MOV(BPF_REG_2, BPF_REG_10),
		ADD_IMM(BPF_REG_2, -4),
		MAP(BPF_REG_1, map),
		MAP_END(),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQ_IMM(BPF_REG_0, 0, 4),
		MOV_IMM(BPF_REG_1, 1),
		ADD_MEM(BPF_REG_0, offsetof(struct seen, packets), BPF_REG_1),
		STORE(BPF_REG_0, offsetof(struct seen, uid), BPF_REG_8),
		STORE(BPF_REG_0, offsetof(struct seen, cookie), BPF_REG_9),
		MOV_IMM(BPF_REG_0, 1),
		EXIT(),
	};

	return bpf_load(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS,
			insns, ARRAY_SIZE(insns));
}

/* Look, and forget. */
static struct seen bpf_look(int map)
{
	struct seen seen, nothing = {};
	uint32_t key = 0;
	union bpf_attr attr = {
		.map_fd = map,
		.key = (uintptr_t)&key,
		.value = (uintptr_t)&seen,
	};

	mp_must(bpf(BPF_MAP_LOOKUP_ELEM, &attr));
	attr.value = (uintptr_t)&nothing;
	attr.flags = 0;
	mp_must(bpf(BPF_MAP_UPDATE_ELEM, &attr));
	return seen;
}

TEST_F(cg, skb__has_user_cookie_and_cgroup)
{
	struct linger reset = { .l_onoff = 1 };
	struct megapipe_event event;
	int map, prog, client, fd, lw;
	struct seen lw_seen, fd_seen;
	uint64_t cookie = 0;
	socklen_t socklen = sizeof(cookie);
	uint32_t len = sizeof(cookie);
	char byte = 0;

	cg_join(self);
	map = bpf_map(BPF_MAP_TYPE_ARRAY, sizeof(struct seen));
	if (map < 0)
		SKIP(return, "no BPF: %s", strerror(-map));
	prog = load_egress(map, ntohs(self->addr.in.sin_port));

	setfsuid(UID);
	event = cg_accept(self, &client, MEGAPIPE_CMD_LWSOCKET);
	setfsuid(0);
	ASSERT_GT(event.res, 0);
	lw = event.res;
	ASSERT_EQ(mp_getsockopt(self->channel, lw, SOL_SOCKET, SO_COOKIE,
				&cookie, &len), 0);
	bpf_attach(prog, self->dir, BPF_CGROUP_INET_EGRESS);
	event = mp_run(self->channel, mp_cmd_write(lw, &byte, 1));
	EXPECT_EQ(event.res, 1);
	mp_read_all(client, &byte, 1);
	lw_seen = bpf_look(map);
	EXPECT_EQ(lw_seen.uid, UID);
	EXPECT_EQ(lw_seen.cookie, cookie);
	EXPECT_GE(lw_seen.packets, 1);
	bpf_detach(prog, self->dir, BPF_CGROUP_INET_EGRESS);
	/* Reset, it has no packet left to send while the other is looked at. */
	mp_must(setsockopt(client, SOL_SOCKET, SO_LINGER, &reset,
			   sizeof(reset)));
	close(client);
	event = mp_run(self->channel, mp_cmd_read(lw, &byte, 1));
	EXPECT_EQ(event.res, -ECONNRESET);

	setfsuid(UID);
	client = mp_connect(&self->addr);
	fd = mp_must(accept(self->fd, NULL, NULL));
	setfsuid(0);
	mp_must(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &socklen));
	bpf_look(map);
	bpf_attach(prog, self->dir, BPF_CGROUP_INET_EGRESS);
	mp_write_all(fd, &byte, 1);
	mp_read_all(client, &byte, 1);
	fd_seen = bpf_look(map);
	EXPECT_EQ(fd_seen.uid, lw_seen.uid);
	EXPECT_EQ(fd_seen.cookie, cookie);
	/* On a busy machine it may have been sent again. */
	EXPECT_GE(fd_seen.packets, 1);
	bpf_detach(prog, self->dir, BPF_CGROUP_INET_EGRESS);
	close(client);
	close(fd);
	close(prog);
	close(map);
}

/* Programs may refuse socket options: of a descriptor, and of an lwsocket. */
TEST_F(cg, sockopt__runs_the_programs)
{
	static const struct bpf_insn refuse[] = {
		MOV_IMM(BPF_REG_0, 0), EXIT(),
	};
	static const int types[] = {
		BPF_CGROUP_SETSOCKOPT, BPF_CGROUP_GETSOCKOPT,
	};
	int client, map, prog, lw, i, one = 1;
	uint32_t len = sizeof(one);
	socklen_t socklen;

	map = bpf_map(BPF_MAP_TYPE_ARRAY, 8);
	if (map < 0)
		SKIP(return, "no BPF: %s", strerror(-map));
	cg_join(self);
	lw = cg_accept(self, &client, MEGAPIPE_CMD_LWSOCKET).res;
	ASSERT_GT(lw, 0);

	for (i = 0; i < 2; i++) {
		prog = bpf_load(BPF_PROG_TYPE_CGROUP_SOCKOPT, types[i], refuse,
				ARRAY_SIZE(refuse));
		bpf_attach(prog, self->dir, types[i]);
		len = sizeof(one);
		socklen = sizeof(one);
		if (types[i] == BPF_CGROUP_SETSOCKOPT) {
			EXPECT_EQ(setsockopt(client, IPPROTO_TCP, TCP_NODELAY,
					     &one, sizeof(one)), -1);
			EXPECT_EQ(errno, EPERM);
			EXPECT_EQ(mp_setsockopt(self->channel, lw, IPPROTO_TCP,
						TCP_NODELAY, &one,
						sizeof(one)), -EPERM);
		} else {
			EXPECT_EQ(getsockopt(client, IPPROTO_TCP, TCP_NODELAY,
					     &one, &socklen), -1);
			EXPECT_EQ(errno, EPERM);
			EXPECT_EQ(mp_getsockopt(self->channel, lw, IPPROTO_TCP,
						TCP_NODELAY, &one, &len),
				  -EPERM);
		}
		bpf_detach(prog, self->dir, types[i]);
		close(prog);
	}
	EXPECT_EQ(mp_setsockopt(self->channel, lw, IPPROTO_TCP, TCP_NODELAY,
				&one, sizeof(one)), 0);
	close(client);
	close(map);
}

/* A connection that a program has put into a sockmap has a psock. */
TEST_F(cg, sockmap__makes_a_descriptor)
{
	struct megapipe_event event;
	int map, prog, client, port;
	char byte = 0;

	map = bpf_map(BPF_MAP_TYPE_SOCKMAP, 4);
	if (map < 0)
		SKIP(return, "no sockmap: %s", strerror(-map));
	cg_join(self);
	port = ntohs(self->addr.in.sin_port);
	{
		const struct bpf_insn insns[] = {
			MOV(BPF_REG_6, BPF_REG_1),
			LOAD(BPF_REG_7, BPF_REG_6,
			     offsetof(struct bpf_sock_ops, op)),
			JNE_IMM(BPF_REG_7,
				BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, 10),
			LOAD(BPF_REG_7, BPF_REG_6,
			     offsetof(struct bpf_sock_ops, local_port)),
			JNE_IMM(BPF_REG_7, port, 8),
			STORE_IMM(BPF_REG_10, -4, 0),
			MOV(BPF_REG_3, BPF_REG_10),
			ADD_IMM(BPF_REG_3, -4),
			MAP(BPF_REG_2, map),
			MAP_END(),
			MOV(BPF_REG_1, BPF_REG_6),
			MOV_IMM(BPF_REG_4, 0),
			CALL(BPF_FUNC_sock_map_update),
			MOV_IMM(BPF_REG_0, 1),
			EXIT(),
		};

		prog = bpf_load(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS,
				insns, ARRAY_SIZE(insns));
	}
	bpf_attach(prog, self->dir, BPF_CGROUP_SOCK_OPS);
	event = cg_accept(self, &client, MEGAPIPE_CMD_LWSOCKET);
	ASSERT_GE(event.res, 0);
	EXPECT_TRUE(event.flags & MEGAPIPE_EVENT_FD);
	bpf_detach(prog, self->dir, BPF_CGROUP_SOCK_OPS);
	mp_write_all(event.res, "x", 1);
	mp_read_all(client, &byte, 1);
	close(event.res);
	close(client);

	/* Without the program it is an lwsocket. */
	event = cg_accept(self, &client, MEGAPIPE_CMD_LWSOCKET);
	EXPECT_FALSE(event.flags & MEGAPIPE_EVENT_FD);
	close(client);
	close(prog);
	close(map);
}

/*
 * Memory: what waits in the sockets is charged to the cgroup that accepted.
 */

#define QUEUED		32
#define QUEUED_BYTES	20000

/* A line of memory.stat, in bytes */
static long memory_stat(const char *dir, const char *name)
{
	char path[128], line[256];
	size_t len = strlen(name);
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, len) && line[len] == ' ')
			value = atol(line + len);
	if (file)
		fclose(file);
	return value;
}

/*
 * Bytes of @what that the cgroup is charged for, when they are at least @min and
 * at most @max, or what they are after a while: the kernel sums small changes up
 * every two seconds only.
 */
static long charged(const char *dir, const char *what, long min, long max)
{
	long long deadline = mp_now_ns() + MP_DEADLINE_NS / 2;
	long bytes;

	do {
		bytes = memory_stat(dir, what);
		if (bytes >= min && bytes <= max)
			break;
		usleep(100000);
	} while (mp_now_ns() < deadline);
	return bytes;
}

/* The client, outside: fills connections to the address it is told. */
static pid_t start_client(int request[2], int done[2])
{
	static char data[QUEUED_BYTES];
	struct mp_addr addr;
	int fds[QUEUED], i;
	pid_t pid;

	mp_must(pipe2(request, O_CLOEXEC));
	mp_must(pipe2(done, O_CLOEXEC));
	pid = mp_must(fork());
	if (pid) {
		close(request[0]);
		close(done[1]);
		return pid;
	}
	close(request[1]);
	while (read(request[0], &addr, sizeof(addr)) == sizeof(addr)) {
		for (i = 0; i < QUEUED; i++) {
			fds[i] = mp_connect(&addr);
			mp_write_all(fds[i], data, sizeof(data));
		}
		mp_must(write(done[1], "", 1));
		/* The next request ends these. */
		if (read(request[0], &addr, sizeof(addr)) != sizeof(addr))
			break;
		for (i = 0; i < QUEUED; i++)
			close(fds[i]);
		mp_must(write(done[1], "", 1));
	}
	_exit(0);
}

/* Charged for accepted connections with data, and *@after they are closed */
static long charged_for(FIXTURE_DATA(cg) * self, int request, int done, bool lw,
			long *after)
{
	int handles[QUEUED], i;
	struct megapipe_event event;
	long bytes;
	char byte;

	mp_must(write(request, &self->addr, sizeof(self->addr)));
	mp_must(read(done, &byte, 1));
	for (i = 0; i < QUEUED; i++) {
		if (!lw) {
			handles[i] = mp_must(accept(self->fd, NULL, NULL));
			continue;
		}
		event = mp_run(self->channel,
			       mp_cmd_accept(self->listener, 1,
					     MEGAPIPE_CMD_LWSOCKET));
		handles[i] = event.res;
		if (handles[i] < 0 || event.flags & MEGAPIPE_EVENT_FD)
			mp_die("accept: %d", event.res);
	}
	bytes = charged(self->path, "sock", QUEUED * QUEUED_BYTES,
			LONG_MAX);
	for (i = 0; i < QUEUED; i++) {
		if (lw)
			mp_submit(self->channel, mp_cmd_close(handles[i]));
		else
			close(handles[i]);
	}
	mp_must(write(request, &self->addr, sizeof(self->addr)));
	mp_must(read(done, &byte, 1));
	*after = charged(self->path, "sock", 0, bytes / 8);
	return bytes;
}

static bool has_memory(const char *dir)
{
	if (memory_stat(dir, "sock") < 0)
		mp_write_text(ROOT "/cgroup.subtree_control", "+memory");
	return memory_stat(dir, "sock") >= 0;
}

TEST_F(cg, memory__is_charged_to_who_accepts)
{
	long as_fd, as_lw, after_fd, after_lw;
	int request[2], done[2], status;
	pid_t pid;

	if (!has_memory(self->path))
		SKIP(return, "no memory controller");
	pid = start_client(request, done);
	cg_join(self);
	as_fd = charged_for(self, request[1], done[0], false, &after_fd);
	as_lw = charged_for(self, request[1], done[0], true, &after_lw);
	TH_LOG("sock: %ld as descriptors, %ld closed, %ld as lwsockets, %ld closed",
	       as_fd, after_fd, as_lw, after_lw);
	EXPECT_GE(as_lw, QUEUED * QUEUED_BYTES);
	/* Charges are in pages, and batched. */
	EXPECT_GE(as_lw, as_fd - as_fd / 8);
	EXPECT_LE(as_lw, as_fd + as_fd / 8);
	EXPECT_LE(after_fd, as_fd / 8);
	EXPECT_LE(after_lw, as_lw / 8);
	close(request[1]);
	mp_must(waitpid(pid, &status, 0));
}

/*
 * What the channel itself keeps is charged, too: each step must add at least
 * what it cannot do without, and closing the channels gives it back.
 */

#define CHANNELS	64
#define CHANNEL_BYTES	4096
#define HANDLES		8192
#define HANDLE_BYTES	192	/* of a registered descriptor, and its slot */
#define READS		256
#define VECTORS		1024

static long grown(struct __test_metadata *_metadata, const char *dir,
		  const char *what, long before, long least)
{
	long now = charged(dir, "kernel", before + least, LONG_MAX);

	TH_LOG("%s: %ld bytes, at least %ld", what, now - before, least);
	EXPECT_GE(now - before, least);
	return now;
}

TEST_F(cg, memory__of_channels_handles_and_requests_is_charged)
{
	/* A channel's table of pages is as long as it may have handles. */
	const struct rlimit limit = { 1024, 1024 };
	static struct iovec iov[VECTORS];
	static char buf[VECTORS];
	int channels[CHANNELS], fds[2], handle, i;
	long start, now;

	if (!has_memory(self->path) || memory_stat(self->path, "kernel") < 0)
		SKIP(return, "no memory controller");
	mp_must(setrlimit(RLIMIT_NOFILE, &limit));
	cg_join(self);
	for (i = 0; i < VECTORS; i++)
		iov[i] = (struct iovec){ buf + i, 1 };
	mp_must(pipe2(fds, O_NONBLOCK | O_CLOEXEC));
	/* What fork() has left is told by now. */
	sleep(3);
	start = memory_stat(self->path, "kernel");

	for (i = 0; i < CHANNELS; i++)
		channels[i] = mp_open();
	now = grown(_metadata, self->path, "channels", start,
		    CHANNELS * CHANNEL_BYTES);
	/* The same file as often as it likes, in several channels */
	for (i = 0; i < HANDLES; i++) {
		handle = mp_register(channels[i % CHANNELS], fds[0], i);
		ASSERT_GT(handle, 0);
	}
	now = grown(_metadata, self->path, "handles", now,
		    HANDLES * HANDLE_BYTES);
	for (i = 0; i < READS; i++) {
		handle = mp_register(channels[i % CHANNELS], fds[0], i);
		ASSERT_GT(handle, 0);
		mp_submit(channels[i % CHANNELS],
			  mp_cmd_readv(handle, iov, VECTORS));
	}
	now = grown(_metadata, self->path, "requests", now,
		    READS * VECTORS * (long)sizeof(struct iovec));

	for (i = 0; i < CHANNELS; i++)
		close(channels[i]);
	close(fds[0]);
	close(fds[1]);
	/* Pages of slabs that are not quite empty stay. */
	now = charged(self->path, "kernel", 0, start + (now - start) / 4);
	TH_LOG("closed: %ld bytes left", now - start);
	EXPECT_LE(now, start + (READS * VECTORS * (long)sizeof(struct iovec) +
				HANDLES * HANDLE_BYTES) / 4);
}

TEST_HARNESS_MAIN
