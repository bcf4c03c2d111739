/* arena.c - memory that dies with one exchange.
 *
 * Chunks of one size go round through a list, last in, first out, so the next
 * exchange works in memory that the cache still holds. What is larger than a
 * chunk gets one of its own from malloc.
 */
#include "arena.h"

#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 8 * 1024 - 16, /* with malloc's own word, 8 KiB */
    FREE_MAX = 1024,       /* chunks kept for the next burst */
};

struct mg_arena_chunk {
    struct mg_arena_chunk *next;
    size_t size; /* of all, this head too; CHUNK or more */
};

_Static_assert(sizeof(struct mg_arena_chunk) % 16 == 0, "what follows the head is aligned");
_Static_assert(sizeof(struct mg_arena) % 16 == 0 && CHUNK % 16 == 0, "what follows the arena is aligned");

static struct mg_arena_chunk *free_list;
static unsigned free_count;
static unsigned live;

static struct mg_arena_chunk *chunk_take(void)
{
    struct mg_arena_chunk *c = free_list;
    if (c) {
        free_list = c->next;
        free_count--;
    } else {
        c = malloc(CHUNK);
        if (!c)
            return NULL;
        c->size = CHUNK;
        mg_poison(c + 1, CHUNK - sizeof(*c));
    }
    live++;
    return c;
}

static void chunk_give(struct mg_arena_chunk *c)
{
    live--;
    if (c->size == CHUNK && free_count < FREE_MAX) {
        mg_poison(c + 1, CHUNK - sizeof(*c));
        c->next = free_list;
        free_list = c;
        free_count++;
        return;
    }
    mg_unpoison(c, c->size);
    free(c);
}

struct mg_arena *mg_arena_new(void)
{
    struct mg_arena_chunk *c = chunk_take();
    if (!c)
        return NULL;

    c->next = NULL;
    struct mg_arena *a = (struct mg_arena *)(c + 1);
    mg_unpoison(a, sizeof(*a));
    a->at = (char *)(a + 1);
    a->end = (char *)c + CHUNK;
    a->chunks = c;
    a->failed = false;
    return a;
}

void mg_arena_free(struct mg_arena *a)
{
    if (!a)
        return;
    for (struct mg_arena_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        chunk_give(c);
    }
}

static void *fail(struct mg_arena *a)
{
    a->failed = true;
    a->at = a->end;
    return NULL;
}

/* n does not fit in a CHUNK, so this chunk's size is another. */
static void *take_own_chunk(struct mg_arena *a, size_t n)
{
    size_t size;
    if (__builtin_add_overflow(n, sizeof(struct mg_arena_chunk), &size))
        return fail(a);
    struct mg_arena_chunk *c = malloc(size);
    if (!c)
        return fail(a);

    c->size = size;
    c->next = a->chunks;
    a->chunks = c;
    live++;
    return c + 1;
}

void *mg_arena_grow(struct mg_arena *a, size_t n)
{
    if (a->failed)
        return NULL;
    if (n > CHUNK - sizeof(struct mg_arena_chunk))
        return take_own_chunk(a, n);

    struct mg_arena_chunk *c = chunk_take();
    if (!c)
        return fail(a);
    c->next = a->chunks;
    a->chunks = c;
    a->at = (char *)(c + 1);
    a->end = (char *)c + CHUNK;
    return mg_arena_take(a, n);
}

void *mg_arena_zeroed(struct mg_arena *a, size_t n)
{
    void *p = mg_arena_take(a, n);
    return p ? memset(p, 0, n) : NULL;
}

mg_slice mg_arena_copy(struct mg_arena *a, mg_slice s)
{
    char *p = mg_arena_take(a, s.len);
    if (!p)
        return (mg_slice){ NULL, 0 };
    if (s.len > 0)
        memcpy(p, s.ptr, s.len);
    return (mg_slice){ p, s.len };
}

const char *mg_arena_text(struct mg_arena *a, const char *text)
{
    mg_slice copy = mg_arena_copy(a, (mg_slice){ text, (uint32_t)strlen(text) + 1 });

    return copy.len ? copy.ptr : "";
}

bool mg_arena_failed(const struct mg_arena *a)
{
    return a->failed;
}

unsigned mg_arena_live(void)
{
    return live;
}

void mg_arena_trim(void)
{
    while (free_list) {
        struct mg_arena_chunk *c = free_list;
        free_list = c->next;
        mg_unpoison(c, c->size);
        free(c);
    }
    free_count = 0;
}
