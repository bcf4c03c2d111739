/* cache_fill.c - a response on its way into a cache: a copy of its body, stored when it is whole.
 *
 * What is stored is what the origin has sent. The copy lies in the worker's own
 * memory until then, so a worker that dies leaves nothing half written. */
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "exchange.h"

enum {
    ROOM_FIRST = 4 * 1024,
    PASS_LONG = 60, /* seconds in which nobody waits for a body that was too long */
};

static size_t filling; /* bytes of all in this worker */

static void forget(struct mg_cache_filling *f)
{
    filling -= f->room;
    free(f->bytes);
    *f = (struct mg_cache_filling){ 0 };
}

static bool make_room(struct mg_cache_filling *f, size_t needed)
{
    size_t room = f->room ? f->room : ROOM_FIRST, most = mg_cache_filling_most(f->cache);

    if (needed <= f->room)
        return true;
    if (needed > f->spec.max_body || needed > most)
        return false;
    while (room < needed)
        room *= 2;
    if (room > most)
        room = most;
    if (filling - f->room + room > most)
        return false;
    char *bytes = realloc(f->bytes, room);
    if (!bytes)
        return false;
    filling += room - f->room;
    f->bytes = bytes;
    f->room = room;
    return true;
}

static void give_up(struct mg_exchange *x, double pass)
{
    struct mg_cache_use *u = x->cached;

    if (!u->filling.cache)
        return;
    forget(&u->filling);
    if (u->claimed)
        mg_cache_release(u->claimed, &x->view, NULL, 0, pass);
}

void mg_cache_fill_drop(struct mg_exchange *x)
{
    give_up(x, 0);
}

void mg_cache_fill_body(struct mg_exchange *x, const struct mg_chain *body, bool last)
{
    struct mg_cache_filling *f = &x->cached->filling;

    if (!f->cache)
        return;
    if (!make_room(f, f->len + body->bytes)) {
        give_up(x, PASS_LONG);
        return;
    }
    if (body->bytes)
        mg_chain_read(body, f->bytes + f->len);
    f->len += body->bytes;
    if (!last)
        return;
    (void)!mg_cache_store(f->cache, &f->spec, (mg_slice){ f->bytes ? f->bytes : "", (uint32_t)f->len }, f->since);
    give_up(x, 0);
}

static bool copy_spec(struct mg_arena *arena, const mg_cache_spec *from, mg_cache_spec *to)
{
    *to = *from;
    to->key = mg_arena_copy(arena, from->key);
    to->vary = mg_arena_copy(arena, from->vary);
    to->tags = mg_arena_copy(arena, from->tags);
    to->head = mg_arena_copy(arena, from->head);
    return !mg_arena_failed(arena);
}

int mg_cache_fill(mg_view *v, mg_cache *c, const mg_cache_spec *spec)
{
    struct mg_exchange *x = MG_EXCHANGE_OF(v);
    struct mg_cache_use *u = mg_cache_use(x);
    const struct mg_field *length = mg_message_known(&x->response, MG_FIELD_CONTENT_LENGTH);
    uint64_t bytes = 0;

    if (!u || !v->response)
        return u ? MG_ABSENT : MG_NO_MEMORY;
    if (v->head_sent || x->out.to || x->out.consumed || x->out.cut || x->producing || u->filling.cache)
        return MG_TOO_LATE;
    struct mg_cache_filling f = { .cache = c, .since = mg_cache_purged(c) };
    if (!copy_spec(x->arena, spec, &f.spec))
        return MG_NO_MEMORY;
    u->filling = f;
    if ((length && mg_text_number(length->value, &bytes) && bytes > 0 && !make_room(&u->filling, bytes)) ||
        bytes > UINT32_MAX) {
        give_up(x, PASS_LONG);
        return MG_FULL;
    }
    mg_cache_fill_body(x, &x->out.held, x->out.whole);
    return MG_OK;
}
