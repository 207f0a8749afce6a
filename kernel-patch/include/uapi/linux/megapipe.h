/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * MegaPipe: channels between a process and the kernel for network I/O.
 *
 * This is the whole ABI of /dev/megapipe.  An open file of the device is one
 * channel.  A process sends it arrays of commands and gets arrays of
 * completions back, both in the same ioctl().  Programs should use
 * libmegapipe rather than this header.
 *
 * Every structure has the same layout for 32-bit and 64-bit programs and no
 * implicit padding.  Fields called "resv" must be zero, or -EINVAL.
 */
#ifndef _UAPI_LINUX_MEGAPIPE_H
#define _UAPI_LINUX_MEGAPIPE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MEGAPIPE_ABI_VERSION	2

/*
 * A handle names one registered descriptor or one lwsocket, within its
 * channel only.  It is a positive number: a slot (bits 0-19) and a generation
 * (bits 20-29), so that a stale handle is told from its slot's next owner.
 */
#define MEGAPIPE_MAX_HANDLES	(1U << 20)
#define MEGAPIPE_HANDLE_LWSOCKET (1 << 30)	/* set in handles of lwsockets */

/**
 * enum megapipe_op - what a command asks for, and what a completion reports
 * @MEGAPIPE_OP_ACCEPT: accept @len connections (0: until cancelled) on a
 *	listening handle, one completion each.  The completion's @res is the
 *	new descriptor or, with MEGAPIPE_CMD_LWSOCKET, the new lwsocket's
 *	handle; its @aux is the number of connections still waiting.
 * @MEGAPIPE_OP_CONNECT: connect to the address of @len bytes at @addr.
 * @MEGAPIPE_OP_READ: read up to @len bytes to @addr.  @res 0 is end of file.
 *	With MEGAPIPE_CMD_COOKIE it is a COOKIE command, of @arg, before that.
 * @MEGAPIPE_OP_READV: the same to the @len struct iovec at @addr.
 * @MEGAPIPE_OP_RECVFROM: the same as READ, from a socket; the sender's address
 *	goes to @arg, which has room for @aux bytes.  The completion's @aux is
 *	the length of the address, which may be more than there was room for.
 * @MEGAPIPE_OP_WRITE: write all @len bytes at @addr; fewer only before an
 *	error, which the next write then reports.  With MEGAPIPE_CMD_THEN_READ it
 *	goes on, once all is written, as a READ of up to @aux bytes to @arg, whose
 *	completion is the only one; otherwise WRITE's is, and nothing is read.
 * @MEGAPIPE_OP_WRITEV: the same for the @len struct iovec at @addr; of more than
 *	2 GiB only the first part is written.
 * @MEGAPIPE_OP_SENDTO: the same as WRITE, to a socket, for the address of @aux
 *	bytes at @arg.
 * @MEGAPIPE_OP_SENDFILE: the same as WRITE, to a socket, from descriptor @aux, a
 *	file, beginning at byte @arg of it.  Fewer bytes also at the file's end.
 * @MEGAPIPE_OP_POLL: wait until the handle is ready for one of the EPOLL* events
 *	in @aux, or has an error or was hung up.  @res is what it is ready for.
 *	Not for listening handles.
 * @MEGAPIPE_OP_DISCONNECT: after a pending write, end the sending direction, as
 *	shutdown(SHUT_WR) does; what the peer sends can still be read.  Frees and
 *	unregisters nothing.
 * @MEGAPIPE_OP_CANCEL: end the pending commands of the handle; each of them
 *	completes with -ECANCELED or, for a write, the bytes already moved.
 * @MEGAPIPE_OP_COOKIE: @arg is what completions of this handle carry from now
 *	on.  (Descriptors get theirs from MEGAPIPE_IOC_REGISTER.)
 * @MEGAPIPE_OP_UNREGISTER: drop the handle.  Its pending commands end without
 *	a completion.  An lwsocket is closed: nothing else refers to it.
 * @MEGAPIPE_OP_CLOSE: unregister, and close the descriptor too.
 *
 * CANCEL, COOKIE, UNREGISTER and CLOSE have no completion of their own unless
 * they fail.  A handle can have pending at a time one of READ, READV and
 * RECVFROM; one of CONNECT, WRITE, WRITEV, SENDTO and SENDFILE; one POLL; and
 * one ACCEPT or DISCONNECT.  (A WRITE that is to go on as a READ is both.)
 * Another fails with -EBUSY.  -EBADF says that there is no such handle or, by
 * SENDFILE, no such file.
 */
