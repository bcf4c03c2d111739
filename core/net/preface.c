/* preface.c - bytes put back in front of a transport.
 *
 * A transport has no room for them, and needs none: they are found by its
 * address for the turn of the loop or two that they lie here. */
#include "preface.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 64 }; /* a power of two */

struct preface {
    struct preface *next; /* in its bucket */
    struct mg_transport *transport;
    const struct mg_transport_ops *own; /* its operations, but for now */
    char *bytes;
    size_t at, end;
};

static struct preface *buckets[BUCKETS];

static struct preface **place_of(const struct mg_transport *t)
{
    struct preface **p = &buckets[((uintptr_t)t >> 6) & (BUCKETS - 1)];

    while (*p && (*p)->transport != t)
        p = &(*p)->next;
    return p;
}

static const struct mg_transport_ops *own(const struct mg_transport *t)
{
    const struct preface *p = *place_of(t);

    assert(p);
    return p->own;
}

/* The transport has its own operations again. */
static void take_off(struct mg_transport *t)
{
    struct preface **place = place_of(t), *p = *place;

    assert(p);
    *place = p->next;
    t->ops = p->own;
    free(p->bytes);
    free(p);
}

static enum mg_io preface_read(struct mg_transport *t, void *to, size_t cap, size_t *n)
{
    struct preface *p = *place_of(t);

    assert(p);
    *n = p->end - p->at < cap ? p->end - p->at : cap;
    memcpy(to, p->bytes + p->at, *n);
    p->at += *n;
    if (p->at == p->end)
        take_off(t);
    return MG_IO_DONE;
}

static enum mg_io preface_write(struct mg_transport *t, const struct iovec *v, int count, size_t *n)
{
    return own(t)->write(t, v, count, n);
}

static void preface_shutdown(struct mg_transport *t)
{
    own(t)->shutdown(t);
}

static void preface_close(struct mg_transport *t, bool abort)
{
    take_off(t);
    t->ops->close(t, abort);
}

/* The bytes are there whether more come or not. */
static void preface_want_read(struct mg_transport *t, bool on)
{
    own(t)->want_read(t, on);
    if (on)
        own(t)->again(t);
}

static void preface_want_write(struct mg_transport *t)
{
    own(t)->want_write(t);
}

static void preface_again(struct mg_transport *t)
{
    own(t)->again(t);
}

static bool preface_ended(struct mg_transport *t)
{
    return own(t)->ended(t);
}

static bool preface_stirred(struct mg_transport *t)
{
    (void)t;
    return true;
}

static const struct mg_transport_ops preface_ops = {
    .read = preface_read,
    .write = preface_write,
    .shutdown = preface_shutdown,
    .close = preface_close,
    .want_read = preface_want_read,
    .want_write = preface_want_write,
    .again = preface_again,
    .ended = preface_ended,
    .stirred = preface_stirred,
};

bool mg_preface_put(struct mg_transport *t, char *bytes, size_t at, size_t end)
{
    struct preface *p = calloc(1, sizeof(*p)), **place = place_of(t);

    assert(at < end && !*place);
    if (!p) {
        free(bytes);
        return false;
    }
    *p = (struct preface){ .transport = t, .own = t->ops, .bytes = bytes, .at = at, .end = end };
    *place = p;
    t->ops = &preface_ops;
    return true;
}
