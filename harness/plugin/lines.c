// SPDX-License-Identifier: MIT
/*
 * liblines.so: counts changes of writer of the kernel's cache lines, by line and by function.
 *
 * For every line of 64 bytes in the kernel's half of the addresses it remembers which vCPU wrote
 * there last. A store by another one is a change of writer: on real hardware the line must travel
 * from one core to the other. That shows contention on a machine whose vCPUs share few cores;
 * more true concurrency can only add changes.
 *
 * Two tables, both without locks:
 *
 *   pages   which vCPU wrote last, a byte for each line; found by the number of the page
 *   lines   of those that changed their writer: how often, to which vCPU and by which function;
 *           in the shared file, see lines.h
 *
 * A store by a helper, such as a lock's, counts for the function that has called it.
 * Which one that is, the vCPU's last store by another function tells: the call itself is one, for
 * it puts the return address on the stack.
 *
 * Entries are made by compare-and-swap and stay until a reader clears the file. The last writer of a line is a race when two
 * vCPUs store at once, as it is on hardware. What finds no room is counted in the header.
 *
 * Usage: -plugin liblines.so,out=FILE,map=SYSTEM.MAP[,from=ADDRESS]
 * from: the lowest address that counts, of lines and of code; the kernel's half if not given.
 */
#define _GNU_SOURCE
#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "qemu_plugin.h"
#include "symbols.h"
#include "version.h"

#define KERNEL_HALF (UINT64_C(1) << 63)
#define LINE_SHIFT 6
#define PAGE_SHIFT 12
#define LINES_OF_PAGE (1 << (PAGE_SHIFT - LINE_SHIFT))

/* Powers of two. Both tables take memory only as entries come. */
#define PAGES (1u << 21)		/* pages ever written: 8 GiB of them */
#define LINES (1u << 19)
/* Places looked at before a key is given up */
#define PROBES 64

struct page {
	uint64_t number;		/* 0: free */
	uint8_t last[LINES_OF_PAGE];	/* the vCPU that wrote last, plus 1; or 0 */
};

/* Functions that say nothing about what they write to; a star stands for any end. */
static const char *const helpers[] = {
	"_raw_*", "native_queued_*", "queued_*", "__pv_queued_*", "mutex_*", "__mutex_*", "memcpy*",
	"__memcpy*", "memset*", "__memset*", "memmove*", "rep_movs_*", "rep_stos_*", "llist_*",
	"percpu_counter_*", "refcount_*", "rcuref_*", "__x86_*", "rb_*", "__list_*", "iowrite*",
};

/* As callbacks get a function: the low half of its address, and whether it is a helper. */
#define HELPS (UINT64_C(1) << 32)

struct vcpu {
	uint32_t caller;	/* the function of its last store, helpers' left out */
} __attribute__((aligned(64)));

PLUGIN_EXPORT int qemu_plugin_version;

static struct {
	struct symbols symbols;
	struct vcpu *vcpus;
	struct page *pages;
	struct lines_header *header;
	char *lines;
	uint64_t from;
} plugin = { .from = KERNEL_HALF };

static inline uint64_t hash(uint64_t key)
{
	return (key * UINT64_C(0x9e3779b97f4a7c15)) >> 32;
}

/* Is this the key's place? It is if it was free, too. */
static inline bool claim(uint64_t *place, uint64_t key)
{
	uint64_t there = __atomic_load_n(place, __ATOMIC_RELAXED);

	if (!there)
		__atomic_compare_exchange_n(place, &there, key, false, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED);
	return !there || there == key;
}

static struct page *find_page(uint64_t number)
{
	uint64_t first = hash(number);

	for (unsigned int i = 0; i < PROBES; i++) {
		struct page *page = &plugin.pages[(first + i) % PAGES];

		if (claim(&page->number, number))
			return page;
	}
	__atomic_fetch_add(&plugin.header->lost_pages, 1, __ATOMIC_RELAXED);
	return NULL;
}

static struct line *find_line(uint64_t address)
{
	uint64_t first = hash(address);

