/* cache_claim.c - who asks the origin for what others wait for. */
#include <assert.h>

#include "cache_store.h"
#include "clock.h"
#include "exchange.h"
#include "shared.h"

/* The mark under this key; NULL if there is none, or none that still counts. *link says where it hangs. */
static struct mg_cache_entry *find_mark(mg_cache *c, mg_slice key, uint32_t hash, uint32_t **link)
{
    *link = mg_cache_bucket(c, hash);
    for (struct mg_cache_entry *e; (e = mg_cache_next(c, key, hash, link)); *link = &e->next) {
        if (e->kind == MG_CACHE_RESPONSE)
            continue;
        bool lives = e->kind == MG_CACHE_PASS || mg_shared_slot_lives(e->slot, e->turn);
        if (lives && e->until > mg_clock_now())
            return e;
        mg_cache_take_out(c, *link);
        return NULL;
    }
    return NULL;
}

static bool put_mark(mg_cache *c, mg_slice key, uint32_t hash, enum mg_cache_kind kind, double seconds)
{
    struct mg_cache_entry *e = mg_cache_add(c, key, hash, 0);

    if (!e)
        return false;
    e->kind = (uint8_t)kind;
    e->until = mg_clock_now() + seconds;
    e->slot = mg_shared_slot();
    e->turn = mg_shared_slot_turn(e->slot);
    return true;
}

int mg_cache_claim(mg_cache *c, mg_view *v, const char *ptr, uint32_t len, double seconds)
{
    struct mg_cache_use *use = v ? mg_cache_use(MG_EXCHANGE_OF(v)) : NULL;
    mg_slice key = { ptr, len };
    uint32_t hash = mg_cache_hash(c, key), *link;
    int status = MG_OK;

    if (v) {
        if (!use)
            return MG_NO_MEMORY;
        if (use->claimed)
            return use->claimed == c && mg_text_equal(use->claim, key) ? MG_OK : MG_FULL;
        key = mg_arena_copy(MG_EXCHANGE_OF(v)->arena, key);
        if (!key.ptr)
            return MG_NO_MEMORY;
    }
    mg_cache_lock(c);
    const struct mg_cache_entry *e = find_mark(c, key, hash, &link);
    if (e)
        status = e->kind == MG_CACHE_PASS ? MG_REFUSED : MG_BUSY;
    else if (!put_mark(c, key, hash, MG_CACHE_CLAIM, seconds))
        status = MG_FULL;
    mg_cache_unlock(c);
    if (use && status == MG_OK) {
        use->claimed = c;
        use->claim = key;
    }
    return status;
}

static void release(mg_cache *c, mg_slice key, double pass)
{
    uint32_t hash = mg_cache_hash(c, key), *link;

    mg_cache_lock(c);
    const struct mg_cache_entry *e = find_mark(c, key, hash, &link);
    if (e && e->kind == MG_CACHE_CLAIM && e->slot == mg_shared_slot()) {
        mg_cache_take_out(c, link);
        if (pass > 0)
            (void)put_mark(c, key, hash, MG_CACHE_PASS, pass);
    }
    mg_cache_unlock(c);
}

void mg_cache_release(mg_cache *c, mg_view *v, const char *key, uint32_t len, double pass)
{
    struct mg_cache_use *use = v ? MG_EXCHANGE_OF(v)->cached : NULL;

    if (!v) {
        release(c, (mg_slice){ key, len }, pass);
    } else if (use && use->claimed == c) {
        release(c, use->claim, pass);
        use->claimed = NULL;
    }
}

bool mg_cache_is_claimed(mg_cache *c, const char *key, uint32_t len)
{
    uint32_t hash = mg_cache_hash(c, (mg_slice){ key, len }), *link;

    mg_cache_lock(c);
    const struct mg_cache_entry *e = find_mark(c, (mg_slice){ key, len }, hash, &link);
    bool claimed = e && e->kind == MG_CACHE_CLAIM;
    mg_cache_unlock(c);
    return claimed;
}

struct mg_cache_use *mg_cache_use(struct mg_exchange *x)
{
    if (!x->cached)
        x->cached = mg_arena_zeroed(x->arena, sizeof(*x->cached));
    return x->cached;
}

void mg_cache_leave(struct mg_cache_use *u)
{
    assert(!u->filling.cache); /* the end of its try has dropped it */
    mg_cache_let_go(&u->copy);
    mg_chain_clear(&u->answered);
    if (u->claimed)
        release(u->claimed, u->claim, 0);
    u->claimed = NULL;
}