enum megapipe_op {
	MEGAPIPE_OP_ACCEPT,
	MEGAPIPE_OP_CONNECT,
	MEGAPIPE_OP_READ,
	MEGAPIPE_OP_READV,
	MEGAPIPE_OP_RECVFROM,
	MEGAPIPE_OP_WRITE,
	MEGAPIPE_OP_WRITEV,
	MEGAPIPE_OP_SENDTO,
	MEGAPIPE_OP_SENDFILE,
	MEGAPIPE_OP_POLL,
	MEGAPIPE_OP_DISCONNECT,
	MEGAPIPE_OP_CANCEL,
	MEGAPIPE_OP_COOKIE,
	MEGAPIPE_OP_UNREGISTER,
	MEGAPIPE_OP_CLOSE,
	MEGAPIPE_OP_LAST,	/* number of operations */
};

/* Flags of a command */
#define MEGAPIPE_CMD_LWSOCKET	(1U << 0)	/* ACCEPT: make lwsockets */
/*
 * WRITE, WRITEV, SENDFILE: another write to the handle follows at once.  TCP may
 * keep what does not fill a segment for it, about 200 ms if it is not true, and
 * TLS on top what does not fill a record, until it is (MSG_MORE of send()).
 */
#define MEGAPIPE_CMD_MORE	(1U << 1)
/* WRITE, not with MORE: then READ, with one completion: a reply, the next request */
#define MEGAPIPE_CMD_THEN_READ	(1U << 2)
#define MEGAPIPE_CMD_COOKIE	(1U << 3)	/* READ: it brings a cookie */

/**
 * struct megapipe_cmd - one command
 * @op: enum megapipe_op
 * @flags: MEGAPIPE_CMD_*
 * @resv: must be zero
 * @handle: the handle it works on
 * @addr: user address of the data, the struct iovec array or the peer's address
 * @arg: user address of a socket address or of what is read then, an offset, or
 *	a cookie
 * @len: bytes, elements or connections
 * @aux: length of the socket address, bytes to read then, a descriptor, or
 *	events
 *
 * What an operation does not use must be zero.
 */
struct megapipe_cmd {
	__u8	op;
	__u8	flags;
	__u16	resv;
	__s32	handle;
	__u64	addr;
	__u64	arg;
	__u32	len;
	__u32	aux;
};

/* Flags of a completion */
#define MEGAPIPE_EVENT_MORE	(1U << 0)	/* ACCEPT: it is still pending */
#define MEGAPIPE_EVENT_FD	(1U << 1)	/* ACCEPT: @res is a descriptor */
#define MEGAPIPE_EVENT_TRUNC	(1U << 2)	/* the datagram was longer */

/**
 * struct megapipe_event - one completion
 * @cookie: the handle's cookie
 * @handle: the handle
 * @res: result, or a negative error number
 * @op: enum megapipe_op of the command that it completes
 * @flags: MEGAPIPE_EVENT_*.  A connection that cannot be an lwsocket (its
 *	callbacks or its protocol belong to somebody else) is accepted as a
 *	descriptor although the command has MEGAPIPE_CMD_LWSOCKET:
 *	MEGAPIPE_EVENT_FD tells.
 * @aux: ACCEPT: connections still in the accept queue; RECVFROM: length of the
 *	sender's address
 * @data: reserved, zero
 */
struct megapipe_event {
	__u64	cookie;
	__s32	handle;
	__s32	res;
	__u16	op;
	__u16	flags;
	__u32	aux;
	__u64	data;
};

