// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A static file server: GET of HTTP/1.0 for the files below a directory, sent
 * from the page cache to the network without being copied.
 *
 *	gcc -O2 fileserver.c -o fileserver $(pkg-config --cflags --libs libmegapipe)
 *	./fileserver 8000 /srv/www
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <megapipe.h>

struct connection {
	mp_handle handle;
	int file;
	off_t sent, size;	/* of the file */
	bool answered;
	size_t used;		/* of the request */
	char buf[2048];		/* the request, then the answer's head */
};

static void finish(struct connection *c)
{
	mp_close(c->handle);
	if (c->file >= 0)
		close(c->file);
	free(c);
}

/* No way out of the directory: neither "..", nor a link, nor /proc. */
static int open_below(const char *path)
{
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};

	return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static void respond(struct connection *c)
{
	const char *status = "400 Bad Request", *path = c->buf + 4;
	char *end = strpbrk(path, " \r\n");
	struct stat st;
	int head;

	if (!strncmp(c->buf, "GET /", 5) && end) {
		*end = '\0';
		path += strspn(path, "/");
		c->file = open_below(*path ? path : "index.html");
		status = "404 Not Found";
		if (c->file >= 0 && !fstat(c->file, &st) && S_ISREG(st.st_mode)) {
			status = "200 OK";
			c->size = st.st_size;
		}
	}
	head = snprintf(c->buf, sizeof(c->buf),
			"HTTP/1.0 %s\r\nContent-Length: %lld\r\n\r\n",
			status, (long long)c->size);
	mp_write(c->handle, c->buf, (size_t)head);
}

/* The head or a part of the file has gone out. */
static void send_more(struct connection *c)
{
	const off_t most = 1 << 30;
	off_t left = c->size - c->sent;

	if (left)
		mp_sendfile(c->handle, c->file, c->sent,
			    (size_t)(left < most ? left : most));
	else
		mp_disconnect(c->handle);
}

/* A part of the request.  What comes after the answer is read and dropped. */
static void received(struct connection *c, int bytes)
{
	c->used = c->answered ? 0 : c->used + (size_t)bytes;
	c->buf[c->used] = '\0';
	if (!c->answered &&
	    (strstr(c->buf, "\r\n\r\n") || c->used == sizeof(c->buf) - 1))
		respond(c);
	else
		mp_read(c->handle, c->buf + c->used,
			sizeof(c->buf) - 1 - c->used);
}

static void completed(struct connection *c, const struct mp_event *event)
{
	if (event->cmd == MP_DISCONNECT && !event->result) {
		/* To close now would reset it, if the peer has sent more. */
		c->answered = true;
		received(c, 0);
	} else if (event->result <= 0) {
		finish(c);	/* the peer's end of file, or an error */
	} else if (event->cmd == MP_READ) {
		received(c, event->result);
	} else {
		c->sent += event->cmd == MP_SENDFILE ? event->result : 0;
		send_more(c);
	}
}

static void accepted(struct mp_channel *channel, int lwsocket)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (!c)
		exit(1);
	c->file = -1;
	mp_register(channel, lwsocket, c, NULL, &c->handle);
	received(c, 0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char why[MP_EXPLAIN_SIZE];
	struct mp_channel *channel;
	struct mp_event event;
	mp_handle handle;
	int err = mp_create(&channel);

	if (err) {
		fprintf(stderr, "%s\n", mp_explain(err, why, sizeof(why)));
		return 1;
	}
	any.sin6_port = htons((uint16_t)(argc == 3 ? atoi(argv[1]) : 0));
	if (!any.sin6_port || chdir(argv[2]) ||
	    bind(listener, (struct sockaddr *)&any, sizeof(any)) ||
	    listen(listener, 4096) ||
	    mp_register(channel, listener, NULL, NULL, &handle)) {
		fprintf(stderr, "usage: %s PORT DIRECTORY (%m)\n", argv[0]);
		return 2;
	}
	mp_accept(handle, MP_FOREVER, true);
	while (mp_dispatch(channel, &event, -1) == 1 &&
	       (event.cmd != MP_ACCEPT || event.result >= 0)) {
		if (event.cmd == MP_ACCEPT)
			accepted(channel, event.result);
		else
			completed(event.cookie, &event);
	}
	return 1;
}
