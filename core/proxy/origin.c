/* origin.c - where a server is: made, and taken leave of. */
#include "origin.h"

#include <string.h>

#include <arpa/inet.h>

#include "pool.h"
#include "resolve.h"

enum { ADDRESSES_MOST = 16 }; /* of a name that are looked at */

void mg_origin_open(struct mg_origin *o, mg_slice host, uint16_t port)
{
    *o = (struct mg_origin){ .host = host, .port = port };
    /* What safety asks for where an upstream says nothing. */
    o->limits = (struct mg_limits){
        .max_head_size = 64 * 1024,
        .max_fields = 256,
        .max_chunk_line = 4 * 1024,
        .max_chunk_extensions = 16 * 1024,
        .max_trailer_size = 8 * 1024,
        .max_concurrent_streams = 100,
        .stream_window = 256 * 1024,
    };
    bool known = host.len > 5 && memcmp(host.ptr, "unix:", 5) == 0 ? mg_address_parse(host, &o->address)
                                                                   : mg_address_literal(host, port, &o->address);
    if (!known)
        o->address.len = 0;
}

void mg_origin_close(struct mg_origin *o)
{
    if (o->pool)
        mg_pool_drop(o->pool);
    o->pool = NULL;
}

void mg_origin_put_port(const struct mg_origin *o, struct mg_address *a)
{
    if (a->any.sa_family == AF_INET6)
        a->ip6.sin6_port = htons(o->port);
    else
        a->ip4.sin_port = htons(o->port);
}

/* ---- Its kept connections. ---- */

static void on_lookup(void *owner, const struct mg_address *list, unsigned count, const char *problem)
{
    (void)owner;
    (void)list;
    (void)count;
    (void)problem;
}

/* The addresses that are known by now. */
static unsigned addresses_of(const struct mg_origin *o, struct mg_address *list)
{
    unsigned count = ADDRESSES_MOST;

    if (o->address.len) {
        list[0] = o->address;
        return 1;
    }
    struct mg_lookup *l = mg_resolve(o->host, list, &count, on_lookup, NULL);
    if (l)
        mg_lookup_cancel(l);
    for (unsigned i = 0; i < count; i++)
        mg_origin_put_port(o, &list[i]);
    return count;
}

void mg_origin_drain(const struct mg_origin *o)
{
    struct mg_address list[ADDRESSES_MOST];
    unsigned count = addresses_of(o, list);

    for (unsigned i = 0; i < count; i++) {
        struct mg_pool *p = mg_pool_find(&list[i], o);
        if (p)
            mg_pool_drain(p);
    }
}

void mg_origin_adopt(struct mg_origin *o)
{
    if (!o->address.len || o->pool)
        return;
    o->pool = mg_pool_find(&o->address, o);
    if (o->pool)
        o->pool->refs++;
}

void mg_origin_leave(struct mg_origin *o)
{
    if (o->pool && o->pool->refs == o->pool->connections + 1)
        mg_pool_drain(o->pool);
    mg_origin_close(o);
}
