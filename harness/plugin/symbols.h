/* SPDX-License-Identifier: MIT */
/* The kernel's functions, from System.map: which one an address lies in, and what it is for. */
#ifndef SYMBOLS_H
#define SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the first instruction of a function tells about what runs from here on. */
enum context {
	CONTEXT_KEEP,		/* nothing */
	CONTEXT_WORK,		/* whatever it was, it is over */
	CONTEXT_TICK,		/* the timer interrupt */
	CONTEXT_IDLE,		/* the idle loop */
};

enum event {
	EVENT_NONE,
	EVENT_TICK,
	EVENT_SYSCALL,
	EVENT_INTERRUPT,
	EVENT_IPI,
	EVENT_PAGE_FAULT,
	EVENT_SWITCH,
	EVENT_WAKEUP,
	EVENT_DOORBELL,
	EVENT_PACKET_OUT,
	EVENT_PACKET_IN,
	EVENT_COUNT,
};

struct function {
	uint64_t address;
	const char *name;
	size_t index;		/* among the functions that are code */
	bool is_code;		/* false: data, here only to end the function before it */
	bool spins;		/* waits for another processor */
	bool ticks;		/* its own instructions are the tick's, in whatever context */
	enum context inside;	/* every block of it begins this context anew */
	enum context at_entry;	/* the block at its first instruction does */
	enum event event;	/* at its first instruction */
};

struct symbols {
	struct function *functions;	/* by address, one entry an address */
	size_t count;
	size_t code_count;
	char *text;			/* the file, holding the names */
};

/* Returns 0 or -errno; -EINVAL with *line set where the file is no System.map. */
int symbols_load(struct symbols *symbols, const char *path, size_t *line);
void symbols_free(struct symbols *symbols);

/* The function that holds the address, or NULL. */
const struct function *symbols_find(const struct symbols *symbols, uint64_t address);

#endif
