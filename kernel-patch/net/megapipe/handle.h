/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A handle: one registered descriptor, listening socket or lwsocket, and the
 * table in which a channel finds it by number.
 */
#ifndef _MEGAPIPE_HANDLE_H
#define _MEGAPIPE_HANDLE_H

#include <linux/llist.h>
#include <linux/nospec.h>
#include <linux/rcupdate.h>
#include <linux/types.h>

struct mp_channel;
struct mp_request;
struct socket;

enum mp_kind {
	MP_KIND_FILE,		/* struct mp_file */
	MP_KIND_LISTENER,	/* struct mp_listener */
	MP_KIND_LWSOCKET,	/* struct mp_lwsocket */
	MP_NR_KINDS,
};

/* Bits of mp_handle.events */
#define MP_EV_READ	BIT(0)	/* worth trying to read or accept */
#define MP_EV_WRITE	BIT(1)	/* worth trying to write */
#define MP_EV_QUEUED	BIT(2)	/* on a list, or not to be put on one */

/* Bits of mp_handle.cancel */
#define MP_CANCEL_READ		BIT(0)
#define MP_CANCEL_WRITE		BIT(1)
#define MP_CANCEL_POLL		BIT(2)
#define MP_CANCEL_DISCONNECT	BIT(3)
#define MP_CANCEL_ACCEPT	BIT(4)

/**
 * struct mp_handle - what the kinds of handles have in common
 * @channel: the channel it belongs to, for its whole life
 * @ready: link in mp_channel.ready, .run_first or .spare
 * @rcu: delays freeing, when @ready is no longer in use
 * @events: MP_EV_*, see mp_handle_ready()
 * @id: its number in the table
 * @cookie: what completions carry
 * @sock: the socket that commands work on, NULL if it is another file
 * @kind: the structure that embeds this one
 * @dead: dropped, freed when taken off the list that it is on
 * @tcp: @sock is a TCP socket
 * @disconnect: a DISCONNECT waits for the pending write, or for room
 * @cancel: MP_CANCEL_* of what is to complete with -ECANCELED
 * @read_op: MEGAPIPE_OP_* of the pending read, or 0
 * @write_op: MEGAPIPE_OP_* of the pending write or CONNECT, or 0
 * @write_flags: MEGAPIPE_CMD_* of the pending write.  THEN_READ only while there
 *	is one: it keeps the place of the READ, whose fields are set already
 * @poll: events that the pending POLL waits for, 0: none is pending
 * @read_len: bytes wanted by a READ
 * @write_len: bytes of the pending write
 * @write_done: of these, already written
 * @read_addr: where a READ reads to
 * @read_request: the pending READV or RECVFROM
 * @write_addr: where a WRITE writes from
 * @write_request: the pending WRITEV, SENDTO, SENDFILE or CONNECT
 *
 * @events and @ready belong to whoever set MP_EV_QUEUED; the rest is protected
 * by the channel's mutex.
 */
struct mp_handle {
	struct mp_channel	*channel;
	union {
		struct llist_node	ready;
		struct rcu_head		rcu;
	};
	atomic_t		events;
	s32			id;
	u64			cookie;
	struct socket		*sock;
	u8			kind;
	bool			dead;
	bool			tcp;
	bool			disconnect;
	u8			cancel;
	u8			read_op;
	u8			write_op;
	u8			write_flags;
	u32			poll;
	u32			read_len;
	u32			write_len;
	u32			write_done;
	union {
		void __user		*read_addr;
		struct mp_request	*read_request;
	};
	union {
		void __user		*write_addr;
		struct mp_request	*write_request;
	};
};

/* A handle's number: its index in the table, above it a generation */
#define MP_INDEX_BITS		20
#define MP_INDEX_MASK		((1U << MP_INDEX_BITS) - 1)

#define MP_SLOTS_PER_PAGE	256
/* A freed slot is used again after as many others */
#define MP_MIN_FREE		1024

/**
 * struct mp_slot - an entry of the handle table
 * @handle: the handle, or NULL
 * @next_free: the slot that was freed next, when free
 * @generation: bits 20-29 of the handle's number; never 0
 */
struct mp_slot {
	struct mp_handle	*handle;
	u32			next_free;
	u32			generation;
};

/**
 * struct mp_table - the handles of a channel, by number
 * @pages: arrays of MP_SLOTS_PER_PAGE slots, allocated when first needed
 * @max: handles allowed
 * @used: slots that were ever used
 * @first_free: of the free slots among these, the one that was freed first
 * @last_free: and last; both mean nothing if @used equals @count
 * @count: handles now
 * @kinds: of these, how many of each enum mp_kind
 */
struct mp_table {
	struct mp_slot		**pages;
	u32			max;
	u32			used;
	u32			first_free;
	u32			last_free;
	u32			count;
	u32			kinds[MP_NR_KINDS];
};

static inline struct mp_slot *mp_table_slot(const struct mp_table *table,
					    u32 index)
{
	return &table->pages[index / MP_SLOTS_PER_PAGE]
			    [index % MP_SLOTS_PER_PAGE];
}

/* The handle of that number, or NULL */
static inline struct mp_handle *mp_handle_lookup(const struct mp_table *table,
						 s32 id)
{
	u32 index = id & MP_INDEX_MASK;
	struct mp_handle *handle;

	if (unlikely(index >= table->used))
		return NULL;
	index = array_index_nospec(index, table->used);
	handle = mp_table_slot(table, index)->handle;
	return likely(handle && handle->id == id) ? handle : NULL;
}

/* handle.c APIs */
int mp_table_init(struct mp_table *table, u32 max);
void mp_table_destroy(struct mp_table *table);
struct mp_handle *mp_table_next(struct mp_table *table, u32 *index);

void mp_handle_init(struct mp_handle *handle, struct mp_channel *channel,
		    enum mp_kind kind, struct socket *sock);
int mp_handle_install(struct mp_handle *handle);
void mp_handle_remove(struct mp_handle *handle);
void mp_handle_run(struct mp_handle *handle, int events);
void mp_handle_drop(struct mp_handle *handle);
void mp_handle_retire(struct mp_handle *handle);
void mp_handle_free(struct mp_handle *handle);

/* Any context, also softirq with the socket's lock held */
bool mp_handle_ready(struct mp_handle *handle, int events);

#endif /* _MEGAPIPE_HANDLE_H */
