// SPDX-License-Identifier: MIT
/*
 * pingpong-server: echoes what it reads, through one of several interfaces.
 *
 * Everything that the interfaces have in common is here, so that they differ in
 * nothing else: one listening socket with the same options, threads pinned to
 * CPUs, the same counters. Main starts the threads, says "ready" when all of them
 * listen, and then only waits for signals.
 */
#include "api.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EXIT_SKIPPED	77

static const struct api *const apis[] = {
	&api_epoll,
	&api_reuseport,
	&api_io_uring,
	&api_megapipe,
	&api_megapipe_raw,
	&api_megapipe_steal,
	&api_floor,
};

#define NR_APIS	(sizeof(apis) / sizeof(apis[0]))

struct server {
	struct options options;
	const struct api *api;
	int listener;
	int stop_fd;
	pthread_barrier_t opened;
	struct worker *workers;
};

static struct server server;

static const char *api_names(void)
{
	static char names[128];
	size_t used = 0;

	for (size_t i = 0; i < NR_APIS && used < sizeof(names); i++)
		if (apis[i])
			used += snprintf(names + used, sizeof(names) - used, "%s%s",
					 used ? ", " : "", apis[i]->name);
	return names;
}

static const struct api *find_api(const struct options *o)
{
	for (size_t i = 0; i < NR_APIS; i++) {
		if (!apis[i] || strcmp(apis[i]->name, o->api))
			continue;
		if (o->channel_switch && !apis[i]->has_channels)
			usage_error("--no-partition, --mask, --batch, --no-lwsocket, --accept, "
				    "--shed and --hand-on mean nothing to --api %s", o->api);
		if (apis[i]->only_descriptors && (o->shed || o->hand_on))
			usage_error("--shed and --hand-on mean nothing to --api %s", o->api);
		if (o->messages && apis[i]->only_echoes)
			usage_error("--messages: --api %s closes at end of file only", o->api);
		if (o->count_foreign && apis[i]->hides_sockets)
			usage_error("--count-foreign asks descriptors: --api %s has none", o->api);
		return apis[i];
	}
	usage_error("--api: no '%s'; this build has: %s", o->api, api_names());
}

static _Noreturn void die(int status, const char *what, int error)
{
	fprintf(stderr, "pingpong-server: %s: %s\n", what, strerror(error));
	exit(status);
}

static _Noreturn void die_listening(const struct options *o, const char *step)
{
	const char *hint = errno == EADDRINUSE ? " (choose another with --port)" : "";

	fprintf(stderr, "pingpong-server: cannot %s address %s port %u: %s%s\n", step,
		o->address, o->port, strerror(errno), hint);
	exit(1);
}

/*
 * @cpu: the CPU of the listener's thread, if each has its own, else -1. Among
 * listeners of one port the kernel prefers the one whose SO_INCOMING_CPU is the
 * CPU that received the SYN: what a careful user of SO_REUSEPORT does today.
 */
static int open_listener(struct options *o, int cpu)
{
	const struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
	};
	struct sockaddr_storage bound;
	socklen_t len = sizeof(bound);
	struct addrinfo *found;
	const int on = 1;
	char port[8];
	int fd, err;

	snprintf(port, sizeof(port), "%u", o->port);
	err = getaddrinfo(o->address, port, &hints, &found);
	if (err)
		usage_error("--address: '%s': %s", o->address, gai_strerror(err));
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* Accepted sockets inherit TCP_NODELAY: no interface pays for it. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    (cpu >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0 ||
			  setsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, sizeof(cpu)) < 0)))
		die_listening(o, "make a socket for");
	if (bind(fd, found->ai_addr, found->ai_addrlen) < 0)
		die_listening(o, "bind");
	if (listen(fd, o->backlog) < 0 || getsockname(fd, (struct sockaddr *)&bound, &len) < 0)
		die_listening(o, "listen on");
	freeaddrinfo(found);
	/* Both families keep the port at the same place. */
	o->port = ntohs(((struct sockaddr_in *)&bound)->sin_port);
	return fd;
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die(1, "getrlimit", errno);
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		die(1, "setrlimit", errno);
}

static int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return -pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;

	w->error = pin(w->cpu);
	if (!w->error)
		w->error = w->api->open(w);
	pthread_barrier_wait(&server.opened);
	if (!w->error)
		w->api->run(w);
	return NULL;
}

