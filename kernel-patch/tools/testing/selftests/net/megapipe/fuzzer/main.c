// SPDX-License-Identifier: GPL-2.0-only
/*
 * The supervisor: it starts workers, kills some, and says what became of it.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "fuzz.h"

struct totals *totals;
uint64_t seed, wanted;
unsigned int nr_workers = 2, nr_channels = 2, nr_threads = 2;
int listen_fds[NR_LISTENERS];
struct mp_addr listen_addrs[NR_LISTENERS];

static pid_t start_worker(unsigned int number)
{
	pid_t pid;

	fflush(stdout);
	pid = mp_must(fork());
	if (!pid)
		run_worker(number);
	return pid;
}

/* Run workers, ending some of them early, until enough is done. */
static bool supervise(void)
{
	unsigned int started = 0, i;
	uint64_t rng = seed, said = 0;
	long long begun = mp_now_ns();
	pid_t pids[MAX_THREADS] = {};
	int status;

	for (i = 0; i < nr_workers; i++)
		pids[i] = start_worker(started++);
	while (totals->commands < wanted && !totals->broken) {
		usleep(100000);
		i = next_random(&rng) % nr_workers;
		/* Each lives for some seconds; kill it at any of its moments. */
		if (next_random(&rng) % 64 == 0)
			kill(pids[i], SIGKILL);
		for (i = 0; i < nr_workers; i++) {
			if (waitpid(pids[i], &status, WNOHANG) != pids[i])
				continue;
			if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
				totals->killed++;
			} else if (WIFEXITED(status) && !WEXITSTATUS(status)) {
				totals->ended++;
			} else {
				broken("worker's status", status);
				return false;
			}
			pids[i] = start_worker(started++);
		}
		if (totals->commands - said >= 500000) {
			said = totals->commands;
			printf("# %llu commands, %lld per second\n",
			       (unsigned long long)said, (long long)said *
			       1000000000LL / (mp_now_ns() - begun));
			fflush(stdout);
		}
	}
	for (i = 0; i < nr_workers; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], &status, 0);
	}
	printf("# %llu commands in %lld s, %llu workers killed, %llu ended\n",
	       (unsigned long long)totals->commands,
	       (mp_now_ns() - begun) / 1000000000LL,
	       (unsigned long long)totals->killed,
	       (unsigned long long)totals->ended);
	return !totals->broken;
}

/* Sockets of this network namespace that exist, TCP's among them */
static long sockets_used(void)
{
	FILE *file = fopen("/proc/net/sockstat", "r");
	long used = -1;

	if (!file || fscanf(file, "sockets: used %ld", &used) != 1)
		mp_die("/proc/net/sockstat");
	fclose(file);
	return used;
}

/* Handles that the user has, where the kernel counts them */
static long handles_used(void)
{
	int channel = mp_open();
	long used = mp_info(channel).user_handles;

	close(channel);
	return used;
}

/* Everything back: what was killed is cleaned up after it is gone. */
static bool all_back(long sockets, long handles)
{
	long long deadline = mp_now_ns() + 3 * MP_DEADLINE_NS;

	while (sockets_used() > sockets || handles_used() > handles) {
		if (mp_now_ns() > deadline) {
			printf("# sockets %ld, before %ld; handles %ld, before %ld\n",
			       sockets_used(), sockets, handles_used(), handles);
			return false;
		}
		usleep(200000);
	}
	return true;
}

static void parse(int argc, char **argv)
{
	int i;

	for (i = 1; i + 1 < argc; i += 2) {
		unsigned long long value = strtoull(argv[i + 1], NULL, 0);

		if (!strcmp(argv[i], "--seed"))
			seed = value;
		else if (!strcmp(argv[i], "--commands"))
			wanted = value;
		else if (!strcmp(argv[i], "--workers"))
			nr_workers = value;
		else if (!strcmp(argv[i], "--channels"))
			nr_channels = value;
		else if (!strcmp(argv[i], "--threads"))
			nr_threads = value;
		else
			break;
	}
	if (i < argc || !nr_workers || !nr_channels || !nr_threads ||
	    nr_workers > MAX_THREADS ||
	    nr_channels * nr_threads > MAX_THREADS) {
		fprintf(stderr, "usage: fuzz [--seed N] [--commands N] [--workers N] [--channels N] [--threads N]\n");
		exit(2);
	}
}

static bool test_result(unsigned int number, bool good, const char *claim)
{
	printf("%s %u %s\n", good ? "ok" : "not ok", number, claim);
	return good;
}

int main(int argc, char **argv)
{
	struct rlimit files = { 4096, 4096 };
	long sockets, handles;
	bool good = true;
	int i;

	seed = time(NULL);
	wanted = mp_scaled(250000);
	parse(argc, argv);
	close(mp_open());	/* or skip */
	printf("TAP version 13\n1..3\n# seed %llu: --seed %llu --commands %llu --workers %u --channels %u --threads %u\n",
	       (unsigned long long)seed, (unsigned long long)seed,
	       (unsigned long long)wanted, nr_workers, nr_channels, nr_threads);

	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	mp_new_netns();
	totals = mmap(NULL, sizeof(*totals), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sockets = sockets_used();
	handles = handles_used();
	for (i = 0; i < NR_LISTENERS; i++)
		listen_fds[i] = mp_listen(i < 2 ? AF_INET : AF_INET6, 64,
					  &listen_addrs[i]);

	good &= test_result(1, supervise(), "nothing impossible was seen");
	good &= test_result(2, report(), "each command succeeded often enough");
	for (i = 0; i < NR_LISTENERS; i++)
		close(listen_fds[i]);
	good &= test_result(3, all_back(sockets, handles),
			    "sockets and handles are back");
	return good ? 0 : MP_EXIT_FAIL;
}
