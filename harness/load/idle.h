/* SPDX-License-Identifier: MIT */
#ifndef LOAD_IDLE_H
#define LOAD_IDLE_H

#include <stdint.h>
#include <sys/socket.h>

/*
 * Open nr connections on which nothing is ever said, and keep them until the program
 * ends. 0, or -errno of the one that could not be opened: -ETIMEDOUT if it took longer
 * than timeout_ns.
 */
int idle_open(const struct sockaddr *address, socklen_t len, uint64_t nr, int64_t timeout_ns);

#endif
