// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of what needs no socket: numbers of handles, the lists that
 * handles are on, limits, and the layout of the ABI.
 */

#include <kunit/test.h>
#include <linux/slab.h>

#include "channel.h"
#include "file.h"
#include "queue.h"

static int mp_test_init(struct kunit *test)
{
	struct mp_channel *channel;
	int err;

	channel = kunit_kzalloc(test, sizeof(*channel), GFP_KERNEL);
	if (!channel)
		return -ENOMEM;
	err = mp_limit_open(&channel->limit);
	if (err)
		return err;
	init_llist_head(&channel->ready);
	init_waitqueue_head(&channel->wait);
	mutex_init(&channel->mutex);
	test->priv = channel;
	return mp_table_init(&channel->handles, 2 * MP_MIN_FREE);
}

static void mp_test_exit(struct kunit *test)
{
	struct mp_channel *channel = test->priv;

	if (!channel)
		return;
	mp_queue_drain(channel);
	mp_table_destroy(&channel->handles);
	mp_limit_close(&channel->limit);
}

/* A handle of no file, with no number yet */
static struct mp_handle *mp_test_handle(struct kunit *test)
{
	struct mp_file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, file);
	mp_handle_init(&file->handle, test->priv, MP_KIND_FILE, NULL);
	return &file->handle;
}

static int mp_test_install(struct kunit *test, struct mp_handle *handle)
{
	struct mp_channel *channel = test->priv;
	int id;

	mutex_lock(&channel->mutex);
	id = mp_handle_install(handle);
	mutex_unlock(&channel->mutex);
	return id;
}

static void mp_test_remove(struct kunit *test, struct mp_handle *handle)
{
	struct mp_channel *channel = test->priv;

	mutex_lock(&channel->mutex);
	mp_handle_remove(handle);
	mutex_unlock(&channel->mutex);
}

static void mp_handle_install__is_found_until_removed(struct kunit *test)
{
	struct mp_channel *channel = test->priv;
	struct mp_handle *handle = mp_test_handle(test);
	int id = mp_test_install(test, handle);

	KUNIT_EXPECT_GT(test, id, 0);
	KUNIT_EXPECT_FALSE(test, id & MEGAPIPE_HANDLE_LWSOCKET);
	KUNIT_EXPECT_PTR_EQ(test, mp_handle_lookup(&channel->handles, id), handle);
	KUNIT_EXPECT_NULL(test, mp_handle_lookup(&channel->handles, id + 1));
	KUNIT_EXPECT_NULL(test, mp_handle_lookup(&channel->handles, -1));
	KUNIT_EXPECT_NULL(test, mp_handle_lookup(&channel->handles, 0));
	KUNIT_EXPECT_EQ(test, channel->handles.kinds[MP_KIND_FILE], 1);
	mp_test_remove(test, handle);
	KUNIT_EXPECT_NULL(test, mp_handle_lookup(&channel->handles, id));
	KUNIT_EXPECT_EQ(test, channel->handles.count, 0);
	KUNIT_EXPECT_EQ(test, channel->handles.kinds[MP_KIND_FILE], 0);
	mp_handle_free(handle);
}

/* A table with other limits */
static void mp_test_table(struct kunit *test, u32 max)
{
	struct mp_channel *channel = test->priv;

	mp_table_destroy(&channel->handles);
	memset(&channel->handles, 0, sizeof(channel->handles));
	KUNIT_ASSERT_EQ(test, mp_table_init(&channel->handles, max), 0);
}

/* The only slot's numbers: 1,023 different ones, and then again the first */
static void mp_handle_install__generations_wrap(struct kunit *test)
{
	struct mp_handle *handle = mp_test_handle(test);
	int first, id = 0;
	u32 n;

	mp_test_table(test, 1);
	first = mp_test_install(test, handle);
	KUNIT_EXPECT_EQ(test, first, 1 << 20);
	for (n = 1; n <= 1023; n++) {
		mp_test_remove(test, handle);
		id = mp_test_install(test, handle);
		/* Never 0, in no bit that has another meaning */
		KUNIT_EXPECT_EQ(test, id, (n % 1023 + 1) << 20);
	}
	KUNIT_EXPECT_EQ(test, id, first);
	mp_test_remove(test, handle);
	mp_handle_free(handle);
}

