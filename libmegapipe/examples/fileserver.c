// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A file server: GET of HTTP/1.0 below a directory, by sendfile.  It leaves out
 * time limits, types, ranges, and files of more than 1 GiB.
 *
 *	gcc -O2 fileserver.c -o fileserver $(pkg-config --cflags --libs libmegapipe)
 *	./fileserver 8000 /srv/www
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <megapipe.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOM 4095	/* for a request */

struct connection {
	mp_handle handle;
	int file;
	size_t size;		/* of the file, until it is sent */
	size_t used;		/* of the request; more than ROOM: answered */
	char buf[ROOM + 1];	/* the request, a string; then the answer's head */
};

static void respond(struct connection *c)
{
	struct open_how how = { .flags = O_RDONLY | O_NONBLOCK,	/* no way out: */
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
	const char *status = "400 Bad Request";
	char *path = c->buf + 5;
	struct stat st;

	if (!strncmp(c->buf, "GET /", 5) && strstr(path, "\r\n\r\n")) {
		path[strcspn(path, " \r\n")] = '\0';
		c->file = (int)syscall(SYS_openat2, AT_FDCWD, *path ? path :
				       "index.html", &how, sizeof(how));
		status = "404 Not Found";
		if (!fstat(c->file, &st) && S_ISREG(st.st_mode) &&
		    st.st_size <= 1 << 30) {
			status = "200 OK";
			c->size = (size_t)st.st_size;
		}
	}
	c->used = ROOM + 1;
	mp_write(c->handle, c->buf, (size_t)sprintf(c->buf,
		 "HTTP/1.0 %s\r\nContent-Length: %zu\r\n\r\n", status, c->size));
}

static void completed(struct connection *c, const struct mp_event *event)
{
	if (event->result < 0 || (!event->result && event->cmd != MP_DISCONNECT)) {
		mp_close(c->handle);	/* the peer's end of file, or an error */
		close(c->file);
		free(c);
	} else if (event->cmd == MP_READ && c->used <= ROOM) {
		c->used += (size_t)event->result;
		if (c->used == ROOM || strstr(c->buf, "\r\n\r\n"))
			respond(c);
		else
			mp_read(c->handle, c->buf + c->used, ROOM - c->used);
	} else if (event->cmd == MP_READ || event->cmd == MP_DISCONNECT) {
		/* To close with something unread would reset the connection. */
		mp_read(c->handle, c->buf, ROOM);
	} else if (c->size) {
		mp_sendfile(c->handle, c->file, 0, c->size);
		c->size = 0;
	} else {
		mp_disconnect(c->handle);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	int one = 1, listener = socket(AF_INET6, SOCK_STREAM, 0);
	struct mp_channel *channel;
	struct mp_event event;
	struct connection *c;
	mp_handle handle;

	any.sin6_port = htons((uint16_t)atoi(argc == 3 ? argv[1] : "0"));
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (argc != 3 || bind(listener, (struct sockaddr *)&any, sizeof(any)) ||
	    listen(listener, 4096) || chdir(argv[2]))
		err(2, "usage: %s PORT DIRECTORY", argv[0]);
	if (mp_create(&channel) ||
	    mp_register(channel, listener, NULL, NULL, &handle))
		errx(1, "MegaPipe cannot be used here: megapipe-info says why");
	mp_accept(handle, MP_FOREVER, true);
	while (mp_dispatch(channel, &event, -1) == 1) {
		if (event.cookie) {
			completed(event.cookie, &event);
			continue;
		}
		c = calloc(1, sizeof(*c));
		if (!c || event.result < 0 ||
		    mp_register(channel, event.result, c, NULL, &c->handle))
			errx(1, "no room for a connection");
		c->file = -1;
		mp_read(c->handle, c->buf, ROOM);
	}
	return 1;
}
