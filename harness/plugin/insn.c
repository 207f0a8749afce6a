// SPDX-License-Identifier: MIT
/*
 * libinsn.so: counts the instructions a guest executes, by vCPU and by kernel function.
 *
 * QEMU translates the guest's code in blocks: straight runs of instructions, entered at the first.
 * When a block is translated, this plugin looks up which function it lies in and asks to be called
 * each time the block starts; the call adds the block's length to one counter. What the counter
 * must know travels in the call's one argument, packed, so a block needs no memory of its own and
 * none is leaked when QEMU forgets the block.
 *
 * Not all that runs is work, and what is not has counters of its own. Each vCPU is in a context:
 * work, the timer's tick, or the idle loop. The entries of certain functions (symbols.c) change
 * it; while it is not work, all instructions go to the context's slot. Waiting for another CPU is
 * told by the function or by a PAUSE in a loop, whatever the loop calls: the blocks after a PAUSE
 * are held back until the same PAUSE comes again (then all of them were one turn of waiting), or
 * until that looks unlikely (then they were work).
 *
 * An instruction that crosses the end of a page ends its block unexecuted and begins the next one.
 * QEMU 7.2 shows it to the plugin in both, but makes a call asked for at that very
 * instruction only where it is executed. So the last instruction of a block that nears the end of a
 * page is counted by a call of its own.
 *
 * A string instruction with a repeat prefix is a loop to the emulator: it ends its block and then
 * starts blocks of its own, one an iteration. Such a block counts only if the one before it on the
 * same vCPU did not end with the very same instruction.
 *
 * Threads: QEMU runs each vCPU in one thread, or all in one; either way, a row of counters and a
 * struct vcpu have one writer and need no lock. Translation may happen on any thread and only
 * reads the symbols.
 *
 * Usage: -plugin libinsn.so,out=FILE,map=SYSTEM.MAP[,exact=on|off]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "decode.h"
#include "qemu_plugin.h"
#include "symbols.h"
#include "version.h"

#define MAX_INSN_BYTES 15
#define KERNEL_HALF (UINT64_C(1) << 63)
#define GUEST_PAGE 4096

/* Blocks held back after a PAUSE: a turn of timer_delete_sync, the longest known, takes 15. */
#define HELD_MAX 64

/*
 * A block as the callbacks get it: length, slot, and, for a block that ends with a repeated
 * string instruction or with a PAUSE, the low half of that instruction's address.
 */
#define PACK_LENGTH_BITS 10
#define PACK_SLOT_BITS 22
#define PACK_LAST_SHIFT (PACK_LENGTH_BITS + PACK_SLOT_BITS)

struct held {
	uint64_t amount;
	unsigned int slot;
};

struct vcpu {
	uint64_t *row;
	uint64_t *into;		/* exact=on: where the running block's instructions go; or NULL */
	uint32_t repeat;	/* the string instruction that ended the last block; or 0 */
	uint32_t pause;		/* the PAUSE after which blocks are held back; or 0: none are */
	uint16_t context;	/* SLOT_TICK, SLOT_IDLE; or 0: work */
	uint16_t held_count;
	struct held held[HELD_MAX];
} __attribute__((aligned(64)));

PLUGIN_EXPORT int qemu_plugin_version;

static struct {
	struct symbols symbols;
	struct counters counters;
	struct vcpu *vcpus;
	bool data_is_copied;	/* see qemu_plugin.h */
	bool exact;		/* ask for each instruction, to measure what blocks get wrong */
} plugin;

/* Readers look at any time, so the store must be one store. */
static inline void add(uint64_t *counter, uint64_t amount)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + amount,
			 __ATOMIC_RELAXED);
}

static inline uintptr_t pack(uint64_t length, uint64_t slot, uint32_t last)
{
	return length | slot << PACK_LENGTH_BITS | (uint64_t)last << PACK_LAST_SHIFT;
}

static inline unsigned int packed_length(uintptr_t block)
{
	return block & ((1u << PACK_LENGTH_BITS) - 1);
}

static inline unsigned int packed_slot(uintptr_t block)
{
	return block >> PACK_LENGTH_BITS & ((1u << PACK_SLOT_BITS) - 1);
}

static inline uint32_t packed_last(uintptr_t block)
{
	return block >> PACK_LAST_SHIFT;
}

/* What was held back was work after all. */
static void release_held(struct vcpu *vcpu)
{
	for (unsigned int i = 0; i < vcpu->held_count; i++)
		add(&vcpu->row[vcpu->held[i].slot], vcpu->held[i].amount);
	vcpu->held_count = 0;
	vcpu->pause = 0;
}

/* What was held back was a turn of waiting. */
static void drop_held(struct vcpu *vcpu)
{
	for (unsigned int i = 0; i < vcpu->held_count; i++)
		add(&vcpu->row[SLOT_PAUSE], vcpu->held[i].amount);
	vcpu->held_count = 0;
}

