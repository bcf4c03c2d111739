/* cache.c - which stored response a request may get, and what takes the place of what. */
#include "cache.h"

#include <string.h>

#include "cache_store.h"

enum {
    VARIANTS_MOST = 64,           /* of one key */
    COPIED_MOST = MG_BLOCK_SMALL, /* bytes of head and body; of a longer one the body is pinned */
};

/* ---- Which variant. ---- */

static mg_slice skip_blanks(mg_slice s)
{
    while (s.len && (*s.ptr == ' ' || *s.ptr == '\t'))
        s = (mg_slice){ s.ptr + 1, s.len - 1 };
    return s;
}

/* The same lists, whatever blanks stand around their commas? */
static bool same_list(mg_slice a, mg_slice b)
{
    if (mg_text_equal(a, b))
        return true;
    for (a = skip_blanks(a), b = skip_blanks(b); a.len && b.len; a.ptr++, a.len--, b.ptr++, b.len--) {
        if (*a.ptr == ' ' && skip_blanks(a).len && *skip_blanks(a).ptr == ',')
            a = skip_blanks(a);
        if (*b.ptr == ' ' && skip_blanks(b).len && *skip_blanks(b).ptr == ',')
            b = skip_blanks(b);
        if (*a.ptr != *b.ptr)
            return false;
        if (*a.ptr != ',')
            continue;
        mg_slice behind = skip_blanks((mg_slice){ a.ptr + 1, a.len - 1 });
        a = (mg_slice){ behind.ptr - 1, behind.len + 1 };
        behind = skip_blanks((mg_slice){ b.ptr + 1, b.len - 1 });
        b = (mg_slice){ behind.ptr - 1, behind.len + 1 };
    }
    return !a.len && !b.len;
}

/* Does the request have these fields, "name:value\n" each (RFC 9111 4.1)? */
static bool chooses(const struct mg_message *request, mg_slice vary)
{
    while (vary.len) {
        const char *end = memchr(vary.ptr, '\n', vary.len);
        uint32_t len = (uint32_t)(end - vary.ptr);
        const char *colon = memchr(vary.ptr, ':', len);
        mg_slice name = { vary.ptr, colon ? (uint32_t)(colon - vary.ptr) : len }, value;
        bool has = mg_message_get(request, name, &value) == MG_OK;
        if (has != (colon != NULL) || (has && !same_list(value, (mg_slice){ colon + 1, len - name.len - 1 })))
            return false;
        vary = (mg_slice){ end + 1, vary.len - len - 1 };
    }
    return true;
}

/* Copies the head, and a body that is not long; a long one is pinned. */
static int copy_out(mg_cache *c, struct mg_cache_entry *e, struct mg_cache_copy *out)
{
    mg_slice head = mg_cache_head_of(e), body = mg_cache_body_of(e);
    bool whole = (size_t)head.len + body.len <= COPIED_MOST;

    *out = (struct mg_cache_copy){ .cache = c, .entry = mg_piece_offset(&c->heap, e) };
    if (!whole && !(out->pin = mg_cache_pin(c, e)))
        return MG_CACHE_CROWDED;
    size_t len = whole ? head.len + body.len : head.len;
    out->block = mg_block_take(len);
    out->about = (mg_cached){ .times = e->times, .id = (double)e->id, .length = body.len };
    if (!out->block)
        return MG_NO_MEMORY;
    memcpy(out->block->data, head.ptr, len); /* the body lies behind the head */
    out->block->used = (unsigned)len;
    out->about.head = (mg_slice){ out->block->data, head.len };
    if (whole)
        out->body = (mg_slice){ out->block->data + head.len, body.len };
    return MG_CACHE_FOUND;
}

int mg_cache_look(mg_cache *c, mg_slice key, const struct mg_message *request, struct mg_cache_copy *out)
{
    uint32_t hash = mg_cache_hash(c, key), *link = mg_cache_bucket(c, hash);
    int found = MG_CACHE_MISS;

    out->block = NULL;
    out->pin = 0;
    mg_cache_lock(c);
    for (struct mg_cache_entry *e; (e = mg_cache_next(c, key, hash, &link)); link = &e->next) {
        if (e->kind != MG_CACHE_RESPONSE)
            continue;
        found = MG_CACHE_OTHER_VARIANT;
        if (!chooses(request, mg_cache_vary_of(e)))
            continue;
        mg_cache_touch(c, e);
        found = copy_out(c, e, out);
        break;
    }
    mg_cache_unlock(c);
    if (found < 0)
        mg_cache_let_go(out);
    return found;
}

/* ---- Storing. ---- */

/* Was this key purged since then, or may it have been? */
static bool is_purged(const struct mg_cache_store *s, uint32_t hash, uint64_t since)
{
    if (s->purges - since > MG_CACHE_PURGES)
        return true;
    for (uint64_t i = since; i < s->purges; i++) {
        const struct mg_cache_purge *p = &s->purged[i % MG_CACHE_PURGES];
        if (p->all || p->hash == hash)
            return true;
    }
    return false;
}

