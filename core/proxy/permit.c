/* permit.c - exchanges counted under a key of a dictionary, until they end. */
#include "permit.h"

#include <string.h>

#include "dict.h"
#include "shared.h"

/* A worker that has some of a key; the key's value is a row of these. */
struct holder {
    uint32_t slot, turn; /* of shared.h */
    uint32_t count;
};

struct mg_permit {
    struct mg_permit *next;
    struct mg_dict *dict;
    mg_slice key;
};

/* What is to be done with a key, and its value while it is. */
struct change {
    double most;
    bool gives;
    enum mg_status status;
    double total;
};

static struct holder holders[MG_SLOTS_MAX]; /* of the key that is being changed */
static unsigned holder_count;

/* Those that live, but for us; and how many we have. */
static uint32_t read_holders(struct change *c, mg_slice text)
{
    uint32_t mine = 0, slot = mg_shared_slot();

    holder_count = 0;
    c->total = 0;
    for (uint32_t at = 0; at + sizeof(struct holder) <= text.len; at += sizeof(struct holder)) {
        struct holder h;
        memcpy(&h, text.ptr + at, sizeof(h));
        if (!mg_shared_slot_lives(h.slot, h.turn))
            continue;
        c->total += h.count;
        if (h.slot == slot)
            mine = h.count;
        else if (holder_count < MG_SLOTS_MAX - 1)
            holders[holder_count++] = h;
    }
    return mine;
}

static bool change_holders(void *owner, mg_value *value)
{
    struct change *c = owner;

    if (value->type != MG_VALUE_NIL && value->type != MG_VALUE_TEXT) {
        c->status = MG_MALFORMED;
        return false;
    }
    uint32_t mine = read_holders(c, value->type == MG_VALUE_TEXT ? value->text : (mg_slice){ 0 });
    if (c->gives && !mine)
        return false; /* the dictionary was full, and the key had to go */
    if (!c->gives && c->total >= c->most) {
        c->status = MG_FULL;
        return false;
    }
    mine += c->gives ? UINT32_MAX : 1;
    c->total += c->gives ? -1 : 1;
    if (mine)
        holders[holder_count++] = (struct holder){ mg_shared_slot(), mg_shared_slot_turn(mg_shared_slot()), mine };
    value->type = holder_count ? MG_VALUE_TEXT : MG_VALUE_NIL;
    value->text = (mg_slice){ (const char *)holders, (uint32_t)(holder_count * sizeof(struct holder)) };
    return true;
}

enum mg_status mg_permit_take(struct mg_permit **list, struct mg_arena *arena, struct mg_dict *d, mg_slice key,
                              double most, double *total)
{
    struct change c = { .most = most };
    struct mg_permit *p = mg_arena_take(arena, sizeof(*p));

    if (!p)
        return MG_NO_MEMORY;
    *p = (struct mg_permit){ .next = *list, .dict = d, .key = mg_arena_copy(arena, key) };
    if (!p->key.ptr)
        return MG_NO_MEMORY;
    enum mg_status status = mg_dict_change(d, p->key, 0, change_holders, &c);
    *total = c.total;
    if (status != MG_OK)
        return status;
    if (c.status != MG_OK)
        return c.status;
    *list = p;
    return MG_OK;
}

void mg_permits_give(struct mg_permit **list)
{
    while (*list) {
        struct mg_permit *p = *list;
        struct change c = { .gives = true };
        *list = p->next;
        (void)!mg_dict_change(p->dict, p->key, 0, change_holders, &c);
    }
}
