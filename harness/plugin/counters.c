// SPDX-License-Identifier: MIT
/* Lays out, names and maps the file of counters. */
#define _GNU_SOURCE
#include "counters.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* A page: rows of two vCPUs never share a cache line, nor a page of the host. */
#define ROW_ALIGNMENT 4096

struct name {
	char kind;
	const char *text;
};

static const struct name fixed_names[SLOT_FUNCTIONS] = {
	[SLOT_USER] = { 'u', "[user]" },
	[SLOT_OTHER] = { 'k', "[other kernel]" },
	[SLOT_PAUSE] = { 's', "[pause]" },
	[SLOT_TICK] = { 't', "[tick]" },
	[SLOT_IDLE] = { 'i', "[idle]" },
	[SLOT_EVENTS + EVENT_TICK - 1] = { 'e', "ticks" },
	[SLOT_EVENTS + EVENT_SYSCALL - 1] = { 'e', "syscalls" },
	[SLOT_EVENTS + EVENT_INTERRUPT - 1] = { 'e', "interrupts" },
	[SLOT_EVENTS + EVENT_IPI - 1] = { 'e', "ipis" },
	[SLOT_EVENTS + EVENT_PAGE_FAULT - 1] = { 'e', "page_faults" },
	[SLOT_EVENTS + EVENT_SWITCH - 1] = { 'e', "switches" },
	[SLOT_EVENTS + EVENT_WAKEUP - 1] = { 'e', "wakeups" },
	[SLOT_EVENTS + EVENT_DOORBELL - 1] = { 'e', "doorbells" },
	[SLOT_EVENTS + EVENT_PACKET_OUT - 1] = { 'e', "packets_out" },
	[SLOT_EVENTS + EVENT_PACKET_IN - 1] = { 'e', "packets_in" },
};

static size_t names_size(const struct symbols *symbols)
{
	size_t size = 0;

	for (size_t i = 0; i < SLOT_FUNCTIONS; i++)
		size += 1 + strlen(fixed_names[i].text) + 1;
	for (size_t i = 0; i < symbols->count; i++)
		if (symbols->functions[i].is_code)
			size += 1 + strlen(symbols->functions[i].name) + 1;
	return size;
}

static void write_names(char *at, const struct symbols *symbols)
{
	for (size_t i = 0; i < SLOT_FUNCTIONS; i++) {
		*at++ = fixed_names[i].kind;
		at = stpcpy(at, fixed_names[i].text) + 1;
	}
	for (size_t i = 0; i < symbols->count; i++) {
		const struct function *function = &symbols->functions[i];

		if (!function->is_code)
			continue;
		*at++ = function->spins ? 's' : 'k';
		at = stpcpy(at, function->name) + 1;
	}
}

static uint64_t make_run_id(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Gives the file its blocks now: with none left, the counters would die of SIGBUS later. */
static int map_file(struct counters *counters, const char *path)
{
	int fd, error;
	void *map;

	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	error = posix_fallocate(fd, 0, counters->size);
	if (error) {
		close(fd);
		unlink(path);
		return -error;
	}
	map = mmap(NULL, counters->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	error = map == MAP_FAILED ? -errno : 0;
	close(fd);
	if (error) {
		unlink(path);
		return error;
	}
	counters->header = map;
	return 0;
}

int counters_create(struct counters *counters, const char *path, unsigned int vcpus,
		    const struct symbols *symbols)
{
	size_t slots = SLOT_FUNCTIONS + symbols->code_count;
	struct counters_header header = {
		.version = COUNTERS_VERSION,
		.header_size = sizeof(header),
		.vcpus = vcpus,
		.slots = slots,
		.run_id = make_run_id(),
		.rows_offset = ROW_ALIGNMENT,
	};
	char *temporary;
	int error;

	memcpy(header.magic, COUNTERS_MAGIC, sizeof(header.magic));
	header.row_stride = (slots * sizeof(uint64_t) + ROW_ALIGNMENT - 1) & -ROW_ALIGNMENT;
	header.names_offset = header.rows_offset + vcpus * header.row_stride;
	header.names_size = names_size(symbols);
	counters->size = header.names_offset + header.names_size;

	if (asprintf(&temporary, "%s.new", path) < 0)
		return -ENOMEM;
	error = map_file(counters, temporary);
	if (error)
		goto out_free_temporary;
	*counters->header = header;
	write_names((char *)counters->header + header.names_offset, symbols);
	if (rename(temporary, path)) {
		error = -errno;
		munmap(counters->header, counters->size);
		unlink(temporary);
	}
out_free_temporary:
	free(temporary);
	return error;
}

uint64_t *counters_row(const struct counters *counters, unsigned int vcpu)
{
	char *base = (char *)counters->header;

	return (uint64_t *)(base + counters->header->rows_offset +
			    vcpu * counters->header->row_stride);
}