uint64_t mg_cache_purged(mg_cache *c)
{
    mg_cache_lock(c);
    uint64_t purges = c->store->purges;
    mg_cache_unlock(c);
    return purges;
}

/* Takes out what the new one takes the place of, and the oldest of too many variants. */
static void make_way(mg_cache *c, const mg_cache_spec *spec, uint32_t hash)
{
    uint32_t *link = mg_cache_bucket(c, hash);
    unsigned variants = 0;

    for (struct mg_cache_entry *e; (e = mg_cache_next(c, spec->key, hash, &link));) {
        bool same = e->kind != MG_CACHE_CLAIM && (e->kind == MG_CACHE_PASS || ++variants >= VARIANTS_MOST ||
                                                  mg_text_equal(mg_cache_vary_of(e), spec->vary));
        if (same)
            mg_cache_take_out(c, link);
        else
            link = &e->next;
    }
}

/* The entry, all but its body written. */
static struct mg_cache_entry *put_head(mg_cache *c, const mg_cache_spec *spec, uint32_t hash, uint32_t body_len)
{
    uint64_t bytes = (uint64_t)spec->vary.len + spec->tags.len + spec->head.len + body_len;
    struct mg_cache_entry *e = mg_cache_add(c, spec->key, hash, bytes);

    if (!e)
        return NULL;
    e->kind = MG_CACHE_RESPONSE;
    e->times = spec->times;
    e->vary_len = spec->vary.len;
    e->tags_len = spec->tags.len;
    e->head_len = spec->head.len;
    e->body_len = body_len;
    char *to = mg_text_put(e->bytes + e->key_len, spec->vary);
    to = mg_text_put(to, spec->tags);
    mg_text_put(to, spec->head);
    c->store->stored++;
    return e;
}

enum mg_status mg_cache_store(mg_cache *c, const mg_cache_spec *spec, mg_slice body, uint64_t since)
{
    uint32_t hash = mg_cache_hash(c, spec->key);
    enum mg_status status = MG_ABSENT;

    mg_cache_lock(c);
    if (!is_purged(c->store, hash, since)) {
        make_way(c, spec, hash);
        struct mg_cache_entry *e = put_head(c, spec, hash, body.len);
        if (e)
            memcpy((char *)mg_cache_body_of(e).ptr, body.ptr, body.len);
        status = e ? MG_OK : MG_FULL;
    }
    mg_cache_unlock(c);
    return status;
}

int mg_cache_put(mg_cache *c, const mg_cache_spec *spec, const char *body, uint32_t len, double since)
{
    if (len > spec->max_body)
        return MG_FULL;
    return mg_cache_store(c, spec, (mg_slice){ body, len }, (uint64_t)since);
}

double mg_cache_purges(mg_cache *c)
{
    return (double)mg_cache_purged(c);
}

/* The entry is pinned while room is made for its successor. */
static enum mg_status renew(mg_cache *c, const mg_cache_spec *spec, uint32_t hash, struct mg_cache_entry *old)
{
    bool pinned = old->pins++ > 0;
    struct mg_cache_entry *e = put_head(c, spec, hash, old->body_len);
    if (e)
        memcpy((char *)mg_cache_body_of(e).ptr, mg_cache_body_of(old).ptr, old->body_len);
    if (--old->pins == 0 && pinned) /* by a worker that has died, as was found meanwhile */
        c->store->pinned -= old->size;
    if (old->gone) {
        if (!old->pins)
            mg_cache_free(c, old);
        return e ? MG_OK : MG_FULL;
    }
    for (uint32_t *link = mg_cache_bucket(c, hash); e && *link; link = &mg_cache_at(c, *link)->next)
        if (mg_cache_at(c, *link) == old) {
            mg_cache_take_out(c, link);
            break;
        }
    return e ? MG_OK : MG_FULL;
}

int mg_cache_refresh(mg_cache *c, const mg_cache_spec *spec, double id)
{
    uint32_t hash = mg_cache_hash(c, spec->key), *link = mg_cache_bucket(c, hash);
    enum mg_status status = MG_ABSENT;

    mg_cache_lock(c);
    for (struct mg_cache_entry *e; (e = mg_cache_next(c, spec->key, hash, &link)); link = &e->next)
        if ((double)e->id == id) {
            status = renew(c, spec, hash, e);
            break;
        }
    mg_cache_unlock(c);
    return status;
}

void mg_cache_look_at(mg_cache *c, mg_cache_stats *out)
{
    mg_cache_lock(c);
    const struct mg_cache_store *s = c->store;
    *out = (mg_cache_stats){
        .size = c->size,
        .used = (double)s->used * MG_PIECE_UNIT,
        .entries = s->entries,
        .evicted = (double)s->evicted,
        .stored = (double)s->stored,
    };
    mg_cache_unlock(c);
}
