// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a handle: its number, the events that reach it, its end.
 *
 * A number is a slot and the slot's generation, which changes whenever the
 * slot is freed, so that a program that uses a handle after closing it gets
 * -EBADF and not somebody else's connection.  A generation has 10 bits, so a
 * slot's numbers come back after 1,023 uses.  Taking the slot that was freed
 * last, whose line is still in the cache, would use one slot for all of a short
 * connection server's connections, and a stale number would be caught for only
 * 1,023 of them: 10 milliseconds of a busy core.  So slots wait in a queue of
 * at least MP_MIN_FREE others, and a stale number is caught for the next
 * million handles.  It costs up to 16 KiB per channel, and a line from the
 * second-level cache per new handle.
 */

#include <linux/poll.h>
#include <linux/slab.h>
#include <net/sock.h>

#include "accept.h"
#include "channel.h"
#include "file.h"
#include "handle.h"
#include "io.h"
#include "lwsocket.h"

#define MP_MAX_GENERATION	((1U << 10) - 1)

static_assert(MP_INDEX_MASK + 1 == MEGAPIPE_MAX_HANDLES);
static_assert((MP_MAX_GENERATION + 1) << MP_INDEX_BITS ==
	      MEGAPIPE_HANDLE_LWSOCKET);

int mp_table_init(struct mp_table *table, u32 max)
{
	table->max = min_t(u32, max, MEGAPIPE_MAX_HANDLES);
	table->pages = kvcalloc(DIV_ROUND_UP(table->max, MP_SLOTS_PER_PAGE),
				sizeof(*table->pages), GFP_KERNEL_ACCOUNT);
	return table->pages ? 0 : -ENOMEM;
}

void mp_table_destroy(struct mp_table *table)
{
	u32 i;

	for (i = 0; i < table->used; i += MP_SLOTS_PER_PAGE)
		kfree(table->pages[i / MP_SLOTS_PER_PAGE]);
	kvfree(table->pages);
}

/* The first handle at or after *@index, which moves behind it */
struct mp_handle *mp_table_next(struct mp_table *table, u32 *index)
{
	while (*index < table->used) {
		struct mp_slot *slot = mp_table_slot(table, (*index)++);

		if (slot->handle)
			return slot->handle;
	}
	return NULL;
}

/* A slot that was never used, or NULL.  There must be one. */
static struct mp_slot *mp_table_extend(struct mp_table *table, u32 *index)
{
	struct mp_slot **page, *slot;

	*index = table->used;
	page = &table->pages[*index / MP_SLOTS_PER_PAGE];
	if (!*page) {
		*page = kcalloc(MP_SLOTS_PER_PAGE, sizeof(**page),
				GFP_KERNEL_ACCOUNT);
		if (!*page)
			return NULL;
	}
	table->used++;
	slot = mp_table_slot(table, *index);
	slot->generation = 1;
	return slot;
}

static struct mp_slot *mp_table_alloc(struct mp_table *table, u32 *index)
{
	u32 free = table->used - table->count;
	struct mp_slot *slot;

	if (free <= MP_MIN_FREE && table->used < table->max) {
		slot = mp_table_extend(table, index);
		if (slot)
			return slot;
		if (!free)
			return ERR_PTR(-ENOMEM);
	}
	*index = table->first_free;
	slot = mp_table_slot(table, *index);
	table->first_free = slot->next_free;
	return slot;
}

static void mp_table_free(struct mp_table *table, u32 index)
{
	struct mp_slot *slot = mp_table_slot(table, index);

	slot->handle = NULL;
	slot->generation = slot->generation == MP_MAX_GENERATION ?
			   1 : slot->generation + 1;
	if (table->used == table->count)
		table->first_free = index;
	else
		mp_table_slot(table, table->last_free)->next_free = index;
	table->last_free = index;
}

void mp_handle_init(struct mp_handle *handle, struct mp_channel *channel,
		    enum mp_kind kind, struct socket *sock)
{
	handle->channel = channel;
	atomic_set(&handle->events, 0);
	handle->cookie = 0;
	handle->sock = sock;
	handle->kind = kind;
	handle->dead = false;
	/* An lwsocket has no sock yet; it will be TCP's. */
	handle->tcp = kind == MP_KIND_LWSOCKET || (sock && sk_is_tcp(sock->sk));
	handle->disconnect = false;
	handle->cancel = 0;
	handle->read_op = 0;
	handle->write_op = 0;
	handle->write_flags = 0;
	handle->poll = 0;
}

/*
 * Give the handle its number.  Returns it, or -EMFILE if the channel has too
 * many, -ENOBUFS if its user has, or -ENOMEM.
 */
