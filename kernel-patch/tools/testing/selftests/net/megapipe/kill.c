// SPDX-License-Identifier: GPL-2.0-only
/*
 * Owners of partitions are killed with SIGKILL as fast as they restart, while
 * clients come and go.  A connection may be lost only with the process that had
 * accepted it, and that is for the kernel to say:
 *
 *	clients' log:   port, from, until, how it ended --+
 *	                                                  +--> every failure has
 *	tracepoint megapipe_accept:  port, when, pid -----+    an accept by a
 *	                                                  |    process that was
 *	killer's log:   pid, when ------------------------+    killed before
 *
 * All times are CLOCK_MONOTONIC.  Each client has ports of its own and uses one
 * after the other: a port that the kernel chose could be that of a connection
 * which another client ended, and another owner accepted, after this one began.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "megapipe_test.h"
#include "owner.h"

#define KILLS		60	/* 3,000 when MEGAPIPE_TEST_SCALE is 50 */
#define OWNERS		4
#define CLIENTS		6
#define CLIENT_PORTS	5000	/* of each client, below those of the kernel */
#define DEADLINE_NS	(10 * 1000000000LL)

/*
 * The kernel's word: who accepted what
 */

/**
 * struct record - an accept
 * @ns: when
 * @pid: by whom
 * @port: the client's port
 */
struct record {
	long long	ns;
	int		pid;
	int		port;
};

/**
 * struct recorder - reads the tracepoint
 * @dir: the instance of tracefs
 * @thread: what reads it
 * @records: what it read
 * @nr: length of @records
 * @notes: resets and migrations as they were traced, to explain a loss
 * @nr_notes: length of @notes
 * @lost: events that it was too slow for
 */
struct recorder {
	char		dir[128];
	pthread_t	thread;
	struct record	*records;
	size_t		nr;
	char		**notes;
	size_t		nr_notes;
	unsigned long	lost;
};

static void recorder_write(const struct recorder *recorder, const char *file,
			   const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", recorder->dir, file);
	mp_write_text(path, text);
}

/* When: comm-pid [cpu] flags seconds: event: ... */
static long long note_ns(const char *line)
{
	const char *at = strstr(line, ": ");
	double seconds;

	while (at && at > line && at[-1] != ' ')
		at--;
	if (!at || sscanf(at, "%lf", &seconds) != 1)
		mp_die("trace: %s", line);
	return seconds * 1e9;
}

static void recorder_note(struct recorder *recorder, const char *line)
{
	if (!(recorder->nr_notes & (recorder->nr_notes + 1)))
		recorder->notes = reallocarray(recorder->notes,
					       2 * recorder->nr_notes + 2,
					       sizeof(*recorder->notes));
	recorder->notes[recorder->nr_notes++] = strdup(line);
}

static void *recorder_run(void *arg)
{
	struct recorder *recorder = arg;
	char path[256], line[1024], *at, *port;
	FILE *file;

	snprintf(path, sizeof(path), "%s/trace_pipe", recorder->dir);
	file = fopen(path, "re");
	if (!file)
		mp_die("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		struct record record;

		if (strstr(line, "LOST")) {
			recorder->lost++;
			continue;
		}
		if (strstr(line, "the end"))
			break;
		at = strstr(line, " megapipe_accept: ");
		if (!at) {
			recorder_note(recorder, line);
			continue;
		}
		port = strstr(line, " dport=");
		if (!port)
			mp_die("trace: %s", line);
		record.ns = note_ns(line);
		at = strstr(line, " [");
		if (!at)
			mp_die("trace: %s", line);
		while (at > line && at[-1] == ' ')
			at--;
		while (at > line && at[-1] != '-')
			at--;
		record.pid = atoi(at);
		record.port = atoi(port + 7);
		if (!(recorder->nr & (recorder->nr + 1)))
			recorder->records =
				reallocarray(recorder->records,
					     2 * recorder->nr + 2,
					     sizeof(record));
		recorder->records[recorder->nr++] = record;
	}
	fclose(file);
	return NULL;
}

/* Returns false if the kernel cannot trace. */
static bool recorder_begin(struct recorder *recorder)
{
	*recorder = (struct recorder){};
	if (access("/sys/kernel/tracing/instances", F_OK) &&
	    mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL))
		return false;
	snprintf(recorder->dir, sizeof(recorder->dir),
		 "/sys/kernel/tracing/instances/megapipe-%d", getpid());
	if (mkdir(recorder->dir, 0700))
		return false;
	recorder_write(recorder, "trace_clock", "mono");
	recorder_write(recorder, "buffer_size_kb", "2048");
	recorder_write(recorder, "events/megapipe/megapipe_accept/enable", "1");
	recorder_write(recorder, "events/megapipe/megapipe_migrate/enable", "1");
	recorder_write(recorder, "events/tcp/tcp_send_reset/enable", "1");
	mp_must(pthread_create(&recorder->thread, NULL, recorder_run, recorder));
	return true;
}