/**
 * struct megapipe_dispatch - run commands, then fetch completions
 * @cmds: user address of @nr_cmds struct megapipe_cmd
 * @events: user address of room for @max_events struct megapipe_event
 * @nr_cmds: commands to run, in order
 * @max_events: room for completions
 * @min_events: completions to wait for (at most @max_events); 0: do not wait
 * @done_cmds: out: commands consumed.  Fewer than @nr_cmds only when there was
 *	no room to report another failure: send the rest again.  Or when the
 *	rest cannot be read: sent again, it fails with -EFAULT.
 * @timeout_ns: longest wait; negative: no limit
 * @sigmask: user address of a signal mask for the time of the call, as in
 *	epoll_pwait(); 0: leave the mask
 * @sigsetsize: bytes of @sigmask
 * @flags: must be zero
 * @resv: must be zero
 *
 * The ioctl() returns the number of completions written, 0 after a timeout.
 * -EINTR: a signal came and there was nothing to return; @done_cmds is written
 * all the same.  A command that fails completes with its error and does not
 * stop those behind it.
 */
struct megapipe_dispatch {
	__u64	cmds;
	__u64	events;
	__u32	nr_cmds;
	__u32	max_events;
	__u32	min_events;
	__u32	done_cmds;
	__s64	timeout_ns;
	__u64	sigmask;
	__u32	sigsetsize;
	__u32	flags;
	__u64	resv;
};

/* Flags of a registration */
#define MEGAPIPE_REG_PARTITION	(1U << 0)	/* cpu_mask is given */

/**
 * struct megapipe_register - make a handle for a descriptor
 * @fd: a socket (TCP, UDP, UNIX), pipe, FIFO, terminal, eventfd, signalfd or
 *	timerfd.  Of FIFOs, terminals and writes to an eventfd, O_NONBLOCK is
 *	demanded (-EOPNOTSUPP); files on disk are always ready (-EPERM); channels,
 *	epoll and io_uring descriptors could wait for each other (-ELOOP).
 * @flags: MEGAPIPE_REG_*
 * @cookie: what the handle's completions carry
 * @cpu_mask: user address of a CPU bitmap in sched_setaffinity() layout: this
 *	channel gets an accept queue of its own, for the connections whose
 *	handshake arrives on these CPUs
 * @cpu_mask_size: bytes of @cpu_mask
 * @resv: must be zero
 *
 * The ioctl() returns the handle.
 */
struct megapipe_register {
	__s32	fd;
	__u32	flags;
	__u64	cookie;
	__u64	cpu_mask;
	__u32	cpu_mask_size;
	__u32	resv;
};

/**
 * struct megapipe_info - what this kernel offers
 * @abi_version: MEGAPIPE_ABI_VERSION
 * @nr_ops: commands known: ops 0 to nr_ops - 1
 * @max_handles: handles that this channel may have (the opener's
 *	RLIMIT_NOFILE, at most net.megapipe.max_channel_handles)
 * @max_dispatch: commands, and completions, of one MEGAPIPE_IOC_DISPATCH
 * @features: reserved, zero
 * @max_user_handles: handles that all channels of the opener's user may have
 *	(net.megapipe.max_user_handles)
 * @user_handles: of these, in use or set aside for a channel
 * @resv: zero
 */
struct megapipe_info {
	__u32	abi_version;
	__u32	nr_ops;
	__u32	max_handles;
	__u32	max_dispatch;
	__u64	features;
	__u64	max_user_handles;
	__u64	user_handles;
	__u64	resv[3];
};

/**
 * struct megapipe_stats - counters of a channel since it was opened
 * @dispatches: MEGAPIPE_IOC_DISPATCH calls
 * @commands: commands consumed
 * @events: completions delivered
 * @sleeps: times a dispatch went to sleep
 * @accepts: connections accepted
 * @accepts_foreign: of these, connections whose last packet before accept was
 *	handled on another CPU than the accepting one
 * @handles: handles now
 * @lwsockets: of these, lwsockets
 * @migrated_in: unaccepted connections taken over from closed partitions
 * @resv: zero
 */