static uint64_t *hold_back(struct vcpu *vcpu, unsigned int slot)
{
	struct held *held;

	if (vcpu->held_count == HELD_MAX) {
		release_held(vcpu);
		return &vcpu->row[slot];
	}
	held = &vcpu->held[vcpu->held_count++];
	held->slot = slot;
	held->amount = 0;
	return &held->amount;
}

static inline void count(struct vcpu *vcpu, uintptr_t block)
{
	unsigned int slot = vcpu->context ? vcpu->context : packed_slot(block);
	uint64_t *counter = vcpu->pause ? hold_back(vcpu, slot) : &vcpu->row[slot];

	if (plugin.exact)
		vcpu->into = counter;
	else
		add(counter, packed_length(block));
}

static void run_block(unsigned int index, void *block)
{
	struct vcpu *vcpu = &plugin.vcpus[index];

	vcpu->repeat = 0;
	count(vcpu, (uintptr_t)block);
}

/* A block whose last instruction, not its only one, is a repeated string instruction. */
static void run_block_before_repeat(unsigned int index, void *block)
{
	struct vcpu *vcpu = &plugin.vcpus[index];

	vcpu->repeat = packed_last((uintptr_t)block);
	count(vcpu, (uintptr_t)block);
}

/* A block that is one: the first iteration if jumped to, a later one if it led here itself. */
static void run_repeat(unsigned int index, void *block)
{
	struct vcpu *vcpu = &plugin.vcpus[index];
	uint32_t repeat = packed_last((uintptr_t)block);

	if (vcpu->repeat == repeat) {
		vcpu->into = NULL;
		return;
	}
	vcpu->repeat = repeat;
	count(vcpu, (uintptr_t)block);
}

/* A block that ends with a PAUSE, the first one or another turn's. */
static void run_pause(unsigned int index, void *block)
{
	struct vcpu *vcpu = &plugin.vcpus[index];
	uint32_t pause = packed_last((uintptr_t)block);

	if (vcpu->pause == pause)
		drop_held(vcpu);
	else
		release_held(vcpu);
	vcpu->repeat = 0;
	vcpu->pause = 0;
	count(vcpu, (uintptr_t)block);
	if (!vcpu->context)
		vcpu->pause = pause;
}

/* Should a way out of a context have been missed, it ends here at the latest. */
static void run_user_block(unsigned int index, void *block)
{
	plugin.vcpus[index].context = 0;
	run_block(index, block);
}

static void run_last(unsigned int index, void *block)
{
	count(&plugin.vcpus[index], (uintptr_t)block);
}

static void run_insn(unsigned int index, void *unused)
{
	struct vcpu *vcpu = &plugin.vcpus[index];

	(void)unused;
	if (vcpu->into)
		add(vcpu->into, 1);
}

static void enter_context(unsigned int index, void *context)
{
	struct vcpu *vcpu = &plugin.vcpus[index];

	release_held(vcpu);
	vcpu->context = (uintptr_t)context;
}

static void note_event(unsigned int index, void *slot)
{
	add(&plugin.vcpus[index].row[(uintptr_t)slot], 1);
}

static bool insn_is(const struct qemu_plugin_insn *insn,
		    bool (*test)(const uint8_t *bytes, size_t length))
{
	size_t size = qemu_plugin_insn_size(insn);
	uint8_t copy[MAX_INSN_BYTES] = { 0 };
	uintptr_t data = qemu_plugin_insn_data(insn, copy, sizeof(copy));

	return test(plugin.data_is_copied ? copy : (const uint8_t *)data, size);
}

/* Never 0, and still unlike its neighbours': string and PAUSE have two bytes at least. */
static uint32_t id_of(const struct qemu_plugin_insn *insn)
{
	return qemu_plugin_insn_vaddr(insn) | 1;
}

static bool may_cross_page(const struct qemu_plugin_insn *insn)
{
	return qemu_plugin_insn_vaddr(insn) % GUEST_PAGE > GUEST_PAGE - MAX_INSN_BYTES;
}

static void on_insn(struct qemu_plugin_insn *insn, qemu_plugin_exec_t call, uintptr_t argument)
{
	qemu_plugin_register_vcpu_insn_exec_cb(insn, call, QEMU_PLUGIN_CB_NO_REGS,
					       (void *)argument);
}

static void on_start(struct qemu_plugin_tb *tb, qemu_plugin_exec_t call, uintptr_t argument)
{
	qemu_plugin_register_vcpu_tb_exec_cb(tb, call, QEMU_PLUGIN_CB_NO_REGS, (void *)argument);
}

