/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bounds of the section that the simulated kernel is in, by the linker */
#ifndef BENCH_SECTION_H
#define BENCH_SECTION_H

extern const char __start_simulated_kernel[];
extern const char __stop_simulated_kernel[];

#endif