/* A slot is used again after MP_MIN_FREE others. */
static void mp_handle_install__slots_queue_up(struct kunit *test)
{
	struct mp_handle *handle = mp_test_handle(test);
	u32 n;

	for (n = 0; n <= 2 * MP_MIN_FREE; n++) {
		int id = mp_test_install(test, handle);

		KUNIT_EXPECT_EQ(test, id & 0xfffff, n % (MP_MIN_FREE + 1));
		mp_test_remove(test, handle);
	}
	mp_handle_free(handle);
}

static void mp_handle_install__exhaustion(struct kunit *test)
{
	struct mp_handle *handles[5];
	int i;

	mp_test_table(test, 4);
	for (i = 0; i < 5; i++) {
		handles[i] = mp_test_handle(test);
		if (i < 4)
			KUNIT_EXPECT_GT(test,
					mp_test_install(test, handles[i]), 0);
	}
	KUNIT_EXPECT_EQ(test, mp_test_install(test, handles[4]), -EMFILE);
	/* The slots that are free are used although there are few. */
	mp_test_remove(test, handles[1]);
	KUNIT_EXPECT_GT(test, mp_test_install(test, handles[4]), 0);
	KUNIT_EXPECT_EQ(test, mp_test_install(test, handles[1]), -EMFILE);
	mp_test_remove(test, handles[0]);
	mp_test_remove(test, handles[2]);
	KUNIT_EXPECT_EQ(test, mp_test_install(test, handles[2]) & 0xfffff, 0);
	KUNIT_EXPECT_EQ(test, mp_test_install(test, handles[0]) & 0xfffff, 2);

	for (i = 0; i < 5; i++) {
		if (i != 1)
			mp_test_remove(test, handles[i]);
		mp_handle_free(handles[i]);
	}
}

/* Set aside in chunks, and given back one chunk late */
static void mp_limit__chunks(struct kunit *test)
{
	struct mp_channel *channel = test->priv;
	struct mp_limit *limit = &channel->limit;
	u32 count;

	KUNIT_EXPECT_EQ(test, limit->reserved, MP_LIMIT_CHUNK);
	for (count = 0; count < 3 * MP_LIMIT_CHUNK; count++)
		KUNIT_EXPECT_EQ(test, mp_limit_take(limit, count), 0);
	KUNIT_EXPECT_EQ(test, limit->reserved, 3 * MP_LIMIT_CHUNK);

	while (count > MP_LIMIT_CHUNK + 1)
		mp_limit_give(limit, --count);
	KUNIT_EXPECT_EQ(test, limit->reserved, 3 * MP_LIMIT_CHUNK);
	mp_limit_give(limit, --count);
	KUNIT_EXPECT_EQ(test, limit->reserved, 2 * MP_LIMIT_CHUNK);
	/* Up and down by less than a chunk changes nothing. */
	while (count < 2 * MP_LIMIT_CHUNK)
		KUNIT_EXPECT_EQ(test, mp_limit_take(limit, count++), 0);
	KUNIT_EXPECT_EQ(test, limit->reserved, 2 * MP_LIMIT_CHUNK);
	while (count)
		mp_limit_give(limit, --count);
	KUNIT_EXPECT_EQ(test, limit->reserved, MP_LIMIT_CHUNK);
}

