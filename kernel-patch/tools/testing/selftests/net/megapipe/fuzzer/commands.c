// SPDX-License-Identifier: GPL-2.0-only
/*
 * Single commands: most are right, some spoiled, a few noise.
 */
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "fuzz.h"

static struct megapipe_cmd noise(struct thread *t)
{
	struct megapipe_cmd cmd = {
		.op = below(t, NR_OPS + 2),
		.flags = one_in(t, 4) ? below(t, 256) : 0,
		.resv = one_in(t, 8) ? below(t, 65536) : 0,
		.handle = below(t, 1 << 7),
		.addr = bad_address(t),
		.arg = bad_address(t),
		.len = bad_number(t),
		.aux = bad_number(t),
	};

	if (one_in(t, 2))
		cmd.handle |= MEGAPIPE_HANDLE_LWSOCKET | below(t, 4) << 20;
	return cmd;
}

/* Spoil one field. */
static void spoil(struct thread *t, struct megapipe_cmd *cmd)
{
	switch (below(t, 7)) {
	case 0:
		cmd->op = below(t, 256);
		break;
	case 1:
		cmd->flags ^= 1 << below(t, 8);
		break;
	case 2:
		cmd->resv = bad_number(t);
		break;
	case 3:
		cmd->handle ^= 1 << below(t, 31);
		break;
	case 4:
		cmd->addr = bad_address(t);
		break;
	case 5:
		cmd->arg = bad_address(t);
		break;
	default:
		/* Of a good address any length is safe: there is the guard. */
		if (one_in(t, 2))
			cmd->len = bad_number(t);
		else
			cmd->aux = bad_number(t);
	}
}

void emit(struct thread *t, struct megapipe_cmd cmd)
{
	if (t->nr == BATCH)
		return;
	if (one_in(t, 64))
		cmd = noise(t);
	else if (one_in(t, 16))
		spoil(t, &cmd);
	t->cmds[t->nr++] = cmd;
}

/* The next command's own place for an address, in the arena */
static struct mp_addr *address_slot(struct thread *t)
{
	return (struct mp_addr *)(t->arena + ARENA / 8) + t->nr;
}

/* Vectors that cover @len bytes at @data, in the arena too */
static struct iovec *make_vectors(struct thread *t, char *data, uint32_t len,
				  uint32_t *nr)
{
	struct iovec *iov = (struct iovec *)(t->arena + ARENA / 4);
	uint32_t piece = 1 + len / (1 + below(t, 12)), i;

	iov += t->vectors;
	for (i = 0; len; i++) {
		iov[i].iov_base = one_in(t, 200) ?
				  (void *)(uintptr_t)bad_address(t) : data;
		iov[i].iov_len = piece < len ? piece : len;
		data += iov[i].iov_len;
		len -= iov[i].iov_len;
	}
	t->vectors += i;
	*nr = i;
	return iov;
}

/* Sometimes a promise, mostly broken, that more follows */
static void emit_with_more(struct thread *t, struct megapipe_cmd cmd)
{
	if (one_in(t, 8))
		cmd.flags |= MEGAPIPE_CMD_MORE;
	emit(t, cmd);
}

/* Sometimes it goes on as a READ, mostly to where others read to as well. */
static void emit_plain_write(struct thread *t, int handle, const char *data,
			     uint32_t len)
{
	char *in = one_in(t, 100) ? hole + below(t, HOLE) : incoming(t);

	if (one_in(t, 4))
		emit(t, mp_cmd_then_read(handle, data, len, in,
					 len + below(t, 512)));
	else
		emit_with_more(t, mp_cmd_write(handle, data, len));
}

/* Send @len bytes by @handle, in one of the ways there are. */
static void emit_write(struct thread *t, const struct pair *pair, int handle,
		       uint32_t len)
{
	char *data = outgoing(t);
	bool is_socket = pair->kind >= UNIX_STREAM;
	bool dgram = pair->kind == UNIX_DGRAM || pair->kind == UDP;
	struct mp_addr *addr = address_slot(t);
	struct iovec *iov;
	uint32_t nr;

	if (pair->kind == EVENTFD) {
		len = 8;
		data = (char *)addr;
		*(uint64_t *)data = 1;
	}
	if (dgram) {
		*addr = pair->addr;
		emit(t, mp_cmd_sendto(handle, data, len & 1023, addr,
				      addr->len));
		return;
	}
	if (is_socket && one_in(t, 6)) {
		emit_with_more(t, mp_cmd_sendfile(handle, file_fd,
						  below(t, FILE_SIZE / 2),
						  len));
		return;
	}
	if (is_socket && one_in(t, 8)) {
		emit(t, mp_cmd_sendto(handle, data, len, NULL, 0));
		return;
	}
	if (pair->kind != EVENTFD && one_in(t, 3)) {
		iov = make_vectors(t, data, len, &nr);
		emit_with_more(t, mp_cmd_writev(handle, iov, nr));
		return;
	}
	emit_plain_write(t, handle, data, len);
}

static void emit_read(struct thread *t, const struct pair *pair, int handle,
		      uint32_t len)
{
	bool is_socket = pair->kind >= UNIX_STREAM;
	char *data = incoming(t);
	struct iovec *iov;
	uint32_t nr;

	if (one_in(t, 100))
		data = hole + below(t, HOLE);
	if (is_socket && one_in(t, 2)) {
		emit(t, mp_cmd_recvfrom(handle, data, len,
					one_in(t, 2) ? t->arena + ARENA - 256 :
					NULL, 0));
		if (t->nr && t->cmds[t->nr - 1].arg)
			t->cmds[t->nr - 1].aux = below(t, 128);
	} else if (one_in(t, 2) && data != hole) {
		iov = make_vectors(t, data, len, &nr);
		emit(t, mp_cmd_readv(handle, iov, nr));
	} else if (one_in(t, 4)) {
		emit(t, mp_cmd_cookie_read(handle, data, len,
					   next_random(&t->rng)));
	} else {
		emit(t, mp_cmd_read(handle, data, len));
	}
}

void move_data(struct thread *t, const struct pair *pair)
{
	bool duplex = pair->kind == UNIX_STREAM || pair->kind == TCP ||
		      pair->kind == TTY;
	int from = duplex && one_in(t, 2);
	uint32_t len = some_length(t);

	if (pair->kind == EVENTFD || pair->kind == TIMERFD)
		len = 8;
	if (pair->kind == SIGNALFD) {
		len = sizeof(struct signalfd_siginfo);
		kill(getpid(), SIGUSR1);
	}
	if (pair->kind != TIMERFD && pair->kind != SIGNALFD)
		emit_write(t, pair, pair->handle[from], len);
	if (pair->handle[!from])
		emit_read(t, pair, pair->handle[!from], len + below(t, 512));
}

void emit_connect(struct thread *t, const struct pair *pair)
{
	struct mp_addr *addr = address_slot(t);

	*addr = pair->addr;
	emit(t, mp_cmd_connect(pair->handle[0], addr, addr->len));
}
