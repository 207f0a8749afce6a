// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * megapipe-top: what the channels of this machine do, per second, from the
 * counters that the kernel shows in /proc/PID/task/TID/fdinfo.
 *
 * Only channels of processes that the user may look at are seen: one's own, or
 * with CAP_SYS_PTRACE all.  A descriptor of a channel that was inherited by
 * fork() is the same channel, which is shown once.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEVICE		"megapipe"
#define EXIT_NONE	1
#define EXIT_USAGE	2

/* The counters, in the order of struct sample.value */
enum counter {
	ID, HANDLES, LWSOCKETS, LISTENERS, PARTITIONS, DISPATCHES, COMMANDS,
	COMPLETIONS, SLEEPS, ACCEPTS, FOREIGN, MIGRATED,
	NR_COUNTERS,
};

static const char *const keys[NR_COUNTERS] = {
	[ID] = "channel",
	[HANDLES] = "handles",
	[LWSOCKETS] = "lwsockets",
	[LISTENERS] = "listeners",
	[PARTITIONS] = "partitions",
	[DISPATCHES] = "dispatches",
	[COMMANDS] = "commands",
	[COMPLETIONS] = "completions",
	[SLEEPS] = "sleeps",
	[ACCEPTS] = "accepts",
	[FOREIGN] = "accepts_foreign",
	[MIGRATED] = "migrated_in",
};

/* One channel at one moment */
struct sample {
	long		pid;
	long		fd;
	char		command[17];
	uint64_t	value[NR_COUNTERS];
};

/* All channels at one moment, by number */
struct snapshot {
	struct sample	*samples;
	size_t		nr, room;
	double		seconds;	/* when */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The whole of a small file, or false */
static bool slurp(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, size - 1);
	close(fd);
	if (n < 0)
		return false;
	text[n] = 0;
	return true;
}

/* Is it a channel?  Fills in the counters. */
static bool parse(char *text, struct sample *sample)
{
	char *line, *save = NULL, *value;
	bool channel = false;
	int i;

	for (line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		value = strchr(line, ':');
		if (!value)
			continue;
		*value++ = 0;
		for (i = 0; i < NR_COUNTERS; i++)
			if (!strcmp(line, keys[i]))
				sample->value[i] = strtoull(value, NULL, 10);
		channel |= !strcmp(line, keys[ID]);
	}
	return channel;
}

static void add(struct snapshot *shot, const struct sample *sample)
{
	if (shot->nr == shot->room) {
		shot->room = shot->room ? 2 * shot->room : 64;
		shot->samples = realloc(shot->samples,
					shot->room * sizeof(*sample));
		if (!shot->samples) {
			perror("megapipe-top");
			exit(EXIT_NONE);
		}
	}
	shot->samples[shot->nr++] = *sample;
}

static bool is_number(const char *name)
{
	return isdigit((unsigned char)*name);
}

static bool is_channel(int fds, const char *name)
{
	char target[256];
	ssize_t n = readlinkat(fds, name, target, sizeof(target) - 1);
	const char *last;

	if (n < 0)
		return false;
	target[n] = 0;
	last = strrchr(target, '/');
	return last && !strcmp(last + 1, DEVICE);
}

static void scan_fd(struct snapshot *shot, const char *pid, const char *task,
		    const char *fd)
{
	struct sample sample = { 0 };
	char path[512], text[4096];

	snprintf(path, sizeof(path), "%.300s/fdinfo/%.32s", task, fd);
	if (!slurp(path, text, sizeof(text)) || !parse(text, &sample))
		return;
	sample.pid = strtol(pid, NULL, 10);
	sample.fd = strtol(fd, NULL, 10);
	snprintf(path, sizeof(path), "/proc/%.32s/comm", pid);
	if (slurp(path, text, sizeof(text))) {
		text[strcspn(text, "\n")] = 0;
		snprintf(sample.command, sizeof(sample.command), "%.16s", text);
	}
	add(shot, &sample);
}