/* On the list once, whatever happens meanwhile; in the order of the events */
static void mp_handle_ready__queues_once(struct kunit *test)
{
	struct mp_channel *channel = test->priv;
	struct mp_handle *handle = mp_test_handle(test);

	KUNIT_EXPECT_FALSE(test, mp_queue_pending(channel));
	KUNIT_EXPECT_TRUE(test, mp_handle_ready(handle, MP_EV_READ));
	KUNIT_EXPECT_TRUE(test, mp_queue_pending(channel));
	KUNIT_EXPECT_FALSE(test, mp_handle_ready(handle, MP_EV_WRITE));
	KUNIT_EXPECT_EQ(test, atomic_read(&handle->events),
			MP_EV_READ | MP_EV_WRITE | MP_EV_QUEUED);
	KUNIT_EXPECT_NULL(test, channel->ready.first->next);

	/* Dropped while on the list: freed by whoever takes it off. */
	mp_handle_retire(handle);
	KUNIT_EXPECT_TRUE(test, handle->dead);
	mp_queue_drain(channel);
	KUNIT_EXPECT_FALSE(test, mp_queue_pending(channel));
}

static void mp_queue_again__is_one_of_the_lists(struct kunit *test)
{
	struct mp_channel *channel = test->priv;
	struct mp_handle *a = mp_test_handle(test), *b = mp_test_handle(test);

	mp_queue_again(a, MP_EV_READ);
	mp_queue_again(a, MP_EV_READ);
	KUNIT_EXPECT_PTR_EQ(test, channel->run_first, &a->ready);
	KUNIT_EXPECT_PTR_EQ(test, channel->run_last, &a->ready);
	/* An event does not put it on the other list as well. */
	KUNIT_EXPECT_FALSE(test, mp_handle_ready(a, MP_EV_WRITE));
	KUNIT_EXPECT_TRUE(test, llist_empty(&channel->ready));
	mp_queue_again(b, 0);
	KUNIT_EXPECT_PTR_EQ(test, channel->run_last, &b->ready);
	KUNIT_EXPECT_PTR_EQ(test, a->ready.next, &b->ready);

	mp_handle_retire(a);
	mp_handle_retire(b);
	mp_queue_drain(channel);
	KUNIT_EXPECT_NULL(test, channel->run_first);
}

/* On no list: it is freed at once, and an event that comes late stays away. */
static void mp_handle_retire__keeps_events_away(struct kunit *test)
{
	struct mp_channel *channel = test->priv;
	struct mp_handle *handle = mp_test_handle(test);

	atomic_or(MP_EV_QUEUED, &handle->events);
	KUNIT_EXPECT_FALSE(test, mp_handle_ready(handle, MP_EV_READ));
	KUNIT_EXPECT_TRUE(test, llist_empty(&channel->ready));
	mp_handle_free(handle);
}

static void mp_abi__layout(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_cmd), 32);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_event), 32);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_dispatch), 64);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_register), 32);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_info), 64);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_stats), 128);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_sockopt), 32);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_sockname), 24);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_tofd), 16);
	KUNIT_EXPECT_EQ(test, sizeof(struct megapipe_listener), 80);
	KUNIT_EXPECT_EQ(test, offsetof(struct megapipe_dispatch, done_cmds),
			28);
	KUNIT_EXPECT_EQ(test, offsetof(struct megapipe_cmd, arg), 16);
	KUNIT_EXPECT_EQ(test, offsetof(struct megapipe_event, aux), 20);
}

static struct kunit_case mp_cases[] = {
	KUNIT_CASE(mp_handle_install__is_found_until_removed),
	KUNIT_CASE(mp_handle_install__generations_wrap),
	KUNIT_CASE(mp_handle_install__slots_queue_up),
	KUNIT_CASE(mp_handle_install__exhaustion),
	KUNIT_CASE(mp_limit__chunks),
	KUNIT_CASE(mp_handle_ready__queues_once),
	KUNIT_CASE(mp_queue_again__is_one_of_the_lists),
	KUNIT_CASE(mp_handle_retire__keeps_events_away),
	KUNIT_CASE(mp_abi__layout),
	{}
};

static struct kunit_suite mp_suite = {
	.name		= "megapipe",
	.init		= mp_test_init,
	.exit		= mp_test_exit,
	.test_cases	= mp_cases,
};

kunit_test_suite(mp_suite);