	for (unsigned int i = 0; i < PROBES; i++) {
		struct line *line = (struct line *)(plugin.lines + (first + i) % LINES *
						    plugin.header->line_size);

		if (claim(&line->address, address))
			return line;
	}
	__atomic_fetch_add(&plugin.header->lost_lines, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* The last place is everybody else's. */
static void count_function(struct line *line, uint32_t function)
{
	for (unsigned int i = 0; i < LINE_FUNCTIONS; i++) {
		uint32_t wanted = i + 1 < LINE_FUNCTIONS ? function : FUNCTION_OTHERS;
		uint32_t there = __atomic_load_n(&line->by_function[i].function, __ATOMIC_RELAXED);

		if (!there)
			__atomic_compare_exchange_n(&line->by_function[i].function, &there, wanted,
						    false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
		if (!there || there == wanted) {
			__atomic_fetch_add(&line->by_function[i].changes, 1, __ATOMIC_RELAXED);
			return;
		}
	}
}

static void on_access(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t address,
		      void *by)
{
	const uint8_t me = vcpu + 1;
	uint32_t *caller = &plugin.vcpus[vcpu].caller;
	struct page *page;
	struct line *line;
	uint8_t *last, before;

	/* QEMU 7.2 lets loads through when asked for stores. */
	if (!qemu_plugin_mem_is_store(info) || address < plugin.from)
		return;
	if (!((uintptr_t)by & HELPS))
		*caller = (uintptr_t)by;
	page = find_page(address >> PAGE_SHIFT);
	if (!page)
		return;
	last = &page->last[address >> LINE_SHIFT & (LINES_OF_PAGE - 1)];
	before = __atomic_load_n(last, __ATOMIC_RELAXED);
	if (before == me)
		return;
	__atomic_store_n(last, me, __ATOMIC_RELAXED);
	if (!before)
		return;
	line = find_line(address >> LINE_SHIFT << LINE_SHIFT);
	if (!line)
		return;
	/* Its own vCPU's alone: no need for a locked instruction. */
	__atomic_store_n(&line->by_vcpu[vcpu], line->by_vcpu[vcpu] + 1, __ATOMIC_RELAXED);
	count_function(line, *caller);
}

static bool is_helper(const char *name)
{
	for (size_t i = 0; i < sizeof(helpers) / sizeof(helpers[0]); i++) {
		size_t length = strlen(helpers[i]) - 1;

		if (!strncmp(name, helpers[i], length))
			return true;
	}
	return false;
}

/* The kernel's code lies within 2 GiB: the low half of an address tells a function. */
static uintptr_t function_of(const struct qemu_plugin_insn *insn)
{
	const struct function *function =
		symbols_find(&plugin.symbols, qemu_plugin_insn_vaddr(insn));

	if (!function)
		return FUNCTION_OTHERS;
	return (uint32_t)function->address | (is_helper(function->name) ? HELPS : 0);
}

static void instrument_block(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t length = qemu_plugin_tb_n_insns(tb);

	(void)id;
	if (qemu_plugin_tb_vaddr(tb) < plugin.from)
		return;
	for (size_t i = 0; i < length; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS,
						 QEMU_PLUGIN_MEM_W,
						 (void *)function_of(insn));
	}
}

static int fail(const char *what, const char *path, int error)
{
	fprintf(stderr, "liblines: %s%s%s%s%s\n", what, path ? " " : "", path ? path : "",
		error ? ": " : "", error ? strerror(error) : "");
	return -1;
}

/* Gives the file its blocks now: with none left, the counters would die of SIGBUS later. */
static int map_file(const char *path, size_t size, void **map)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int error;

	if (fd < 0)
		return errno;
	error = posix_fallocate(fd, 0, size);
	if (!error) {
		*map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		error = *map == MAP_FAILED ? errno : 0;
	}
	close(fd);
	if (error)
		unlink(path);
	return error;
}

static int create_tables(const char *path, unsigned int vcpus)
{
	struct lines_header header = {
		.version = LINES_VERSION,
		.header_size = sizeof(header),
		.vcpus = vcpus,
		.functions = LINE_FUNCTIONS,
		.lines_offset = sizeof(header),
		.line_size = (sizeof(struct line) + vcpus * sizeof(uint32_t) + 7) & -8ul,
		.lines = LINES,
	};
	struct timespec now;
	void *map = NULL;
	int error;

	memcpy(header.magic, LINES_MAGIC, sizeof(header.magic));
	clock_gettime(CLOCK_REALTIME, &now);
	header.run_id = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	plugin.pages = mmap(NULL, sizeof(struct page) * PAGES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (plugin.pages == MAP_FAILED)
		return errno;
	plugin.vcpus = aligned_alloc(sizeof(struct vcpu), vcpus * sizeof(struct vcpu));
	if (!plugin.vcpus)
		return errno;
	memset(plugin.vcpus, 0, vcpus * sizeof(struct vcpu));
	error = map_file(path, header.lines_offset + header.line_size * LINES, &map);
	if (error)
		return error;
	plugin.header = map;
	plugin.lines = (char *)map + header.lines_offset;
	*plugin.header = header;
	return 0;
}

static const char *value_of(const char *argument, const char *key)
{
	size_t length = strlen(key);

	return !strncmp(argument, key, length) && argument[length] == '=' ?
		argument + length + 1 : NULL;
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	const char *out = NULL, *map = NULL;
	size_t line;
	int error;

	if (strcmp(info->target_name, "x86_64") || !info->system_emulation)
		return fail("counts only in qemu-system-x86_64", NULL, 0);
	for (int i = 0; i < argc; i++) {
		if (value_of(argv[i], "out"))
			out = value_of(argv[i], "out");
		else if (value_of(argv[i], "map"))
			map = value_of(argv[i], "map");
		else if (value_of(argv[i], "from"))
			plugin.from = strtoull(value_of(argv[i], "from"), NULL, 0);
		else
			return fail("known are out=FILE, map=SYSTEM.MAP, from=ADDRESS, not",
				    argv[i], 0);
	}
	if (!out || !map)
		return fail("needs out=FILE and map=SYSTEM.MAP", NULL, 0);
	if (info->system.max_vcpus > UINT8_MAX - 1)
		return fail("too many vCPUs", NULL, 0);
	error = -symbols_load(&plugin.symbols, map, &line);
	if (error)
		return fail("cannot use map", map, error);
	error = create_tables(out, info->system.max_vcpus);
	if (error) {
		symbols_free(&plugin.symbols);
		return fail("cannot make", out, error);
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, instrument_block);
	return 0;
}
