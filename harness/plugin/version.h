/* SPDX-License-Identifier: MIT */
/* Included by each plugin's main file, once. */
#ifndef VERSION_H
#define VERSION_H

#include <dlfcn.h>
#include <stddef.h>

#include "qemu_plugin.h"

/*
 * QEMU refuses a plugin whose version it does not know, and looks at the version after it has run
 * this. The functions it exports tell which versions it knows.
 */
__attribute__((constructor)) static void choose_version(void)
{
	static const struct {
		const char *function;
		int version;
	} newest_first[] = {
		{ "qemu_plugin_write_memory_vaddr", 5 },
		{ "qemu_plugin_read_memory_vaddr", 4 },
		{ "qemu_plugin_register_vcpu_tb_exec_cond_cb", 3 },
		{ "qemu_plugin_scoreboard_new", 2 },
	};

	qemu_plugin_version = 1;
	for (size_t i = 0; i < sizeof(newest_first) / sizeof(newest_first[0]); i++) {
		if (dlsym(RTLD_DEFAULT, newest_first[i].function)) {
			qemu_plugin_version = newest_first[i].version;
			return;
		}
	}
}

#endif
