// SPDX-License-Identifier: GPL-2.0-only
/*
 * A worker: threads that send batches, and one that wrecks what they use.
 */
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "fuzz.h"

struct channel *channels;
char *hole;
int file_fd, disk_fd, epoll_fd;
static uint64_t share_done, share_wanted;

static void look_at(struct thread *t, const struct megapipe_event *event)
{
	if (event->op >= 256 || event->data || event->res < -4095)
		broken("completion", event->op);
	if (event->op >= NR_OPS)
		return;
	if (event->op == MEGAPIPE_OP_ACCEPT) {
		if (event->res >= 0)
			accepted(t, event);
		if (!(event->flags & MEGAPIPE_EVENT_MORE)) {
			unsigned int i;

			pthread_mutex_lock(&t->channel->lock);
			for (i = 0; i < NR_LISTENERS; i++)
				if (t->channel->listeners[i].handle ==
				    event->handle && event->res != -EBUSY)
					t->channel->listeners[i].accepting = false;
			pthread_mutex_unlock(&t->channel->lock);
		} else {
			return;		/* counted once, at its end */
		}
	}
	if (event->res >= 0)
		count(&totals->ok[event->op], 1);
	else if (-event->res < NR_ERRNO)
		count(&totals->failed[event->op][-event->res], 1);
	else
		broken("error number", event->res);
}

/* A WRITE that goes on as a READ counts as one: so it completes. */
static unsigned int counted_as(const struct megapipe_cmd *cmd)
{
	return cmd->op == MEGAPIPE_OP_WRITE &&
	       cmd->flags & MEGAPIPE_CMD_THEN_READ ? MEGAPIPE_OP_READ : cmd->op;
}

static void send_batch(struct thread *t)
{
	struct megapipe_dispatch dispatch = {
		.cmds = (uintptr_t)t->cmds,
		.nr_cmds = t->nr,
		.events = (uintptr_t)t->events,
		.max_events = one_in(t, 16) ? below(t, 4) : 2 * BATCH,
	};
	static const struct megapipe_event canary = { .data = 0x5a5a5a5a };
	unsigned int i, done;
	sigset_t mask;
	int ret;

	if (one_in(t, 16) && dispatch.max_events) {
		dispatch.min_events = 1;
		dispatch.timeout_ns = below(t, 300000);
	}
	if (one_in(t, 64)) {
		sigfillset(&mask);
		dispatch.sigmask = (uintptr_t)&mask;
		dispatch.sigsetsize = 8;
	}
	t->events[2 * BATCH] = canary;
	ret = call(t->channel, MEGAPIPE_IOC_DISPATCH, &dispatch);
	done = dispatch.done_cmds;
	if (ret < 0 && ret != -EINTR) {
		broken("dispatch", ret);
		return;
	}
	if (done > t->nr || ret > (int)dispatch.max_events ||
	    memcmp(&t->events[2 * BATCH], &canary, sizeof(canary)))
		broken("count of a dispatch", ret);
	for (i = 0; i < done && i < t->nr; i++)
		if (t->cmds[i].op < NR_OPS)
			count(&totals->submitted[counted_as(&t->cmds[i])], 1);
	count(&totals->commands, done);
	__atomic_fetch_add(&share_done, done ?: 1, __ATOMIC_RELAXED);
	for (i = 0; ret > 0 && i < (unsigned int)ret; i++)
		look_at(t, &t->events[i]);
	t->nr = 0;
	t->vectors = 0;
}

static void *run_thread(void *arg)
{
	struct thread *t = arg;

	while (__atomic_load_n(&share_done, __ATOMIC_RELAXED) < share_wanted) {
		unsigned int size = one_in(t, 8) ? 1 + below(t, 4) :
				    BATCH / 2 + below(t, BATCH / 2);

		while (t->nr < size)
			fuzz_pair(t);
		if (one_in(t, 4))
			fuzz_ioctl(t);
		send_batch(t);
	}
	return NULL;
}

/*
 * What happens to a program while the kernel works for it: memory goes, and
 * the other end of a connection, or its own, does what it likes.
 */
static void wreck(uint64_t *rng)
{
	struct channel *channel = &channels[next_random(rng) % nr_channels];
	struct sockaddr reset = { .sa_family = AF_UNSPEC };
	struct pair pair;
	int fd;

	pthread_mutex_lock(&channel->lock);
	pair = channel->pairs[next_random(rng) % NR_PAIRS];
	pthread_mutex_unlock(&channel->lock);
	fd = pair.fd[next_random(rng) % 2];

	switch (next_random(rng) % 4) {
	case 0:
		munmap(hole, HOLE / 2);
		break;
	case 1:
		mprotect(hole, HOLE / 2, PROT_READ);
		break;
	case 2:
		if (pair.kind == TCP)
			connect(fd, &reset, sizeof(reset));
		break;
	case 3:
		if (pair.kind == TCP)
			shutdown(fd, next_random(rng) % 3);
		break;
	}
	usleep(2000);
	mmap(hole, HOLE, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void *reserve(size_t size)
{
	char *memory = mmap(NULL, size + GUARD, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		mp_die("mmap: %s", strerror(errno));
	mp_must(mprotect(memory, size, PROT_READ | PROT_WRITE));
	return memory;
}

static void ignore(int number)
{
}

/* For signalfds: not delivered, unless a dispatch's signal mask lets it in */
static void block_signal(void)
{
	sigset_t mask;

	signal(SIGUSR1, ignore);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	mp_must(sigprocmask(SIG_BLOCK, &mask, NULL));
}

void run_worker(unsigned int number)
{
	unsigned int nr = nr_channels * nr_threads, i;
	struct thread *threads = calloc(nr, sizeof(*threads));
	uint64_t rng = seed ^ (uint64_t)number << 32;
	char *page;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	block_signal();
	channels = calloc(nr_channels, sizeof(*channels));
	hole = reserve(HOLE);
	file_fd = mp_must(memfd_create("fuzz", MFD_CLOEXEC));
	mp_must(ftruncate(file_fd, FILE_SIZE));
	page = mmap(NULL, FILE_SIZE, PROT_WRITE, MAP_SHARED, file_fd, 0);
	memset(page, 'x', FILE_SIZE);
	disk_fd = mp_must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	epoll_fd = mp_must(epoll_create1(EPOLL_CLOEXEC));
	share_wanted = WORKER_COMMANDS;
	if (wanted / nr_workers + 1 < share_wanted)
		share_wanted = wanted / nr_workers + 1;

	for (i = 0; i < nr_channels; i++) {
		channels[i].fd = mp_open();
		pthread_mutex_init(&channels[i].lock, NULL);
	}
	for (i = 0; i < nr; i++) {
		threads[i].channel = &channels[i % nr_channels];
		threads[i].rng = next_random(&rng);
		threads[i].arena = reserve(ARENA);
		if (pthread_create(&threads[i].id, NULL, run_thread, &threads[i]))
			mp_die("pthread_create");
	}
	while (__atomic_load_n(&share_done, __ATOMIC_RELAXED) < share_wanted)
		wreck(&rng);
	for (i = 0; i < nr; i++)
		pthread_join(threads[i].id, NULL);
	_exit(0);
}
