/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef _NGX_MEGAPIPE_MODULE_H_INCLUDED_
#define _NGX_MEGAPIPE_MODULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* worker processes: open the channel while the privileges are there */
void ngx_megapipe_open(ngx_cycle_t *cycle);

ngx_uint_t ngx_megapipe_available(ngx_cycle_t *cycle);

/* a lwsocket's c->fd is its handle, negated; descriptors are what they were */
int ngx_megapipe_getsockname(ngx_connection_t *c, struct sockaddr *sa,
    socklen_t *len);
int ngx_megapipe_getsockopt(ngx_connection_t *c, int level, int name,
    void *value, socklen_t *len);
int ngx_megapipe_setsockopt(ngx_connection_t *c, int level, int name,
    const void *value, socklen_t len);
int ngx_megapipe_shutdown(ngx_connection_t *c, int how);
int ngx_megapipe_close_socket(ngx_socket_t s);


extern ngx_module_t  ngx_megapipe_module;


#endif /* _NGX_MEGAPIPE_MODULE_H_INCLUDED_ */