/* Returns whether the thread has descriptors: one that has ended has none. */
static bool scan_thread(struct snapshot *shot, const char *pid, const char *task)
{
	struct dirent *entry;
	bool found = false;
	char path[320];
	DIR *fds;

	snprintf(path, sizeof(path), "%.300s/fd", task);
	fds = opendir(path);
	if (!fds)
		return false;	/* not ours to see, or gone */
	while ((entry = readdir(fds))) {
		if (!is_number(entry->d_name))
			continue;
		found = true;
		if (is_channel(dirfd(fds), entry->d_name))
			scan_fd(shot, pid, task, entry->d_name);
	}
	closedir(fds);
	return found;
}

/*
 * The threads have the same descriptors, so one of them will do; but /proc/PID/fd
 * is that of the first thread, which may have ended.
 */
static void scan_process(struct snapshot *shot, const char *pid)
{
	struct dirent *entry;
	bool found = false;
	char path[300];
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%.32s/task", pid);
	tasks = opendir(path);
	while (tasks && !found && (entry = readdir(tasks))) {
		if (!is_number(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/proc/%.32s/task/%.32s", pid,
			 entry->d_name);
		found = scan_thread(shot, pid, path);
	}
	if (tasks)
		closedir(tasks);
}

/* By number of the channel, and then the process that was first */
static int compare(const void *a, const void *b)
{
	const struct sample *x = a, *y = b;

	if (x->value[ID] != y->value[ID])
		return x->value[ID] < y->value[ID] ? -1 : 1;
	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static void scan(struct snapshot *shot)
{
	struct dirent *entry;
	DIR *proc;
	size_t i, n;

	shot->nr = 0;
	shot->seconds = now();
	proc = opendir("/proc");
	if (!proc) {
		perror("megapipe-top: /proc");
		exit(EXIT_NONE);
	}
	while ((entry = readdir(proc)))
		if (is_number(entry->d_name))
			scan_process(shot, entry->d_name);
	closedir(proc);

	if (!shot->nr)
		return;
	qsort(shot->samples, shot->nr, sizeof(*shot->samples), compare);
	for (i = 1, n = 1; i < shot->nr; i++)
		if (shot->samples[i].value[ID] != shot->samples[n - 1].value[ID])
			shot->samples[n++] = shot->samples[i];
	shot->nr = n;
}

/* The same channel before, or one of zeros: it was opened in between */
static const struct sample *before(const struct snapshot *shot,
				   const struct sample *sample)
{
	static const struct sample none;
	size_t i;

	for (i = 0; i < shot->nr; i++)
		if (shot->samples[i].value[ID] == sample->value[ID])
			return &shot->samples[i];
	return &none;
}

/* What one line shows.  Rates are of the time since the last look. */
struct line {
	const struct sample	*sample;
	double			accepts, foreign, commands, completions, migrated;
	double			depth;	/* completions per dispatch */
};

static double change(const struct sample *from, const struct sample *to,
		     enum counter counter)
{
	return (double)(to->value[counter] - from->value[counter]);
}

static struct line rates(const struct sample *from, const struct sample *to,
			 double seconds)
{
	double dispatches = change(from, to, DISPATCHES);

	return (struct line){
		.sample = to,
		.accepts = change(from, to, ACCEPTS) / seconds,
		.foreign = change(from, to, FOREIGN) / seconds,
		.commands = change(from, to, COMMANDS) / seconds,
		.completions = change(from, to, COMPLETIONS) / seconds,
		.migrated = change(from, to, MIGRATED) / seconds,
		.depth = dispatches > 0 ?
			 change(from, to, COMPLETIONS) / dispatches : 0,
	};
}

static void print_text(const struct line *l)
{
	const uint64_t *v = l->sample->value;

	printf("%7ld %-15s %4ld %7" PRIu64 " %9.0f %9.0f %10.0f %10.0f %7.1f"
	       " %7.0f %8" PRIu64 " %8" PRIu64 " %4" PRIu64 "\n",
	       l->sample->pid, l->sample->command, l->sample->fd, v[ID],
	       l->accepts, l->foreign, l->commands, l->completions, l->depth,
	       l->migrated, v[LWSOCKETS], v[HANDLES], v[PARTITIONS]);
}

static void print_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;

		if (byte == '"' || byte == '\\')
			printf("\\%c", byte);
		else if (byte < ' ' || byte > '~')
			printf("\\u%04x", byte);
		else
			putchar(byte);
	}
	putchar('"');
}

