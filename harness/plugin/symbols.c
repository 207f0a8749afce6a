// SPDX-License-Identifier: MIT
/*
 * Reads System.map and knows the few functions of Linux 6.12 on x86-64 that count as something
 * other than work. The tables are all the kernel knowledge there is in this plugin.
 */
#include "symbols.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct trait {
	const char *pattern;	/* a name; with a star at its end, all that begin so */
	bool spins;
	bool ticks;
	enum context inside;
	enum context at_entry;
	enum event event;
};

/*
 * The first row that matches counts. Loops that wait inline (csd_lock_wait, timer_delete_sync,
 * seqlock readers, bit locks) have no name; the PAUSE in them gives them away, see insn.c.
 */
static const struct trait traits[] = {
	/* Waiting for a lock whose owner runs elsewhere. */
	{ "native_queued_spin_lock_slowpath", .spins = true },
	{ "queued_spin_lock_slowpath", .spins = true },
	{ "__pv_queued_spin_lock_slowpath", .spins = true },
	{ "queued_read_lock_slowpath", .spins = true },
	{ "queued_write_lock_slowpath", .spins = true },
	{ "virt_spin_lock", .spins = true },
	{ "osq_lock", .spins = true },
	{ "osq_wait_next", .spins = true },
	{ "mutex_optimistic_spin", .spins = true },
	{ "mutex_spin_on_owner", .spins = true },
	{ "rwsem_optimistic_spin", .spins = true },
	{ "rwsem_spin_on_owner", .spins = true },
	{ "rtmutex_spin_on_owner", .spins = true },
	{ "csd_lock_wait", .spins = true },

	/*
	 * The timer interrupt, until it is ready to run soft interrupts: those are work, timers
	 * of TCP among them. On the way back, only its own two functions.
	 */
	{ "asm_sysvec_apic_timer_interrupt", .ticks = true, .at_entry = CONTEXT_TICK,
	  .event = EVENT_TICK },
	{ "sysvec_apic_timer_interrupt", .ticks = true },
	{ "irq_exit_rcu", .at_entry = CONTEXT_WORK },
	/* But this one follows the clock, not the work. */
	{ "sched_balance_softirq", .at_entry = CONTEXT_TICK },
	{ "handle_softirqs", .inside = CONTEXT_WORK },

	/* The idle loop and what it calls, until something is there to do. */
	{ "do_idle", .inside = CONTEXT_IDLE },
	{ "cpu_startup_entry", .inside = CONTEXT_IDLE },
	{ "cpuidle_idle_call", .inside = CONTEXT_IDLE },
	{ "default_idle", .inside = CONTEXT_IDLE },
	{ "default_idle_call", .inside = CONTEXT_IDLE },
	{ "arch_cpu_idle", .inside = CONTEXT_IDLE },
	{ "native_safe_halt", .inside = CONTEXT_IDLE },
	{ "pv_native_safe_halt", .inside = CONTEXT_IDLE },
	{ "mwait_idle", .inside = CONTEXT_IDLE },
	{ "acpi_idle_*", .inside = CONTEXT_IDLE },
	{ "intel_idle*", .inside = CONTEXT_IDLE },
	{ "poll_idle", .inside = CONTEXT_IDLE },
	{ "cpu_idle_poll", .inside = CONTEXT_IDLE },
	{ "cpuidle_enter*", .inside = CONTEXT_IDLE },
	{ "flush_smp_call_function_queue", .at_entry = CONTEXT_WORK },
	{ "schedule_idle", .at_entry = CONTEXT_WORK },

	/* Every other way into the kernel ends the idle loop's turn. */
	{ "entry_SYSCALL_64", .at_entry = CONTEXT_WORK, .event = EVENT_SYSCALL },
	{ "asm_exc_page_fault", .at_entry = CONTEXT_WORK, .event = EVENT_PAGE_FAULT },
	{ "asm_sysvec_reschedule_ipi", .at_entry = CONTEXT_WORK, .event = EVENT_IPI },
	{ "asm_sysvec_call_function", .at_entry = CONTEXT_WORK, .event = EVENT_IPI },
	{ "asm_sysvec_call_function_single", .at_entry = CONTEXT_WORK, .event = EVENT_IPI },
	{ "asm_common_interrupt", .at_entry = CONTEXT_WORK, .event = EVENT_INTERRUPT },
	{ "asm_spurious_interrupt", .at_entry = CONTEXT_WORK },
	{ "asm_sysvec_*", .at_entry = CONTEXT_WORK },
	{ "asm_exc_*", .at_entry = CONTEXT_WORK },

	{ "__switch_to_asm", .event = EVENT_SWITCH },
	/* A thread that slept becomes ready, be it by a call from another CPU. */
	{ "ttwu_do_activate", .event = EVENT_WAKEUP },
	/* virtio: what the guest tells the device, and packets, before any are joined. */
	{ "virtqueue_notify", .event = EVENT_DOORBELL },
	{ "start_xmit", .event = EVENT_PACKET_OUT },
	{ "receive_buf", .event = EVENT_PACKET_IN },
};

