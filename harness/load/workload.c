// SPDX-License-Identifier: MIT
/* The table of workloads. */
#include "workload.h"

#include <stdio.h>
#include <string.h>

static const struct workload *const workloads[] = {
	&workload_pingpong,
	&workload_memcached,
	&workload_http,
};

#define NR_WORKLOADS	(sizeof(workloads) / sizeof(workloads[0]))

const struct workload *workload_find(const char *name)
{
	for (size_t i = 0; i < NR_WORKLOADS; i++)
		if (!strcmp(workloads[i]->name, name))
			return workloads[i];
	return NULL;
}

const char *workload_names(void)
{
	static char names[256];
	size_t used = 0;

	for (size_t i = 0; i < NR_WORKLOADS && used < sizeof(names); i++)
		used += snprintf(names + used, sizeof(names) - used, "%s%s",
				 i ? ", " : "", workloads[i]->name);
	return names;
}
