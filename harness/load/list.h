/* SPDX-License-Identifier: MIT */
/* A circular doubly linked list with its head inside, as in the kernel. */
#ifndef LOAD_LIST_H
#define LOAD_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *prev, *next;
};

static inline void list_init(struct list *head)
{
	head->prev = head;
	head->next = head;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_del(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
}

static inline void list_add_tail(struct list *node, struct list *head)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

static inline void list_move_tail(struct list *node, struct list *head)
{
	list_del(node);
	list_add_tail(node, head);
}

#define list_entry(node, type, member) \
	((type *)((char *)(node) - offsetof(type, member)))

#endif