static bool matches(const char *name, const char *pattern)
{
	size_t length = strlen(pattern);

	if (pattern[length - 1] == '*')
		return !strncmp(name, pattern, length - 1);
	/* The compiler's clones (.cold, .constprop.0, ...) do the same job. */
	return !strncmp(name, pattern, length) && (name[length] == '\0' || name[length] == '.');
}

static void apply_traits(struct function *function)
{
	for (size_t i = 0; i < sizeof(traits) / sizeof(traits[0]); i++) {
		const struct trait *trait = &traits[i];

		if (!matches(function->name, trait->pattern))
			continue;
		function->spins = trait->spins;
		function->ticks = trait->ticks;
		function->inside = trait->inside;
		/* A clone's first instruction is in the middle of the function. */
		if (strchr(function->name, '.'))
			return;
		function->at_entry = trait->at_entry;
		function->event = trait->event;
		return;
	}
}

/* Where a section begins or ends: an address the linker names, often that of a function too. */
static bool is_marker(const char *name)
{
	static const char *const ends[] = { "text", "text_start", "text_end" };
	size_t length = strlen(name);

	for (size_t i = 0; name[0] == '_' && i < sizeof(ends) / sizeof(ends[0]); i++) {
		size_t end = strlen(ends[i]);

		if (length >= end && !strcmp(name + length - end, ends[i]))
			return true;
	}
	return false;
}

/* Of several names of one address: the one with traits, then a function's, then the shortest. */
static int name_rank(const struct function *function)
{
	if (function->spins || function->ticks || function->inside || function->at_entry ||
	    function->event)
		return 3;
	if (!function->is_code)
		return 0;
	return is_marker(function->name) ? 1 : 2;
}

static int compare(const void *left, const void *right)
{
	const struct function *a = left, *b = right;
	size_t a_length, b_length;

	if (a->address != b->address)
		return a->address < b->address ? -1 : 1;
	if (name_rank(a) != name_rank(b))
		return name_rank(b) - name_rank(a);
	a_length = strlen(a->name);
	b_length = strlen(b->name);
	if (a_length != b_length)
		return a_length < b_length ? -1 : 1;
	return strcmp(a->name, b->name);
}

static int read_text(const char *path, char **text)
{
	FILE *file = fopen(path, "r");
	size_t length = 0, size = 1 << 16;
	char *buffer = NULL, *larger;
	int error = 0;

	if (!file)
		return -errno;
	do {
		size *= 2;
		larger = realloc(buffer, size);
		if (!larger) {
			error = -ENOMEM;
			break;
		}
		buffer = larger;
		length += fread(buffer + length, 1, size - 1 - length, file);
	} while (length == size - 1);
	if (!error && ferror(file))
		error = -EIO;
	fclose(file);
	if (error) {
		free(buffer);
		return error;
	}
	buffer[length] = '\0';
	*text = buffer;
	return 0;
}

/* One line: "ffffffff81000000 T name". Splits it in place. */
static bool parse_line(char *line, struct function *function)
{
	char *type, *name, *end;

	function->address = strtoull(line, &end, 16);
	if (end == line || *end != ' ')
		return false;
	type = end + 1;
	if (!*type || type[1] != ' ' || !type[2])
		return false;
	name = type + 2;
	name[strcspn(name, " \t\r")] = '\0';
	function->name = name;
	/* The padding before a function (__pfx_) ends the one before it and is never run. */
	function->is_code = strchr("tTwW", *type) && strncmp(name, "__pfx_", 6);
	return true;
}

int symbols_load(struct symbols *symbols, const char *path, size_t *line)
{
	size_t lines = 1, count = 0, kept = 0;
	struct function *all;
	char *rest;
	int error;

	*line = 0;
	error = read_text(path, &symbols->text);
	if (error)
		return error;
	for (const char *c = symbols->text; *c; c++)
		lines += *c == '\n';
	all = calloc(lines, sizeof(*all));
	if (!all) {
		free(symbols->text);
		return -ENOMEM;
	}
	rest = symbols->text;
	while (rest && *rest) {
		char *text = strsep(&rest, "\n");

		++*line;
		if (!parse_line(text, &all[count])) {
			free(all);
			free(symbols->text);
			return -EINVAL;
		}
		if (all[count].is_code)
			apply_traits(&all[count]);
		count++;
	}
	qsort(all, count, sizeof(*all), compare);
	symbols->code_count = 0;
	for (size_t i = 0; i < count; i++) {
		const struct function *last = kept ? &all[kept - 1] : NULL;

		if (last && (all[i].address == last->address ||
			     (!all[i].is_code && !last->is_code)))
			continue;
		if (all[i].is_code)
			all[i].index = symbols->code_count++;
		all[kept++] = all[i];
	}
	symbols->functions = all;
	symbols->count = kept;
	return 0;
}

void symbols_free(struct symbols *symbols)
{
	free(symbols->functions);
	free(symbols->text);
}

const struct function *symbols_find(const struct symbols *symbols, uint64_t address)
{
	size_t low = 0, high = symbols->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (symbols->functions[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low || !symbols->functions[low - 1].is_code)
		return NULL;
	return &symbols->functions[low - 1];
}