static int record_order(const void *a, const void *b)
{
	const struct record *x = a, *y = b;

	if (x->port != y->port)
		return x->port - y->port;
	return x->ns < y->ns ? -1 : x->ns > y->ns;
}

static void recorder_end(struct recorder *recorder)
{
	recorder_write(recorder, "events/enable", "0");
	recorder_write(recorder, "trace_marker", "the end");
	pthread_join(recorder->thread, NULL);
	rmdir(recorder->dir);
	qsort(recorder->records, recorder->nr, sizeof(*recorder->records),
	      record_order);
}

/* The accept of the connection that had @port between @from and @until */
static const struct record *recorder_find(const struct recorder *recorder,
					  int port, long long from,
					  long long until)
{
	size_t low = 0, high = recorder->nr;

	while (low < high) {
		size_t mid = (low + high) / 2;
		const struct record *r = &recorder->records[mid];

		if (r->port < port || (r->port == port && r->ns < from))
			low = mid + 1;
		else
			high = mid;
	}
	if (low == recorder->nr || recorder->records[low].port != port ||
	    recorder->records[low].ns > until)
		return NULL;
	return &recorder->records[low];
}

/*
 * What was traced of the connection: with its port, or a reset by a listener,
 * which does not know whose packet that was, in its time.
 */
static void recorder_explain(const struct recorder *recorder, int port,
			     long long from, long long until)
{
	char ports[2][16];
	size_t i;

	snprintf(ports[0], sizeof(ports[0]), ":%d ", port);
	snprintf(ports[1], sizeof(ports[1]), "dport=%d ", port);
	for (i = 0; i < recorder->nr_notes; i++) {
		const char *note = recorder->notes[i];
		long long ns = note_ns(note);

		if (ns < from || ns > until)
			continue;
		if (strstr(note, ports[0]) || strstr(note, ports[1]) ||
		    strstr(note, "state=TCP_LISTEN"))
			printf("# %s", note);
	}
}

/*
 * Clients
 */

enum result {
	OK,
	REFUSED,
	RESET,
	CLOSED,
	TIMED_OUT,
	NR_RESULTS,
};

static const char * const result_names[] = {
	"ok", "refused", "reset", "closed", "timed out",
};

/**
 * struct connection - a line of a client's log
 * @from: when it was begun
 * @until: when the client had its answer or gave up
 * @port: its port
 * @result: how it ended
 */
struct connection {
	long long	from;
	long long	until;
	int		port;
	enum result	result;
};

/**
 * struct client - a client
 * @thread: its thread
 * @cpu: the CPU that it stays on; -1: on any
 * @addr: the server
 * @port: the first of its ports
 * @stop: it is to end
 * @log: its log
 * @nr: length of @log
 */
struct client {
	pthread_t		thread;
	int			cpu;
	struct mp_addr		addr;
	int			port;
	int			*stop;
	struct connection	*log;
	size_t			nr;
};

static enum result client_result(int error)
{
	return error == ECONNREFUSED ? REFUSED :
	       error == ETIMEDOUT ? TIMED_OUT : RESET;
}

/* Until @events or @deadline.  Returns false if it is too late. */
static bool client_wait(int fd, int events, long long deadline)
{
	struct pollfd pfd = { .fd = fd, .events = events };
	long long left = deadline - mp_now_ns();

	return left > 0 && poll(&pfd, 1, left / 1000000 + 1) > 0;
}

/* One question, one answer */
static enum result client_talk(int fd, const struct mp_addr *addr,
			       long long deadline)
{
	socklen_t len = sizeof(int);
	int error = 0, ret;
	char byte = '?';

	ret = connect(fd, &addr->sa, addr->len);
	if (ret && errno != EINPROGRESS)
		return client_result(errno);
	if (!client_wait(fd, POLLOUT, deadline))
		return TIMED_OUT;
	mp_must(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len));
	if (error)
		return client_result(error);
	if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
		return client_result(errno);
	if (!client_wait(fd, POLLIN, deadline))
		return TIMED_OUT;
	ret = recv(fd, &byte, 1, 0);
	if (ret < 0)
		return client_result(errno);
	return ret == 1 ? OK : CLOSED;
}

