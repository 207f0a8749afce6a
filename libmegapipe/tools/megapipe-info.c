// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * megapipe-info: has this machine MegaPipe, which one, how much of it, and who
 * uses it?  For people, and with --json for programs.
 *
 *	/dev/megapipe ------ MEGAPIPE_IOC_INFO: version, commands, limits
 *	/proc/PID/task/TID/fd/N ----- is it that device?
 *	/proc/PID/task/TID/fdinfo/N - what the kernel tells of it, "key: value"
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
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/megapipe.h>

#include "megapipe.h"

#define DEVICE		"/dev/megapipe"
#define EXIT_NONE	1	/* the kernel has no MegaPipe */
#define EXIT_USAGE	2
#define EXIT_UNUSABLE	3	/* it has, but not for this user or library */

/* How the answer is written: one table for people, one for programs */
struct format {
	void (*unavailable)(const char *kernel, const char *why);
	void (*available)(const char *kernel, const struct megapipe_info *info);
	void (*channel)(long pid, const char *command, const char *fd);
	void (*field)(const char *key, const char *value);
	void (*channel_end)(void);
	void (*end)(void);
};

static unsigned int nr_channels, nr_fields;

/* ---- For people --------------------------------------------------------- */

static void text_unavailable(const char *kernel, const char *why)
{
	printf("kernel             %s\n", kernel);
	printf("MegaPipe           no: %s\n", why);
}

static void text_available(const char *kernel, const struct megapipe_info *info)
{
	printf("kernel             %s\n", kernel);
	printf("MegaPipe           yes\n");
	printf("ABI version        %u (library: %u)\n", info->abi_version,
	       MEGAPIPE_ABI_VERSION);
	printf("commands           %u (library: %u)\n", info->nr_ops,
	       MEGAPIPE_OP_LAST);
	printf("batch              at most %u\n", info->max_dispatch);
	printf("handles, channel   at most %u\n", info->max_handles);
	printf("handles, user      %" PRIu64 " of at most %" PRIu64 "\n",
	       (uint64_t)info->user_handles, (uint64_t)info->max_user_handles);
}

static void text_channel(long pid, const char *command, const char *fd)
{
	printf("%schannel            %s[%ld], descriptor %s\n",
	       nr_channels ? "" : "\n", command, pid, fd);
}

static void text_field(const char *key, const char *value)
{
	printf("  %-16s %s\n", key, value);
}

static void text_nothing(void)
{
}

static void text_end(void)
{
	if (!nr_channels)
		printf("channels           none, as far as this user may see\n");
}

/* ---- For programs ------------------------------------------------------- */

static void json_string(const char *text)
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

static void json_unavailable(const char *kernel, const char *why)
{
	printf("{\"available\": false, \"kernel\": ");
	json_string(kernel);
	printf(", \"explanation\": ");
	json_string(why);
}

static void json_available(const char *kernel, const struct megapipe_info *info)
{
	printf("{\"available\": true, \"kernel\": ");
	json_string(kernel);
	printf(", \"abi_version\": %u, \"commands\": %u, \"max_batch\": %u",
	       info->abi_version, info->nr_ops, info->max_dispatch);
	printf(", \"max_handles\": %u, \"max_user_handles\": %" PRIu64
	       ", \"user_handles\": %" PRIu64, info->max_handles,
	       (uint64_t)info->max_user_handles, (uint64_t)info->user_handles);
	printf(", \"library\": {\"version\": \"%s\", \"abi_version\": %u, "
	       "\"commands\": %u}, \"channels\": [", MP_VERSION,
	       MEGAPIPE_ABI_VERSION, MEGAPIPE_OP_LAST);
}

static void json_channel(long pid, const char *command, const char *fd)
{
	printf("%s{\"pid\": %ld, \"command\": ", nr_channels ? ", " : "", pid);
	json_string(command);
	printf(", \"fd\": %s, \"fields\": {", fd);
}

static void json_field(const char *key, const char *value)
{
	bool is_number = *value && strspn(value, "0123456789") == strlen(value);

	if (nr_fields)
		printf(", ");
	json_string(key);
	printf(": ");
	if (is_number && (*value != '0' || !value[1]))
		printf("%s", value);
	else
		json_string(value);
}

static void json_channel_end(void)
{
	printf("}}");
}

static void json_end(void)
{
	printf("]");
}

static const struct format text_format = {
	.unavailable	= text_unavailable,
	.available	= text_available,
	.channel	= text_channel,
	.field		= text_field,
	.channel_end	= text_nothing,
	.end		= text_end,
};

static const struct format json_format = {
	.unavailable	= json_unavailable,
	.available	= json_available,
	.channel	= json_channel,
	.field		= json_field,
	.channel_end	= json_channel_end,
	.end		= json_end,
};

/* ---- Looking ------------------------------------------------------------ */

