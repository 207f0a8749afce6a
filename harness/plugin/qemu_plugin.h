/* SPDX-License-Identifier: MIT */
/*
 * What the plugins use of QEMU's TCG plugin interface. Debian ships the interface in the emulator
 * but its header only in the source package, so the few declarations needed are written down here.
 *
 * One binary serves versions 1 to 5 of the interface. They agree on everything below but the two
 * shapes of qemu_plugin_insn_data:
 *
 *   version 1      QEMU up to 8.2 (Debian 12: 7.2)    a pointer to the bytes
 *   version 2      QEMU 9.0                           a pointer to the bytes
 *   version 3      QEMU 9.1                           copies the bytes
 *   version 4      QEMU 9.2 and 10.0 (Debian 13)      copies the bytes
 *   version 5      QEMU 10.1                          copies the bytes
 *   version 6      other callbacks: not supported, QEMU itself says so and ends
 */
#ifndef QEMU_PLUGIN_ABI_H
#define QEMU_PLUGIN_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLUGIN_EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;

typedef struct {
	const char *target_name;
	struct {
		int min;
		int cur;
	} version;
	bool system_emulation;
	struct {
		int smp_vcpus;
		int max_vcpus;
	} system;
} qemu_info_t;

struct qemu_plugin_tb;
struct qemu_plugin_insn;

enum qemu_plugin_cb_flags {
	QEMU_PLUGIN_CB_NO_REGS,
};

enum qemu_plugin_mem_rw {
	QEMU_PLUGIN_MEM_R = 1,
	QEMU_PLUGIN_MEM_W,
	QEMU_PLUGIN_MEM_RW,
};

typedef uint32_t qemu_plugin_meminfo_t;

typedef void (*qemu_plugin_tb_trans_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*qemu_plugin_exec_t)(unsigned int vcpu_index, void *userdata);
typedef void (*qemu_plugin_access_t)(unsigned int vcpu_index, qemu_plugin_meminfo_t info,
				     uint64_t vaddr, void *userdata);

/* Ours, which QEMU looks up. */
extern PLUGIN_EXPORT int qemu_plugin_version;
PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
				      int argc, char **argv);

/* QEMU's, the same in all versions. */
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, qemu_plugin_tb_trans_t cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, qemu_plugin_exec_t cb,
					  enum qemu_plugin_cb_flags flags, void *userdata);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, qemu_plugin_exec_t cb,
					    enum qemu_plugin_cb_flags flags, void *userdata);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, qemu_plugin_access_t cb,
				      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw,
				      void *userdata);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

/*
 * The one that changed. The registers of x86-64 and arm64 carry both shapes: the older function
 * ignores the two arguments it does not know, and either result comes back in the same register.
 */
uintptr_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *into, size_t length);

#endif
