// SPDX-License-Identifier: MIT
/*
 * MegaPipe: a channel per thread. The paper's three ideas have a switch each:
 * with partitions every channel has its own accept queue, of the connections that
 * its CPU receives; with lwsockets they are no descriptors; with batching requests
 * and completions share system calls.
 */
#include "api.h"
#include "megapipe_io.h"
#include "megapipe_server.h"

static void megapipe_run(struct worker *w)
{
	struct channel_state *s = w->state;
	struct mp_channel *channel = s->io.channel;
	struct mp_event event = { 0 };
	int64_t wait_us = s->wait_us;

	for (;;) {
		int ret = mp_dispatch(channel, &event, wait_us);

		if (ret == 0) {
			if (!s->accepting && !s->shedding)
				accept_some(w);
			wait_us = s->wait_us;
			continue;
		}
		if (ret < 0) {
			if (ret == -EINTR)
				continue;
			count(&w->counters.errors, 1);
			return;
		}
		switch (event.cmd) {
		case MP_ACCEPT:
			accepted(w, event.result);
			wait_us = s->wait_us;
			break;
		case MP_READ:
			has_read(w, event.cookie, event.result);
			break;
		case MP_WRITE:
			has_written(w, event.cookie, event.result);
			break;
		case MP_POLL:
			if (!polled(w, event.cookie))
				return;
			break;
		default:
			count(&w->counters.errors, 1);
			break;
		}
	}
}

const struct api api_megapipe = {
	.name = "megapipe",
	.has_channels = true,
	.knows_foreign = true,
	.open = server_open,
	.run = megapipe_run,
	.refresh = server_refresh,
	.close = server_close,
};
