/* cache_purge.c - what is stored goes before its time: by key, by the begin of keys, by tag. */
#include "cache_store.h"
#include "shared.h"

enum { BUCKETS_A_STEP = 4096 }; /* looked at with the lock held */

static bool has_tag(mg_slice tags, mg_slice wanted)
{
    while (tags.len) {
        const char *comma = memchr(tags.ptr, ',', tags.len);
        uint32_t len = comma ? (uint32_t)(comma - tags.ptr) : tags.len;
        if (mg_text_equal((mg_slice){ tags.ptr, len }, wanted))
            return true;
        uint32_t past = comma ? len + 1 : len;
        tags = (mg_slice){ tags.ptr + past, tags.len - past };
    }
    return false;
}

/* A claim stays with who has it. */
static bool is_meant(const struct mg_cache_entry *e, enum mg_cache_what what, mg_slice text)
{
    if (e->kind == MG_CACHE_CLAIM)
        return false;
    switch (what) {
    case MG_CACHE_KEY:
        return mg_text_equal(mg_cache_key_of(e), text);
    case MG_CACHE_PREFIX:
        return e->key_len >= text.len && memcmp(e->bytes, text.ptr, text.len) == 0;
    case MG_CACHE_TAG:
        return has_tag(mg_cache_tags_of(e), text);
    case MG_CACHE_ALL:
        return true;
    }
    return false;
}

static int purge_bucket(mg_cache *c, uint32_t bucket, enum mg_cache_what what, mg_slice text)
{
    int count = 0;

    for (uint32_t *link = &c->store->buckets[bucket]; *link;) {
        struct mg_cache_entry *e = mg_cache_at(c, *link);
        if (is_meant(e, what, text)) {
            count += e->kind == MG_CACHE_RESPONSE;
            mg_cache_take_out(c, link);
        } else {
            link = &e->next;
        }
    }
    return count;
}

static void note(struct mg_cache_store *s, struct mg_cache_purge purge)
{
    s->purged[s->purges % MG_CACHE_PURGES] = purge;
    s->purges++;
}

int mg_cache_purge(mg_cache *c, int what, const char *ptr, uint32_t len, uint32_t *at)
{
    mg_slice text = { ptr, len };
    int count = 0;

    mg_cache_lock(c);
    if (what == MG_CACHE_KEY) {
        uint32_t hash = mg_cache_hash(c, text);
        note(c->store, (struct mg_cache_purge){ .hash = hash });
        count = purge_bucket(c, hash & (c->bucket_count - 1), MG_CACHE_KEY, text);
    } else {
        if (*at == 0)
            note(c->store, (struct mg_cache_purge){ .all = true });
        for (unsigned i = 0; i < BUCKETS_A_STEP && *at < c->bucket_count; i++)
            count += purge_bucket(c, (*at)++, (enum mg_cache_what)what, text);
        if (*at == c->bucket_count)
            *at = 0;
    }
    mg_cache_unlock(c);
    return count;
}