/* A socket with this port */
static int client_socket(int port)
{
	struct mp_addr addr = mp_loopback(AF_INET);
	int fd, one = 1;

	fd = mp_must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			    0));
	mp_must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	addr.in.sin_port = htons(port);
	mp_must(bind(fd, &addr.sa, addr.len));
	return fd;
}

static void *client_run(void *arg)
{
	struct client *client = arg;

	if (client->cpu >= 0)
		mp_pin(client->cpu);
	while (!__atomic_load_n(client->stop, __ATOMIC_RELAXED)) {
		struct connection c = {
			.from = mp_now_ns(),
			.port = client->port + client->nr % CLIENT_PORTS,
		};
		int fd = client_socket(c.port);

		c.result = client_talk(fd, &client->addr, c.from + DEADLINE_NS);
		c.until = mp_now_ns();
		close(fd);
		if (!(client->nr & (client->nr + 1)))
			client->log = realloc(client->log,
					      (2 * client->nr + 2) * sizeof(c));
		client->log[client->nr++] = c;
	}
	return NULL;
}

/*
 * Owners
 */

/* Answers questions on lwsockets until it is killed. */
static void owner_run(int fd, int slot, int ready)
{
	static char bytes[4096];
	struct mp_owner owner = mp_owner(fd, 1UL << slot);
	struct megapipe_cmd cmds[64];
	int nr = 0;

	cmds[nr++] = mp_cmd_accept(owner.handle, 0, MEGAPIPE_CMD_LWSOCKET);
	mp_write_all(ready, "", 1);
	for (;;) {
		struct megapipe_event events[64];
		int i, count;

		count = mp_dispatch(owner.channel, cmds, nr, events, 32, 1,
				    MP_DEADLINE_NS, NULL);
		if (count < 0)
			mp_die("dispatch: %d", count);
		nr = 0;
		for (i = 0; i < count; i++) {
			const struct megapipe_event *event = &events[i];
			int handle = event->handle;
			char *byte = &bytes[handle & 4095];

			if (event->op == MEGAPIPE_OP_ACCEPT) {
				if (event->res < 0)
					mp_die("accept: %d", event->res);
				handle = event->res;
				byte = &bytes[handle & 4095];
				cmds[nr++] = mp_cmd_read(handle, byte, 1);
			} else if (event->op == MEGAPIPE_OP_READ &&
				   event->res == 1) {
				cmds[nr++] = mp_cmd_write(handle, byte, 1);
			} else {
				cmds[nr++] = mp_cmd_close(handle);
			}
		}
	}
}

static pid_t owner_start(int fd, int slot)
{
	int ready[2];
	pid_t pid;
	char byte;

	mp_must(pipe2(ready, O_CLOEXEC));
	pid = mp_must(fork());
	if (!pid) {
		close(ready[0]);
		owner_run(fd, slot, ready[1]);
	}
	close(ready[1]);
	mp_read_all(ready[0], &byte, 1);
	close(ready[0]);
	return pid;
}

/**
 * struct killed - a line of the killer's log
 * @pid: whom
 * @ns: when
 */
struct killed {
	int		pid;
	long long	ns;
};

/* When the process was killed; 0 if it was not */
static long long killed_at(const struct killed *killed, size_t nr, int pid)
{
	size_t i;

	for (i = 0; i < nr; i++)
		if (killed[i].pid == pid)
			return killed[i].ns;
	return 0;
}

/*
 * What accept() gets when there is no owner.  A thread of the process that does
 * not own anything.
 */
static void *plain_run(void *arg)
{
	int fd = *(int *)arg;

	for (;;) {
		int conn = accept(fd, NULL, NULL);
		char byte;

		if (conn < 0)
			return NULL;	/* shut down */
		if (recv(conn, &byte, 1, 0) == 1)
			send(conn, &byte, 1, MSG_NOSIGNAL);
		close(conn);
	}
}

FIXTURE(kill) {
	struct recorder	recorder;
	struct client	clients[CLIENTS];
	struct mp_addr	addr;
	int		stop;
	int		fd;
};

FIXTURE_VARIANT(kill) {
	int	owners;
	bool	plain;
};

FIXTURE_VARIANT_ADD(kill, one_of_several) {
	.owners = OWNERS,
};

/* Again and again there is none left but a blocking accept(). */
FIXTURE_VARIANT_ADD(kill, the_only_one) {
	.owners = 1, .plain = true,
};