int mp_handle_install(struct mp_handle *handle)
{
	struct mp_channel *channel = handle->channel;
	struct mp_table *table = &channel->handles;
	struct mp_slot *slot;
	u32 index;
	int err;

	lockdep_assert_held(&channel->mutex);

	if (table->count >= table->max)
		return -EMFILE;
	err = mp_limit_take(&channel->limit, table->count);
	if (unlikely(err))
		return err;
	slot = mp_table_alloc(table, &index);
	if (IS_ERR(slot))
		return PTR_ERR(slot);

	table->count++;
	table->kinds[handle->kind]++;
	handle->id = slot->generation << MP_INDEX_BITS | index;
	if (handle->kind == MP_KIND_LWSOCKET)
		handle->id |= MEGAPIPE_HANDLE_LWSOCKET;
	slot->handle = handle;
	return handle->id;
}

/* Take the handle's number away; it may be gone already. */
void mp_handle_remove(struct mp_handle *handle)
{
	struct mp_channel *channel = handle->channel;
	struct mp_table *table = &channel->handles;

	lockdep_assert_held(&channel->mutex);

	mp_table_free(table, handle->id & MP_INDEX_MASK);
	table->count--;
	table->kinds[handle->kind]--;
	mp_limit_give(&channel->limit, table->count);
}

/*
 * Something has happened to the handle's socket: have the owner look at it.
 *
 * A handle is put on the ready list by whoever sets MP_EV_QUEUED.  The owner
 * clears the bit before it looks at the socket (mp_queue_pass()), so an event
 * that it may not have seen finds the bit clear and queues the handle again.
 *
 * Called under RCU or under the lock of the wait queue that the handle waits
 * on: either keeps the handle's memory and the channel from being freed.
 * Returns false if the owner has been told before and has not looked yet.
 */
bool mp_handle_ready(struct mp_handle *handle, int events)
{
	struct mp_channel *channel = handle->channel;

	if (atomic_fetch_or(events | MP_EV_QUEUED, &handle->events) &
	    MP_EV_QUEUED)
		return false;

	/*
	 * Only the first entry of an empty list has somebody to wake: a
	 * dispatcher that finds the list not empty does not sleep.  The
	 * cmpxchg in llist_add() is a full barrier, which orders the list
	 * before the look at the wait queue.  Its partners stand between the
	 * appearance on the wait queue and the look at the list: of a
	 * dispatcher, set_current_state() in prepare_to_wait_exclusive(), see
	 * mp_queue_wait(); of a poller, smp_mb() in poll_wait(), see
	 * mp_channel_poll().
	 */
	if (llist_add(&handle->ready, &channel->ready) &&
	    /* After the barrier in llist_add(), see above */
	    waitqueue_active(&channel->wait))
		wake_up_interruptible_sync_poll(&channel->wait,
						EPOLLIN | EPOLLRDNORM);
	return true;
}

/* Look at a handle that was ready; the channel has room for a completion. */
void mp_handle_run(struct mp_handle *handle, int events)
{
	if (handle->kind == MP_KIND_LISTENER)
		mp_accept_run(handle);
	else
		mp_io_run(handle, events);
}

/*
 * Free a handle that nothing finds any more, as soon as no list has it.
 *
 * A callback that found the handle before may be on its way to the ready list.
 * If it has set MP_EV_QUEUED, mp_queue_pass() will meet the handle and free it;
 * otherwise the bit set here tells it to stay away.
 */
void mp_handle_retire(struct mp_handle *handle)
{
	handle->dead = true;
	if (!(atomic_fetch_or(MP_EV_QUEUED, &handle->events) & MP_EV_QUEUED))
		mp_handle_free(handle);
}

/* The end of a handle: its number, pending commands and socket go. */
void mp_handle_drop(struct mp_handle *handle)
{
	mp_handle_remove(handle);
	mp_io_forget(handle);

	switch (handle->kind) {
	case MP_KIND_FILE:
		mp_file_detach(handle);
		break;
	case MP_KIND_LISTENER:
		mp_accept_detach(handle);
		break;
	case MP_KIND_LWSOCKET:
		mp_lwsocket_detach(handle);
		break;
	}

	mp_handle_retire(handle);
}

/* Free a retired handle: its MP_EV_QUEUED is set, and it is on no list. */
void mp_handle_free(struct mp_handle *handle)
{
	switch (handle->kind) {
	case MP_KIND_FILE:
		mp_file_free(handle);
		break;
	case MP_KIND_LISTENER:
		mp_accept_free(handle);
		break;
	case MP_KIND_LWSOCKET:
		mp_lwsocket_free(handle);
		break;
	}
}