/* QEMU makes the calls in the order they are asked for here. */
static void instrument_entry(struct qemu_plugin_tb *tb, const struct function *function)
{
	bool at_entry = qemu_plugin_tb_vaddr(tb) == function->address;
	enum context context = function->inside;

	if (at_entry && function->at_entry)
		context = function->at_entry;
	if (context == CONTEXT_WORK)
		on_start(tb, enter_context, 0);
	else if (context == CONTEXT_TICK)
		on_start(tb, enter_context, SLOT_TICK);
	else if (context == CONTEXT_IDLE)
		on_start(tb, enter_context, SLOT_IDLE);
	if (at_entry && function->event)
		on_start(tb, note_event, counters_event_slot(function->event));
}

static void instrument_block(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t length = qemu_plugin_tb_n_insns(tb);
	struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(tb, length - 1);
	uint64_t address = qemu_plugin_tb_vaddr(tb);
	const struct function *function = symbols_find(&plugin.symbols, address);
	bool is_user = !function && address < KERNEL_HALF;
	unsigned int slot = is_user ? SLOT_USER : SLOT_OTHER;

	(void)id;
	if (function) {
		slot = function->ticks ? SLOT_TICK : SLOT_FUNCTIONS + function->index;
		instrument_entry(tb, function);
	}
	if (insn_is(last, decode_is_rep_string)) {
		uintptr_t block = pack(length, slot, id_of(last));

		on_start(tb, length == 1 ? run_repeat : run_block_before_repeat, block);
	} else if (!(function && function->spins) && insn_is(last, decode_is_pause)) {
		on_start(tb, run_pause, pack(length, SLOT_PAUSE, id_of(last)));
	} else if (!plugin.exact && length > 1 && may_cross_page(last)) {
		on_start(tb, is_user ? run_user_block : run_block, pack(length - 1, slot, 0));
		on_insn(last, run_last, pack(1, slot, 0));
	} else {
		on_start(tb, is_user ? run_user_block : run_block, pack(length, slot, 0));
	}
	for (size_t i = 0; plugin.exact && i < length; i++)
		on_insn(qemu_plugin_tb_get_insn(tb, i), run_insn, 0);
}

static int fail(const char *what, const char *path, const char *why)
{
	fprintf(stderr, "libinsn: %s%s%s%s%s\n", what, path ? " " : "", path ? path : "",
		why ? ": " : "", why ? why : "");
	return -1;
}

static const char *value_of(const char *argument, const char *key)
{
	size_t length = strlen(key);

	return !strncmp(argument, key, length) && argument[length] == '=' ?
		argument + length + 1 : NULL;
}

static int load_map(const char *path)
{
	size_t line;
	int error = symbols_load(&plugin.symbols, path, &line);
	char why[64];

	if (error == -EINVAL && line) {
		snprintf(why, sizeof(why), "line %zu is not `address type name`", line);
		return fail("not a System.map:", path, why);
	}
	if (error)
		return fail("cannot read map", path, strerror(-error));
	if (!plugin.symbols.code_count)
		return fail("no function in map", path, NULL);
	if (SLOT_FUNCTIONS + plugin.symbols.code_count >= 1u << PACK_SLOT_BITS)
		return fail("too many functions in map", path, NULL);
	return 0;
}

static int create_counters(const char *path, unsigned int vcpus)
{
	int error = counters_create(&plugin.counters, path, vcpus, &plugin.symbols);

	if (error)
		return fail("cannot make", path, strerror(-error));
	plugin.vcpus = aligned_alloc(sizeof(struct vcpu), vcpus * sizeof(struct vcpu));
	if (!plugin.vcpus)
		return fail("no memory", NULL, NULL);
	memset(plugin.vcpus, 0, vcpus * sizeof(struct vcpu));
	for (unsigned int i = 0; i < vcpus; i++)
		plugin.vcpus[i].row = counters_row(&plugin.counters, i);
	return 0;
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	const char *out = NULL, *map = NULL;

	if (strcmp(info->target_name, "x86_64") || !info->system_emulation)
		return fail("counts only in qemu-system-x86_64", NULL, NULL);
	for (int i = 0; i < argc; i++) {
		if (value_of(argv[i], "out"))
			out = value_of(argv[i], "out");
		else if (value_of(argv[i], "map"))
			map = value_of(argv[i], "map");
		else if (!strcmp(argv[i], "exact=on") || !strcmp(argv[i], "exact=off"))
			plugin.exact = !strcmp(argv[i], "exact=on");
		else
			return fail("unknown argument", argv[i],
				    "known are out=FILE, map=SYSTEM.MAP, exact=on|off");
	}
	if (!out || !map)
		return fail("needs out=FILE and map=SYSTEM.MAP", NULL, NULL);
	plugin.data_is_copied = qemu_plugin_version >= 3;
	if (load_map(map))
		return -1;
	if (create_counters(out, info->system.max_vcpus)) {
		symbols_free(&plugin.symbols);
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, instrument_block);
	return 0;
}