FIXTURE_SETUP(kill)
{
	int i;

	if (!recorder_begin(&self->recorder))
		SKIP(return, "no tracefs");
	mp_new_netns();
	self->fd = mp_listen(AF_INET, 128, &self->addr);
	for (i = 0; i < CLIENTS; i++)
		self->clients[i] = (struct client){
			.cpu = i < mp_cpus() ? i : -1,
			.addr = self->addr,
			.port = 1024 + i * CLIENT_PORTS,
			.stop = &self->stop,
		};
}

FIXTURE_TEARDOWN(kill)
{
	close(self->fd);
}

TEST_F_TIMEOUT(kill, loses_only_what_was_accepted, 7200)
{
	unsigned long kills = mp_scaled(KILLS), i, unexplained = 0;
	unsigned long results[NR_RESULTS] = {}, total = 0, unrecorded = 0;
	struct killed *killed = calloc(kills + OWNERS, sizeof(*killed));
	long long slowest = 0;
	pthread_t plain;
	pid_t pids[OWNERS];
	size_t c, n;
	int slot;

	for (slot = 0; slot < variant->owners; slot++)
		pids[slot] = owner_start(self->fd, slot);
	if (variant->plain)
		mp_must(pthread_create(&plain, NULL, plain_run, &self->fd));
	for (c = 0; c < CLIENTS; c++)
		mp_must(pthread_create(&self->clients[c].thread, NULL,
				       client_run, &self->clients[c]));
	for (i = 0; i < kills; i++) {
		slot = i % variant->owners;
		killed[i].pid = pids[slot];
		killed[i].ns = mp_now_ns();
		mp_must(kill(pids[slot], SIGKILL));
		mp_must(waitpid(pids[slot], NULL, 0));
		pids[slot] = owner_start(self->fd, slot);
	}
	__atomic_store_n(&self->stop, 1, __ATOMIC_RELAXED);
	for (c = 0; c < CLIENTS; c++)
		pthread_join(self->clients[c].thread, NULL);
	for (slot = 0; slot < variant->owners; slot++) {
		kill(pids[slot], SIGKILL);
		mp_must(waitpid(pids[slot], NULL, 0));
	}
	if (variant->plain) {
		mp_must(shutdown(self->fd, SHUT_RDWR));
		pthread_join(plain, NULL);
	}
	recorder_end(&self->recorder);
	EXPECT_EQ(self->recorder.lost, 0);

	for (c = 0; c < CLIENTS; c++) {
		for (n = 0; n < self->clients[c].nr; n++) {
			const struct connection *conn = &self->clients[c].log[n];
			const struct record *record;
			long long death;

			total++;
			results[conn->result]++;
			if (conn->until - conn->from > slowest)
				slowest = conn->until - conn->from;
			record = recorder_find(&self->recorder, conn->port,
					       conn->from, conn->until);
			if (!record)
				unrecorded++;
			if (conn->result == OK)
				continue;
			death = record ? killed_at(killed, kills, record->pid) :
				0;
			if (death && death <= conn->until)
				continue;
			unexplained++;
			TH_LOG("port %d, client on CPU %d, %lld to %lld: %s, accepted at %lld by %d, killed at %lld",
			       conn->port, self->clients[c].cpu,
			       conn->from, conn->until,
			       result_names[conn->result],
			       record ? record->ns : 0,
			       record ? record->pid : 0, death);
			recorder_explain(&self->recorder, conn->port,
					 conn->from, conn->until);
		}
	}
	TH_LOG("%lu kills, %lu connections, %zu accepts by owners, slowest %lld ms",
	       kills, total, self->recorder.nr, slowest / 1000000);
	TH_LOG("%lu ok; with their owner: %lu reset, %lu closed, %lu timed out",
	       results[OK], results[RESET], results[CLOSED],
	       results[TIMED_OUT]);
	TH_LOG("migrated %ld, failed %ld; SYNs sent again %ld, dropped %ld",
	       mp_counter("TcpExt", "TCPMigrateReqSuccess"),
	       mp_counter("TcpExt", "TCPMigrateReqFailure"),
	       mp_counter("TcpExt", "TCPSynRetrans"),
	       mp_counter("TcpExt", "ListenDrops"));
	EXPECT_EQ(unexplained, 0);
	EXPECT_EQ(results[REFUSED], 0);
	EXPECT_GT(results[OK], 0);
	EXPECT_GT(self->recorder.nr, 0);
	/* The record is complete: who was served was accepted, once. */
	if (!variant->plain) {
		EXPECT_EQ(unrecorded, 0);
		EXPECT_EQ(self->recorder.nr, total);
	}
	free(killed);
}

TEST_HARNESS_MAIN
