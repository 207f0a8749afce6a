// SPDX-License-Identifier: MIT
/*
 * pingpong: the reply is the request. A message depends on the seed, the
 * connection and the transaction.
 */
#include "content.h"
#include "options.h"
#include "workload.h"

#include <string.h>

static uint64_t message_key(const struct exchange *x)
{
	return mix(mix(x->options->seed + x->connection) + x->transaction);
}

static size_t pingpong_request(const struct exchange *x, size_t offset, void *buf, size_t room)
{
	size_t left = x->options->size - offset;
	size_t len = left < room ? left : room;

	content_fill(message_key(x), offset, buf, len);
	return len;
}

static enum verdict pingpong_reply(const struct exchange *x, size_t offset, const void *buf,
				   size_t len, void *scratch)
{
	size_t left = x->options->size - offset;

	if (len > left)
		return REPLY_WRONG;
	content_fill(message_key(x), offset, scratch, len);
	if (memcmp(buf, scratch, len))
		return REPLY_WRONG;
	return len == left ? REPLY_COMPLETE : REPLY_INCOMPLETE;
}

const struct workload workload_pingpong = {
	.name = "pingpong",
	.help = "the server echoes what it receives",
	.request = pingpong_request,
	.reply = pingpong_reply,
};