struct megapipe_stats {
	__u64	dispatches;
	__u64	commands;
	__u64	events;
	__u64	sleeps;
	__u64	accepts;
	__u64	accepts_foreign;
	__u64	handles;
	__u64	lwsockets;
	__u64	migrated_in;
	__u64	resv[7];
};

/**
 * struct megapipe_sockopt - a socket option of a handle, without a descriptor
 * @handle: an lwsocket or a registered socket
 * @level: as for setsockopt(): SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP
 * @name: the option
 * @len: bytes at @value; MEGAPIPE_IOC_GETSOCKOPT changes it to those written
 * @value: user address of the value
 * @resv: must be zero
 */
struct megapipe_sockopt {
	__s32	handle;
	__s32	level;
	__s32	name;
	__u32	len;
	__u64	value;
	__u64	resv;
};

/**
 * struct megapipe_sockname - an address of a handle, without a descriptor
 * @handle: an lwsocket or a registered socket
 * @peer: 0: the local address, as getsockname(); 1: the peer's, as getpeername()
 * @addr: user address of room for the address
 * @len: bytes of room; out: bytes of the address, which may be more
 * @resv: must be zero
 */
struct megapipe_sockname {
	__s32	handle;
	__u32	peer;
	__u64	addr;
	__u32	len;
	__u32	resv;
};

/**
 * struct megapipe_tofd - turn an lwsocket into a descriptor
 * @handle: the lwsocket; ends, unless the ioctl() fails.  -EBUSY while commands
 *	are pending on it.
 * @flags: O_CLOEXEC and O_NONBLOCK
 * @resv: must be zero
 *
 * The ioctl() returns the descriptor.
 */
struct megapipe_tofd {
	__s32	handle;
	__u32	flags;
	__u64	resv;
};

/**
 * struct megapipe_listener - is a listener partitioned, and how does it fare?
 * @handle: a listening handle
 * @partitions: partitions of the listening socket now, those of all channels;
 *	0: connections go to its one accept queue
 * @cpus: CPUs whose handshakes this channel's partition takes, alone or with
 *	others; 0 if the channel has none
 * @queued: connections in this channel's partition, or else in the socket
 * @backlog: most of them
 * @resv: zero
 * @accepts: accepted by this handle
 * @accepts_foreign: see struct megapipe_stats
 * @migrated_in: taken over from closed partitions
 * @resv2: zero
 */
struct megapipe_listener {
	__s32	handle;
	__u32	partitions;
	__u32	cpus;
	__u32	queued;
	__u32	backlog;
	__u32	resv;
	__u64	accepts;
	__u64	accepts_foreign;
	__u64	migrated_in;
	__u64	resv2[4];
};

#define MEGAPIPE_IOC_MAGIC	0xBA
#define MEGAPIPE_IOC_INFO	_IOR(MEGAPIPE_IOC_MAGIC, 0, struct megapipe_info)
#define MEGAPIPE_IOC_STATS	_IOR(MEGAPIPE_IOC_MAGIC, 1, struct megapipe_stats)
#define MEGAPIPE_IOC_REGISTER	_IOW(MEGAPIPE_IOC_MAGIC, 2, struct megapipe_register)
#define MEGAPIPE_IOC_DISPATCH	_IOWR(MEGAPIPE_IOC_MAGIC, 3, struct megapipe_dispatch)
#define MEGAPIPE_IOC_SETSOCKOPT	_IOW(MEGAPIPE_IOC_MAGIC, 4, struct megapipe_sockopt)
#define MEGAPIPE_IOC_GETSOCKOPT	_IOWR(MEGAPIPE_IOC_MAGIC, 5, struct megapipe_sockopt)
#define MEGAPIPE_IOC_SOCKNAME	_IOWR(MEGAPIPE_IOC_MAGIC, 6, struct megapipe_sockname)
#define MEGAPIPE_IOC_TOFD	_IOW(MEGAPIPE_IOC_MAGIC, 7, struct megapipe_tofd)
#define MEGAPIPE_IOC_LISTENER	_IOWR(MEGAPIPE_IOC_MAGIC, 8, struct megapipe_listener)

#endif /* _UAPI_LINUX_MEGAPIPE_H */