static void print_json(const struct line *l, bool first)
{
	int i;

	printf("%s{\"pid\":%ld,\"fd\":%ld,\"command\":", first ? "" : ",",
	       l->sample->pid, l->sample->fd);
	print_string(l->sample->command);
	printf(",\"accepts_s\":%.3f,\"accepts_foreign_s\":%.3f,"
	       "\"commands_s\":%.3f,\"completions_s\":%.3f,"
	       "\"migrated_in_s\":%.3f,\"completions_per_dispatch\":%.3f",
	       l->accepts, l->foreign, l->commands, l->completions,
	       l->migrated, l->depth);
	for (i = 0; i < NR_COUNTERS; i++)
		printf(",\"%s\":%" PRIu64, keys[i], l->sample->value[i]);
	putchar('}');
}

static void show(const struct snapshot *old, const struct snapshot *new,
		 bool json)
{
	double seconds = new->seconds - old->seconds;
	struct line line;
	size_t i;

	if (json) {
		printf("{\"seconds\":%.3f,\"channels\":[", seconds);
	} else {
		if (isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		printf("%7s %-15s %4s %7s %9s %9s %10s %10s %7s %7s %8s %8s"
		       " %4s\n", "PID", "COMMAND", "FD", "CHANNEL", "ACCEPT/s",
		       "FOREIGN/s", "COMMAND/s", "COMPLET/s", "DEPTH", "MIGR/s",
		       "LWSOCKET", "HANDLES", "PART");
	}
	for (i = 0; i < new->nr; i++) {
		line = rates(before(old, &new->samples[i]), &new->samples[i],
			     seconds);
		if (json)
			print_json(&line, !i);
		else
			print_text(&line);
	}
	if (json)
		puts("]}");
	else if (!new->nr)
		puts("no channels that may be looked at");
	fflush(stdout);
}

static void wait_for(double seconds)
{
	struct timespec t = { .tv_sec = (time_t)seconds };

	t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

static void usage(FILE *to)
{
	fputs("usage: megapipe-top [-1] [-d SECONDS] [--json]\n"
	      "Shows what the channels of MegaPipe do, every so often.\n"
	      "\n"
	      "  -1, --once           once, and end\n"
	      "  -d, --delay SECONDS  how often, and of how long the rates are (1)\n"
	      "      --json           one JSON object for each time, on a line\n"
	      "      --help           this text\n"
	      "\n"
	      "Exit status: 0, 1 /proc cannot be read, 2 wrong usage.\n", to);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "once", no_argument, NULL, '1' },
		{ "delay", required_argument, NULL, 'd' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct snapshot shots[2] = {};
	bool once = false, json = false;
	double delay = 1;
	unsigned int turn = 0;
	char *end;
	int option;

	while ((option = getopt_long(argc, argv, "1d:", options, NULL)) != -1) {
		switch (option) {
		case '1':
			once = true;
			break;
		case 'd':
			errno = 0;
			delay = strtod(optarg, &end);
			if (errno || end == optarg || *end ||
			    !(delay >= 0.01 && delay <= 86400)) {
				fprintf(stderr, "megapipe-top: seconds from 0.01 to 86400, not '%s'\n",
					optarg);
				return EXIT_USAGE;
			}
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "megapipe-top: '%s'?\n", argv[optind]);
		usage(stderr);
		return EXIT_USAGE;
	}

	scan(&shots[turn]);
	do {
		wait_for(delay);
		turn = !turn;
		scan(&shots[turn]);
		show(&shots[!turn], &shots[turn], json);
	} while (!once && !ferror(stdout));
	free(shots[0].samples);
	free(shots[1].samples);
	return 0;
}