/* What every descriptor has there, and says nothing of the channel */
static bool is_common(const char *key)
{
	static const char *const common[] = { "pos", "flags", "mnt_id", "ino" };
	size_t i;

	for (i = 0; i < sizeof(common) / sizeof(common[0]); i++)
		if (!strcmp(key, common[i]))
			return true;
	return false;
}

static void show_fields(const struct format *format, const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;

	nr_fields = 0;
	while (file && getline(&line, &size, file) > 0) {
		char *value = strchr(line, ':');

		if (!value)
			continue;
		*value++ = '\0';
		value += strspn(value, " \t");
		value[strcspn(value, "\n")] = '\0';
		if (is_common(line))
			continue;
		format->field(line, value);
		nr_fields++;
	}
	free(line);
	if (file)
		fclose(file);
}

static void read_command(long pid, char *command, int size)
{
	char path[64];
	FILE *file;

	snprintf(command, (size_t)size, "?");
	snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
	file = fopen(path, "re");
	if (!file)
		return;
	if (fgets(command, size, file))
		command[strcspn(command, "\n")] = '\0';
	fclose(file);
}

/* Returns whether the thread has descriptors: one that has ended has none. */
static bool show_channels_of_thread(const struct format *format, long pid,
				    const char *task, dev_t device)
{
	char path[400], command[64];
	struct dirent *entry;
	struct stat status;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/fd", task);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		found = true;
		snprintf(path, sizeof(path), "%s/fd/%s", task, entry->d_name);
		if (stat(path, &status) || !S_ISCHR(status.st_mode) ||
		    status.st_rdev != device)
			continue;
		read_command(pid, command, sizeof(command));
		snprintf(path, sizeof(path), "%s/fdinfo/%s", task,
			 entry->d_name);
		format->channel(pid, command, entry->d_name);
		show_fields(format, path);
		format->channel_end();
		nr_channels++;
	}
	if (dir)
		closedir(dir);
	return found;
}

/*
 * The threads have the same descriptors, so one of them will do; but /proc/PID/fd
 * is that of the first thread, which may have ended.
 */
static void show_channels_of(const struct format *format, long pid, dev_t device)
{
	struct dirent *entry;
	bool found = false;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%ld/task", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%ld/task/%ld", pid,
			 atol(entry->d_name));
		found = show_channels_of_thread(format, pid, path, device);
	}
	if (dir)
		closedir(dir);
}

static void show_channels(const struct format *format)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	struct stat status;

	if (stat(DEVICE, &status))
		status.st_rdev = 0;
	while (dir && (entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]))
			show_channels_of(format, atol(entry->d_name),
					 status.st_rdev);
	if (dir)
		closedir(dir);
}

/* The kernel's answer, be it one that the library cannot use; -errno */
static int ask(struct megapipe_info *info)
{
	struct mp_channel *channel;
	int err = mp_create(&channel);
	int fd = -1;

	if (!err)
		fd = mp_fd(channel);
	else if (err == -EPROTO)
		fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, MEGAPIPE_IOC_INFO, info) < 0)
		memset(info, 0, sizeof(*info));
	if (!err)
		mp_destroy(channel);
	else if (fd >= 0)
		close(fd);
	return err;
}

static int show(const struct format *format)
{
	struct megapipe_info info = { 0 };
	char kernel[140], why[MP_EXPLAIN_SIZE];
	struct utsname name;
	int err = ask(&info);

	uname(&name);
	snprintf(kernel, sizeof(kernel), "%s %s", name.sysname, name.release);
	if (err) {
		format->unavailable(kernel, mp_explain(err, why, sizeof(why)));
		return err == -ENOENT ? EXIT_NONE : EXIT_UNUSABLE;
	}
	format->available(kernel, &info);
	show_channels(format);
	format->end();
	return 0;
}

static int show_usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: megapipe-info [--json]\n"
		"Show whether this machine has MegaPipe, its version and limits, and the live\n"
		"channels. Exit status: 0 it has; 1 the kernel has none; 3 it cannot be used by\n"
		"this user or this library; 2 wrong usage. See megapipe-info(1).\n");
	return status;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	const struct format *format = &text_format;
	int option, status;

	while ((option = getopt_long(argc, argv, "jhV", options, NULL)) != -1) {
		switch (option) {
		case 'j':
			format = &json_format;
			break;
		case 'h':
			return show_usage(0);
		case 'V':
			printf("megapipe-info %s\n", MP_VERSION);
			return 0;
		default:
			return show_usage(EXIT_USAGE);
		}
	}
	if (optind != argc)
		return show_usage(EXIT_USAGE);
	status = show(format);
	if (format == &json_format)
		printf("}\n");
	if (fflush(stdout) || ferror(stdout)) {
		perror("megapipe-info");
		return EXIT_UNUSABLE;
	}
	return status;
}