static void start_workers(void)
{
	struct options *o = &server.options;
	char what[160];
	int err;

	server.workers = aligned_alloc(_Alignof(struct worker),
				       o->threads * sizeof(struct worker));
	if (!server.workers)
		die(1, "cannot start", ENOMEM);
	memset(server.workers, 0, o->threads * sizeof(struct worker));
	pthread_barrier_init(&server.opened, NULL, o->threads + 1);
	for (unsigned int i = 0; i < o->threads; i++) {
		struct worker *w = &server.workers[i];

		w->options = o;
		w->api = server.api;
		w->index = i;
		w->slow_work = i ? 0 : o->slow_work;
		w->cpu = o->cpus[i];
		/* By now the port is known, whatever was asked for. */
		w->listener = i && server.api->own_listeners ? open_listener(o, w->cpu) :
							       server.listener;
		w->stop_fd = server.stop_fd;
		err = pthread_create(&w->thread, NULL, worker_thread, w);
		if (err)
			die(1, "cannot start a thread", err);
	}
	pthread_barrier_wait(&server.opened);
	for (unsigned int i = 0; i < o->threads; i++) {
		err = -server.workers[i].error;
		if (!err)
			continue;
		snprintf(what, sizeof(what), "--api %s is not to be had on CPU %d%s", o->api,
			 server.workers[i].cpu,
			 err == ENOENT ? " (only a kernel with its patch has it)" : "");
		die(err == ENOENT || err == EACCES ? EXIT_SKIPPED : 1, what, err);
	}
}

static void stop_workers(void)
{
	const uint64_t one = 1;

	if (write(server.stop_fd, &one, sizeof(one)) < 0)
		die(1, "eventfd", errno);
	for (unsigned int i = 0; i < server.options.threads; i++)
		pthread_join(server.workers[i].thread, NULL);
}

static int64_t time_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* Flushed at once: whoever waits for the line acts on it. */
static void end_line(void)
{
	puts("}");
	if (fflush(stdout) == EOF)
		die(1, "standard output", errno);
}

static const char *yes(bool flag)
{
	return flag ? "true" : "false";
}

static void print_ready(void)
{
	const struct options *o = &server.options;

	printf("{\"event\":\"ready\",\"time_ns\":%" PRId64 ",\"pid\":%d,\"api\":\"%s\","
	       "\"address\":\"%s\",\"port\":%u,\"size\":%u,\"backlog\":%u,\"threads\":%u,"
	       "\"cpus\":[", time_ns(), getpid(), o->api, o->address, o->port, o->size,
	       o->backlog, o->threads);
	for (unsigned int i = 0; i < o->threads; i++)
		printf("%s%d", i ? "," : "", o->cpus[i]);
	putchar(']');
	if (server.api->has_channels)
		printf(",\"partition\":%s,\"batch\":%u,\"lwsocket\":%s", yes(o->partition),
		       o->batch, yes(o->lwsocket));
	end_line();
}

static uint64_t value(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void print_counters(const char *event)
{
	const bool foreign = server.api->knows_foreign || server.options.count_foreign;

	printf("{\"event\":\"%s\",\"time_ns\":%" PRId64 ",\"threads\":[", event, time_ns());
	for (unsigned int i = 0; i < server.options.threads; i++) {
		struct worker *w = &server.workers[i];
		const struct counters *c = &w->counters;

		if (server.api->refresh)
			server.api->refresh(w);
		printf("%s{\"cpu\":%d,\"connections\":%" PRIu64 ",\"transactions\":%" PRIu64
		       ",\"errors\":%" PRIu64 ",\"syscalls\":%" PRIu64 ",\"foreign_accepts\":",
		       i ? "," : "", w->cpu, value(&c->connections), value(&c->transactions),
		       value(&c->errors), value(&c->syscalls) + value(&c->dispatches));
		if (foreign)
			printf("%" PRIu64 "}", value(&c->foreign_accepts));
		else
			printf("null}");
	}
	putchar(']');
	end_line();
}

/* Blocked in all threads; main alone takes them, one after another. */
static void set_up_signals(sigset_t *set)
{
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(set);
	sigaddset(set, SIGUSR1);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	pthread_sigmask(SIG_BLOCK, set, NULL);
}

int main(int argc, char **argv)
{
	sigset_t set;
	int signal;

	options_parse(&server.options, argc, argv, api_names());
	server.api = find_api(&server.options);
	if (server.api->only_descriptors)
		server.options.lwsocket = false;
	set_up_signals(&set);
	raise_file_limit();
	server.stop_fd = eventfd(0, EFD_CLOEXEC);
	if (server.stop_fd < 0)
		die(1, "eventfd", errno);
	server.listener = open_listener(&server.options,
					server.api->own_listeners ? server.options.cpus[0] : -1);
	start_workers();
	print_ready();

	for (;;) {
		if (sigwait(&set, &signal))
			continue;
		if (signal != SIGUSR1)
			break;
		print_counters("counters");
	}
	stop_workers();
	print_counters("final");
	for (unsigned int i = 0; i < server.options.threads; i++)
		server.api->close(&server.workers[i]);
	free(server.workers);
	return 0;
}
